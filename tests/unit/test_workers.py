"""The threads that evaluate computed values and live regions."""

from __future__ import annotations

import threading
import time

from fastserverstate.workers import LINGER, Workers


def test_a_task_does_not_wait_while_the_timer_runs() -> None:
    workers = Workers()
    for _ in range(3):
        done = threading.Event()

        def take_a_moment(done: threading.Event = done) -> None:
            time.sleep(0.02)  # the timer begins to watch the task
            done.set()

        workers.submit(take_a_moment, "a task")
        assert done.wait(LINGER / 5)
        time.sleep(0.02)  # the thread waits for more


def test_a_later_task_runs_while_a_thread_waits_for_more() -> None:
    workers = Workers()
    first, later = threading.Event(), threading.Event()
    workers.submit(first.set, "a task")
    assert first.wait(LINGER / 5)
    workers.submit_later(0.02, later.set, "a later task")
    assert later.wait(LINGER / 5)
