"""Connects the core and the node: the core's table is the node's table, and the node is the core's backend."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from fastserverstate import _ends
from fastserverstate._core import (
    COMPARE_ALWAYS,
    MAX_LOOP_WAIT,
    Holder,
    Store,
    absent,
    expired,
    on_event_loop,
    refuse_to_block,
    reruns_are_suppressed,
    same_value,
)
from fastserverstate.callers import Callers
from fastserverstate.cluster.background import BackgroundChanges, LateError, acting_writer
from fastserverstate.cluster.errors import ClusterError, NotConnectedError, UnknownOutcomeError
from fastserverstate.cluster.node import Node
from fastserverstate.cluster.replica import EXPIRED, GONE

logger = logging.getLogger("fastserverstate")

_UNKNOWN: Any = object()


def _in_core(value: Any) -> Any:
    return absent if value is GONE else expired if value is EXPIRED else value


class CoreTable:
    """A store as a `replica.Table`.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._callers = Callers(lambda key: store.flush([key]))
        self.follower: threading.Thread | None = None
        self.leased: Callable[[], Collection[str]] = tuple  # keys whose locks threads of this process may hold

    def origin(self) -> object:
        given = acting_writer.get()
        return self._store.writer() if given is None else given[0]

    def is_quiet(self) -> bool:
        return reruns_are_suppressed()

    def keys(self) -> Collection[str]:
        return self._store.keys(hidden=True)

    def peek(self, key: str) -> Any:
        return self._store.peek(key, GONE)

    def same(self, old: Any, new: Any) -> bool:
        return same_value(old, new)

    def apply(
        self, changes: Sequence[tuple[str, Any, bool]], origin: object
    ) -> tuple[Collection[str], Callable[[Collection[str]], object]]:
        left, due, arrivals = self._store.apply(
            [(key, _in_core(value), quiet) for key, value, quiet in changes],
            cast("Holder | None", origin),
        )

        def finish(flushed_by_others: Collection[str]) -> None:
            arrivals.clear()  # releases the old values
            keys = [key for key in due if key not in flushed_by_others]
            if keys and threading.current_thread() is self.follower:
                self._callers.add(keys)
                keys = []
            self._store.flush(keys)

        return left, finish

    def lifetime(self, key: str) -> tuple[float, float]:
        return self._store.lifetime(key)

    def deadline(self, key: str) -> float | None:
        return self._store.deadline(key)

    def flush(self, keys: Collection[str]) -> None:
        self._store.flush(keys)

    def locked(self, keys: Collection[str]) -> set[str]:
        leased = self.leased()
        locks = {key: self._store.lock(key) for key in keys if key in leased} if leased else {}
        # _is_owned exists for threading.Condition, as in threading.RLock, and is not part of the type.
        return {key for key, lock in locks.items() if lock.locked() and not lock._is_owned()}  # type: ignore[attr-defined]

    def close(self) -> None:
        self._callers.close()


class Backend:
    """Passes the writes of a store to the node. The core calls it without holding a mutex.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, node: Node) -> None:
        self._store = store
        self._node = node
        self._background = BackgroundChanges(store.writer)

    def _change(self, what: str, change: Callable[[], Any], late: Any = _UNKNOWN) -> Any:
        """Make a change and return its result. On an event loop, return `late` if the result takes too long."""
        if not on_event_loop():
            return change()
        try:
            return self._background.do(what, change)
        except LateError:
            if late is not _UNKNOWN:
                return late
            raise UnknownOutcomeError(
                f"{what} did not end within {MAX_LOOP_WAIT * 1000:g} milliseconds, and an event loop cannot wait "
                "longer. It continues in the background, and its result is not known here. Make the call on another "
                "thread: await asyncio.to_thread(...)."
            ) from None

    def assign(self, key: str, value: Any, if_absent: bool, keeps_deadline: bool) -> Any:
        """Set the key. With `if_absent`, return the value of a key that is set, which remains."""
        if not if_absent:
            always_changes = self._store.policy(key) == COMPARE_ALWAYS
            self._change(
                f"Setting server_state[{key!r}]",
                lambda: self._node.set(key, value, always_changes=always_changes, keeps_deadline=keeps_deadline),
                late=None,
            )
            return absent
        found = self._change(f"Setting server_state[{key!r}]", lambda: self._node.set_if_absent(key, value))
        return absent if found is GONE else found

    def remove(self, key: str) -> Any:
        found = self._change(f"Deleting server_state[{key!r}]", lambda: self._node.delete(key))
        return absent if found is GONE else found

    def touch(self, key: str) -> None:
        self._change(f"touch({key!r})", lambda: self._node.touch(key), late=True)

    def increment(self, key: str, by: Any, default: Any) -> Any:
        """Return the sum, or None if it has to be computed here, under the key's lock."""
        if not type(by) is type(default) is int:
            return None
        return self._change(f"atomic.increment({key!r})", lambda: self._node.increment(key, by, default))

    def commit(
        self,
        writes: dict[str, Any],
        touched: Collection[str],
        quiet: Collection[str],
        deadlines: dict[str, int],
        kept: Collection[str],
    ) -> None:
        """Make the changes of a transaction. `deadlines` are in ns from now, -1 for none."""
        changes = {key: GONE if value is absent else value for key, value in writes.items()}
        names = ", ".join(map(repr, sorted({*changes, *deadlines})))
        left = {key: None if ns < 0 else ns / 1e9 for key, ns in deadlines.items()}
        self._change(
            f"The transaction on {names}", lambda: self._node.commit(changes, touched, quiet, left, kept), late=None
        )

    def expire(self, key: str, seconds: float | None) -> bool:
        """Set the deadline of the key, None for none. Return True if the key is set."""
        is_set: bool = self._change(f"expire({key!r})", lambda: self._node.expire(key, seconds), late=True)
        return is_set

    def prolong(self, keys: Sequence[str]) -> None:
        """This server uses these keys, which have an idle_ttl."""
        try:
            self._node.prolong(keys)
        except ClusterError as error:
            logger.debug("Keys in use could not be reported, which is tried again: %s", error)

    def acquire(self, key: str, timeout: float | None) -> bool:
        leases = self._node.leases
        if not on_event_loop():
            return leases.acquire([key], timeout)
        brief = MAX_LOOP_WAIT if timeout is None else min(timeout, MAX_LOOP_WAIT)
        try:
            taken: bool = self._background.do(
                f"Taking the lock of {key!r}",
                lambda: leases.acquire([key], brief),
                undo=lambda: leases.release([key]),
            )
        except LateError:
            taken, timeout = False, None
        if not taken and brief != timeout:
            refuse_to_block(
                f"Waiting for the lock of {key!r}, because another server holds it or the Redis server does not reply,"
            )
        return taken

    def entered(self, key: str) -> None:
        """The calling thread now also holds the key's lock within this process."""
        self._node.replica.apply_held([key], alone=True)

    def release(self, keys: Sequence[str], serial: int) -> None:
        """The holder with the serial no longer holds the keys' locks within this process."""

        def release() -> None:
            self._node.replica.apply_held()
            self._node.leases.release(keys, serial)

        if on_event_loop():
            self._background.submit(f"Releasing the locks of {', '.join(map(repr, keys))}", release)
        else:
            release()

    def waiting(self, key: str) -> None:
        """The calling thread holds locks, and waits without a timeout for a lock of another thread of this process.

        The core calls this before the thread sleeps, and about every second from then on. Raises DeadlockError if the
        wait would never end.
        """
        self._node.leases.waiting(key)

    def waited(self, key: str) -> None:  # noqa: ARG002
        """The calling thread no longer waits for the key's lock."""
        self._node.leases.waited()

    def sync(self) -> None:
        if not on_event_loop():
            self._node.sync()
            return
        try:
            self._background.do("cluster.sync()", self._node.sync, undo=lambda: None)
        except LateError:
            refuse_to_block("Waiting for the Redis server")

    def close(self) -> None:
        self._background.close()


class ClusterAdapter:
    """A store and the node that connects it."""

    def __init__(self, store: Store, url: str, *, namespace: str, secret: str | bytes | None, timeout: float) -> None:
        self._store = store
        self._table = CoreTable(store)
        self.node = Node(
            self._table,
            url,
            namespace=namespace,
            secret=secret,
            timeout=timeout,
            while_waiting=self._raise_if_over,
            on_join=self._attach,
        )
        self._table.follower = self.node.follower
        self._table.leased = self.node.leases.keys
        self._backend = Backend(store, self.node)

    def _raise_if_over(self) -> None:
        """Raise an error if the script run, the event loop or the process of the calling thread ends."""
        self._store.raise_if_stopped()
        _ends.raise_if_over()

    def _attach(self) -> None:
        self._store.set_backend(self._backend)

    def open(self, timeout: float) -> bool:
        """Start to follow the engine. Returns False if it is not reached in time; the follower keeps trying."""
        return self.node.start(timeout)

    def has_joined(self) -> bool:
        """Return True if the engine was ever reached."""
        return self.node.follower.synchronised.is_set()

    def unreachable(self, timeout: float) -> NotConnectedError:
        return self.node.unreachable(timeout)

    def sync(self) -> None:
        self._backend.sync()

    def close(self) -> None:
        self._store.set_backend(None)
        self._backend.close()
        self.node.close()
        self._table.close()
