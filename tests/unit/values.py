"""Values of every kind that apps store, each with variants that differ in one place.

The tests and their processes import it under the same name, because names of classes are compared.
"""

from __future__ import annotations

import array
import dataclasses
import datetime as dt
import enum
import fractions
import functools
import gc
import io
import math
import operator
import os
import pathlib
import random
import re
import time
import types
import uuid
import zoneinfo
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

try:
    import polars as pl
    import pydantic
except ModuleNotFoundError:  # no wheels for free-threaded builds of Python 3.13
    pl = pydantic = None

NOON = dt.datetime(2024, 5, 6, 12)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


Point = namedtuple("Point", "x y")
OtherPoint = namedtuple("OtherPoint", "x y")


@dataclasses.dataclass
class Todo:
    title: str
    tags: list[str] = dataclasses.field(default_factory=list)
    done: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenTodo:
    title: str
    tags: tuple[str, ...] = ()


class Plain:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    __hash__ = object.__hash__


class Slotted:
    __slots__ = ("_Slotted__private", "__weakref__", "left", "right")

    def __init__(self, left, right, private=None):
        self.left, self.right, self._Slotted__private = left, right, private


class HalfSlotted(Slotted):
    """Has slots, one of them empty, and attributes."""

    __slots__ = ("__dict__", "never_set")

    def __init__(self, left, extra):
        self.left = left
        self.extra = extra


class Measured:
    def __init__(self, samples):
        self.samples = samples

    @functools.cached_property
    def total(self):
        return sum(self.samples)


class Overriding(Measured):
    """Has a field where it inherits a cached property."""

    total = None

    def __init__(self, total):
        self.total = total


class Covering(Slotted):
    """Has a property where it inherits a slot."""

    __slots__ = ()
    left = property(lambda _: "covered")

    def __init__(self):
        Slotted.left.__set__(self, 1)
        self.right = 2


class Stateful:
    """Defines its own pickled state."""

    def __init__(self, content):
        self.content = content
        self.cache = object()

    def __getstate__(self):
        return {"content": self.content}


class Reducing:
    def __init__(self, content):
        self._hidden = object()
        self.content = content

    def __reduce__(self):
        return type(self), (self.content,), None, iter([self.content]), iter([("k", self.content)])

    def append(self, item):
        assert item == self.content

    def __setitem__(self, key, item):
        assert (key, item) == ("k", self.content)


class MoreStateful(Stateful):
    """Adds nothing to the pickled state of the base class."""

    def __init__(self):
        super().__init__([1])
        del self.cache  # which has no fingerprint


class MoreReducing(Reducing):
    """Also adds nothing to the pickled state of the base class."""

    def __init__(self, content=(1,)):
        super().__init__(content)
        self._hidden = None


class Sibling(Plain):
    pass


class Node:
    """Has references to and from its neighbours."""

    def __init__(self, name):
        self.name = name
        self.neighbours = []


def grid(size: int, odd: object = None) -> list[list[Node]]:
    rows = [[Node((x, y)) for x in range(size)] for y in range(size)]
    for y, row in enumerate(rows):
        for x, node in enumerate(row):
            for near_x, near_y in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if 0 <= near_x < size and 0 <= near_y < size:
                    node.neighbours.append(rows[near_y][near_x])
    rows[-1][-1].name = odd
    return rows


def function(parameters: str, body: str = "return a") -> Any:
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(f"def function({parameters}):\n    {body}", namespace)
    return namespace["function"]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error):
        return error


class OffsetZone(dt.tzinfo):
    """Zones of the same name."""

    def __init__(self, hours):
        self.hours = hours

    def utcoffset(self, _moment):
        return dt.timedelta(hours=self.hours)

    def dst(self, _moment):
        return None

    def tzname(self, _moment):
        return "office"

    def __str__(self):
        return "office"

    __repr__ = __str__

    def __deepcopy__(self, _memo):
        return OffsetZone(self.hours)


def zoned(hours: int) -> Any:
    return pd.DatetimeIndex(["2024"], tz="UTC").tz_convert(OffsetZone(hours))


class OddEquality:
    """Equals everything, or nothing."""

    def __init__(self, answer, content):
        self.answer, self.content = answer, content

    def __eq__(self, other):
        return self.answer

    __hash__ = None


class Refusing:
    """Has special methods that raise."""

    def __init__(self, content):
        object.__setattr__(self, "content", content)

    def _refuse(self, *_args):
        raise RuntimeError("called")

    __eq__ = __ne__ = __hash__ = __repr__ = __str__ = __bool__ = __len__ = __iter__ = __getattribute__ = _refuse
    __setattr__ = __delattr__ = __lt__ = __copy__ = __dir__ = __format__ = __sizeof__ = __getattr__ = _refuse

    def __deepcopy__(self, _memo):
        return Refusing(object.__getattribute__(self, "content"))


def subclass(base: type) -> type:
    """Has attributes, and special methods that raise."""

    def refuse(*_args):
        raise RuntimeError("called")

    refusals = dict.fromkeys(["__iter__", "__len__", "__getitem__"], refuse)
    made = type(f"My{base.__name__}", (base,), {"__module__": __name__, **refusals})
    globals()[made.__name__] = made
    return made


@attrs.define
class Account:
    owner: str
    entries: list[int] = attrs.field(factory=list)


@attrs.define
class LooseAccount(Plain):
    """Has slots in addition to the attributes of its base class."""

    owner: str


@attrs.define
class CachingAccount:
    entries: list[int]

    @functools.cached_property
    def total(self) -> int:
        return sum(self.entries)


@attrs.define(slots=False, frozen=True)
class Receipt:
    number: int


if pydantic is not None:

    class Order(pydantic.BaseModel):
        item: str = "pen"
        counts: list[int] = []  # noqa: RUF012
        _note: str = pydantic.PrivateAttr(default="")

        @functools.cached_property
        def total(self) -> int:
            return sum(self.counts)

    class OpenOrder(Order, extra="allow"):
        pass


def noted(order: Any, note: str) -> Any:
    order._note = note
    return order


MyInt, MyFloat, MyStr, MyBytes, MyTuple, MyList, MyDict, MySet, MyFrozenset, MyDatetime, MyDate, MyDelta = map(
    subclass,
    (int, float, str, bytes, tuple, list, dict, set, frozenset, dt.datetime, dt.date, dt.timedelta),
)


class NumericArray(np.ndarray):
    pass


class Frame(pd.DataFrame):
    """Extends it as a library would."""

    _metadata = ["crs"]  # noqa: RUF012

    @property
    def _constructor(self):
        return Frame


class Column(pd.Series):
    _metadata = ["_name", "crs"]  # noqa: RUF012

    @property
    def _constructor(self):
        return Column


def extended(base: type, *arguments: Any, slots: tuple[str, ...] | None = None, note: object = 1) -> Any:
    """Return a value of a subclass with an attribute or slot that the state of the base class lacks."""
    namespace = {"__module__": __name__} if slots is None else {"__module__": __name__, "__slots__": slots}
    value = type(f"Extended{base.__name__}{slots or ''}", (base,), namespace)(*arguments)
    object.__setattr__(value, "note", note)
    return value


# Values with their own pickled state, or split by a function, without the additions of subclasses.
EXTENDED: dict[str, Callable[..., Any]] = {
    "Decimal": lambda **k: extended(Decimal, 1, **k),
    "Fraction": lambda **k: extended(fractions.Fraction, 1, 2, **k),
    "UUID": lambda **k: extended(uuid.UUID, "0" * 32, **k),
    "path": lambda **k: extended(pathlib.PurePosixPath, "a", **k),
    "defaultdict": lambda **k: extended(defaultdict, int, **k),
    "Counter": lambda **k: extended(Counter, "aab", **k),
    "OrderedDict": lambda **k: extended(OrderedDict, **k),
    "deque": lambda **k: extended(deque, [1], **k),
    "array": lambda **k: extended(array.array, "i", [1], **k),
    "exception": lambda **k: extended(ValueError, "a", **k),
    "attrs": lambda **k: extended(Account, "a", **k),
    "frozen dataclass": lambda **k: extended(FrozenTodo, "a", **k),
    "ndarray": lambda **k: extended(np.ndarray, 0, **k),
    "list": lambda **k: extended(list, [1], **k),
    "slots": lambda **k: extended(Slotted, 1, 2, **k),
}


def with_attribute(value: Any, name: str, content: object) -> Any:
    setattr(value, name, content)
    return value


def without(value: Any, name: str) -> Any:
    delattr(value, name)
    return value


def adder(number: Any) -> Callable[[Any], Any]:
    return lambda other: number + other


def doubler(number: int) -> Callable[[int], int]:
    return lambda other: number + other + other


def countdown(number: int) -> Callable[[], object]:
    """A function that refers to itself."""

    def run() -> object:
        return run if number else None

    return run


def ring(*leaves: object) -> list[Any]:
    value: list[Any] = [*leaves]
    value.append([value, *leaves])
    return value


def lollipop(depth: int) -> list[Any]:
    """A list in a list in a list, the innermost of which holds one of the others."""
    levels: list[list[Any]] = [[], [], []]
    levels[0].append(levels[1])
    levels[1].append(levels[2])
    levels[2].append(levels[depth])
    return levels[0]


def twins() -> list[Any]:
    one, other = ring(1), ring(1)
    return [one, other, one]


def knot() -> dict[str, Any]:
    one, other = Plain(), Plain()
    one.peer, other.peer = other, one
    return {"one": one, "other": other}


def matrix(**change: Any) -> np.ndarray[Any, Any]:
    values = np.arange(60_000, dtype=change.get("dtype", "float64")).reshape(change.get("shape", (300, 200)))
    values.flat[change.get("at", 0)] = change.get("value", 0)
    return values


def record(**change: Any) -> np.ndarray[Any, Any]:
    kind = np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 8], "itemsize": 16})
    garbage = np.frombuffer(np.random.default_rng().bytes(16 * 4), dtype=kind).copy()
    garbage["a"], garbage["b"] = [1, 2, 3, 4], [1.0, 2.0, 3.0, change.get("b", 4.0)]
    return garbage


def frame(**change: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "number": np.arange(50) * 0.5,
        "count": np.arange(50),
        "text": [f"row {i}" for i in range(50)],
        "object": pd.Series([1, "a", None, (2, 3), 4.5] * 10, dtype=object),
        "kind": pd.Categorical(["a", "b"] * 25, categories=["a", "b", "c"]),
        "when": pd.date_range("2024", periods=50),
        "where": pd.date_range("2024", periods=50, tz="Europe/Berlin"),
        "span": pd.to_timedelta(np.arange(50), unit="s"),
        "month": pd.period_range("2020", periods=50, freq="M"),
        "maybe": pd.array([1, None] * 25, dtype="Int64"),
        "flag": pd.array([True, None] * 25, dtype="boolean"),
        "sparse": pd.arrays.SparseArray([0, 0, 0, 0, 1] * 10),
        "range": pd.IntervalIndex.from_breaks(range(51)),
        "python": pd.array(["x", None] * 25, dtype="string[python]"),
        "arrow": pd.array([1.5, None] * 25, dtype=pd.ArrowDtype(pa.float64())),
    }
    columns.update(change)
    return pd.DataFrame(columns)


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    values = frame()[column].copy()
    values.iloc[row] = value
    return frame(**{column: values})


ARROW_COLUMNS: dict[str, Any] = {
    "null": ([None] * 4, pa.null()),
    "int": ([1, 2, None, 4], pa.int16()),
    "float": ([1.5, -0.0, None, 4.0], pa.float64()),
    "bool": ([True, None, False, True], pa.bool_()),
    "text": (["a", "", None, "long " * 9], pa.string()),
    "large": (["a", "", None, "bcd"], pa.large_string()),
    "view": (["a", "", None, "long " * 9], pa.string_view()),
    "bytes": ([b"a", b"", None, b"bcd"], pa.binary()),
    "fixed": ([b"abc", None, b"def", b"ghi"], pa.binary(3)),
    "decimal": ([Decimal("1.5"), None, Decimal("2.5"), Decimal(0)], pa.decimal128(5, 1)),
    "when": ([NOON, None, NOON, NOON], pa.timestamp("us", tz="UTC")),
    "day": ([NOON.date(), None, NOON.date(), NOON.date()], pa.date32()),
    "list": ([[1, None], [], None, [2]], pa.list_(pa.int64())),
    "large list": ([["a"], [], None, ["b", None]], pa.large_list(pa.string())),
    "pair": ([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
    "struct": ([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}, {"x": 3, "y": None}],
               pa.struct([("x", pa.int64()), ("y", pa.string())])),
    "map": ([[("a", 1)], [], None, [("b", 2), ("c", None)]], pa.map_(pa.string(), pa.int64())),
    "dictionary": (["a", "b", None, "a"], pa.dictionary(pa.int32(), pa.string())),
    "uuid": ([b"a" * 16, None, b"b" * 16, b"c" * 16], pa.uuid()),
}  # fmt: skip


def arrow_array(name: str, items: list[Any] | None = None) -> Any:
    values, kind = ARROW_COLUMNS[name]
    values = values if items is None else items
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return pa.array(values, kind)


def arrow_table(**change: Any) -> pa.Table:
    return pa.table({name: change.get(name) or arrow_array(name) for name in ARROW_COLUMNS})


def polars_frame(**change: Any) -> Any:
    columns: dict[str, Any] = {
        "int": [1, 2, None],
        "text": ["a", None, "long " * 9],
        "bool": [True, None, False],
        "list": [[1], None, [2, 3]],
        "struct": [{"x": 1}, {"x": None}, {"x": 3}],
        "kind": pl.Series(["a", "b", None], dtype=pl.Categorical),
        "when": [NOON, None, NOON],
        "decimal": [Decimal("1.5"), None, Decimal("2.5")],
        "object": pl.Series([{1}, None, {2}], dtype=pl.Object),
    }
    columns.update(change)
    return pl.DataFrame(columns)


def image(mode: str = "RGB", at: tuple[int, int] | None = None) -> Image.Image:
    made = Image.new(mode, (40, 30), 1)
    if at is not None:
        made.putpixel(at, 2)
    return made


def image_file(*others: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image().save(file, "GIF" if others else "PNG", save_all=bool(others), append_images=others)
    return Image.open(file)


def palette_image(first: int, alpha: int | None = None) -> Image.Image:
    made = Image.new("P", (4, 4))
    if alpha is None:
        made.putpalette([first, 1, 2] * 256)
    else:
        made.putpalette([first, 1, 2, alpha] * 256, "RGBA")
    return made


def text_at(position: int, letter: str, length: int = 3000) -> str:
    return "".join(letter if i == position else "x" for i in range(length))


def described_struct(text: str) -> pa.Field:
    return pa.field("s", pa.struct([pa.field("x", pa.int8(), metadata={"about": text})]))


def described_union(code: int) -> pa.Array:
    codes = pa.array([code], pa.int8())
    return pa.UnionArray.from_dense(codes, pa.array([0], pa.int32()), [pa.array([1])], ["a"], [code])


LONG = 1 << 17

# Each creates a value and its variants, which all differ from each other.
CASES: dict[str, Callable[[], list[Any]]] = {
    "ints": lambda: [
        0, 1, -1, 2**30, 2**62, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, 10**30, -(10**30), 10**400
    ],
    "one and its like": lambda: [
        1, True, 1.0, 1 + 0j, "1", b"1", Decimal(1), fractions.Fraction(1), Level.LOW, MyInt(1), np.int64(1),
        np.float64(1), np.array(1), (1,), [1]
    ],
    "zeros": lambda: [
        0.0, -0.0, 0j, complex(0, -0.0), complex(-0.0, 0), 0, False, None, math.nan, math.inf, -math.inf,
        complex(math.nan, 0), complex(0, math.nan)
    ],
    "empties": lambda: [
        None, "", b"", bytearray(), (), [], {}, set(), frozenset(), ..., NotImplemented, range(0), memoryview(b""),
        np.zeros(0), np.zeros((0, 2)), pd.DataFrame(), [[]], [None], Plain(), array.array("i"), deque()
    ],
    "text": lambda: [
        "abc", "abd", "ab", "abc\0", "äbc", "\ud800", "\udfff", "\U0001f600", "\ud83d\ude00", "\uff41bc", MyStr("abc")
    ],
    "long text": lambda: [
        text_at(2999, "y"), text_at(1500, "y"), text_at(1500, "ä"), text_at(1500, "\u20ac"), text_at(0, "y"),
        text_at(0, "x", 2999)
    ],
    "bytes": lambda: [
        b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc", b"abd", memoryview(b"abcd")[::2],
        memoryview(array.array("i", [1, 2])), memoryview(array.array("I", [1, 2])),
        memoryview(b"abcd").cast("B", (2, 2))
    ],
    "long bytes": lambda: [
        bytes(LONG), bytes(LONG - 1), bytes(LONG - 1) + b"1", bytearray(LONG), b"1" + bytes(LONG - 1),
        memoryview(bytes(LONG))
    ],
    "lists": lambda: [
        [1, 2, 3], [1, 3, 2], [1, 2], [1, 2, 3, 3], (1, 2, 3), [[1, 2], 3], [1, [2, 3]], [1, [2], 3], [1, 2, 3.0],
        {1, 2, 3}
    ],
    "boundaries": lambda: [
        ["ab", "c"], ["a", "bc"], ["abc", ""], [["a"], "bc"], ["a", ["bc"]], [b"ab", "c"], {"a": "bc"}, {"ab": "c"},
        ["a\x11b", "c"], ["a", "b\x11c"], [b"abb", b"c"], [b"a", b"bbc"]
    ],
    "long lists": lambda: [
        list(range(30_000)), [*range(29_999), 0], [-1, *range(1, 30_000)], [*range(15_000), -1, *range(15_001, 30_000)],
        tuple(range(30_000)), list(range(29_999)), list(range(30_001)), [list(range(30_000))],
        [*range(10_000), *range(20_000)]
    ],
    "lists of texts": lambda: [
        [f"text {i}" for i in range(20_000)], [f"text {i}" + "!" * (i == 10_000) for i in range(20_000)]
    ],
    "dicts": lambda: [
        {"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}, {"a": 1, "b": [1, 3]}, {"a": 1}, {"a": 1, "b": (1, 2)},
        [("a", 1), ("b", [1, 2])], {1: "a"}, {True: "a"}, {1.0: "a"}, {"a": {"b": 1}}, {"a": "b"}
    ],
    "nested dict": lambda: [
        {f"k{i}": {"id": i, "tags": ["a", "b"]} for i in range(1000)},
        {f"k{i}": {"id": i, "tags": ["a", "b" if i != 500 else "c"]} for i in range(1000)}
    ],
    "sets": lambda: [
        {1, 2, 3}, {1, 2}, {1, 2, 4}, frozenset({1, 2, 3}), {1, 2, 3.5}, {"1", "2", "3"}, {1, 2, (3,)}, {True, 2, 3},
        {(1, 2), 3}, {(1, 2, 3)}
    ],
    "sets of texts": lambda: [{f"member {i}" for i in range(300)}, {f"member {i}" for i in range(1, 301)}],
    "sets of objects": lambda: [
        {FrozenTodo("a"), FrozenTodo("b"), ("c", FrozenTodo("d"))},
        {FrozenTodo("a"), FrozenTodo("b"), ("c", FrozenTodo("e"))}, {frozenset({1, 2}), frozenset({3})},
        {frozenset({1, 3}), frozenset({2})}, {Plain(x=1), Plain(x=2)}, {Plain(x=1), Plain(x=1)}
    ],
    "ranges": lambda: [
        range(3), range(0, 3, 2), range(0, 4, 2), slice(0, 3), slice(0, 3, 1), slice([0], 3, 1), [0, 1, 2]
    ],
    "times": lambda: [
        NOON, NOON.replace(microsecond=1), NOON.replace(fold=1), NOON.date(), NOON.time(), NOON.time().replace(fold=1),
        NOON.replace(tzinfo=dt.UTC), NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=1))),
        NOON.replace(tzinfo=dt.timezone(dt.timedelta(0), "zero")),
        NOON.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), NOON.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
        NOON.time().replace(tzinfo=dt.UTC), dt.timedelta(1), dt.timedelta(0, 1), dt.timedelta(0, 0, 1), dt.UTC,
        dt.timedelta(-1), pd.Timestamp(NOON), pd.Timestamp(NOON, tz="UTC"), pd.NaT, pd.Timedelta(1),
        pd.Period("2024-05"), np.datetime64(NOON), MyDatetime(2024, 5, 6, 12), np.datetime64(NOON, "ns"),
        np.timedelta64(1, "D"), MyDate(2024, 5, 6)
    ],
    "decimals": lambda: [
        Decimal("1.0"), Decimal("1.00"), Decimal("-0"), Decimal(0), Decimal("NaN"), Decimal("sNaN"),
        Decimal("Infinity"), fractions.Fraction(1, 3), fractions.Fraction(1, 4)
    ],
    "ids and paths": lambda: [
        uuid.UUID(int=1), uuid.UUID(int=2), pathlib.PurePosixPath("a/b"), pathlib.PurePosixPath("a/c"),
        pathlib.PureWindowsPath("a/b"), re.compile("a"), re.compile("a", re.IGNORECASE), re.compile(b"a")
    ],
    "enums": lambda: [Colour.RED, Colour.BLUE, Level.LOW, Level.HIGH, Level.LOW | Level.HIGH, Level(0)],
    "namedtuples": lambda: [Point(1, 2), Point(1, 3), (1, 2), OtherPoint(1, 2)],
    "dataclasses": lambda: [
        Todo("a", ["x"]), Todo("a", ["y"]), Todo("a", ["x"], done=True), with_attribute(Todo("a", ["x"]), "extra", 1),
        FrozenTodo("a", ("x",)), FrozenTodo("a", ("y",)), {"title": "a", "tags": ["x"], "done": False}
    ],
    "objects": lambda: [
        Plain(a=1, b=[2]), Plain(a=1, b=[3]), Plain(a=1), Plain(ab=1), types.SimpleNamespace(a=1, b=[2]),
        types.SimpleNamespace(a=1, b=[3])
    ],
    "slots": lambda: [
        Slotted(1, [2]), Slotted(1, [3]), Slotted([2], 1), Slotted(1, [2], 3), HalfSlotted(1, [2]), HalfSlotted(1, [3]),
        HalfSlotted(2, [2]), with_attribute(HalfSlotted(1, [2]), "never_set", 0), without(Slotted(1, 1), "left"),
        without(Slotted(1, 1), "right")
    ],
    "pickled their own way": lambda: [
        Stateful([1]), Stateful([2]), Reducing([1]), Reducing([2]), Measured([1, 2]), Measured([2, 2])
    ],
    "odd equality": lambda: [OddEquality(True, 1), OddEquality(True, 2), OddEquality(False, 1)],
    "refusing": lambda: [Refusing([1]), Refusing([2]), [Refusing([1])], {"k": Refusing([1])}],
    "attrs": lambda: [Account("a", [1]), Account("a", [2]), Account("b", [1]), Receipt(1), Receipt(2)],
    "pydantic": lambda: [
        Order(item="a", counts=[1]), Order(item="a", counts=[2]), noted(Order(item="a", counts=[1]), "x"),
        OpenOrder(item="a", counts=[1]), OpenOrder(item="a", counts=[1], more=1),
        OpenOrder(item="a", counts=[1], more=2)
    ],
    "subclasses": lambda: [
        MyInt(7), MyInt(10**30), MyFloat(7), MyStr("7"), MyBytes(b"7"), MyTuple((7,)), MyList([7]), MyDict({7: 7}),
        MySet({7}), MyFrozenset({7}), MyDelta(7), with_attribute(MyInt(7), "note", 1),
        with_attribute(MyList([7]), "note", 1), with_attribute(MyList([7]), "note", 2), MyList([8]), MyDict({7: 8}),
        MySet({8}), MyTuple((8,))
    ],
    "collections": lambda: [
        OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), {"a": 1, "b": 2}, defaultdict(int, a=1), defaultdict(list, a=1),
        Counter("aab"), Counter("abb"), deque([1, 2]), deque([1, 2], maxlen=2), deque([2, 1]), UserDict(a=1),
        UserDict(a=2), ChainMap({"a": 1}), ChainMap({}, {"a": 1}), array.array("i", [1]), array.array("i", [2]),
        array.array("I", [1]), ValueError("a"), ValueError("b"), KeyError("a")
    ],
    "functions": lambda: [
        adder(1), adder(2), doubler(1), len, print, adder, lambda a=1: a, lambda a=2: a, lambda *, a=1: a, str.upper,
        functools.partial(adder, 1), functools.partial(adder, 2), countdown(0), countdown(1), Plain(a=1).__init__,
        Plain(a=2).__init__, [1].append, [2].append
    ],
    "parameters": lambda: [
        function("a, b"), function("a, *, b"), function("a, b, /"), function("a, /, b"), function("a, *b"),
        function("a, **b"), function("a, b=1"), function("*, a, b"), function("a, b", "return b"),
        with_attribute(function("a, b"), "__name__", "other"), with_attribute(function("a, b"), "__doc__", "other")
    ],
    "callables": lambda: [
        operator.itemgetter(1), operator.itemgetter(2), operator.attrgetter("a"), operator.methodcaller("a", 1),
        operator.methodcaller("a", k=1), np.sin, np.cos, property(len), staticmethod(len), classmethod(len),
        functools.partial(len), with_attribute(functools.partial(len), "note", 1)
    ],
    "errors": lambda: [
        ValueError("a"), ValueError("b"), KeyError("a"), OSError(1, "a"), OSError(1, "a", "file"),
        OSError(2, "a", "file"), ImportError("a", name="b"), ImportError("a", name="c"), SystemExit(1),
        StopIteration(1), ExceptionGroup("a", [ValueError("a")]), ExceptionGroup("a", [ValueError("b")]),
        UnicodeDecodeError("a", b"b", 0, 1, "c"), UnicodeDecodeError("a", b"b", 0, 1, "d")
    ],
    "buffers": lambda: [
        io.BytesIO(b"a"), io.BytesIO(b"b"), io.StringIO("a"), io.StringIO("b"), io.StringIO("a", newline=None),
        random.Random(1), random.Random(2), time.gmtime(0), time.gmtime(1),
        time.struct_time((*time.gmtime(0), "CET", 3600)), os.stat_result(range(10)), os.stat_result(range(11))
    ],
    "zones": lambda: [
        zoned(1), zoned(2), pd.Timestamp("2024", tz=OffsetZone(1)), pd.Timestamp("2024", tz=OffsetZone(2)),
        pd.Series(zoned(1)), pd.Series(zoned(2)), pd.DataFrame({"a": zoned(1)}), pd.DataFrame({"a": zoned(2)}),
        pd.Timestamp(year=2024, month=10, day=27, hour=2, tz="dateutil/Europe/Berlin", fold=0),
        pd.Timestamp(year=2024, month=10, day=27, hour=2, tz="dateutil/Europe/Berlin", fold=1),
        pd.date_range("2024", periods=2), pd.DatetimeIndex([*pd.date_range("2024", periods=2)]),
        NOON.replace(tzinfo=OffsetZone(1)), NOON.replace(tzinfo=OffsetZone(2)),
        NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=1), "office")),
        NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=2), "office")), pd.offsets.Day(1), pd.offsets.Day(2)
    ],
    "arrow's small print": lambda: [
        described_union(0), described_union(5), pa.schema([described_struct("a")]), pa.schema([described_struct("b")]),
        described_struct("a"), described_struct("b"), described_struct("a").type, described_struct("b").type,
        pa.array([{"x": 1}], described_struct("a").type), pa.array([{"x": 1}], described_struct("b").type),
        pa.array([[{"x": 1}]], pa.list_(described_struct("a").type)),
        pa.array([[{"x": 1}]], pa.list_(described_struct("b").type)),
        pa.scalar({"x": 1}, described_struct("a").type),
        pa.field("a", pa.int8()), pa.field("a", pa.int8(), nullable=False),
        pa.field("a", pa.int8(), metadata={"a": "b"})
    ],
    "classes and modules": lambda: [Plain, Slotted, int, list[int], list[str], math, operator, Colour],
    "cycles": lambda: [
        ring(1), ring(2), ring(), lollipop(0), lollipop(1), lollipop(2), knot(), [ring(1)], {"k": ring(1)}
    ],
    "arrays": lambda: [
        matrix(), matrix(at=30_001, value=-1), matrix(at=59_999, value=-1), matrix(value=-0.0), matrix(value=math.nan),
        matrix(dtype="float32"), matrix(dtype=">f8"), matrix(dtype="int64"), matrix(shape=(200, 300)),
        matrix(shape=60_000), matrix().T, matrix()[:, ::2], matrix()[::2], matrix()[::-1], matrix().view(NumericArray),
        np.broadcast_to(1.0, (300, 200))
    ],
    "special arrays": lambda: [
        np.array([[1, "a"], [None, [2]]], dtype=object), np.array([[1, "a"], [None, [3]]], dtype=object),
        np.array([1, "a", None, [2]], dtype=object), np.array(["a", "bc"]), np.array(["a", "bd"]),
        np.array([b"a", b"bc"]), np.array([True, False]), np.array(["2024", "NaT"], "M8[D]"),
        np.array(["2024", "2025"], "M8[D]"), np.array(["2024", "2025"], "M8[h]"),
        np.array(["a", "bc"], np.dtypes.StringDType()), np.array(["a", "bd"], np.dtypes.StringDType()), record(),
        record(b=5.0), record().view(np.recarray), np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0]),
        np.ma.array([1, 9], mask=[0, 1]), with_attribute(np.ma.array([1, 2], mask=[0, 1]), "unit", "m"),
        np.array([1, 2], np.longdouble), np.array([1, 3], np.longdouble), np.array([1, 2], np.clongdouble),
        np.float16(1), np.float32(1), np.str_("a"), np.longdouble(1), record()[3], record(b=5.0)[3]
    ],
    "frames": lambda: [
        frame(), changed("number", 25, -1.0), changed("text", 25, "other"), changed("text", 25, None),
        changed("object", 25, "other"), changed("kind", 25, "c"), changed("when", 25, pd.Timestamp("2000")),
        changed("where", 25, pd.Timestamp("2000", tz="Europe/Berlin")), changed("maybe", 24, 7),
        changed("maybe", 24, None), changed("flag", 24, False), changed("span", 25, pd.Timedelta(0)),
        changed("month", 25, pd.Period("2000-01")), changed("python", 24, "y"), changed("arrow", 24, 2.5),
        changed("arrow", 24, None), frame(sparse=pd.arrays.SparseArray([0, 0, 0, 0, 2] * 10)),
        frame(range=pd.IntervalIndex.from_breaks(range(1, 52))),
        frame(kind=pd.Categorical(["a", "b"] * 25, categories=["b", "a", "c"])),
        frame(kind=pd.Categorical(["a", "b"] * 25, categories=["a", "b", "c"], ordered=True)),
        frame(where=pd.date_range("2024", periods=50, tz="Europe/Paris")), frame(count=np.arange(50, dtype="int32")),
        frame().rename(columns={"count": "counts"}), frame().iloc[::-1], frame().iloc[:-1], frame().iloc[:, ::-1],
        frame().set_index("text"), frame().set_index(["text", "count"]), frame().rename_axis("index"),
        frame().rename_axis(columns="columns"), frame().set_axis(np.arange(50)), frame().set_axis(range(1, 51)),
        frame().astype(object)
    ],
    "frames and more": lambda: [
        pd.DataFrame({"a": [1]}), Frame({"a": [1]}), Frame({"a": [2]}), with_attribute(Frame({"a": [1]}), "crs", "utm"),
        pd.Series([1], name="a"), pd.Series([1], name="b"), pd.Series([1], index=[1], name="a"),
        pd.Series([2], name="a"), with_attribute(Column([1]), "crs", 1), with_attribute(Column([1]), "crs", 2),
        pd.Index([1], name="a"), pd.Index([2], name="a"), pd.Index([1]), pd.RangeIndex(1, 2),
        pd.array([1]), pd.NA, pd.Interval(0, 1), pd.Interval(0, 1, "both"),
        pd.MultiIndex.from_product([[1, 2], ["a", "b"]]), pd.MultiIndex.from_product([[1, 2], ["a", "c"]]),
        with_attribute(pd.DataFrame({"a": [1]}), "attrs", {"source": 1}), pd.CategoricalIndex(["a"]),
        pd.DatetimeIndex(["2024"]), pd.DatetimeIndex(["2025"])
    ],
    "arrow": lambda: [
        arrow_table(), arrow_table().slice(1), arrow_table().slice(0, 3), arrow_table().select(["text", "int"]),
        arrow_table().select(["int", "text"]), arrow_table().replace_schema_metadata({"a": "b"}),
        arrow_table().to_batches()[0], arrow_table()["text"], arrow_table()["text"].chunk(0), arrow_table()["large"],
        arrow_table().schema, arrow_table()["int"][0], arrow_table()["int"][1],
        *(arrow_table(**{name: arrow_array(name, ARROW_COLUMNS[name][0][::-1])}) for name in [*ARROW_COLUMNS][1:])
    ],
    "polars": lambda: [
        polars_frame(), polars_frame(int=[1, 3, None]), polars_frame(int=[1.0, 2.0, None]),
        polars_frame(text=["a", "", "long " * 9]), polars_frame(text=["a", None, "long " * 8]),
        polars_frame(list=[[1], None, [2, 4]]), polars_frame(list=[[1], [], [2, 3]]),
        polars_frame(struct=[{"x": 1}, {"x": 2}, {"x": 3}]), polars_frame(bool=[True, None, True]),
        polars_frame(kind=pl.Series(["a", "c", None], dtype=pl.Categorical)),
        polars_frame(object=pl.Series([{1}, None, {3}], dtype=pl.Object)), polars_frame().rename({"int": "ints"}),
        polars_frame().reverse(), polars_frame().head(2), polars_frame()["int"], polars_frame()["int"].rename("ints"),
        polars_frame(int=pl.Series([1, 2, None], dtype=pl.Int128)),
        polars_frame(int=pl.Series([1, 3, None], dtype=pl.Int128)), polars_frame()["text"],
        polars_frame(decimal=[Decimal("1.5"), None, Decimal("2.6")])
    ],
    "images": lambda: [
        image(), image(at=(20, 15)), image(at=(39, 29)), image("L"), image("RGBA"), image().resize((30, 40)),
        palette_image(0), palette_image(1), with_attribute(image(), "info", {"dpi": 72})
    ],
}  # fmt: skip


def set_note(value: Any) -> None:
    """Set an attribute, as an app may."""
    object.__setattr__(value, "note", 1)


def flagged(value: Any) -> None:
    value.flags.allows_duplicate_labels = False


def set_field(name: str, content: object) -> Callable[[Any], None]:
    return lambda value: setattr(value, name, content)


# A value, and a change in place. Before the change, a new value and a copy equal it.
MUTATIONS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "list": (lambda: [[1], [2]], lambda value: value[0].append(3)),
    "long list": (lambda: list(range(50_000)), lambda value: value.__setitem__(25_000, -1)),
    "dict": (lambda: {"a": {"b": 1}}, lambda value: value["a"].update(b=2)),
    "set": (lambda: {1, 2}, lambda value: value.add(3)),
    "bytearray": (lambda: bytearray(100_000), lambda value: value.__setitem__(50_000, 1)),
    "deque": (lambda: deque([1, 2]), lambda value: value.rotate()),
    "ordered dict": (lambda: OrderedDict(a=1, b=2), lambda value: value.move_to_end("a")),
    "dataclass": (lambda: Todo("a"), lambda value: value.tags.append("x")),
    "new attribute": (lambda: Plain(a=1), lambda value: setattr(value, "b", 2)),
    "lost attribute": (lambda: Plain(a=1, b=2), lambda value: delattr(value, "b")),
    "slot": (lambda: Slotted(1, [2]), lambda value: value.right.append(3)),
    "emptied slot": (lambda: Slotted(1, 2), lambda value: delattr(value, "right")),
    "tuple of lists": (lambda: ([1], [2]), lambda value: value[1].clear()),
    "attrs": (lambda: Account("a"), lambda value: value.entries.append(1)),
    "pydantic": (lambda: Order(item="a"), lambda value: value.counts.append(1)),
    "array": (matrix, lambda value: value.__setitem__((150, 100), -1)),
    "array in an object": (lambda: Plain(a=matrix()), lambda value: value.a.T.fill(2)),
    "attribute of an array": (lambda: matrix().view(NumericArray), lambda value: setattr(value, "unit", "m")),
    "attribute of a timedelta": (lambda: MyDelta(7), lambda value: setattr(value, "note", 1)),
    "array through another": (lambda: np.zeros(10)[2:], lambda value: value.base.__setitem__(5, 1)),
    "frame": (frame, lambda value: value.__setitem__("number", value["number"] + 1)),
    "cell of a frame": (frame, lambda value: value.iloc.__setitem__((25, 1), -1)),
    "list in a frame": (lambda: pd.DataFrame({"a": [[1], [2]]}), lambda value: value["a"].iloc[0].append(3)),
    "polars": (polars_frame, lambda value: value.replace_column(0, pl.Series("int", [3, 2, 1]))),
    "image": (image, lambda value: value.putpixel((20, 15), 9)),
    "cycle": (lambda: ring(1), lambda value: value[1].append(5)),
    "field over a cached property": (lambda: Overriding(1), set_field("total", 2)),
    "slot under a property": (Covering, lambda value: Slotted.left.__set__(value, 2)),
    "attribute outside a reduction": (MoreReducing, set_note),
    "attribute outside a state": (MoreStateful, set_note),
    "attribute outside the slots of attrs": (lambda: LooseAccount("a"), set_note),
    "attribute of an enum's member": (lambda: enum.Enum("Shade", "RED", module=__name__).RED, set_note),
    "attribute of a function": (lambda: function("a"), set_field("note", 1)),
    "defaults of a function": (lambda: function("a=1"), set_field("__defaults__", (2,))),
    "keyword defaults of a function": (lambda: function("*, a=1"), set_field("__kwdefaults__", {"a": 2})),
    "code of a function": (lambda: function("a"), lambda value: setattr(value, "__code__", function("a, /").__code__)),
    "attribute of a partial": (lambda: functools.partial(len), set_field("note", 1)),
    "attribute of a frame": (frame, set_note),
    "flags of a frame": (frame, flagged),
    "attrs of a frame": (frame, lambda value: value.attrs.update(a=1)),
    "attribute of a subclass of frames": (lambda: Frame({"a": [1]}), set_note),
    "attribute of a series": (lambda: pd.Series([1]), set_note),
    "flags of a series": (lambda: pd.Series([1]), flagged),
    "attribute of an index": (lambda: pd.Index([1]), set_note),
    "polars: attribute of a frame": (polars_frame, set_note),
    "polars: attribute of a series": (lambda: polars_frame()["int"], set_note),
    "attribute of an image": (image, set_note),
    "pydantic: attribute of a model": (lambda: Order(item="a"), set_note),
    "pydantic: private attribute of a model": (lambda: Order(item="a"), set_field("_note", "b")),
    "attribute of a masked array": (lambda: np.ma.array([1, 2]), set_note),
    "private attribute of a masked array": (lambda: np.ma.array([1, 2]), set_field("_note", 1)),
    "information of a masked array": (lambda: np.ma.array([1, 2]), lambda value: value._optinfo.update(a=1)),
    "hard mask": (lambda: np.ma.array([1, 2], mask=[0, 1]), lambda value: value.harden_mask()),
    "cause": (lambda: ValueError("a"), set_field("__cause__", KeyError())),
    "context": (lambda: ValueError("a"), set_field("__context__", KeyError())),
    "suppressed context": (lambda: ValueError("a"), set_field("__suppress_context__", True)),
    "note": (lambda: ValueError("a"), lambda value: value.add_note("b")),
    "arguments of an error": (lambda: ValueError("a"), set_field("args", ("b",))),
    "name in an error": (lambda: NameError("a"), set_field("name", "b")),
    "object of an error": (lambda: AttributeError("a"), set_field("obj", [1])),
    "field of an error": (lambda: OSError(1, "a"), set_field("filename", "b")),
    "traceback": (lambda: ValueError("a"), raised),
    "buffer": (lambda: io.BytesIO(b"a"), lambda value: value.getbuffer().__setitem__(0, 98)),
    "text buffer": (lambda: io.StringIO("a"), lambda value: value.write("b")),
    "attribute of a buffer": (lambda: io.BytesIO(b"a"), set_note),
    "namespace": (lambda: types.SimpleNamespace(a=1), set_field("b", 2)),
    "default factory": (lambda: defaultdict(int), set_field("default_factory", list)),
    "proxy": (lambda: types.MappingProxyType({"a": 1}), lambda value: gc.get_referents(value)[0].update(b=1)),
    "generator of random numbers": (lambda: random.Random(1), lambda value: value.random()),
    "class": (lambda: Plain(a=1), set_field("__class__", Sibling)),
    "node of a grid": (lambda: grid(6), lambda value: setattr(value[3][3], "name", "other")),
    "edge of a grid": (lambda: grid(6), lambda value: value[3][3].neighbours.reverse()),
    "another node in the place of an equal one": (twins, lambda value: value.__setitem__(2, value[1])),
    "closure": (lambda: adder([1]), lambda value: value.__closure__[0].cell_contents.append(2)),
}  # fmt: skip

if pl is None:
    for table in (CASES, MUTATIONS):
        for name in [name for name in table if name.startswith(("polars", "pydantic"))]:
            del table[name]
