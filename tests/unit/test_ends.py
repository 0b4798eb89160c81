"""Waits on threads that belong to no script run end with the process, and with the event loop that started them."""

from __future__ import annotations

import pytest
from unit.helpers import run_script

# Functions that wait forever, and print how their wait has ended.
WAITS = """
    import asyncio
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from fastserverstate import _core, _ends, atomic, server_state, server_state_lock, wait_for

    looks = []

    def raise_if_over():
        looks.append(None)
        _ends.raise_if_over()

    _core.on_ends(_ends._is_in_pool, raise_if_over)

    def await_two_looks():
        # Of the only thread that waits, whether its wait has to end.
        enough, deadline = len(looks) + 2, time.monotonic() + 20
        while len(looks) < enough and time.monotonic() < deadline:
            time.sleep(0.01)

    never = threading.Event()

    def hold():
        with server_state_lock["locked"]:
            held.set()
            never.wait()

    held = threading.Event()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()

    def wait(call, began=None):
        try:
            if began is not None:
                began.release()
            call()
        except RuntimeError as error:
            sys.stdout.write(f"{error}\\n")  # in one write, because several threads do it

    CALLS = [
        lambda: wait_for("k"),
        lambda: wait_for("k", timeout=3600),
        lambda: server_state["locked"],
        lambda: server_state_lock["locked"].acquire(),
        lambda: server_state_lock["locked"].acquire(timeout=3600),
        lambda: atomic.increment("locked"),
    ]
"""

LOOP = "This wait has ended, because the event loop whose executor it was made on closes.\n"
PROCESS = "This wait has ended, because the process ends: all threads that it waits for are waiting.\n"


def test_event_loop_that_closes():
    """The tasks were cancelled, but not the calls on the executor's threads."""
    output = run_script(
        WAITS
        + """
    async def serve():
        began = threading.Semaphore(0)
        tasks = [asyncio.ensure_future(asyncio.to_thread(wait, call, began)) for call in CALLS]
        for _ in tasks:
            await asyncio.to_thread(began.acquire)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(16))
    loop.run_until_complete(serve())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    print("closed", threading.active_count())
        """,
        package=True,
    )
    assert output == 6 * LOOP + "closed 2\n"


def test_event_loop_that_closes_ends_no_wait_of_another_pool():
    """The pool is shut down while its threads continue, and the loop waits for a thread of its own."""
    output = run_script(
        WAITS
        + """
    def end_the_wait():
        looked.wait()
        server_state["k"] = "set"
        over.set()

    async def close_slowly():
        asyncio.get_running_loop().run_in_executor(None, over.wait)

    def watch():
        while not any(thread.name.endswith("(_do_shutdown)") for thread in threading.enumerate()):
            time.sleep(0.01)
        await_two_looks()
        looked.set()

    looked, over = threading.Event(), threading.Event()
    closing = threading.Thread(target=lambda: asyncio.run(close_slowly()))
    with ThreadPoolExecutor(3) as pool:
        waiting = pool.submit(wait_for, "k")
        pool.submit(end_the_wait)
        closing.start()
        pool.submit(watch)
    print(waiting.result())
    closing.join()
        """,
        package=True,
    )
    assert output == "set\n"


@pytest.mark.parametrize("start", ["threading.Thread(target=wait, args=(call,)).start()", "pool.submit(wait, call)"])
def test_process_that_ends(start):
    output = run_script(
        WAITS
        + f"""
    pool = ThreadPoolExecutor(16)
    pool.submit(print, end="")  # an idle thread of the pool
    for call in CALLS:
        {start}
        """,
        package=True,
    )
    assert output == 6 * PROCESS


def test_threads_that_go_on_after_the_main_thread_end_each_other_s_waits():
    output = run_script(
        WAITS
        + """
    def produce():
        for n in range(5):
            wait_for("taken", lambda taken: taken == n)
            await_two_looks()
            server_state["made"] = n + 1

    def consume():
        for n in range(5):
            server_state["taken"] = n
            wait_for("made", lambda made: made == n + 1)
        print("all taken")

    threading.Thread(target=produce).start()
    threading.Thread(target=consume).start()
        """,
        package=True,
    )
    assert output == "all taken\n"


def test_pool_that_is_left_goes_on():
    """Its threads or other threads may end the waits."""
    output = run_script(
        WAITS
        + """
    async def shutting_down():
        await asyncio.to_thread(print, end="")

    with ThreadPoolExecutor() as pool:
        consumer = pool.submit(wait_for, "k")
        pool.submit(lambda: (asyncio.run(shutting_down()), await_two_looks(), server_state.update(k=1)))
    print(consumer.result())
        """,
        package=True,
    )
    assert output == "1\n"


def test_wait_of_the_main_thread_at_its_exit():
    output = run_script(
        WAITS
        + """
    import atexit
    atexit.register(wait, CALLS[0])
    atexit.register(wait, CALLS[2])
        """,
        package=True,
    )
    assert output == 2 * PROCESS
