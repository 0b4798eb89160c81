"""The log of a topic's events, for one audience: an immutable value of the store.

A log has an epoch, which is new whenever the log is created, the sequence number of the next event, and the events:
their sequence number, the time of `emit` and of their expiry in nanoseconds (None if they do not expire), and value.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

from fastserverstate._core import HIDDEN, Namespace, Store, Transactions, begin_transaction

Event: TypeAlias = tuple[int, int, int | None, Any]
Log: TypeAlias = tuple[str, int, tuple[Event, ...]]

PREFIX = HIDDEN + "events/"


class Item(NamedTuple):
    """An event in the log of a key."""

    key: str
    epoch: str
    event: Event


def log_key(topic: str, audience: str | None = None) -> str:
    """Return the key of a topic's log: for all sessions, or for one audience."""
    key = PREFIX + quote(topic, safe="")
    return key if audience is None else f"{key}/{quote(audience, safe='')}"


def appended(log: Log | None, value: Any, now: int, lifetime: int | None, keep: int) -> Log:
    """Return the log with one event more, without those that have expired, and with `keep` events at most."""
    epoch, number, events = log or (os.urandom(8).hex(), 0, ())
    kept = [event for event in events if not is_expired(event, now)]
    kept.append((number, now, None if lifetime is None else now + lifetime, value))
    return epoch, number + 1, tuple(kept[-keep:])


def is_expired(event: Event, now: int) -> bool:
    return event[2] is not None and event[2] <= now


def seconds_left(log: Log, now: int) -> float | None:
    """Return the seconds until the last event expires; None if one does not expire."""
    ends = [event[2] for event in log[2]]
    return None if None in ends else max(0.0, (max(end for end in ends if end is not None) - now) / 1e9)


class Logs:
    """Appends to the logs of a store.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, expire: Callable[..., None], now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._expire = expire
        self._state = Namespace(store)
        self._transactions = Transactions(store)

    def append(self, key: str, value: Any, lifetime: int | None, keep: int) -> None:
        """Append an event atomically. The log ends with its last event."""
        with begin_transaction(self._transactions, (key,), None):
            now = self._now()
            log = appended(self._store.peek(key, None), value, now, lifetime, keep)
            self._state[key] = log
            self._expire(key, after=seconds_left(log, now))


def merged(logs: Iterable[Iterable[Item]]) -> list[Item]:
    """Merge the events of several logs by time. Those of each log keep their order."""
    return list(heapq.merge(*logs, key=lambda item: item.event[1]))
