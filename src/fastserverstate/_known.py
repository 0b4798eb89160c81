"""The types that are known, and how a value of each is taken apart for its fingerprint (see `change`).

A type is added in one line of one of the two tables. Libraries are known by name only. Nothing is imported: an app
that hands over a DataFrame has imported pandas.
"""

from __future__ import annotations

import array
import builtins
import collections
import datetime
import decimal
import enum
import functools
import io
import logging
import operator
import os
import pathlib
import random
import re
import sys
import time
import types
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from xxhash import xxh3_128, xxh3_128_digest

from fastserverstate import _core

Parts = Iterable[object]


def full_name(kind: type | types.FunctionType) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


class Known(NamedTuple):
    """How to fingerprint a type: `parts` splits a value into values that stand for it.

    The attributes in its ``__dict__`` count too, except the `covered` ones, which are in the parts or are caches. An
    attribute of the class, named by `listed`, may list more of those. The library's own subclasses of a `family` have
    no other content. If the type is known `by_name`, only the parts count, in subclasses too.
    """

    parts: Callable[[Any], Parts]
    covered: str = ""
    listed: str = ""
    family: bool = False
    by_name: bool = False


def _code_parts(code: types.CodeType) -> Parts:
    """All but the lines in which it stands."""
    yield code.co_code, code.co_consts, code.co_names, code.co_flags, code.co_exceptiontable, code.co_qualname
    yield code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
    yield code.co_varnames, code.co_freevars, code.co_cellvars


def _function_parts(function: types.FunctionType) -> Parts:
    yield function.__module__, function.__qualname__, function.__name__, function.__doc__
    yield function.__code__
    yield function.__defaults__, function.__kwdefaults__
    yield function.__closure__


def _cell_parts(cell: types.CellType) -> Parts:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()


def _descriptor_parts(value: Any) -> Parts:
    return value.__objclass__, value.__name__


def _enum_parts(member: enum.Enum) -> Parts:
    return (member._name_, member._value_) if isinstance(member, enum.Flag) else (member._name_,)


def _dict_parts(value: Any) -> Parts:
    """In the order of its own items, whatever a subclass says of them."""
    return (dict(dict.items(value)),)


def _ordered_dict_parts(value: Any) -> Parts:
    return (list(collections.OrderedDict.items(value)),)


def _deque_parts(value: Any) -> Parts:
    return list(collections.deque.__iter__(value)), value.maxlen


def _text_buffer_parts(value: Any) -> Parts:
    state: Any = io.StringIO.__getstate__(value)
    yield from state[:3]  # content, newline and position; attributes follow


def _ufunc_parts(value: Any) -> Parts:
    """Those of NumPy never change. Others are known by a name that more than one may have."""
    name = value.__name__
    if getattr(_module("numpy"), name, None) is not value:
        raise TypeError("It is not one of NumPy's own.")
    return (name,)


def _traceback_parts(value: types.TracebackType) -> Parts:
    code = value.tb_frame.f_code
    return code.co_filename, code.co_qualname, value.tb_lineno, value.tb_next


_EXCEPTIONS: Final = {
    kind: [
        field
        for name, field in vars(kind).items()
        if type(field) in {types.GetSetDescriptorType, types.MemberDescriptorType} and name != "__dict__"
    ]
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}


def _exception_parts(error: BaseException) -> Parts:
    """All fields, with causes and contexts; of a traceback its lines."""
    for kind in _core.mro_of(type(error)):
        for field in _EXCEPTIONS.get(kind, ()):
            try:
                yield field.__name__, field.__get__(error)
            except AttributeError:  # not set
                yield field.__name__


_STANDARD: Final[dict[type, Known]] = {
    # Told by name
    type: Known(lambda value: (full_name(value),), by_name=True),
    types.ModuleType: Known(lambda value: (value.__name__,), by_name=True),
    logging.Logger: Known(lambda value: value.__reduce__(), by_name=True),
    type(...): Known(lambda _: ()),
    type(NotImplemented): Known(lambda _: ()),
    enum.Enum: Known(_enum_parts, "_name_ _value_ __objclass__ _sort_order_ _inverted_"),
    # Functions
    types.FunctionType: Known(_function_parts),
    types.BuiltinFunctionType: Known(lambda value: (value.__module__, value.__qualname__, value.__self__)),
    types.MethodType: Known(lambda value: (value.__func__, value.__self__)),
    types.MethodWrapperType: Known(lambda value: (value.__name__, value.__objclass__, value.__self__)),
    types.MethodDescriptorType: Known(_descriptor_parts),
    types.WrapperDescriptorType: Known(_descriptor_parts),
    types.ClassMethodDescriptorType: Known(_descriptor_parts),
    types.GetSetDescriptorType: Known(_descriptor_parts),
    types.MemberDescriptorType: Known(_descriptor_parts),
    types.CodeType: Known(_code_parts),
    types.CellType: Known(_cell_parts),
    property: Known(lambda value: (value.fget, value.fset, value.fdel, value.__doc__)),
    staticmethod: Known(lambda value: (value.__func__,)),
    classmethod: Known(lambda value: (value.__func__,)),
    functools.partial: Known(lambda value: (value.func, value.args, value.keywords)),
    operator.itemgetter: Known(operator.itemgetter.__reduce__),
    operator.attrgetter: Known(operator.attrgetter.__reduce__),
    operator.methodcaller: Known(operator.methodcaller.__reduce__),
    # Types in annotations
    types.GenericAlias: Known(lambda value: (value.__origin__, value.__args__, value.__unpacked__)),
    types.UnionType: Known(lambda value: value.__args__),
    # Containers
    types.SimpleNamespace: Known(lambda _: ()),
    types.MappingProxyType: Known(lambda value: (dict(value),)),
    collections.Counter: Known(_dict_parts),
    collections.OrderedDict: Known(_ordered_dict_parts),
    collections.defaultdict: Known(lambda value: (value.default_factory, *_dict_parts(value))),
    collections.deque: Known(_deque_parts),
    array.array: Known(lambda value: (value.typecode, memoryview(array.array.tobytes(value)))),
    io.BytesIO: Known(lambda value: (io.BytesIO.getvalue(value), io.BytesIO.tell(value))),
    io.StringIO: Known(_text_buffer_parts),
    # Numbers, times, names of things
    range: Known(lambda value: (value.start, value.stop, value.step)),
    slice: Known(lambda value: (value.start, value.stop, value.step)),
    decimal.Decimal: Known(decimal.Decimal.as_tuple),
    random.Random: Known(random.Random.getstate, "gauss_next"),
    datetime.tzinfo: Known(lambda _: ()),
    datetime.timezone: Known(lambda value: (value.utcoffset(None), value.tzname(None))),
    # It refuses to say the key of a zone that comes from a file, and may have another one's.
    zoneinfo.ZoneInfo: Known(lambda value: (zoneinfo.ZoneInfo.__reduce__(value)[1],)),
    time.struct_time: Known(time.struct_time.__reduce__),
    os.stat_result: Known(os.stat_result.__reduce__),
    re.Pattern: Known(lambda value: (value.pattern, value.flags)),
    **dict.fromkeys(
        [pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath],
        Known(lambda value: (pathlib.PurePath.__str__(value),)),
    ),
    # Errors
    **dict.fromkeys(_EXCEPTIONS, Known(_exception_parts)),
    types.TracebackType: Known(_traceback_parts),
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
    if (
        value.nbytes <= _BLOCK
        and dtype.char in _PLAIN_NUMBERS
        and dtype.metadata is None
        and type(value) is numpy.ndarray
    ):
        return value.shape, dtype.str, numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8).data
    return _any_ndarray_parts(value)


def _any_ndarray_parts(value: Any) -> Parts:
    numpy = _module("numpy")
    values = value.view(numpy.ndarray)
    dtype = values.dtype
    yield values.shape
    yield from _dtype_parts(dtype)
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


def _dtype_parts(dtype: Any) -> Parts:
    yield dtype.str, type(dtype), dtype.metadata
    if dtype.kind == "T":
        yield dtype.coerce, getattr(dtype, "na_object", ...)
    if dtype.names is not None:
        yield [(name, *dtype.fields[name]) for name in dtype.names]


def _masked_array_parts(value: Any) -> Parts:
    return value.data, _module("numpy").ma.getmaskarray(value), value.fill_value, value.hardmask


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
    yield value.flags.allows_duplicate_labels
    yield _metadata(value)


def _metadata(value: Any) -> list[object]:
    """What a subclass adds the pandas way. Copies have None where it is not set."""
    return [getattr(value, name, None) for name in value._metadata]


def _series_parts(value: Any) -> Parts:
    yield value.name, value.index, value.array, value.attrs, value.flags.allows_duplicate_labels
    yield _metadata(value)


def _index_parts(value: Any) -> Parts:
    return value.name, value.array, getattr(value, "freq", None)


def _multi_index_parts(value: Any) -> Parts:
    return value.names, value.levels, value.codes


def _range_index_parts(value: Any) -> Parts:
    return value.name, value.start, value.stop, value.step


def _pandas_array_parts(value: Any) -> Parts:
    return (value.to_numpy(),)


def _moments_parts(value: Any) -> Parts:
    return str(value.dtype), value.asi8, getattr(value, "tz", None), getattr(value, "freq", None)


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
    """With the metadata of nested fields, which no text shows."""
    return (memoryview(value.serialize()),)


def _arrow_field_parts(value: Any) -> Parts:
    return _arrow_schema_parts(_module("pyarrow").schema([value]))


def _arrow_type_parts(kind: Any) -> Parts:
    pyarrow = _module("pyarrow")
    if type(kind) is pyarrow.DataType:  # has no parameters
        return (str(kind),)
    return _arrow_field_parts(pyarrow.field("", kind))


def _arrow_scalar_parts(value: Any) -> Parts:
    return (_module("pyarrow").repeat(value, 1),)


def _arrow_table_parts(value: Any) -> Parts:
    yield value.schema
    yield value.num_rows
    yield from value.columns


def _arrow_chunks_parts(value: Any) -> Parts:
    yield value.type
    yield value.combine_chunks() if value.num_chunks != 1 else value.chunk(0)


def _arrow_array_parts(value: Any) -> Parts:
    """Without what lies under nulls, before an offset and past the end."""
    pyarrow = _module("pyarrow")
    kind = value.type
    yield kind
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


def _arrow_union(value: Any) -> Parts:
    """Which child each item is of, and of each child the items that are referred to."""
    numpy = _module("numpy")
    codes = value.type_codes.to_numpy()
    yield codes
    for number, code in enumerate(value.type.type_codes):
        chosen = numpy.flatnonzero(codes == code)
        places = value.offsets.to_numpy()[chosen] if value.type.mode == "dense" else chosen
        yield value.field(number).take(_module("pyarrow").array(places))


def _arrow_other(value: Any) -> Parts:
    if not isinstance(value, _module("pyarrow").ExtensionArray):
        raise TypeError(f"Arrow's {value.type} is not known.")
    return (value.storage,)


# By the names of predicates in pyarrow.types; the first that holds.
_ARROW_LAYOUTS: Final[dict[tuple[str, ...], Callable[[Any], Parts]]] = {
    ("is_boolean",): lambda value: (value.to_numpy(zero_copy_only=False),),
    ("is_primitive", "is_decimal", "is_fixed_size_binary"): _arrow_fixed,
    ("is_string", "is_large_string", "is_binary", "is_large_binary"): _arrow_text,
    ("is_list", "is_large_list", "is_map"): _arrow_lists,
    ("is_struct",): lambda value: value.flatten(),
    ("is_fixed_size_list",): lambda value: (value.flatten(),),
    ("is_dictionary",): lambda value: (value.indices, value.dictionary),
    ("is_union",): _arrow_union,
    ("is_null",): lambda _: (),
}


def _image_parts(value: Any) -> Parts:
    return value.mode, value.size, value.info, value.getpalette(None), value.tobytes()


def _image_file_parts(value: Any) -> Parts:
    if getattr(value, "n_frames", 1) != 1:
        raise TypeError("It has more than one frame.")
    return _image_parts(value)


_IMAGE: Final = "im _im pyaccess _mode _size info palette readonly _readonly"
_IMAGE_FILE: Final = (
    f"{_IMAGE} fp _fp tile map png _decoder decoderconfig decodermaxblock _exclusive_fp "
    "_close_exclusive_fp_after_loading _PngImageFile__idat _PngImageFile__prepare_idat _WebPImageFile__loaded "
    "_WebPImageFile__physical_frame _WebPImageFile__timestamp"
)


def _model_parts(value: Any) -> Parts:
    """As pydantic compares: which fields were given and which defaulted makes no difference."""
    return value.__pydantic_extra__, value.__pydantic_private__


_INDEX: Final = "_data _name _range _cache _id _references _freq _no_setting_name _engine"
_ARRAY: Final = (
    "_data _mask _ndarray _pa_array _left _right _sparse_index _sparse_values _dtype _freq _cache _readonly _hasna"
)

# By the name under which the library is to be asked for the type.
_LIBRARIES: Final[dict[str, Known]] = {
    "PIL.Image.Image": Known(_image_parts, _IMAGE),
    "PIL.ImageFile.ImageFile": Known(_image_file_parts, _IMAGE_FILE),
    "numpy.dtype": Known(_dtype_parts, family=True),
    "numpy.generic": Known(_numpy_scalar_parts, family=True),
    "numpy.ma.MaskedArray": Known(
        _masked_array_parts, "_mask _fill_value _hardmask _sharedmask _baseclass _isfield _basedict"
    ),
    "numpy.memmap": Known(_ndarray_parts, "_mmap"),
    "numpy.ndarray": Known(_ndarray_parts),
    "numpy.ufunc": Known(_ufunc_parts),
    "pandas.Categorical": Known(_categorical_parts, _ARRAY),
    "pandas.CategoricalIndex": Known(_index_parts, _INDEX),
    "pandas.DataFrame": Known(_frame_parts, "_mgr _attrs _flags _typ _metadata _item_cache _is_copy", "_metadata"),
    "pandas.DatetimeIndex": Known(_index_parts, _INDEX),
    "pandas.Index": Known(_index_parts, _INDEX),
    "pandas.Interval": Known(_interval_parts, "_cache"),
    "pandas.IntervalIndex": Known(_index_parts, _INDEX),
    "pandas.MultiIndex": Known(_multi_index_parts, f"{_INDEX} _levels _codes _names"),
    "pandas.Period": Known(lambda value: (value.ordinal, value.freqstr), "_cache"),
    "pandas.PeriodIndex": Known(_index_parts, _INDEX),
    "pandas.RangeIndex": Known(_range_index_parts, _INDEX),
    "pandas.Series": Known(
        _series_parts, "_mgr _attrs _flags _typ _metadata _name _item_cache _is_copy _cacher _index", "_metadata"
    ),
    "pandas.Timedelta": Known(lambda value: (value.asm8,), "_cache"),
    "pandas.TimedeltaIndex": Known(_index_parts, _INDEX),
    "pandas.Timestamp": Known(lambda value: (value.asm8, value.tzinfo, value.fold), "_cache"),
    "pandas._libs.missing.NAType": Known(lambda _: ()),
    "pandas._libs.tslibs.nattype.NaTType": Known(lambda _: ()),
    "pandas._libs.tslibs.offsets.BaseOffset": Known(lambda value: (value.n, value.normalize, value.kwds), family=True),
    "pandas.arrays.ArrowExtensionArray": Known(_arrow_backed_parts, _ARRAY),
    "pandas.arrays.ArrowStringArray": Known(_arrow_backed_parts, _ARRAY),
    "pandas.arrays.BooleanArray": Known(_masked_parts, _ARRAY),
    "pandas.arrays.DatetimeArray": Known(_moments_parts, _ARRAY),
    "pandas.arrays.FloatingArray": Known(_masked_parts, _ARRAY),
    "pandas.arrays.IntegerArray": Known(_masked_parts, _ARRAY),
    "pandas.arrays.IntervalArray": Known(_interval_parts, _ARRAY),
    "pandas.arrays.NumpyExtensionArray": Known(_pandas_array_parts, _ARRAY),
    "pandas.arrays.PandasArray": Known(_pandas_array_parts, _ARRAY),  # before pandas 2.1
    "pandas.arrays.PeriodArray": Known(_moments_parts, _ARRAY),
    "pandas.arrays.SparseArray": Known(_sparse_parts, _ARRAY),
    "pandas.arrays.StringArray": Known(_strings_parts, _ARRAY),
    "pandas.arrays.TimedeltaArray": Known(_moments_parts, _ARRAY),
    "pandas.core.arrays.string_.StringArrayNumpySemantics": Known(_strings_parts, _ARRAY),
    "pandas.core.arrays.string_arrow.ArrowStringArray": Known(_arrow_backed_parts, _ARRAY),
    "pandas.core.arrays.string_arrow.ArrowStringArrayNumpySemantics": Known(_arrow_backed_parts, _ARRAY),
    "polars.DataFrame": Known(_polars_frame_parts, "_df"),
    "polars.Series": Known(_polars_series_parts, "_s"),
    "pyarrow.lib.Array": Known(_arrow_array_parts, family=True),
    "pyarrow.lib.ChunkedArray": Known(_arrow_chunks_parts),
    "pyarrow.lib.DataType": Known(_arrow_type_parts, family=True),
    "pyarrow.lib.Field": Known(_arrow_field_parts),
    "pyarrow.lib.RecordBatch": Known(_arrow_table_parts),
    "pyarrow.lib.Scalar": Known(_arrow_scalar_parts, family=True),
    "pyarrow.lib.Schema": Known(_arrow_schema_parts),
    "pyarrow.lib.Table": Known(_arrow_table_parts),
    "pydantic.BaseModel": Known(_model_parts),
    "pydantic_core.MultiHostUrl": Known(lambda value: (str(value),)),
    "pydantic_core.Url": Known(lambda value: (str(value),)),
}


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


def is_among(kind: type, others: Iterable[type]) -> bool:
    """By identity: a metaclass may say anything."""
    return any(kind is other for other in others)


def is_storage(kind: type) -> bool:
    """Whether the core reads what values keep as ones of this type."""
    return is_among(kind, _STORAGES)


def known(kind: type) -> Known | None:
    """What is known of exactly this type."""
    found = _BY_ADDRESS.get(id(kind))
    if found is not None:
        return found
    for path in _PATHS.get(kind.__qualname__, ()):
        if getattr(sys.modules.get(path.rpartition(".")[0]), kind.__qualname__, None) is kind:
            return _LIBRARIES[path]
    return None


_BY_ADDRESS: Final = {id(kind): row for kind, row in _STANDARD.items()}
_PATHS: Final[dict[str, list[str]]] = {}
for _path in _LIBRARIES:
    _PATHS.setdefault(_path.rpartition(".")[2], []).append(_path)
