"""One server's connection to a namespace: its operations on the engine, and its status."""

from __future__ import annotations

import itertools
import math
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fastserverstate._core import on_event_loop
from fastserverstate.cluster.client import Engine, Reply, backoff_delays, timeout_override
from fastserverstate.cluster.errors import (
    NotConnectedError,
    NotWrittenError,
    UnknownOutcomeError,
    UnsharableValueError,
)
from fastserverstate.cluster.locks import Leases
from fastserverstate.cluster.log_follower import LogFollower, logger
from fastserverstate.cluster.replica import (
    GONE,
    NEVER,
    Change,
    InFlightWrite,
    Replica,
    Table,
    Version,
    parse_version,
    version_text,
)
from fastserverstate.codec import Codec, UnencodableValueError, encode_key
from fastserverstate.errors import UnreadableValueError

FIRST_DELAY, LONGEST_DELAY = 0.001, 0.1
KEEP = b"K"  # in place of a ttl
_INT64 = range(-(2**63), 2**63)
_LONGEST = 10**14  # ms, which leave a sum that Lua represents exactly


@dataclass(frozen=True, slots=True)
class Write:
    """The change of one key in a write. See `numbered.write` in script.lua."""

    kind: bytes
    key: str
    value: Any
    condition: bytes = b""
    expiry: bytes = b""
    quiet: bool = False


def milliseconds(seconds: float) -> bytes:
    return b"%d" % min(math.ceil(seconds * 1000), _LONGEST)


def condition(version: Version) -> bytes:
    return b"" if version == NEVER else b"%d-%d" % version


@dataclass(frozen=True)
class Status:
    """What ``fastserverstate.cluster.status`` returns.

    Attributes
        ``address``: URL of the Redis server, without user and password. ``namespace``: name of the shared state.

        ``connected``: True if the Redis server replies. ``age``: seconds since this server was last known to be up to
        date; up to 2 if there are no failures and no writes.

        ``cursor``: version of the last change that was applied, as ``epoch-seq``. ``lag``: number of later changes that
        are known to exist. ``held``: number of keys whose newest change waits until a thread of this server releases a
        lock that it lost on the Redis server, or took before ``connect``.

        ``resyncs``: number of comparisons of all versions with those of the Redis server, including the first.
        ``outages``: number of lost connections. ``bytes_sent``, ``bytes_received``: bytes of this server's values, and
        of other servers' values.

        ``errors``: number of connection failures and of failed operations. ``last_error``: last error of the
        connection. ``unreadable``: number of values that could not be decoded. ``malformed``: number of other skipped
        items on the Redis server that this release cannot read.
    """

    address: str
    namespace: str
    connected: bool
    age: float
    cursor: str
    lag: int
    held: int
    resyncs: int
    outages: int
    bytes_sent: int
    bytes_received: int
    errors: int
    last_error: str
    unreadable: int
    malformed: int


class Node:
    """One server's connection to a namespace.

    Thread-safety
        Safe from any thread.
    """

    def __init__(
        self,
        table: Table,
        url: str,
        *,
        namespace: str,
        secret: str | bytes | None = None,
        timeout: float = 10.0,
        while_waiting: Callable[[], object] = lambda: None,
        on_join: Callable[[], object] = lambda: None,
    ) -> None:
        self.namespace = namespace
        self.codec = Codec(namespace, secret)
        self.engine = Engine(url, namespace, timeout, while_waiting)
        self.replica = Replica(table, self.codec)
        self.leases = Leases(self.engine, self.replica, while_waiting)
        self.follower = LogFollower(self.engine, self.replica, self._join)
        self._table = table
        self._on_join = on_join
        self._while_waiting = while_waiting
        self._tickets = itertools.count(1)
        self._name = uuid.uuid4().hex.encode()
        self._sent = 0

    def __repr__(self) -> str:
        return f"<node of {self.namespace!r} at {self.engine.address}>"

    def start(self, timeout: float) -> bool:
        """Start to follow the engine. Returns False if it is not reached in time or refuses; the follower retries."""
        self.follower.start()
        self.follower.decided.wait(timeout)
        return self.follower.synchronised.is_set()

    def close(self) -> None:
        """Stop following. Waits for the end of the thread if it ever synchronised, but not on an event loop."""
        self.follower.stop()
        is_follower = threading.current_thread() is self.follower  # in a finalizer
        if self.follower.synchronised.is_set() and not is_follower and not on_event_loop():
            self.follower.join(10)
        self.leases.close()
        self.engine.close()

    def _join(self) -> None:
        """Share the keys that were set before the engine was reached. Keys that the engine has keep their values."""
        self._on_join()
        keys = self._table.keys()
        for key in keys:
            value = self._table.peek(key)
            if value is GONE:
                continue
            try:
                self._send([Write(b"N", key, value, b"", self._expiry(key, left=self._table.deadline(key)))])
            except UnsharableValueError as error:
                logger.warning("%s It is dropped.", error)

    # Writing

    def _send(self, changes: Sequence[Write]) -> Reply:
        """Send changes, and apply their results to the table."""
        ticket = b"%b:%d" % (self._name, next(self._tickets))
        origin = self._table.origin()
        flat: list[bytes] = []
        for change in changes:
            data = b"" if change.value is GONE else self.encode(change.key, change.value)
            self._sent += len(data)
            quiet = b"1" if change.quiet else b"0"
            flat += change.kind, encode_key(change.key), data, change.condition, change.expiry, quiet
        known = {change.key: change.value for change in changes if change.kind not in {b"A", b"I", b"X"}}
        self.replica.begin_write(ticket, InFlightWrite(known, origin))
        try:
            given = timeout_override.get()
            reply = self.leases.when_free(
                [change.key for change in changes],
                lambda: self.engine.call(
                    b"write",
                    self.leases.holder(),
                    ticket,
                    *self.leases.claims(),
                    *flat,
                    numbered=True,
                ),
                None if given is None else time.monotonic() + given,
            )
            if reply is None:
                raise NotWrittenError(
                    f"server_state[{changes[0].key!r}] was locked for {given:.3g} seconds. Nothing was written."
                )
            if reply[0] == b"OK":
                self._written(changes, reply, origin)
        finally:
            self.replica.complete_write(ticket, [change.key for change in changes])
        return reply

    def encode(self, key: str, value: Any) -> bytes:
        """Return what would be sent. Raises UnsharableValueError."""
        try:
            return self.codec.encode(key, value)
        except UnencodableValueError as error:
            raise UnsharableValueError(
                f"server_state[{key!r}] cannot be sent to other servers: {error.reason}"
            ) from error.__cause__

    def _written(self, changes: Sequence[Write], reply: Reply, origin: object) -> None:
        version = self._version(reply[1])
        made = {}
        for change, before, answer, after in zip(changes, reply[3::3], reply[4::3], reply[5::3], strict=True):
            if change.kind == b"A" and before:
                self._wait_until_applied(change.key, self._version(after))  # the engine has a value, the table not yet
            elif reply[2] == b"1" and after == reply[1]:
                value = int(answer[1:]) if change.kind == b"I" else change.value
                made[change.key] = Change(version, value, change.quiet)
            elif change.kind == b"S":
                there = Change(self._version(after), change.value, change.quiet)
                self.replica.apply_equal_value(change.key, there, origin)
            elif change.kind == b"I":
                self._wait_until_applied(change.key, self._version(after))
        if made:
            self.follower.newest_version = max(self.follower.newest_version, version)
            self.replica.apply_write(made, origin)

    @staticmethod
    def _version(text: object) -> Version:
        version = parse_version(text)
        if version is None:
            raise UnknownOutcomeError(
                f"The Redis server returned {text!r}, which is not a version. The write may have happened."
            )
        return version

    def _expiry(self, key: str, *, left: float | None = None, keeps_deadline: bool = False) -> bytes:
        """Return the deadlines of a key that is written, as `parse_expiry` in script.lua expects them."""
        ttl, idle_ttl = self._table.lifetime(key)
        expiry = milliseconds(ttl if left is None else left) if ttl or left is not None else KEEP * keeps_deadline
        return expiry + b"/" + milliseconds(idle_ttl) if idle_ttl else expiry

    def set(self, key: str, value: Any, *, always_changes: bool = False, keeps_deadline: bool = False) -> None:
        expiry = self._expiry(key, keeps_deadline=keeps_deadline)
        self._send([Write(b"T" if always_changes else b"S", key, value, b"", expiry, self._table.is_quiet())])

    def set_if_absent(self, key: str, value: Any) -> Any:
        """Set the key if it is not set. Returns the existing value, or GONE."""
        attempts = self._attempts(key)
        while True:
            next(attempts)
            expected = condition(self.replica.version(key))
            change = Write(b"N", key, value, expected, self._expiry(key), self._table.is_quiet())
            reply = self._send([change])
            if not reply[3]:
                return GONE
            self._wait_until_applied(key, self._version(reply[3]))
            found = self._table.peek(key)
            if found is not GONE:
                return found
            if reply[4] is not None:
                self._refuse_unreadable(key, reply[4])

    def _refuse_unreadable(self, key: str, data: bytes) -> None:
        try:
            self.codec.decode(key, data)
        except UnreadableValueError as error:
            raise UnreadableValueError(
                f"server_state[{key!r}] is already set, to a value that this server cannot read. The value was not "
                f"changed. Give all servers the same secret and release, or assign or delete the key. {error}"
            ) from error

    def _attempts(self, key: str) -> Iterator[None]:
        """Yield for each attempt of an operation that starts again if another server was faster, until the timeout."""
        end = time.monotonic() + self.engine.timeout
        delays = backoff_delays(FIRST_DELAY, LONGEST_DELAY)
        yield
        while time.monotonic() < end:
            yield
            time.sleep(next(delays))
            self._while_waiting()
        raise NotWrittenError(
            f"server_state[{key!r}] was changed by other servers during each attempt for {self.engine.timeout:.3g} "
            f"seconds. Nothing was written. Hold server_state_lock[{key!r}] meanwhile."
        )

    def compare_and_set(self, key: str, expected: Version, value: Any) -> bool:
        """Set the key if it has the expected version, NEVER for a key that is not set. Its deadline remains."""
        expiry = self._expiry(key, keeps_deadline=True)
        reply = self._send([Write(b"C", key, value, condition(expected), expiry, self._table.is_quiet())])
        if reply[0] == b"OK":
            return True
        if reply[1]:
            self._wait_until_applied(key, self._version(reply[1]))
        else:
            self.sync()
        return False

    def delete(self, key: str) -> Any:
        """Delete the key. Returns its value, or GONE."""
        known, local = self._look(key)
        reply = self._send([Write(b"D", key, GONE, condition(known), b"", self._table.is_quiet())])
        if not reply[3]:
            if local is not GONE:
                self.sync()  # another server has deleted the key, and this server has not applied that yet
            return GONE
        if reply[4] is None:
            return local
        try:
            return self.codec.decode(key, reply[4])
        except UnreadableValueError as error:
            raise UnreadableValueError(f"{error} It was deleted.") from error

    def touch(self, key: str) -> None:
        """Send the current content of the value, and mark readers of the key as stale, even if it is not set."""
        attempts = self._attempts(key)
        while True:
            next(attempts)
            known, local = self._look(key)
            if local is GONE:
                self._send([Write(b"A", key, GONE, b"", b"", self._table.is_quiet())])
                return
            if known != NEVER and self.compare_and_set(key, known, local):
                return

    def _look(self, key: str) -> tuple[Version, Any]:
        """Return the value in the table and its version, both of the same moment."""
        attempts = self._attempts(key)
        while True:
            next(attempts)
            version = self.replica.version(key)
            value = self._table.peek(key)
            if version == self.replica.version(key):
                return version, value

    def increment(self, key: str, by: int, default: int) -> int | None:
        """Return the sum, or None if the value or the sum is not a 64-bit integer."""
        if by not in _INT64 or default not in _INT64:
            return None
        expiry = self._expiry(key, keeps_deadline=True)
        reply = self._send([Write(b"I", key, by, b"%d" % default, expiry, self._table.is_quiet())])
        return None if reply[0] == b"NOTINT" else int(reply[4][1:])

    def expire(self, key: str, seconds: float | None) -> bool:
        """Set the deadline of the key, None for none. Returns True if the key is set."""
        reply = self._send([Write(b"X", key, GONE, b"", b"" if seconds is None else milliseconds(seconds))])
        return bool(reply[3])

    def prolong(self, keys: Iterable[str]) -> None:
        """Tell the engine that this server uses keys that have an idle_ttl."""
        lifetimes = {key: self._table.lifetime(key)[1] for key in keys}
        pairs = [part for key, idle in lifetimes.items() if idle for part in (encode_key(key), milliseconds(idle))]
        self.engine.call(b"prolong", *pairs, whole=True)

    def commit(
        self,
        writes: Mapping[str, Any],
        touched: Collection[str] = (),
        quiet: Collection[str] = (),
        deadlines: Mapping[str, float | None] = MappingProxyType({}),
        kept: Collection[str] = (),
    ) -> None:
        """Make changes atomically; GONE deletes. The calling thread holds the locks of the keys.

        `deadlines` are in seconds from now, None for none. Writes of the keys in `kept` keep theirs.
        """
        changes = []
        for key, value in writes.items():
            kind = b"T" if key in touched else b"S"
            if value is GONE:
                kind = b"A" if key in touched and self.replica.version(key) == NEVER else b"D"
            expiry = b"" if value is GONE else self._expiry(key, keeps_deadline=key in kept)
            changes.append(Write(kind, key, value, b"", expiry, key in quiet))
        for key, seconds in deadlines.items():
            changes.append(Write(b"X", key, GONE, b"", b"" if seconds is None else milliseconds(seconds)))
        if changes:
            self._send(changes)

    def _wait_until_applied(self, key: str, version: Version) -> None:
        """Wait until the table has this or a newer version of the key, or holds it back because of the key's lock."""
        self.replica.wait_until_applied(key, version, self.engine.timeout, self._while_waiting)
        self.replica.apply_held([key], alone=True)

    # Reading

    def sync(self) -> None:
        """Wait until the table has all changes that the engine has now, so that the next read is linearizable.

        Does not wait for a change that is held back because its key is locked: a read of the key waits for the lock.
        """
        _, epoch, seq = self.engine.call(b"state")
        state = int(epoch), int(seq)
        self.follower.newest_version = max(self.follower.newest_version, state)
        self.replica.wait_for(
            lambda: self.replica.cursor >= state, "the state", self.engine.timeout, self._while_waiting
        )
        self.replica.apply_all()

    def status(self) -> Status:
        follower, cursor = self.follower, self.replica.cursor
        lag = follower.newest_version[1] - cursor[1] if follower.newest_version[0] == cursor[0] else 0
        return Status(
            address=self.engine.address,
            namespace=self.namespace,
            connected=follower.connected,
            age=time.monotonic() - follower.last_contact,
            cursor=version_text(cursor),
            lag=max(0, lag),
            held=self.replica.held,
            resyncs=follower.resyncs,
            outages=follower.outages,
            bytes_sent=self._sent,
            bytes_received=self.replica.received,
            errors=follower.errors + self.engine.errors,
            last_error="" if follower.last_error is None else str(follower.last_error),
            unreadable=self.replica.unreadable,
            malformed=self.replica.malformed,
        )

    def unreachable(self, timeout: float) -> NotConnectedError:
        error = self.follower.last_error
        why = f"no answer within {timeout:.3g} seconds" if error is None else str(error).rstrip(".")
        return NotConnectedError(f"{self.engine.address} cannot be reached ({why}).")
