"""Bounds of the number and size of values: the least recently used keys are evicted."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastserverstate._core import Store, absent, evicted
from fastserverstate.patterns import compiled, specificity
from fastserverstate.sizes import size_of

logger = logging.getLogger("fastserverstate")

PAUSE = 0.02  # seconds between two looks while keys change
RETRY = 1.0  # seconds until keys are tried again whose locks were held
WARN_EVERY = 60.0  # seconds between two warnings about one bound

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


Change = tuple[str, Any, int, int, float | None]  # key, value or `absent`, version, position, seconds left


def _version(change: Change) -> int:
    """Orders the changes of one batch. Without the GIL it orders only those of one shard: see _core.pyx."""
    return change[2]


def bytes_of(size: float | str, what: str) -> float:
    """The size in bytes, a number or text such as ``"256MB"``. `what` names it in a message."""
    if isinstance(size, str):
        found = re.fullmatch(r"\s*([\d.]+)\s*([a-z]+)\s*", size.lower())
        if found is None or found[2] not in _UNITS or found[1].count(".") > 1:
            raise ValueError(
                f"{what} cannot be {size!r}. Write a number and its unit, such as '500kB', '256MB' or '1GiB'."
            )
        return float(found[1]) * _UNITS[found[2]]
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise TypeError(
            f"{what} is a number of bytes, or text such as '256MB', not {size!r} of type {type(size).__qualname__}."
        )
    return size


@dataclass(eq=False)
class _Group:
    """The keys that one bound counts, with their versions and sizes. The first was not used for longest."""

    name: str
    max_entries: float = math.inf
    max_bytes: float = math.inf
    keys: OrderedDict[str, tuple[int, int]] = field(default_factory=OrderedDict)
    size: int = 0
    warned_at: float = -math.inf

    def put(self, key: str, version: int, size: int) -> None:
        self.forget(key)
        self.keys[key] = version, size
        self.size += size

    def forget(self, key: str) -> None:
        self.size -= self.keys.pop(key, (0, 0))[1]

    def is_exceeded(self) -> bool:
        return len(self.keys) > self.max_entries or self.size > self.max_bytes


class Bounds:
    """Keeps the keys of a store within bounds, on a thread of its own.

    A key is counted by the most specific of the patterns with bounds that it matches, and by the bound of the process.
    Keys leave in the order of their last use: a write, or sessions and others that depended on them when it was their
    turn. Keys that are in use are spared while there are others.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget the keys and the thread, which are the parent's. The next call of `set` starts another one."""
        self._lock = threading.RLock()
        self._process = _Group("this process")
        self._groups: dict[re.Pattern[str], _Group] = {}  # the most specific pattern first
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def set(self, pattern: str | None, max_entries: float | None, max_bytes: float | None) -> None:
        """Set the bounds of keys that match a pattern, or of all keys. Those that are None stay as they are."""
        with self._lock:
            group = self._group_of(pattern)
            before = group.max_entries, group.max_bytes
            if max_entries is not None:
                group.max_entries = max_entries
            if max_bytes is not None:
                group.max_bytes = max_bytes
            if before == (group.max_entries, group.max_bytes):
                return
            self._store.watch_changes()  # counts all keys anew, since this group may take them from another one
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fastserverstate.bounds", daemon=True)
                self._thread.start()

    def _group_of(self, pattern: str | None) -> _Group:
        if pattern is None:
            return self._process
        known = next((group for group in self._groups.values() if group.name == pattern), None)
        if known is None:
            known = _Group(pattern)
            groups = [*self._groups.items(), (compiled(pattern), known)]
            self._groups = dict(sorted(groups, key=lambda item: -specificity(item[1].name)))
        return known

    def _all_groups(self) -> list[_Group]:
        """Return all groups. The process is last: what the patterns evict may be enough for its bound."""
        return [*self._groups.values(), self._process]

    def _groups_of(self, key: str) -> list[_Group]:
        found = next((group for pattern, group in self._groups.items() if pattern.match(key)), None)
        return [self._process] if found is None else [self._process, found]

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._store.close_changes()

    def _run(self) -> None:
        wait = -1.0
        while not self._is_closed:
            self._store.sleep_until_changed(wait)
            try:
                wait = -1.0 if self.enforce(self._store.take_changes()) else RETRY
            except Exception:
                logger.exception("Bounds of server_state were not enforced.")
                wait = RETRY
            time.sleep(PAUSE)

    def enforce(self, changes: Iterable[Change]) -> bool:
        """Count the changed keys, and evict others as needed. Returns False if a bound is still exceeded."""
        with self._lock:
            newest = set()
            for key, value, version, *_ in sorted(changes, key=_version):
                newest.add(key)
                self._count(key, value, version)
            exceeded = [group for group in self._all_groups() if not self._reduce(group, newest)]
            return not exceeded

    def _count(self, key: str, value: object, version: int) -> None:
        groups = self._groups_of(key)
        for group in self._all_groups():
            if group not in groups or value is absent:
                group.forget(key)
        if value is not absent:
            size = size_of(value) if any(group.max_bytes < math.inf for group in groups) else 0
            for group in groups:
                group.put(key, version, size)

    def _reduce(self, group: _Group, newest: Collection[str]) -> bool:
        """Evict keys until the group is within its bounds. Returns whether it is."""
        if not group.is_exceeded():
            return True
        if self._store.has_backend():
            self._warn(group, "They are not enforced while this server is connected to Redis.")
            return True
        for key in [key for key in newest if group.keys.get(key, (0, 0))[1] > group.max_bytes]:
            if self._evict(key, group.keys[key][0]):
                self._warn(group, f"The value of {key!r} alone is larger, so it was evicted.")
        self._evict_oldest(group, lambda key: key in newest or self._is_in_use(key))
        self._evict_oldest(group, self._is_in_use)
        if group.is_exceeded() and self._evict_oldest(group, lambda _key: False):
            self._warn(group, "All keys are in use, so keys were evicted that sessions show.")
        return not group.is_exceeded()

    def _is_in_use(self, key: str) -> bool:
        used, nodes = self._store.observers(key)
        return used or bool(nodes)

    def _evict_oldest(self, group: _Group, is_spared: Callable[[str], bool]) -> int:
        """Look at each key once, the oldest first, until the group is within its bounds. Returns how many were evicted.

        Keys that stay become the newest, in their order.
        """
        evictions = 0
        for key, (version, _) in list(group.keys.items()):
            if not group.is_exceeded():
                break
            if not is_spared(key) and self._evict(key, version):
                evictions += 1
            else:
                group.keys.move_to_end(key)
        return evictions

    def _evict(self, key: str, version: int) -> bool:
        """Remove a key unless it has changed or its lock is held. The next changes tell of it then."""
        if not self._store.remove_because(key, version, evicted):
            return False
        for group in self._all_groups():
            group.forget(key)
        return True

    def _warn(self, group: _Group, text: str) -> None:
        now = self._clock()
        if now - group.warned_at >= WARN_EVERY:
            group.warned_at = now
            logger.warning("The bounds of %s are exceeded. %s", group.name, text)
