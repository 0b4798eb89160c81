"""Warns when a run has changed a value in place without assigning it again, so that other sessions do not see it.

The core notes which keys a run reads, its callbacks included, and where. At the end of the run their values are
compared with what was assigned. By default that is sampled: it may take a small share of the time that runs take, and
is left out while sessions wait for a rerun or many are open.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from types import CodeType

from fastserverstate._core import Store, source_location

logger = logging.getLogger("fastserverstate")

# Share of the running time that checks may take.
SHARE = 0.005

# Seconds of that share that may be saved up, and the limit of one check.
MOST_SAVED = 0.02

# Approximate cost in seconds of noting a read.
NOTE_COST = 1e-6

# With more open scopes, in all sessions, reads are not noted.
MANY_SCOPES = 50

# Number of keys whose cost of a check is remembered.
MOST_KEYS = 1000


class InPlaceWatch:
    """Checks the values that a run has read when the run ends.

    Thread-safety
        Safe from any thread. The sums are rough where several runs end at the same time.
    """

    def __init__(
        self, store: Store, is_busy: Callable[[], bool], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._store = store
        self._is_busy = is_busy
        self._clock = clock
        self._wanted: bool | None = None  # None: sampled
        self._saved = MOST_SAVED
        self._costs: dict[str, float] = {}
        self._random = random.Random()  # the app may have seeded the shared generator
        self.set(None)

    def set(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._store.note_reads(self._is_due())

    def look(self) -> None:
        """Check at the end of the thread's part in a run. Exceptions of the values' own code do not affect the run."""
        try:
            reads, seconds = self._store.take_reads()
            self._saved = min(MOST_SAVED, self._saved + SHARE * seconds) - NOTE_COST * len(reads)
            if reads and self._is_due():
                self._look_at(reads)
            self._store.note_reads(self._is_due())
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            logger.debug("A look for changes in place has failed.", exc_info=True)

    def _is_due(self) -> bool:
        if self._wanted is not None:
            return self._wanted
        return self._saved > 0 and self._store.scopes() <= MANY_SCOPES and not self._is_busy()

    def _look_at(self, reads: list[tuple[str, tuple[CodeType | None, int]]]) -> None:
        self._random.shuffle(reads)  # so that an expensive value does not prevent checks of the others
        for key, place in reads:
            budget = MOST_SAVED if self._wanted else self._saved
            if budget <= 0:
                return
            if self._costs.get(key, 0.0) > budget:
                continue
            start = self._clock()
            changed = self._store.changed_in_place(key, budget)
            self._saved -= self._clock() - start
            if changed is None and len(self._costs) < MOST_KEYS:
                self._costs[key] = 2 * budget
            elif changed:
                self._warn(key, source_location(*place))

    @staticmethod
    def _warn(key: str, place: str) -> None:
        logger.warning(
            "The value of server_state[%r] was changed in place and not assigned again, so other sessions do not see "
            "the change. It was read at %s. Assign it after changing it, server_state[%r] = value, or call "
            "force_rerun_bound_sessions(%r).",
            key,
            place,
            key,
            key,
        )
