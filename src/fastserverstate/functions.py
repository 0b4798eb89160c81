"""Functions that an app passes to this package: what they may be, and what they are called with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

TRIES = 100


def name_of(function: Any) -> str:
    """What stands for a function in a message."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def name_publicly(module: str | None, function: Any, name: str | None = None) -> None:
    """Set the names that ``help()`` shows, and that Python's messages about wrong arguments begin with."""
    function.__module__, function.__qualname__ = module, name or function.__name__


def is_async(function: Any) -> bool:
    """Whether a call of it returns a coroutine or an asynchronous generator, and runs nothing."""
    while isinstance(function, functools.partial):
        function = function.func
    candidates = (function, type(function).__call__)
    return any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in candidates)


def check_function(function: Any, what: str) -> None:
    """Refuse what cannot be called, and what would only make a coroutine. `what` begins the message."""
    if not callable(function):
        raise TypeError(
            f"{what} has to be a function, not {function!r} of type {type(function).__qualname__}. Pass the function "
            f"itself, without calling it."
        )
    if is_async(function):
        raise TypeError(
            f"{what} cannot be async, and {name_of(function)} is: a call of it only makes a coroutine. Use a plain "
            f"function; await before or after this call."
        )


def refuse_coroutine(result: Any, what: str) -> None:
    """Refuse the result of a function that has turned out to be async."""
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            f"{what} has returned a coroutine, which has to be awaited. Use a plain function; await before or after "
            f"this call."
        )


class Predicate:
    """Whether a value is what is waited for: any value is if there is no function."""

    def __init__(self, function: Callable[[Any], object] | None, what: str) -> None:
        if function is not None:
            check_function(function, what)
        self._function = function
        self._what = what

    def holds(self, value: Any) -> bool:
        found = self._function is None or self._function(value)
        refuse_coroutine(found, self._what)
        return bool(found)


def accepting(
    function: Callable[..., object], what: str, args: Iterable[Any], kwargs: Mapping[str, Any], offered: tuple[str, ...]
) -> tuple[Callable[..., object], int]:
    """The function with its arguments, and how many of what is offered it requires besides, before those."""
    args = tuple(args)
    call = functools.partial(function, *args, **kwargs)
    try:
        signature = _signature_of(function)
    except (TypeError, ValueError):  # of a built-in function
        return call, 0
    for count in range(len(offered) + 1):
        try:
            signature.bind(*offered[:count], *args, **kwargs)
        except TypeError:
            continue
        if count:
            call = functools.partial(_call_before, function, args, dict(kwargs))
        return call, count
    forms = ", ".join(f"({', '.join(offered[:count])})" for count in range(len(offered) + 1))
    given = " besides args and kwargs" if args or kwargs else ""
    raise TypeError(f"{what} takes one of {forms}{given}, and {name_of(function)} takes {signature}.")


def _signature_of(function: Callable[..., object]) -> inspect.Signature:
    for _ in range(TRIES):
        try:
            return inspect.signature(function)
        except SystemError:
            continue  # CPython 3.11 fails now and then to parse that of a built-in function while other threads parse
    return inspect.signature(function)


def _call_before(function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any], *offered: Any) -> Any:
    return function(*offered, *args, **kwargs)
