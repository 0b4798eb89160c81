"""The rerun queue of one event loop: admits a few reruns at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from fastserverstate.configuration import Settings
from fastserverstate.rerun.push import PushQueue
from fastserverstate.rerun.session import LiveSession, Readiness

# Seconds until a stale session that is running is tried again. The end of a run is reported, except if SystemExit has
# ended its thread in releases such as 1.37.
RUNNING_RETRY = 1.0

# Runs also wait, mostly for I/O. While more sessions are due, a check every BUSY_CHECK seconds doubles the number of
# admitted runs if the process used less than this share of the processors that its runs can keep busy. A check that is
# delayed by more than BUSY_LATENESS means that some other process keeps the processors busy.
BUSY_SHARE = 0.7
BUSY_CHECK = 0.005
BUSY_LATENESS = 0.002

# After this many seconds a run no longer counts as admitted: a script that never ends must not block the others.
LONG_RUN = 1.0


class RerunQueue:
    """The stale sessions of one event loop, oldest first.

    Thread-safety
        `call` is safe from any thread. The rest runs on the loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        warned: set[str],
        on_request: Callable[[Callable[[], bool]], None],
    ) -> None:
        self.loop = loop
        self._on_request = on_request
        self._settings = settings
        self._warned = warned
        self.pushes = PushQueue(loop, self.offer)
        self._queue: deque[LiveSession] = deque()
        self._admitted = 0
        self._busy_check: asyncio.TimerHandle | None = None
        self._next: asyncio.TimerHandle | None = None
        self._checked = (0.0, 0.0)  # wall and processor seconds at the last check

    @property
    def due(self) -> int:
        """Number of sessions that wait for a rerun."""
        return len(self._queue)

    def is_fanning_out(self) -> bool:
        """Whether sessions wait for a rerun, or are in one that this queue has requested."""
        return (bool(self._queue) or self._admitted > 0) and not self.loop.is_closed()

    def call(self, function: Callable[..., None], *args: object) -> bool:
        """Call the function on the event loop. Return False if the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            if self.loop.is_closed():
                return False
            raise
        return True

    def call_within(self, seconds: float, function: Callable[[], None]) -> None:
        """Call the function after this many seconds, unless it is scheduled for an earlier time."""
        at = self.loop.time() + seconds
        if self._next is not None and not self._next.cancelled() and self.loop.time() < self._next.when() <= at:
            return
        if self._next is not None:
            self._next.cancel()
        self._next = self.loop.call_at(at, function)

    def offer(self, live: LiveSession) -> None:
        """Add the session to the queue. It reruns when it is first, if it is stale then."""
        if not live.queued:
            live.queued = True
            self._queue.append(live)
            self._admit()

    def run_ended(self, live: LiveSession) -> None:
        if live.runner_ended:
            live.mark_own_writes()
        self.release(live)
        self.pushes.add(live)
        if live.stale_fragment_ids():
            self.offer(live)

    def release(self, live: LiveSession) -> None:
        """The session's run no longer counts as admitted."""
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
        """Admit more sessions if the admitted ones leave processors idle."""
        self._busy_check = None
        wall, processor = time.monotonic() - self._checked[0], time.process_time() - self._checked[1]
        if wall < BUSY_CHECK + BUSY_LATENESS and processor < BUSY_SHARE * self._settings.max_parallel_reruns * wall:
            for _ in range(min(self._admitted, len(self._queue))):
                self._rerun_next()
        self._admit()

    def _rerun_next(self) -> None:
        live = self._queue.popleft()
        live.queued = False
        readiness = live.adapter.readiness()
        retry = live.retry_after(readiness)
        if readiness is Readiness.GONE:
            live.close()
        elif retry is not None:
            self.loop.call_later(retry, self.offer, live)
        elif readiness is Readiness.RUNNING and not live.watched and live.stale_fragment_ids():
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
        self._on_request(self.is_fanning_out)
        live.requested_at = self.loop.time()
        live.request_rerun(fragment)
        if live.adapter.readiness() is Readiness.RUNNING:
            self._admitted += 1
            live.admitted = self.loop.call_later(LONG_RUN, self.release, live)
