"""Garbage collection around reruns.

Streamlit collects all generations after every run (``runner.postScriptGC``), and each such collection goes through
every object of the process. When sessions are rerun one after another that costs several times what the runs do. Two
ways out:

* `SettingAside`, the default, leaves Streamlit's collections alone and makes them cheap: when many sessions are due,
  all objects that there are then are set aside (`gc.freeze`), so that the collections of the fan-out go through what
  came after. When it is over they are put back.
* `Paced`, on request, takes the place of Streamlit's collections: one for many runs, when the server has come to rest
  or the process has grown.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastserverstate.rerun.rest import Companion

if TYPE_CHECKING:
    from fastserverstate.rerun.scheduler import Pump

# Grown: by this many bytes, or by this share of the size after the last collection if that is more.
GROWTH = 64 * 2**20
GROWTH_SHARE = 0.25

# How often the size is looked at, in seconds.
SIZE_CHECK = 0.1

# From so many sessions that are due at once it pays to set objects aside, and again after so many reruns.
MANY = 8
# CPython 3.12 starts with some hundred frozen objects. An app that freezes its own has tens of thousands.
FROZEN_BY_PYTHON = 1000
SET_ASIDE_AGAIN = 25


class Growth:
    """How much the process has grown since the last collection, in units of what is called grown."""

    def __init__(self) -> None:
        self._size = resident_bytes()
        self._checked = 0.0

    def collected(self) -> None:
        self._size = resident_bytes()

    def measure(self, now: float) -> float:
        """0 if it was measured a moment ago."""
        if now - self._checked < SIZE_CHECK:
            return 0.0
        self._checked = now
        return (resident_bytes() - self._size) / max(GROWTH, GROWTH_SHARE * self._size)


class Paced(Companion):
    """One collection for the runs that have ended since the last one.

    It happens at rest, or when the process has grown. In the latter case it waits for a fan-out that is going on, but
    not beyond twice the growth.
    """

    def __init__(self) -> None:
        super().__init__()
        self.collections = 0
        self._stopped = False
        self._growth = Growth()

    def run_ended(self, pump: Pump) -> None:
        self.keep_watch(pump)
        growth = self._growth.measure(pump.loop.time())
        if growth > 2 or (growth > 1 and not pump.is_fanning_out):
            self._collect()

    def at_rest(self) -> None:
        self._collect()

    def stop(self) -> None:
        self._stopped = True

    def _collect(self) -> None:
        if not self._stopped:
            gc.collect()
            self.collections += 1
            self._growth.collected()


class SettingAside(Companion):
    """Sets objects aside while many sessions are rerun, unless the app itself has frozen objects."""

    def __init__(self, collects_after_runs: Callable[[], bool]) -> None:
        super().__init__()
        self._collects_after_runs = collects_after_runs
        self._reruns = 0  # since the fan-out began; 0 when nothing is set aside
        self._growth = Growth()

    def admitted(self, pump: Pump) -> None:
        with self.lock:
            if self._reruns == 0:
                if pump.due < MANY or gc.get_freeze_count() > FROZEN_BY_PYTHON or not self._collects_after_runs():
                    return
                self._growth.collected()
            elif self._growth.measure(pump.loop.time()) > 1:
                # What became garbage while it was set aside: the collection after this run finds it.
                self.put_back()
                return
            if self._reruns % SET_ASIDE_AGAIN == 0:
                gc.freeze()
            self._reruns += 1
            self.keep_watch(pump)

    def run_ended(self, pump: Pump) -> None:
        if self._reruns:
            self.keep_watch(pump)

    def put_back(self) -> None:
        with self.lock:
            if self._reruns:
                gc.unfreeze()
                self._reruns = 0


def resident_bytes() -> int:
    """The process's size in memory; its greatest so far where the system does not tell (macOS); 0 on Windows."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415  (not on Windows)

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
