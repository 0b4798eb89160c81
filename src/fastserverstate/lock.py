"""`server_state_lock`: one re-entrant lock for every key, and several at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Never, SupportsIndex

from fastserverstate._core import KeyLock, LockNamespace

_EXAMPLE = "with server_state_lock['key']:"


def _holds_no_values(instead: str) -> str:
    return f"server_state_lock has locks, which cannot be set or deleted. Values belong in server_state: {instead}"


class ServerStateLock(LockNamespace, Mapping[str, KeyLock]):
    """The locks of the keys: ``server_state_lock["k"]`` or ``server_state_lock.k``.

    A lock behaves like ``threading.RLock``. While a thread holds it, other threads that read or write the key wait. A
    key always has the same lock, even before it is set and after it is deleted. ``server_state_lock["a", "b"]`` takes
    several locks, always in the same order. A deadlock raises ``DeadlockError`` in one of the threads.

    Thread-safety
        Any thread may take any lock, and has to release it itself. A script that waits for a lock gives up when its run
        has to end. Locks that a thread still holds are released when its part in a run ends, or when the thread ends.

    Raises
        The exceptions of ``threading.RLock``; ``DeadlockError``; ``TypeError`` for a key that is not a ``str``.

    >>> from fastserverstate import server_state, server_state_lock
    >>> with server_state_lock["jobs"]:
    ...     server_state["jobs"] = server_state.get("jobs", 0) + 1
    >>> server_state["jobs"]
    1
    >>> del server_state["jobs"]
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> KeyLock:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(_holds_no_values(f"server_state.{name} = ..."))

    def __delattr__(self, name: str) -> None:
        raise AttributeError(_holds_no_values(f"del server_state.{name}"))

    def __setitem__(self, key: str, value: object) -> None:
        raise TypeError(_holds_no_values(f"server_state[{key!r}] = ..."))

    def __delitem__(self, key: str) -> None:
        raise TypeError(_holds_no_values(f"del server_state[{key!r}]"))

    def __call__(self, *_keys: object, **_options: object) -> Never:
        raise TypeError(f"server_state_lock is not called. Use brackets: {_EXAMPLE}")

    def __enter__(self) -> Never:
        raise TypeError(f"server_state_lock has a lock for each key. Name the key: {_EXAMPLE}")

    def __exit__(self, *exc: object) -> None: ...

    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        raise TypeError(
            "server_state_lock belongs to this process and cannot be pickled or copied. Import it where it is needed: "
            "from fastserverstate import server_state_lock."
        )
