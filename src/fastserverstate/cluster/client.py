"""Connections to the engine, and operations that are done once although they may be asked for several times.

redis-py's own retries send a command again that the engine may have executed. They are switched off. Instead, an
operation that changes something has a writer and a number. The engine keeps the reply to a writer's last one, and gives
it again when it is asked again. A writer has one operation at a time, so each connection is one.
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
from collections.abc import Callable
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
LONGEST_TIMEOUT = 300.0  # well before Redis forgets the reply to an operation's first attempt
MOST_IDLE = 16  # idle connections that are kept
FIRST_REST, LONGEST_REST = 0.005, 0.25

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")
# The server is up, and another one is or will soon be able to do it. Nothing was executed.
_LATER = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "TRYAGAIN", "UNBLOCKED")
_ANSWERS = {b"OK", b"LOCKED", b"DEADLOCK", b"LOCKLOST", b"CONFLICT", b"NOTINT"}

Reply = list[Any]

# The seconds that operations have, if these are not the engine's own `timeout`.
patience: ContextVar[float | None] = ContextVar("fastserverstate.cluster.patience", default=None)


class RefusedError(Exception):
    """The server did not execute a command, and may do so later."""


class AnswerLostError(Exception):
    """The connection broke after something was sent."""


class Channel:
    """One connection and the writer that uses it.

    Thread-safety
        For one thread at a time.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        # Whatever the url says of these: replies are read as they come with the older protocol.
        kwargs = dict(engine.pool.connection_kwargs, socket_timeout=timeout, protocol=2, decode_responses=False)
        self._connection: Any = engine.pool.connection_class(**kwargs)
        self._meta = f"{engine.prefix}m".encode()
        self.writer = uuid.uuid4().hex.encode()
        self.number = 0
        self.run = b""  # of the server at the other end; empty while there is none
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
        """Whether the other end has not closed the connection, as far as is known here."""
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
            raise redis.ConnectionError("INFO server names no run_id")
        return found[1]

    def execute(self, *command: Any) -> Any:
        """A command and its reply. Whatever goes wrong in between, the connection is closed."""
        try:
            self._connection.send_command(*command)
            return self._connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            self.close()
            raise

    def script(self, operation: bytes, *arguments: Any) -> Reply:
        """Raises RefusedError, AnswerLostError, or what the server has against the operation."""
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
            # Some of them are types of their own whose text has lost the first word.
            if isinstance(error, redis.ReadOnlyError) or str(error).startswith(_LATER):
                self.close()
                raise RefusedError(str(error)) from error
            raise
        if not isinstance(reply, list) or not reply:
            self.close()
            raise AnswerLostError(f"an answer that is none: {reply!r:.100}")
        return reply

    def adopt(self, known: int) -> tuple[int, int]:
        """Make sure that the data belongs to the run of this server. Returns its epoch and last seq."""
        reply = self.script(b"adopt", known)
        if reply[0] != b"OK":
            raise RefusedError(f"the data could not be adopted: {reply!r:.200}")
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
    """The server that a namespace is on.

    Thread-safety
        Safe from any thread. It takes no lock, for a finalizer may use it at any point of any thread.
    """

    def __init__(self, url: str, namespace: str, timeout: float, while_waiting: Callable[[], object]) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(
                f"A namespace is made of 1 to 100 letters, digits, dots, dashes and underscores, not {namespace!r}."
            )
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise ValueError(f"timeout is a number of seconds above 0 and up to {LONGEST_TIMEOUT:g}, not {timeout!r}.")
        try:
            self.pool = redis.ConnectionPool.from_url(
                url, socket_connect_timeout=min(CONNECT_TIMEOUT, timeout), retry=Retry(NoBackoff(), 0)
            )
            parts = urlsplit(url)
            port = "" if parts.port is None else f":{parts.port}"
        except ValueError:  # its text may quote the password
            raise ValueError(
                "The URL of the Redis server is not valid. It looks like redis://user:password@host:6379/0, "
                "rediss://... for TLS, or unix:///path."
            ) from None
        self.address = f"{parts.scheme}://{parts.hostname or parts.path}{port}"
        self.prefix = f"fss:{{{namespace}}}:"
        self.timeout = timeout
        self.epoch = 0  # the highest that any channel has seen
        self.errors = 0  # operations that were given up
        self._while_waiting = while_waiting
        self._idle: deque[Channel] = deque()

    def __repr__(self) -> str:
        return f"<engine {self.address}>"

    def channel(self, timeout: float) -> Channel:
        return Channel(self, timeout)

    def patience(self) -> float:
        """The seconds that an operation has which begins now."""
        given = patience.get()
        return self.timeout if given is None else given

    def call(
        self,
        operation: bytes,
        *arguments: Any,
        numbered: bool = False,
        timeout: float | None = None,
        whole: bool = False,
    ) -> Reply:
        """Have the engine do something. Tries until `timeout`, or the end of the script run unless it is to be `whole`.

        An operation that changes something is `numbered`, or harmless when it is done twice.

        Raises
            NotWrittenError, UnknownOutcomeError.
        """
        timeout = self.patience() if timeout is None else timeout
        end = time.monotonic() + timeout
        channel = self._take()
        lost = False
        why: Exception
        rest = FIRST_REST
        if numbered:
            channel.number += 1
            arguments = (channel.writer, channel.number, *arguments)
        try:
            while True:
                try:
                    return self._answer(channel, channel.script(operation, *arguments))
                except AnswerLostError as error:
                    lost, why = True, error
                except RefusedError as error:
                    why = error
                except redis.RedisError as error:
                    if lost:
                        raise self._given_up(lost, error, timeout) from error
                    raise NotWrittenError(f"{self.address} has refused, so nothing was written: {error}") from error
                if time.monotonic() + rest > end:
                    raise self._given_up(lost, why, timeout) from why
                time.sleep(rest * random.uniform(0.5, 1))
                rest = min(2 * rest, LONGEST_REST)
                if not whole:
                    self._while_waiting()
        except ClusterError:
            self.errors += 1
            raise
        finally:
            if len(self._idle) < MOST_IDLE:
                self._idle.append(channel)
            else:
                channel.close()

    def _answer(self, channel: Channel, reply: Reply) -> Reply:
        """The reply, if the engine has done or refused what it was asked for."""
        if reply[0] in _ANSWERS:
            return reply
        if reply[0] == b"RUN":
            try:
                self.epoch = max(self.epoch, channel.adopt(self.epoch)[0])
            except AnswerLostError as error:  # to the adoption, which says nothing of the operation
                raise RefusedError(str(error)) from error
            raise RefusedError("its data was another server's until now")
        if reply[0] == b"HALF":
            raise UnknownOutcomeError(
                f"{self.address} has failed in the middle of an operation, of which a part was done: "
                f"{reply[1].decode('utf-8', 'backslashreplace')}"
            )
        raise UnknownOutcomeError(
            f"{self.address} gave an answer that this release does not understand: {reply[0]!r}. It is not known "
            "whether the write happened."
        )

    def _given_up(self, lost: bool, why: Exception, timeout: float) -> UnknownOutcomeError | NotConnectedError:
        if lost:
            return UnknownOutcomeError(
                f"{self.address} did not answer within {timeout:.3g} seconds ({why}). It is not known whether the "
                f"write happened."
            )
        return NotConnectedError(
            f"{self.address} could not be reached within {timeout:.3g} seconds ({why}). Nothing was written."
        )

    def _take(self) -> Channel:
        try:
            return self._idle.pop()
        except IndexError:
            return Channel(self, max(0.05, min(LONGEST_ATTEMPT, self.timeout / 3)))

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
