"""Shorter turns at the GIL while sessions are rerun.

A click is served in a dozen steps on two threads, and each has to wait for the GIL: with CPython's switch interval of
5 ms, for up to 5 ms beside a script that computes. With 1 ms a click waits a fifth of that.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fastserverstate.rerun.rest import Rest

if TYPE_CHECKING:
    from fastserverstate.rerun.scheduler import Pump

CPYTHON_INTERVAL = 0.005
SHORT_INTERVAL = 0.001


class ShortTurns:
    """Sets the switch interval while reruns go on, unless the app has set one itself."""

    def __init__(self) -> None:
        self._short = False
        self._rest = Rest(self.stop)

    def admitted(self, pump: Pump) -> None:  # noqa: ARG002
        if not self._short and sys.getswitchinterval() == CPYTHON_INTERVAL:
            self._short = True
            sys.setswitchinterval(SHORT_INTERVAL)

    def run_ended(self, pump: Pump) -> None:
        if self._short:
            self._rest.run_ended(pump)

    def stop(self) -> None:
        if self._short:
            self._short = False
            if sys.getswitchinterval() == SHORT_INTERVAL:
                sys.setswitchinterval(CPYTHON_INTERVAL)
