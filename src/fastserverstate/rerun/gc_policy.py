"""Garbage collection around script runs.

Streamlit runs a full collection after every run (``runner.postScriptGC``). Each of them traverses every object of the
process: modules, caches and the sessions of all users. It costs several times what most runs do, and delays their
output. Two policies avoid that:

* `FreezeSurvivors`, the default, keeps Streamlit's collections and makes them cheap: objects that exist when the first
  session begins, and objects that survive a collection, are frozen (`gc.freeze`), so that later collections traverse
  only newer objects. Now and then all objects are unfrozen for one collection.
* `PacedCollection`, on request, replaces Streamlit's collections: one for many runs, when the server is idle or the
  process has grown.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fastserverstate.configuration import has_gil
from fastserverstate.rerun.observer import RunObserver

# A process has grown if it gained this many bytes, or this share of its size after the last collection if that is more.
GROWTH = 64 * 2**20
GROWTH_SHARE = 0.25

# Seconds between two measurements of the size.
SIZE_CHECK = 0.1

# All objects are unfrozen, so that the next collection traverses them, after this many runs, when the process has
# grown, and when the server is idle after enough runs to make that worth it.
RUNS_FROZEN = 2000
RUNS_BEFORE_IDLE = 20
IDLE_AFTER = 5.0  # seconds

# CPython 3.12 starts with some hundred frozen objects. An app that freezes its own has tens of thousands.
FROZEN_BY_PYTHON = 1000
# Freezing takes no time with the GIL. Without it, it traverses all objects.
RUNS_WITHOUT_GIL = 25


class Growth:
    """Growth of the process since the last collection; 1 is as much as counts as grown."""

    def __init__(self) -> None:
        self._size = resident_bytes()
        self._checked = 0.0

    def collected(self) -> None:
        give_back_memory()
        self._size = resident_bytes()

    def measure(self) -> float:
        """Return the growth, or 0 if it was measured a moment ago."""
        now = time.monotonic()
        if now - self._checked < SIZE_CHECK:
            return 0.0
        self._checked = now
        return (resident_bytes() - self._size) / max(GROWTH, GROWTH_SHARE * self._size)


class PacedCollection(RunObserver):
    """One collection for all runs that have ended since the last one.

    It happens when the server is idle or the process has grown. In the latter case it waits for the end of a fan-out,
    but no longer than until the process has grown by twice as much.
    """

    def __init__(self) -> None:
        super().__init__()
        self.collections = 0
        self._stopped = False
        self._growth = Growth()

    def run_ended(self, is_fanning_out: Callable[[], bool]) -> None:
        self.restart_idle_timer(is_fanning_out)
        growth = self._growth.measure()
        if growth > 2 or (growth > 1 and not is_fanning_out()):
            self._collect()

    def on_idle(self) -> None:
        self._collect()

    def stop(self) -> None:
        self._stopped = True

    def _collect(self) -> None:
        if not self._stopped:
            gc.collect()
            self.collections += 1
            self._growth.collected()


class FreezeSurvivors(RunObserver):
    """Freezes objects that have survived a collection, unless the app itself has frozen objects."""

    idle_after = IDLE_AFTER

    def __init__(self, collects_after_runs: Callable[[], bool]) -> None:
        super().__init__()
        self._collects_after_runs = collects_after_runs
        self._growth = Growth()
        self._runs = 0  # since all objects were traversed; 0 when nothing is frozen
        self._step = 1 if has_gil() else RUNS_WITHOUT_GIL
        self._unfrozen_at: int | None = None  # number of full collections then, until there was another one
        self._witness: object = None  # made after the last freeze, so it is frozen only if the app freezes too
        self._left_to_app = False

    def session_began(self, is_fanning_out: Callable[[], bool]) -> None:
        """Spare the first runs collections that traverse everything that was imported for them."""
        with self.lock:
            is_first = self._runs == 0 and self._unfrozen_at is None
            if is_first and self._collects_after_runs() and not self._is_left_to_app():
                self._freeze()
                self._runs = RUNS_BEFORE_IDLE  # no collection has traversed them: the first idle time has to
                self.restart_idle_timer(is_fanning_out)

    def run_ended(self, is_fanning_out: Callable[[], bool]) -> None:
        with self.lock:
            if not self._collects_after_runs():
                self.restore()
                return
            if self._unfrozen_at is not None:
                if _full_collections() == self._unfrozen_at:
                    return
                self._unfrozen_at = None
                self._growth.collected()
            elif self._is_left_to_app():
                return
            elif self._runs == 0:
                self._growth.collected()
            elif self._runs >= RUNS_FROZEN or self._growth.measure() > 1:
                self._unfreeze()
                self._unfrozen_at = _full_collections()
                return
            if self._runs % self._step == 0:
                self._freeze()
            self._runs += 1
            self.restart_idle_timer(is_fanning_out)

    def _is_left_to_app(self) -> bool:
        """Whether the app itself has frozen objects. From then on, this policy unfreezes none."""
        if not self._left_to_app:
            if self._witness is None:
                self._left_to_app = gc.get_freeze_count() > FROZEN_BY_PYTHON
            elif has_gil():  # else there is one generation, and listing it takes as long as a collection
                self._left_to_app = not _is_in_a_generation(self._witness)
            if self._left_to_app:
                self._runs = 0
        return self._left_to_app

    def _freeze(self) -> None:
        gc.freeze()
        self._witness = []

    def _unfreeze(self) -> None:
        gc.unfreeze()
        self._runs = 0
        self._witness = None

    def on_idle(self) -> None:
        if self._runs >= RUNS_BEFORE_IDLE and not self._is_left_to_app():
            self._unfreeze()
            gc.collect()
            self._freeze()
            self._growth.collected()
            self._runs = 1

    def restore(self) -> None:
        with self.lock:
            if self._runs and not self._is_left_to_app():
                self._unfreeze()


def _is_in_a_generation(wanted: object) -> bool:
    """Whether collections traverse the object: not if it is frozen."""
    return any(known is wanted for generation in (2, 1, 0) for known in gc.get_objects(generation))


def _full_collections() -> int:
    return int(gc.get_stats()[-1]["collections"])


def give_back_memory() -> None:
    """Return freed memory to the system where the C library keeps it (glibc): what it keeps would hide growth."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def resident_bytes() -> int:
    """The process's size in memory; its greatest so far where the system does not tell (macOS); 0 on Windows."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415  (not on Windows)

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
