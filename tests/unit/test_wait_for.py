"""`wait_for`: sleep until a key has an expected value."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from datetime import timedelta

import pytest
from unit.helpers import DEADLINE, ThreadSet, enter, run_script

from fastserverstate import _core
from fastserverstate.updates import Atomic

pytestmark = pytest.mark.usefixtures("many_switches")

SOON = 0.02


@contextlib.contextmanager
def waiting(function, *args):
    """Wait on another thread during the ``with`` block. It yields a list for the result."""
    results = []
    with ThreadSet() as threads:
        thread = threads.add(lambda: results.append(function(*args)))
        threads.go()
        thread.join(SOON)
        assert thread.is_alive(), results
        yield results


def test_existing_value_is_returned_immediately(state, wait_for):
    state["k"] = value = [1]
    assert wait_for("k") is value
    assert wait_for("k", lambda value: value == [1]) is value
    assert wait_for("k", timeout=0) is value


@pytest.mark.parametrize("value", [None, False, 0, "", ()], ids=repr)
def test_without_predicate_any_value_will_do(state, wait_for, value):
    state["k"] = value
    assert wait_for("k", timeout=0) is value


def test_waits_until_the_key_is_set(state, wait_for):
    with waiting(wait_for, "k") as results:
        state["other"] = 1
        state["k"] = "there"
    assert results == ["there"]


def test_waits_until_the_predicate_is_true(state, wait_for):
    seen = []

    def is_large(value):
        seen.append(value)
        return value > 2

    state["k"] = 0
    with waiting(wait_for, "k", is_large) as results:
        for n in range(1, 5):
            state["k"] = n
    assert results[0] in {3, 4}
    assert seen == sorted(set(seen))
    assert seen[0] == 0


def test_predicate_may_return_anything(state, wait_for):
    state["k"] = [5]
    assert wait_for("k", lambda value: value) == [5]
    with waiting(wait_for, "k", lambda value: value[1:]) as results:
        state["k"] = [5, 6]
    assert results == [[5, 6]]


def test_goes_on_across_deletion(state, wait_for):
    """A deleted key never has the value, and the predicate is not called for it."""
    state["k"] = 1
    with waiting(wait_for, "k", lambda value: value > 1) as results:
        for _ in range(50):
            del state["k"]
            state["k"] = 1
        state.clear()
        state["k"] = 2
    assert results == [2]


CHANGES = {
    "set": lambda state, _: state.__setitem__("k", 1),
    "attribute": lambda state, _: setattr(state, "k", 1),
    "setdefault": lambda state, _: state.setdefault("k", 1),
    "update": lambda state, _: state.update(k=1),
    "increment": lambda _, store: Atomic(store).increment("k"),
    "append": lambda _, store: Atomic(store).append("k", 1),
    "atomic": lambda _, store: Atomic(store)("k", lambda value: value + 1, default=0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_is_woken_by_every_kind_of_change(store, state, wait_for, change):
    with waiting(wait_for, "k") as results:
        change(state, store)
    assert results == [state["k"]]


def test_is_woken_by_touch(store, state, wait_for):
    state["k"] = value = []
    with waiting(wait_for, "k", lambda value: value) as results:
        value.append("in place")
        store.touch("k")
    assert results == [value]


def test_is_woken_by_a_transaction_at_its_end(state, transaction, wait_for):
    with waiting(wait_for, "k") as results:
        with contextlib.suppress(ZeroDivisionError), transaction():
            state["k"] = "discarded"
            raise ZeroDivisionError
        with transaction("k"):
            state["k"] = "half"
            time.sleep(SOON)
            assert results == []
            state["k"] = "whole"
    assert results == ["whole"]


def test_is_woken_when_the_writer_releases_the_lock(state, locks, wait_for):
    """Values are not visible while their writer holds the lock."""
    with waiting(wait_for, "k") as results, locks["k"]:
        state["k"] = "half"
        time.sleep(SOON)
        assert results == []
        state["k"] = "whole"
    assert results == ["whole"]


@pytest.mark.parametrize("timeout", [0, 0.0, 0.05, timedelta(milliseconds=50)], ids=str)
@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_timeout(state, wait_for, *, timeout, present):
    if present:
        state["k"] = 1
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="'k'"):
        wait_for("k", lambda value: value == 2, timeout=timeout)
    assert seconds <= time.monotonic() - started < seconds + 1


def test_timeout_counts_from_the_call(state, wait_for):
    """Other changes do not extend it."""
    over = threading.Event()

    def change():
        n = 0
        while not over.is_set():
            n += 1
            state["k"] = n
            time.sleep(0.001)

    with ThreadSet() as threads:
        threads.add(change)
        threads.go()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            wait_for("k", lambda value: value < 0, timeout=0.1)
        over.set()
    assert 0.1 <= time.monotonic() - started < 1


def test_timeout_counts_while_the_key_is_locked(state, locks, wait_for):
    state["k"] = 1
    outcomes = []

    def wait():
        with pytest.raises(TimeoutError):
            wait_for("k", lambda value: value == 2, timeout=0.05)
        outcomes.append("over")

    with ThreadSet() as threads:
        thread = threads.add(wait)
        with locks["k"]:
            threads.go()
            thread.join(1)
            assert outcomes == ["over"]


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), timedelta(seconds=-1)], ids=str)
def test_impossible_timeouts(state, wait_for, timeout):
    state["k"] = 1
    with pytest.raises(ValueError, match="timeout"):
        wait_for("k", timeout=timeout)


async def is_ready(value):
    return value


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (5, r"The predicate of wait_for\('k', ...\) has to be a function, not 5 of type int"),
        (is_ready, r"The predicate of wait_for\('k', ...\) cannot be async, and is_ready is"),
        (lambda value: is_ready([value]), r"The predicate of wait_for\('k', ...\) has returned a coroutine"),
    ],
)
def test_wrong_predicates(state, wait_for, predicate, message):
    state["k"] = 1
    with pytest.raises(TypeError, match=message):
        wait_for("k", predicate)


@pytest.mark.parametrize("timeout", [[], 1j], ids=repr)
def test_timeouts_that_are_no_numbers(wait_for, timeout):
    with pytest.raises(TypeError, match="timeout is a number of seconds, a timedelta, or text"):
        wait_for("k", timeout=timeout)


@pytest.mark.parametrize("key", [1, None, ("a", "b")])
def test_keys_are_exact_str(wait_for, key):
    with pytest.raises(TypeError, match="server_state keys are of type str"):
        wait_for(key, timeout=0)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["immediately", "later"])
def test_predicate_that_raises_ends_the_wait(store, state, wait_for, error, when):
    outcomes = []
    state["k"] = 1 if when == "immediately" else 0

    def fail(value):
        if value:
            raise error

    def wait():
        try:
            wait_for("k", fail)
        except error:
            outcomes.append("raised")

    with ThreadSet() as threads:
        thread = threads.add(wait)
        threads.go()
        thread.join(SOON)
        state["k"] = 1
    assert outcomes == ["raised"]
    assert not store.lock("k").locked()


def test_predicate_may_use_the_store(state, locks, wait_for):
    """No lock is held, not even that of the key."""
    state["k"] = 0
    held = []

    def change_it(value):
        held.append(locks["k"].locked())
        if value < 3:
            state["k"] = value + 1  # visible without another change
        return value == 3

    assert wait_for("k", change_it, timeout=DEADLINE) == 3
    assert not any(held)


def test_waiting_for_a_lock_of_one_s_own_is_an_error(state, locks, transaction, wait_for):
    """No thread could ever change the key."""
    with locks["k"], pytest.raises(RuntimeError, match="'k'"):
        wait_for("k", timeout=1)
    with transaction("k"), pytest.raises(RuntimeError, match="'k'"):
        wait_for("k", timeout=1)
    with locks["k"]:
        state["k"] = 1
        assert wait_for("k") == 1


def test_subscribes_to_nothing(store, state, session, wait_for):
    state["k"] = 1
    wait_for("k")
    with pytest.raises(TimeoutError):
        wait_for("absent", timeout=0)
    session.message_sent()
    state["k"] = 2
    assert session.take_overwritten() == {}
    enter(_core.Session(store))
    state["k"] = 3
    state["absent"] = 1
    assert store.collect_stale() == []


def test_waits_leave_nothing_behind(store, state, wait_for):
    for i in range(1_000):
        with pytest.raises(TimeoutError):
            wait_for(f"k{i}", timeout=0)
    assert store.statistics()["cells"] == 0
    assert len(state) == 0


def test_all_waiters_are_woken(state, wait_for):
    waiters = 40
    got = []

    with ThreadSet() as threads:
        started = [
            threads.add(lambda at=at: got.append((at, wait_for("k", lambda value: value >= at))))
            for at in range(waiters)
        ]
        threads.go()
        started[-1].join(SOON)
        assert got == []
        for n in range(waiters):
            state["k"] = n
    assert sorted(at for at, _ in got) == list(range(waiters))
    assert all(value >= at for at, value in got)


def test_no_change_is_missed(state, wait_for):
    """Two threads wait for each other's changes, and would hang if one were missed."""
    passes = 3_000
    state["ball"] = 0

    def play(player):
        for n in range(player, passes, 2):
            wait_for("ball", lambda value, n=n: value == n, timeout=DEADLINE)
            state["ball"] = n + 1

    with ThreadSet() as threads:
        threads.add(play, 0)
        threads.add(play, 1)
    assert state["ball"] == passes


def test_queue_between_threads(store, state, wait_for):
    """The operations of a background job and its clients: append, wait, take all."""
    atomic = Atomic(store)
    items, taken = 600, []

    def produce(producer):
        for n in range(items // 3):
            atomic.append("queue", (producer, n))

    def consume():
        while len(taken) < items:
            wait_for("queue", timeout=DEADLINE)
            taken.extend(state.pop("queue", ()))

    with ThreadSet() as threads:
        for producer in range(3):
            threads.add(produce, producer)
        threads.add(consume)
    assert sorted(taken) == [(producer, n) for producer in range(3) for n in range(items // 3)]


def test_waiting_costs_no_time(state, wait_for):
    """Waiting threads sleep, however many wait and however many other keys change."""
    with contextlib.ExitStack() as stack:
        results = [stack.enter_context(waiting(wait_for, "k")) for _ in range(5)]
        started = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - started < 0.1
        state["k"] = 1
    assert results == [[1]] * 5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer signals")
def test_signal_interrupts_the_wait():
    """The first signal's handler returns, and the wait continues. The second one's raises."""
    output = run_script(
        """
        from fastserverstate.listeners import Listeners
        from fastserverstate.waiting import Waiting

        def handle(*_):
            signals.append(1)
            if len(signals) == 2:
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise KeyboardInterrupt

        signals = []
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
        try:
            Waiting(store, Listeners(store)).wait_for("k")
        except KeyboardInterrupt:
            print("interrupted", store.lock("k").locked(), len(store.keys()))
        """,
        package=True,
    )
    assert output == "interrupted False 0\n"
