"""`once`: a value that is built by the first who needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from fastserverstate._core import Namespace, Store, plain_key
from fastserverstate.functions import check_function, refuse_coroutine

_Value = TypeVar("_Value")
_MISSING: Final[Any] = object()


class Once:
    """Builds values of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = Namespace(store)

    def once(self, key: str, function: Callable[[], _Value]) -> _Value:
        """Return the value of the key. If the key is not set, set it to ``function()`` first.

        Of all threads that ask at the same time, one calls the function, and the others wait for its value. If it
        raises an exception, the key remains unset, and the next thread tries. A script run that calls it depends on the
        key, as with a read: delete the key, or let it expire with ``configure(key, ttl="1h")``, to have the value built
        again and the sessions rerun.

        Thread-safety
            Safe from any thread. The key's lock is held while the function is called, also on connected servers, so
            other reads of the key wait as well.

        Raises
            ``TypeError`` if the key is not a ``str``, or the function is not callable or is async, ``DeadlockError`` if
            the wait would never end, and what the function raises.

        >>> from fastserverstate import once, server_state
        >>> once("model", lambda: "loaded")
        'loaded'
        >>> once("model", lambda: "loaded again")
        'loaded'
        >>> del server_state["model"]
        """
        key = plain_key(key)
        value = self._state.get(key, _MISSING)
        if value is not _MISSING:
            return value  # type: ignore[no-any-return]
        what = f"The function of once({key!r}, ...)"
        check_function(function, what)
        with self._store.lock(key):
            value = self._store.peek(key, _MISSING)
            if value is _MISSING:
                value = function()
                refuse_coroutine(value, what)
                self._state[key] = value
        return value  # type: ignore[no-any-return]
