"""What goes along with reruns, and when they are over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from fastserverstate.rerun.scheduler import Pump

# At rest: no run has ended for this many seconds.
REST = 0.25


class Companion(Protocol):
    """Hears of the reruns that a pump asks for, and of the runs that end. Called on the event loop."""

    def admitted(self, pump: Pump) -> None: ...

    def run_ended(self, pump: Pump) -> None: ...

    def stop(self) -> None: ...


class Rest:
    """Calls back when no run has ended for a while. No timer runs while nothing runs."""

    def __init__(self, at_rest: Callable[[], None]) -> None:
        self._at_rest = at_rest
        self._timer: asyncio.TimerHandle | None = None
        self._last_run = 0.0

    def run_ended(self, pump: Pump) -> None:
        self._last_run = pump.loop.time()
        if self._timer is None:
            self._timer = pump.loop.call_later(REST, self._check, pump)

    def _check(self, pump: Pump) -> None:
        self._timer = None
        left = self._last_run + REST - pump.loop.time()
        if left > 0 or pump.is_fanning_out:
            self._timer = pump.loop.call_later(max(left, REST / 5), self._check, pump)
        else:
            self._at_rest()
