"""An event for code that a finalizer may interrupt.

A finalizer runs at any allocation of any thread and may use the state, so it may call the very method that it has
interrupted. `threading.Event` has a plain lock, which such a call would wait for in vain.
"""

from __future__ import annotations

import queue


class Event:
    """As `threading.Event`, but re-entrant: a token in a queue wakes one waiter, which passes it on.

    Thread-safety
        Safe from any thread. `clear` is for the only thread that waits.
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
        """Whether the event is set after `timeout` seconds at most."""
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
