"""The size of a value in memory: measured where that is cheap, else estimated from a sample of its items."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from fastserverstate._core import Encoded

SAMPLE = 256  # items of one container that are looked at
MOST_OBJECTS = 20_000  # that are looked at in one value; others count without their contents

_PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None))
_OF_PROCESS = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)  # values only refer to them
_CONTAINERS = (list, tuple, deque, set, frozenset)


def size_of(value: object) -> int:
    """Return about how many bytes of memory a value takes.

    Arrays, frames, text and bytes are measured. Of a container with more than 256 items, an even sample is looked at:
    the size is within 20% of the truth unless few of the items are much larger than the others. An object that is
    contained several times counts once, and objects count with their attributes. Classes, functions and modules do not
    count, since values only refer to them.

    Thread-safety
        Safe from any thread. A container that another thread changes meanwhile counts without its items.

    >>> size_of(b"0" * 1_000_000) // 1000
    1000
    """
    return round(_Measurement().size_of(value))


class _Measurement:
    def __init__(self) -> None:
        self._seen: dict[int, object] = {}  # by id, which stays that of the object while the object is here

    def size_of(self, value: object) -> float:
        if isinstance(value, _OF_PROCESS) or id(value) in self._seen:
            return 0
        measured = _measured(value)
        if measured is not None:
            return measured
        size = float(sys.getsizeof(value, 0))
        if len(self._seen) < MOST_OBJECTS:
            self._seen[id(value)] = value
            if not isinstance(value, _PLAIN):
                with contextlib.suppress(RuntimeError):  # another thread has changed it
                    size += self._contents_of(value)
        return size

    def _contents_of(self, value: Any) -> float:
        size = 0.0
        if isinstance(value, dict):
            size = self._sum(value.items(), len(value), lambda item: self.size_of(item[0]) + self.size_of(item[1]))
        elif isinstance(value, _CONTAINERS):
            size = self._sum(value, len(value), self.size_of)
        return size + sum(map(self.size_of, _attributes_of(value)))

    @staticmethod
    def _sum(items: Iterable[Any], count: int, size_of: Callable[[Any], float]) -> float:
        sizes = list(map(size_of, islice(items, 0, None, -(-count // SAMPLE) or 1)))
        return sum(sizes) * count / len(sizes) if sizes else 0.0


def _attributes_of(value: object) -> Iterator[object]:
    """Yield the ``__dict__`` of an object, and the values of its slots."""
    attributes = getattr(value, "__dict__", None)
    if type(attributes) is dict:
        yield attributes
    slots = chain.from_iterable(vars(kind).get("__slots__", ()) for kind in type(value).__mro__)
    yield from (getattr(value, name) for name in slots if isinstance(name, str) and hasattr(value, name))


def _measured(value: object) -> float | None:
    """Return what the value's library tells, or None."""
    if type(value) is Encoded:
        return float(sys.getsizeof(value) + sys.getsizeof(value.data))
    measure = _MEASURES.get(type(value).__module__.partition(".")[0])
    return None if measure is None else measure(value)


# Of libraries, by package. They return None for what they cannot measure.


def _numpy_size(value: Any) -> float | None:
    if not hasattr(value, "nbytes"):
        return None
    size = float(sys.getsizeof(value)) if value.base is None else float(value.nbytes)
    if value.dtype.hasobject:
        size += _Measurement().size_of(value.ravel().tolist()) - 8 * value.size
    return size


def _pandas_size(value: Any) -> float | None:
    usage = getattr(value, "memory_usage", None)
    if usage is None:
        return None
    rows = len(value)
    if rows <= SAMPLE:
        return float(_total(usage(deep=True)))
    every = -(-rows // SAMPLE)
    sample = value[::every] if not hasattr(value, "iloc") else value.iloc[::every]
    deep = _total(sample.memory_usage(deep=True)) - _total(sample.memory_usage(deep=False))
    return float(_total(usage(deep=False)) + deep * rows / len(sample))


def _total(usage: Any) -> float:
    return float(usage.sum()) if hasattr(usage, "sum") else float(usage)


def _arrow_size(value: Any) -> float | None:
    return float(value.nbytes) if hasattr(value, "nbytes") else None


def _polars_size(value: Any) -> float | None:
    return float(value.estimated_size()) if hasattr(value, "estimated_size") else None


def _torch_size(value: Any) -> float | None:
    return float(value.element_size() * value.nelement()) if hasattr(value, "nelement") else None


_MEASURES: dict[str, Callable[[Any], float | None]] = {
    "numpy": _numpy_size,
    "pandas": _pandas_size,
    "polars": _polars_size,
    "pyarrow": _arrow_size,
    "torch": _torch_size,
}
