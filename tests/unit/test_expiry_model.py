"""Random histories of deadlines, writes, locks, transactions and sessions, against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from unit.helpers import enter, leave, locate_in_streamlit, locate_in_tests

from fastserverstate import _core
from fastserverstate.configuration import KeyOptions
from fastserverstate.listeners import Listeners
from fastserverstate.updates import Atomic, BeginTransaction

KEYS = st.sampled_from(["a", "b", "room/1", "room/2"])
# The clock goes on by some milliseconds during a history. So durations are no multiples of the step.
STEP = 10
TIMES = st.sampled_from([None, 5, 15, 35, 75])
NEVER = float("inf")


class Key:
    """What the model knows of a key that is set."""

    def __init__(self, value):
        self.value = value
        self.deadline = NEVER
        self.used = None  # with an idle_ttl: when it was last written or found to be in use


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = _core.Store(reserved=dir(_core.Namespace))
        self.state = _core.Namespace(self.store)
        self.atomic, self.begin = Atomic(self.store), BeginTransaction(self.store)
        self.options = KeyOptions(self.store)
        self.now = 0.0
        self.keys: dict[str, Key] = {}
        self.lifetimes: dict[str, list[float]] = {}  # ttl and idle_ttl
        self.locked: dict[str, _core.KeyLock] = {}
        self.readers: dict[str, _core.Session] = {}
        self.heard: dict[str, str] = {}  # the last reason
        self.expected: dict[str, str] = {}
        listeners = Listeners(self.store)
        # The callbacks of a key would keep it from becoming idle.
        for key in ("a", "b"):
            listeners.on_change(key, self.note)

    def note(self, key, _value, reason):
        self.heard[key] = reason

    def lifetime(self, key):
        return self.lifetimes.get(key, self.lifetimes.get("room/*" if key.startswith("room/") else "", [NEVER, NEVER]))

    def written(self, key, value, *, keeps=False):
        before = self.keys.get(key)
        self.keys[key] = found = Key(value)
        ttl, idle_ttl = self.lifetime(key)
        if ttl < NEVER:
            found.deadline = self.now + ttl
        elif keeps and before is not None:
            found.deadline = before.deadline
        found.used = self.now if idle_ttl < NEVER else None
        self.expected[key] = "set"

    def deleted(self, key, reason="deleted"):
        del self.keys[key]
        self.expected[key] = reason

    # What an app does

    @rule(key=KEYS, value=st.integers(0, 2))
    def assign(self, key, value):
        self.state[key] = value
        self.written(key, value)

    @rule(key=KEYS)
    def delete(self, key):
        self.state.pop(key, None)
        if key in self.keys:
            self.deleted(key)

    @rule(key=KEYS)
    def increment(self, key):
        total = self.atomic.increment(key)
        self.written(key, total, keeps=True)

    @rule(key=KEYS)
    def touch(self, key):
        self.store.touch(key)
        if key in self.keys:
            self.written(key, self.keys[key].value, keeps=True)
        else:
            self.expected[key] = "deleted"

    @rule(key=KEYS, after=TIMES)
    def expire(self, key, after):
        assert self.store.expire(key, after) == (key in self.keys)
        if key in self.keys:
            self.keys[key].deadline = NEVER if after is None else self.now + after

    @rule(key=KEYS)
    def evict(self, key):
        done = self.store.remove_because(key, self.store.version(key), _core.evicted)
        assert done == (key in self.keys and key not in self.locked)
        if done:
            self.deleted(key, "evicted")

    @rule(keys=st.sets(KEYS, min_size=1), after=TIMES, ends=st.booleans(), atomic=st.booleans())
    def transact(self, keys, after, ends, atomic):
        """Write or increment all, and give the first one a deadline; or discard it all."""
        first = min(keys)
        self.remove_due()  # so that the look below removes nothing
        block = self.begin(*keys)
        block.__enter__()
        for key in keys:
            if atomic:
                self.atomic.increment(key)
            else:
                self.state[key] = 9
        assert self.store.expire(first, after)
        self.store.expire_due()
        block.__exit__(*((None,) * 3 if ends else (InterruptedError, None, None)))
        if not ends:
            return
        for key in keys:
            value = 9 if not atomic else self.keys[key].value + 1 if key in self.keys else 1
            self.written(key, value, keeps=atomic)
        self.keys[first].deadline = NEVER if after is None else self.now + after

    @rule(key=st.sampled_from(["a", "room/1", "room/*"]), ttl=TIMES, idle_ttl=st.sampled_from([None, 45]))
    def configure(self, key, ttl, idle_ttl):
        before = {name: list(self.lifetime(name)) for name in self.keys}
        given = [NEVER if ttl is None else ttl, NEVER if idle_ttl is None else idle_ttl]
        self.options.set(key, ttl=given[0], idle_ttl=given[1])
        self.lifetimes[key] = given
        for name, found in self.keys.items():
            ttl, idle_ttl = self.lifetime(name)
            if before[name] == [ttl, idle_ttl]:
                continue
            kept = found.deadline if before[name][0] == NEVER else NEVER
            found.deadline = min(kept, self.now + ttl)
            found.used = self.now if idle_ttl < NEVER else None

    @rule(key=KEYS)
    def lock(self, key):
        if key in self.locked:
            self.locked.pop(key).release()
        else:
            self.locked[key] = self.store.lock(key)
            self.locked[key].acquire()

    @rule(key=KEYS)
    def visit(self, key):
        session = _core.Session(self.store)
        session.start_run()
        enter(session)
        self.state.get(key)
        leave()
        session.finish_run()
        self.leave(key)
        self.readers[key] = session
        if key in self.keys and self.keys[key].used is not None:
            self.keys[key].used = self.now

    @rule(key=KEYS)
    def leave(self, key):
        if key in self.readers:
            self.readers.pop(key).close()
            if key in self.keys and self.keys[key].used is not None:
                self.keys[key].used = self.now
        self.store.statistics()  # sweeps

    @rule(steps=st.integers(1, 6))
    def pass_time(self, steps):
        for _ in range(steps):
            self.now += STEP
            _core.advance_clock(STEP)
            self.remove_due()

    @rule()
    def remove_due(self):
        while self.store.expire_due() == 0:
            pass
        for key in list(self.keys):
            found = self.keys[key]
            idle_ttl = self.lifetime(key)[1]
            if key in self.locked:
                found.used = self.now if found.used is not None else None
                continue
            if found.used is not None and (key in ("a", "b") or self.is_read(key)):
                found.used = self.now
            is_gone = self.store.version(key) == 0
            if found.deadline <= self.now:
                assert is_gone, key
            elif found.used is None or self.now < found.used + idle_ttl:
                assert not is_gone, key
            elif self.now >= found.used + 1.25 * idle_ttl + 2 * STEP:
                assert is_gone, key
            if is_gone:
                self.deleted(key, "expired")

    def is_read(self, key):
        """Return True if a session depends on the key: one that was not marked stale since it has read it."""
        return key in self.readers and self.store.observers(key)[0]

    # What always holds

    @invariant()
    def state_is_that_of_the_model(self):
        due = {key for key, found in self.keys.items() if found.deadline <= self.now}
        present = set(self.store.keys())
        assert present == set(self.keys) or present ^ set(self.keys) <= due
        for key in present:
            found, left = self.keys[key], self.store.deadline(key)
            assert self.store.peek(key) == found.value
            if found.deadline == NEVER:
                assert left is None
            else:
                assert left == pytest.approx(max(0, found.deadline - self.now), abs=STEP / 4)

    @invariant()
    def callbacks_hear_the_reasons(self):
        if not self.locked:  # else they are deferred
            assert self.heard == {key: reason for key, reason in self.expected.items() if key in ("a", "b")}

    def teardown(self):
        for lock in self.locked.values():
            lock.release()
        for session in self.readers.values():
            session.close()
        self.store.end_holder()


def test_histories():
    locate_in_tests()
    try:
        run_state_machine_as_test(Histories, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))
    finally:
        leave()
        locate_in_streamlit()
