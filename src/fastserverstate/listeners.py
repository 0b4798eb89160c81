"""`on_change`: the callbacks of keys."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from fastserverstate._core import Store
from fastserverstate.computed_values import Computed
from fastserverstate.functions import accepting, check_function, refuse_coroutine
from fastserverstate.identity import Identity
from fastserverstate.updates import MISSING
from fastserverstate.watched import watch

logger = logging.getLogger("fastserverstate")

MANY_ALIKE = 20  # a warning is logged when one key has so many callbacks from one place
_Callback = TypeVar("_Callback", bound=Callable[..., object])


class Subscription:
    """A callback that is registered with `on_change`.

    >>> from fastserverstate import on_change, server_state
    >>> subscription = on_change("level", lambda: print("changed"))
    >>> subscription.remove()
    >>> server_state["level"] = 1
    >>> del server_state["level"]
    """

    def __init__(
        self, remove: Callable[[Subscription], None], call: Callable[[Any], object], identity: Identity
    ) -> None:
        self._remove = remove
        self.call = call
        self.identity = identity

    def remove(self) -> None:
        """Stop the calls. Does nothing if the callback was removed or replaced before."""
        self._remove(self)


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
        """Register a callback. It replaces one with an equal identity."""
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
                "on_change(%r, ...) has registered a callback of the same name %d times, each time with other values "
                "that it closes over or gets as arguments, and calls all of them. A script that registers in every run "
                "does that. Register in an st.cache_resource function, or pass the callback no objects that a run "
                "creates.",
                key,
                alike,
            )
        return added

    def discard(self, key: str, identity: Identity) -> None:
        """Remove the callback with this identity, if there is one."""
        with self._lock:
            others = (other for other in self._subscriptions.get(key, ()) if other.identity != identity)
            self._set(key, tuple(others))

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

    @overload
    def on_change(
        self, key: str, *, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Callable[[_Callback], _Callback]: ...

    @overload
    def on_change(
        self,
        key: str,
        callback: Callable[..., object],
        *,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Subscription: ...

    @overload
    def on_change(
        self,
        key: Computed[..., Any],
        callback: Any = MISSING,
        *rest: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any: ...

    def on_change(
        self,
        key: Any,
        callback: Any = MISSING,
        *rest: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``callback(*args, **kwargs)`` after every change of the key, including its deletion.

        A callback that requires one more parameter gets the key before `args`; one that requires two more gets the key
        and its newest value, which is None if the key was deleted. One that requires three more also gets the reason:
        ``"set"`` if the key has a value, else ``"deleted"``, or ``"expired"`` for a key whose deadline has passed, or
        ``"evicted"`` for one that was deleted to make room. Without `callback`, this is a decorator that returns the
        function. Otherwise it returns a `Subscription`, whose ``remove()`` ends the calls.

        ``on_change(value, *arguments, callback)`` is for a value that `computed` has defined: the callback is called
        when the value changes, and one that requires one more parameter gets the newest value.

        A script may register the same callback in every run; it is called once per change. A function with the same
        file and name replaces the earlier one, in all sessions, and so does a lambda with the same code, a method of
        the same object, or a ``functools.partial`` of one of these. Callbacks with other arguments, or that close over
        other values, are different callbacks: ``for room in rooms: on_change("n", announcer(room))`` registers one for
        each room. Mutable values, such as lists, are compared by identity.

        Thread-safety
            The thread that changed the key makes the calls, after its locks are released: one call per change, in the
            order of the changes, and never two at a time for one key. If that thread runs an event loop, another
            thread makes them soon afterwards. The calls hold no lock, and their reads subscribe to nothing. Exceptions
            are logged. An exception that stops a script, such as that of ``st.stop()``, stops the script that changed
            the key after all calls have been made.

        Raises
            ``TypeError`` if the key is not a ``str``, or the callback is not callable, is async, or requires more
            parameters.

        >>> from fastserverstate import on_change, server_state
        >>> def report(key, value):
        ...     print(key, "is", value)
        >>> subscription = on_change("level", report)
        >>> server_state["level"] = 1
        level is 1
        >>> subscription.remove()
        >>> del server_state["level"]
        """
        given = tuple(args)
        rest = () if callback is MISSING else (callback, *rest)
        watched, callback = watch(self._store, key, rest, "on_change")
        if callback is MISSING:

            def register(function: _Callback) -> _Callback:
                self.on_change(key, *rest, function, args=given, kwargs=kwargs)
                return function

            return register
        what = f"The callback of {watched.call}"
        check_function(callback, what)
        function, count = accepting(callback, what, given, kwargs or {}, watched.offered)

        def call(value: Any) -> object:
            return function(*watched.values(value)[:count])

        with watched.kept():
            subscription = self.add(watched.key, call, Identity(callback, given, kwargs))
            watched.start()
        return subscription


def _call_all(key: str, subscriptions: tuple[Subscription, ...], value: Any) -> None:
    for at, subscription in enumerate(subscriptions, 1):
        try:
            refuse_coroutine(subscription.call(value), f"The callback of on_change({key!r}, ...)")
        except Exception:
            logger.exception("A callback of on_change(%r) has failed.", key)
        except BaseException:  # it stops the script that has changed the key, and none of the others
            _call_all(key, subscriptions[at:], value)
            raise
