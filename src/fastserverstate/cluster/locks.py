"""Leases: locks on the engine that threads of this process hold.

A lock has a holder and a token, (epoch, fence), which grows with every acquisition. The holder is identified by its
process and its serial, which is never used again, unlike the idents of threads. A lock expires unless it is renewed.
Every write of the holder carries the token, so a holder that was stopped for too long, and has lost the lock, cannot
write as if it still held it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection

from fastserverstate import _ends
from fastserverstate._core import holder_serial
from fastserverstate.cluster.client import Engine, Reply
from fastserverstate.cluster.errors import ClusterError, LockLostError
from fastserverstate.cluster.replica import Replica, parse_version
from fastserverstate.cluster.signals import Event
from fastserverstate.codec import encode_key, shown_key
from fastserverstate.errors import DeadlockError

logger = logging.getLogger("fastserverstate")

LIFETIME = 10.0  # seconds without a renewal
SLICE = 0.05  # seconds until a waiting thread notices that its script was stopped
RETRY = 1.0  # seconds between attempts, if no release is reported
LEAST_TIMEOUT = 1.0  # the least timeout of a request to the engine, even if the timeout of the lock is shorter
MOST_NAMED = 5  # locks in a message

# How a holder waits for a lock. Only waits without a timeout can be part of a deadlock.
NOT, FOR_EVER, FOR_A_TIME = b"0", b"1", b"2"


class Leases:
    """The locks that this process holds.

    Thread-safety
        Safe from any thread. It takes no lock, because a finalizer may use it, and wait, at any point of any thread.
        Methods act for the holder of the calling thread, unless they get the serial of another holder.
    """

    def __init__(self, engine: Engine, replica: Replica, while_waiting: Callable[[], object]) -> None:
        self._engine = engine
        self._replica = replica
        self._while_waiting = while_waiting
        self._process = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._held: dict[tuple[int, str], bytes] = {}  # serial and key -> token; iterate over a copy
        self._closed = Event()
        renewer = threading.Thread(target=self._renew, name="fastserverstate.cluster.locks", daemon=True)
        self._unstarted = [renewer]  # until a lock is taken

    def holder(self, serial: int | None = None) -> bytes:
        """Return the name of a holder on the engine."""
        return f"{self._process}/{holder_serial() if serial is None else serial}".encode()

    def keys(self) -> set[str]:
        """Return the keys whose locks this process holds, including those that the engine has lost."""
        return {key for _, key in self._held.copy()} if self._held else set()

    def claims(self) -> list[bytes]:
        """Return the locks that a write of the calling thread relies on: their number, and key and token of each."""
        held = self._tokens(holder_serial())
        claims = [b"%d" % len(held)]
        for key, token in held.items():
            claims += encode_key(key), token
        return claims

    def _tokens(self, serial: int) -> dict[str, bytes]:
        held = self._held.copy() if self._held else {}
        return {key: token for (holder, key), token in held.items() if holder == serial}

    def acquire(self, keys: Collection[str], timeout: float | None) -> bool:
        """Take all locks, or none. Returns False if another holder has one for `timeout` seconds (None: no limit).

        When it returns True, the table has the values that the keys had when they were locked.

        Raises
            DeadlockError, or a ClusterError if the engine cannot be reached.
        """
        if self._unstarted:
            with contextlib.suppress(IndexError):
                self._unstarted.pop().start()
        serial = holder_serial()
        end = None if timeout is None else time.monotonic() + timeout
        waits = FOR_EVER if timeout is None else FOR_A_TIME if timeout > 0 else NOT
        lifetime = int(LIFETIME * 1000)
        names = [encode_key(key) for key in keys]

        def attempt() -> Reply:
            arguments = self.holder(serial), lifetime, waits, *names
            return self._engine.call(b"acquire", *arguments, numbered=True, timeout=self._request_timeout(end))

        reply = self.when_free(keys, attempt, end)
        if reply is None:
            return False
        token: bytes = reply[1]
        for key in keys:
            self._held[serial, key] = token
        state = int(reply[2]), int(reply[3])
        try:
            for key, version in zip(keys, reply[4:], strict=True):
                # If the key is not set, older changes of it may still be in the log.
                self._replica.wait_until_applied(
                    key, parse_version(version) or state, self._request_timeout(end), self._while_waiting
                )
        except BaseException:
            self.release(keys)
            raise
        return True

    def _request_timeout(self, end: float | None) -> float:
        """Return the timeout of a request for an operation that ends at `end`."""
        if end is None:
            return self._engine.timeout
        return min(max(end - time.monotonic(), LEAST_TIMEOUT), self._engine.timeout)

    def when_free(self, keys: Collection[str], attempt: Callable[[], Reply], end: float | None = None) -> Reply | None:
        """Repeat the attempt until no other holder has locked the keys. Returns None if one still has at the `end`.

        Raises
            DeadlockError, LockLostError.
        """
        reply = attempt()
        if reply[0] not in {b"LOCKED", b"DEADLOCK"}:
            return self._not_lost(reply)
        if reply[0] == b"LOCKED" and not reply[2]:
            return None  # acquire without waiting
        if reply[0] == b"LOCKED":
            self._replica.refuse_to_wait_here(f"server_state_lock[{shown_key(reply[1])}]")
        unlocked = Event()
        self._replica.watch_unlocks(keys, unlocked)
        try:
            while reply[0] == b"LOCKED":
                left = min(RETRY, int(reply[2]) / 1000 + 0.001)  # until it expires, if it is not renewed
                if end is not None:
                    left = min(left, end - time.monotonic())
                if left <= 0:
                    self._leave(keys)
                    return None
                with _ends.waiting():
                    self._sleep(unlocked, left)
                unlocked.clear()
                reply = attempt()
        except BaseException:
            self._leave(keys)
            raise
        finally:
            self._replica.unwatch_unlocks(keys, unlocked)
        if reply[0] == b"DEADLOCK":
            raise deadlock(reply)
        return self._not_lost(reply)

    def _sleep(self, unlocked: Event, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not unlocked.wait(min(SLICE, max(0.0, end - time.monotonic()))) and time.monotonic() < end:
            self._while_waiting()

    def _leave(self, keys: Collection[str] = ()) -> None:
        """Tell the engine that the thread no longer waits. Otherwise, the engine forgets the wait after some time."""
        try:
            self._engine.call(b"leave", self.holder(), *map(encode_key, keys), timeout=SLICE, whole=True)
        except ClusterError as error:
            logger.debug("The end of a wait for a lock could not be reported: %s", error)

    def waiting(self, key: str) -> None:
        """The calling thread waits, without a timeout, for a lock that another thread of this process holds.

        This is reported to the engine, because a thread of another server may wait for a lock of this thread. A report
        is valid for some seconds. If it fails, the thread waits nevertheless.

        Raises
            DeadlockError, or NotWrittenError in a finalizer that would block the other thread.
        """
        self._replica.refuse_to_wait_here(f"server_state[{key!r}]")
        me = holder_serial()
        other = self._other_holder(key, me)
        if other is None or not self._tokens(me):  # the lock was taken before `connect`, or this thread holds none
            return
        names = self.holder(me), encode_key(key), self.holder(other)
        try:
            reply = self._engine.call(b"waiting", *names, timeout=RETRY)
        except ClusterError as error:
            logger.debug("A wait for a lock could not be reported: %s", error)
            return
        if reply[0] == b"DEADLOCK":
            raise deadlock(reply)

    def waited(self) -> None:
        """End a wait that `waiting` may have reported."""
        if self._tokens(holder_serial()):
            self._leave()

    def _other_holder(self, key: str, me: int) -> int | None:
        """Return the serial of the lock's holder in this process: of two, the one that has lost it to the other."""
        tokens = {serial: token for (serial, held), token in self._held.copy().items() if held == key and serial != me}
        return min(tokens, key=lambda serial: parse_version(tokens[serial]) or (0, 0), default=None)

    @staticmethod
    def _not_lost(reply: Reply) -> Reply:
        if reply[0] == b"DEADLOCK":
            raise deadlock(reply)
        if reply[0] == b"LOCKLOST":
            raise LockLostError(
                f"server_state_lock[{shown_key(reply[1])}] is no longer held: it was not renewed for "
                f"{LIFETIME:g} seconds, or the Redis server has restarted. Nothing was written."
            )
        return reply

    def release(self, keys: Collection[str], serial: int | None = None) -> None:
        """Release locks of a holder, and stop renewing them. Lost locks are skipped."""
        if serial is None:
            serial = holder_serial()
        # A transaction names a key twice: when it declares the key, and when it writes it.
        found = {key: self._held.pop((serial, key), None) for key in dict.fromkeys(keys)}
        tokens = {key: token for key, token in found.items() if token is not None}
        if not tokens:
            return
        pairs = [part for key, token in tokens.items() for part in (encode_key(key), token)]
        try:
            self._engine.call(b"release", self.holder(serial), *pairs, whole=True)
        except ClusterError as error:
            names = [f"server_state_lock[{key!r}]" for key in itertools.islice(tokens, MOST_NAMED)]
            if len(tokens) > MOST_NAMED:
                names.append(f"{len(tokens) - MOST_NAMED} more")
            logger.warning(
                "The Redis server may not have released %s. It frees locks that are not renewed within %g seconds. %s",
                ", ".join(names),
                LIFETIME,
                error,
            )

    def _renew(self) -> None:
        while not self._closed.wait(LIFETIME / 3):
            for serial in {serial for serial, _ in self._held.copy()}:
                try:
                    self._renew_those_of(serial)
                except ClusterError as error:
                    logger.debug("Locks could not be renewed: %s", error)
                except Exception:
                    logger.exception("Renewing locks failed. The next attempt is in %g seconds.", LIFETIME / 3)

    def _renew_those_of(self, serial: int) -> None:
        tokens = self._tokens(serial)
        arguments = [part for key, token in tokens.items() for part in (encode_key(key), token)]
        reply = self._engine.call(b"renew", self.holder(serial), int(LIFETIME * 1000), *arguments, timeout=LIFETIME / 3)
        now = self._tokens(serial)
        for (key, token), is_held in zip(tokens.items(), reply[1], strict=True):
            if not is_held and now.get(key) == token:
                logger.warning(
                    "server_state_lock[%r] was lost: it was not renewed for %g seconds, or the Redis server has "
                    "restarted. Writes of its holder are refused until it is released.",
                    key,
                    LIFETIME,
                )

    def close(self) -> None:
        self._closed.set()


def deadlock(reply: Reply) -> DeadlockError:
    keys = [shown_key(key) for key in reply[1::2]]
    holders = [holder.decode("utf-8", "backslashreplace") for holder in reply[2::2]]
    steps = "; ".join(
        f"{holder} holds {key} and waits for {keys[(at + 1) % len(keys)]}"
        for at, (key, holder) in enumerate(zip(keys, holders, strict=True))
    )
    names = ", ".join(sorted(keys))
    return DeadlockError(
        f"Waiting for server_state_lock[{keys[0]}] would never end (host/process/connection/holder): {steps}. Take "
        f"several locks together, server_state_lock[{names}], or in the same order everywhere."
    )
