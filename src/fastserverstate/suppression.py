"""`no_rerun`: writes that rerun no session."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from fastserverstate._core import Suppression

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class NoRerun(Suppression):
    """Writes inside ``with no_rerun:`` rerun no session. You can also decorate a function with ``@no_rerun``.

    The values are stored immediately and sessions stay subscribed: a later write outside the block reruns them.

    Thread-safety
        The block affects only the thread, task or parallel fragment that entered it. Blocks nest. A block ends with the
        run that entered it, if not before.

    Raises
        ``RuntimeError`` if it ends on another thread than it began on, ``TypeError`` if it decorates an ``async def``
        or a generator function.

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
