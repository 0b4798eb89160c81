"""From stale scopes to the rerun queues of their event loops."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from fastserverstate._core import Node, Store
from fastserverstate.configuration import GcPolicy, Settings
from fastserverstate.rerun.gc_policy import FreezeSurvivors, PacedCollection
from fastserverstate.rerun.inplace import InPlaceWatch
from fastserverstate.rerun.notices import Notices
from fastserverstate.rerun.observer import RunObserver
from fastserverstate.rerun.rerun_queue import RerunQueue
from fastserverstate.rerun.session import LiveSession
from fastserverstate.rerun.switch_interval import SwitchInterval
from fastserverstate.rerun.viewers import Region


class PostScriptGC(Protocol):
    """Streamlit's option to collect garbage after every run."""

    def is_on(self) -> bool: ...

    def switch_off(self) -> None: ...

    def restore(self) -> None: ...


class Scheduler:
    """Collects the stale scopes of the process and passes each to the rerun queue of its session's event loop.

    Thread-safety
        Safe from any thread.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        post_script_gc: PostScriptGC,
        collected: Callable[[Sequence[Node]], None] = lambda _: None,
    ) -> None:
        self._collected = collected
        self.notices = Notices()
        self.gc_policy: RunObserver = FreezeSurvivors(post_script_gc.is_on)
        self._post_script_gc = post_script_gc
        self._switch_interval = SwitchInterval()
        self._store = store
        self._settings = settings
        self._lock = threading.RLock()  # a finalizer may write shared state at any point
        self._queues: dict[asyncio.AbstractEventLoop, RerunQueue] = {}
        self._departed: deque[LiveSession] = deque()
        self._warned: set[str] = set()
        self.in_place = InPlaceWatch(store, self.is_busy)
        store.on_stale(self._wake)

    def reset_after_fork(self) -> None:
        """Forget the event loops: their threads belong to the parent process."""
        self._lock = threading.RLock()
        self._queues = {}
        self._departed.clear()
        self.notices.reset_after_fork()
        self.gc_policy.reset_after_fork()
        self._switch_interval.reset_after_fork()

    def set_gc_policy(self, policy: GcPolicy) -> None:
        if policy == "paced" and not isinstance(self.gc_policy, PacedCollection):
            self.gc_policy.stop()
            self._post_script_gc.switch_off()
            self.gc_policy = PacedCollection()
        elif policy == "streamlit" and not isinstance(self.gc_policy, FreezeSurvivors):
            self.gc_policy.stop()
            self._post_script_gc.restore()
            self.gc_policy = FreezeSurvivors(self._post_script_gc.is_on)

    def is_busy(self) -> bool:
        """Whether sessions wait for a rerun."""
        with self._lock:
            return any(queue.due for queue in self._queues.values())

    def adopt(self, live: LiveSession) -> None:
        """Rerun a new session from now on."""
        loop = live.adapter.loop
        with self._lock:
            closed = [queue for known, queue in self._queues.items() if known.is_closed()]
            self._queues = {known: queue for known, queue in self._queues.items() if not known.is_closed()}
            queue = self._queues.get(loop)
            if queue is None:
                on_request = self._switch_interval.rerun_requested
                queue = self._queues[loop] = RerunQueue(loop, self._settings, self._warned, on_request)
                # An earlier loop may have been closed before it ran a wake-up.
                queue.call(self._collect)
        for left in closed:
            left.pushes.abandon()
        self.gc_policy.session_began(queue.is_fanning_out)

    def retire(self, live: LiveSession) -> None:
        """Forget a closed session. The garbage collector may call this, so the loop does the work."""
        self._departed.append(live)
        queue = self._queue_of(live)
        if queue is None or not queue.call(self._bury):
            self._bury()

    def returned(self, live: LiveSession) -> None:
        """The session is connected again: show it the changes that it has missed."""
        queue = self._queue_of(live)
        if queue is not None:
            live.returned()
            queue.call(queue.offer, live)
            queue.call(queue.pushes.add, live)

    def push(self, region: Region) -> None:
        """Push the newest rendering of a live region to all sessions that show it."""
        sessions: dict[RerunQueue, set[LiveSession]] = {}
        for viewer in list(region.viewers):
            queue = self._queue_of(viewer.live)
            if queue is not None:
                sessions.setdefault(queue, set()).add(viewer.live)
        region.is_sent_by(len(sessions))
        for queue, lives in sessions.items():
            self._switch_interval.rerun_requested(queue.is_fanning_out)
            queue.pushes.announce(region)
            if not queue.call(queue.pushes.push, region, lives):
                queue.pushes.abandon()

    def show_notices(self, live: LiveSession) -> None:
        """Show the notices that the session has not shown."""
        queue = self._queue_of(live)
        if queue is not None:
            queue.call(queue.pushes.add, live)

    def run_ended(self, live: LiveSession) -> None:
        """The session's runner is done. Called on the runner's thread."""
        queue = self._queue_of(live)
        if queue is not None:
            self.gc_policy.run_ended(queue.is_fanning_out)
            queue.call(self._run_ended, queue, live)

    def _run_ended(self, queue: RerunQueue, live: LiveSession) -> None:
        queue.run_ended(live)
        self._switch_interval.run_ended(queue.is_fanning_out)

    def _queue_of(self, live: LiveSession) -> RerunQueue | None:
        return self._queues.get(live.adapter.loop)

    def _bury(self) -> None:
        while self._departed:
            live = self._departed.popleft()
            queue = self._queue_of(live)
            if queue is not None:
                queue.release(live)
            live.close()

    def _wake(self) -> None:
        with self._lock:
            queues = list(self._queues.values())
        if not any(queue.call(self._collect) for queue in queues):
            self._collect_nodes()  # no loop is left that could rerun a session

    def _collect_nodes(self) -> list[LiveSession]:
        """Pass stale computed values to the evaluator. Return the sessions with stale scopes."""
        sessions = [scope.session for scope in self._store.collect_stale()]
        nodes = [session for session in sessions if isinstance(session, Node)]
        if nodes:
            self._collected(nodes)
        return [session for session in sessions if isinstance(session, LiveSession)]

    def _collect(self) -> None:
        here = asyncio.get_running_loop()
        left = self._store.release_throttled()
        if left is not None:
            self._queues[here].call_within(left, self._collect)
        for live in self._collect_nodes():
            queue = self._queue_of(live)
            if queue is None:
                continue
            if queue.loop is here:
                queue.offer(live)
            else:
                queue.call(queue.offer, live)
