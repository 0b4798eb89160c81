"""The core's table as the table of a node, and the node as what the core writes through."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from fastserverstate._core import COMPARE_ALWAYS, Holder, Store, absent, reruns_are_suppressed, same_value
from fastserverstate.cluster.listeners import Callers
from fastserverstate.cluster.node import Node
from fastserverstate.cluster.replica import GONE

logger = logging.getLogger("fastserverstate")


class CoreTable:
    """A store as a `replica.Table`.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._callers = Callers(lambda key: store.settle([key]))
        self.tail: threading.Thread | None = None
        self.taken: Callable[[], Collection[str]] = tuple  # keys whose locks threads of this process may hold

    def origin(self) -> object:
        return self._store.writer()

    def is_quiet(self) -> bool:
        return reruns_are_suppressed()

    def keys(self) -> Collection[str]:
        return self._store.keys()

    def peek(self, key: str) -> Any:
        return self._store.peek(key, GONE)

    def same(self, old: Any, new: Any) -> bool:
        return same_value(old, new)

    def apply(
        self, changes: Sequence[tuple[str, Any, bool]], origin: object
    ) -> tuple[Collection[str], Callable[[Collection[str]], object]]:
        left, due, arrivals = self._store.apply(
            [(key, absent if value is GONE else value, quiet) for key, value, quiet in changes],
            cast("Holder | None", origin),
        )

        def finish(settled_by_others: Collection[str]) -> None:
            arrivals.clear()  # and with them the old values
            keys = [key for key in due if key not in settled_by_others]
            if keys and threading.current_thread() is self.tail:
                self._callers.add(keys)
                keys = []
            self._store.settle(keys)

        return left, finish

    def settle(self, keys: Collection[str]) -> None:
        self._store.settle(keys)

    def locked(self, keys: Collection[str]) -> set[str]:
        taken = self.taken()
        locks = {key: self._store.lock(key) for key in keys if key in taken} if taken else {}
        return {key for key, lock in locks.items() if lock.locked() and not lock._is_owned()}

    def close(self) -> None:
        self._callers.close()


class Backend:
    """What a store writes through. The core calls it with nothing locked.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, node: Node) -> None:
        self._store = store
        self._node = node

    def assign(self, key: str, value: Any, if_absent: bool) -> Any:
        """Returns the value that there was, where `if_absent` asks for it."""
        if not if_absent:
            self._node.set(key, value, always_changes=self._store.policy(key) == COMPARE_ALWAYS)
            return absent
        found = self._node.set_if_absent(key, value)
        return absent if found is GONE else found

    def remove(self, key: str) -> Any:
        found = self._node.delete(key)
        return absent if found is GONE else found

    def touch(self, key: str) -> None:
        self._node.touch(key)

    def increment(self, key: str, by: Any, default: Any) -> Any:
        """The sum; None if it has to be made here, under the key's lock."""
        return self._node.increment(key, by, default) if type(by) is type(default) is int else None

    def commit(self, writes: dict[str, Any], touched: Collection[str], quiet: Collection[str]) -> None:
        self._node.commit({key: GONE if value is absent else value for key, value in writes.items()}, touched, quiet)

    def acquire(self, key: str, timeout: float | None) -> bool:
        return self._node.leases.acquire([key], timeout)

    def entered(self, key: str) -> None:
        """The calling thread has the key's lock among the threads of this process, too."""
        self._node.replica.bring_in_held([key], alone=True)

    def release(self, keys: Sequence[str], serial: int) -> None:
        """The holder with the serial has no longer the keys' locks in this process."""
        self._node.replica.bring_in_held()
        self._node.leases.release(keys, serial)

    def waiting(self, key: str) -> None:
        """The calling thread holds locks, and waits without an end for a lock that another thread of this process has.

        To be called before it sleeps and about every second from then on. Raises DeadlockError if the wait would never
        end.
        """
        self._node.leases.waiting(key)

    def waited(self, key: str) -> None:  # noqa: ARG002
        """The calling thread waits for the key's lock no longer."""
        self._node.leases.waited()


class Link:
    """A store that is connected, or will be."""

    def __init__(self, store: Store, url: str, *, namespace: str, secret: str | bytes | None, timeout: float) -> None:
        self._store = store
        self._table = CoreTable(store)
        self.node = Node(
            self._table,
            url,
            namespace=namespace,
            secret=secret,
            timeout=timeout,
            while_waiting=store.raise_if_stopped,
            on_join=self._attach,
        )
        self._table.tail = self.node.tail
        self._table.taken = self.node.leases.keys
        self._backend = Backend(store, self.node)

    def _attach(self) -> None:
        self._store.set_backend(self._backend)

    def open(self, timeout: float, required: bool) -> None:
        joined = False
        try:
            joined = self.node.start(timeout)
        finally:
            if required and not joined:
                self.close()
        if joined:
            return
        error = self.node.unreachable()
        if required:
            raise error
        logger.warning("%s This server works by itself until it can be reached.", error)

    def close(self) -> None:
        self._store.set_backend(None)
        self.node.close()
        self._table.close()
