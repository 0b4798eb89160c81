"""Threads that acquire, release, lose and end locks and transactions in any order, compared with a model.

Every actor is a real thread that executes one step at a time. Calls that would wait are tried without waiting.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from unit.helpers import DEADLINE, enter, leave, locate_in_streamlit, locate_in_tests

from fastserverstate import _core
from fastserverstate.listeners import Listeners
from fastserverstate.lock import ServerStateLock
from fastserverstate.state import ServerState
from fastserverstate.suppression import NoRerun

KEYS = ("a", "b", "c")
ACTORS = st.integers(0, 2)
no_rerun = NoRerun()


class Stop(BaseException):
    """Ends a script."""


class Actor:
    """A thread that executes commands, and the model of its locks and transactions."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.forget()

    def forget(self) -> None:
        """Its part in a run, or its thread, has ended."""
        self.depths = dict.fromkeys(KEYS, 0)
        self.blocks: list[Any] = []  # open transactions, the outermost first
        self.declared: list[tuple[str, ...]] = []
        self.staged: dict[str, int] = {}
        self.savepoints: list[dict[str, int]] = []
        self.suppressed = 0
        self.due: list[str] = []  # keys with pending callbacks, to be called when it holds no lock

    def holds(self, key: str) -> bool:
        return self.depths[key] > 0 or key in self.staged or any(key in keys for keys in self.declared)

    @property
    def holds_any(self) -> bool:
        return any(self.holds(key) for key in KEYS)

    def _run(self) -> None:
        while (function := self._asked.get()) is not None:
            try:
                self._answers.put((function(), None))
            except BaseException as error:
                self._answers.put((None, error))

    def does(self, function: Callable[[], Any]) -> Any:
        self._asked.put(function)
        result, error = self._answers.get(timeout=DEADLINE)
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._asked.put(None)
        self.thread.join(DEADLINE)


class Owners(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = _core.Store(reserved=dir(ServerState))
        self.state = ServerState(self.store)
        self.locks = ServerStateLock(self.store)
        self.actors = [Actor() for _ in range(3)]
        self.values = dict.fromkeys(KEYS, 0)
        self.state.update(self.values)
        self.calls: list[str] = []
        self.expected_calls: list[str] = []
        self.due = dict.fromkeys(KEYS, 0)  # pending calls, to be made by any thread
        self.number = 0
        self.retired: list[Actor] = []
        self.stop_next = False
        on_change = Listeners(self.store).on_change
        for key in KEYS:
            on_change(key, self.called, args=(key,))

    def called(self, key: str) -> None:
        self.calls.append(key)
        if self.stop_next:
            self.stop_next = False
            raise Stop

    def others(self, actor: Actor) -> list[Actor]:
        return [other for other in self.actors if other is not actor]

    def is_held_by_others(self, actor: Actor, key: str) -> bool:
        return any(other.holds(key) for other in self.others(actor))

    def make_due_calls(self, actor: Actor) -> None:
        if not actor.holds_any:
            self.make_calls(actor.due)
            actor.due = []

    def make_calls(self, keys: list[str]) -> None:
        for key in keys:
            self.expected_calls += [key] * self.due[key]
            self.due[key] = 0

    def note_change(self, actor: Actor, key: str) -> None:
        actor.due.append(key)
        self.due[key] += 1

    @contextmanager
    def stops(self, *, possibly: bool) -> Iterator[None]:
        """A callback may stop the thread that makes its call."""
        self.stop_next = possibly
        try:
            yield
        except Stop:
            assert possibly
        self.stop_next = False

    # Locks

    @rule(number=ACTORS, key=st.sampled_from(KEYS))
    def acquire(self, number, key):
        actor = self.actors[number]
        free = not self.is_held_by_others(actor, key)
        assert actor.does(lambda: self.locks[key].acquire(blocking=False)) is free
        if free:
            actor.depths[key] += 1

    @rule(number=ACTORS)
    def acquire_several(self, number):
        actor = self.actors[number]
        free = not any(self.is_held_by_others(actor, key) for key in ("a", "b"))
        assert actor.does(lambda: self.locks["a", "b"].acquire(blocking=False)) is free
        if free:
            actor.depths["a"] += 1
            actor.depths["b"] += 1
        else:  # it releases the locks that it has taken
            self.make_due_calls(actor)

    @rule(number=ACTORS, key=st.sampled_from(KEYS), stops=st.booleans())
    def release(self, number, key, stops):
        actor = self.actors[number]
        if actor.depths[key]:
            actor.depths[key] -= 1
            with self.stops(possibly=stops):
                self.make_due_calls(actor)
                actor.does(self.locks[key].release)
        elif not actor.holds(key):
            with pytest.raises(RuntimeError):
                actor.does(self.locks[key].release)

    @rule(number=ACTORS, stops=st.booleans())
    def release_several(self, number, stops):
        """Held locks are released, and the rest is an error."""
        actor = self.actors[number]
        keys = [key for key in ("a", "b") if actor.depths[key]]
        if any(actor.holds(key) and not actor.depths[key] for key in ("a", "b")):
            return
        for key in keys:
            actor.depths[key] -= 1
        if len(keys) == 2:
            with self.stops(possibly=stops):
                self.make_due_calls(actor)
                actor.does(self.locks["a", "b"].release)
        else:
            self.make_due_calls(actor)
            with pytest.raises(RuntimeError):
                actor.does(self.locks["a", "b"].release)

    # Writes

    @rule(number=ACTORS, key=st.sampled_from(KEYS), stops=st.booleans())
    def write(self, number, key, stops):
        actor = self.actors[number]
        if self.is_held_by_others(actor, key):
            return
        self.number += 1
        value = self.number
        if actor.blocks:
            actor.staged[key] = value
        else:
            self.values[key] = value
            self.note_change(actor, key)
        with self.stops(possibly=stops):
            self.make_due_calls(actor)
            actor.does(lambda: self.state.__setitem__(key, value))

    # Transactions

    @rule(number=ACTORS, keys=st.sets(st.sampled_from(KEYS), max_size=2))
    def begin(self, number, keys):
        actor = self.actors[number]
        if any(self.is_held_by_others(actor, key) for key in keys) or len(actor.blocks) == 3:
            return
        block = self.store.transaction(keys, 0)
        actor.does(block.__enter__)
        actor.blocks.append(block)
        actor.declared.append(tuple(keys))
        actor.savepoints.append(dict(actor.staged))

    @precondition(lambda self: any(actor.blocks for actor in self.actors))
    @rule(number=ACTORS, fails=st.booleans(), stops=st.booleans())
    def end_in_order(self, number, fails, stops):
        actor = self.actors[number]
        if not actor.blocks:
            return
        block, keys, saved = actor.blocks.pop(), actor.declared.pop(), actor.savepoints.pop()
        if actor.blocks:  # the outer one keeps the locks
            actor.declared[-1] = tuple({*actor.declared[-1], *keys, *actor.staged})
            if fails:
                actor.staged = saved
        else:
            committed = {} if fails else actor.staged
            actor.staged = {}
            self.values.update(committed)
            for key in committed:
                self.note_change(actor, key)
        error = KeyError if fails else None
        with self.stops(possibly=stops and not fails):
            self.make_due_calls(actor)
            actor.does(lambda: block.__exit__(error, error, None))

    @precondition(lambda self: any(len(actor.blocks) > 1 for actor in self.actors))
    @rule(number=ACTORS)
    def end_out_of_order(self, number):
        """The outermost block first, as two generators may."""
        actor = self.actors[number]
        if len(actor.blocks) < 2:
            return
        blocks = actor.blocks
        actor.blocks, actor.declared, actor.staged, actor.savepoints = [], [], {}, []
        self.make_due_calls(actor)
        for block in blocks:
            with pytest.raises(RuntimeError, match="discarded"):
                actor.does(lambda block=block: block.__exit__(None, None, None))

    @precondition(lambda self: any(actor.blocks for actor in self.actors))
    @rule(number=ACTORS, by=ACTORS)
    def end_elsewhere(self, number, by):
        actor, other = self.actors[number], self.actors[by]
        if actor is other or not actor.blocks:
            return
        block = actor.blocks[-1]
        actor.blocks, actor.declared, actor.staged, actor.savepoints = [], [], {}, []
        with pytest.raises(RuntimeError, match="on the thread"):
            other.does(lambda: block.__exit__(None, None, None))

    @rule(number=ACTORS, key=st.sampled_from(KEYS))
    def begin_in_two_tasks(self, number, key):
        """One of them awaits in its transaction. The other one gets an error, without an effect on the first."""
        actor = self.actors[number]
        if actor.blocks or self.is_held_by_others(actor, key):
            return
        self.number += 1
        value = self.number

        async def hold(begun, refused):
            with self.store.transaction([key], None):
                self.state[key] = value
                begun.set()
                await refused.wait()

        async def interfere(begun, refused):
            await begun.wait()
            with pytest.raises(RuntimeError, match="Another task"):
                self.store.transaction([], None).__enter__()
            refused.set()

        async def run():
            begun, refused = asyncio.Event(), asyncio.Event()
            await asyncio.gather(hold(begun, refused), interfere(begun, refused))

        self.values[key] = value
        self.note_change(actor, key)
        self.make_due_calls(actor)
        actor.does(lambda: asyncio.run(run()))

    # Suppression

    @rule(number=ACTORS)
    def suppress(self, number):
        actor = self.actors[number]
        actor.does(no_rerun.__enter__)
        actor.suppressed += 1

    @rule(number=ACTORS)
    def allow(self, number):
        actor = self.actors[number]
        if actor.suppressed:
            actor.does(lambda: no_rerun.__exit__(None, None, None))
            actor.suppressed -= 1
        else:
            with pytest.raises(RuntimeError, match="no_rerun"):
                actor.does(lambda: no_rerun.__exit__(None, None, None))

    # Ends

    @rule(number=ACTORS)
    def end_part(self, number):
        """A run ends, as the session's current one or after it was replaced: that makes no difference."""
        actor = self.actors[number]
        keys = {key for key in KEYS if actor.holds(key)}
        written = set(actor.staged)
        due = actor.due
        actor.forget()
        self.make_calls(due)
        found_keys, found_written = actor.does(self.store.end_holder)
        assert (set(found_keys), set(found_written)) == (keys, written)

    @rule(number=ACTORS)
    def end_thread(self, number):
        actor = self.actors[number]
        keys = [key for key in KEYS if actor.holds(key)]
        self.make_calls(actor.due)
        actor.end()
        self.actors[number] = Actor()
        for key in keys:  # its end follows the join
            lock = self.locks[key]
            assert self.actors[number].does(lambda lock=lock: lock.acquire(timeout=DEADLINE))
            self.actors[number].does(lock.release)

    @precondition(lambda _: hasattr(os, "fork"))
    @rule(number=ACTORS)
    def fork(self, number):
        """The child has no locks or transactions, and leaves the parent's unchanged."""

        def in_child():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks in processes with threads
                pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            try:
                self.store.reset_after_fork()
                free = not any(self.locks[key].locked() for key in KEYS)
                self.state["a"] = "the child's"
                is_own = dict(self.state) == {"a": "the child's"}
                os._exit(0 if free and is_own and not _core.reruns_are_suppressed() else 1)
            finally:
                os._exit(2)

        assert self.actors[number].does(in_child) == 0

    @rule(number=ACTORS)
    def take_part(self, number):
        """A thread's locks do not depend on whether it runs in a session."""
        session = _core.Session(self.store)
        session.start_run()
        self.actors[number].does(lambda: enter(session))

    @rule(number=ACTORS)
    def take_no_part(self, number):
        self.actors[number].does(leave)

    # Invariants

    @invariant()
    def equals_the_model(self):
        for key in KEYS:
            assert self.locks[key].locked() == any(actor.holds(key) for actor in self.actors)
        for actor in self.actors:
            assert actor.does(_core.reruns_are_suppressed) == (actor.suppressed > 0)
            for key in KEYS:
                assert actor.does(self.locks[key]._is_owned) == actor.holds(key)
                if not self.is_held_by_others(actor, key):
                    assert actor.does(lambda key=key: self.state[key]) == actor.staged.get(key, self.values[key])
        assert sorted(self.calls) == sorted(self.expected_calls)

    def teardown(self):
        for number in range(len(self.actors)):
            self.end_part(number)
        self.equals_the_model()
        assert not any(self.locks[key].locked() for key in KEYS)
        for actor in self.actors:
            actor.end()


@pytest.fixture
def _scopes_of_tests():
    locate_in_tests()
    _core.on_leftovers(None)
    yield
    leave()
    locate_in_streamlit()


@pytest.mark.usefixtures("_scopes_of_tests")
def test_nothing_outlives_its_owner():
    run_state_machine_as_test(
        Owners,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
