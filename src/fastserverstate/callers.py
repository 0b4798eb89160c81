"""Threads that call listeners where the thread that changes a key cannot: it follows the log or runs an event loop."""

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
        Safe from any thread. It takes no lock, for a finalizer may interrupt any of it, and wait. A key may come up
        more often than needed: the thread that notes it first in `_calling` has it, and looks again afterwards.
    """

    def __init__(self, call: Callable[[str], object]) -> None:
        self._call = call
        self._ready: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # keys that came up
        self._due: set[str] = set()
        self._calling: dict[str, object] = {}
        self._spare = [None] * MOST_THREADS  # one for each thread that may be started

    def add(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._due:
                self._due.add(key)
                if key not in self._calling:
                    self._ready.put(key)
        self._start()

    def _start(self) -> None:
        """Start a thread for each key that no thread is free for."""
        while self._ready.qsize() + len(self._calling) + len(self._spare) > MOST_THREADS and self._spare:
            try:
                self._spare.pop()
                threading.Thread(target=self._run, name="fastserverstate.on_change", daemon=True).start()
            except IndexError:
                return
            except RuntimeError as error:  # as many as the system allows, or the process ends
                self._spare.append(None)
                logger.warning("Listeners of server_state are called later, for want of a thread: %s", error)
                return

    def _run(self) -> None:
        try:
            while (key := self._ready.get(timeout=LINGER)) is not None:
                self._call_alone(key)
        except queue.Empty:
            pass
        self._spare.append(None)
        self._start()  # for what came up since

    def _call_alone(self, key: str) -> None:
        mine = object()
        if self._calling.setdefault(key, mine) is not mine:
            return
        try:
            if key in self._due:
                self._due.discard(key)  # what comes from now on may be missed by this call
                self._call(key)
        except BaseException:  # the core has logged what a listener raised; this is something else
            logger.exception("Calling the listeners of server_state[%r] has failed.", key)
        finally:
            del self._calling[key]
            if key in self._due:
                self._ready.put(key)

    def close(self) -> None:
        """Let the threads end that have nothing to do."""
        for _ in range(MOST_THREADS - len(self._spare)):
            self._ready.put(None)
