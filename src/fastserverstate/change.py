"""Did this value change? How values of types that the core does not know are written for their fingerprint.

The core walks built-in types itself (see ``_fingerprint.pxi``). For every other type it asks `plan_for` once. When in
doubt, a value has changed: a type has a plan only if all that its values keep is seen. `_known` has the types of which
that is known. Classes written in Python add attributes and slots to these.
"""

from __future__ import annotations

import functools
import logging
import struct
import types
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastserverstate import _core
from fastserverstate._known import Parts, full_name, is_among, is_storage, known
from fastserverstate.functions import check_function

HashFuncs = Mapping[type | str, Callable[[Any], object]]

_LOGGER: Final = logging.getLogger(__name__)


def content_fingerprint(value: object, hash_funcs: HashFuncs | None = None) -> bytes | None:
    """16 bytes that tell what a value holds, or None where nothing can.

    Two values have the same fingerprint if they are of the same types all through, by name, and hold the same: ``1``,
    ``1.0`` and ``True`` differ, as do ``0.0`` and ``-0.0``; NaN equals NaN, but in arrays it is compared bit by bit.
    The order of a dict's items counts, that of attributes and of a set's members does not; nor does the memory layout
    of an array or the chunks of an Arrow table. Who shares what counts only where a cycle can be reached.

    Functions are told by their code, defaults and closures; classes and modules by name; enum members by class and
    name. Objects count with their attributes and slots, cached properties aside, or with what they would be pickled
    as if their class itself defines that. Whatever may keep something that cannot be seen has no fingerprint: locks,
    sockets, generators, a bare ``object()``, types in C that are not known, and what holds one. Neither has what is
    nested more than 400 deep or too deep for the thread's stack, holds more than 50 million values or changes
    meanwhile. An assignment gives up after about 20 ms, which this function does not.

    `hash_funcs` are functions by type or by the type's full name, as in ``st.cache_data``: what they return stands
    for the value.

    Thread-safety
        Safe from any thread, on values that others change too. Runs code of the values' own, so no lock that such code
        may wait for should be held. What that code raises counts as "none"; what stops a script passes through.

    >>> content_fingerprint({"a": [1, 2]}) == content_fingerprint({"a": [1, 2]})
    True
    >>> content_fingerprint({"a": [1, 2]}) == content_fingerprint({"a": [1, 2.0]})
    False
    """
    return _core.content_fingerprint(value, named(hash_funcs) if hash_funcs else None)


def named(hash_funcs: HashFuncs) -> dict[str, Callable[[Any], object]]:
    """The functions by full name of the type: a script that is run again has defined its classes anew."""
    if not isinstance(hash_funcs, Mapping):
        raise TypeError(f"hash_funcs is a dict of functions by type, not {hash_funcs!r}.")
    for key, function in hash_funcs.items():
        if not isinstance(key, (str, type)):
            raise TypeError(f"hash_funcs has types or their full names as keys, not {key!r}.")
        check_function(function, f"The function for {key if isinstance(key, str) else full_name(key)!r} in hash_funcs")
    return {key if isinstance(key, str) else full_name(key): function for key, function in hash_funcs.items()}


MOST_REPORTED = 1000

_reported: set[str] = set()


def report(name: str, reason: Exception) -> None:
    """Log, once for every type, that a value of it counts as changed whenever it is assigned."""
    if name not in _reported and _LOGGER.isEnabledFor(logging.DEBUG):
        _reported.add(name)
        _LOGGER.debug(
            "What a value of type %s holds cannot be told (%r), so every assignment of one counts as a change. "
            "hash_funcs={%r: ...} would tell it.",
            name,
            reason,
            name,
        )


_slow: set[str] = set()


def report_slow(key: str, name: str) -> None:
    """Log, once for every key, that its value counts as changed because it would take too long to look at."""
    if key not in _slow and len(_slow) < MOST_REPORTED:
        _slow.add(key)
        _LOGGER.warning(
            "The value of server_state[%r], of type %s, takes more than 20 ms to look through, so every assignment "
            'counts as a change. configure(%r, compare="identity") tells it by which object it is, at once.',
            key,
            name,
            key,
        )


# How a type is written


def plan_for(kind: type) -> _core.TypePlan:
    """How values of a type are written.

    A type is known if all that its values keep is seen. What they inherit from types in the tables is; what
    Python classes add to that is attributes and slots. Anything else is in memory that only code in C can read.
    """
    mro = _core.mro_of(kind)
    roots: list[type] = []  # classes that are in the tables, but not those that these inherit from
    for base in mro:
        if not any(is_among(base, _core.mro_of(root)) for root in roots) and (is_storage(base) or known(base)):
            roots.append(base)
    rows = [row for root in roots if (row := known(root)) is not None]
    functions = tuple(row.parts for row in rows)
    if any(row.by_name for row in rows):
        return _core.TypePlan(full_name(kind), functions)
    storage = next(filter(is_storage, roots), None)
    if kind is object or not (any(row.family for row in rows) or _is_all_seen(kind, roots)):
        return _core.TypePlan(full_name(kind), (_refuse,))
    if not is_among(kind, roots) and any(_says_itself(kind, name) for name in _PICKLED_BY):
        return _core.TypePlan(full_name(kind), (*functions, reduced), storage)
    namespaces = [_core.namespace_of(base) for base in mro]
    first = {name: position for position, names in reversed([*enumerate(namespaces)]) for name in names}
    inherited = [base for root in roots for base in _core.mro_of(root)]
    slots = [(at, name) for at, base in enumerate(mro) if not is_among(base, inherited) for name in _content(base)]
    covered = {name for row in rows for name in (*row.covered.split(), *getattr(kind, row.listed, ()))}
    covered.update(name for name, at in first.items() if isinstance(namespaces[at][name], functools.cached_property))
    return _core.TypePlan(
        full_name(kind),
        functions,
        storage,
        kind.__dictoffset__ != 0,
        tuple(name if first[name] == position else (position, name) for position, name in slots),
        frozenset(covered),
    )


def _slots(kind: type) -> list[str]:
    """The slots that a Python class adds."""
    namespace = _core.namespace_of(kind)
    if "__slots__" not in namespace:
        return []
    return [
        name
        for name, slot in namespace.items()
        if type(slot) is types.MemberDescriptorType and slot.__objclass__ is kind and slot.__name__ == name
    ]


def _content(kind: type) -> list[str]:
    """The slots without those that attrs makes for cached properties."""
    fields = _core.namespace_of(kind).get("__attrs_attrs__")
    slots = _slots(kind)
    return slots if fields is None else [name for name in slots if any(field.name == name for field in fields)]


def _is_all_seen(kind: type, roots: list[type]) -> bool:
    """Whether a value has no more room than what is known of it takes, with attributes, weak references and slots."""
    layout = kind
    while layout is not object and not is_among(layout, roots):
        layout = _core.base_of(layout)
    inherited = _core.mro_of(layout)
    added = [base for base in _core.mro_of(kind) if not is_among(base, inherited)]
    references = sum(len(_slots(base)) for base in added)
    references += _has_dict_inside(kind) - _has_dict_inside(layout)
    references += (kind.__weakrefoffset__ > 0) - (layout.__weakrefoffset__ > 0)
    return (
        kind.__basicsize__ <= layout.__basicsize__ + references * struct.calcsize("P")
        and kind.__itemsize__ == layout.__itemsize__
        and not any("n_sequence_fields" in _core.namespace_of(base) for base in added)  # has items behind its end
    )


def _has_dict_inside(kind: type) -> bool:
    """Whether the reference to the attributes is inside of a value. The interpreter mostly puts it in front."""
    return kind.__dictoffset__ != 0 and not kind.__flags__ & _MANAGED_DICT


_PICKLED_BY: Final = ("__reduce_ex__", "__reduce__", "__getstate__")
_MANAGED_DICT: Final = 1 << 4  # a flag of types


def _refuse(value: object) -> Parts:
    raise TypeError(
        "object() has no content." if type(value) is object else "Only its own code can read what it keeps."
    )


def _says_itself(kind: type, name: str) -> bool:
    """Whether the body of the class defines the method. Decorators such as ``dataclass`` add some of other names."""
    method = _core.namespace_of(kind).get(name)
    return getattr(method, "__qualname__", None) == f"{kind.__qualname__}.{name}" and type(method) is types.FunctionType


def reduced(value: object) -> Parts:
    """What an object would be pickled as. Buffers in it are not copied."""
    found: Any = object.__getattribute__(value, "__reduce_ex__")(5)
    if isinstance(found, str):
        raise TypeError("A name says nothing of what it holds.")
    function, arguments, *state = found
    yield full_name(function) if type(function) is types.FunctionType and "<" not in function.__qualname__ else function
    yield arguments
    for number, part in enumerate(state):
        yield list(part) if number in {1, 2} and part is not None else part


_core.plan_types(plan_for, report, report_slow)
