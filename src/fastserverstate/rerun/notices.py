"""What `broadcast` shows in sessions without a run of theirs."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable


class Notice:
    """An element, as serialized bytes, that sessions show until a time on the monotonic clock."""

    def __init__(self, number: int, element: bytes, ends_at: float) -> None:
        self.number = number
        self.element = element
        self.ends_at = ends_at


class Notices:
    """The notices of the process that have not ended, oldest first.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._kept: deque[Notice] = deque()
        self.last = 0
        """The number of the last notice."""

    def add(self, element: bytes, seconds: float) -> None:
        """Add a notice that ends after this many seconds."""
        with self._lock:
            while self._kept and self._kept[0].ends_at <= self.clock():
                self._kept.popleft()
            notice = Notice(next(self._numbers), element, self.clock() + seconds)
            self._kept.append(notice)
            self.last = notice.number

    def after(self, number: int) -> list[Notice]:
        """Return the later notices than this one."""
        if number >= self.last:
            return []
        with self._lock:
            return [notice for notice in self._kept if notice.number > number and notice.ends_at > self.clock()]


class Unseen:
    """The notices that a session has not shown yet. Used on its event loop."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._seen = notices.last
        self._again: list[Notice] = []
        self.is_watched = False  # the queue tries the session again, in case the end of its run is not reported

    def since(self, number: int) -> None:
        """The session has shown the notices up to this one."""
        self._seen = number

    def now(self) -> float:
        return self._notices.clock()

    def due(self) -> list[Notice]:
        """Return the notices to show, oldest first."""
        if not self._again:
            return self._notices.after(self._seen)
        now = self._notices.clock()
        return [notice for notice in self._again if notice.ends_at > now] + self._notices.after(self._seen)

    def shown(self, notices: list[Notice]) -> None:
        self._again = []
        self._seen = max(self._seen, notices[-1].number)

    def removed(self, notices: list[Notice]) -> None:
        """The browser has removed notices too early."""
        self._again = notices
