"""The state file: an SQLite database with one row per key.

The file is in WAL mode, so it consists of up to three files: `state.db`, `state.db-wal` and `state.db-shm`. While a
process has opened it, there is also `state.db.lock`.

The table has an integer primary key of its own, and an index of the keys. Without a rowid, SQLite would move values of
1,000 bytes and more out of the tree, to whole pages: 100,000 values of 1,100 bytes took 468 MB instead of 140.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastserverstate.codec import decode_key, encode_key
from fastserverstate.durable.errors import DurabilityError
from fastserverstate.durable.file_lock import FileLock
from fastserverstate.durable.permissions import check_file, resolve

logger = logging.getLogger("fastserverstate")

APPLICATION_ID = int.from_bytes(b"fssf", "big")
LARGEST = 999_000_000  # bytes of an encoded value; SQLite allows a billion for the whole row

_MAGIC = b"SQLite format 3\0"
_HEADER_SIZE = 100
_COMPANIONS = ("-wal", "-shm", "-journal")
_BUSY = 10.0  # seconds to wait for `python -m fastserverstate`, which may read at the same time
_LARGEST_WAL = 64 * 2**20  # bytes that the WAL may keep after a checkpoint
_TABLES = {"entries", "meta"}
_UNUSABLE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Row(NamedTuple):
    """One key. `data` is its encoded value, or None if the key is deleted.

    `version` is that of the last change, and only rises. `position` orders the keys by when they were set. `deadline`
    is the wall-clock time in seconds since the epoch at which the key expires, or None.
    """

    key: str
    data: bytes | None
    version: int
    position: int
    deadline: float | None


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, version INTEGER NOT NULL, "
        "position INTEGER NOT NULL, deadline REAL, data BLOB NOT NULL)"
    )
    connection.execute("CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID")
    connection.execute("INSERT INTO meta VALUES ('clock', 0)")


# The step at index n takes a file from format n to n + 1. An empty file has the format 0. Never change a step that was
# released: add one, and a test that migrates a file of each earlier format.
MIGRATIONS: list[Callable[[sqlite3.Connection], object]] = [_create]

# The order is found before the values are read, so that sorting does not copy them.
_SELECT = (
    "SELECT key, data, version, position, deadline FROM (SELECT id FROM entries ORDER BY position, id LIMIT -1) AS o "
    "CROSS JOIN entries USING (id)"
)
_WRITE = (
    "INSERT INTO entries (key, data, version, position, deadline) VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
    "SET data = excluded.data, version = excluded.version, position = excluded.position, deadline = excluded.deadline"
)


class _UnusableError(Exception):
    """The file cannot be used, and has to be set aside. `label` becomes a part of its new name."""

    def __init__(self, label: str, why: str) -> None:
        super().__init__(why)
        self.label = label


class StateFile:
    """A state file that this process has opened. See `open`.

    Attributes
        ``path``: the file, without symbolic links. ``set_aside``: where an unusable older file is now, or None.
        ``clock``: highest version that was ever stored.

    Thread-safety
        For one thread at a time.
    """

    def __init__(self, path: Path, lock: FileLock, *, sync: bool, fresh: bool) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self._lock = lock
        if fresh and any(_companion(path, suffix).exists() for suffix in ("", *_COMPANIONS)):
            self.set_aside = _set_aside(path, "replaced")
        self._is_open = True
        try:
            self._connection = self._connect(sync=sync)
        except _UnusableError as error:
            self.set_aside = _set_aside(path, error.label)
            logger.error("%s %s It is kept as %s, and a new file begins.", path, error, self.set_aside)  # noqa: TRY400
            self._connection = self._connect(sync=sync)
        self.clock: int = self._connection.execute("SELECT value FROM meta WHERE name = 'clock'").fetchone()[0]

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, sync: bool = True, fresh: bool = False) -> StateFile:
        """Open or create the file. Without `sync`, a power cut can lose the last writes, but damages nothing.

        A damaged file, or one of a newer release, is set aside; with `fresh`, any file is. Errors of the disk and
        missing permissions are raised as they are.

        Raises
            FileInUseError, UnsafeFileError, DurabilityError, OSError, sqlite3.Error.
        """
        place = resolve(path)
        lock = FileLock(place)
        try:
            return cls(place, lock, sync=sync, fresh=fresh)
        except BaseException:
            lock.release()
            raise

    def __repr__(self) -> str:
        return f"<state file {str(self.path)!r}>"

    def _connect(self, *, sync: bool) -> sqlite3.Connection:
        _check_files(self.path)
        _create_if_missing(self.path)
        # Closing any descriptor of the file would release the locks of SQLite, so this comes first.
        _check_header(self.path, writable=True)
        connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            with _damage_is_unusable():
                _migrate(connection, self.path)
                _set_options(connection, self.path, sync=sync)
                _check_content(connection, self.path)
            _check_files(self.path)
            self._identity = _identity(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def rows(self) -> Iterator[Row]:
        """Yield all rows in the order of their positions."""
        return _rows(self._connection)

    def write(self, rows: Sequence[Row], clock: int) -> None:
        """Store the rows, with at most one for each key, in one transaction. They are on the disk when it returns.

        If it raises an error, nothing was stored. Errors are those of `sqlite3`.
        """
        changed = [(encode_key(row.key), *row[1:]) for row in rows if row.data is not None]
        deleted = [(encode_key(row.key),) for row in rows if row.data is None]
        connection = self._connection
        with _transaction(connection):
            connection.executemany(_WRITE, changed)
            connection.executemany("DELETE FROM entries WHERE key = ?", deleted)
            connection.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'clock'", (clock,))
        self.clock = max(self.clock, clock)

    def is_in_place(self) -> bool:
        """Return False if the file was deleted, moved or replaced. What is written to it would then be lost."""
        try:
            return _identity(self.path) == self._identity
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> None:
        """Move the WAL into the file, and release the lock. Does nothing if the file was closed or abandoned."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._connection.close()
        finally:
            self._lock.release()

    def abandon(self) -> None:
        """In a forked child: leave the file to the parent process.

        The connection is never closed: that would use the parent's locks, which the child does not have.
        """
        import ctypes  # noqa: PLC0415

        self._is_open = False
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        self._lock.abandon()


@contextlib.contextmanager
def read_only(path: str | os.PathLike[str], *, exclusive: bool = False) -> Iterator[Iterator[Row]]:
    """Provide the rows as of now, also while another process has opened the file. Renames nothing and changes no row.

    With `exclusive`, no other process may have opened the file, or opens it meanwhile.

    Raises
        FileNotFoundError, FileInUseError, UnsafeFileError, DurabilityError, OSError, sqlite3.Error.
    """
    place = resolve(path)
    place.stat()  # before a lock file is created
    lock = FileLock(place) if exclusive else None
    try:
        with _snapshot(place) as rows:
            yield rows
    finally:
        if lock is not None:
            lock.release()


@contextlib.contextmanager
def _snapshot(place: Path) -> Iterator[Iterator[Row]]:
    _check_files(place)
    if not place.stat().st_size:
        raise DurabilityError(f"{place} is empty.")
    try:
        _check_header(place, writable=False)
        uri = f"{place.as_uri()}?{_reading_mode(place)}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only = 1")
            connection.execute("BEGIN")
            with _damage_is_unusable():
                _check_format(connection)
                _check_content(connection, place)
                yield _rows(connection)
    except _UnusableError as error:
        raise DurabilityError(f"{place} {error}") from error


def _reading_mode(path: Path) -> str:
    """Return how SQLite opens the file: it deletes its companions only if it may write, and needs them to read."""
    can_write = os.access(path.parent, os.W_OK) and os.access(path, os.W_OK)
    return "mode=rw" if can_write or _companion(path, "-wal").exists() else "immutable=1"


def _rows(connection: sqlite3.Connection) -> Iterator[Row]:
    damaged = 0
    for name, *values in connection.execute(_SELECT):
        try:
            key = decode_key(name)
        except UnicodeDecodeError:
            damaged += 1
        else:
            yield Row(key, *values)
    if damaged:
        logger.error("%d keys of the state file are damaged. They are not loaded, but kept in the file.", damaged)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors roll back by themselves
            connection.execute("ROLLBACK")
        raise


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _companion(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _check_files(path: Path) -> None:
    for suffix in ("", *_COMPANIONS):
        check_file(_companion(path, suffix))


def _create_if_missing(path: Path) -> None:
    wal = _companion(path, "-wal")
    if wal.exists() and wal.stat().st_size and not (path.exists() and path.stat().st_size):
        raise _UnusableError("corrupt", "is missing or empty, but its WAL is not.")  # SQLite would delete the WAL
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    _sync_folder(path.parent)


def _check_header(path: Path, *, writable: bool) -> None:
    """Check the first bytes of the file without SQLite, which would change the files of other applications."""
    with open(path, "r+b" if writable else "rb") as file:
        header = file.read(_HEADER_SIZE)
    if not header:
        return
    if len(header) < _HEADER_SIZE or not header.startswith(_MAGIC):
        raise _UnusableError("corrupt", "is damaged: it does not begin as an SQLite database.")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise _foreign(path)
    _check_number(int.from_bytes(header[60:64], "big"))


def _foreign(path: Path) -> DurabilityError:
    return DurabilityError(
        f"{path} is a database of another application. It was not changed. Use another name for the state file."
    )


def _check_number(number: int) -> None:
    if number > len(MIGRATIONS):
        raise _UnusableError(
            "newer",
            f"was written by a newer release of fastserverstate, in format {number}; this release supports formats up "
            f"to {len(MIGRATIONS)}.",
        )


def _check_format(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    _check_number(number)
    return number


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    number = _check_format(connection)
    with _transaction(connection):  # also without a change: it shows whether the disk can be written
        if number == 0 and _tables(connection):
            raise _foreign(path)
        for migrate in MIGRATIONS[number:]:
            migrate(connection)
        if number < len(MIGRATIONS):
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _set_options(connection: sqlite3.Connection, path: Path, *, sync: bool) -> None:
    # Not before the migration: a new file has to have its application id outside of the WAL.
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise DurabilityError(
            f"{path} is on a file system without shared memory, which SQLite needs for its WAL. Use a file on a local "
            "disk."
        )
    connection.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
    connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_WAL}")
    if sys.platform == "darwin":  # where fsync does not flush the cache of the disk
        connection.execute(f"PRAGMA fullfsync = {sync:d}")


def _check_content(connection: sqlite3.Connection, path: Path) -> None:
    tables = _tables(connection)
    if tables - _TABLES:
        raise _foreign(path)
    if tables != _TABLES:
        raise _UnusableError("corrupt", f"is damaged: it has no table {min(_TABLES - tables)!r}.")
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]  # reads each page once
    if found != "ok":
        raise _UnusableError("corrupt", f"is damaged: {' '.join(found.split())}.")
    if connection.execute("SELECT count(*) FROM meta WHERE name = 'clock'").fetchone()[0] != 1:
        raise _UnusableError("corrupt", "is damaged: it has no clock.")


def _tables(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name for (name,) in found}


def is_damage(error: Exception) -> bool:
    """Return True if the error says that the content of the file is damaged."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE


@contextlib.contextmanager
def _damage_is_unusable() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise _UnusableError("corrupt", f"is damaged: {error}.") from error
        raise


def _set_aside(path: Path, label: str) -> Path:
    """Rename the file and its companions, and return the new name. An existing file is never replaced."""
    now = datetime.datetime.now(datetime.UTC)
    name = f"{path.name}.{label}-{now:%Y%m%dT%H%M%SZ}"
    target, number = path.with_name(name), 1
    while any(os.path.lexists(_companion(target, suffix)) for suffix in ("", *_COMPANIONS)):
        number += 1
        target = path.with_name(f"{name}-{number}")
    for suffix in ("", *_COMPANIONS):
        with contextlib.suppress(FileNotFoundError):
            _companion(path, suffix).rename(_companion(target, suffix))
    _sync_folder(path.parent)
    return target


def _sync_folder(folder: Path) -> None:
    """Make new names in the folder survive a power cut."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
