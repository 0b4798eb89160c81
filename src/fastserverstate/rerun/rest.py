"""What goes along with runs, and ends when they are over."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserverstate.rerun.scheduler import Pump

# At rest: no rerun was asked for and no run has ended for this many seconds, and no session waits for a rerun. A
# companion may have a rest of its own.
REST = 0.25

# A fan-out of which nothing was heard for so many seconds does not count: its event loop may never run again.
SILENCE = 10.0


class Companion:
    """Hears of the runs that end, whatever has caused them, on any thread.

    While something goes on, a thread watches for its end. A timer of the event loop would be lost with the loop.
    """

    rest = REST  # seconds

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._watch: threading.Thread | None = None
        self._pumps: set[Pump] = set()
        self._last = 0.0

    def session_began(self, pump: Pump) -> None:
        """A session has come."""

    def run_ended(self, pump: Pump) -> None:
        """A run has ended."""

    def put_back(self) -> None:
        """Undo what was done for the time of the runs."""

    def at_rest(self) -> None:
        """Nothing has gone on for a while. Called on the thread that watches, with the lock held."""
        self.put_back()

    def stop(self) -> None:
        """Another companion takes its place."""
        self.put_back()

    def reset_after_fork(self) -> None:
        """In a forked process, which has no reruns and no thread that watches."""
        self.lock = threading.RLock()
        self._watch = None
        self._pumps = set()
        self.put_back()

    def keep_watch(self, pump: Pump) -> None:
        """Have `at_rest` called when nothing goes on any more."""
        with self.lock:
            self._last = time.monotonic()
            self._pumps.add(pump)
            if self._watch is None:
                watch = threading.Thread(target=self._wait_for_rest, name="fastserverstate.rest", daemon=True)
                try:
                    watch.start()
                except RuntimeError:  # there are too many threads: do without
                    self.put_back()
                else:
                    self._watch = watch

    def _wait_for_rest(self) -> None:
        while True:
            with self.lock:
                left = self._last + self.rest - time.monotonic()
                if left <= 0 and not (left > self.rest - SILENCE and self._is_fanning_out()):
                    self._watch = None
                    self._pumps = set()
                    self.at_rest()
                    return
            time.sleep(max(left, self.rest / 5))

    def _is_fanning_out(self) -> bool:
        return any(pump.is_fanning_out and not pump.loop.is_closed() for pump in self._pumps)
