"""A thread without a session that writes a growing number."""

import threading
import time
from typing import Any

from package import server_state


class Writer(threading.Thread):
    """Writes 1, 2, 3... every `interval` seconds for a number of seconds, or later if a write takes longer."""

    def __init__(self, key: str, interval: float, seconds: float) -> None:
        super().__init__(daemon=True)
        self._key = key
        self._interval = interval
        self._seconds = seconds
        self._writes = 0
        self._last_write = 0.0
        self._busy = 0.0

    def run(self) -> None:
        due = time.monotonic()
        end = due + self._seconds
        while due < end:
            self._last_write = time.monotonic()
            server_state[self._key] = self._writes + 1
            self._busy += time.monotonic() - self._last_write
            self._writes += 1
            due += self._interval
            pause = due - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            else:
                due -= pause

    def report(self) -> dict[str, Any]:
        return {
            "writes": self._writes,
            "last_write": self._last_write,
            "busy_seconds": self._busy,
            "ended": not self.is_alive(),
        }
