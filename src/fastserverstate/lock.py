"""`server_state_lock`: one re-entrant lock for every key, and several at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fastserverstate._core import KeyLock, LockNamespace, Store


class ServerStateLock(LockNamespace, Mapping[str, KeyLock]):
    """The locks of the keys: ``server_state_lock["k"]`` or ``server_state_lock.k``.

    A lock behaves as ``threading.RLock``. While a thread holds it, other threads' reads and writes of that key wait.
    A key always has the same lock, before it is set and after it was deleted too. ``server_state_lock["a", "b"]``
    takes several locks, always in the same order. Threads that wait for each other's locks are told apart by
    a ``DeadlockError`` in one of them.

    Thread-safety
        Any thread may take any lock; the thread that took it has to release it. A script that waits for one gives up
        when its run is to end. What a thread still holds is released when its part in a run ends, or when it ends.

    Raises
        What ``threading.RLock`` raises; ``DeadlockError``; ``TypeError`` for a key that is not exactly a ``str``.

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
