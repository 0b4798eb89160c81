"""Threads that evaluate computed values and live regions, off the threads that change state."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("fastserverstate")

# After this many seconds a task no longer counts as running: a function that hangs must not keep the others waiting.
LONG_TASK = 1.0

# After this many seconds the log names a function that has not returned.
HANGING_TASK = 10.0

MOST_THREADS = min(8, (os.cpu_count() or 1) + 2)
LINGER = 5.0  # seconds that an idle thread waits for more


class _Running:
    def __init__(self, name: str, began: float) -> None:
        self.name = name
        self.began = began
        self.is_long = False
        self.is_reported = False


class Workers:
    """A pool of daemon threads, and a timer.

    A task that takes long does not occupy the pool: another thread takes its place.

    Thread-safety
        Safe from any thread, and from finalizers that interrupt it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget the threads, which belong to the parent process, and the tasks, which are its too."""
        self._lock = threading.RLock()
        self._has_task = threading.Condition(self._lock)
        self._times_changed = threading.Condition(self._lock)
        self._tasks: deque[tuple[Callable[[], None], str]] = deque()
        self._later: list[tuple[float, int, Callable[[], None], str]] = []
        self._sequence = itertools.count()
        self._running: set[_Running] = set()
        self._counted = 0  # threads of the pool, without those that run a long task
        self._idle = 0
        self._watch_until: float | None = None  # when the timer thread looks again; None: it has ended

    def submit(self, task: Callable[[], None], name: str) -> None:
        """Run a task soon. `name` stands for it in the log."""
        with self._lock:
            self._tasks.append((task, name))
            if self._idle >= len(self._tasks):
                self._has_task.notify()
            elif self._counted < MOST_THREADS:
                self._start(self._work)
                self._counted += 1

    def submit_later(self, seconds: float, task: Callable[[], None], name: str) -> None:
        """Run a task after this many seconds."""
        with self._lock:
            heapq.heappush(self._later, (self._clock() + seconds, next(self._sequence), task, name))
            self._watch()

    def _start(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name="fastserverstate.worker", daemon=True).start()

    def _watch(self) -> None:
        """Have the timer thread look in time."""
        if self._watch_until is None:
            self._watch_until = self._next_look()
            self._start(self._keep_time)
        elif self._next_look() < self._watch_until:
            self._times_changed.notify()

    def _next_look(self) -> float:
        looks = [self._clock() + LINGER]
        if self._later:
            looks.append(self._later[0][0])
        for running in self._running:
            if not running.is_long:
                looks.append(running.began + LONG_TASK)
            elif not running.is_reported:
                looks.append(running.began + HANGING_TASK)
        return min(looks)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                found = self._has_task.wait_for(lambda: self._tasks, LINGER)
                self._idle -= 1
                if not found:
                    self._counted -= 1
                    return
                task, name = self._tasks.popleft()
                running = _Running(name, self._clock())
                self._running.add(running)
                self._watch()
            try:
                task()
            except BaseException:
                logger.exception("%s has failed.", name)
            with self._lock:
                self._running.discard(running)
                if running.is_long:
                    return  # another thread has taken its place

    def _keep_time(self) -> None:
        with self._lock:
            while self._running or self._later:
                self._watch_until = self._next_look()
                self._times_changed.wait(max(0.0, self._watch_until - self._clock()))
                self._look()
            self._watch_until = None

    def _look(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            _, _, task, name = heapq.heappop(self._later)
            self.submit(task, name)
        for running in self._running:
            if not running.is_long and now - running.began >= LONG_TASK:
                running.is_long = True
                self._counted -= 1
                if self._tasks and self._counted < MOST_THREADS:
                    self._start(self._work)
                    self._counted += 1
            if not running.is_reported and now - running.began >= HANGING_TASK:
                running.is_reported = True
                logger.warning(
                    "%s has been running for %.0f seconds. What depends on it is not updated until it returns.",
                    running.name,
                    HANGING_TASK,
                )
