"""Follows the log, and resynchronises when it may have missed something.

An entry that is not the cursor's successor in the same epoch says so, as does a heartbeat that finds the engine
elsewhere than the log ended. Nothing else is relied on: not the connection, nor the log's length. What is malformed in
the log or in the hashes is skipped and counted.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import redis

from fastserverstate.cluster.client import AnswerLostError, Channel, Engine, RefusedError, Reply
from fastserverstate.cluster.codec import encode_key
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

logger = logging.getLogger("fastserverstate")

BLOCK = 2.0  # seconds that the engine waits for an entry, and between heartbeats
PATIENCE = 1.5  # beyond that, until the connection counts as dead
BATCH = 1000
CHUNK = 200  # keys that are fetched at a time
FIRST_REST, LONGEST_REST = 0.01, 0.5
STEADY = 2.0  # seconds after which a connection counts as a good one
SILENCE = 60.0

# Of the user. A server that cannot be reached, or is not ready, may be so soon.
_REFUSALS = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.exceptions.NoPermissionError)

Values = dict[str, tuple[Version, bytes | None]]


class _MissedError(Exception):
    """The log does not go on where it ended."""


class LogFollower(threading.Thread):
    """The thread that brings what others write into the replica."""

    def __init__(self, engine: Engine, replica: Replica, before_first_sync: Callable[[], object]) -> None:
        super().__init__(name="fastserverstate.cluster.log_follower", daemon=True)
        self._engine = engine
        self._replica = replica
        self._before_first_sync = before_first_sync
        self._channel: Channel = engine.channel(BLOCK + PATIENCE)
        self._stopped = Event()
        self._reaped = 0.0
        self.synchronised = Event()  # once
        self.decided = Event()  # so it is, or the engine has refused the user
        self._warned = -float("inf")
        self._tells = False  # when the connection is back
        self.connected = False
        self.heard = -float("inf")  # on the monotonic clock
        self.newest_version = NEVER  # that the log is known to have
        self.resyncs = self.outages = self.errors = 0
        self.last_error: Exception | None = None

    def run(self) -> None:
        self._replica.follower = self
        rest = FIRST_REST
        while not self._stopped.is_set():
            start = time.monotonic()
            try:
                self._follow()
            except Exception as error:
                if self._stopped.is_set():
                    break
                if time.monotonic() - start > STEADY:
                    rest = FIRST_REST
                self._note(error)
            self.connected = False
            self._channel.close()
            self._stopped.wait(rest * random.uniform(0.5, 1))  # for many servers have lost it at the same time
            rest = min(2 * rest, LONGEST_REST)
        self._channel.close()

    def stop(self) -> None:
        self._stopped.set()
        self._channel.interrupt()

    def _note(self, error: Exception) -> None:
        self.errors += 1
        self.last_error = error
        if isinstance(error, _REFUSALS):
            self.decided.set()
        expected = isinstance(error, (redis.RedisError, RefusedError, AnswerLostError, ClusterError, OSError))
        self.outages += self.connected
        calm = time.monotonic() - self._warned < SILENCE  # of a connection that comes and goes is told now and then
        if not calm and (self.connected or not expected):
            self._warned = time.monotonic()
            self._tells = True
            logger.warning(
                "The connection to %s is lost (%s). Reads go on with what is known.",
                self._engine.address,
                error,
                exc_info=None if expected else error,
            )

    def _follow(self) -> None:
        """Until something goes wrong."""
        channel = self._channel
        channel.connect()
        epoch, _ = channel.adopt(max(self._engine.epoch, self._replica.cursor[0]))
        self._engine.epoch = max(self._engine.epoch, epoch)
        if not self.synchronised.is_set():
            self._check_policy()
            self._before_first_sync()
        if epoch != self._replica.cursor[0]:
            self._resynchronise()
        self._heard()
        if self._tells:
            self._tells = False
            logger.warning("The connection to %s is back.", self._engine.address)
        self.connected = True
        self.synchronised.set()
        self.decided.set()
        while not self._stopped.is_set():
            try:
                entries = self._read(BLOCK)
                if entries:
                    self._apply_entries(entries)
                else:
                    self._heartbeat()
                if time.monotonic() - self._reaped > BLOCK:
                    self._reaped = time.monotonic()
                    self._reap()
            except _MissedError:
                self._resynchronise()
            self._replica.apply_held()
            self._heard()

    def _check_policy(self) -> None:
        found = re.search(rb"maxmemory_policy:(\S+)", self._channel.execute("INFO", "memory"))
        if found is not None and found[1] != b"noeviction":
            logger.warning(
                "%s may drop any key when its memory is full (maxmemory-policy %s), and with it state and locks. Set "
                "maxmemory-policy noeviction.",
                self._engine.address,
                found[1].decode(),
            )

    def _heard(self) -> None:
        self.heard = time.monotonic()
        self.newest_version = max(self.newest_version, self._replica.cursor)

    def _read(self, block: float) -> list[Entry]:
        options = ("BLOCK", int(block * 1000)) if block else ()
        cursor = version_text(self._replica.cursor)
        log = f"{self._engine.prefix}log"
        try:
            reply = self._channel.execute("XREAD", "COUNT", BATCH, *options, "STREAMS", log, cursor)
        except redis.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):  # something else is in the log's place
                raise _MissedError from error
            raise
        return self._parsed(reply[0][1], self._replica.cursor) if reply else []

    def _parsed(self, raw: Sequence[Sequence[object]], cursor: Version) -> list[Entry]:
        """Entries that come right after the cursor."""
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
        if reply[0] == b"RUN":  # the data was replaced under a living connection
            self._engine.epoch = max(self._engine.epoch, self._channel.adopt(self._engine.epoch)[0])
            raise _MissedError
        if reply[0] != b"OK":
            raise RefusedError(f"the answer to {operation.decode()!r} is {reply!r:.200}")
        return reply

    def _heartbeat(self) -> None:
        """Nothing has come for a while. Is the engine where we are?"""
        _, epoch, seq = self._script(b"state")
        state = int(epoch), int(seq)
        if state != self._replica.cursor:
            entries = self._read(0)
            if not entries:
                raise _MissedError
            self._apply_entries(entries)

    def _reap(self) -> None:
        try:
            self._script(b"reap")
        except redis.ResponseError as error:  # what is to expire is damaged, which is no reason not to follow
            self.errors += 1
            self.last_error = error

    def _apply_entries(self, entries: list[Entry]) -> None:
        if self._replica.follow(entries):
            return
        referred = {key for entry in entries for kind, key, _, _ in entry.changes if kind == b"r"}
        later, values = self._catch_up(entries[-1].version, referred)
        # Everything until then at once: what was fetched may be newer than its entry.
        entries = [*entries, *later]
        self._replica.apply_values(self._merged(entries, values), entries)

    def _catch_up(self, cursor: Version, keys: Iterable[str]) -> tuple[list[Entry], Values]:
        """The entries since the cursor, and the values of the keys and of what those refer to."""
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
        rest = FIRST_REST
        while not self._stopped.is_set():
            try:
                if self._try_to_resynchronise():
                    self.resyncs += 1
                    return
            except _MissedError:  # it goes on faster than that
                pass
            self._stopped.wait(rest * random.uniform(0.5, 1))
            rest = min(2 * rest, LONGEST_REST)

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
        for key, (version, data) in values.items():
            if data is None or version > end:
                versions.pop(key, None)
            else:
                versions[key] = version
        # What was deleted before it could be fetched is in the entries as well.
        present = {
            key: (version, data) for key, (version, data) in values.items() if key in versions and data is not None
        }
        return self._replica.resynchronise(versions, present, end)

    def _versions(self, flat: Sequence[object], cursor: Version) -> dict[str, Version]:
        """The versions of keys, without what cannot be one."""
        versions = {}
        for name, text in zip(flat[::2], flat[1::2], strict=True):
            key, version = parse_key(name), parse_version(text)
            if key is None or version is None or version > cursor:
                self._skip()
            else:
                versions[key] = version
        return versions
