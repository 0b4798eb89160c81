"""Follows the log, and resynchronises when entries may have been missed.

Entries are missing if the next one is not the successor of the cursor in the same epoch, or if a heartbeat finds that
the engine is not where the log ended. This does not depend on the connection or on the length of the log. Malformed
data in the log and in the hashes is skipped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import redis

from fastserverstate.cluster.client import AnswerLostError, Channel, Engine, RefusedError, Reply, backoff_delays
from fastserverstate.cluster.errors import ClusterError
from fastserverstate.cluster.replica import (
    NEVER,
    Entry,
    Replica,
    Version,
    parse_entry,
    parse_key,
    parse_version,
    version_text,
)
from fastserverstate.cluster.signals import Event
from fastserverstate.codec import encode_key

logger = logging.getLogger("fastserverstate")

BLOCK = 2.0  # seconds that the engine waits for an entry, and between heartbeats
REPLY_TIMEOUT = 1.5  # more seconds until the connection counts as dead
BATCH = 1000  # entries of one reply
CHUNK = 200  # keys of one request for values
FIRST_DELAY, LONGEST_DELAY = 0.01, 0.5
STEADY = 2.0  # seconds until a connection counts as stable
SILENCE = 60.0  # seconds between warnings

# The engine rejects the user, so there is no point in waiting for a connection.
_REFUSALS = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.exceptions.NoPermissionError)

Values = dict[str, tuple[Version, bytes | None]]


class _MissedError(Exception):
    """Entries of the log are missing after the cursor."""


class LogFollower(threading.Thread):
    """The thread that applies the writes of other servers to the replica."""

    def __init__(self, engine: Engine, replica: Replica, before_first_sync: Callable[[], object]) -> None:
        super().__init__(name="fastserverstate.cluster.log_follower", daemon=True)
        self._engine = engine
        self._replica = replica
        self._before_first_sync = before_first_sync
        self._channel: Channel = engine.channel(BLOCK + REPLY_TIMEOUT)
        self._stopped = Event()
        self._reap_at = 0.0  # when keys may have to expire, on the monotonic clock
        self.synchronised = Event()  # set after the first synchronization
        self.decided = Event()  # synchronised, or rejected by the engine
        self._warned = -float("inf")  # time of the last warning, on the monotonic clock
        self._log_recovery = False  # log when the connection is back, because its loss was logged
        self.connected = False
        self.last_contact = -float("inf")  # time of the last reply, on the monotonic clock
        self.newest_version = NEVER  # of all entries that are known to exist
        self.resyncs = self.outages = self.errors = 0
        self.last_error: Exception | None = None

    def run(self) -> None:
        self._replica.follower = self
        delays = backoff_delays(FIRST_DELAY, LONGEST_DELAY)
        while not self._stopped.is_set():
            start = time.monotonic()
            try:
                self._follow()
            except Exception as error:
                if self._stopped.is_set():
                    break
                if time.monotonic() - start > STEADY:
                    delays = backoff_delays(FIRST_DELAY, LONGEST_DELAY)
                self._note_failure(error)
            self.connected = False
            self._channel.close()
            self._stopped.wait(next(delays))
        self._channel.close()

    def stop(self) -> None:
        self._stopped.set()
        self._channel.interrupt()

    def _note_failure(self, error: Exception) -> None:
        self.errors += 1
        self.last_error = error
        if isinstance(error, _REFUSALS):
            self.decided.set()
        expected = isinstance(error, (redis.RedisError, RefusedError, AnswerLostError, ClusterError, OSError))
        self.outages += self.connected
        warned_recently = time.monotonic() - self._warned < SILENCE  # an unstable connection must not flood the log
        if not warned_recently and (self.connected or not expected):
            self._warned = time.monotonic()
            self._log_recovery = True
            logger.warning(
                "The connection to %s is lost (%s). Reads continue with the values that this server has.",
                self._engine.address,
                error,
                exc_info=None if expected else error,
            )

    def _follow(self) -> None:
        """Connect and apply entries until an error."""
        channel = self._channel
        channel.connect()
        epoch, _ = channel.adopt(max(self._engine.epoch, self._replica.cursor[0]))
        self._engine.epoch = max(self._engine.epoch, epoch)
        if not self.synchronised.is_set():
            self._check_policy()
            self._before_first_sync()
        if epoch != self._replica.cursor[0]:
            self._resynchronise()
        self._note_contact()
        if self._log_recovery:
            self._log_recovery = False
            logger.warning("The connection to %s is back.", self._engine.address)
        self.connected = True
        self.synchronised.set()
        self.decided.set()
        while not self._stopped.is_set():
            try:
                left = self._reap_at - time.monotonic()
                entries = self._read(min(max(left, 0.001), BLOCK))
                if entries:
                    self._apply_entries(entries)
                else:
                    self._heartbeat()
                if time.monotonic() >= self._reap_at:
                    self._reap()
            except _MissedError:
                self._resynchronise()
                self._reap_at = 0.0
            self._replica.apply_held()
            self._note_contact()

    def _check_policy(self) -> None:
        found = re.search(rb"maxmemory_policy:(\S+)", self._channel.execute("INFO", "memory"))
        if found is not None and found[1] != b"noeviction":
            logger.warning(
                "%s may evict any key when its memory is full (maxmemory-policy %s), including state and locks. Set "
                "maxmemory-policy noeviction.",
                self._engine.address,
                found[1].decode(),
            )

    def _note_contact(self) -> None:
        self.last_contact = time.monotonic()
        self.newest_version = max(self.newest_version, self._replica.cursor)

    def _read(self, block: float) -> list[Entry]:
        options = ("BLOCK", math.ceil(block * 1000)) if block else ()
        cursor = version_text(self._replica.cursor)
        log = f"{self._engine.prefix}log"
        try:
            reply = self._channel.execute("XREAD", "COUNT", BATCH, *options, "STREAMS", log, cursor)
        except redis.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):  # the key of the log has another type
                raise _MissedError from error
            raise
        return self._parsed(reply[0][1], self._replica.cursor) if reply else []

    def _parsed(self, raw: Sequence[Sequence[object]], cursor: Version) -> list[Entry]:
        """Parse entries, which have to follow the cursor without gaps."""
        entries = []
        for identifier, fields in raw:
            entry = parse_entry(identifier, fields)
            if entry is None or entry.version != (cursor[0], cursor[1] + 1) or entry.too_long:
                raise _MissedError
            self._replica.skip(entry.malformed, f"the log of {self._engine.address}")
            cursor = entry.version
            entries.append(entry)
        return entries

    def _script(self, operation: bytes, *arguments: object) -> Reply:
        reply = self._channel.script(operation, *arguments)
        if reply[0] == b"RUN":  # the data was replaced during the connection
            self._engine.epoch = max(self._engine.epoch, self._channel.adopt(self._engine.epoch)[0])
            raise _MissedError
        if reply[0] != b"OK":
            raise RefusedError(f"the reply to {operation.decode()!r} is {reply!r:.200}")
        return reply

    def _heartbeat(self) -> None:
        """Without new entries, check that the engine is still where the log ended."""
        _, epoch, seq = self._script(b"state")
        state = int(epoch), int(seq)
        if state != self._replica.cursor:
            entries = self._read(0)
            if not entries:
                raise _MissedError
            self._apply_entries(entries)

    def _reap(self) -> None:
        """Have expired keys deleted. The engine says when the next one expires, so clocks are not compared."""
        left = b""
        try:
            _, _, left = self._script(b"reap")
        except redis.ResponseError as error:  # the table of expiry times is damaged: the log can be followed anyway
            self.errors += 1
            self.last_error = error
        self._reap_at = time.monotonic() + (min(int(left) / 1000, BLOCK) if left else BLOCK)

    def _apply_entries(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.expires_in is not None:
                self._reap_at = min(self._reap_at, time.monotonic() + entry.expires_in / 1000)
        if self._replica.follow(entries):
            return
        referred = {key for entry in entries for kind, key, _, _ in entry.changes if kind == b"r"}
        later, values = self._catch_up(entries[-1].version, referred)
        # Apply all of them atomically: fetched values may be newer than the entries that refer to them.
        entries = [*entries, *later]
        self._replica.apply_values(self._merged(entries, values), entries)

    def _catch_up(self, cursor: Version, keys: Iterable[str]) -> tuple[list[Entry], Values]:
        """Fetch the entries since the cursor, and the values of the keys and of those that the entries refer to."""
        _, epoch, seq, raw, flat = self._script(b"catchup", version_text(cursor), *map(encode_key, keys))
        end = int(epoch), int(seq)
        entries = self._parsed(raw, cursor)
        if (entries[-1].version if entries else cursor) != end:
            raise _MissedError
        values: Values = {}
        for name, version, data in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            key = parse_key(name)
            if key is None:
                self._skip()
            else:
                values[key] = (end, None) if version is None else (min(parse_version(version) or end, end), data)
        return entries, values

    @staticmethod
    def _merged(entries: Sequence[Entry], values: Values) -> Values:
        merged: Values = {}
        for entry in entries:
            for kind, key, data, _ in entry.changes:
                merged[key] = (entry.version, None if kind == b"d" else data)
        merged.update(values)
        return merged

    def _skip(self) -> None:
        self._replica.skip(1, f"the hashes of {self._engine.address}")

    def _resynchronise(self) -> None:
        delays = backoff_delays(FIRST_DELAY, LONGEST_DELAY)
        while not self._stopped.is_set():
            with contextlib.suppress(_MissedError):  # the log was trimmed meanwhile
                if self._try_to_resynchronise():
                    self.resyncs += 1
                    return
            self._stopped.wait(next(delays))

    def _try_to_resynchronise(self) -> bool:
        _, epoch, seq, flat = self._script(b"versions")
        cursor = int(epoch), int(seq)
        versions = self._versions(flat, cursor)
        differing = [key for key, version in versions.items() if self._replica.version(key) != version]
        values: Values = {}
        for start in range(0, len(differing), CHUNK):
            chunk = differing[start : start + CHUNK]
            _, found = self._script(b"values", *map(encode_key, chunk))
            for key, version, data in zip(chunk, found[::2], found[1::2], strict=True):
                parsed = parse_version(version)
                if parsed is not None:
                    values[key] = parsed, data
        entries, fetched = self._catch_up(cursor, ())
        end = entries[-1].version if entries else cursor
        values.update(self._merged(entries, fetched))
        # Keys that were deleted before they could be fetched are in the entries as well.
        present: dict[str, bytes] = {}
        for key, (version, data) in values.items():
            if data is None or version > end:
                versions.pop(key, None)
            else:
                versions[key], present[key] = version, data
        return self._replica.resynchronise(versions, present, end)

    def _versions(self, flat: Sequence[object], cursor: Version) -> dict[str, Version]:
        """Parse the versions of keys, without malformed ones."""
        versions = {}
        for name, text in zip(flat[::2], flat[1::2], strict=True):
            key, version = parse_key(name), parse_version(text)
            if key is None or version is None or version > cursor:
                self._skip()
            else:
                versions[key] = version
        return versions
