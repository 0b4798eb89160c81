"""`server_state`: item and attribute access to the store, as a full mutable mapping."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any, Never, SupportsIndex

from fastserverstate._core import Namespace, SpaceNamespace, label_of

_MISSING = object()


class _Items(ItemsView[str, Any]):
    def __init__(self, state: StateViews) -> None:
        super().__init__(state)
        self._state = state

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for key in self._state:
            value = self._state.get(key, _MISSING)
            if value is not _MISSING:  # deleted since the snapshot of the keys
                yield key, value


class _Values(ValuesView[Any]):
    def __init__(self, state: StateViews) -> None:
        super().__init__(state)
        self._items = _Items(state)

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._items)

    def __contains__(self, value: object) -> bool:
        return any(found is value or found == value for found in self)


class StateViews(MutableMapping[str, Any]):
    """The methods of a mapping that are made of reads and of ``pop``."""

    __slots__ = ()

    def items(self) -> ItemsView[str, Any]:
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def to_dict(self) -> dict[str, Any]:
        """Return a ``dict`` of all keys and their values, as ``st.session_state.to_dict()`` does.

        The values are not copied. A script that calls it depends on every key, as with ``items()``.

        Thread-safety
            Safe from any thread. It reads one value after the other; use a `transaction` that names the keys to keep
            other threads from changing them in between.

        >>> from fastserverstate import server_state
        >>> server_state["visitors"] = 1
        >>> server_state.to_dict()
        {'visitors': 1}
        >>> del server_state["visitors"]
        """
        return dict(self.items())

    def popitem(self) -> tuple[str, Any]:
        for key in self:
            value = self.pop(key, _MISSING)
            if value is not _MISSING:
                return key, value
        label = label_of(self) if isinstance(self, SpaceNamespace) else "server_state"
        raise KeyError(f"{label} is empty")


class ServerState(Namespace, StateViews):
    """State that all sessions of the app share.

    It has the item and attribute access of ``st.session_state``, but there is one for the whole process. A read in a
    script run subscribes the running script or fragment to the key: it is rerun when another session or thread assigns
    a different value.

    Values are shared by reference. Assign a list again after you have changed it in place, so that other sessions
    update.

    Thread-safety
        Every operation is atomic, including ``setdefault`` and ``pop``. ``server_state["n"] += 1`` is a read and a
        write: hold ``server_state_lock["n"]`` around it. Iteration uses a snapshot of the keys.

    Raises
        ``TypeError`` for a key that is not a ``str``, ``KeyError`` for a missing item, ``AttributeError`` for
        a missing attribute.

    >>> from fastserverstate import server_state
    >>> server_state["visitors"] = 1
    >>> server_state.visitors
    1
    >>> "visitors" in server_state
    True
    >>> del server_state.visitors
    """

    __slots__ = ()

    def clear(self) -> None:
        for key in self:
            self.pop(key, None)

    def __call__(self, *_args: object, **_options: object) -> Never:
        raise TypeError("server_state is not called. Use brackets: server_state['key'].")

    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        raise TypeError(
            "server_state belongs to this process and cannot be pickled or copied. Pass the values that are needed, or "
            "server_state.to_dict()."
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        return f"server_state({', '.join(self)})"
