"""Base class of what reacts to script runs and is undone when the server is idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# The server is idle when no session waits for a rerun, and no rerun was requested and no run has ended for this many
# seconds. An observer may have a time of its own.
IDLE_AFTER = 0.25

# A fan-out no longer counts when it was silent for this many seconds: its event loop may never run again.
SILENCE = 10.0


class RunObserver:
    """Is told about the end of every run, on any thread, and acts when the server is idle.

    A thread is the idle timer. A timer of the event loop would be lost with the loop.
    """

    idle_after = IDLE_AFTER

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._timer: threading.Thread | None = None
        self._fan_outs: set[Callable[[], bool]] = set()
        self._last = 0.0

    def session_began(self, is_fanning_out: Callable[[], bool]) -> None:
        """A session has used shared state for the first time."""

    def run_ended(self, is_fanning_out: Callable[[], bool]) -> None:
        """A run has ended. `is_fanning_out` tells whether its event loop has more reruns to do."""

    def restore(self) -> None:
        """Undo what is in effect while scripts run."""

    def on_idle(self) -> None:
        """The server is idle. Called on the timer's thread, with the lock held."""
        self.restore()

    def stop(self) -> None:
        """Another observer takes over."""
        self.restore()

    def reset_after_fork(self) -> None:
        """Start again in a forked process, which has no reruns and no timer."""
        self.lock = threading.RLock()
        self._timer = None
        self._fan_outs = set()
        self.restore()

    def restart_idle_timer(self, is_fanning_out: Callable[[], bool]) -> None:
        with self.lock:
            self._last = time.monotonic()
            self._fan_outs.add(is_fanning_out)
            if self._timer is None:
                timer = threading.Thread(target=self._wait_until_idle, name="fastserverstate.idle", daemon=True)
                try:
                    timer.start()
                except RuntimeError:  # there are too many threads: do without
                    self.restore()
                else:
                    self._timer = timer

    def _wait_until_idle(self) -> None:
        while True:
            with self.lock:
                left = self._last + self.idle_after - time.monotonic()
                is_silent = left <= self.idle_after - SILENCE
                if left <= 0 and (is_silent or not any(is_fanning_out() for is_fanning_out in self._fan_outs)):
                    self._timer = None
                    self._fan_outs = set()
                    self.on_idle()
                    return
            time.sleep(max(left, self.idle_after / 5))
