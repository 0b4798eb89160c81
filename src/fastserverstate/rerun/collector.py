"""One garbage collection for many script runs.

Streamlit collects all generations after every run, which costs more than most runs do. Here a collection happens when
the server has come to rest, or when the process has grown. CPython's own collections go on as ever: they bound what
sessions leave behind that use no shared state.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserverstate.rerun.scheduler import Pump

# At rest: no run has ended for this many seconds.
REST = 0.25

# Grown: by this many bytes, or by this share of the size after the last collection if that is more. A collection waits
# for a fan-out that is going on, but not beyond twice the growth.
GROWTH = 64 * 2**20
GROWTH_SHARE = 0.25

# How often the size is looked at, in seconds.
SIZE_CHECK = 0.1


class PacedCollector:
    """Collects garbage for the runs that have ended since it last did.

    Thread-safety
        Runs on event loops. With several in one process, a collection may happen once more than it needs to.
    """

    def __init__(self) -> None:
        self.collections = 0
        self._timer: asyncio.TimerHandle | None = None
        self._size = resident_bytes()
        self._size_checked = 0.0
        self._last_run = 0.0
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def run_ended(self, pump: Pump) -> None:
        now = pump.loop.time()
        self._last_run = now
        if self._timer is None:
            self._timer = pump.loop.call_later(REST, self._when_at_rest, pump)
        if now - self._size_checked >= SIZE_CHECK:
            self._size_checked = now
            growth = (resident_bytes() - self._size) / max(GROWTH, GROWTH_SHARE * self._size)
            if growth > 2 or (growth > 1 and not pump.is_fanning_out):
                self._collect()

    def _when_at_rest(self, pump: Pump) -> None:
        self._timer = None
        left = self._last_run + REST - pump.loop.time()
        if left > 0 or pump.is_fanning_out:
            self._timer = pump.loop.call_later(max(left, REST / 5), self._when_at_rest, pump)
        else:
            self._collect()

    def _collect(self) -> None:
        if not self._stopped:
            gc.collect()
            self.collections += 1
            self._size = resident_bytes()


def resident_bytes() -> int:
    """The process's size in memory; its greatest so far where the system does not tell (macOS); 0 on Windows."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415  (not on Windows)

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
