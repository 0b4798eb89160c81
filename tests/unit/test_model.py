"""Random histories of several sessions, against the plain model in model.py."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from unit.helpers import Context, enter, leave, locate_in_streamlit, locate_in_tests
from unit.model import ABSENT, ModelSession, ModelStore

from fastserverstate import _core, no_rerun

KEY_NAMES = ["a", "room/b", "room/7/c"]
KEYS = st.sampled_from(KEY_NAMES)
PREFIXES = st.sampled_from(["room/", "room/7/"])
PARTS = st.sampled_from([None, None, "f", "g"])
COMPLETE = st.sets(st.sampled_from([None, "f", "g"]))
ACTORS = st.integers(0, 4)  # the last one is a thread without a session
MUTED = st.sampled_from([False, False, True])
VALUES = st.one_of(
    st.sampled_from([0, 1, True, 1.0, 0.0, -0.0, float("nan"), None, "", "x", (1, 2), (1, True)]),
    st.builds(object),  # never compared as equal
)


def muting(muted):
    return no_rerun if muted else nullcontext()


class Actor:
    """A session and its model."""

    def __init__(self, store: _core.Store, model: ModelStore) -> None:
        self.real = _core.Session(store)
        self.model = ModelSession(model)
        self.renew()

    def renew(self) -> None:
        """Create a new script context, because the old one may refer to a dropped scope."""
        self.context = Context(session=self.real, part=None)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = _core.Store(reserved=dir(_core.Namespace))
        self.state = _core.Namespace(self.store)
        self.model = ModelStore()
        self.wakes = 0
        self.newest = {}
        self.actors = [Actor(self.store, self.model) for _ in range(4)]
        self.crowd = []

        def wake():
            self.wakes += 1

        self.store.on_stale(wake)

    @initialize(size=st.sampled_from([0, 3, 6, 70]))
    def idle_sessions(self, size):
        """They take the low slots, so that other sets change between lists of slots and bit sets."""
        for _ in range(size):
            actor = Actor(self.store, self.model)
            self.crowd.append(actor)
            self.start_run_of(actor)
            actor.real.scope(None)
            actor.model.scope(None)

    def start_run_of(self, actor, cause=None):
        actor.real.start_run(cause)
        actor.model.start_run(cause)

    def become(self, number, part):
        """Run this thread in a part of a session. Return the scope of the model."""
        if number >= len(self.actors):
            leave()
            return None
        actor = self.actors[number]
        actor.context.part = part
        enter(actor.real, part, context=actor.context)
        return actor.model.scope(part)

    # Reads

    @rule(actor=ACTORS, part=PARTS, key=KEYS, how=st.sampled_from(["item", "get", "attribute"]))
    def read(self, actor, part, key, how):
        expected = self.model.read(self.become(actor, part), key)
        if how == "get":
            value = self.state.get(key, ABSENT)
        else:
            error = KeyError if how == "item" else AttributeError
            try:
                value = self.state[key] if how == "item" else getattr(self.state, key)
            except error:
                value = ABSENT
        assert value is expected

    @rule(actor=ACTORS, part=PARTS, key=KEYS)
    def contains(self, actor, part, key):
        expected = self.model.contains(self.become(actor, part), key)
        assert (key in self.state) is expected

    @rule(actor=ACTORS, part=PARTS, how=st.sampled_from([len, list]))
    def count(self, actor, part, how):
        self.model.depend(self.become(actor, part), None)
        assert how(self.state) == how(self.model.values)

    @rule(actor=ACTORS, part=PARTS, prefix=PREFIXES)
    def watch_prefix(self, actor, part, prefix):
        self.model.depend(self.become(actor, part), prefix)
        self.store.watch_members(prefix)
        assert self.store.keys(prefix=prefix) == [key for key in self.model.values if key.startswith(prefix)]

    @rule(prefix=PREFIXES)
    def crowd_watches_prefix(self, prefix):
        for actor in self.crowd:
            enter(actor.real)
            self.model.depend(actor.model.scope(None), prefix)
            self.store.watch_members(prefix)

    @rule(key=KEYS, presence=st.booleans())
    def crowd_reads(self, key, presence):
        for actor in self.crowd:
            enter(actor.real)
            self.model.depend(actor.model.scope(None), key, presence)
            key in self.state if presence else self.state.get(key)

    # Writes

    @rule(actor=ACTORS, part=PARTS, key=KEYS, value=VALUES, muted=MUTED, attribute=st.booleans())
    def write(self, actor, part, key, value, *, muted, attribute):
        self.model.write(self.become(actor, part), key, value, muted)
        with muting(muted):
            if attribute:
                setattr(self.state, key, value)
            else:
                self.state[key] = value

    @rule(actor=ACTORS, part=PARTS, key=KEYS, muted=MUTED, attribute=st.booleans())
    def delete(self, actor, part, key, muted, attribute):
        expected = self.model.remove(self.become(actor, part), key, muted)
        found, error = True, AttributeError if attribute else KeyError
        with muting(muted):
            try:
                if attribute:
                    delattr(self.state, key)
                else:
                    del self.state[key]
            except error:
                found = False
        assert found == (expected is not ABSENT)

    @rule(actor=ACTORS, part=PARTS, key=KEYS, muted=MUTED)
    def pop(self, actor, part, key, muted):
        expected = self.model.pop(self.become(actor, part), key, muted)
        with muting(muted):
            assert self.state.pop(key, ABSENT) is expected

    @rule(actor=ACTORS, part=PARTS, key=KEYS, value=VALUES, muted=MUTED)
    def setdefault(self, actor, part, key, value, muted):
        expected = self.model.setdefault(self.become(actor, part), key, value, muted)
        with muting(muted):
            assert self.state.setdefault(key, value) is expected

    @rule(actor=ACTORS, part=PARTS, key=KEYS, muted=MUTED)
    def touch(self, actor, part, key, muted):
        scope = self.become(actor, part)
        self.model.touch(scope, key, muted)
        with muting(muted):
            self.store.touch(key)

    # Runs

    @rule(number=st.integers(0, 3), cause=st.none() | st.integers(0, 9 * _core.CAUSE_DEPTHS))
    def start_run(self, number, cause=None):
        self.start_run_of(self.actors[number], cause)

    @rule(number=st.integers(0, 3), complete=COMPLETE, existing=st.sampled_from([{"f", "g"}, {"f", "g"}, {"f"}, set()]))
    def finish_run(self, number, complete, existing):
        actor = self.actors[number]
        actor.real.finish_run(complete, set(existing).__contains__)
        actor.model.finish_run(complete, set(existing))
        actor.renew()

    @rule(number=st.integers(0, 3), part=PARTS, key=KEYS, value=VALUES, sends=st.booleans())
    def read_and_write_in_one_run(self, number, part, key, *, value, sends):
        """Common in scripts and rare in random steps: write with or without showing the value that was read."""
        self.start_run(number)
        self.read(number, part, key, "get")
        if sends:
            self.message_sent(number)
        self.write(number, part, key, value, muted=False, attribute=False)

    @rule(number=st.integers(0, 3))
    def message_sent(self, number):
        self.actors[number].real.message_sent()
        self.actors[number].model.sent += 1

    @rule(number=st.integers(0, 3), part=PARTS)
    def mark_stale(self, number, part):
        actor = self.actors[number]
        actor.real.mark_stale(part)
        actor.model.mark_stale(part)

    @rule(number=st.integers(0, 3), part=PARTS)
    def drop_scope(self, number, part):
        actor = self.actors[number]
        actor.real.drop_scope(part)
        actor.model.drop(part)
        actor.renew()

    @rule(number=st.integers(0, 3))
    def take_overwritten(self, number):
        actor = self.actors[number]
        assert actor.real.take_overwritten() == actor.model.take_overwritten()

    @rule(number=st.integers(0, 3))
    def close(self, number):
        """Its script continues for a while, with the same context."""
        self.actors[number].real.close()
        self.actors[number].model.close()

    @rule(number=st.integers(0, 3))
    def reopen(self, number):
        if self.actors[number].model.closed:
            self.actors[number] = Actor(self.store, self.model)

    @rule()
    def collect(self):
        sessions = {id(actor.real): actor.model for actor in self.actors + self.crowd}
        found = [sessions[id(scope.session)] for scope in self.store.collect_stale()]
        expected = [scope.session for scope in self.model.collect()]
        assert sorted(map(id, found)) == sorted(map(id, expected))

    @rule(policy=st.sampled_from([0, 0, 0, 1, 2]))
    def set_policy(self, policy):
        self.store.set_rerun_writer(policy)
        self.model.policy = policy

    # Invariants

    @invariant()
    def equals_the_model(self):
        keys = self.store.keys()
        assert keys == list(self.model.values)
        assert all(self.store.peek(key) is self.model.values[key] for key in keys)
        for key in KEY_NAMES:
            version, changed = self.store.version(key), self.model.versions.get(key, 0)
            assert (version == 0) == (changed == 0)
            if version:
                newest, newest_changed = self.newest.get(key, (0, 0))
                assert version > newest if changed > newest_changed else version == newest
                self.newest[key] = version, changed
        for actor in self.actors:
            expected = {
                part: max(scope.cause, scope.cause_before) or actor.model.cause
                for part, scope in actor.model.scopes.items()
                if scope.is_stale
            }
            assert {part: actor.real.cause_of(part) for part in actor.real.stale_fragment_ids() if part} == {
                part: cause for part, cause in expected.items() if part
            }
            assert actor.real.stale_fragment_ids() == list(expected)
        statistics = self.store.statistics()
        assert {name: statistics[name] for name in self.model.statistics()} == self.model.statistics()
        assert self.wakes == self.model.wakes

    def teardown(self):
        leave()
        self.collect()
        self.equals_the_model()
        for number in range(len(self.actors)):
            self.take_overwritten(number)
        for actor in self.actors + self.crowd:
            actor.real.close()
        for key in list(self.state):
            del self.state[key]
        statistics = self.store.statistics()
        assert (statistics["keys"], statistics["cells"], statistics["scopes"]) == (0, 0, 0)
        assert self.store.collect_stale() == []


@pytest.fixture
def _scopes_of_tests():
    locate_in_tests()
    yield
    leave()
    locate_in_streamlit()


@pytest.mark.usefixtures("_scopes_of_tests")
def test_histories():
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=150,
            stateful_step_count=60,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
