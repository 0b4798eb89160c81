"""What `wait_for` and `on_change` watch: a key, or a computed value with its arguments."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from fastserverstate._core import Store, absent, evicted, expired, plain_key
from fastserverstate.computed_values import Computed, value_of
from fastserverstate.functions import name_of
from fastserverstate.updates import MISSING

_REMOVALS = {id(absent): "deleted", id(expired): "expired", id(evicted): "evicted"}  # by what stands for no value


class Watched:
    """A key of the store whose value is watched.

    `key` is where its changes are reported, and `label` stands for it in messages. `call` is the expression that the
    function `name` was called with.
    """

    offered: tuple[str, ...] = ("key", "value", "reason")

    def __init__(self, store: Store, key: str, name: str) -> None:
        self._store = store
        self.key = plain_key(key)
        self.label = f"server_state[{self.key!r}]"
        self.call = f"{name}({self.key!r}, ...)"

    def read(self, seconds: float) -> Any:
        """Return the value, or `MISSING`. Raises ``TimeoutError`` if the key is locked for longer than this."""
        return self._store.peek(self.key, MISSING, seconds)

    def start(self) -> None:
        """Have later changes reported."""

    async def read_async(self) -> Any:
        """Return the value, or `MISSING`. Raises ``TimeoutError`` if the key is locked."""
        return self.read(0)

    def values(self, found: Any) -> tuple[Any, ...]:
        """Return what `offered` stands for, after a change to the found value."""
        reason = _REMOVALS.get(id(found))
        return (self.key, found, "set") if reason is None else (self.key, None, reason)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Report every change until the end of the block."""
        yield


class WatchedValue(Watched):
    """A computed value that is watched."""

    offered = ("value",)

    def __init__(self, computed: Computed[..., Any], args: tuple[Any, ...], name: str) -> None:
        self._computed = computed
        self._node = computed.node(args, {})
        self.key = self._node.key
        self.label = repr(self._node)
        self.call = f"{name}({name_of(computed)}, ...)"

    def read(self, seconds: float) -> Any:  # noqa: ARG002, evaluations have no time limit
        return self._computed.peek(self._node)

    async def read_async(self) -> Any:
        if not self._node.is_current():
            await asyncio.to_thread(self.start)
        return self.read(0)

    def start(self) -> None:
        self._computed.refresh(self._node)

    def values(self, found: Any) -> tuple[Any, ...]:
        return (None if found is absent else value_of(found),)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        with self._computed.pinned(self._node):
            yield


def watch(store: Store, what: Any, rest: tuple[Any, ...], name: str) -> tuple[Watched, Any]:
    """Return what is watched, and the function after it, or `MISSING`: of ``(key, function)`` or ``(computed, *args,
    function)``.
    """
    if not isinstance(what, Computed):
        if len(rest) > 1:
            raise TypeError(f"{name} takes a key and a function, or a computed value, its arguments and a function.")
        return Watched(store, what, name), rest[0] if rest else MISSING
    args, function = rest, MISSING
    if rest and callable(rest[-1]) and _takes(what, rest[:-1]):
        args, function = rest[:-1], rest[-1]
    elif not _takes(what, rest):
        raise TypeError(f"{name}({name_of(what)}, ...) takes the arguments {inspect.signature(what)} and a function.")
    return WatchedValue(what, args, name), function


def _takes(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    try:
        inspect.signature(function).bind(*args)
    except TypeError:
        return False
    return True
