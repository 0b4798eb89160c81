"""From stale scopes to reruns, a few at a time."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import cast

from fastserverstate._core import Store
from fastserverstate.rerun.session import LiveSession, Readiness

# Only one thread at a time makes progress under the GIL, but a run also waits: for its thread to start, for I/O. So the
# next session may start when the one before has ended or after this many seconds.
SLICE = 0.005

# How soon to look again at a session whose last output has not left, or whose end is about to be noticed.
SENDING_RETRY = 0.005
ENDING_RETRY = 0.001


class Scheduler:
    """Collects the stale scopes of the process and gives each to the pump of its session's event loop.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pumps: dict[asyncio.AbstractEventLoop, Pump] = {}
        self._departed: deque[LiveSession] = deque()
        self._warned: set[str] = set()
        store.on_stale(self._wake)

    def adopt(self, live: LiveSession) -> None:
        """Take care of a new session."""
        loop = live.link.loop
        with self._lock:
            self._pumps = {known: pump for known, pump in self._pumps.items() if not known.is_closed()}
            pump = self._pumps.get(loop)
            if pump is None:
                pump = self._pumps[loop] = Pump(loop, self._warned)
                # An earlier loop may have been closed with a wake-up in it.
                pump.call(self._collect)
        live.pump = pump

    def retire(self, live: LiveSession) -> None:
        """Forget a session that is no more. May be called by the garbage collector, so the work is put off."""
        self._departed.append(live)
        if live.pump is None or not live.pump.call(self._bury):
            self._bury()

    def run_ended(self, live: LiveSession) -> None:
        if live.pump is not None:
            live.pump.call(live.pump.run_ended, live)

    def returned(self, live: LiveSession) -> None:
        """A session's connection is back; show it what it has missed."""
        if live.pump is not None:
            live.pump.call(live.pump.offer, live)

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

    def __init__(self, loop: asyncio.AbstractEventLoop, warned: set[str]) -> None:
        self.loop = loop
        self._warned = warned
        self._queue: deque[LiveSession] = deque()
        self._places = 1

    def call(self, function: Callable[..., None], *args: object) -> bool:
        """Have the loop call the function; False when the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            if self.loop.is_closed():
                return False
            raise
        return True

    def offer(self, live: LiveSession) -> None:
        """Rerun the session when its turn comes, if it is stale then."""
        if not live.queued:
            live.queued = True
            self._queue.append(live)
            self._admit()

    def run_ended(self, live: LiveSession) -> None:
        if live.runner_ended:
            live.settle(self._warned)
        self.release(live)
        if live.stale_parts():
            self.offer(live)

    def release(self, live: LiveSession) -> None:
        """Give the session's place to the next one."""
        if live.admitted is not None:
            live.admitted.cancel()
            live.admitted = None
            self._places += 1
            self._admit()

    def _admit(self) -> None:
        while self._places and self._queue:
            live = self._queue.popleft()
            live.queued = False
            self._rerun(live)

    def _rerun(self, live: LiveSession) -> None:
        readiness = live.link.readiness()
        if readiness is Readiness.GONE:
            live.close()
        elif readiness is Readiness.RUNNING and live.runner_ended:
            self.loop.call_later(ENDING_RETRY, self.offer, live)
        elif readiness is Readiness.SENDING:
            self.loop.call_later(SENDING_RETRY, self.offer, live)
        elif readiness is Readiness.READY:
            stale, fragment = live.stale_fragment_or_body()
            if stale:
                self._places -= 1
                live.admitted = self.loop.call_later(SLICE, self.release, live)
                live.request_rerun(fragment)
