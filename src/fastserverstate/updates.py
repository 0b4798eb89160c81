"""Read and change single keys, and several keys in one transaction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Never, TypeVar

from fastserverstate._core import (
    ACCESS_READ,
    ACCESS_WRITE,
    AtomicChanges,
    Namespace,
    Store,
    Transactions,
    begin_transaction,
    change_atomically,
    plain_key,
    reruns_are_suppressed,
    same_value,
)
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.errors import RerunSuppressedError
from fastserverstate.functions import check_function, name_of, refuse_coroutine

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "<no default>"})()
_Value = TypeVar("_Value")


class KeyOperations:
    """The functions of the package that act on one key of a store.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = Namespace(store)

    def peek(self, key: str, default: Any = None) -> Any:
        """Return the key's value, or `default` if the key is not set, without subscribing to the key.

        A later change of the key does not rerun the session that called this.

        Thread-safety
            Safe from any thread. Waits while another thread holds the key's lock.

        Raises
            ``TypeError`` if the key is not a ``str``, ``DeadlockError`` if the wait would never end.

        >>> from fastserverstate import peek
        >>> peek("never set", default=0)
        0
        """
        self._store.check_access(key, ACCESS_READ)
        return self._store.peek(key, default)

    def touch(self, key: str) -> None:
        """Treat the key as changed: rerun the sessions that depend on it, and call its `on_change` callbacks.

        If the key is not set, this reruns the sessions that have looked for it: with ``in``, ``get`` or a read that
        failed. Inside a ``no_rerun`` block it reruns no session.

        Thread-safety
            Safe from any thread. Waits while another thread holds the key's lock.

        Raises
            ``TypeError`` if the key is not a ``str``, ``DeadlockError`` if the wait would never end.

        >>> from fastserverstate import server_state, touch
        >>> server_state["frames"] = []
        >>> server_state["frames"].append("changed in place")
        >>> touch("frames")
        >>> del server_state["frames"]
        """
        self._store.touch(key)

    def force_rerun_bound_sessions(self, key: str) -> None:
        """Rerun the sessions that depend on the key, as if its value had changed. Use it after an in-place change.

        The calling session is rerun too, after its current run, if that run has already shown the value. If the key is
        not set, this reruns the sessions that have looked for it: with ``in``, ``get`` or a read that failed.

        Thread-safety
            Safe from any thread. Waits while another thread holds the key's lock.

        Raises
            ``RerunSuppressedError`` inside a ``no_rerun`` block, ``TypeError`` if the key is not a ``str``.

        >>> from fastserverstate import force_rerun_bound_sessions, server_state
        >>> server_state["log"] = ["started"]
        >>> server_state["log"].append("ready")
        >>> force_rerun_bound_sessions("log")
        >>> del server_state["log"]
        """
        if reruns_are_suppressed():
            raise RerunSuppressedError(
                f"force_rerun_bound_sessions({key!r}) was called inside of a no_rerun block, which forbids reruns. "
                f"Call it after the block."
            )
        self._store.touch(key)

    def compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        """Set the key to `value` if its current value is `expected`. Return True if the key was set.

        Values are compared by content, whatever ``configure`` says about the key. A key that is not set never matches:
        use ``server_state.setdefault`` for that.

        Thread-safety
            Safe from any thread: if several threads expect the same value, exactly one of them sets the key. The key's
            lock is held during the comparison.

        Raises
            ``TypeError`` if the key is not a ``str``, ``DeadlockError`` if the wait for the lock would never end.

        >>> from fastserverstate import compare_and_set, server_state
        >>> server_state["job"] = "waiting"
        >>> compare_and_set("job", "waiting", "running")
        True
        >>> compare_and_set("job", "waiting", "running")
        False
        >>> del server_state["job"]
        """
        self._store.check_access(key, ACCESS_READ | ACCESS_WRITE)
        with self._store.lock(key):
            found = self._store.peek(key, MISSING)
            if found is not expected and not same_value(found, expected):
                return False
            self._state[key] = value
            return True


class Atomic(AtomicChanges):
    """Change a key atomically, by a function of its value: ``atomic(key, function, default=...)``.

    ``atomic.increment(key, by=1, *, default=0)`` adds to a number and returns the sum; it takes the key's lock only if
    another thread holds it or the values are not ``int``. ``atomic.append(key, item)`` appends to a list.

    Thread-safety
        Safe from any thread. The return value is the key's value at that moment and subscribes to nothing, so a script
        that counts its runs is not rerun when another session counts. Read the key to show it.

    >>> from fastserverstate import atomic, server_state
    >>> atomic("votes", lambda votes: {**votes, "yes": votes.get("yes", 0) + 1}, default={})
    {'yes': 1}
    >>> atomic.increment("visitors")
    1
    >>> atomic.append("log", "started", max_length=1000)
    ['started']
    >>> for key in ("votes", "visitors", "log"):
    ...     del server_state[key]
    """

    def __call__(self, key: str, function: Callable[[Any], _Value], *, default: Any = MISSING) -> _Value:
        """Set the key to ``function(value)`` and return the new value.

        The function is called once, with the key's lock held. It gets `default` if the key is not set. If it raises an
        exception, the key keeps its value. A function that returns None is refused, because it has usually changed the
        value in place and forgotten to return it; only None itself may become None.

        Raises
            ``KeyError`` if the key is not set and there is no default, ``TypeError`` if the key is not a ``str`` or the
            function is not callable, is async, or returns None.
        """
        key = plain_key(key)
        what = f"The function of atomic({key!r}, ...)"
        check_function(function, what)

        def changed(value: Any) -> _Value:
            if value is MISSING:
                raise KeyError(
                    f"server_state has no key {key!r}. Did you forget to initialize it? "
                    f"atomic({key!r}, function, default=...) begins with a default."
                )
            result = function(value)
            refuse_coroutine(result, what)
            if result is None and value is not None:
                raise TypeError(
                    f"atomic({key!r}, function) needs the new value from the function, and {name_of(function)} has "
                    f"returned None for a {type(value).__qualname__}. server_state[{key!r}] was not assigned. Return "
                    f"the value, also if it was changed in place. To store None: server_state[{key!r}] = None."
                )
            return result

        return change_atomically(self, key, changed, default)

    def append(self, key: str, item: Any, *, max_length: int | None = None) -> Any:
        """Append to the key's list, tuple or deque and return the result. A key that is not set becomes a list.

        The value is replaced by a new object, because other sessions may be showing the old one. Only the last
        `max_length` items are kept.

        Raises
            ``TypeError`` if the value is of another type, ``ValueError`` if `max_length` is not a whole number of at
            least 1.
        """
        if max_length is not None and not (isinstance(max_length, int) and max_length >= 1):
            raise ValueError(f"max_length is a whole number of at least 1, or None for no limit, not {max_length!r}.")

        def appended(value: Any) -> Any:
            if type(value) not in {list, tuple, deque}:
                raise TypeError(
                    f"atomic.append({key!r}, ...) needs a list, tuple or deque, and server_state[{key!r}] is of type "
                    f"{type(value).__qualname__}. Use atomic({key!r}, function) for other types."
                )
            kept = len(value) if max_length is None else max_length - 1
            items = list(value)[max(0, len(value) - kept) :] if kept else []
            items.append(item)
            if type(value) is deque:
                return deque(items, value.maxlen)
            return type(value)(items)

        return self(key, appended, default=[])


class BeginTransaction(Transactions):
    """A ``with`` block whose writes all take effect together at its end, or not at all.

    The transaction takes the locks of `keys` when it begins, in one global order. You may write other keys in it too:
    it takes their locks at that moment, which may raise a ``DeadlockError``. Reads inside the block see its own writes.
    At the end, other threads see all of them atomically, and the sessions that depend on them are rerun once. An
    exception discards the writes, and so does an exception that stops or reruns the script.

    A nested transaction joins the outer one. An exception that leaves the inner block undoes the writes since that
    block began, and the outer block can go on.

    Thread-safety
        Any thread may begin a transaction, and it belongs to that thread: do not ``await`` inside it. Other threads
        that read or write its keys wait until it ends. A transaction is discarded, and its locks are released, if it
        does not end on its own thread and in its own run, or if it ends before a block that began inside it.

    Raises
        ``TimeoutError`` if the locks of `keys` are not free within `timeout` (seconds, a ``timedelta``, or text such as
        ``"500ms"``), ``DeadlockError`` if they never would be, ``TypeError`` if a key is not a ``str``,
        ``RuntimeError`` if the lock of a written key is released inside the block, if another task of this thread has
        an open transaction, or if the transaction was discarded.

    >>> from fastserverstate import server_state, transaction
    >>> server_state.update(mine=5, yours=0)
    >>> with transaction("mine", "yours"):
    ...     server_state["mine"] -= 2
    ...     server_state["yours"] += 2
    >>> server_state["mine"], server_state["yours"]
    (3, 2)
    >>> del server_state["mine"], server_state["yours"]
    """

    def __call__(self, *keys: str, timeout: Duration | None = None) -> AbstractContextManager[None]:
        """Return the context manager for the ``with`` statement."""
        for key in keys:
            if isinstance(key, (list, tuple, set, frozenset)):
                raise TypeError(
                    "transaction takes its keys one after the other: transaction('a', 'b'), or transaction(*keys) for "
                    f"those in a {type(key).__name__}."
                )
            if callable(key):
                raise TypeError("transaction decorates nothing. Use a block in the function: with transaction('key'):")
        return begin_transaction(self, keys, seconds_of(timeout, "timeout"))

    def __enter__(self) -> Never:
        raise TypeError("transaction is called with the keys that the block changes: with transaction('a', 'b'):")

    def __exit__(self, *exc: object) -> None: ...
