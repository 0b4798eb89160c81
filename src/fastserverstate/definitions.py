"""Functions that a decorator turns into something that all sessions share.

Streamlit executes an app's script in every run, and its decorators with it. A function with the same file, name and
closure is the same definition, whichever session has defined it.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import logging
import reprlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from fastserverstate.change import content_fingerprint
from fastserverstate.functions import name_of
from fastserverstate.identity import Identity

logger = logging.getLogger("fastserverstate")

# Definitions of the same place in the code that are kept. They differ in what they close over.
MOST_ALIKE = 100

_serials = itertools.count(1)
_PLAIN = (str, int, float, bool, bytes, type(None))
_T = TypeVar("_T")


class Call:
    """The arguments of a call, in the form in which equal calls have equal fingerprints."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
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
        return f"\0{next(_serials)}\0{self.label}"


class Registry(Generic[_T]):
    """The definitions of one decorator.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, discard: Callable[[_T], None]) -> None:
        self._discard = discard
        self._lock = threading.RLock()
        self._known: dict[tuple[object, ...], OrderedDict[int, tuple[Identity, _T]]] = {}
        self._warned: set[tuple[object, ...]] = set()

    def find_or_make(self, function: Callable[..., Any], make: Callable[[], _T]) -> _T:
        """Return the definition of an equal function, or make one."""
        identity = Identity(function)
        place = tuple(identity.place)
        with self._lock:
            known = self._known.setdefault(place, OrderedDict())
            for number, (other, definition) in known.items():
                if other == identity:
                    known.move_to_end(number)
                    return definition
            made = make()
            known[next(_serials)] = identity, made
            oldest = known.popitem(last=False)[1][1] if len(known) > MOST_ALIKE else None
            warns = oldest is not None and place not in self._warned
            if warns:
                self._warned.add(place)
        if warns:
            logger.warning(
                "%s was defined more than %d times, each time with other values that it closes over, so the oldest are "
                "forgotten. Pass it those values as arguments instead.",
                name_of(function),
                MOST_ALIKE,
            )
        if oldest is not None:
            self._discard(oldest)
        return made

    def clear(self) -> None:
        with self._lock:
            self._known.clear()

    def __iter__(self) -> Any:
        with self._lock:
            return iter([definition for known in self._known.values() for _, definition in known.values()])
