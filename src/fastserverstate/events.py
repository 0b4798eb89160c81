"""`emit` and `events`: messages that each session gets once."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final, Protocol, Self

from fastserverstate._core import (
    Namespace,
    Store,
    plain_key,
    reruns_are_suppressed,
)
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.errors import FastServerStateError
from fastserverstate.event_log import Item, Log, Logs, log_key
from fastserverstate.identity import Identity
from fastserverstate.listeners import Listeners
from fastserverstate.rerun.inbox import Cursor, Delivery, Inbox
from fastserverstate.users import user_key
from fastserverstate.waiting import LOCKED_RETRY, tell

KEEP = 100
TTL = "1h"
_SECONDS_OF_TTL = 3600.0  # reading the text would import pandas

ALL: Final[Any] = type("All", (), {"__repr__": lambda _: "<all sessions>"})()


class Reader(Protocol):
    """A session whose script run the calling thread takes part in."""

    @property
    def inbox(self) -> Inbox: ...

    @property
    def fragment(self) -> str | None: ...

    @property
    def run(self) -> int | None:
        """The number of the run; None if the session has begun another one."""

    @property
    def user(self) -> Mapping[str, Any] | None:
        """The fields of ``st.user`` if a user is logged in."""

    @property
    def groups(self) -> Collection[str]:
        """The groups that the session has joined."""

    def raise_if_stopped(self) -> None:
        """Raise the exception that ends the run, if it has to end."""


# Returns the reader of the calling thread, None if the thread takes part in no run.
CurrentReader = Callable[[], Reader | None]


def _of_group(group: str) -> str:
    return f"group:{group}"


def _of_user(user: Mapping[str, Any]) -> str:
    return f"user:{user_key(user)}"


def _audience(to: Any) -> str | None:
    if to is ALL:
        return None
    if isinstance(to, str):
        return _of_group(plain_key(to))
    if isinstance(to, Mapping):
        return _of_user(to)
    raise TypeError(
        f"emit(..., to=...) takes the name of a group, or a user such as st.user, not {to!r} of type "
        f"{type(to).__qualname__}. Leave it out to emit to all sessions."
    )


class _OfRun:
    """The events that a run gets."""

    def __init__(self, reader: Reader, items: Collection[Item]) -> None:
        self._reader = reader
        self._items = deque(items)
        self._delivery: Delivery | None = None

    def next(self) -> Any:
        inbox = self._reader.inbox
        if self._delivery is not None:
            inbox.processed(self._delivery)
            self._delivery = None
        while self._items:
            self._reader.raise_if_stopped()
            item = self._items.popleft()
            self._delivery = inbox.take(item, self._reader.run, self._reader.fragment)
            if self._delivery is not None:
                return item.event[3]
        raise StopIteration

    async def next_async(self) -> Any:
        try:
            return self.next()
        except StopIteration:
            raise StopAsyncIteration from None


class _Following:
    """The events to all sessions, for as long as a thread listens."""

    def __init__(self, topics: Topics, key: str, replay: int, timeout: float | None) -> None:
        self._topics = topics
        self._key = key
        self._timeout = timeout
        self._items: deque[Item] = deque()
        self._is_over = False
        log = topics.store.peek(key, None)
        self._cursor = Cursor(None, 0) if log is None else Cursor(log[0], log[1])
        if log is not None and replay:
            self._cursor.position = 0
            kept = self._cursor.unread(key, log, topics.now())[-replay:]
            self._cursor.position = kept[0].event[0] if kept else log[1]

    def _end(self) -> float:
        return math.inf if self._timeout is None else time.monotonic() + self._timeout

    def _take(self) -> Item | None:
        while self._items:
            item = self._items.popleft()
            if self._cursor.take(item):
                return item
        return None

    def _refill(self, log: Log | None) -> Item | None:
        self._items.extend(self._cursor.unread(self._key, log, self._topics.now()))
        return self._take()

    def next(self) -> Any:
        store, end = self._topics.store, self._end()

        def left() -> float:
            return -1 if end == math.inf else max(0.0, end - time.monotonic())

        item = self._take()
        while item is None and not self._is_over:
            version = store.version(self._key)
            try:
                item = self._refill(store.peek(self._key, None, left()))
                self._is_over = item is None and not store.wait_for_change(self._key, version, left())
            except TimeoutError:  # another thread holds the lock of the log
                self._is_over = True
        if item is None:
            raise StopIteration
        return item.event[3]

    async def next_async(self) -> Any:
        item = self._take()
        if item is None and not self._is_over:
            item = await self._wait()
            self._is_over = item is None
        if item is None:
            raise StopAsyncIteration
        return item.event[3]

    async def _wait(self) -> Item | None:
        changed = asyncio.Event()
        limit = asyncio.timeout(self._timeout)
        told = partial(tell, asyncio.get_running_loop(), changed)
        subscription = self._topics.listeners.add(self._key, told, Identity(changed.set))
        try:
            async with limit:
                while True:
                    changed.clear()
                    try:
                        item = self._refill(self._topics.store.peek(self._key, None, 0))
                    except TimeoutError:  # another thread holds the lock of the log
                        await asyncio.sleep(LOCKED_RETRY)
                        continue
                    if item is not None:
                        return item
                    await changed.wait()
        except TimeoutError:
            if not limit.expired():
                raise
            return None
        finally:
            subscription.remove()


class Events:
    """The events that `events` returns: an iterator for ``for`` and ``async for``.

    >>> from fastserverstate import Events, events
    >>> isinstance(events("alerts"), Events)
    True
    """

    def __init__(self, source: _OfRun | _Following) -> None:
        self._source = source

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._source.next()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self._source.next_async()


class Topics:
    """The topics of a store, and their events.

    Thread-safety
        Safe from any thread.
    """

    def __init__(
        self,
        store: Store,
        listeners: Listeners,
        *,
        expire: Callable[..., None],
        reader: CurrentReader,
        is_evaluating: Callable[[], bool],
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.store = store
        self.listeners = listeners
        self.now = now
        self._reader = reader
        self._is_evaluating = is_evaluating
        self._state = Namespace(store)
        self._logs = Logs(store, expire, now)

    def emit(
        self,
        topic: str,
        value: Any,
        *,
        to: str | Mapping[str, Any] = ALL,
        keep: int = KEEP,
        ttl: Duration = TTL,
    ) -> None:
        """Emit an event: each session that reads the topic with `events` gets the value once, in order.

        Sessions that have read the topic are rerun, if they belong to the audience `to`: by default all sessions; with
        the name of a group, those that have joined it; with a user (``st.user``, or the `user` of a `SessionInfo`), all
        sessions of this person.

        The last `keep` events are kept for `ttl` (seconds, a ``timedelta``, or text such as ``"10m"``) for sessions
        that are away. So a session that does not read while more than `keep` events come gets the last ones. Each
        audience of a topic has events of its own.

        Inside a transaction, the event is emitted when the transaction ends, and discarded with it. Inside a
        ``no_rerun`` block it reruns no session.

        Thread-safety
            Safe from any thread: no event is lost, and all sessions get the events of an audience in the same order.
            Waits while another thread holds the lock of the topic's log, for example in a transaction.

        Raises
            ``TypeError`` if the topic is not a ``str``, or `to` is neither a ``str`` nor a user, ``ValueError`` if the
            user is not logged in, `keep` is not a whole number of at least 1 or `ttl` is negative, ``DeadlockError``
            if the wait would never end. With Redis, values that cannot be stored raise the error of an assignment.

        >>> from fastserverstate import emit, events
        >>> alerts = events("alerts")
        >>> emit("alerts", "Deploy at noon")
        >>> next(alerts)
        'Deploy at noon'
        """
        key = log_key(plain_key(topic), _audience(to))
        if not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep is a whole number of at least 1, not {keep!r}.")
        seconds = _SECONDS_OF_TTL if ttl == TTL else seconds_of(ttl, "ttl")
        lifetime = None if seconds == math.inf else int(seconds * 1e9)
        self._logs.append(key, value, lifetime, keep)
        reader = self._reader()
        if reader is not None and reader.run is not None and not reruns_are_suppressed():
            reader.inbox.emitted(key)

    def events(self, topic: str, *, replay: int = 0, timeout: Duration | None = None) -> Events:
        """Return the events of a topic: in a script run those that this session has not had yet, in order.

        In a script or fragment, the iteration ends after the last event there is. The next event reruns this script or
        fragment, which then gets it. Each session gets every event once, even if several fragments read the topic: the
        events to all sessions, to its user, and to the groups that it has joined. A new session gets none of the
        earlier events, or the last `replay` ones. One that was away gets the events that were kept when it returns.

        An event counts as delivered unless the user's next action interrupts the run before the elements that the loop
        has made for it were sent to the browser: then the session gets it again. If the script asks for the next run
        itself, with ``st.rerun()``, the events that it was given before count as delivered.

        On any other thread, the iteration waits for further events to all sessions, from this call on. It ends when
        none has come for `timeout` (seconds, a ``timedelta``, or text such as ``"2m"``), which script runs ignore. On
        an event loop, use ``async for``. ``AppTest`` gets events like a session.

        Thread-safety
            Safe from any thread. Use one result on one thread.

        Raises
            ``TypeError`` if the topic is not a ``str``, ``ValueError`` if `replay` is not a whole number from 0 up,
            ``FastServerStateError`` in functions that `live` or `computed` has decorated, ``WouldBlockError`` for a
            ``for`` that would block a thread that runs an event loop. A waiting ``for`` raises what `wait_for` does
            when the process ends.

        >>> import streamlit as st
        >>> from fastserverstate import events
        >>> def show_alerts():
        ...     for alert in events("alerts"):
        ...         st.toast(alert)
        """
        topic = plain_key(topic)
        if isinstance(replay, bool) or not isinstance(replay, int) or replay < 0:
            raise ValueError(f"replay is a whole number from 0 up, not {replay!r}.")
        if self._is_evaluating():
            raise FastServerStateError(
                f"events({topic!r}) gives each session its own events, and a function decorated with @live or "
                "@computed is called once for all sessions. Call events in the script or in a fragment."
            )
        seconds = seconds_of(timeout, "timeout")
        reader = self._reader()
        if reader is None:
            return Events(_Following(self, log_key(topic), replay, seconds))
        reader.raise_if_stopped()
        return Events(_OfRun(reader, self._unread(reader, topic, replay) if reader.run is not None else ()))

    def _unread(self, reader: Reader, topic: str, replay: int) -> list[Item]:
        audiences: list[str | None] = [None]
        user = reader.user
        if user is not None:
            audiences.append(_of_user(user))
        audiences += map(_of_group, reader.groups)
        reader.inbox.wait_until_resolved(reader.raise_if_stopped)
        logs = {key: self._state.get(key) for key in (log_key(topic, audience) for audience in audiences)}
        items = reader.inbox.read(topic, logs, replay, self.now(), reader.fragment)
        reader.inbox.forget(lambda key: self.store.version(key) > 0)
        return items

    def joined(self, group: str) -> None:
        """The session of the calling thread's run has joined a group, which it was not in: from now on it gets the
        group's events of the topics that this run has read already."""
        reader = self._reader()
        if reader is not None and reader.run is not None:
            audience = _of_group(group)
            reader.inbox.joined(reader.fragment, lambda topic: log_key(topic, audience), self._state.get)
