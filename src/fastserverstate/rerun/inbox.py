"""Which events a session has had, and which of them its browser may not have got.

A run that takes an event sends messages for it. When the next run begins, Streamlit discards those that were not sent
to the browser yet. If that run is a user's, the session gets the events again whose messages were discarded, and an
event for which it has sent none when its run was interrupted. If the script has asked for the run itself
(``st.rerun``), they count as delivered: it would ask again for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from fastserverstate.event_log import Item, Log, is_expired, merged

# Cursors of logs that do not exist, beyond those that the session's scopes read.
MOST_SPARE = 32

# Seconds after which a thread that waits for the event loop looks whether it has to stop.
LOOK = 0.05


class Connection(Protocol):
    """The way to a browser."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def unsent(self) -> Sequence[object]:
        """Return the messages that were not sent yet. Called on the event loop."""


class Cursor:
    """How far a session has read a log."""

    def __init__(self, epoch: str | None, position: int) -> None:
        self.epoch = epoch  # None: there was no log
        self.position = position  # of the first event that it has not had
        self.again: set[int] = set()  # earlier ones that it gets again

    def unread(self, key: str, log: Log | None, now: int) -> list[Item]:
        """Return the events that the session has not had. In a log that is new, that is all of them."""
        epoch = None if log is None else log[0]
        if epoch != self.epoch:
            self.epoch, self.position, self.again = epoch, 0, set()
        if log is None:
            return []
        if self.again:
            self.again &= {event[0] for event in log[2]}
        return [
            Item(key, log[0], event)
            for event in log[2]
            if (event[0] >= self.position or event[0] in self.again) and not is_expired(event, now)
        ]

    def take(self, item: Item) -> bool:
        """Note that the session gets the event. Return False if it has had it."""
        number = item.event[0]
        if item.epoch != self.epoch:
            return False
        if number >= self.position:
            self.position = number + 1
        elif number in self.again:
            self.again.discard(number)
        else:
            return False
        return True


class Delivery:
    """An event that a run has taken."""

    def __init__(self, item: Item, fragment: str | None) -> None:
        self.item = item
        self.fragment = fragment
        self.has_sent = False  # a message


class _Message:
    """A message that a run has sent while it was processing events."""

    def __init__(self, message: object, deliveries: Collection[Delivery], run: int) -> None:
        self.message = message  # is kept, since messages are told by their ids
        self.deliveries = deliveries
        self.run = run
        self.is_queued = False


class Inbox:
    """The events of one session.

    Thread-safety
        Threads of runs read and take. `run_started` and `run_finished` are called on the thread of the run, `flushed`
        and `cleared` on the event loop.
    """

    def __init__(self, connection: Connection | None = None) -> None:
        """Without a connection, as in AppTest, all events that were taken are delivered."""
        self._connection = connection
        self._lock = threading.RLock()
        self._cursors: dict[str, Cursor] = {}
        self._topics: dict[str | None, dict[str, set[str]]] = {}  # by fragment: topics, with the keys of their logs
        self._new: dict[str | None, dict[str, set[str]]] = {}  # the same, of this run
        self._owed: set[str | None] = set()  # fragments that have to rerun
        self.runs = 0
        """Number of runs that have begun."""
        self._open: dict[Delivery, None] = {}  # are being processed
        self._unsent: dict[int, _Message] = {}  # by the id of the message
        self._discarded: dict[Delivery, None] = {}
        self._unresolved = 0  # starts of runs that the event loop has not seen yet
        self._resolved: threading.Condition | None = None  # few sessions need it

    def __reduce__(self) -> Any:
        return Inbox, ()  # AppTest may look whether the session's state can be pickled

    # Runs

    def wait_until_resolved(self, raise_if_stopped: Callable[[], None]) -> None:
        """Wait until it is known which events of the last run were delivered. The event loop tells in a moment."""
        while self._unresolved and self._resolved is not None:
            with self._lock:
                if self._resolved.wait_for(lambda: not self._unresolved, LOOK):
                    return
            raise_if_stopped()
            if self._connection is None or self._connection.loop.is_closed():
                return

    def read(
        self, topic: str, logs: Mapping[str, Log | None], replay: int, now: int, fragment: str | None = None
    ) -> list[Item]:
        """Return the events in the logs of a topic that the session has not had.

        In a log that it reads for the first time, it has had all of them but the last `replay`.
        """
        with self._lock:
            self._new.setdefault(fragment, {}).setdefault(topic, set()).update(logs)
            self._owed.discard(fragment)
            began = [key for key in logs if key not in self._cursors]
            for key in began:
                log = logs[key]
                self._cursors[key] = Cursor(None, 0) if log is None else Cursor(log[0], 0 if replay else log[1])
            unread = {key: self._cursors[key].unread(key, log, now) for key, log in logs.items()}
            if replay:
                replayed = merged(unread[key] for key in began)[-replay:]
                for key in began:
                    unread[key] = [item for item in replayed if item.key == key]
                    log = logs[key]
                    if log is not None:
                        self._cursors[key].position = unread[key][0].event[0] if unread[key] else log[1]
            return merged(unread.values())

    def take(self, item: Item, run: int | None, fragment: str | None = None) -> Delivery | None:
        """Take an event in the run of this number.

        Returns None if the session has had it meanwhile, or has begun another run.
        """
        with self._lock:
            cursor = self._cursors.get(item.key)
            if run != self.runs or cursor is None or not cursor.take(item):
                return None
            delivery = Delivery(item, fragment)
            if self._connection is not None:
                self._open[delivery] = None
            return delivery

    def processed(self, delivery: Delivery) -> None:
        """The run has done what it does for the event."""
        with self._lock:
            self._open.pop(delivery, None)

    def message_sent(self, message: object) -> None:
        """The run has sent a message."""
        if self._open:
            with self._lock:
                for delivery in self._open:
                    delivery.has_sent = True
                self._unsent[id(message)] = _Message(message, list(self._open), self.runs)

    def emitted(self, key: str) -> None:
        """The run has emitted to this log. Scopes of it that have read the log rerun after it."""
        with self._lock:
            for fragment, topics in self._new.items():
                if any(key in keys for keys in topics.values()):
                    self._owed.add(fragment)

    def joined(self, fragment: str | None, keys_of: Callable[[str], str], logs_of: Callable[[str], Log | None]) -> None:
        """The session has joined a group in this run. Topics that it has read before are read for the group, too.

        `keys_of` returns the key of a topic's log for the group, and `logs_of` reads the log, for the scope that
        `fragment` names.
        """
        with self._lock:
            read = {of: set(topics) for of, topics in self._new.items()}
            known = {topic for topics in (*self._topics.values(), *self._new.values()) for topic in topics}
        for topic in known:
            key = keys_of(topic)
            log = logs_of(key)
            with self._lock:
                self._cursors[key] = Cursor(None, 0) if log is None else Cursor(log[0], log[1])
                for of, topics in read.items():
                    if topic in topics:
                        self._new[of][topic].add(key)
                        if of != fragment:
                            self._owed.add(of)

    def take_owed(self) -> set[str | None]:
        """Return the fragments that have to rerun, since the last call."""
        with self._lock:
            owed, self._owed = self._owed, set()
        return owed

    def run_started(self, by_user: bool) -> None:
        """Another run begins. `by_user`: the script did not ask for it."""
        with self._lock:
            self.runs += 1
            left, self._open = [delivery for delivery in self._open if not delivery.has_sent], {}
            self._keep(())
            if not (left or self._unsent or self._discarded):
                return
            self._unresolved += 1
            self._resolved = self._resolved or threading.Condition(self._lock)
        # Streamlit has the event loop discard the messages before this.
        if not self._call(self._resolve, self.runs, left, by_user):
            self._resolve(self.runs, (), by_user)

    def run_finished(
        self, complete: Collection[str | None], exists: Callable[[str], bool], stopped: bool, by_user: bool
    ) -> None:
        """A run has ended. `stopped` by the user, who may have asked for the next run (`by_user`)."""
        with self._lock:
            left, self._open = self._open, {}
            if stopped or by_user:
                for delivery in left:
                    if not delivery.has_sent:
                        self._give_back(delivery, owes=by_user)
            self._keep(complete)
            for topics in (self._topics, self._new):
                for fragment in [each for each in topics if each is not None and not exists(each)]:
                    del topics[fragment]

    def _keep(self, complete: Collection[str | None]) -> None:
        """Note what the scopes read: in complete runs of them nothing that earlier ones did."""
        new, self._new = self._new, {}
        for fragment, topics in new.items():
            before = {} if fragment in complete else self._topics.get(fragment, {})
            self._topics[fragment] = {
                topic: before.get(topic, set()) | topics.get(topic, set()) for topic in {*before, *topics}
            }
        for fragment in complete:
            if fragment not in new:
                self._topics.pop(fragment, None)

    def forget(self, exists: Callable[[str], bool]) -> None:
        """Forget the cursors of logs that do not exist and that no scope reads, if there are many."""
        with self._lock:
            read = {
                key
                for topics in (*self._topics.values(), *self._new.values())
                for keys in topics.values()
                for key in keys
            }
            if len(self._cursors) > len(read) + MOST_SPARE:
                self._cursors = {key: cursor for key, cursor in self._cursors.items() if key in read or exists(key)}

    def __len__(self) -> int:
        """The number of logs whose events the session has had."""
        return len(self._cursors)

    # On the event loop

    def _call(self, function: Callable[..., None], *args: object) -> bool:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if self._connection is not None:
                self._connection.loop.call_soon_threadsafe(function, *args)
                return True
        return False

    def queued(self, message: object) -> None:
        """A message has entered the queue."""
        if self._unsent:
            found = self._unsent.get(id(message))
            if found is not None:
                found.is_queued = True

    def flushed(self) -> None:
        """All messages in the queue are being sent."""
        if self._unsent:
            with self._lock:
                for key in [key for key, found in self._unsent.items() if found.is_queued]:
                    del self._unsent[key]

    def cleared(self) -> None:
        """A run has begun, and messages in the queue were discarded."""
        if self._unsent and self._connection is not None:
            left = {id(message) for message in self._connection.unsent()}
            with self._lock:
                self._discard(lambda key, found: found.is_queued and key not in left)

    def _discard(self, is_lost: Callable[[int, _Message], bool]) -> None:
        for key in [key for key, found in self._unsent.items() if is_lost(key, found)]:
            self._discarded.update(dict.fromkeys(self._unsent.pop(key).deliveries))

    def _resolve(self, run: int, left: Collection[Delivery], by_user: bool) -> None:
        with self._lock:
            # If another runner has begun, Streamlit drops what the earlier one has sent last.
            self._discard(lambda _, found: found.run < run and not found.is_queued)
            self._discarded.update(dict.fromkeys(left))
            discarded, self._discarded = self._discarded, {}
            if by_user:
                for delivery in discarded:
                    self._give_back(delivery, owes=True)
            self._unresolved -= 1
            if self._resolved is not None:
                self._resolved.notify_all()

    def _give_back(self, delivery: Delivery, *, owes: bool) -> None:
        cursor = self._cursors.get(delivery.item.key)
        if cursor is not None and cursor.epoch == delivery.item.epoch:
            cursor.again.add(delivery.item.event[0])
            if owes:
                self._owed.add(delivery.fragment)
