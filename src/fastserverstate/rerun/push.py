"""Pushes to sessions, without running their scripts: new renderings of live regions that they show, and notices.

A session is pushed to while no script of it runs and all messages of its last run were sent. Otherwise it is brought up
to date when that is so. A session whose connection is slow gets the newest rendering once it has received the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Collection

from fastserverstate.rerun.notices import Notice
from fastserverstate.rerun.session import LiveSession, Readiness
from fastserverstate.rerun.viewers import Region, Viewer

logger = logging.getLogger("fastserverstate")

# Seconds until a session with a slow connection is tried again.
SLOW_RETRY = 0.05

# Seconds until a running session that has to show notices is tried again. The end of a run is reported, except if the
# run was ending when the first notice came, in a session that has not used shared state.
RUNNING_RETRY = 1.0

# Sessions that are pushed to before the event loop serves others. After BURST seconds in a row, it rests as long as
# each of the batches took: a click anywhere should not have to wait for thousands of sessions.
BATCH = 20
BURST = 0.02


class PushQueue:
    """Sessions of one event loop that are to be pushed to.

    Thread-safety
        To be used on the loop, except for `announce` and `abandon`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, offer: Callable[[LiveSession], None]) -> None:
        self._loop = loop
        self._offer = offer  # for a rerun
        self._queue: deque[LiveSession] = deque()
        self._announced: deque[Region] = deque()
        self._regions: deque[Region] = deque()
        self._is_running = False
        self._rested_at = 0.0

    def announce(self, region: Region) -> None:
        """`push` is about to be called for the region."""
        self._announced.append(region)

    def push(self, region: Region, sessions: Collection[LiveSession]) -> None:
        """Push the newest rendering of an announced region to these sessions."""
        self._announced.remove(region)
        self._regions.append(region)
        for live in sessions:
            self._enqueue(live)
        self._start()

    def add(self, live: LiveSession) -> None:
        """Push to the session what it does not show yet, if anything."""
        self._enqueue(live)
        self._start()

    def _enqueue(self, live: LiveSession) -> None:
        if not live.is_push_due:
            live.is_push_due = True
            self._queue.append(live)

    def _start(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._rested_at = self._loop.time()
            self._run()

    def _run(self) -> None:
        began = self._loop.time()
        for _ in range(min(BATCH, len(self._queue))):
            live = self._queue.popleft()
            live.is_push_due = False
            try:
                self._push_to(live)
            except Exception:  # one session, or one region, must not keep the others from being pushed to
                logger.exception("A live region or a notice could not be pushed to %r.", live)
        now = self._loop.time()
        if not self._queue:
            self._is_running = False
            _release(self._regions)
        elif now - self._rested_at < BURST:
            self._loop.call_soon(self._run)
        else:
            self._loop.call_later(now - began, self._run)

    def abandon(self) -> None:
        """The loop was closed. Its regions wait no longer until it has sent their renderings."""
        _release(self._announced)
        _release(self._regions)

    def _push_to(self, live: LiveSession) -> None:
        outdated = live.viewers.outdated()
        notices = live.unseen.due()
        if not (outdated or notices):
            return
        readiness = live.adapter.readiness()
        retry = live.retry_after(readiness)
        if readiness is Readiness.GONE:
            live.close()
        elif retry is not None:
            self._loop.call_later(retry, self.add, live)
        elif readiness is Readiness.READY:
            lost = {viewer.fragment_id for viewer in outdated if viewer.is_lost}
            for fragment_id in lost:
                live.mark_stale(fragment_id)
            if lost:
                self._offer(live)  # what the run does not show is pushed when it has ended
                return
            if outdated:
                self._write(live, outdated)
            if notices:
                self._show(live, notices)
        elif readiness is Readiness.RUNNING and notices and not live.unseen.is_watched:
            live.unseen.is_watched = True
            self._loop.call_later(RUNNING_RETRY, self._look_again, live)

    def _look_again(self, live: LiveSession) -> None:
        live.unseen.is_watched = False
        self.add(live)

    def _show(self, live: LiveSession, notices: list[Notice]) -> None:
        if live.adapter.show(notices):
            live.unseen.shown(notices)
        else:
            self._loop.call_later(SLOW_RETRY, self.add, live)

    def _write(self, live: LiveSession, outdated: list[Viewer]) -> None:
        newest = [(viewer, viewer.region.rendering) for viewer in outdated]
        payloads = [
            payload for viewer, rendering in newest for payload in rendering.payloads_since(viewer.shown, viewer.place)
        ]
        if not live.adapter.push(payloads):
            self._loop.call_later(SLOW_RETRY, self.add, live)
            return
        for viewer, rendering in newest:
            viewer.shown = rendering
            viewer.is_pushed = True


def _release(regions: deque[Region]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            regions.popleft().was_sent()
