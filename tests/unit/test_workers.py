"""Threads that evaluate: a function that hangs keeps no other waiting."""

from __future__ import annotations

import threading
import time

import pytest
from harness.clock import FakeClock

from fastserverstate import workers as module
from fastserverstate.workers import HANGING_TASK, LINGER, LONG_TASK, MOST_THREADS, Workers

DEADLINE = 20


class Clock(FakeClock):
    """Wakes the timer thread when it is advanced."""

    pool: Workers

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        with self.pool._times_changed:
            self.pool._times_changed.notify_all()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> Workers:
    clock.pool = Workers(clock.monotonic)
    return clock.pool


def test_tasks_run(pool: Workers) -> None:
    done = threading.Semaphore(0)
    for _ in range(100):
        pool.submit(done.release, "a task")
    assert all(done.acquire(timeout=DEADLINE) for _ in range(100))


def test_a_task_runs_later(pool: Workers, clock: Clock) -> None:
    done = threading.Event()
    pool.submit_later(60.0, done.set, "a task")
    clock.advance(59.0)
    assert not done.wait(0.05)
    clock.advance(2.0)
    assert done.wait(DEADLINE)


def test_later_tasks_run_in_the_order_of_their_times(pool: Workers, clock: Clock) -> None:
    order: list[int] = []
    done = threading.Event()
    pool.submit_later(30.0, lambda: (order.append(2), done.set()), "a task")
    pool.submit_later(10.0, lambda: order.append(1), "a task")
    clock.advance_until(lambda: len(order) == 1, 5.0)
    clock.advance_until(done.is_set, 5.0)
    assert order == [1, 2]


def test_hanging_tasks_occupy_no_thread_of_the_pool(pool: Workers, clock: Clock) -> None:
    release, done = threading.Event(), threading.Event()
    for _ in range(MOST_THREADS):
        pool.submit(lambda: release.wait(DEADLINE), "a task that hangs")
    pool.submit(done.set, "a task")
    try:
        assert not done.wait(0.05)
        clock.advance_until(done.is_set, LONG_TASK)
    finally:
        release.set()


def test_the_log_names_a_hanging_task_once(pool: Workers, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    pool.submit(lambda: release.wait(DEADLINE), "The live region board('chess')")
    try:
        clock.advance_until(lambda: bool(caplog.records), HANGING_TASK / 5)
        clock.advance(HANGING_TASK)
    finally:
        release.set()
    assert [record.message for record in caplog.records] == [
        "The live region board('chess') has been running for 10 seconds. What depends on it is not updated until it "
        "returns."
    ]


def test_an_error_is_logged_and_ends_no_thread(pool: Workers, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def fail() -> None:
        raise ZeroDivisionError

    for _ in range(2 * MOST_THREADS):
        pool.submit(fail, "a task")
    pool.submit(done.set, "a task")
    assert done.wait(DEADLINE)
    assert "a task has failed." in caplog.text


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.01)
    before = set(threading.enumerate())
    pool = Workers()
    done = threading.Event()
    pool.submit(done.set, "a task")
    assert done.wait(DEADLINE)
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE)
    assert before.issuperset(threading.enumerate())
    done.clear()
    pool.submit(done.set, "a task")
    assert done.wait(DEADLINE)


def test_a_task_does_not_wait_while_the_timer_runs() -> None:
    pool = Workers()
    for _ in range(3):
        done = threading.Event()

        def take_a_moment(done: threading.Event = done) -> None:
            time.sleep(0.02)  # the timer begins to watch the task
            done.set()

        pool.submit(take_a_moment, "a task")
        assert done.wait(LINGER / 5)
        time.sleep(0.02)  # the thread waits for more


def test_a_later_task_runs_while_a_thread_waits_for_more() -> None:
    pool = Workers()
    first, later = threading.Event(), threading.Event()
    pool.submit(first.set, "a task")
    assert first.wait(LINGER / 5)
    pool.submit_later(0.02, later.set, "a later task")
    assert later.wait(LINGER / 5)
