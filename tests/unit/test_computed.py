"""Computed values: evaluated once for all, when something has changed that they have read."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from harness.interpreter import switch_interval
from unit.helpers import ThreadSet, enter, leave

from fastserverstate import DeadlockError, FastServerStateError, _core
from fastserverstate.computed_values import Computing, Evaluator
from fastserverstate.listeners import Listeners
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.waiting import Waiting


class ManualWorkers:
    """Runs tasks when a test says so."""

    def __init__(self) -> None:
        self.tasks: list[Callable[[], None]] = []

    def submit(self, task: Callable[[], None], _name: str) -> None:
        self.tasks.append(task)

    def submit_later(self, _seconds: float, task: Callable[[], None], _name: str) -> None:
        self.tasks.append(task)


class Process:
    """A store with its evaluator."""

    def __init__(self, store: _core.Store, state: Any) -> None:
        self.store, self.state = store, state
        self.workers = ManualWorkers()
        self.evaluator = Evaluator(store, self.workers)
        self.evaluator.call_back = self._call_back
        self.computing = Computing(store, self.evaluator, lambda function, _: function())
        self.computed = self.computing.computed
        self.stale: list[_core.Session] = []
        store.on_stale(lambda: None)

    def _call_back(self, keys: list[str]) -> None:
        self.workers.submit(lambda: self.store.flush(keys), "")

    def settle(self) -> list[_core.Session]:
        """Do what is due. Return the sessions that have become stale."""
        stale: list[_core.Session] = []
        while True:
            found = [scope.session for scope in self.store.collect_stale()]
            stale += [session for session in found if not isinstance(session, _core.Node)]
            self.evaluator.collected([session for session in found if isinstance(session, _core.Node)])
            if not self.workers.tasks:
                return stale
            self.workers.tasks.pop(0)()


@pytest.fixture
def process(store, state) -> Process:
    return Process(store, state)


def run(session: _core.Session, function: Callable[[], Any]) -> Any:
    """Call the function in a run of the session."""
    session.start_run()
    enter(session)
    try:
        return function()
    finally:
        leave()
        session.finish_run()


def test_is_evaluated_once_until_a_read_key_changes(process: Process) -> None:
    calls = []

    @process.computed
    def twice() -> int:
        calls.append(1)
        return 2 * process.state["n"]

    process.state["n"] = 1
    assert [twice(), twice()] == [2, 2]
    assert len(calls) == 1
    process.state["other"] = 1
    assert twice() == 2
    assert len(calls) == 1
    process.state["n"] = 5
    assert twice() == 10
    assert len(calls) == 2


def test_a_value_that_nothing_depends_on_is_not_evaluated(process: Process) -> None:
    calls = []

    @process.computed
    def value() -> int:
        calls.append(1)
        return process.state["n"]

    process.state["n"] = 1
    value()
    process.state["n"] = 2
    process.settle()
    assert len(calls) == 1


def test_only_another_result_makes_readers_stale(process: Process, store) -> None:
    @process.computed
    def is_even() -> bool:
        return process.state["n"] % 2 == 0

    process.state["n"] = 0
    session = _core.Session(store)
    assert run(session, is_even) is True
    process.state["n"] = 2
    assert process.settle() == []
    process.state["n"] = 3
    assert process.settle() == [session]
    assert run(session, is_even) is False


def test_one_item_of_many(process: Process, store) -> None:
    @process.computed
    def item(number: int) -> int:
        return process.state["items"][number]

    process.state["items"] = list(range(100))
    sessions = [_core.Session(store) for _ in range(100)]
    for number, session in enumerate(sessions):
        run(session, lambda number=number: item(number))
    process.state["items"] = [*range(50), -1, *range(51, 100)]
    assert process.settle() == [sessions[50]]


def test_a_diamond_is_evaluated_once_per_change(process: Process, store) -> None:
    calls: list[str] = []

    @process.computed
    def left() -> int:
        calls.append("left")
        return process.state["n"]

    @process.computed
    def right() -> int:
        calls.append("right")
        return -process.state["n"]

    @process.computed
    def both() -> tuple[int, int]:
        calls.append("both")
        return left(), right()

    process.state["n"] = 1
    session = _core.Session(store)
    assert run(session, both) == (1, -1)
    calls.clear()
    process.state["n"] = 2
    assert process.settle() == [session]
    assert sorted(calls) == ["both", "left", "right"]
    assert run(session, both) == (2, -2)
    assert len(calls) == 3


def test_what_depends_on_a_value_that_stays_the_same_is_not_evaluated(process: Process, store) -> None:
    calls = []

    @process.computed
    def sign() -> bool:
        return process.state["n"] > 0

    @process.computed
    def text() -> str:
        calls.append(1)
        return "up" if sign() else "down"

    process.state["n"] = 1
    session = _core.Session(store)
    run(session, text)
    process.state["n"] = 2
    assert process.settle() == []
    assert text() == "up"
    assert len(calls) == 1


def test_a_circle_is_named(process: Process) -> None:
    @process.computed
    def hen() -> int:
        return egg()

    @process.computed
    def egg() -> int:
        return hen()

    for value in (hen, egg):
        with pytest.raises(FastServerStateError, match=r"hen\(\) -> .*egg\(\) -> .*hen\(\)|egg.* -> .*hen.* -> .*egg"):
            value()


def test_exceptions_are_raised_in_every_reader_until_a_change(process: Process, store) -> None:
    calls = []

    @process.computed
    def inverse() -> float:
        calls.append(1)
        return 1 / process.state["n"]

    process.state["n"] = 0
    session = _core.Session(store)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run(session, inverse)
    assert len(calls) == 1
    process.state["n"] = 4
    assert process.settle() == [session]
    assert inverse() == 0.25


def test_arguments_are_compared_by_content(process: Process) -> None:
    calls: list[object] = []

    @process.computed
    def kind(value: object, flag: bool = False) -> str:
        calls.append((value, flag))
        return type(value).__name__

    assert [kind(1), kind(True), kind(1.0), kind("1")] == ["int", "bool", "float", "str"]
    assert [kind([1]), kind([1])] == ["list", "list"]
    assert [kind(1, flag=False), kind(value=1)] == ["int", "int"]
    assert len(calls) == 5
    with pytest.raises(TypeError, match=r"value=.*of type object"):
        kind(object())
    with pytest.raises(TypeError, match="missing a required argument: 'value'"):
        kind()


def test_arguments_that_the_caller_changes_later(process: Process) -> None:
    @process.computed
    def total(numbers: list[int]) -> int:
        return sum(numbers) + process.state["n"]

    process.state["n"] = 0
    numbers = [1, 2]
    assert total(numbers) == 3
    numbers.append(10)
    process.state["n"] = 100
    assert total([1, 2]) == 103


def test_results_that_nothing_depends_on_are_bounded(process: Process, store) -> None:
    calls: list[int] = []

    @process.computed(max_entries=10)
    def square(n: int) -> int:
        calls.append(n)
        return n * n

    session = _core.Session(store)
    run(session, lambda: square(0))
    for n in range(1, 1000):
        square(n)
    assert store.statistics()["scopes"] <= 13
    assert store.statistics()["cells"] <= 200  # locks of discarded results are freed when the table grows
    calls.clear()
    run(session, lambda: square(0))
    square(999)
    assert calls == []
    square(1)
    assert calls == [1]


def test_apps_do_not_see_the_results(process: Process, store, state) -> None:
    @process.computed
    def value() -> int:
        return state.get("n", 0)

    session = _core.Session(store)
    run(session, lambda: (len(state), list(state)))
    value()
    assert (len(state), list(state), store.keys(), dict(state)) == (0, [], [], {})
    assert process.settle() == []


def test_shared_state_cannot_be_changed(process: Process) -> None:
    @process.computed
    def value() -> None:
        process.state["n"] = 1

    with pytest.raises(FastServerStateError, match=r"value\(\) has tried to change shared state"):
        value()
    assert "n" not in process.state
    process.state["n"] = 2


def test_a_transaction_sees_its_own_writes_and_others_do_not(process: Process, store) -> None:
    @process.computed
    def value() -> int:
        return process.state["n"]

    process.state["n"] = 1
    assert value() == 1
    with store.transaction(["n"], None):
        process.state["n"] = 2
        assert value() == 2
        process.state["n"] = 3
        assert value() == 3
        process.state["n"] = 1
    assert value() == 1


def test_functions_of_every_run_are_one_definition(process: Process) -> None:
    def define(answer: int) -> Any:
        @process.computed
        def value() -> int:
            return answer

        return value

    assert define(1) is define(1)
    assert define(1) is not define(2)
    assert (define(1)(), define(2)()) == (1, 2)


def test_definitions_that_close_over_other_values_are_bounded(process: Process, caplog) -> None:
    def define(of_this_run: object) -> Any:
        @process.computed
        def value() -> object:
            return of_this_run is None

        return value

    for _ in range(300):
        define([])()
    assert process.store.statistics()["scopes"] <= 101
    assert len([record for record in caplog.records if "defined more than" in record.message]) == 1


def test_async_functions_are_refused(process: Process) -> None:
    with pytest.raises(TypeError, match="cannot be async"):

        @process.computed
        async def value() -> int:
            return 1


def test_max_entries_is_checked(process: Process) -> None:
    with pytest.raises(ValueError, match="max_entries is 1 or more"):
        process.computed(max_entries=0)


def test_callbacks_get_new_values(process: Process, store) -> None:
    listeners = Listeners(store)
    seen: list[object] = []

    @process.computed
    def twice(n: int) -> int:
        return n * process.state["n"]

    process.state["n"] = 1
    subscription = listeners.on_change(twice, 2, seen.append)
    process.settle()
    seen.clear()
    process.state["n"] = 5
    process.settle()
    assert seen == [10]
    subscription.remove()
    process.state["n"] = 6
    process.settle()
    assert seen == [10]


def test_callbacks_that_write_do_so_outside_of_evaluations(process: Process, store) -> None:
    listeners = Listeners(store)

    @process.computed
    def inner() -> int:
        return process.state["n"]

    @process.computed
    def outer() -> int:
        return inner() + 1

    process.state["n"] = 1
    listeners.on_change(inner, lambda value: process.state.update(seen=value))
    process.settle()
    process.state["n"] = 2
    assert outer() == 3
    process.settle()
    assert process.state["seen"] == 2


def test_a_wait_ends_with_the_value(process: Process, store) -> None:
    waiting = Waiting(store, Listeners(store))
    waits = threading.Event()

    @process.computed
    def twice(n: int) -> int:
        return n * process.state["n"]

    def expected(value: int) -> bool:
        waits.set()
        return value > 5

    def change() -> None:
        waits.wait(10)
        process.state["n"] = 5
        while len(results) < 1:
            process.settle()

    process.state["n"] = 1
    results: list[int] = []
    with ThreadSet() as threads:
        threads.add(lambda: results.append(waiting.wait_for(twice, 2, expected, timeout=10)))
        threads.add(change)
    assert results == [10]


def test_a_wait_needs_arguments_that_the_function_takes(process: Process, store) -> None:
    waiting = Waiting(store, Listeners(store))

    @process.computed
    def value(n: int) -> int:
        return n

    with pytest.raises(TypeError, match=r"takes the arguments \(n: 'int'\)"):
        waiting.wait_for(value, 1, 2, timeout=0)
    with pytest.raises(TimeoutError, match=r"value\(1\) was not as expected"):
        waiting.wait_for(value, 1, lambda _: False, timeout=0)


def test_threads_evaluate_one_result_once(process: Process) -> None:
    calls: list[int] = []
    barrier = threading.Barrier(8)

    @process.computed
    def value() -> int:
        calls.append(1)
        return process.state["n"]

    process.state["n"] = 1
    results: list[int] = []

    def read() -> None:
        barrier.wait()
        results.append(value())

    with ThreadSet() as threads:
        for _ in range(8):
            threads.add(read)
    assert results == [1] * 8
    assert len(calls) == 1


def test_a_lock_that_a_reader_holds_and_the_function_needs(process: Process, store) -> None:
    """The thread that evaluates waits for the reader's lock, and the reader for the result: a deadlock."""
    evaluates, holds = threading.Event(), threading.Event()

    @process.computed
    def value() -> int:
        evaluates.set()
        holds.wait(10)
        return process.state["n"]

    process.state["n"] = 1
    results: list[object] = []

    def read() -> None:
        try:
            results.append(value())
        except DeadlockError as error:
            results.append(error)

    def read_with_lock() -> None:
        evaluates.wait(10)
        with store.lock("n"):
            holds.set()
            read()

    with ThreadSet() as threads:
        threads.add(read)
        threads.add(read_with_lock)
    assert any(isinstance(result, DeadlockError) for result in results)
    assert value() == 1


def test_a_throttled_key_does_not_make_results_late(store, state, process: Process) -> None:
    store.set_options(lambda _key: (_core.COMPARE_CONTENT, None, 60.0, (0.0, 0.0, True)))

    @process.computed
    def value() -> int:
        return state["n"]

    session = _core.Session(store)
    state["n"] = 1
    run(session, value)
    for n in (2, 3):
        state["n"] = n
        assert value() == n


def test_no_result_mixes_values_of_different_moments(process: Process) -> None:
    """Threads change two keys together, always to equal numbers. A function that reads both never sees them differ."""
    store, state = process.store, process.state
    state.update(a=0, b=0)
    left = [300] * 3
    results: set[int] = set()

    @process.computed
    def difference() -> int:
        first = state["a"]
        time.sleep(0)  # lets the writer run
        return first - state["b"]

    def write() -> None:
        n = 0
        while any(left):
            n += 1
            with store.transaction(["a", "b"], None):
                state["a"] = state["b"] = n

    def read(reader: int) -> None:
        while left[reader]:
            results.add(difference())
            left[reader] -= 1

    with switch_interval(1e-5), ThreadSet() as threads:
        threads.add(write)
        for reader in range(3):
            threads.add(read, reader)
    assert results == {0}


def test_discarded_results_leave_nothing(process: Process, store) -> None:
    @process.computed
    def value(n: int) -> int:
        return n

    for n in range(10):
        value(n)
    nodes = [weakref.ref(node) for node in value._nodes]
    value.clear()
    assert store.statistics()["scopes"] == 0
    assert [node() for node in nodes] == [None] * 10


def test_the_scheduler_passes_stale_values_to_the_evaluator(store, state) -> None:
    collected: list[_core.Node] = []
    scheduler = Scheduler(store, None, _NoPostScriptGC, collected.extend)
    process = Process(store, state)
    store.on_stale(scheduler._wake)

    @process.computed
    def value() -> int:
        return state["n"]

    state["n"] = 1
    value()
    state["n"] = 2
    assert [repr(node) for node in collected] == [
        "test_the_scheduler_passes_stale_values_to_the_evaluator.<locals>.value()"
    ]


class _NoPostScriptGC:
    @staticmethod
    def is_on() -> bool:
        return False


def test_values_that_were_made_of_a_discarded_result_do_not_stay_outdated(process: Process) -> None:
    @process.computed(max_entries=1)
    def item(n: int) -> int:
        return process.state["n"] + n

    @process.computed
    def twice() -> int:
        return 2 * item(1)

    process.state["n"] = 1
    assert twice() == 4
    for n in range(2, 20):
        item(n)  # there is no room for item(1) any more
    process.state["n"] = 2
    assert twice() == 6


def test_reads_of_evaluations_are_not_checked_for_changes_in_place(process: Process, store) -> None:
    store.note_reads(True)

    @process.computed
    def value() -> list[int]:
        return [len(process.state["items"])]

    process.state["items"] = [1]
    value()
    store.note_reads(False)
    assert store.take_reads()[0] == []


def test_a_change_in_no_rerun_outdates_results_and_reruns_no_session(process: Process, store) -> None:
    @process.computed
    def value() -> tuple[int, bool]:
        return process.state.get("n", 0), "other" in process.state

    run(_core.Session(store), value)
    woken: list[object] = []
    store.on_stale(lambda: woken.append(1))
    with _core.Suppression():
        process.state["n"] = 1
    assert woken == []
    assert value() == (1, False)
    with _core.Suppression():
        process.state["other"] = 1
    assert value() == (1, True)


def test_a_result_may_be_none(process: Process) -> None:
    calls = []

    @process.computed
    def nothing(*args: int) -> None:
        calls.append(args)

    assert [nothing(), nothing(), nothing(1), nothing(1, 2), nothing(1, 2)] == [None] * 5
    assert calls == [(), (1,), (1, 2)]
