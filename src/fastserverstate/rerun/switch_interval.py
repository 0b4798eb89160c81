"""A shorter switch interval of the GIL while sessions are rerun or pushed to.

A click is served in a dozen steps on two threads, and each step has to wait for the GIL: up to 5 ms while a script
computes, with CPython's switch interval of 5 ms. With 1 ms, a click waits a fifth of that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from fastserverstate.rerun.observer import RunObserver

CPYTHON_INTERVAL = 0.005
SHORT_INTERVAL = 0.001


class SwitchInterval(RunObserver):
    """Shortens the switch interval during reruns and pushes, unless the app has set one itself."""

    _is_short = False

    def rerun_requested(self, is_fanning_out: Callable[[], bool]) -> None:
        with self.lock:
            if not self._is_short and sys.getswitchinterval() == CPYTHON_INTERVAL:
                self._is_short = True
                sys.setswitchinterval(SHORT_INTERVAL)
            if self._is_short:
                self.restart_idle_timer(is_fanning_out)

    def run_ended(self, is_fanning_out: Callable[[], bool]) -> None:
        if self._is_short:
            self.restart_idle_timer(is_fanning_out)

    def restore(self) -> None:
        with self.lock:
            if self._is_short:
                self._is_short = False
                if sys.getswitchinterval() == SHORT_INTERVAL:
                    sys.setswitchinterval(CPYTHON_INTERVAL)
