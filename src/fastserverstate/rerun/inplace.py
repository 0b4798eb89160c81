"""Says when a run has changed a value in place and not assigned it again, which other sessions do not see.

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

# Of the time that runs take, what looking may take of it.
SHARE = 0.005

# Seconds: what may be saved up of that, and what one look may take.
MOST_SAVED = 0.02

# Seconds that it takes, about, to note a read.
NOTE_COST = 1e-6

# With more scopes open, in all sessions, nothing is noted.
MANY_SCOPES = 50

# Keys of which it is known how long a look at them takes in vain.
MOST_KEYS = 1000


class InPlaceWatch:
    """Looks at what a run has read when it ends.

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
        self._random = random.Random()  # the app may have seeded the common one
        self.set(None)

    def set(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._store.note_reads(self._is_due())

    def look(self) -> None:
        """The calling thread's part in a run ends. The values' own code may raise: that is nothing to the run."""
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
        self._random.shuffle(reads)  # so that no value keeps the others from being looked at
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
