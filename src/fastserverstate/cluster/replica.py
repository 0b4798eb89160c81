"""This server's copy of the shared state: applies changes to the local table in the order of their versions.

A version is the (epoch, seq) of the log entry that made it. The *cursor* is the version of the last entry that the log
follower has applied. This server's own writes are applied with the reply of the engine, ahead of the cursor, unless a
newer change was applied before. When the cursor reaches their entries, they are skipped.

A change of a key is *held back* while a thread of this server holds the key's lock. Such a thread has lost the lock on
the engine, or took it before this server was connected: otherwise no other server could have changed the key. Changes
of one transaction are held back together, as are later changes of their keys, so that no reader sees a part of a
transaction. There are two exceptions. `sync` and the next holder of a key's lock have to find the newest value, so they
apply the change of this key alone. And a resynchronization recognizes a transaction only by the versions of its keys,
so it applies a key that was written again since.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastserverstate.cluster.errors import NotConnectedError, NotWrittenError
from fastserverstate.cluster.signals import Event
from fastserverstate.codec import Codec, decode_key
from fastserverstate.errors import UnreadableValueError

logger = logging.getLogger("fastserverstate")

Version = tuple[int, int]
NEVER: Version = (0, 0)


class _Gone:
    def __repr__(self) -> str:
        return "GONE"


GONE: Any = _Gone()  # the value of a key that is not set
EXPIRED: Any = object()  # in place of GONE, for `Table.apply`: the key has expired
UNLOGGED: Any = object()  # a value that the log only refers to, because it is large


class Table(Protocol):
    """The local table. Thread-safe. Only `peek` and the function that `apply` returns may run code of the app."""

    def origin(self) -> object:
        """Return the current writer. `apply` does not have to notify it of its own changes."""

    def is_quiet(self) -> bool:
        """Return True if writes of the calling thread rerun no session."""

    def keys(self) -> Collection[str]: ...

    def peek(self, key: str) -> Any:
        """Return the value, or GONE."""

    def apply(
        self, changes: Sequence[tuple[str, Any, bool]], origin: object
    ) -> tuple[Collection[str], Callable[[Collection[str]], object]]:
        """Make changes atomically. Each is a key, its value, GONE or EXPIRED, and True to rerun no session.

        Returns the keys that are unchanged because another thread holds their lock, and a function to call without
        locks. Its argument are the keys for which another thread will call `flush`.
        """

    def locked(self, keys: Collection[str]) -> set[str]:
        """Return keys that another thread has probably locked. `apply` checks again."""

    def lifetime(self, key: str) -> tuple[float, float]:
        """Return the ttl and the idle_ttl that are configured for the key, in seconds, 0 for none."""

    def deadline(self, key: str) -> float | None:
        """Return the seconds until the deadline of a key that is not shared yet, None if it has none."""

    def flush(self, keys: Collection[str]) -> None:
        """Call listeners of these keys, on the thread that has changed them."""

    def same(self, old: Any, new: Any) -> bool:
        """Return True if the values have the same content."""


@dataclass(slots=True)
class Entry:
    """An entry of the log. Each change is its kind (s, r or d), key, data, and True if it is quiet."""

    version: Version
    ticket: bytes = b""
    too_long: bool = False
    changes: list[tuple[bytes, str, bytes, bool]] = field(default_factory=list)
    unlocked: list[str] = field(default_factory=list)
    expires_in: int | None = None  # ms until the first key expires, if all others expire later
    malformed: int = 0  # skipped fields


@dataclass(slots=True)
class InFlightWrite:
    """A write of a thread of this process, before its reply arrives."""

    values: dict[str, Any]
    origin: object


FOREIGN = InFlightWrite({}, None)  # in place of the writes of other servers


@dataclass(slots=True)
class Change:
    version: Version
    value: Any
    quiet: bool = False
    ticket: bytes = b""
    has_expired: bool = False

    def replacing(self, earlier: Change | None) -> Change:
        """Return this change. It is quiet only if the one that it replaces was quiet, too."""
        self.quiet = self.quiet and (earlier is None or earlier.quiet)
        return self


@dataclass(slots=True)
class Encoded:
    """A value that is not decoded yet."""

    data: bytes


_VERSION = re.compile(rb"([0-9]{1,19})-([0-9]{1,19})")


def parse_version(text: object) -> Version | None:
    """Parse a version. Returns None if the text is malformed."""
    found = _VERSION.fullmatch(text) if isinstance(text, bytes) else None
    return None if found is None else (int(found[1]), int(found[2]))


def version_text(version: Version) -> str:
    return f"{version[0]}-{version[1]}"


def parse_key(name: object) -> str | None:
    """Decode a key. Returns None if the name is malformed."""
    try:
        return decode_key(name) if isinstance(name, bytes) else None
    except UnicodeDecodeError:
        return None


def parse_entry(identifier: object, fields: object) -> Entry | None:
    """Parse an entry of the log, skipping malformed fields. Returns None if its id is malformed. Never raises."""
    version = parse_version(identifier)
    if version is None:
        return None
    entry = Entry(version)
    if not isinstance(fields, (list, tuple)):
        entry.malformed = 1
        return entry
    entry.malformed = len(fields) % 2
    for name, data in zip(fields[::2], fields[1::2], strict=False):
        key = parse_key(name[1:]) if isinstance(name, bytes) and name and isinstance(data, bytes) else None
        if key is None:
            entry.malformed += 1
            continue
        kind = name[:1]
        if kind == b"w":
            entry.ticket = data
        elif kind == b"f":
            entry.too_long = True
        elif kind == b"u":
            entry.unlocked.append(key)
        elif kind == b"x" and data.isdigit():
            entry.expires_in = int(data)
        elif kind in b"srdSRD":
            entry.changes.append((kind.lower(), key, data, kind.isupper()))
        elif kind != b"a":
            entry.malformed += 1
    return entry


def has_expired(kind: bytes, data: bytes) -> bool:
    return kind == b"d" and data == b"expired"


def logged_value(kind: bytes, data: bytes) -> Any:
    """Return the value in a change of the log: GONE, UNLOGGED, or a value that is not decoded yet."""
    return GONE if kind == b"d" else UNLOGGED if kind == b"r" else Encoded(data)


class Replica:
    """The local table and the versions of its keys.

    Thread-safety
        Safe from any thread. Its lock is re-entrant, because a finalizer may write at any point. If this write is
        overwritten by an older one, the log follower applies it again. Values are decoded and released, and listeners
        called, outside the lock.
    """

    def __init__(self, table: Table, codec: Codec) -> None:
        self._table = table
        self._codec = codec
        self._lock = threading.RLock()
        self._cursor_condition = threading.Condition(self._lock)
        self.cursor = NEVER
        self._versions: dict[str, Version] = {}
        self._deleted: dict[str, Version] = {}  # keys that were deleted ahead of the cursor
        self._held: dict[str, Change] = {}  # changes that are held back
        self._bundles: list[set[str]] = []  # disjoint sets of keys whose changes are held back together
        self._in_flight: dict[bytes, InFlightWrite] = {}
        self._unlocks: dict[str, list[Event]] = {}
        self.follower: threading.Thread | None = None
        self.received = 0  # bytes of values
        self.unreadable = 0
        self.malformed = 0

    def skip(self, count: int, where: str) -> None:
        """Count malformed data. The first is logged."""
        if count and not self.malformed:
            logger.error(
                "Data in %s was not written by fastserverstate, or by another release. It is skipped. Further cases "
                "are only counted: see `malformed` of fastserverstate.cluster.status().",
                where,
            )
        self.malformed += count

    # Own writes

    def begin_write(self, ticket: bytes, write: InFlightWrite) -> None:
        """Note a write before it is sent. Until it completes, the log follower recognizes it by its ticket."""
        self._in_flight[ticket] = write

    def complete_write(self, ticket: bytes, keys: Collection[str]) -> None:
        with self._lock:
            self._in_flight.pop(ticket, None)
        self._table.flush(keys)

    def apply_write(self, changes: dict[str, Change], origin: object) -> None:
        """Apply a write of this thread."""
        with self._lock:
            newer = {key: change for key, change in changes.items() if self._is_newer(key, change.version)}
            finish = self._apply(newer, origin)
        finish(())

    def apply_equal_value(self, key: str, change: Change, origin: object) -> None:
        """Apply a value that this thread has assigned and the engine already had, if the table differs."""
        if self.version(key) < change.version:
            self.apply_write({key: change}, origin)
            return
        local = self._table.peek(key)
        if local is GONE or self._table.same(local, change.value):
            return
        with self._lock:
            if self._versions.get(key) != change.version:
                return
            finish = self._apply({key: change}, origin)
        finish(())

    def version(self, key: str) -> Version:
        """Return the version of the value in the table, or NEVER if there is none."""
        return self._versions.get(key, NEVER)

    @property
    def held(self) -> int:
        """The number of keys whose newest change is held back."""
        return len(self._held)

    def apply_held(self, keys: Iterable[str] = (), *, alone: bool = False) -> None:
        """Apply changes that are held back and whose locks are free. With `alone`, do not wait for their bundles."""
        finishes = []
        with self._lock:  # another thread may be about to hold back a change
            if not self._held:
                return
            for bundle in list(self._bundles):
                if not self._table.locked(bundle):
                    finishes.append(self._apply({key: self._held[key] for key in bundle & self._held.keys()}, None))
            for key in list(keys) if alone else ():
                if key in self._held:
                    finishes.append(self._apply({key: self._held[key]}, None))
        for finish in finishes:
            finish(())

    def apply_all(self) -> None:
        """Apply the changes that are held back of all keys whose own locks are free."""
        self.apply_held(list(self._held), alone=True)

    # The log follower

    def follow(self, entries: Sequence[Entry]) -> bool:
        """Apply entries that follow the cursor. Returns False if a value has to be fetched first.

        Successive entries of the same origin are applied atomically, and mark each key once.
        """
        groups: list[tuple[object, dict[str, Change]]] = []
        for entry in entries:
            write = self._in_flight.get(entry.ticket, FOREIGN)
            if not groups or groups[-1][0] is not write.origin:
                groups.append((write.origin, {}))
            changes = groups[-1][1]
            for kind, key, data, quiet in entry.changes:
                if entry.version > self.version(key):
                    value = write.values.get(key, logged_value(kind, data))
                    if value is UNLOGGED:
                        return False
                    change = Change(entry.version, value, quiet, entry.ticket, has_expired(kind, data))
                    changes[key] = change.replacing(changes.get(key))
        self._apply_entries(groups, entries)
        return True

    def apply_values(self, values: dict[str, tuple[Version, bytes | None]], entries: Sequence[Entry]) -> None:
        """Apply the values of keys as of the last of the entries, or of a moment between the cursor and it."""
        last = {key: has_expired(kind, data) for entry in entries for kind, key, data, _ in entry.changes}
        changes = {
            key: Change(version, GONE if data is None else Encoded(data), has_expired=last.get(key, False))
            for key, (version, data) in values.items()
            if version > self.version(key)
        }
        self._apply_entries([(None, changes)], entries)

    def resynchronise(self, versions: dict[str, Version], values: dict[str, bytes], cursor: Version) -> bool:
        """Make the table equal to the data of the engine at the cursor, except for later writes of this server.

        `versions` has all keys of the engine, and `values` has those that differed. Returns False if others differ by
        now.
        """
        decoded = {key: self._decoded(key, data) for key, data in values.items()}
        with self._lock:
            deleted = {*self._versions, *self._table.keys()}.difference(versions)
            decoded |= dict.fromkeys(deleted, GONE)
            changes = {
                key: Change(version, decoded.get(key, UNLOGGED))
                for key, version in {**versions, **dict.fromkeys(deleted, cursor)}.items()
                if self.version(key) != version and not self._is_after(self.version(key), cursor)
            }
            if not changes.keys() <= decoded.keys():
                return False
            self.cursor = cursor
            self._held.clear()
            self._bundles.clear()
            self._hold_back(changes, self._of_one_version(changes))
            finish = self._apply(changes, None)
            self._cursor_moved()
        finish(())
        self.unlock(list(self._unlocks))
        return True

    @staticmethod
    def _is_after(version: Version, cursor: Version) -> bool:
        return version[0] == cursor[0] and version[1] > cursor[1]

    def _apply_entries(self, groups: Sequence[tuple[object, dict[str, Change]]], entries: Sequence[Entry]) -> None:
        for _, changes in groups:
            for key, change in changes.items():
                if type(change.value) is Encoded:
                    change.value = self._decoded(key, change.value.data)
        finishes = []
        with self._lock:
            for origin, changes in groups:
                newer = {key: change for key, change in changes.items() if change.version > self._latest(key)}
                self._hold_back(newer, ([key for _, key, *_ in entry.changes] for entry in entries))
                if not newer:
                    continue
                in_flight = {key for key, change in newer.items() if change.ticket in self._in_flight}
                finishes.append((self._apply(newer, origin), in_flight))
            self.cursor = entries[-1].version
            self._cursor_moved()
        for finish, in_flight in finishes:
            finish(in_flight)
        self.unlock(key for entry in entries for key in entry.unlocked)

    def _decoded(self, key: str, data: bytes) -> Any:
        self.received += len(data)
        try:
            return self._codec.decode(key, data)
        except UnreadableValueError as error:
            self.unreadable += 1
            logger.error("%s This server treats the key as not set until it is written again.", error)  # noqa: TRY400
            return GONE

    # With the lock held

    def _latest(self, key: str) -> Version:
        held = self._held.get(key)
        return max(
            self._versions.get(key, NEVER), self._deleted.get(key, NEVER), NEVER if held is None else held.version
        )

    def _is_newer(self, key: str, version: Version) -> bool:
        held = self._held.get(key)
        if held is not None:
            return version >= held.version
        return version > self.cursor and version > self._latest(key)

    @staticmethod
    def _of_one_version(changes: dict[str, Change]) -> Iterator[list[str]]:
        keys: dict[Version, list[str]] = {}
        for key, change in changes.items():
            keys.setdefault(change.version, []).append(key)
        yield from keys.values()

    def _hold_back(self, newer: dict[str, Change], together: Iterable[Collection[str]]) -> None:
        """Hold back changes that wait for a lock, with those of the same transaction, and remove them from `newer`."""
        waiting = self._table.locked(newer) | (self._held.keys() & newer.keys())
        if not waiting:
            return
        concerned = {*self._held, *newer}
        bundles: dict[str, set[str]] = {}
        for keys in itertools.chain(self._bundles, together, ([key] for key in waiting)):
            bundle = concerned.intersection(keys)
            bundle.update(*[bundles[key] for key in bundle if key in bundles])
            bundles.update(dict.fromkeys(bundle, bundle))
        waiting |= self._held.keys()
        self._bundles = list({id(bundles[key]): bundles[key] for key in waiting}.values())
        for key in newer.keys() & set().union(*self._bundles):
            self._hold(key, newer.pop(key))

    def _hold(self, key: str, change: Change) -> None:
        self._held[key] = change.replacing(self._held.get(key))

    def _apply(self, changes: dict[str, Change], origin: object) -> Callable[[Collection[str]], object]:
        for key in self._held.keys() & changes.keys():
            self._hold(key, changes[key])
        made = [
            (key, EXPIRED if change.has_expired and change.value is GONE else change.value, change.quiet)
            for key, change in changes.items()
        ]
        left, finish = self._table.apply(made, origin)
        for key, change in changes.items():
            if key in left:
                self._hold(key, change)
                continue
            self._held.pop(key, None)
            if change.value is not GONE:
                self._versions[key] = change.version
                self._deleted.pop(key, None)
            else:
                self._versions.pop(key, None)
                self._deleted[key] = change.version
        if self._held or self._bundles:
            bundles = [bundle & self._held.keys() for bundle in self._bundles]
            bundled = set().union(*bundles)
            self._bundles = [*filter(None, bundles), *({key} for key in left if key not in bundled)]
        return finish

    def _cursor_moved(self) -> None:
        if self._deleted:
            self._deleted = {key: version for key, version in self._deleted.items() if version > self.cursor}
        self._cursor_condition.notify_all()

    # Waiting

    def wait_for(
        self, is_applied: Callable[[], bool], what: str, seconds: float, while_waiting: Callable[[], object]
    ) -> None:
        """Wait until a change that the engine has is in the table. Raises NotConnectedError at the timeout."""
        if is_applied():
            return
        self.refuse_to_wait_here(what)
        end = time.monotonic() + seconds
        while True:
            with self._lock:
                left = end - time.monotonic()
                if is_applied() or (left > 0 and self._cursor_condition.wait_for(is_applied, min(left, 0.05))):
                    return
            if left <= 0:
                raise NotConnectedError(
                    f"The Redis server has a change of {what} that did not arrive within {seconds:.3g} seconds. "
                    "Nothing was written."
                )
            while_waiting()

    def refuse_to_wait_here(self, what: str) -> None:
        """Raise an error if a finalizer has interrupted this class, and so would wait for its own thread."""
        if self._lock._is_owned() or threading.current_thread() is self.follower:  # type: ignore[attr-defined]
            raise NotWrittenError(
                f"A finalizer cannot wait for {what} while changes are applied on its thread. Nothing was written. "
                "Let a thread of your own do this."
            )

    def wait_until_applied(
        self, key: str, version: Version, seconds: float, while_waiting: Callable[[], object]
    ) -> None:
        """Wait until the table has this version of the key, or a newer one."""
        self.wait_for(lambda: self.has(key, version), f"server_state[{key!r}]", seconds, while_waiting)

    def has(self, key: str, version: Version) -> bool:
        return self.cursor >= version or self._versions.get(key, NEVER) >= version

    def watch_unlocks(self, keys: Iterable[str], event: Event) -> None:
        with self._lock:
            for key in keys:
                self._unlocks.setdefault(key, []).append(event)

    def unwatch_unlocks(self, keys: Iterable[str], event: Event) -> None:
        with self._lock:
            for key in keys:
                self._unlocks[key].remove(event)
                if not self._unlocks[key]:
                    del self._unlocks[key]

    def unlock(self, keys: Iterable[str]) -> None:
        """Wake the threads that wait for these locks."""
        if self._unlocks:
            with self._lock:
                for key in keys:
                    for event in self._unlocks.get(key, ()):
                        event.set()
