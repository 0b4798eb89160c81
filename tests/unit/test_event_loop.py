"""Threads that run an event loop: no call blocks them, and a call that would block has no effect."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from unit.helpers import DEADLINE, ThreadSet

from fastserverstate import WouldBlockError
from fastserverstate.callers import Callers


@contextlib.contextmanager
def held(locks, *keys):
    """Another thread holds the locks of the keys during the ``with`` block."""
    taken, over = threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for key in keys:
                stack.enter_context(locks[key])
            taken.set()
            over.wait(DEADLINE)

    with ThreadSet() as threads:
        threads.add(hold)
        threads.go()
        assert taken.wait(DEADLINE)
        try:
            yield
        finally:
            over.set()


def on_loop(function):
    """Return the result of a function that an event loop calls."""

    async def call():
        return function()

    return asyncio.run(call())


CALLS = {
    "read": lambda use: use.state["k"],
    "in": lambda use: "k" in use.state,
    "get": lambda use: use.state.get("k"),
    "peek": lambda use: use.peek("k"),
    "assign": lambda use: use.state.__setitem__("k", 2),
    "attribute": lambda use: setattr(use.state, "k", 2),
    "delete": lambda use: use.state.__delitem__("k"),
    "pop": lambda use: use.state.pop("k"),
    "setdefault": lambda use: use.state.setdefault("k", 2),
    "update": lambda use: use.state.update(k=2),
    "clear": lambda use: use.state.clear(),
    "touch": lambda use: use.touch("k"),
    "atomic": lambda use: use.atomic("k", lambda value: value + 1),
    "increment": lambda use: use.atomic.increment("k"),
    "append": lambda use: use.atomic.append("k", 1),
    "compare_and_set": lambda use: use.compare_and_set("k", 1, 2),
    "transaction": lambda use: use.transaction("k").__enter__(),
    "transaction with a timeout": lambda use: use.transaction("k", timeout=10).__enter__(),
    "lock": lambda use: use.locks["k"].acquire(),
    "lock with a timeout": lambda use: use.locks["k"].acquire(timeout=10),
    "several locks": lambda use: use.locks["free", "k"].acquire(),
    "wait_for": lambda use: use.wait_for("k"),
    "wait_for with a timeout": lambda use: use.wait_for("k", timeout=10),
}


class Use:
    """All operations of a store."""

    def __init__(self, request):
        names = ("store", "state", "locks", "atomic", "compare_and_set", "peek", "touch", "transaction", "wait_for")
        for name in names:
            setattr(self, name, request.getfixturevalue(name))


@pytest.fixture
def use(request):
    return Use(request)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_call_waits_for_a_lock(use, call):
    """The error names the key and an alternative, and the call has no effect."""
    use.state["k"] = 1
    with held(use.locks, "k"), pytest.raises(WouldBlockError, match=r"'k'.*asyncio\.to_thread.*run_in_executor"):
        on_loop(lambda: call(use))
    assert dict(use.state) == {"k": 1}
    assert not use.locks["k"].locked()
    assert not use.locks["free"].locked()


def test_write_in_a_transaction_does_not_wait(use):
    """Earlier writes of the transaction are discarded."""

    def write():
        with use.transaction("a"):
            use.state["a"] = 2
            use.state["k"] = 2

    with held(use.locks, "k"), pytest.raises(WouldBlockError, match="'k'"):
        on_loop(write)
    assert dict(use.state) == {}
    assert not use.locks["a"].locked()


def test_waiting_for_a_change_is_refused(use):
    use.state["k"] = 1
    for timeout in (None, 10):
        with pytest.raises(WouldBlockError, match="Waiting for a change of 'k'"):
            on_loop(lambda timeout=timeout: use.wait_for("k", lambda value: value == 2, timeout=timeout))
    assert use.store.statistics()["cells"] == 1


def test_calls_that_need_not_wait_work(use):
    use.state["k"] = 1
    assert on_loop(lambda: use.wait_for("k")) == 1
    with pytest.raises(TimeoutError):
        on_loop(lambda: use.wait_for("k", lambda value: value == 2, timeout=0))
    with held(use.locks, "k"):
        assert not on_loop(lambda: use.locks["k"].acquire(blocking=False))
        assert not on_loop(lambda: use.locks["k"].acquire(timeout=0.001))


def test_lock_that_is_held_for_a_moment_is_waited_for(use):
    """The loop's thread is in the queue when the lock is released."""
    use.state["k"] = 1
    taken, asked = threading.Event(), threading.Event()

    def hold():
        with use.locks["k"]:
            taken.set()
            asked.wait(DEADLINE)

    async def read():
        assert taken.wait(DEADLINE)
        asked.set()
        while True:
            with contextlib.suppress(WouldBlockError):  # on a slow machine
                return use.state["k"]

    with ThreadSet() as threads:
        threads.add(hold)
        threads.go()
        assert asyncio.run(read()) == 1


def test_condition_is_not_waited_on(use):
    condition = threading.Condition(use.locks["k"])

    def wait():
        with condition:
            condition.wait()

    with pytest.raises(WouldBlockError, match=r"threading\.Condition with server_state_lock\['k'\]"):
        on_loop(wait)
    assert not use.locks["k"].locked()


def test_the_alternative_in_the_message_works(use):
    """The wait is on another thread, and the loop continues meanwhile."""

    async def serve():
        with held(use.locks, "k"):
            written = asyncio.ensure_future(asyncio.to_thread(use.state.__setitem__, "k", 2))
            asyncio.get_running_loop().run_in_executor(None, use.atomic.increment, "n")
            await asyncio.sleep(0.01)
            assert not written.done()
        await written

    asyncio.run(serve())
    assert dict(use.state) == {"k": 2, "n": 1}


def test_callbacks_are_called_on_another_thread(use, on_change):
    """One callback waits for the event loop."""
    use.store.offload_callbacks(Callers(lambda key: use.store.flush([key])).add)
    go_on, called, seen = threading.Event(), threading.Semaphore(0), []

    def call():
        assert go_on.wait(DEADLINE)
        seen.append((use.state["k"], threading.current_thread().name))
        called.release()

    def change():
        use.state["k"] = 1
        with use.locks["k"], use.transaction("k"):
            use.state["k"] = 2
        go_on.set()

    subscription = on_change("k", call)
    on_loop(change)
    for _ in range(2):
        assert called.acquire(timeout=DEADLINE)
    assert seen == 2 * [(2, "fastserverstate.on_change")]
    subscription.remove()
