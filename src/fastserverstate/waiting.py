"""Wait for a key to have a value: on a thread, or in asyncio without a thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar, overload

from fastserverstate._core import ACCESS_READ, Store
from fastserverstate.computed_values import Computed
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.functions import Predicate
from fastserverstate.identity import Identity
from fastserverstate.listeners import Listeners
from fastserverstate.updates import MISSING
from fastserverstate.watched import Watched, watch

R = TypeVar("R")

LOCKED_RETRY = 0.02  # seconds between tries to read a locked key: nothing announces the release of a lock


class Waiting:
    """Waits for the keys of a store.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, listeners: Listeners) -> None:
        self._store = store
        self._listeners = listeners

    @overload
    def wait_for(
        self, key: str, predicate: Callable[[Any], object] | None = None, *, timeout: Duration | None = None
    ) -> Any: ...

    @overload
    def wait_for(
        self, key: Computed[..., R], predicate: Any = None, *rest: Any, timeout: Duration | None = None
    ) -> R: ...

    def wait_for(self, key: Any, predicate: Any = None, *rest: Any, timeout: Duration | None = None) -> Any:
        """Wait until the key is set and ``predicate(value)`` is true. Return the value.

        ``wait_for(key, predicate)`` waits for a key, and ``wait_for(value, *args, predicate)`` for a value that
        `computed` has defined.

        Without `predicate`, any value will do. The thread sleeps until the key changes. In a script run, the wait ends
        with the run: when the user interacts with the page or closes it. On a thread without a run, it ends with the
        process, or with the event loop whose executor the thread belongs to. It subscribes to nothing. In a coroutine,
        await `wait_for_async`.

        Thread-safety
            Safe from any thread. The waiting thread calls `predicate` with nothing locked, once at the start and again
            after changes. It may miss a value that the next change replaces immediately.

        Raises
            ``TimeoutError`` after `timeout` (seconds, a ``timedelta``, or text such as ``"2m"``), ``RuntimeError`` if
            the calling thread holds the key's lock or the process ends, ``WouldBlockError`` if the wait would block a
            thread that runs an event loop, ``TypeError`` if the key is not a ``str`` or `predicate` is not callable or
            is async, and any exception that `predicate` raises.

        >>> import threading
        >>> from fastserverstate import server_state, wait_for
        >>> threading.Timer(0.01, server_state.update, [{"result": 42}]).start()
        >>> wait_for("result", lambda value: value > 40, timeout=10)
        42
        >>> del server_state["result"]
        """
        watched, expected = self._watch(key, (predicate, *rest), "wait_for")
        seconds = seconds_of(timeout, "timeout")
        end = None if seconds is None else time.monotonic() + seconds

        def left() -> float:
            return -1 if end is None else max(0.0, end - time.monotonic())

        with watched.kept():
            while True:
                version = self._store.version(watched.key)
                value = watched.read(left())
                if value is not MISSING and expected.holds(value):
                    return value
                if not self._store.wait_for_change(watched.key, version, left()):
                    raise TimeoutError(f"{watched.label} was not as expected within {seconds:g} seconds.")

    def _watch(self, what: Any, rest: tuple[Any, ...], name: str) -> tuple[Watched, Predicate]:
        watched, predicate = watch(self._store, what, () if rest == (None,) else rest, name)
        self._store.check_access(watched.key, ACCESS_READ)
        return watched, Predicate(None if predicate is MISSING else predicate, f"The predicate of {watched.call}")

    @overload
    async def wait_for_async(
        self, key: str, predicate: Callable[[Any], object] | None = None, *, timeout: Duration | None = None
    ) -> Any: ...

    @overload
    async def wait_for_async(
        self, key: Computed[..., R], predicate: Any = None, *rest: Any, timeout: Duration | None = None
    ) -> R: ...

    async def wait_for_async(self, key: Any, predicate: Any = None, *rest: Any, timeout: Duration | None = None) -> Any:
        """Wait as `wait_for` does, in a coroutine: ``value = await wait_for_async(key, predicate, timeout=...)``.

        It occupies no thread. Cancelling the task ends the wait, so a request whose client has disconnected leaves
        nothing behind.

        Thread-safety
            Await it on any thread that runs an event loop; changes may come from any thread. The loop's thread calls
            `predicate` with nothing locked, once at the start and again after changes. It may miss a value that the
            next change replaces immediately.

        Raises
            ``TimeoutError`` after `timeout` (seconds, a ``timedelta``, or text such as ``"2m"``), ``TypeError`` if the
            key is not a ``str`` or `predicate` is not callable or is async, and any exception that `predicate` raises.

        >>> import asyncio
        >>> from fastserverstate import server_state, wait_for_async
        >>> async def serve():
        ...     asyncio.get_running_loop().call_later(0.01, server_state.update, {"result": 42})
        ...     return await wait_for_async("result", lambda value: value > 40, timeout=10)
        >>> asyncio.run(serve())
        42
        >>> del server_state["result"]
        """
        watched, expected = self._watch(key, (predicate, *rest), "wait_for_async")
        seconds = seconds_of(timeout, "timeout")
        changed = asyncio.Event()
        limit = asyncio.timeout(seconds)
        told = functools.partial(tell, asyncio.get_running_loop(), changed)
        subscription = self._listeners.add(watched.key, told, Identity(changed.set))
        try:
            async with limit:
                while True:
                    changed.clear()
                    try:
                        value = await watched.read_async()
                    except TimeoutError:  # it is locked
                        await asyncio.sleep(LOCKED_RETRY)
                        continue
                    if value is not MISSING and expected.holds(value):
                        return value
                    await changed.wait()
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"{watched.label} was not as expected within {seconds:g} seconds.") from None
        finally:
            subscription.remove()


def tell(loop: asyncio.AbstractEventLoop, changed: asyncio.Event, _value: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(changed.set)
