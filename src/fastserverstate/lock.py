"""`server_state_lock`: one re-entrant lock for every key, and several at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType

from fastserverstate._core import KeyLock, LockNamespace, Store


class KeyLocks:
    """The locks of several keys, taken in the order of the keys' names and released in the opposite one.

    Behaves as one re-entrant lock.
    """

    __slots__ = ("_keys", "_locks")

    def __init__(self, store: Store, keys: tuple[str, ...]) -> None:
        locks = {key: store.lock(key) for key in keys}
        self._keys = sorted(locks)
        self._locks = [locks[key] for key in self._keys]

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take all locks, or none. ``timeout`` is for all together, in seconds; -1 is for ever."""
        end = time.monotonic() + timeout
        taken: list[KeyLock] = []
        try:
            for lock in self._locks:
                left = max(0.0, end - time.monotonic()) if timeout > 0 else timeout
                if not lock.acquire(blocking, left):
                    break
                taken.append(lock)
        finally:
            if len(taken) < len(self._locks):
                _release(taken)
        return len(taken) == len(self._locks)

    def release(self) -> None:
        """Give all locks back once. Raises ``RuntimeError`` if this thread does not hold them."""
        if not all(lock._is_owned() for lock in self._locks):
            raise RuntimeError("cannot release un-acquired lock")
        _release(self._locks)

    def locked(self) -> bool:
        """Whether any thread holds any of the locks."""
        return any(lock.locked() for lock in self._locks)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<server_state_lock[{', '.join(map(repr, self._keys))}] {'' if self.locked() else 'un'}locked>"


def _release(locks: list[KeyLock]) -> None:
    for lock in reversed(locks):
        lock.release()


class ServerStateLock(LockNamespace, Mapping[str, KeyLock]):
    """The locks of the keys: ``server_state_lock["k"]`` or ``server_state_lock.k``.

    A lock behaves as ``threading.RLock``. While a thread holds it, other threads' reads and writes of that key wait.
    A key always has the same lock, before it is set and after it was deleted too. ``server_state_lock["a", "b"]``
    takes several locks, always in the same order. Threads that wait for each other's locks are told apart by
    a ``DeadlockError`` in one of them.

    Thread-safety
        Any thread may take any lock; the thread that took it has to release it.

    >>> from fastserverstate import server_state, server_state_lock
    >>> with server_state_lock["jobs"]:
    ...     server_state["jobs"] = server_state.get("jobs", 0) + 1
    >>> server_state["jobs"]
    1
    >>> del server_state["jobs"]
    """

    __slots__ = ("_store",)
    _store: Store

    def __init__(self, store: Store) -> None:
        object.__setattr__(self, "_store", store)

    def several(self, keys: tuple[str, ...]) -> KeyLocks:
        return KeyLocks(self._store, keys)

    def __getattr__(self, name: str) -> KeyLock:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._store.lock(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Locks cannot be replaced. Take the one that there is: with server_state_lock[{name!r}]:")

    def __contains__(self, key: object) -> bool:
        return type(key) is str and self._store.version(key) > 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.keys())

    def __len__(self) -> int:
        return len(self._store.keys())
