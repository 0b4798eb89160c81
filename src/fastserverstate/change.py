"""Did this value change? How values of types that the core does not know are written for their fingerprint.

The core walks built-in types itself (see ``_fingerprint.pxi``). For every other type it asks `plan_for` once: a plan
either has the core read storage, attributes and slots, or it is a function that takes a value apart into *parts*,
which stand for it: built-in values, buffers, or values of types that have plans themselves.

Libraries are known by name only. Nothing is imported: whoever hands over a DataFrame has imported pandas.
"""

from __future__ import annotations

import array
import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import functools
import logging
import pathlib
import struct
import sys
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from xxhash import xxh3_128, xxh3_128_digest

from fastserverstate import _core

HashFuncs = Mapping[type | str, Callable[[Any], object]]
Parts = Iterable[object]

_LOGGER: Final = logging.getLogger(__name__)


def content_fingerprint(value: object, hash_funcs: HashFuncs | None = None) -> bytes | None:
    """16 bytes that tell what a value holds, or None where nothing can.

    Two values have the same fingerprint if they are of the same types all through, by name, and hold the same: ``1``,
    ``1.0`` and ``True`` differ, as do ``0.0`` and ``-0.0``; NaN equals NaN, but in arrays it is compared bit by bit.
    The order of a dict's items counts, that of attributes and of a set's members does not; nor does who shares what,
    the memory layout of an array or the chunks of an Arrow table.

    Functions are told by their code, defaults and closures; classes and modules by name; enum members by class and
    name. Objects count with their attributes and slots, cached properties aside, or with what they would be pickled
    as if they define that. Locks, sockets, generators, a bare ``object()`` and what holds one have no fingerprint.
    Neither has what is nested more than 400 deep, holds more than 50 million values or changes meanwhile.

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
    return {key if isinstance(key, str) else full_name(key): function for key, function in hash_funcs.items()}


def full_name(kind: type | types.FunctionType) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


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


# Types of the standard library


def _code_parts(code: types.CodeType) -> Parts:
    return code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars, code.co_flags


def _function_parts(function: types.FunctionType) -> Parts:
    yield function.__module__, function.__qualname__
    yield function.__code__
    yield function.__defaults__, function.__kwdefaults__, function.__dict__
    yield function.__closure__


def _cell_parts(cell: types.CellType) -> Parts:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()


def _enum_parts(member: enum.Enum) -> Parts:
    return (member._name_, member._value_) if isinstance(member, enum.Flag) else (member._name_,)


def _refuse(_: object) -> Parts:
    raise TypeError("A bare object is nothing but itself.")


_STANDARD: Final[dict[type, Callable[[Any], Parts]]] = {
    object: _refuse,
    type(...): lambda _: (),
    type(NotImplemented): lambda _: (),
    range: lambda value: (value.start, value.stop, value.step),
    slice: lambda value: (value.start, value.stop, value.step),
    decimal.Decimal: lambda value: (str(value),),
    fractions.Fraction: lambda value: (value.numerator, value.denominator),
    datetime.timezone: lambda value: (value.utcoffset(None), value.tzname(None)),
    uuid.UUID: lambda value: (value.int,),
    array.array: lambda value: (value.typecode, memoryview(value.tobytes())),
    types.MappingProxyType: lambda value: (dict(value),),
    types.FunctionType: _function_parts,
    types.BuiltinFunctionType: lambda value: (value.__module__, value.__qualname__, value.__self__),
    types.MethodType: lambda value: (value.__func__, value.__self__),
    types.CodeType: _code_parts,
    types.CellType: _cell_parts,
    types.ModuleType: lambda value: (value.__name__,),
}


# Arrays


def _module(name: str) -> Any:
    """A library that a value comes from, so it is there."""
    return sys.modules[name]


_BLOCK: Final = 1 << 19
_FEW: Final = 64  # texts that are as soon written one by one: the names of columns
_PLAIN_NUMBERS: Final = "?bBhHiIlLqQefdFDmM"


def _digest(values: Any) -> bytes:
    """The hash of a NumPy array's items in the order of its indices. Without a copy if they lie so, else in blocks, so
    that what has to be copied stays in the processor's cache."""
    numpy = _module("numpy")
    if values.flags.c_contiguous:
        return xxh3_128_digest(values.reshape(-1).view(numpy.uint8).data)
    hasher = xxh3_128()
    step = max(1, _BLOCK * len(values) // values.nbytes)
    for start in range(0, len(values), step):
        hasher.update(numpy.ascontiguousarray(values[start : start + step]).reshape(-1).view(numpy.uint8).data)
    return hasher.digest()


def _ndarray_parts(value: Any) -> Parts:
    numpy = _module("numpy")
    dtype = value.dtype
    if value.nbytes <= _BLOCK and dtype.char in _PLAIN_NUMBERS and type(value) is numpy.ndarray:
        return value.shape, dtype.str, numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8).data
    return _any_ndarray_parts(value)


def _any_ndarray_parts(value: Any) -> Parts:
    numpy = _module("numpy")
    values = value.view(numpy.ndarray)
    dtype = values.dtype
    yield values.shape
    yield dtype.str
    if dtype.names is not None:  # there may be garbage between the fields
        yield dtype.names
        for name in dtype.names:
            yield values[name]
    elif dtype.kind in "OT":
        yield values.ravel().tolist()
    elif dtype.char in "gG" and numpy.finfo(dtype).nmant == 63:  # 10 of 16 bytes are the number's
        yield numpy.ascontiguousarray(values).reshape(-1).view(numpy.uint8).reshape(-1, 16)[:, :10].tobytes()
    else:
        yield _digest(values)


def _masked_array_parts(value: Any) -> Parts:
    own = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return value.data, _module("numpy").ma.getmaskarray(value), value.fill_value, own


def _numpy_scalar_parts(value: Any) -> Parts:
    plain = value.item()
    if type(plain) in {float, complex}:
        return (plain,)  # every NaN is one
    return _ndarray_parts(_module("numpy").asarray(value))


# Frames


def _frame_parts(value: Any) -> Parts:
    yield value.columns
    yield value.index
    columns = getattr(value, "_iter_column_arrays", None)  # a series for each column takes ten times as long
    yield from (column.array for _, column in value.items()) if columns is None else columns()
    yield value.attrs
    yield _metadata(value)


def _metadata(value: Any) -> list[object]:
    """What a subclass adds."""
    return [getattr(value, name, None) for name in value._metadata]


def _series_parts(value: Any) -> Parts:
    return value.name, value.index, value.array, value.attrs, _metadata(value)


def _index_parts(value: Any) -> Parts:
    yield value.names
    for level in range(value.nlevels):
        yield value.get_level_values(level).array


def _range_index_parts(value: Any) -> Parts:
    return value.name, value.start, value.stop, value.step


def _pandas_array_parts(value: Any) -> Parts:
    return (value.to_numpy(),)


def _moments_parts(value: Any) -> Parts:
    return str(value.dtype), value.asi8


def _categorical_parts(value: Any) -> Parts:
    return value.codes, value.categories, value.ordered


def _masked_parts(value: Any) -> Parts:
    """Without what lies under the mask."""
    dtype = value.dtype.numpy_dtype
    return str(value.dtype), value.isna(), value.to_numpy(dtype=dtype, na_value=dtype.type())


def _sparse_parts(value: Any) -> Parts:
    return len(value), value.fill_value, value.sp_index.to_int_index().indices, value.sp_values


def _interval_parts(value: Any) -> Parts:
    return value.left, value.right, value.closed


def _strings_parts(value: Any) -> Parts:
    return str(value.dtype), _module("numpy").asarray(value, dtype=object)


def _arrow_backed_parts(value: Any) -> Parts:
    return str(value.dtype), value.__arrow_array__()


def _polars_frame_parts(value: Any) -> Parts:
    yield value.height
    yield from value.get_columns()


def _polars_series_parts(value: Any) -> Parts:
    yield value.name
    yield str(value.dtype)
    try:
        arrow = None if value.dtype == _module("polars").Object else value.to_arrow()
    except Exception:  # it has no integers of 128 bits
        arrow = None
    yield value.to_list() if arrow is None else arrow


def _arrow_schema_parts(value: Any) -> Parts:
    yield value.metadata
    for field in value:
        yield field.name, str(field.type), field.nullable, field.metadata


def _arrow_table_parts(value: Any) -> Parts:
    yield value.schema
    yield value.num_rows
    yield from value.columns


def _arrow_chunks_parts(value: Any) -> Parts:
    yield str(value.type)
    yield value.combine_chunks() if value.num_chunks != 1 else value.chunk(0)


def _arrow_array_parts(value: Any) -> Parts:
    """Without what lies under nulls, before an offset and past the end."""
    pyarrow = _module("pyarrow")
    kind = value.type
    yield str(kind)
    yield len(value)
    if isinstance(value, pyarrow.ChunkedArray):  # too large for one array
        yield from value.chunks
        return
    if pyarrow.types.is_string_view(kind) or pyarrow.types.is_binary_view(kind):
        value = value.cast(pyarrow.large_string() if pyarrow.types.is_string_view(kind) else pyarrow.large_binary())
    if value.null_count and not pyarrow.types.is_null(kind):
        yield value.is_valid().to_numpy(zero_copy_only=False)
        value = value.drop_null()
    yield from _arrow_layout(value.type)(value)


@functools.lru_cache(maxsize=256)
def _arrow_layout(kind: Any) -> Callable[[Any], Parts]:
    predicates = _module("pyarrow").types
    for names, content in _ARROW_LAYOUTS.items():
        if any(getattr(predicates, name)(kind) for name in names):
            return content
    return _arrow_other


def _arrow_fixed(value: Any) -> Parts:
    width = value.type.bit_width // 8
    if len(value):
        yield memoryview(value.buffers()[1])[value.offset * width : (value.offset + len(value)) * width]


def _arrow_offsets(value: Any, is_large: bool) -> Any:
    offsets = _module("numpy").frombuffer(value.buffers()[1], dtype="int64" if is_large else "int32")
    return offsets[value.offset : value.offset + len(value) + 1]


def _arrow_text(value: Any) -> Parts:
    if len(value) <= _FEW:
        yield value.to_pylist()
    else:
        types = _module("pyarrow").types
        offsets = _arrow_offsets(value, types.is_large_string(value.type) or types.is_large_binary(value.type))
        yield _module("numpy").diff(offsets)
        yield memoryview(value.buffers()[2] or b"")[offsets[0] : offsets[-1]]


def _arrow_lists(value: Any) -> Parts:
    if len(value):
        types = _module("pyarrow").types
        offsets = _arrow_offsets(value, types.is_large_list(value.type))
        yield _module("numpy").diff(offsets)
        for items in (value.keys, value.items) if types.is_map(value.type) else (value.values,):
            yield items[offsets[0] : offsets[-1]]


def _arrow_other(value: Any) -> Parts:
    return (value.storage if isinstance(value, _module("pyarrow").ExtensionArray) else value.to_pylist(),)


# By the names of predicates in pyarrow.types; the first that holds.
_ARROW_LAYOUTS: Final[dict[tuple[str, ...], Callable[[Any], Parts]]] = {
    ("is_boolean",): lambda value: (value.to_numpy(zero_copy_only=False),),
    ("is_primitive", "is_decimal", "is_fixed_size_binary"): _arrow_fixed,
    ("is_string", "is_large_string", "is_binary", "is_large_binary"): _arrow_text,
    ("is_list", "is_large_list", "is_map"): _arrow_lists,
    ("is_struct",): lambda value: value.flatten(),
    ("is_fixed_size_list",): lambda value: (value.flatten(),),
    ("is_dictionary",): lambda value: (value.indices, value.dictionary),
    ("is_null",): lambda _: (),
}


def _image_parts(value: Any) -> Parts:
    return value.mode, value.size, value.info, value.getpalette(None), value.tobytes()


def _model_parts(value: Any) -> Parts:
    """As pydantic compares: which fields were given and which defaulted makes no difference."""
    kind = type(value)
    if not hasattr(kind, "__pydantic_private__"):  # before pydantic 2
        return reduced(value)
    fields = {name: value.__dict__[name] for name in kind.model_fields if name in value.__dict__}
    return fields, value.__pydantic_extra__, value.__pydantic_private__


# By the library's name and the type's; their modules have changed with releases. Subclasses are included.
_LIBRARIES: Final[dict[str, Callable[[Any], Parts]]] = {
    "PIL.Image": _image_parts,
    "numpy.MaskedArray": _masked_array_parts,
    "numpy.generic": _numpy_scalar_parts,
    "numpy.memmap": _ndarray_parts,
    "numpy.ndarray": _ndarray_parts,
    "pandas.ArrowExtensionArray": _arrow_backed_parts,
    "pandas.BaseMaskedArray": _masked_parts,
    "pandas.Categorical": _categorical_parts,
    "pandas.DataFrame": _frame_parts,
    "pandas.DatetimeLikeArrayMixin": _moments_parts,
    "pandas.Index": _index_parts,
    "pandas.IntervalArray": _interval_parts,
    "pandas.NumpyExtensionArray": _pandas_array_parts,
    "pandas.PandasArray": _pandas_array_parts,
    "pandas.RangeIndex": _range_index_parts,
    "pandas.Series": _series_parts,
    "pandas.SparseArray": _sparse_parts,
    "pandas.StringArray": _strings_parts,
    "polars.DataFrame": _polars_frame_parts,
    "polars.Series": _polars_series_parts,
    "pyarrow.Array": _arrow_array_parts,
    "pyarrow.ChunkedArray": _arrow_chunks_parts,
    "pyarrow.RecordBatch": _arrow_table_parts,
    "pyarrow.Scalar": lambda value: (str(value.type), value.as_py()),
    "pyarrow.Schema": _arrow_schema_parts,
    "pyarrow.Table": _arrow_table_parts,
    "pydantic.BaseModel": _model_parts,
}


# Any type

_STORAGES: Final[tuple[type, ...]] = (
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    tuple,
    list,
    dict,
    set,
    frozenset,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
)


# Subclasses are included.
_BASES: Final[dict[type, Callable[[Any], Parts]]] = {
    type: lambda value: (full_name(value),),
    enum.Enum: _enum_parts,
    pathlib.PurePath: lambda value: (str(value),),
    collections.Counter: lambda value: (dict(value), vars(value)),
}


def plan_for(kind: type) -> _core.TypePlan:
    """How values of a type are written."""
    storage = None
    base, parts = _parts_function(kind)
    if parts is None:
        storage = next((base for base in _STORAGES if issubclass(kind, base)), None)
        base = next(base for base in kind.__mro__ if _PICKLED_BY & vars(base).keys())
        if kind in copyreg.dispatch_table or (storage is None and base is object and _has_hidden_state(kind)):
            base, parts = kind, reduced
        elif base not in {storage, object}:
            parts = reduced
    # A function tells what its own class, `base`, keeps in a value. What subclasses have added counts beside that.
    slots = tuple(name for name in _slot_names(kind) if name not in _slot_names(base))
    has_dict = kind.__dictoffset__ != 0 and base.__dictoffset__ == 0
    derived = {
        name
        for base in kind.__mro__
        for name, attribute in vars(base).items()
        if isinstance(attribute, functools.cached_property)
    }
    return _core.TypePlan(full_name(kind), parts, storage, has_dict, slots, frozenset(derived))


_PICKLED_BY: Final = {"__reduce_ex__", "__reduce__", "__getstate__"}  # ``object`` has them, too


def _slot_names(kind: type) -> list[str]:
    names: list[str] = copyreg._slotnames(kind)  # type: ignore[attr-defined]
    return names


def _parts_function(kind: type) -> tuple[type, Callable[[Any], Parts] | None]:
    """A function that takes values apart, and for values of which class it was written."""
    if kind in _STANDARD:
        return kind, _STANDARD[kind]
    for base, parts in _BASES.items():
        if issubclass(kind, base):
            return base, parts
    for base in kind.__mro__:
        name = f"{base.__module__.partition('.')[0]}.{base.__qualname__}"
        if name in _LIBRARIES:
            return base, _LIBRARIES[name]
    return kind, None


def _has_hidden_state(kind: type) -> bool:
    """Whether an object has more room than for its attributes and slots. The same rule as in ``object.__reduce_ex__``,
    which then refuses."""
    references = len(_slot_names(kind)) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    return kind.__basicsize__ > object.__basicsize__ + references * struct.calcsize("P")


def reduced(value: object) -> Parts:
    """What an object would be pickled as. Buffers in it are not copied."""
    kind = type(value)
    if kind.__module__ == "itertools":
        raise TypeError("Pickling iterators is deprecated.")
    reduce = copyreg.dispatch_table.get(kind)
    found: Any = object.__getattribute__(value, "__reduce_ex__")(5) if reduce is None else reduce(value)
    if isinstance(found, str):
        yield found
        return
    function, arguments, *state = found
    yield full_name(function) if type(function) is types.FunctionType and "<" not in function.__qualname__ else function
    yield arguments
    for number, part in enumerate(state):
        yield list(part) if number in {1, 2} and part is not None else part


_core.plan_types(plan_for, report)
