"""Functions that a decorator turns into something that all sessions share.

Streamlit executes an app's script in every run, and its decorators with it. A function with the same file, name, code
and closure is the same definition, whichever session has defined it. An edited function is another one: sessions that
have not run since then depend on the older one.
"""

from __future__ import annotations

import copy
import inspect
import logging
import reprlib
import threading
import uuid
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any, Generic, Protocol, TypeVar

from fastserverstate.change import content_fingerprint
from fastserverstate.functions import name_of
from fastserverstate.identity import Identity

logger = logging.getLogger("fastserverstate")

# Definitions of the same place in the code that are kept. They differ in what they close over.
MOST_ALIKE = 100

_PLAIN = (str, int, float, bool, bytes, type(None))


class Call:
    """The arguments of a call, in the form in which equal calls have equal fingerprints."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function = function
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        self.args, self.kwargs = bound.args, bound.kwargs
        found = content_fingerprint((self.args, self.kwargs))
        if found is None:
            name, value = next(
                (item for item in bound.arguments.items() if content_fingerprint(item[1]) is None),
                ("arguments", self.args),
            )
            raise TypeError(
                f"{name_of(function)}(...) cannot be called with {name}={reprlib.repr(value)} of type "
                f"{type(value).__qualname__}, because arguments are compared by content, and this one has none that "
                "can be told. Pass a value such as a str, a number, a tuple or a dataclass, and look up the object in "
                "the function."
            )
        self.fingerprint = found
        if any(type(value) not in _PLAIN for value in (*self.args, *self.kwargs.values())):
            self.args, self.kwargs = copy.deepcopy((self.args, self.kwargs))  # the caller may change its own
        shown = [reprlib.repr(value) for value in self.args]
        shown += [f"{name}={reprlib.repr(value)}" for name, value in self.kwargs.items()]
        self.label = f"{name_of(function)}({', '.join(shown)})"

    def new_key(self) -> str:
        """Return a key for the result in the store, which no app uses."""
        return f"{self.label} {uuid.uuid4()}"


class Definition(Protocol):
    """A decorated function."""

    function: Any

    def is_observed(self) -> bool:
        """Return whether anything depends on its results."""

    def clear(self) -> None:
        """Forget its results."""

    def reset_after_fork(self) -> None:
        """Forget its results, which belong to the parent process."""


_D = TypeVar("_D", bound=Definition)


class Registry(Generic[_D]):
    """The definitions of one decorator.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._known: dict[tuple[object, ...], list[tuple[Identity, _D]]] = {}  # by place, the one used last at the end
        self._made: weakref.WeakSet[_D] = weakref.WeakSet()
        self._warned: set[tuple[object, ...]] = set()

    def find_or_make(self, function: Callable[..., Any], make: Callable[[], _D]) -> _D:
        """Return the definition of an equal function with equal code, which is replaced, or make one."""
        identity = Identity(function)
        place = tuple(identity.place)
        with self._lock:
            known = self._known.setdefault(place, [])
            for item in known:
                if item[0] == identity and _code_of(item[1].function) == _code_of(function):
                    known.remove(item)
                    known.append(item)
                    item[1].function = function
                    return item[1]
            made = make()
            self._made.add(made)
            known.append((identity, made))
            discarded = self._discarded(known)
            warns = bool(discarded) and place not in self._warned
            self._warned.update([place] if warns else [])
        if warns:
            logger.warning(
                "%s was defined more than %d times, each time with other values that it closes over, so the oldest are "
                "forgotten. Pass it those values as arguments instead.",
                name_of(function),
                MOST_ALIKE,
            )
        for definition in discarded:
            definition.clear()
        return made

    @staticmethod
    def _discarded(known: list[tuple[Identity, _D]]) -> list[_D]:
        """Remove the oldest definitions that nothing depends on, if there are too many."""
        unused = [item for item in known[:-1] if not item[1].is_observed()] if len(known) > MOST_ALIKE else []
        discarded = unused[: len(known) - MOST_ALIKE]
        for item in discarded:
            known.remove(item)
        return [definition for _, definition in discarded]

    def reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        for definition in list(self._made):
            definition.reset_after_fork()


def _code_of(function: Any) -> CodeType | None:
    code: CodeType | None = getattr(function, "__code__", None)
    return code
