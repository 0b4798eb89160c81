"""Which functions are the same to an app that defines them anew in every run."""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Iterable, Mapping
from typing import Any

from fastserverstate._known import full_name
from fastserverstate.change import content_fingerprint


class Identity:
    """Equal for two functions that are the same, with their arguments.

    A function is told by its file and its name, a lambda by its file and its code; both also by their defaults and by
    what they close over. A method is told by its object and its name, a class by its full name, anything else by being
    the same object. Values are the same if they are one object or, where they cannot be changed in place, have the same
    content: two sessions may each have an empty list.

    `place` says where the function comes from, without the values.
    """

    def __init__(self, function: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        place: list[object] = []
        values: list[object] = []

        def add(args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
            values.extend((tuple(map(_Value, args)), {name: _Value(value) for name, value in kwargs.items()}))

        add(args, kwargs or {})
        while isinstance(function, functools.partial):
            add(function.args, function.keywords)
            function = function.func
        if isinstance(function, types.MethodType):
            values.append(_itself(function.__self__))
            function = function.__func__
        if isinstance(function, types.FunctionType):
            place += [function.__code__.co_filename, function.__qualname__]
            if "<lambda>" in function.__qualname__ or function.__code__.co_filename.startswith("<"):
                place.append(function.__code__)
            add(function.__defaults__ or (), function.__kwdefaults__ or {})
            add(map(_cell_content, function.__closure__ or ()), {})
        elif isinstance(function, types.BuiltinMethodType):
            place.append(function.__name__)
            values.append(_itself(function.__self__))
        elif isinstance(function, type):
            place.append(full_name(function))
        else:
            place.append(full_name(type(function)))
            values.append(_itself(function))
        self.place = place
        self._values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.place == other.place and self._values == other._values

    __hash__ = None  # type: ignore[assignment]


class _Value:
    """Equal if it stands for the same object, or for one of the same content that cannot be changed in place."""

    def __init__(self, value: object, has_content: bool = True) -> None:
        self._value = value
        self._content = content_fingerprint(value) if has_content and _is_immutable(value) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and (
            self._value is other._value or self._content == other._content is not None
        )

    __hash__ = None  # type: ignore[assignment]


def _is_immutable(value: object) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_immutable, value))
    return value is None or isinstance(value, (str, bytes, int, float, complex, enum.Enum, types.FunctionType))


def _itself(value: object) -> _Value:
    return _Value(value, has_content=False)


def _cell_content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return ...
