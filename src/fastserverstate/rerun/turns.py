"""Shorter turns at the GIL while sessions are rerun.

A click is served in a dozen steps on two threads, and each has to wait for the GIL: with CPython's switch interval of
5 ms, for up to 5 ms beside a script that computes. With 1 ms a click waits a fifth of that.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fastserverstate.rerun.rest import Companion

if TYPE_CHECKING:
    from fastserverstate.rerun.scheduler import Pump

CPYTHON_INTERVAL = 0.005
SHORT_INTERVAL = 0.001


class ShortTurns(Companion):
    """Sets the switch interval while reruns go on, unless the app has set one itself."""

    _is_short = False

    def admitted(self, pump: Pump) -> None:
        """A rerun was asked for."""
        with self.lock:
            if not self._is_short and sys.getswitchinterval() == CPYTHON_INTERVAL:
                self._is_short = True
                sys.setswitchinterval(SHORT_INTERVAL)
            if self._is_short:
                self.keep_watch(pump)

    def run_ended(self, pump: Pump) -> None:
        if self._is_short:
            self.keep_watch(pump)

    def put_back(self) -> None:
        with self.lock:
            if self._is_short:
                self._is_short = False
                if sys.getswitchinterval() == SHORT_INTERVAL:
                    sys.setswitchinterval(CPYTHON_INTERVAL)
