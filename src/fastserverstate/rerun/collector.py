"""Garbage collection around runs.

Streamlit collects all generations after every run (``runner.postScriptGC``), and each such collection goes through
every object of the process: modules, caches and the sessions of all users. That costs several times what most runs do,
and keeps their output from leaving. Two ways out:

* `SettingAside`, the default, leaves Streamlit's collections alone and makes them cheap: what is there when the first
  session begins, and what has survived a collection, is set aside (`gc.freeze`), so that the next one goes through what
  came after. Now and then all of it is put back.
* `Paced`, on request, takes the place of Streamlit's collections: one for many runs, when the server has come to rest
  or the process has grown.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fastserverstate.configuration import GcPolicy, has_gil
from fastserverstate.rerun.rest import Companion

if TYPE_CHECKING:
    from fastserverstate.rerun.scheduler import Pump, Scheduler

# Grown: by this many bytes, or by this share of the size after the last collection if that is more.
GROWTH = 64 * 2**20
GROWTH_SHARE = 0.25

# How often the size is looked at, in seconds.
SIZE_CHECK = 0.1

# What was set aside is put back, so that the next collection goes through all, after so many runs; when the process has
# grown; and at rest, if there were this many runs.
RUNS_SET_ASIDE = 2000
RUNS_BEFORE_REST = 20
LONG_REST = 5.0  # seconds

# CPython 3.12 starts with some hundred frozen objects. An app that freezes its own has tens of thousands.
FROZEN_BY_PYTHON = 1000
# Setting aside takes no time with the GIL, and goes through all objects without it.
RUNS_WITHOUT_GIL = 25


class Growth:
    """How much the process has grown since the last collection, in units of what is called grown."""

    def __init__(self) -> None:
        self._size = resident_bytes()
        self._checked = 0.0

    def collected(self) -> None:
        give_back_memory()
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
    """Sets aside what has survived a collection, unless the app itself has frozen objects."""

    rest = LONG_REST

    def __init__(self, collects_after_runs: Callable[[], bool]) -> None:
        super().__init__()
        self._collects_after_runs = collects_after_runs
        self._growth = Growth()
        self._runs = 0  # since all objects were gone through; 0 when nothing is set aside
        self._step = 1 if has_gil() else RUNS_WITHOUT_GIL
        self._put_back_at: int | None = None  # number of full collections then, until there was another one
        self._witness: object = None  # made after the last freeze, so it is frozen only if the app freezes too
        self._left_to_app = False

    def session_began(self, pump: Pump) -> None:
        """Spare the first runs the collections of all that was imported for them."""
        with self.lock:
            is_first = self._runs == 0 and self._put_back_at is None
            if is_first and self._collects_after_runs() and not self._is_left_to_app():
                self._set_aside()
                self._runs = RUNS_BEFORE_REST  # no collection has gone through it: the first rest has to
                self.keep_watch(pump)

    def run_ended(self, pump: Pump) -> None:
        with self.lock:
            if not self._collects_after_runs():
                self.put_back()
                return
            if self._put_back_at is not None:
                if _full_collections() == self._put_back_at:
                    return
                self._put_back_at = None
                self._growth.collected()
            elif self._is_left_to_app():
                return
            elif self._runs == 0:
                self._growth.collected()
            elif self._runs >= RUNS_SET_ASIDE or self._growth.measure(pump.loop.time()) > 1:
                self.put_back()
                self._put_back_at = _full_collections()
                return
            if self._runs % self._step == 0:
                self._set_aside()
            self._runs += 1
            self.keep_watch(pump)

    def _is_left_to_app(self) -> bool:
        """Whether the app itself has frozen objects. From then on, none of them are put back."""
        if not self._left_to_app:
            if self._witness is None:
                self._left_to_app = gc.get_freeze_count() > FROZEN_BY_PYTHON
            elif has_gil():  # else there is one generation, and going through it takes as long as a collection
                self._left_to_app = not _is_in_a_generation(self._witness)
            if self._left_to_app:
                self._runs = 0
        return self._left_to_app

    def _set_aside(self) -> None:
        gc.freeze()
        self._witness = []

    def at_rest(self) -> None:
        if self._runs >= RUNS_BEFORE_REST and not self._is_left_to_app():
            self.put_back()
            gc.collect()
            self._set_aside()
            self._growth.collected()
            self._runs = 1

    def put_back(self) -> None:
        with self.lock:
            if self._runs and not self._is_left_to_app():
                gc.unfreeze()
                self._runs = 0
                self._witness = None


class PostScriptGC(Protocol):
    """Streamlit's option to collect garbage after every run."""

    def is_on(self) -> bool: ...

    def switch_off(self) -> None: ...

    def restore(self) -> None: ...


class GcSwitch:
    """Switches a scheduler between the two ways."""

    def __init__(self, scheduler: Scheduler, post_script_gc: PostScriptGC) -> None:
        self._scheduler = scheduler
        self._post_script_gc = post_script_gc

    def set(self, policy: GcPolicy) -> None:
        if policy == "paced" and not isinstance(self._scheduler.collector, Paced):
            self._scheduler.collector.stop()
            self._post_script_gc.switch_off()
            self._scheduler.collector = Paced()
        elif policy == "streamlit" and not isinstance(self._scheduler.collector, SettingAside):
            self._scheduler.collector.stop()
            self._post_script_gc.restore()
            self._scheduler.collector = SettingAside(self._post_script_gc.is_on)


def _is_in_a_generation(wanted: object) -> bool:
    """Whether collections go through the object: not if it is frozen."""
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
