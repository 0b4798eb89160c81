"""An event for code that a finalizer may interrupt.

A finalizer may run at any allocation of any thread and use the state, so it may call the method that it has
interrupted. `threading.Event` has a lock that is not re-entrant, so such a call would wait forever.
"""

from __future__ import annotations

import queue


class Event:
    """Like `threading.Event`, but re-entrant. A token in a queue wakes one waiter, which puts it back for the next.

    Thread-safety
        Safe from any thread. Call `clear` only from a thread that is the only waiter.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            self._tokens.put(None)

    def clear(self) -> None:
        self._is_set = False
        while not self._tokens.empty():
            self._take(0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for `timeout` seconds at most. Returns True if the event is set."""
        if not self._is_set and self._take(timeout):
            self._tokens.put(None)
            return True
        return self._is_set

    def _take(self, timeout: float | None) -> bool:
        try:
            self._tokens.get(timeout=timeout)
        except queue.Empty:
            return False
        return True
