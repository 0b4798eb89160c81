"""Read and change single keys, and several keys in one transaction."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Never, TypeVar, overload

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
_Returned = TypeVar("_Returned")


class _NothingToChangeError(Exception):
    """Ends an atomic change that would assign the value that is there."""


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

    With ``returning=``, a decision comes back: the call returns ``returning(old, new)`` in place of the new value.

    ``atomic.increment`` and ``atomic.maximum`` change a number, ``atomic.append`` and ``atomic.pop_first`` a list,
    ``atomic.update`` a dict, ``atomic.add`` and ``atomic.discard`` a set. They replace values by new objects and never
    change them in place, because other sessions may be showing them. `edit` changes any part of a container.

    Thread-safety
        Safe from any thread. What they return is of that moment and subscribes to nothing, so a script that counts its
        runs is not rerun when another session counts. Read the key to show it.

    >>> from fastserverstate import atomic, server_state
    >>> atomic("title", str.upper, default="lobby")
    'LOBBY'
    >>> atomic("hits", lambda n: min(n + 1, 100), default=0, returning=lambda old, new: new > old)  # at most 100
    True
    >>> atomic.increment("visitors")
    1
    >>> for key in ("title", "hits", "visitors"):
    ...     del server_state[key]
    """

    @overload
    def __call__(
        self,
        key: str,
        function: Callable[[Any], _Value],
        *,
        default: Any = ...,
        returning: Callable[[Any, _Value], _Returned],
    ) -> _Returned: ...
    @overload
    def __call__(
        self, key: str, function: Callable[[Any], _Value], *, default: Any = ..., returning: None = None
    ) -> _Value: ...
    def __call__(
        self,
        key: str,
        function: Callable[[Any], Any],
        *,
        default: Any = MISSING,
        returning: Callable[[Any, Any], Any] | None = None,
    ) -> Any:
        """Set the key to ``function(value)`` and return the new value, or ``returning(old, new)``.

        The function is called once, with the key's lock held. It gets `default` if the key is not set. If it raises an
        exception, the key keeps its value. A function that returns None is refused, because it has usually changed the
        value in place and forgotten to return it; only None itself may become None.

        With ``returning=``, a decision comes back: that function gets the old and the new value, also with the lock
        held, and the call returns its result. It gets `default` as the old value of a key that is not set.

        Raises
            ``KeyError`` if the key is not set and there is no default, ``TypeError`` if the key is not a ``str`` or a
            function is not callable, is async, or ``function`` returns None.
        """
        key = plain_key(key)
        what = f"The function of atomic({key!r}, ...)"
        check_function(function, what)
        if returning is not None:
            check_function(returning, f"returning= of atomic({key!r}, ...)")
        returned: Any = None

        def changed(value: Any) -> Any:
            nonlocal returned
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
            if returning is not None:
                returned = returning(value, result)
            return result

        new = change_atomically(self, key, changed, default)
        return new if returning is None else returned

    def append(self, key: str, item: Any, *, max_length: int | None = None) -> Any:
        """Append to the key's list, tuple or deque and return the result. A key that is not set becomes a list.

        The value is replaced by a new object, because other sessions may be showing the old one. Only the last
        `max_length` items are kept.

        Raises
            ``TypeError`` if the value is of another type, ``ValueError`` if `max_length` is not a whole number of at
            least 1.
        """
        key = plain_key(key)
        if max_length is not None and not (isinstance(max_length, int) and max_length >= 1):
            raise ValueError(f"max_length is a whole number of at least 1, or None for no limit, not {max_length!r}.")

        def appended(value: Any) -> Any:
            _check_type(value, {list, tuple, deque}, "append", "a list, tuple or deque", key)
            kept = len(value) if max_length is None else max_length - 1
            items = list(value)[max(0, len(value) - kept) :] if kept else []
            items.append(item)
            if type(value) is deque:
                return deque(items, value.maxlen)
            return type(value)(items)

        return self(key, appended, default=[])

    def pop_first(self, key: str, *, default: Any = MISSING) -> Any:
        """Remove the first item of the key's list, tuple or deque, and return it.

        Each item is returned once, whichever threads and servers call this. With `default`, that is returned if there
        is no item, whether the key is set or not.

        Raises
            ``IndexError`` if there is no item and no default, ``KeyError`` if the key is not set either, ``TypeError``
            if the value is of another type.

        >>> from fastserverstate import atomic, server_state
        >>> server_state["queue"] = ["first", "second"]
        >>> atomic.pop_first("queue")
        'first'
        >>> server_state["queue"]
        ['second']
        >>> del server_state["queue"]
        >>> atomic.pop_first("queue", default="nothing to do")
        'nothing to do'
        """
        key = plain_key(key)
        first: Any = default

        def popped(value: Any) -> Any:
            nonlocal first
            if value is not MISSING:
                _check_type(value, {list, tuple, deque}, "pop_first", "a list, tuple or deque", key)
            if value is MISSING or not value:
                if default is not MISSING:
                    raise _NothingToChangeError
                advice = f"atomic.pop_first({key!r}, default=None) returns None then."
                if value is MISSING:
                    raise KeyError(f"server_state has no key {key!r}, and so no first item. {advice}")
                raise IndexError(
                    f"The {type(value).__qualname__} in server_state[{key!r}] is empty and has no first item. {advice}"
                )
            first = value[0]
            if type(value) is deque:
                value = value.copy()
                value.popleft()
                return value
            return value[1:]

        _changed(self, key, popped)
        return first

    def update(self, key: str, changes: Mapping[Any, Any]) -> Any:
        """Set items of the key's dict, as ``dict.update`` does, and return the new dict.

        A key that is not set becomes a dict. A ``defaultdict`` and an ``OrderedDict`` keep their types.

        Raises
            ``TypeError`` if the value is of another type, or `changes` is not a mapping.

        >>> from fastserverstate import atomic, server_state
        >>> atomic.update("progress", {"job 1": 0.4})
        {'job 1': 0.4}
        >>> atomic.update("progress", {"job 1": 0.5, "job 2": 0.1})
        {'job 1': 0.5, 'job 2': 0.1}
        >>> del server_state["progress"]
        """
        key = plain_key(key)
        if not isinstance(changes, Mapping):
            raise TypeError(
                f"atomic.update({key!r}, ...) needs the changes as a dict, such as {{'name': 1}}, not as "
                f"{type(changes).__qualname__}."
            )

        def updated(value: Any) -> Any:
            value = {} if value is MISSING else value
            _check_type(value, {dict, OrderedDict, defaultdict}, "update", "a dict", key)
            merged = value.copy()
            merged.update(changes)
            return merged

        return _changed(self, key, updated)

    def add(self, key: str, item: Any) -> bool:
        """Add to the key's set or frozenset. Return True if the item was not in it.

        A key that is not set becomes a set.

        Raises
            ``TypeError`` if the value is of another type, or the item is not hashable.

        >>> from fastserverstate import atomic, server_state
        >>> atomic.add("seen", "order 17"), atomic.add("seen", "order 17")
        (True, False)
        >>> del server_state["seen"]
        """
        key = plain_key(key)
        _check_hashable(item, "add", key)

        def added(value: Any) -> Any:
            value = set() if value is MISSING else value
            _check_type(value, {set, frozenset}, "add", "a set or frozenset", key)
            if item in value:
                raise _NothingToChangeError
            return value | {item}

        return _changed(self, key, added) is not MISSING

    def discard(self, key: str, item: Any) -> bool:
        """Remove from the key's set or frozenset. Return True if the item was in it.

        A key that is not set stays so.

        Raises
            ``TypeError`` if the value is of another type, or the item is not hashable.

        >>> from fastserverstate import atomic, server_state
        >>> server_state["online"] = {"Ann", "Bob"}
        >>> atomic.discard("online", "Bob"), atomic.discard("online", "Bob")
        (True, False)
        >>> server_state["online"]
        {'Ann'}
        >>> del server_state["online"]
        """
        key = plain_key(key)
        _check_hashable(item, "discard", key)

        def discarded(value: Any) -> Any:
            value = set() if value is MISSING else value
            _check_type(value, {set, frozenset}, "discard", "a set or frozenset", key)
            if item not in value:
                raise _NothingToChangeError
            return value - {item}

        return _changed(self, key, discarded) is not MISSING

    def maximum(self, key: str, value: Any, *, default: Any = MISSING) -> Any:
        """Set the key to `value` if that is greater than the key's value. Return the greater of the two.

        A key that is not set becomes `value`, or `default` if that is greater.

        Raises
            ``TypeError`` if the values cannot be compared by ``>``.

        >>> from fastserverstate import atomic, server_state
        >>> atomic.maximum("record", 42), atomic.maximum("record", 17)
        (42, 42)
        >>> del server_state["record"]
        """
        key = plain_key(key)
        greatest: Any = value

        def raised(old: Any) -> Any:
            nonlocal greatest
            found = default if old is MISSING else old
            if found is MISSING:
                return value
            try:
                is_greater = bool(value > found)
            except TypeError as error:
                raise TypeError(
                    f"atomic.maximum({key!r}, {value!r}) cannot compare that with server_state[{key!r}] of type "
                    f"{type(found).__qualname__}. Use atomic({key!r}, function) instead."
                ) from error
            greatest = value if is_greater else found
            if greatest is old:
                raise _NothingToChangeError
            return greatest

        _changed(self, key, raised)
        return greatest


def _changed(atomic: Atomic, key: str, function: Callable[[Any], Any]) -> Any:
    """Set the key to ``function(value)``, which gets MISSING if it is not set. Return the new value.

    Returns MISSING if the function raises `_NothingToChangeError`.
    """
    try:
        return change_atomically(atomic, key, function, MISSING)
    except _NothingToChangeError:
        return MISSING


def _check_type(value: Any, kinds: set[type], method: str, needed: str, key: str) -> None:
    if type(value) not in kinds:
        raise TypeError(
            f"atomic.{method}({key!r}, ...) needs {needed}, and server_state[{key!r}] is of type "
            f"{type(value).__qualname__}. Use atomic({key!r}, function) for other types."
        )


def _check_hashable(item: Any, method: str, key: str) -> None:
    try:
        hash(item)
    except TypeError as error:
        raise TypeError(
            f"atomic.{method}({key!r}, ...) needs an item that can be in a set, not a {type(item).__qualname__}: "
            f"{error}. A tuple or a str can be."
        ) from error


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
