"""A clock that a test advances."""

from __future__ import annotations

import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable

from fastserverstate import _core

DEADLINE = 20  # real seconds


class FakeClock:
    """Replaces the module `time`, the core's clock and the clocks of event loops.

    Thread-safety
        Safe from any thread. `sleep` blocks until another thread has advanced the clock far enough.
    """

    def __init__(self) -> None:
        self.is_busy = False  # whether the process uses one processor all the time
        self._now = time.monotonic()
        self._advanced = threading.Condition()

    def monotonic(self) -> float:
        return self._now

    def process_time(self) -> float:
        return self._now if self.is_busy else 0.0

    def sleep(self, seconds: float) -> None:
        with self._advanced:
            until = self._now + seconds
            if not self._advanced.wait_for(lambda: self._now >= until, DEADLINE):
                raise TimeoutError("Nothing has advanced the clock.")

    def drive(self, loop: AbstractEventLoop) -> AbstractEventLoop:
        """Have an event loop run its timers by this clock."""
        loop.time = self.monotonic  # type: ignore[method-assign]
        return loop

    def advance(self, seconds: float) -> None:
        with self._advanced:
            self._now += seconds
            self._advanced.notify_all()
        _core.advance_clock(seconds)

    def advance_until(self, condition: Callable[[], bool], step: float) -> None:
        """Advance in steps until other threads have made the condition true."""
        patience = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < patience, "The condition never became true."
            self.advance(step)
            time.sleep(0.001)
