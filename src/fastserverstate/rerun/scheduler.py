"""From stale scopes to reruns, a few at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from fastserverstate._core import Store
from fastserverstate.configuration import Settings
from fastserverstate.rerun.inplace import InPlaceWatch
from fastserverstate.rerun.rest import Companion
from fastserverstate.rerun.session import LiveSession, Readiness
from fastserverstate.rerun.turns import ShortTurns

# How soon to look again at a session whose last output has not left, or whose end is about to be noticed.
SENDING_RETRY = 0.005
ENDING_RETRY = 0.001

# How soon to look again at a session that is stale and running. The end of its run is reported, but not of one whose
# thread SystemExit has ended, in releases such as 1.37.
RUNNING_RETRY = 1.0

# Runs also wait, for I/O above all. While more sessions are due, twice as many are admitted each time that the process
# is found to have used less than this share of the processors that runs can keep busy. It is looked at every so many
# seconds. A look that comes too late by more than a part of that says that processors are short, whoever uses them.
BUSY_SHARE = 0.7
BUSY_CHECK = 0.005
BUSY_LATENESS = 0.002

# After this many seconds a run no longer counts: a script that never ends must not take the place of the others.
LONG_RUN = 1.0


class Scheduler:
    """Collects the stale scopes of the process and gives each to the pump of its session's event loop.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, settings: Settings, collector: Companion) -> None:
        self.collector = collector
        self._turns = ShortTurns()
        self._store = store
        self._settings = settings
        self._lock = threading.RLock()  # a finalizer may write shared state at any point
        self._pumps: dict[asyncio.AbstractEventLoop, Pump] = {}
        self._departed: deque[LiveSession] = deque()
        self._warned: set[str] = set()
        self.in_place = InPlaceWatch(store, self.is_busy)
        store.on_stale(self._wake)

    def reset_after_fork(self) -> None:
        """Forget the event loops: their threads belong to the parent process."""
        self._lock = threading.RLock()
        self._pumps = {}
        self._departed.clear()
        self.collector.reset_after_fork()
        self._turns.reset_after_fork()

    def is_busy(self) -> bool:
        """Whether sessions wait for a rerun."""
        with self._lock:
            return any(pump.due for pump in self._pumps.values())

    def adopt(self, live: LiveSession) -> None:
        """Take care of a new session."""
        loop = live.link.loop
        with self._lock:
            self._pumps = {known: pump for known, pump in self._pumps.items() if not known.is_closed()}
            pump = self._pumps.get(loop)
            if pump is None:
                pump = self._pumps[loop] = Pump(loop, self._settings, self._warned, self._turns.admitted)
                # An earlier loop may have been closed with a wake-up in it.
                pump.call(self._collect)
        live.pump = pump
        self.collector.session_began(pump)

    def retire(self, live: LiveSession) -> None:
        """Forget a session that is no more. May be called by the garbage collector, so the work is put off."""
        self._departed.append(live)
        if live.pump is None or not live.pump.call(self._bury):
            self._bury()

    def returned(self, live: LiveSession) -> None:
        """A session's connection is back; show it what it has missed."""
        if live.pump is not None:
            live.pump.call(live.pump.offer, live)

    def run_ended(self, live: LiveSession) -> None:
        """The session's runner is done. From the runner's thread."""
        if live.pump is not None:
            self.collector.run_ended(live.pump)
            live.pump.call(self._run_ended, live.pump, live)

    def _run_ended(self, pump: Pump, live: LiveSession) -> None:
        pump.run_ended(live)
        self._turns.run_ended(pump)

    def _bury(self) -> None:
        while self._departed:
            live = self._departed.popleft()
            if live.pump is not None:
                live.pump.release(live)
            live.close()

    def _wake(self) -> None:
        with self._lock:
            pumps = list(self._pumps.values())
        if not any(pump.call(self._collect) for pump in pumps):
            self._store.collect_stale()  # no loop is left to rerun anybody

    def _collect(self) -> None:
        here = asyncio.get_running_loop()
        left = self._store.release_outdated()
        if left is not None:
            self._pumps[here].call_within(left, self._collect)
        for scope in self._store.collect_stale():
            live = cast("LiveSession", scope.owner)
            if live.pump is None:
                continue
            if live.pump.loop is here:
                live.pump.offer(live)
            else:
                live.pump.call(live.pump.offer, live)


class Pump:
    """Reruns the stale sessions of one event loop, oldest first.

    Thread-safety
        `call` is safe from any thread. The rest runs on the loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        warned: set[str],
        on_admission: Callable[[Pump], None],
    ) -> None:
        self.loop = loop
        self._on_admission = on_admission
        self._settings = settings
        self._warned = warned
        self._queue: deque[LiveSession] = deque()
        self._admitted = 0
        self._busy_check: asyncio.TimerHandle | None = None
        self._next: asyncio.TimerHandle | None = None
        self._checked = (0.0, 0.0)  # wall and processor seconds at the last check

    @property
    def due(self) -> int:
        """How many sessions wait for a rerun."""
        return len(self._queue)

    @property
    def is_fanning_out(self) -> bool:
        """Whether sessions wait for a rerun, or are in one that was asked for here."""
        return bool(self._queue) or self._admitted > 0

    def call(self, function: Callable[..., None], *args: object) -> bool:
        """Have the loop call the function; False when the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            if self.loop.is_closed():
                return False
            raise
        return True

    def call_within(self, seconds: float, function: Callable[[], None]) -> None:
        """Call the function after so many seconds, or earlier if it is to be called then."""
        at = self.loop.time() + seconds
        if self._next is not None and not self._next.cancelled() and self.loop.time() < self._next.when() <= at:
            return
        if self._next is not None:
            self._next.cancel()
        self._next = self.loop.call_at(at, function)

    def offer(self, live: LiveSession) -> None:
        """Rerun the session when its turn comes, if it is stale then."""
        if not live.queued:
            live.queued = True
            self._queue.append(live)
            self._admit()

    def run_ended(self, live: LiveSession) -> None:
        if live.runner_ended:
            live.settle()
        self.release(live)
        if live.stale_parts():
            self.offer(live)

    def release(self, live: LiveSession) -> None:
        """The session's run no longer counts."""
        if live.admitted is not None:
            live.admitted.cancel()
            live.admitted = None
            self._admitted -= 1
            self._admit()

    def _admit(self) -> None:
        while self._queue and self._admitted < self._settings.max_parallel_reruns:
            self._rerun_next()
        if self._queue and self._busy_check is None:
            self._checked = time.monotonic(), time.process_time()
            self._busy_check = self.loop.call_later(BUSY_CHECK, self._check_busy)

    def _check_busy(self) -> None:
        """Admit more if those that were admitted leave processors idle."""
        self._busy_check = None
        wall, processor = time.monotonic() - self._checked[0], time.process_time() - self._checked[1]
        if wall < BUSY_CHECK + BUSY_LATENESS and processor < BUSY_SHARE * self._settings.max_parallel_reruns * wall:
            for _ in range(min(self._admitted, len(self._queue))):
                self._rerun_next()
        self._admit()

    def _rerun_next(self) -> None:
        live = self._queue.popleft()
        live.queued = False
        readiness = live.link.readiness()
        if readiness is Readiness.GONE:
            live.close()
        elif readiness is Readiness.SENDING:
            self.loop.call_later(SENDING_RETRY, self.offer, live)
        elif readiness is Readiness.RUNNING and live.runner_ended:
            self.loop.call_later(ENDING_RETRY, self.offer, live)
        elif readiness is Readiness.RUNNING and not live.watched and live.stale_parts():
            live.watched = True
            self.loop.call_later(RUNNING_RETRY, self._look_again, live)
        elif readiness is Readiness.READY:
            rest = live.requested_at + self._settings.min_rerun_interval - self.loop.time()
            if rest > 0:
                self.loop.call_later(rest, self.offer, live)
            else:
                self._rerun(live)

    def _look_again(self, live: LiveSession) -> None:
        live.watched = False
        self.offer(live)

    def _rerun(self, live: LiveSession) -> None:
        stale, fragment = live.stale_fragment_or_body(self._warned)
        if not stale:
            return
        self._on_admission(self)
        live.requested_at = self.loop.time()
        live.request_rerun(fragment)
        if live.link.readiness() is Readiness.RUNNING:
            self._admitted += 1
            live.admitted = self.loop.call_later(LONG_RUN, self.release, live)
