"""This server's copy of the shared state: applies changes to the local table in the order of their versions.

A version is the (epoch, seq) of the log entry that made it. The *cursor* is the last entry that the log follower has
applied. A write of a thread of this server is applied with the reply of the Redis server, ahead of the cursor, unless a
newer one was applied already. When the cursor arrives there, nothing is left to do.

A change of a key is *held back* while a thread of this server holds the key's lock. Such a thread has lost the lock in
Redis, or took it before this server was connected: otherwise no other server could have changed the key. Changes of one
transaction are held back together, and later changes of their keys with them, so that no reader sees a part of a
transaction. There are two exceptions. `sync` and the next holder of a key's lock have to find the newest value, so they
apply the key alone. And a resynchronization recognizes a transaction only by the versions of its keys, so it applies a
key that was written again since.
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

from fastserverstate.cluster.codec import Codec, decode_key
from fastserverstate.cluster.errors import NotConnectedError, NotWrittenError, UnreadableValueError
from fastserverstate.cluster.signals import Event

logger = logging.getLogger("fastserverstate")

Version = tuple[int, int]
NEVER: Version = (0, 0)


class _Gone:
    def __repr__(self) -> str:
        return "GONE"


GONE: Any = _Gone()  # the value of a key that is not set


class Table(Protocol):
    """The local table. Thread-safe. None of it calls foreign code, but what `apply` returns and `peek` may."""

    def origin(self) -> object:
        """Who is writing: passed on to `apply`, which need not tell them."""

    def is_quiet(self) -> bool:
        """Whether the calling thread's writes rerun no session."""

    def keys(self) -> Collection[str]: ...

    def peek(self, key: str) -> Any:
        """The value, or GONE."""

    def apply(
        self, changes: Sequence[tuple[str, Any, bool]], origin: object
    ) -> tuple[Collection[str], Callable[[Collection[str]], object]]:
        """Make all changes atomically: the keys, their values or GONE, and whether to rerun no session.

        Returns the keys that were left as they are because another thread holds their lock, and what is left to do once
        the caller holds no lock: a function that is told the keys for which another thread will call `flush`.
        """

    def locked(self, keys: Collection[str]) -> set[str]:
        """Which of them another thread has locked, as far as that is known: `apply` has the last word."""

    def flush(self, keys: Collection[str]) -> None:
        """What remains to be done on the thread that has changed these keys."""

    def same(self, old: Any, new: Any) -> bool:
        """Whether the values have the same content."""


@dataclass(slots=True)
class Entry:
    """An entry of the log. Changes are their kind (s, r or d), key, data and whether they are quiet."""

    version: Version
    ticket: bytes = b""
    too_long: bool = False
    changes: list[tuple[bytes, str, bytes, bool]] = field(default_factory=list)
    unlocked: list[str] = field(default_factory=list)
    malformed: int = 0  # fields that were skipped


@dataclass(slots=True)
class InFlightWrite:
    """A write of a thread of this process whose reply is not here yet."""

    values: dict[str, Any]
    origin: object


@dataclass(slots=True)
class Change:
    version: Version
    value: Any
    quiet: bool = False
    ticket: bytes = b""


@dataclass(slots=True)
class Encoded:
    """A value that is not decoded yet."""

    data: bytes


_VERSION = re.compile(rb"([0-9]{1,19})-([0-9]{1,19})")


def parse_version(text: object) -> Version | None:
    """The version, or None if the text is none."""
    found = _VERSION.fullmatch(text) if isinstance(text, bytes) else None
    return None if found is None else (int(found[1]), int(found[2]))


def version_text(version: Version) -> str:
    return f"{version[0]}-{version[1]}"


def parse_key(name: object) -> str | None:
    """The key, or None if the name is none."""
    try:
        return decode_key(name) if isinstance(name, bytes) else None
    except UnicodeDecodeError:
        return None


def parse_entry(identifier: object, fields: object) -> Entry | None:
    """What an entry of the log says, without what is malformed; None if it cannot be placed. Never raises."""
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
        elif kind in b"srdSRD":
            entry.changes.append((kind.lower(), key, data, kind.isupper()))
        elif kind != b"a":
            entry.malformed += 1
    return entry


class Replica:
    """The local table and the versions of what is in it.

    Thread-safety
        Safe from any thread. Its lock is re-entrant because a finalizer may write at any point; the log follower
        applies such a write again if it was overtaken. Values are decoded and dropped, and listeners called, outside
        the lock.
    """

    def __init__(self, table: Table, codec: Codec) -> None:
        self._table = table
        self._codec = codec
        self._lock = threading.RLock()
        self._moved = threading.Condition(self._lock)
        self.cursor = NEVER
        self._versions: dict[str, Version] = {}
        self._deleted: dict[str, Version] = {}  # ahead of the cursor
        self._held: dict[str, Change] = {}  # back
        self._bundles: list[set[str]] = []  # keys that are held back together; no key is in two
        self._in_flight: dict[bytes, InFlightWrite] = {}
        self._unlocks: dict[str, list[Event]] = {}
        self.follower: threading.Thread | None = None
        self.received = 0  # bytes of values
        self.unreadable = 0
        self.malformed = 0

    def skip(self, count: int, where: str) -> None:
        """Count what was found malformed. It is logged once."""
        if count and not self.malformed:
            logger.error(
                "Something in %s is not of fastserverstate's making, or of another release, and is skipped. From now "
                "on this is only counted: see `malformed` of fastserverstate.cluster.status().",
                where,
            )
        self.malformed += count

    # Own writes

    def begin_write(self, ticket: bytes, write: InFlightWrite) -> None:
        """Note that a write is about to be sent. Until it completes, the log follower knows it by its ticket."""
        self._in_flight[ticket] = write

    def complete_write(self, ticket: bytes, keys: Collection[str]) -> None:
        with self._lock:
            self._in_flight.pop(ticket, None)
        self._table.flush(keys)

    def wrote(self, changes: dict[str, Change], origin: object) -> None:
        """Bring in what this thread has written."""
        with self._lock:
            news = {key: change for key, change in changes.items() if self._is_news(key, change.version)}
            finish = self._apply(news, origin)
        finish(())

    def confirmed(self, key: str, change: Change, origin: object) -> None:
        """This thread has assigned what the engine had already. Here it may be news."""
        if self.version(key) < change.version:
            self.wrote({key: change}, origin)
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
        """Of what the table has; NEVER if that is nothing."""
        return self._versions.get(key, NEVER)

    @property
    def held(self) -> int:
        """Keys whose newest change is held back."""
        return len(self._held)

    def apply_held(self, keys: Iterable[str] = (), *, alone: bool = False) -> None:
        """Bring in what is held back and whose locks are free by now. The keys come `alone` if need be."""
        finishes = []
        with self._lock:  # also when nothing is held back: another thread may be about to note something
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
        """Bring in what is held back of all keys whose own locks are free."""
        self.apply_held(list(self._held), alone=True)

    # The log follower

    def follow(self, entries: Sequence[Entry]) -> bool:
        """Apply entries that follow the cursor; False if a value that they refer to is not here.

        Successive entries of the same origin are applied atomically, and mark each key once.
        """
        groups: list[tuple[object, dict[str, Change]]] = []
        for entry in entries:
            write = self._in_flight.get(entry.ticket)
            origin = None if write is None else write.origin
            if not groups or groups[-1][0] is not origin:
                groups.append((origin, {}))
            changes = groups[-1][1]
            for kind, key, data, quiet in entry.changes:
                if entry.version <= self.version(key):
                    continue
                value: Any = GONE if kind == b"d" else Encoded(data)
                if write is not None and key in write.values:
                    value = write.values[key]
                elif kind == b"r":
                    return False
                quiet_so_far = changes[key].quiet if key in changes else True
                changes[key] = Change(entry.version, value, quiet and quiet_so_far, entry.ticket)
        self._apply_entries(groups, entries)
        return True

    def apply_values(self, values: dict[str, tuple[Version, bytes | None]], entries: Sequence[Entry]) -> None:
        """Bring in at once what keys are after the last of the entries, or have been shortly after the cursor."""
        changes = {
            key: Change(version, GONE if data is None else Encoded(data))
            for key, (version, data) in values.items()
            if version > self.version(key)
        }
        self._apply_entries([(None, changes)], entries)

    def resynchronise(
        self, versions: dict[str, Version], values: dict[str, tuple[Version, bytes]], cursor: Version
    ) -> bool:
        """Make the table what the engine is at the cursor.

        `versions` are those of all keys that the engine has, `values` of those that were found to differ. Only what
        this server has written after that moment stays. False if more has come to differ meanwhile.
        """
        changes = {key: Change(version, self._decoded(key, data)) for key, (version, data) in values.items()}
        with self._lock:
            for key, version in versions.items():
                if (
                    key not in changes
                    and self.version(key) != version
                    and not self._is_after(self.version(key), cursor)
                ):
                    return False
            for key in {*self._versions, *self._table.keys()}.difference(versions):
                changes[key] = Change(cursor, GONE)
            for key in list(changes):
                if self._is_after(self.version(key), cursor) or self.version(key) == changes[key].version:
                    del changes[key]
            self.cursor = cursor
            self._held.clear()
            self._bundles.clear()
            self._hold_back(changes, self._of_one_version(changes))
            finish = self._apply(changes, None)
            self._has_moved()
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
                news = {key: change for key, change in changes.items() if change.version > self._latest(key)}
                self._hold_back(news, ([key for _, key, *_ in entry.changes] for entry in entries))
                if not news:
                    continue
                flying = {key for key, change in news.items() if change.ticket in self._in_flight}
                finishes.append((self._apply(news, origin), flying))
            self.cursor = entries[-1].version
            self._has_moved()
        for finish, flying in finishes:
            finish(flying)
        self.unlock(key for entry in entries for key in entry.unlocked)

    def _decoded(self, key: str, data: bytes) -> Any:
        self.received += len(data)
        try:
            return self._codec.decode(key, data)
        except UnreadableValueError as error:
            self.unreadable += 1
            logger.error("%s Until it is written again, this server behaves as if it were not set.", error)  # noqa: TRY400
            return GONE

    # Under the lock

    def _latest(self, key: str) -> Version:
        held = self._held.get(key)
        return max(
            self._versions.get(key, NEVER), self._deleted.get(key, NEVER), NEVER if held is None else held.version
        )

    def _is_news(self, key: str, version: Version) -> bool:
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

    def _hold_back(self, news: dict[str, Change], together: Iterable[Collection[str]]) -> None:
        """Take out of the news those that have to wait for a lock, and those that were made together with them."""
        waiting = self._table.locked(news) | (self._held.keys() & news.keys())
        if not waiting:
            return
        concerned = {*self._held, *news}
        bundles: dict[str, set[str]] = {}
        for keys in itertools.chain(self._bundles, together, ([key] for key in waiting)):
            bundle = concerned.intersection(keys)
            bundle.update(*[bundles[key] for key in bundle if key in bundles])
            bundles.update(dict.fromkeys(bundle, bundle))
        waiting |= self._held.keys()
        self._bundles = list({id(bundles[key]): bundles[key] for key in waiting}.values())
        for key in news.keys() & set().union(*self._bundles):
            self._hold(key, news.pop(key))

    def _hold(self, key: str, change: Change) -> None:
        before = self._held.get(key)
        change.quiet = change.quiet and (before is None or before.quiet)
        self._held[key] = change

    def _apply(self, changes: dict[str, Change], origin: object) -> Callable[[Collection[str]], object]:
        for key in self._held.keys() & changes.keys():
            self._hold(key, changes[key])
        left, finish = self._table.apply([(key, change.value, change.quiet) for key, change in changes.items()], origin)
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

    def _has_moved(self) -> None:
        if self._deleted:
            self._deleted = {key: version for key, version in self._deleted.items() if version > self.cursor}
        self._moved.notify_all()

    # Waiting

    def wait_for(
        self, is_there: Callable[[], bool], what: str, seconds: float, while_waiting: Callable[[], object]
    ) -> None:
        """Wait until what the engine has told is in the table. Raises NotConnectedError after that many seconds."""
        if is_there():
            return
        self.refuse_to_wait_here(what)
        end = time.monotonic() + seconds
        while True:
            with self._lock:
                left = end - time.monotonic()
                if is_there() or (left > 0 and self._moved.wait_for(is_there, min(left, 0.05))):
                    return
            if left <= 0:
                raise NotConnectedError(
                    f"The Redis server told of a change of {what} that did not arrive within {seconds:.3g} seconds. "
                    "Nothing was written."
                )
            while_waiting()

    def refuse_to_wait_here(self, what: str) -> None:
        """Raise if the calling thread would wait for itself, in a finalizer that has interrupted this class."""
        if self._lock._is_owned() or threading.current_thread() is self.follower:  # type: ignore[attr-defined]
            raise NotWrittenError(
                f"{what} has to be waited for, which a finalizer cannot do while changes are applied "
                "on its thread. Nothing was written. Leave the work to a thread of your own."
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
        """Have the threads that wait for these locks try again."""
        if self._unlocks:
            with self._lock:
                for key in keys:
                    for event in self._unlocks.get(key, ()):
                        event.set()
