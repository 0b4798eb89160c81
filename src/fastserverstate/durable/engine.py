"""Stores the changes of a store in a file, on a thread of its own."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastserverstate._core import (
    JOURNAL_FIRST,
    JOURNAL_LATER,
    JOURNAL_SHOW_LATER,
    Encoded,
    Store,
    absent,
)
from fastserverstate.codec import Codec, UnencodableValueError
from fastserverstate.durable.errors import DurabilityError
from fastserverstate.durable.state_file import LARGEST, Row, StateFile, is_damage

logger = logging.getLogger("fastserverstate")

INTERVAL = 0.2  # seconds between two commits with durability="interval"
RETRY = 1.0  # seconds until a failed commit is tried again, unless a thread waits for it
ENCODINGS = 3  # tries to encode a value that another thread is changing

Durability = Literal["interval", "always"]
StorageErrors = (OSError, sqlite3.Error, DurabilityError)


@dataclass(frozen=True)
class Status:
    """How durable the state is. See `status`.

    Attributes
        ``path``: the file. ``durability``: ``"interval"`` or ``"always"``.

        ``error``: why the last commit failed, or None. The app goes on, and the commit is tried again.

        ``pending``: keys whose newest change is not stored yet. ``oldest_pending``: for how many seconds there have
        been such keys without a successful commit; 0 if there are none.

        ``commits``, ``failures``, ``stored``: commits, failed ones, and rows that were written since the start.

        ``unencodable``: keys whose values cannot be stored.

        ``set_aside``: where the file of an earlier run is now, because it was damaged or of a newer release; or None.
    """

    path: Path
    durability: Durability
    error: str | None
    pending: int
    oldest_pending: float
    commits: int
    failures: int
    stored: int
    unencodable: frozenset[str]
    set_aside: Path | None


class Engine:
    """Stores what changes in a store, and restores it.

    A batch of changes is one SQLite transaction, which is on disk when it ends. Batches follow each other every 200 ms
    or, with ``durability="always"``, as soon as threads wait for one: all changes that arrive during a commit share
    the next one.

    Thread-safety
        Safe from any thread.
    """

    def __init__(
        self,
        store: Store,
        file: StateFile,
        codec: Codec,
        *,
        durability: Durability,
        show_when_durable: bool,
        on_deadline: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._codec = codec
        self._durability: Durability = durability
        self._mode = JOURNAL_LATER
        if durability == "always":
            self._mode = JOURNAL_SHOW_LATER if show_when_durable else JOURNAL_FIRST
        self._on_deadline = on_deadline  # called when keys with deadlines have been restored
        self._clock = clock
        self._wall_clock = wall_clock
        self._file = file
        self._set_aside = file.set_aside
        self._pending: dict[str, Row] = {}  # not stored yet, because a commit has failed
        self._is_lost = False  # the file cannot be used any more
        self._version = 0
        self._unencodable: set[str] = set()
        self._error: str | None = None
        self._stored_at = clock()
        self._pending_since: float | None = None
        self._commits = self._failures = self._stored = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fastserverstate.durable", daemon=True)

    @property
    def path(self) -> Path:
        return self._file.path

    def start(self) -> None:
        """Restore what the file has, and store what changes from now on."""
        self._store.set_decoder(self._codec.decode)
        self._store.start_journal(self._mode)
        for row in self._store.restore(self._rows(), self._file.clock):
            with self._store.lock(row[0]):  # another thread has it
                self._store.restore([row], 0)
        self._thread.start()

    def _rows(self) -> Iterator[tuple[str, bytes, int, float | None]]:
        now = self._wall_clock()
        has_deadlines = False
        for key, data, _, position, deadline in self._file.rows():
            if data is not None:
                has_deadlines = has_deadlines or deadline is not None
                yield key, data, position, None if deadline is None else deadline - now
        if has_deadlines:
            self._on_deadline()

    # Batches

    def _run(self) -> None:
        waiting = 1
        took = 0.0
        while not self._closing:
            if waiting > 1:  # the threads that were served come back with their next changes
                self._store.sleep_until_due(took / 2, False, waiting)
            self._store.sleep_until_due(RETRY if self._pending else -1, not self._pending)
            if self._pending_since is None:
                self._pending_since = self._clock()
            if self._durability == "interval" and not self._pending:
                self._store.sleep_until_due(max(0.0, self._stored_at + INTERVAL - self._clock()), False)
            began = self._clock()
            waiting = self._commit()
            took = self._clock() - began
        self._commit()
        if self._pending:
            logger.error("%d changed keys are not stored in %s: %s.", len(self._pending), self.path, self._error)

    def _commit(self) -> int:
        """Store all changes. Returns the number of threads that have waited."""
        epoch = self._take()
        try:
            if (self._pending or self._closing) and (self._is_lost or not self._file.is_in_place()):
                self._replace_file()
                self._store.record_all()
                epoch = self._take()
            if self._pending:
                self._file.write(list(self._pending.values()), self._version)
                self._commits += 1
        except Exception as error:  # whatever it is: threads wait for this one, so it goes on
            self._failed(error)
        else:
            self._succeeded()
        return self._store.end_batch(epoch, self._error)

    def _take(self) -> int:
        """Add all changes to the pending rows. Returns the epoch of the batch."""
        epoch, version, changes = self._store.take_journal()
        self._version = max(self._version, version)
        now = self._wall_clock()
        for key, value, changed, position, left in changes:
            if value is absent:
                self._unencodable.discard(key)
            data = None if value is absent else self._encode(key, value)
            self._pending[key] = Row(key, data, changed, position, None if left is None else now + left)
        return epoch

    def _replace_file(self) -> None:
        """Begin a new file, because this one was deleted, replaced or damaged."""
        path = self.path
        if not self._is_lost:
            logger.error("%s was deleted, replaced or damaged. The whole state is stored in a new file.", path)
        self._is_lost = True
        self._file.close()
        self._file = StateFile.open(path, fresh=True)
        self._is_lost = False
        self._set_aside = self._file.set_aside or self._set_aside

    def _encode(self, key: str, value: Any) -> bytes | None:
        """Return None for a value that cannot be stored: an older one must not come back."""
        if type(value) is Encoded:
            return value.data
        for _ in range(ENCODINGS):
            try:
                data = self._codec.encode(key, value)
            except UnencodableValueError as error:
                failure = error
            except Exception as error:  # often because another thread changes the value in place
                failure = UnencodableValueError(key, f"encoding it failed with {type(error).__qualname__}: {error}")
            else:
                if len(data) <= LARGEST:
                    self._unencodable.discard(key)
                    return data
                failure = UnencodableValueError(key, f"it takes {len(data):,} bytes, and SQLite stores {LARGEST:,}.")
                break
        if key not in self._unencodable:
            self._unencodable.add(key)
            logger.warning("server_state[%r] is kept in memory only, and ends with this process: %s", key, failure)
        return None

    def _succeeded(self) -> None:
        if self._error is not None:
            logger.warning("The state is stored in %s again: all changes are on disk.", self.path)
        self._stored += len(self._pending)
        self._error = None
        self._stored_at = self._clock()
        self._pending_since = None
        self._pending.clear()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._error is None:
            logger.error(
                "The state cannot be stored in %s: %s. The app goes on with the state in memory, and storing is tried "
                "again every %g s. A restart before that succeeds loses the changes since the last commit.",
                self.path,
                error,
                RETRY,
            )
        self._error = f"{type(error).__qualname__}: {error}"
        if is_damage(error):
            self._is_lost = True

    # For users

    def status(self) -> Status:
        pending, since = len(self._pending) + self._store.undurable(), self._pending_since
        return Status(
            path=self.path,
            durability=self._durability,
            error=self._error,
            pending=pending,
            oldest_pending=self._clock() - since if pending and since is not None else 0.0,
            commits=self._commits,
            failures=self._failures,
            stored=self._stored,
            unencodable=frozenset(self._unencodable.copy()),
            set_aside=self._set_aside,
        )

    def flush(self, timeout: float) -> bool:
        return self._store.wait_until_durable(timeout)

    def close(self, *, at_exit: bool = False) -> None:
        """Store what is left, and close the file. The store goes on in memory.

        At the exit of the process, no write returns afterwards as if it were durable: it raises NotDurableError.
        """
        self._closing = True
        self._store.close_journal()
        if self._thread.is_alive():
            self._thread.join()
        if at_exit:
            self._store.end_journal()
        else:
            self._store.stop_journal()
        self._file.close()

    def abandon(self) -> None:
        """Forget the file in a forked process: it belongs to the parent."""
        self._file.abandon()
