"""Connections to the engine, and operations that are executed exactly once although requests may be repeated.

The retries of redis-py could execute a command twice, so they are switched off. Instead, an operation that changes data
has a writer and a number. The engine stores the last reply to each writer, and returns it again when the same operation
is requested again. A writer has one operation at a time, so each connection is a writer of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fastserverstate.cluster.errors import ClusterError, NotConnectedError, NotWrittenError, UnknownOutcomeError

SCRIPT = Path(__file__).with_name("script.lua").read_bytes()
_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

CONNECT_TIMEOUT = 1.0
LONGEST_ATTEMPT = 2.0
LONGEST_TIMEOUT = 300.0  # well before Redis forgets the reply to the first attempt of an operation
MOST_IDLE = 16  # idle connections
FIRST_DELAY, LONGEST_DELAY = 0.005, 0.25

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")
# Errors of an engine that did not execute the command, but will do so soon, or another engine will.
_LATER = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "TRYAGAIN", "UNBLOCKED")
_ANSWERS = {b"OK", b"LOCKED", b"DEADLOCK", b"LOCKLOST", b"CONFLICT", b"NOTINT"}

Reply = list[Any]

_random = random.Random()  # leaves the state of the app's generator as it is

# The timeout of operations in seconds, if it is not the `timeout` of the engine.
timeout_override: ContextVar[float | None] = ContextVar("fastserverstate.cluster.timeout_override", default=None)


class RefusedError(Exception):
    """The engine did not execute a command, and may do so later."""


class AnswerLostError(Exception):
    """The connection broke after a command was sent. It is not known whether the engine executed it."""


def backoff_delays(first: float, longest: float) -> Iterator[float]:
    """Yield seconds to wait between attempts, at random: many servers may have failed at the same moment."""
    while True:
        yield first * _random.uniform(0.5, 1)
        first = min(2 * first, longest)


class Channel:
    """One connection and the writer that uses it.

    Thread-safety
        For one thread at a time.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        # These override the options of the URL: replies are read in the form of the older protocol.
        kwargs = dict(engine.pool.connection_kwargs, socket_timeout=timeout, protocol=2, decode_responses=False)
        self._connection: Any = engine.pool.connection_class(**kwargs)
        self._meta = f"{engine.prefix}m".encode()
        self.writer = uuid.uuid4().hex.encode()
        self.number = 0
        self.run = b""  # the run id of the engine; empty while there is no connection
        self.highest_epoch = 0

    def connect(self) -> None:
        if self.run and self._is_alive():
            return
        try:
            self._connection.connect()
            self.run = self._run_id()
        except BaseException:
            self.close()
            raise

    def _is_alive(self) -> bool:
        """Return False if the engine is known to have closed the connection."""
        try:
            if not self._connection.can_read(0):
                return True
        except (redis.RedisError, OSError):
            pass
        self.close()
        return False

    def _run_id(self) -> bytes:
        found = _RUN_ID.search(self.execute("INFO", "server"))
        if found is None:
            raise redis.ConnectionError("INFO server has no run_id")
        return found[1]

    def execute(self, *command: Any) -> Any:
        """Send a command and return its reply. After any failure in between, the connection is closed."""
        try:
            self._connection.send_command(*command)
            return self._connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            self.close()
            raise

    def script(self, operation: bytes, *arguments: Any) -> Reply:
        """Run an operation of the script. Raises RefusedError, AnswerLostError, or the error of the engine."""
        try:
            self.connect()
        except (redis.AuthenticationError, redis.exceptions.AuthorizationError):
            raise
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise RefusedError(str(error)) from error
        try:
            try:
                reply: Reply = self.execute("EVALSHA", _SHA, 1, self._meta, operation, self.run, *arguments)
            except redis.exceptions.NoScriptError:
                reply = self.execute("EVAL", SCRIPT, 1, self._meta, operation, self.run, *arguments)
        except redis.exceptions.BusyLoadingError as error:
            self.close()
            raise RefusedError(str(error)) from error
        except redis.exceptions.AskError as error:  # MOVED, too
            raise RefusedError(f"the namespace has moved to {error.host}:{error.port}") from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.close()
            raise AnswerLostError(str(error)) from error
        except redis.ResponseError as error:
            # redis-py removes the first word of some errors, which have types of their own.
            if isinstance(error, redis.ReadOnlyError) or str(error).startswith(_LATER):
                self.close()
                raise RefusedError(str(error)) from error
            raise
        if not isinstance(reply, list) or not reply:
            self.close()
            raise AnswerLostError(f"the reply is malformed: {reply!r:.100}")
        return reply

    def adopt(self, known: int) -> tuple[int, int]:
        """Make sure that the data belongs to this run of the engine. Returns the epoch and the last seq."""
        reply = self.script(b"adopt", known)
        if reply[0] != b"OK":
            raise RefusedError(f"it could not adopt the data: {reply!r:.200}")
        return int(reply[1]), int(reply[2])

    def close(self) -> None:
        self.run = b""
        self._connection.disconnect()

    def interrupt(self) -> None:
        """End the wait of the thread that uses the connection."""
        sock = self._connection._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Engine:
    """The Redis server of a namespace.

    Thread-safety
        Safe from any thread. It takes no lock, because a finalizer may use it at any point of any thread.
    """

    def __init__(self, url: str, namespace: str, timeout: float, while_waiting: Callable[[], object]) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(
                f"A namespace consists of 1 to 100 letters, digits, dots, dashes and underscores, not {namespace!r}."
            )
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise ValueError(f"timeout is a number of seconds above 0 and up to {LONGEST_TIMEOUT:g}, not {timeout!r}.")
        try:
            self.pool = redis.ConnectionPool.from_url(
                url, socket_connect_timeout=min(CONNECT_TIMEOUT, timeout), retry=Retry(NoBackoff(), 0)
            )
            parts = urlsplit(url)
            port = "" if parts.port is None else f":{parts.port}"
        except ValueError:  # its text may contain the password
            raise ValueError(
                "The URL of the Redis server is not valid. It looks like redis://user:password@host:6379/0, "
                "rediss://... for TLS, or unix:///path."
            ) from None
        self.address = f"{parts.scheme}://{parts.hostname or parts.path}{port}"
        self.prefix = f"fss:{{{namespace}}}:"
        self.timeout = timeout
        self.epoch = 0  # the highest that any channel has seen
        self.errors = 0  # failed operations
        self._while_waiting = while_waiting
        self._idle: deque[Channel] = deque()

    def __repr__(self) -> str:
        return f"<engine {self.address}>"

    def channel(self, timeout: float) -> Channel:
        return Channel(self, timeout)

    def default_timeout(self) -> float:
        """Return the timeout of an operation that begins now."""
        given = timeout_override.get()
        return self.timeout if given is None else given

    def call(
        self,
        operation: bytes,
        *arguments: Any,
        numbered: bool = False,
        timeout: float | None = None,
        whole: bool = False,
    ) -> Reply:
        """Run an operation of the script and return its reply. Tries again until the timeout.

        An operation that changes data is `numbered`, or may run twice. The end of the script run interrupts the wait,
        except for a `whole` operation.

        Raises
            NotConnectedError, NotWrittenError, UnknownOutcomeError.
        """
        timeout = self.default_timeout() if timeout is None else timeout
        channel = self._take()
        if numbered:
            channel.number += 1
            arguments = (channel.writer, channel.number, *arguments)
        try:
            return self._retry(lambda: self._attempt(channel, operation, arguments), timeout, whole=whole)
        except ClusterError:
            self.errors += 1
            raise
        finally:
            self._give_back(channel)

    def _retry(self, attempt: Callable[[], Reply], timeout: float, *, whole: bool) -> Reply:
        end = time.monotonic() + timeout
        delays = backoff_delays(FIRST_DELAY, LONGEST_DELAY)
        lost = False
        while True:
            try:
                return attempt()
            except (RefusedError, AnswerLostError, redis.RedisError) as error:
                lost = lost or isinstance(error, AnswerLostError)
                delay = next(delays)
                if isinstance(error, redis.RedisError) or time.monotonic() + delay > end:
                    raise self._failure(error, timeout, lost=lost) from error
            time.sleep(delay)
            if not whole:
                self._while_waiting()

    def _attempt(self, channel: Channel, operation: bytes, arguments: tuple[Any, ...]) -> Reply:
        reply = channel.script(operation, *arguments)
        if reply[0] in _ANSWERS:
            return reply
        if reply[0] == b"RUN":
            try:
                self.epoch = max(self.epoch, channel.adopt(self.epoch)[0])
            except AnswerLostError as error:  # the operation itself was not executed
                raise RefusedError(str(error)) from error
            raise RefusedError("its data belonged to another server until now")
        if reply[0] == b"HALF":
            raise UnknownOutcomeError(
                f"{self.address} failed in the middle of an operation, after a part was done: "
                f"{reply[1].decode('utf-8', 'backslashreplace')}"
            )
        raise UnknownOutcomeError(
            f"{self.address} gave a reply that this release does not understand: {reply[0]!r}. It is not known "
            "whether the write happened."
        )

    def _failure(self, error: Exception, timeout: float, *, lost: bool) -> ClusterError:
        if lost:
            return UnknownOutcomeError(
                f"{self.address} did not reply within {timeout:.3g} seconds ({error}). It is not known whether the "
                "write happened."
            )
        if isinstance(error, redis.RedisError):
            return NotWrittenError(f"{self.address} refused the operation, so nothing was written: {error}")
        return NotConnectedError(
            f"{self.address} could not be reached within {timeout:.3g} seconds ({error}). Nothing was written."
        )

    def _take(self) -> Channel:
        try:
            return self._idle.pop()
        except IndexError:
            return Channel(self, max(0.05, min(LONGEST_ATTEMPT, self.timeout / 3)))

    def _give_back(self, channel: Channel) -> None:
        if len(self._idle) < MOST_IDLE:
            self._idle.append(channel)
        else:
            channel.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
