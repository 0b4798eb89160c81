"""`same_value`: what an assignment may leave unannounced. In doubt a value counts as changed."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import gc
import sys
import time
from collections import OrderedDict, UserDict, namedtuple
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserverstate._core import same_value

NAN = float("nan")
UTC = dt.UTC
NOON = dt.datetime(2024, 5, 6, 12)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


Point = namedtuple("Point", "x y")


class MyInt(int):
    pass


def nested(depth, leaf=0):
    value = [leaf]
    for _ in range(depth):
        value = [value]
    return value


SAME = [
    None, True, 0, 10**30, -1.5, 0.0, -0.0, NAN, float("inf"), 2j, complex(NAN, -0.0), "", "text", b"bytes",
    (), (1, "a", None), [], [1, [2, (3, [])]], {}, {"a": {"b": [1, 2]}}, {1, 2}, frozenset("ab"), {None, True, b"x"},
    [NAN], {"x": NAN}, {NAN: 1}, range(3), range(0, 10, 2), nested(90),
    dt.date(2024, 5, 6), dt.timedelta(1, 2), NOON, NOON.replace(tzinfo=UTC), dt.time(1, 2), dt.time(1, tzinfo=UTC),
    Decimal("1.0"), Decimal("NaN"), Decimal("sNaN"), Decimal("-0"), Decimal("Infinity"), [Decimal("sNaN")],
    Colour.RED, Level.LOW, Level.LOW | Level.HIGH, (Colour.RED, [Colour.BLUE]),
]  # fmt: skip


@pytest.mark.parametrize("value", SAME)
def test_equal_plain_values_are_the_same(value):
    assert same_value(value, copy.deepcopy(value))
    if type(value) not in {list, dict, set, tuple}:
        assert same_value(value, value)


DIFFERENT = [
    (1, True), (1, 1.0), (0, False), (0, None), (1, MyInt(1)), (MyInt(1), MyInt(1)), ("", None), ("a", b"a"),
    (0.0, -0.0), (NAN, 0.0), (0j, complex(0, -0.0)), (1.0, 1 + 0j), (Decimal(1), 1), (Decimal("1.0"), Decimal("1.00")),
    (Decimal("0"), Decimal("-0")), (Decimal("NaN"), Decimal("sNaN")), (Fraction(1, 2), Fraction(1, 2)),
    ((), []), ([1], (1,)), ([1], [True]), ([1, 2], [2, 1]), ([1], [1, 1]), ([[]], [[[]]]), ({"a": 1}, {"a": 1.0}),
    ({"a": 1}, {"b": 1}), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1: 0}, {True: 0}), ({0.0: 1}, {-0.0: 1}),
    ({1}, {True}), ({1, 2}, {1}), ({1}, frozenset({1})), ({1.5}, {1.5}), ({(1,)}, {(1,)}), ({1, NAN}, {1, NAN}),
    (range(0), range(1, 1)), (range(0, 3, 2), range(0, 4, 2)), (range(2), [0, 1]),
    (NOON, NOON.date()), (NOON, NOON.replace(tzinfo=UTC)), (NOON, NOON.replace(microsecond=1)),
    (NOON, NOON.replace(fold=1)), (dt.time(1), dt.time(1, fold=1)),
    (NOON.replace(tzinfo=UTC), NOON.replace(hour=13, tzinfo=dt.timezone(dt.timedelta(hours=1)))),
    (Colour.RED, Colour.BLUE), (Colour.RED, 1), (Level.LOW, 1), (Level.LOW, Level.LOW | Level.HIGH),
    (Point(1, 2), Point(1, 2)), (Point(1, 2), (1, 2)), (OrderedDict(a=1), OrderedDict(a=1)), (UserDict(), UserDict()),
    (bytearray(b"a"), bytearray(b"a")), (nested(200), nested(200)), (int, int), (len, len), (object(), object()),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), DIFFERENT)
def test_what_differs_or_is_uncertain_has_changed(old, new):
    assert not same_value(old, new)
    assert not same_value(new, old)
    assert not same_value([old], [new])
    assert not same_value({"k": (old,)}, {"k": (new,)})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.dates()
    | st.datetimes() | st.timedeltas() | st.sampled_from(Colour),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
    | st.sets(st.integers() | st.text() | st.booleans()),
    max_leaves=20,
)  # fmt: skip


def shape(value):
    """The value with everything spelt out that makes two values differ."""
    kind = type(value)
    if kind in {list, tuple}:
        return kind, [shape(item) for item in value]
    if kind is dict:
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    if kind is set:
        return kind, sorted((item.__class__.__name__, repr(item)) for item in value)
    return kind, repr(value)


@given(PLAIN)
def test_copies_of_plain_values_are_the_same(value):
    assert same_value(value, copy.deepcopy(value))


@given(PLAIN, PLAIN)
def test_same_means_the_same_shape(old, new):
    assert same_value(old, new) == same_value(new, old) == (shape(old) == shape(new))


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, object(), np.zeros(2)])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: (1, v), lambda v: {"k": (v,)}])
def test_aliased_mutable_objects_count_as_changed(value, wrap):
    """The same object may have been changed in place since it was assigned."""
    assert not same_value(wrap(value), wrap(value))


def test_change_in_place_of_a_shared_object_is_seen(store, state):
    rows = [[1], [2]]
    state["rows"] = rows
    version = store.version("rows")
    rows[0].append(3)
    state["rows"] = list(rows)
    assert store.version("rows") > version


ARRAY = np.arange(6)
FRAME = pd.DataFrame({"a": [1, 2]})


@pytest.mark.parametrize("value", [ARRAY, FRAME, FRAME["a"], np.float64(1), np.datetime64("2024"), pd.Timestamp(NOON)])
def test_arrays_and_frames_count_as_changed(value):
    assert not same_value(value, value)
    assert not same_value(value, copy.deepcopy(value))
    assert not same_value([1, value], [1, copy.deepcopy(value)])


HOSTILE = ["__eq__", "__ne__", "__hash__", "__repr__", "__len__", "__iter__", "__getattribute__", "__class_getitem__"]


def hostile(base, names=HOSTILE, **more):
    def refuse(*_args):
        raise AssertionError("called")

    return type(base.__name__, (base,), {**dict.fromkeys(names, refuse), **more})


@pytest.mark.parametrize("base", [object, int, str, float, list, dict, tuple, set, dt.datetime, Decimal])
def test_code_of_values_is_never_called(base):
    kind = hostile(base)
    value, other = (kind(2024, 1, 1), kind(2024, 1, 1)) if base is dt.datetime else (kind(), kind())
    assert not same_value(value, other)
    assert not same_value([value], [other])
    assert not same_value({"k": value}, {"k": value})
    assert not same_value(0, value)


@pytest.mark.parametrize("names", [["__hash__"], ["__eq__"], ["__getattribute__"], ["__instancecheck__"]], ids=str)
def test_code_of_metaclasses_is_never_called(names):
    kind = hostile(type, names)("Kind", (), {})
    assert not same_value(kind(), kind())
    assert not same_value({kind}, {kind}) if "__hash__" not in names and "__eq__" not in names else True


def test_code_of_enums_is_never_called():
    class Hostile(enum.Enum):
        ONE = 1
        TWO = 2

    def refuse(*_args):
        raise AssertionError("called")

    Hostile.__eq__ = Hostile.__hash__ = Hostile.__repr__ = refuse
    assert same_value(Hostile.ONE, Hostile.ONE)
    assert not same_value([Hostile.ONE], [Hostile.TWO])


@pytest.mark.parametrize("zone", [dt.tzinfo, hostile(dt.tzinfo, ["utcoffset", "__eq__"])])
def test_code_of_time_zones_is_never_called(zone):
    value = NOON.replace(tzinfo=zone())
    assert not same_value(value, value)


def cyclic_list():
    value = []
    value.append(value)
    return value


def cyclic_dict():
    value = {}
    value["self"] = [value]
    return value


def lattice(kind):
    """Two references to each level: 2 ** 60 ways down."""
    value = kind()
    for _ in range(60):
        value = kind((value, value))
    return value


ENDLESS = {
    "cyclic list": cyclic_list,
    "cyclic dict": cyclic_dict,
    "deep": lambda: nested(100_000),
    "lattice of lists": lambda: lattice(list),
    "lattice of tuples": lambda: lattice(tuple),
    "one long row many times": lambda: [list(range(100_000))] * 2_000,
    "one long tuple many times": lambda: [tuple(range(100_000))] * 2_000,
}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_comparison_ends_soon(make):
    """Nothing else runs in the process meanwhile."""
    old, new = make(), make()
    started = time.thread_time()
    assert not same_value(old, new)
    assert time.thread_time() - started < 2


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the collector no longer runs inside of an allocation")
@pytest.mark.parametrize("make", [lambda keys: {key: (key,) for key in keys}, set], ids=["dict", "set"])
def test_container_changed_by_a_finalizer_during_the_comparison(make):
    """The garbage collector may run anybody's finalizer there, and values are shared by reference."""
    old, new = make(range(20_000)), make(range(20_000))
    collections = []

    def collected(*_args):
        collections.append(len(old))
        if len(collections) == 200:
            old.clear()

    threshold = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(1)
    try:
        same_value(old, new)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collected)
    assert not old
