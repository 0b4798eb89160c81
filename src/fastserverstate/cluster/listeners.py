"""Threads that call listeners, so that the log can be followed meanwhile."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable

logger = logging.getLogger("fastserverstate")

MOST_THREADS = 16
LINGER = 5.0  # seconds that a thread waits for more


class Callers:
    """Calls that are due for keys: those of one key one after the other, those of different keys side by side.

    A key that is due already stays due once, so a slow listener makes nothing grow. The threads are daemons: none keeps
    the process from ending.

    Thread-safety
        Safe from any thread. Its lock is re-entrant, for a finalizer may interrupt any of it.
    """

    def __init__(self, call: Callable[[str], object]) -> None:
        self._call = call
        self._lock = threading.RLock()
        self._ready: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # due, and not being called
        self._due: set[str] = set()
        self._calling: set[str] = set()
        self._threads = 0

    def add(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                if key not in self._due:
                    self._due.add(key)
                    if key not in self._calling:
                        self._ready.put(key)
            missing = min(len(self._calling) + self._ready.qsize(), MOST_THREADS) - self._threads
            self._threads += max(0, missing)
        for _ in range(missing):
            try:
                threading.Thread(target=self._run, name="fastserverstate.cluster.on_change", daemon=True).start()
            except RuntimeError as error:  # as many as the system allows, or the process ends
                with self._lock:
                    self._threads -= 1
                logger.warning("Listeners of server_state are called later, for want of a thread: %s", error)

    def _run(self) -> None:
        while (key := self._next()) is not None:
            try:
                self._call(key)
            except BaseException:  # the core has logged what a listener raised; this is something else
                logger.exception("Calling the listeners of server_state[%r] has failed.", key)
            finally:
                self._has_called(key)

    def _next(self) -> str | None:
        """A key to call the listeners of; None if the thread is not needed any more."""
        while True:
            try:
                key = self._ready.get(timeout=LINGER)
            except queue.Empty:
                key = None
            with self._lock:
                if key is not None:
                    self._calling.add(key)
                    self._due.discard(key)  # what comes from now on may be missed by this call
                    return key
                if self._ready.empty():
                    self._threads -= 1
                    return None

    def _has_called(self, key: str) -> None:
        with self._lock:
            self._calling.discard(key)
            if key in self._due:
                self._ready.put(key)

    def close(self) -> None:
        """Let the threads end that have nothing to do."""
        with self._lock:
            for _ in range(self._threads):
                self._ready.put(None)
