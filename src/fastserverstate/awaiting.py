"""Waiting for a change in asyncio, without a thread that waits."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fastserverstate._core import Store, plain_key
from fastserverstate.atomic import MISSING, Listeners
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.functions import Predicate
from fastserverstate.identity import Identity

LOCKED_REST = 0.02  # seconds until a key that was locked is looked at again: a release is not told


class WaitForAsync(Protocol):
    """The type of `fastserverstate.wait_for_async`."""

    def __call__(
        self, key: str, predicate: Callable[[Any], object] | None = None, *, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, Any]: ...


def wait_for_async_with(store: Store, listeners: Listeners) -> WaitForAsync:
    async def wait_for_async(
        key: str, predicate: Callable[[Any], object] | None = None, *, timeout: Duration | None = None
    ) -> Any:
        """`wait_for` for coroutines: ``value = await wait_for_async(key, predicate, timeout=...)``.

        It takes no thread. Cancelling the task ends the wait, so a request whose client is gone leaves nothing behind.

        Thread-safety
            Any thread that runs an event loop may await it; changes may come from any thread. `predicate` is called on
            the loop's thread with nothing locked, at first and after changes; it may miss a value that another change
            has followed at once.

        Raises
            ``TimeoutError`` after `timeout` (seconds, a ``timedelta``, or text such as ``"2m"``), ``TypeError`` if the
            key is not a ``str`` or `predicate` cannot be called or is async, and what `predicate` raises.

        >>> import asyncio
        >>> from fastserverstate import server_state, wait_for_async
        >>> async def serve():
        ...     asyncio.get_running_loop().call_later(0.01, server_state.update, {"result": 42})
        ...     return await wait_for_async("result", lambda value: value > 40, timeout=10)
        >>> asyncio.run(serve())
        42
        >>> del server_state["result"]
        """
        key = plain_key(key)
        expected = Predicate(predicate, f"The predicate of wait_for_async({key!r}, ...)")
        seconds = seconds_of(timeout, "timeout")
        changed = asyncio.Event()
        limit = asyncio.timeout(seconds)
        tell = functools.partial(_tell, asyncio.get_running_loop(), changed)
        subscription = listeners.add(key, tell, Identity(changed.set))
        try:
            async with limit:
                while True:
                    changed.clear()
                    try:
                        value = store.peek(key, MISSING, 0)
                    except TimeoutError:  # it is locked
                        await asyncio.sleep(LOCKED_REST)
                        continue
                    if value is not MISSING and expected.holds(value):
                        return value
                    await changed.wait()
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"server_state[{key!r}] was not as expected within {seconds:g} seconds.") from None
        finally:
            subscription.remove()

    return wait_for_async


def _tell(loop: asyncio.AbstractEventLoop, changed: asyncio.Event, _value: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(changed.set)
