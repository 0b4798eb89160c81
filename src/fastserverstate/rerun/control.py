"""What an app says about reruns: `no_rerun` and `force_rerun_bound_sessions`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from fastserverstate._core import Store, Suppression, reruns_are_suppressed
from fastserverstate.errors import RerunSuppressedError

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class NoRerun(Suppression):
    """Writes inside of ``with no_rerun:`` rerun no session. Also a decorator of functions: ``@no_rerun``.

    The values are stored at once, and sessions stay subscribed: a later write outside of the block reruns them.

    Thread-safety
        The block applies to the thread, task or parallel fragment that is in it and to no other. It nests. It ends with
        the run that it is in, if not before.

    Raises
        ``RuntimeError`` at its end on another thread than the one on which it began, ``TypeError`` if it decorates
        an ``async def`` or a generator function.

    >>> from fastserverstate import no_rerun, server_state
    >>> with no_rerun:
    ...     server_state["heartbeat"] = 1
    >>> del server_state["heartbeat"]
    """

    __slots__ = ()

    def __call__(
        self,
        function: Callable[_Parameters, _Result] | None = None,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Callable[_Parameters, _Result]:
        if args or kwargs or not callable(function):
            raise TypeError("no_rerun is used without parentheses: with no_rerun: or, above a function, @no_rerun.")
        if any(is_kind(function) for is_kind in _RUN_LATER):
            raise TypeError(
                f"@no_rerun ends when {function.__name__}() returns, and an async or generator function has not begun "
                "then. Use a block in it: with no_rerun:"
            )

        @functools.wraps(function)
        def suppressed(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            with self:
                return function(*args, **kwargs)

        return suppressed


_RUN_LATER = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def force_rerun_with(store: Store) -> Callable[[str], None]:
    """Make `force_rerun_bound_sessions` for a store."""

    def force_rerun_bound_sessions(key: str) -> None:
        """Rerun the sessions that depend on the key, as if it had changed: for values that were changed in place.

        The calling session is rerun too, after its run, if that run has already shown the value. A key that is not set
        reruns the sessions that have looked for it: with ``in``, ``get`` or a read that failed.

        Thread-safety
            Safe from any thread. Waits while another thread holds the key's lock.

        Raises
            ``RerunSuppressedError`` inside of a ``no_rerun`` block, ``TypeError`` if the key is not a ``str``.

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
        store.touch(key)

    return force_rerun_bound_sessions
