"""`wait_for_async`: waiting for a change without a thread."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
from unit.helpers import DEADLINE, run_script


async def started(*coroutines):
    """Tasks that have all reached their first wait."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    return tasks


def test_existing_value_is_returned(state, wait_for_async):
    state["k"] = value = [1]
    assert asyncio.run(wait_for_async("k")) is value
    assert asyncio.run(wait_for_async("k", lambda value: value == [1], timeout=0)) is value


def test_change_of_a_thread_ends_the_wait(state, wait_for_async):
    async def serve():
        tasks = await started(*(wait_for_async("k", lambda value, at=at: value >= at) for at in range(1, 11)))
        thread = threading.Thread(target=lambda: [state.__setitem__("k", n) for n in range(11)])
        thread.start()
        return await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE)

    assert all(value >= at for at, value in enumerate(asyncio.run(serve()), 1))


def test_change_of_the_loop_s_own_thread_ends_the_wait(state, wait_for_async):
    async def serve():
        (task,) = await started(wait_for_async("k"))
        state["k"] = 1
        return await asyncio.wait_for(task, DEADLINE)

    assert asyncio.run(serve()) == 1


def test_key_that_is_locked_is_waited_for(state, locks, wait_for_async):
    """The event loop keeps running meanwhile."""
    state["k"] = 1
    taken, over = threading.Event(), threading.Event()

    def hold():
        with locks["k"]:
            taken.set()
            over.wait(DEADLINE)

    async def serve():
        thread = threading.Thread(target=hold)
        thread.start()
        await asyncio.to_thread(taken.wait, DEADLINE)
        (task,) = await started(wait_for_async("k"))
        with pytest.raises(TimeoutError):
            await wait_for_async("k", timeout=0.05)
        over.set()
        return await asyncio.wait_for(task, DEADLINE)

    assert asyncio.run(serve()) == 1


def test_cancelling_ends_the_wait(state, store, wait_for_async):
    async def serve():
        tasks = await started(*(wait_for_async("k") for _ in range(50)))
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)

    before = threading.active_count()
    asyncio.run(serve())
    assert threading.active_count() == before
    assert store.statistics()["cells"] == 0
    state["k"] = 1  # notifies no waiter


@pytest.mark.parametrize("timeout", [0, 0.01, timedelta(milliseconds=10)], ids=str)
def test_timeout(state, wait_for_async, timeout):
    state["k"] = 1
    with pytest.raises(TimeoutError, match=r"server_state\['k'\] was not as expected within"):
        asyncio.run(wait_for_async("k", lambda value: value == 2, timeout=timeout))


def test_errors(state, wait_for_async):
    def fail(_):
        raise TimeoutError("of the predicate")

    state["k"] = 1
    with pytest.raises(TimeoutError, match="of the predicate"):
        asyncio.run(wait_for_async("k", fail, timeout=DEADLINE))
    with pytest.raises(TypeError, match="server_state keys are of type str"):
        asyncio.run(wait_for_async(1))
    with pytest.raises(ValueError, match="timeout"):
        asyncio.run(wait_for_async("k", timeout=-1))


def test_loop_that_was_closed_is_not_told():
    """Its task was never cancelled, and the change is made as if no task waited."""
    output = run_script(
        """
        import asyncio
        from fastserverstate import server_state, wait_for_async

        async def serve():
            return asyncio.ensure_future(wait_for_async("k"))

        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(serve())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        server_state["k"] = 1
        print(task.done())
        task._log_destroy_pending = False
        """,
        package=True,
    )
    assert output == "False\n"
