"""Locks that threads of this process hold on the engine.

A lock has an owner, which is a thread of a process, and a token: (epoch, fence), which grows with every acquisition.
It expires unless it is renewed. Every write of its owner carries the token, so that whoever has lost a lock, for having
been stopped for too long, cannot write as if they had it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection

from fastserverstate.cluster.client import Engine, Reply
from fastserverstate.cluster.codec import decode_key, encode_key
from fastserverstate.cluster.errors import ClusterError, LockLostError
from fastserverstate.cluster.replica import Replica, Version, parse_version
from fastserverstate.errors import DeadlockError

logger = logging.getLogger("fastserverstate")

LIFETIME = 10.0  # seconds without a renewal
SLICE = 0.05  # how soon a thread that waits sees that its script was stopped
RETRY = 1.0  # the longest wait for word of a release
PATIENCE = 1.0  # with an engine that is not reached, where the caller has none with the lock


class Leases:
    """The locks that this process holds.

    Thread-safety
        Safe from any thread. The calling thread is the owner.
    """

    def __init__(self, engine: Engine, replica: Replica, while_waiting: Callable[[], object]) -> None:
        self._engine = engine
        self._replica = replica
        self._while_waiting = while_waiting
        self._process = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._held: dict[bytes, dict[str, bytes]] = {}  # by owner: key -> token
        self._closed = threading.Event()
        self._renewer: threading.Thread | None = None
        self._lock = threading.RLock()  # for the start of the renewer

    def owner(self) -> bytes:
        return f"{self._process}/{threading.get_ident()}".encode()

    def claims(self) -> list[bytes]:
        """What a write of the calling thread relies on: the number of its locks, and key and token of each."""
        held = self._held.get(self.owner())
        if not held:
            return [b"0"]
        claims = [b"%d" % len(held)]
        for key, token in held.items():
            claims += encode_key(key), token
        return claims

    def acquire(self, keys: Collection[str], timeout: float | None) -> bool:
        """Take all locks, or none; False if somebody else had one for `timeout` seconds (None: try for ever).

        When it returns, the table has what the keys were when they were locked.

        Raises
            DeadlockError, or a ClusterError if the engine cannot be reached.
        """
        self._start_to_renew()
        owner = self.owner()
        waits = b"0" if timeout == 0 else b"1"
        lifetime = int(LIFETIME * 1000)
        names = [encode_key(key) for key in keys]
        patience = self._engine.timeout if timeout is None else min(max(timeout, PATIENCE), self._engine.timeout)
        reply = self.when_free(
            keys,
            lambda: self._engine.call(b"acquire", owner, lifetime, waits, *names, numbered=True, timeout=patience),
            timeout,
        )
        if reply is None:
            return False
        token: bytes = reply[1]
        self._held.setdefault(owner, {}).update(dict.fromkeys(keys, token))
        state = int(reply[2]), int(reply[3])
        try:
            for key, version in zip(keys, reply[4:], strict=True):
                self._see(key, parse_version(version) if version else None, state)
        except BaseException:
            self.release(keys)
            raise
        return True

    def _see(self, key: str, version: Version | None, state: Version) -> None:
        """Wait until the table has the key as it was when it was locked."""
        seen = state if version is None else version  # there may be older changes of a key that is not set to come
        self._replica.wait_for(
            lambda: self._replica.has(key, seen), time.monotonic() + self._engine.timeout, self._while_waiting
        )

    def when_free(
        self, keys: Collection[str], attempt: Callable[[], Reply], timeout: float | None = None
    ) -> Reply | None:
        """Make the attempt until nobody else's lock of the keys is in its way; None after `timeout` seconds.

        Raises
            DeadlockError, LockLostError.
        """
        reply = attempt()
        if reply[0] not in {b"LOCKED", b"DEADLOCK"}:
            return self._not_lost(reply)
        if timeout == 0:
            return None
        end = None if timeout is None else time.monotonic() + timeout
        unlocked = threading.Event()
        self._replica.watch_unlocks(keys, unlocked)
        try:
            while reply[0] == b"LOCKED":
                left = min(RETRY, int(reply[2]) / 1000 + 0.001)  # until it expires, if it is not renewed
                if end is not None:
                    left = min(left, end - time.monotonic())
                if left <= 0:
                    self._leave(keys)
                    return None
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

    def _sleep(self, unlocked: threading.Event, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not unlocked.wait(min(SLICE, max(0.0, end - time.monotonic()))) and time.monotonic() < end:
            self._while_waiting()

    def _leave(self, keys: Collection[str]) -> None:
        """Wait no more. If the engine does not hear of it, it finds out by the time."""
        try:
            self._engine.call(b"leave", self.owner(), *map(encode_key, keys), timeout=SLICE)
        except ClusterError as error:
            logger.debug("A waiting owner could not be taken back: %s", error)

    @staticmethod
    def _not_lost(reply: Reply) -> Reply:
        if reply[0] == b"DEADLOCK":
            raise deadlock(reply)
        if reply[0] == b"LOCKLOST":
            raise LockLostError(
                f"server_state_lock[{decode_key(reply[1])!r}] is not held any more: it was not renewed for "
                f"{LIFETIME:g} seconds, or the engine has restarted. Nothing was written."
            )
        return reply

    def release(self, keys: Collection[str]) -> None:
        """Give the locks back. Those that were lost are passed over."""
        owner = self.owner()
        held = self._held.get(owner, {})
        tokens = [(key, held.pop(key)) for key in keys if key in held]
        if not held:
            self._held.pop(owner, None)
        if not tokens:
            return
        pairs = [part for key, token in tokens for part in (encode_key(key), token)]
        try:
            self._engine.call(b"release", owner, *pairs)
        except ClusterError as error:
            logger.warning(
                "The engine could not be told that %s was released, and will find out within %g seconds: %s",
                ", ".join(f"server_state_lock[{key!r}]" for key, _ in tokens),
                LIFETIME,
                error,
            )

    def _start_to_renew(self) -> None:
        if self._renewer is None:
            with self._lock:
                if self._renewer is None:
                    self._renewer = threading.Thread(
                        target=self._renew, name="fastserverstate.cluster.locks", daemon=True
                    )
                    self._renewer.start()

    def _renew(self) -> None:
        while not self._closed.wait(LIFETIME / 3):
            for owner, held in list(self._held.items()):
                pairs = list(held.items())
                arguments = [part for key, token in pairs for part in (encode_key(key), token)]
                try:
                    reply = self._engine.call(b"renew", owner, int(LIFETIME * 1000), *arguments, timeout=LIFETIME / 3)
                except ClusterError as error:
                    logger.debug("Locks could not be renewed: %s", error)
                    continue
                for (key, token), is_held in zip(pairs, reply[1], strict=True):
                    if not is_held and held.get(key) == token:
                        logger.warning(
                            "server_state_lock[%r] was lost: it was not renewed for %g seconds, or the engine has "
                            "restarted. Writes of its holder are refused until it is released.",
                            key,
                            LIFETIME,
                        )

    def close(self) -> None:
        self._closed.set()


def deadlock(reply: Reply) -> DeadlockError:
    keys = [decode_key(key) for key in reply[1::2]]
    owners = [owner.decode() for owner in reply[2::2]]
    steps = "; ".join(
        f"{owner} holds {key!r} and waits for {keys[(at + 1) % len(keys)]!r}"
        for at, (key, owner) in enumerate(zip(keys, owners, strict=True))
    )
    names = ", ".join(sorted(map(repr, keys)))
    return DeadlockError(
        f"Waiting for server_state_lock[{keys[0]!r}] would never end (host/process/connection/thread): {steps}. Take "
        f"several locks at once, server_state_lock[{names}], or in the same order everywhere."
    )
