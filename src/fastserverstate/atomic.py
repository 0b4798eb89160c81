"""Changes that depend on the value that is there, changes of several keys at once, and waiting for changes."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Never, Protocol, TypeVar, overload

from fastserverstate._core import Counters, Namespace, Store, absent, plain_key, same_value
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.functions import Predicate, accepting, check_function, name_of, refuse_coroutine
from fastserverstate.identity import Identity

logger = logging.getLogger("fastserverstate")

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "<no default>"})()
_Value = TypeVar("_Value")
MANY_ALIKE = 20  # callbacks of one key that come from one place, before that is worth a warning
_Callback = TypeVar("_Callback", bound=Callable[..., object])


class Atomic(Counters):
    """Change a key by a function of its value, while nobody else can: ``atomic(key, function, default=...)``.

    ``increment(key, by=1, *, default=0)`` adds to the key's number, or to `default` if it is not set, and returns the
    sum. It takes a lock only if somebody else has it, or the values are not ``int``.

    Thread-safety
        Safe from any thread. A return value is what the key had at that moment; it subscribes to nothing, so a script
        that counts its runs is not rerun for another one's count. Read the key to show it.

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

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = Namespace(store)

    def __call__(self, key: str, function: Callable[[Any], _Value], *, default: Any = MISSING) -> _Value:
        """Set the key to ``function(value)`` and return that. The function is called once, with the key's lock held.

        `default` is passed if the key is not set. What the function raises leaves the key as it was. A function that
        returns None is taken for one that has only changed the value in place, unless it was passed None.

        Raises
            ``KeyError`` if the key is not set and there is no default, ``TypeError`` if it is not a ``str``, and if the
            function cannot be called, is async, or returns None for a value.
        """
        key = plain_key(key)
        check_function(function, f"The function of atomic({key!r}, ...)")
        with self._store.lock(key):
            value = self._store.peek(key, default)
            if value is MISSING:
                raise KeyError(
                    f"server_state has no key {key!r}. Did you forget to initialize it? "
                    f"atomic({key!r}, function, default=...) begins with a default."
                )
            changed = function(value)
            refuse_coroutine(changed, f"The function of atomic({key!r}, ...)")
            if changed is None and value is not None:
                raise TypeError(
                    f"atomic({key!r}, function) needs the new value from the function, and {name_of(function)} has "
                    f"returned None for a {type(value).__qualname__}. server_state[{key!r}] was not assigned. Return "
                    f"the value, also if it was changed in place. To store None: server_state[{key!r}] = None."
                )
            self._state[key] = changed
            return changed

    def append(self, key: str, item: Any, *, max_length: int | None = None) -> Any:
        """Append to the key's list, tuple or deque and return the result; a key that is not set becomes a list.

        A new object takes the place of the old one, which others may be showing. Only the last `max_length` items are
        kept.

        Raises
            ``TypeError`` if the value is something else, ``ValueError`` if `max_length` is no whole number from 1 up.
        """
        if max_length is not None and not (isinstance(max_length, int) and max_length >= 1):
            raise ValueError(f"max_length is a whole number from 1 up, or None for no limit, not {max_length!r}.")

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


class Subscription:
    """A callback that `on_change` has registered."""

    def __init__(
        self, remove: Callable[[Subscription], None], call: Callable[[Any], object], identity: Identity
    ) -> None:
        self._remove = remove
        self.call = call
        self.identity = identity

    def remove(self) -> None:
        """Do not call it any more. Harmless if it was removed before, or another one has taken its place."""
        self._remove(self)


class OnChange(Protocol):
    """The type of `fastserverstate.on_change`."""

    @overload
    def __call__(
        self, key: str, *, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Callable[[_Callback], _Callback]: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[..., object],
        *,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Subscription: ...


class Peek(Protocol):
    """The type of `fastserverstate.peek`."""

    def __call__(self, key: str, default: Any = None) -> Any: ...


class WaitFor(Protocol):
    """The type of `fastserverstate.wait_for`."""

    def __call__(
        self, key: str, predicate: Callable[[Any], object] | None = None, *, timeout: Duration | None = None
    ) -> Any: ...


class Listeners:
    """The callbacks of the keys.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()  # a finalizer may remove a callback while another one is added
        self._subscriptions: dict[str, tuple[Subscription, ...]] = {}

    def add(self, key: str, call: Callable[[Any], object], identity: Identity) -> Subscription:
        """Register a callback, in the place of one that is the same."""
        added = Subscription(functools.partial(self._remove, key), call, identity)
        with self._lock:
            known = self._subscriptions.get(key, ())
            changed = [added if each.identity == identity else each for each in known]
            is_new = added not in changed
            if is_new:
                changed.append(added)
            self._set(key, tuple(changed))
            alike = sum(each.identity.place == identity.place for each in changed)
        if is_new and alike == MANY_ALIKE:
            logger.warning(
                "on_change(%r, ...) has registered a callback of the same name %d times, each with other values that "
                "it closes over or is given, and calls all of them. A script that registers in every run does that. "
                "Register in an st.cache_resource function, or give the callback nothing that is made anew in a run.",
                key,
                alike,
            )
        return added

    def _remove(self, key: str, subscription: Subscription) -> None:
        with self._lock:
            others = (other for other in self._subscriptions.get(key, ()) if other is not subscription)
            self._set(key, tuple(others))

    def _set(self, key: str, subscriptions: tuple[Subscription, ...]) -> None:
        self._store.set_listeners(key, functools.partial(_call_all, key, subscriptions) if subscriptions else None)
        if subscriptions:
            self._subscriptions[key] = subscriptions
        else:
            self._subscriptions.pop(key, None)


def _call_all(key: str, subscriptions: tuple[Subscription, ...], value: Any) -> None:
    for at, subscription in enumerate(subscriptions, 1):
        try:
            refuse_coroutine(subscription.call(value), f"The callback of on_change({key!r}, ...)")
        except Exception:
            logger.exception("A callback of on_change(%r) has failed.", key)
        except BaseException:  # it stops the script that has changed the key, and none of the others
            _call_all(key, subscriptions[at:], value)
            raise


def on_change_with(store: Store, listeners: Listeners | None = None) -> OnChange:
    """Make `on_change` for a store, which may have one set of listeners."""
    listeners = Listeners(store) if listeners is None else listeners

    def on_change(
        key: str,
        callback: Any = MISSING,
        *,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Have ``callback(*args, **kwargs)`` called after every change of the key, its deletion included.

        A callback that requires a parameter more is given the key before `args`, and one that requires two the key and
        its value: the newest one, None if it is deleted. Without a callback it is a decorator. Returns a
        `Subscription`, whose ``remove()`` ends the calls; the decorator returns the function.

        A callback is registered once for a key. A script may register it in every run: a function of the same file and
        name takes the place of the one before, in all sessions. So does a lambda of the same code, a method of the same
        object, and a ``functools.partial`` of any of them. They are others if they are given, or close over, other
        values: ``for room in rooms: on_change("n", announcer(room))`` registers one for each room. What can be
        changed in place, as a list, is another value if it is another object.

        Thread-safety
            The calls are made on a thread that has changed the key, after its locks are released: in the order of the
            changes, one for each, and never two at a time for one key. If it runs an event loop, another thread makes
            them soon. They hold no lock, and what they read subscribes nothing. What they raise is logged; what stops
            a script, as ``st.stop()`` does, stops the one that has changed the key, when all calls were made.

        Raises
            ``TypeError`` if the key is not a ``str``, or the callback cannot be called, is async, or requires more.

        >>> from fastserverstate import on_change, server_state
        >>> def report(key, value):
        ...     print(key, "is", value)
        >>> subscription = on_change("level", report)
        >>> server_state["level"] = 1
        level is 1
        >>> subscription.remove()
        >>> del server_state["level"]
        """
        key = plain_key(key)
        given = tuple(args)
        if callback is MISSING:

            def register(function: _Callback) -> _Callback:
                on_change(key, function, args=given, kwargs=kwargs)
                return function

            return register
        what = f"The callback of on_change({key!r}, ...)"
        check_function(callback, what)
        function, count = accepting(callback, what, given, kwargs or {}, ("key", "value"))

        def call(value: Any) -> object:
            return function(*(key, None if value is absent else value)[:count])

        return listeners.add(key, call, Identity(callback, given, kwargs))

    return on_change


def peek_with(store: Store) -> Peek:
    def peek(key: str, default: Any = None) -> Any:
        """The key's value, or `default` if it is not set, without depending on it: no change of it reruns the reader.

        Thread-safety
            Safe from any thread. Waits while another thread holds the key's lock.

        Raises
            ``TypeError`` if the key is not a ``str``, ``DeadlockError`` if the wait would never end.

        >>> from fastserverstate import peek
        >>> peek("never set", default=0)
        0
        """
        return store.peek(key, default)

    return peek


def touch_with(store: Store) -> Callable[[str], None]:
    def touch(key: str) -> None:
        """Behave as if the key had changed: rerun the sessions that depend on it, and call its `on_change` callbacks.

        A key that is not set reruns the sessions that have looked for it: with ``in``, ``get`` or a read that failed.
        Inside of a ``no_rerun`` block no session is rerun.

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
        store.touch(key)

    return touch


def compare_and_set_with(store: Store) -> Callable[[str, Any, Any], bool]:
    state = Namespace(store)

    def compare_and_set(key: str, expected: Any, value: Any) -> bool:
        """Set the key if its value is `expected`. Whether it was.

        The values are compared by content, whatever ``configure`` says of the key. A key that is not set is never as
        expected: use ``server_state.setdefault`` for that.

        Thread-safety
            Safe from any thread: of several that expect the same value, one sets the key. It is compared with the key's
            lock held, which others wait for.

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
        with store.lock(key):
            found = store.peek(key, MISSING)
            if found is not expected and not same_value(found, expected):
                return False
            state[key] = value
            return True

    return compare_and_set


class BeginTransaction:
    """A ``with`` block whose writes appear to everyone else at once at its end, or not at all.

    The locks of `keys` are taken when it begins, all in one order. Keys that were not named may be written too: their
    locks are taken then, which may end in a ``DeadlockError``. What is written can be read inside. At the end all of it
    appears, and the sessions that depend on it are rerun once. An exception discards it: also one that stops or reruns
    the script.

    A transaction inside of another joins it. An exception that leaves the inner block undoes what was written since
    that began, and the outer one can go on.

    Thread-safety
        Any thread may begin one, and it belongs to that thread: do not ``await`` in it. The keys that it has named or
        written are its own until its end; others that read or write them wait. It is discarded, and its locks are
        released, if it does not end on its thread and in its run, or before a block that began inside of it.

    Raises
        ``TimeoutError`` if the locks of `keys` are not free within `timeout` (seconds, a ``timedelta``, or text such as
        ``"500ms"``), ``DeadlockError`` if they never would be, ``TypeError`` if a key is not a ``str``,
        ``RuntimeError`` if a lock of a key that it has written is released inside of it, if another task of this thread
        is in one, or if it was discarded.

    >>> from fastserverstate import server_state, transaction
    >>> server_state.update(mine=5, yours=0)
    >>> with transaction("mine", "yours"):
    ...     server_state["mine"] -= 2
    ...     server_state["yours"] += 2
    >>> server_state["mine"], server_state["yours"]
    (3, 2)
    >>> del server_state["mine"], server_state["yours"]
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, *keys: str, timeout: Duration | None = None) -> AbstractContextManager[None]:
        """Make the block, for the ``with`` statement."""
        for key in keys:
            if isinstance(key, (list, tuple, set, frozenset)):
                raise TypeError(
                    "transaction takes its keys one after the other: transaction('a', 'b'), or transaction(*keys) for "
                    f"those in a {type(key).__name__}."
                )
            if callable(key):
                raise TypeError("transaction decorates nothing. Use a block in the function: with transaction('key'):")
        return self._store.transaction(keys, seconds_of(timeout, "timeout"))

    def __enter__(self) -> Never:
        raise TypeError("transaction is called with the keys that the block changes: with transaction('a', 'b'):")

    def __exit__(self, *exc: object) -> None: ...


def wait_for_with(store: Store) -> WaitFor:
    def wait_for(key: str, predicate: Callable[[Any], object] | None = None, *, timeout: Duration | None = None) -> Any:
        """Wait until the key is set and ``predicate(value)`` is true, if there is one. Returns the value.

        Sleeps until the key changes. In a script run the wait ends with the run: when the user clicks, or closes the
        tab. On a thread without a run it ends with the process, and with the event loop whose executor the thread
        belongs to. Subscribes to nothing. In a coroutine, await `wait_for_async`.

        Thread-safety
            Safe from any thread. `predicate` is called on the waiting thread with nothing locked, at first and after
            changes; it may miss a value that another change has followed at once.

        Raises
            ``TimeoutError`` after `timeout` (seconds, a ``timedelta``, or text such as ``"2m"``), ``RuntimeError`` if
            the calling thread holds the key's lock or the wait ends with the process, ``WouldBlockError`` if it would
            have to wait on a thread that runs an event loop, ``TypeError`` if the key is not a ``str`` or `predicate`
            cannot be called or is async, and what `predicate` raises.

        >>> import threading
        >>> from fastserverstate import server_state, wait_for
        >>> threading.Timer(0.01, server_state.update, [{"result": 42}]).start()
        >>> wait_for("result", lambda value: value > 40, timeout=10)
        42
        >>> del server_state["result"]
        """
        key = plain_key(key)
        expected = Predicate(predicate, f"The predicate of wait_for({key!r}, ...)")
        seconds = seconds_of(timeout, "timeout")
        end = None if seconds is None else time.monotonic() + seconds

        def left() -> float:
            return -1 if end is None else max(0.0, end - time.monotonic())

        while True:
            version = store.version(key)
            value = store.peek(key, MISSING, left())
            if value is not MISSING and expected.holds(value):
                return value
            if not store.wait_for_change(key, version, left()):
                raise TimeoutError(f"server_state[{key!r}] was not as expected within {seconds:g} seconds.")

    return wait_for
