"""`content_fingerprint`: equal values have equal fingerprints, and any change in a value changes it."""

from __future__ import annotations

import copy
import ctypes
import functools
import gc
import importlib
import itertools
import json
import logging
import math
import os
import pickle
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import types
import weakref
import zoneinfo
from collections import Counter, deque
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit import values
from unit.helpers import ThreadSet, run_script
from unit.values import (
    ARROW_COLUMNS,
    CASES,
    EXTENDED,
    MUTATIONS,
    Account,
    Colour,
    FrozenTodo,
    HalfSlotted,
    Measured,
    Plain,
    Point,
    Reducing,
    Slotted,
    Todo,
    arrow_array,
    arrow_table,
    frame,
    matrix,
    palette_image,
    pl,
    polars_frame,
    pydantic,
    ring,
)

from fastserverstate import change
from fastserverstate.change import content_fingerprint

TESTS = Path(__file__).parents[1]


def deep_copied(value):
    try:
        return copy.deepcopy(value)
    except (AttributeError, TypeError, RuntimeError):  # it cannot be copied
        return value


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_equal_values_have_equal_fingerprints(make):
    for value, twin in zip(make(), make(), strict=True):
        fingerprint = content_fingerprint(value)
        assert type(fingerprint) is bytes
        assert len(fingerprint) == 16
        assert content_fingerprint(twin) == content_fingerprint(value) == fingerprint
        assert content_fingerprint(deep_copied(value)) == fingerprint
        nested = content_fingerprint({"k": (1, [value])})
        assert content_fingerprint({"k": (1, [deep_copied(twin)])}) == nested != fingerprint


@pytest.mark.parametrize("name", ["frames", "frames and more", "dataclasses", "slots", "cycles", "times"])
def test_pickles_have_equal_fingerprints(name):
    for value in CASES[name]():
        assert content_fingerprint(pickle.loads(pickle.dumps(value))) == content_fingerprint(value)


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_different_values_have_different_fingerprints(make):
    values = make()
    assert len({content_fingerprint(value) for value in values}) == len(values)
    assert len({content_fingerprint([value, value]) for value in values}) == len(values)


def test_hardly_any_two_of_all_values_share_a_fingerprint():
    """A few values are in two lists."""
    found = Counter(content_fingerprint(value) for make in CASES.values() for value in make())
    assert None not in found
    assert len(found) > 0.95 * found.total()


@pytest.mark.parametrize("name", MUTATIONS)
def test_change_in_place_is_seen(name):
    make, mutate = MUTATIONS[name]
    value = make()
    before = content_fingerprint(value)
    assert content_fingerprint(value) == content_fingerprint(make()) == before is not None
    assert content_fingerprint(deep_copied(value)) == before
    mutate(value)
    assert content_fingerprint(value) not in {before, None}


@pytest.mark.parametrize("make", EXTENDED.values(), ids=EXTENDED)
@pytest.mark.parametrize("slots", [None, ("note",)], ids=["attribute", "slot"])
def test_attributes_of_a_subclass_count(make, slots):
    one, same, other = make(slots=slots), make(slots=slots), make(slots=slots, note=2)
    assert content_fingerprint(one) == content_fingerprint(same) != content_fingerprint(other)
    assert content_fingerprint(other) is not None


def test_transparency_of_a_palette():
    """Pillow loses it in copies and pickles."""
    assert content_fingerprint(palette_image(0, alpha=1)) == content_fingerprint(palette_image(0, alpha=1))
    assert content_fingerprint(palette_image(0, alpha=1)) != content_fingerprint(palette_image(0, alpha=2))


def test_image_from_a_file():
    """Copies lose the metadata of the file."""
    value = values.image_file()
    before = content_fingerprint(value)
    assert content_fingerprint(value) == content_fingerprint(values.image_file()) == before is not None
    value.putpixel((1, 1), 9)
    changed = content_fingerprint(value)
    value.note = 1
    assert len({before, changed, content_fingerprint(value), None}) == 4


def test_array_in_a_file(tmp_path):
    matrix().tofile(tmp_path / "array")
    value = np.memmap(tmp_path / "array", "float64", "r+")
    before = content_fingerprint(value)
    assert before == content_fingerprint(np.memmap(tmp_path / "array", "float64", "r+")) is not None
    value[30_001] = -1
    assert content_fingerprint(value) not in {before, None}


PROGRAM = """
import json, sys
from fastserverstate.change import content_fingerprint
from unit.values import CASES
print(json.dumps({name: [content_fingerprint(value).hex() for value in make()] for name, make in CASES.items()}))
"""


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_another_process_with_another_hash_seed_agrees(seed):
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    here = {name: [content_fingerprint(value).hex() for value in make()] for name, make in CASES.items()}
    assert json.loads(run.stdout) == here


# Against a model

SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.integers() | st.sampled_from([0.0, -0.0, 1.0, math.nan, 2.5])
    | st.floats() | st.complex_numbers() | st.sampled_from(["", "a", "b", "ab", "ä"])
    | st.text(st.characters(exclude_categories=[])) | st.sampled_from([b"", b"a", b"ab"]) | st.binary()
    | st.binary().map(bytearray) | st.dates() | st.datetimes() | st.timedeltas() | st.decimals() | st.fractions()
    | st.uuids() | st.sampled_from(Colour) | st.integers(0, 3).map(range) | st.integers(-2, 2).map(np.int64)
)  # fmt: skip
HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "b", 1.0, 0.5, b"a", Colour.RED]),
    lambda inner: st.tuples(inner) | st.tuples(inner, inner) | st.frozensets(inner, max_size=3)
    | st.builds(Point, inner, inner) | st.builds(FrozenTodo, inner, inner),
    max_leaves=5,
)  # fmt: skip
VALUES = st.recursive(
    SCALARS | HASHABLE,
    lambda inner: st.lists(inner, max_size=5) | st.tuples(inner, inner) | st.dictionaries(HASHABLE, inner, max_size=4)
    | st.sets(HASHABLE, max_size=4) | st.builds(Point, inner, inner) | st.builds(Todo, inner, st.lists(inner))
    | st.builds(Slotted, inner, inner) | st.lists(inner, max_size=3).map(deque)
    | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner).map(lambda a: Plain(**a)),
    max_leaves=12,
)  # fmt: skip


def model(value):
    """A plain description of the content that a fingerprint must distinguish."""
    content = repr(value)
    if isinstance(value, float):
        content = "nan" if math.isnan(value) else value.hex()
    elif isinstance(value, complex):
        content = model(value.real), model(value.imag)
    elif isinstance(value, tuple | list | deque):
        content = (*map(model, value),)
    elif isinstance(value, dict):
        content = (*((model(key), model(item)) for key, item in value.items()),)
    elif isinstance(value, set | frozenset):
        content = (*sorted(map(repr, map(model, value))),)
    elif isinstance(value, Slotted | FrozenTodo):
        content = (*(model(getattr(value, name)) for name in type(value).__slots__ if name != "__weakref__"),)
    elif isinstance(value, Plain | Todo):
        content = (*((name, model(item)) for name, item in sorted(vars(value).items(), key=lambda item: item[0])),)
    return type(value), content


@given(VALUES, VALUES)
@settings(max_examples=400)
def test_fingerprints_agree_with_the_model(one, other):
    assert (content_fingerprint(one) == content_fingerprint(other)) == (model(one) == model(other))
    assert content_fingerprint(one) is not None


@given(st.data())
@settings(max_examples=400)
def test_fingerprints_agree_with_the_model_on_near_misses(data):
    """For pairs of values made of the same few parts."""
    parts = st.sampled_from(data.draw(st.lists(VALUES, min_size=1, max_size=3)))
    build = st.lists(parts, max_size=3) | st.tuples(parts, parts) | st.builds(Point, parts, parts) | parts
    nested = st.lists(build, max_size=2) | build
    one, other = data.draw(nested), data.draw(nested)
    assert (content_fingerprint(one) == content_fingerprint(other)) == (model(one) == model(other))


@given(VALUES, st.integers(1, 300), st.data())
def test_a_change_anywhere_in_a_long_value_is_seen(part, times, data):
    """Lengths around those at which buffers are replaced by their hashes."""
    values = [part, *range(times)] * data.draw(st.integers(1, 30))
    fingerprint = content_fingerprint(values)
    assert content_fingerprint([*values]) == fingerprint
    at = data.draw(st.integers(0, len(values) - 1))
    values[at] = "changed"
    assert content_fingerprint(values) != fingerprint


def changes(value):
    """Any change in place, of a value or of its parts."""
    held = []
    if isinstance(value, list | deque):
        held = [*value]
        yield lambda: value.append("changed")
        yield from (partial(value.__setitem__, i, "changed") for i in range(len(value)))
    elif isinstance(value, dict):
        held = [*value.values()]
        yield lambda: value.update(changed=1)
        yield from (partial(value.__setitem__, key, "changed") for key in value)
    elif isinstance(value, tuple):
        held = [*value]
    elif isinstance(value, set):
        yield lambda: value.add("changed")
    elif isinstance(value, bytearray):
        yield lambda: value.extend(b"changed")
    elif isinstance(value, Slotted | Plain | Todo):
        names = ("left", "right") if isinstance(value, Slotted) else [*vars(value)]
        held = [getattr(value, name) for name in names]
        yield from (partial(setattr, value, name, "changed") for name in names)
    for inner in held:
        yield from changes(inner)


@given(VALUES.map(lambda value: [value]), st.data())
@settings(max_examples=300)
def test_any_single_change_is_seen(value, data):
    """Copies and pickles equal the value before the change."""
    before = content_fingerprint(value)
    twin = copy.deepcopy(value)
    assert content_fingerprint(twin) == content_fingerprint(pickle.loads(pickle.dumps(value))) == before
    possible = [*changes(twin)]
    possible[data.draw(st.integers(0, len(possible) - 1))]()
    assert content_fingerprint(twin) not in {before, None}
    assert content_fingerprint(value) == before


@given(st.data())
@settings(max_examples=300)
def test_any_single_change_of_a_graph_is_seen(data):
    """Lists with a label, which refer to others and to themselves."""
    size = data.draw(st.integers(1, 7))
    numbers = st.integers(0, size - 1)
    nodes = [[data.draw(st.integers(0, 1))] for _ in range(size)]
    for node in nodes:
        node.extend(nodes[i] for i in data.draw(st.lists(numbers, max_size=3)))
    before, paths = content_fingerprint(nodes[0]), unfolded(nodes[0])
    assert content_fingerprint(copy.deepcopy(nodes[0])) == before is not None
    node = nodes[data.draw(numbers)]
    at = data.draw(st.integers(0, len(node) - 1))
    node[at] = nodes[data.draw(numbers)] if at else 1 - node[0]
    if unfolded(nodes[0]) != paths:
        assert content_fingerprint(nodes[0]) not in {before, None}


def unfolded(node, depth=8):
    """Return all paths from a node, up to a limit."""
    if not depth:
        return None
    return (node[0], *(unfolded(other, depth - 1) for other in node[1:]))


@given(VALUES)
def test_shared_references_make_no_difference(value):
    shared = [value, (value, {"k": value}), Plain(a=value, b=[value])]
    apart = [copy.deepcopy(value), (copy.deepcopy(value), {"k": copy.deepcopy(value)})]
    apart.append(Plain(b=[copy.deepcopy(value)], a=copy.deepcopy(value)))
    assert content_fingerprint(shared) == content_fingerprint(apart)


@pytest.mark.parametrize("length", [1022, 1023, 1024, 1025, 59_999, 60_000, 60_001, 65_535, 65_536, 65_537])
@pytest.mark.parametrize("make", [bytes, lambda n: "x" * n, lambda n: [None] * n, lambda n: np.zeros(n, "u1")])
def test_lengths_around_those_that_are_special(make, length):
    assert len({content_fingerprint(make(n)) for n in range(length - 1, length + 2)}) == 3
    assert content_fingerprint(make(length)) == content_fingerprint(make(length))


def test_order_of_a_sets_members_makes_no_difference():
    """Sets with another history iterate in another order."""
    small, large = {8, 0}, {*range(1000)}
    large.intersection_update({8, 0})
    assert [*small] != [*{0, 8, 16} - {16}] or [*small] != [*large]
    assert content_fingerprint(small) == content_fingerprint(large)
    for order in itertools.permutations([0, 8, 16, (8, 0), FrozenTodo("a")]):
        members = set()
        for member in order:
            members.add(member)
        assert content_fingerprint(members) == content_fingerprint({0, 8, 16, (8, 0), FrozenTodo("a")})


def test_order_of_attributes_makes_no_difference():
    one, other = HalfSlotted(1, 2), HalfSlotted(1, 2)
    one.first, one.second = 1, 2
    other.second, other.first = 2, 1
    assert content_fingerprint(one) == content_fingerprint(other)
    namespaces = types.SimpleNamespace(a=1, b=2), types.SimpleNamespace(b=2, a=1)
    assert content_fingerprint(namespaces[0]) == content_fingerprint(namespaces[1])


def test_cached_properties_make_no_difference():
    for value in (
        Measured([1, 2]),
        values.CachingAccount([1, 2]),
        *([] if pydantic is None else [values.Order(counts=[1, 2])]),
    ):
        before = content_fingerprint(value)
        assert value.total == 3
        assert content_fingerprint(value) == before


def test_class_that_a_script_defines_anew_is_the_same():
    def run_script():
        class Item:
            def __init__(self, number):
                self.number = number

        return Item

    assert content_fingerprint(run_script()(1)) == content_fingerprint(run_script()(1))
    assert content_fingerprint(run_script()(1)) != content_fingerprint(run_script()(2))


# Memory layout


@pytest.mark.parametrize("shape", [(300, 200), (2, 100, 300), (60_000,), (1, 60_000), (60_000, 1)])
@pytest.mark.parametrize("dtype", ["f8", "u1", "c16", "M8[s]", "U3", "O"])
def test_layout_of_an_array_makes_no_difference(shape, dtype):
    value = np.arange(60_000).reshape(shape).astype(dtype)
    roomy = np.empty(tuple(2 * n for n in shape), dtype)[tuple(slice(None, None, 2) for _ in shape)]
    roomy[...] = value
    reversed_twice = value[tuple(slice(None, None, -1) for _ in shape)].copy()[
        tuple(slice(None, None, -1) for _ in shape)
    ]
    for other in (np.asfortranarray(value), roomy, reversed_twice, value.copy()):
        assert content_fingerprint(other) == content_fingerprint(value)
    roomy[tuple(n // 2 for n in shape)] = 7
    assert content_fingerprint(roomy) != content_fingerprint(value)


def test_large_array_in_any_layout():
    """Longer than a block that is read at a time."""
    value = np.random.default_rng(1).random((700, 600))
    fingerprint = content_fingerprint(value)
    assert content_fingerprint(np.asfortranarray(value)) == fingerprint
    seen = {fingerprint}
    for row in range(700):
        value[row, 300] += 1
        seen.add(content_fingerprint(value))
    assert len(seen) == 701


def test_buffers_are_not_copied():
    value = np.ones(20_000_000, "u1")
    content_fingerprint(value)
    import tracemalloc  # noqa: PLC0415  (slows down what is traced only)

    tracemalloc.start()
    try:
        content_fingerprint({"k": (value, value[:10])})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_blocks_of_a_frame_make_no_difference():
    values = np.arange(40.0).reshape(10, 4)
    whole = pd.DataFrame(values, columns=list("abcd"))
    pieces = pd.DataFrame({"a": values[:, 0].copy()})
    for i, name in enumerate("bcd", 1):
        pieces[name] = values[:, i]
    assert content_fingerprint(pieces) == content_fingerprint(whole) == content_fingerprint(whole.copy())


@pytest.mark.parametrize("name", ARROW_COLUMNS)
def test_chunks_offsets_and_values_under_nulls_make_no_difference(name):
    items, _ = ARROW_COLUMNS[name]
    value = arrow_array(name)
    chunked = pa.chunked_array([value])
    fingerprint = content_fingerprint(value)
    longer = arrow_array(name, [*items[1:], *items, *items])
    if name == "dictionary":  # a longer dict has its entries in another order
        longer = pa.concat_arrays([value[1:], value, value])
    assert content_fingerprint(longer.slice(3, 4)) == fingerprint
    in_pieces = pa.chunked_array([longer.slice(3, 2), longer.slice(9, 2)])
    assert content_fingerprint(in_pieces) == content_fingerprint(chunked)
    full = [item for item in items if item is not None]
    longer = arrow_array(name, full * 3)
    assert content_fingerprint(longer[len(full) : 2 * len(full)]) == content_fingerprint(arrow_array(name, full))
    for at in range(4):
        if items[at] is not None:
            other = arrow_array(name, [None if i == at else item for i, item in enumerate(items)])
            assert content_fingerprint(other) != fingerprint


def test_arrow_values_under_nulls():
    mask = np.array([False, True, False])
    one, other = (pa.array(np.array([1, hidden, 3]), mask=mask) for hidden in (2, 99))
    assert one.buffers()[1].to_pybytes() != other.buffers()[1].to_pybytes()
    assert content_fingerprint(one) == content_fingerprint(other)
    without = pa.array([1, 2, 3])
    with_bitmap = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(b"\xff"), without.buffers()[1]])
    assert content_fingerprint(without) == content_fingerprint(with_bitmap)
    hidden = pd.arrays.IntegerArray(np.array([1, 99]), np.array([False, True]))
    assert content_fingerprint(hidden) == content_fingerprint(pd.array([1, None], dtype="Int64"))


def test_nanoseconds_of_an_arrow_scalar():
    """Neither Python objects nor copies show them."""
    one, same, other = (pa.scalar(number, pa.time64("ns")) for number in (1, 1, 2))
    assert content_fingerprint(one) == content_fingerprint(same) != content_fingerprint(other)


def test_chunks_of_tables_make_no_difference():
    table = arrow_table()
    assert content_fingerprint(pa.concat_tables([table[:1], table[1:]])) == content_fingerprint(table)


@pytest.mark.skipif(pl is None, reason="polars is not installed")
def test_chunks_of_polars_frames_make_no_difference():
    whole = polars_frame().drop("object")
    in_pieces = pl.concat([whole[:1], whole[1:]], rechunk=False)
    assert in_pieces.n_chunks() == 2
    assert content_fingerprint(in_pieces) == content_fingerprint(whole)


# Cycles, and small containers of very large values


def test_cycles_are_distinguished_by_their_targets():
    assert content_fingerprint(ring(1)) == content_fingerprint(ring(1))
    one, other = [[], []], [[], []]
    one[0].append(one)
    one[1].append(one[1])
    other[0].append(other)
    other[1].append(other)
    assert content_fingerprint(one) != content_fingerprint(other)


def test_sharing_counts_where_a_cycle_can_be_reached():
    one, other = ring(1), ring(1)
    assert content_fingerprint([one, other]) == content_fingerprint([other, one])
    assert content_fingerprint([one, other]) != content_fingerprint([one, one])
    outer = [None, None]
    inner = [outer, *range(500)]
    outer[0], outer[1] = inner, [inner]
    twin = [None, None]
    twin[0], twin[1] = [twin, *range(500)], [[twin, *range(500)]]
    assert content_fingerprint(outer) == content_fingerprint(copy.deepcopy(outer)) != content_fingerprint(twin)


def test_sharing_makes_no_difference_outside_a_cycle():
    shared = [*range(100)]
    assert content_fingerprint([ring(1), shared, shared]) == content_fingerprint([ring(1), shared, [*shared]])


def test_order_of_a_set_in_a_cycle_hides_no_change():
    """The members refer back to their set, and one of them is named after it."""

    def hub(names, chosen):
        value = Plain()
        members = [Hashed(name, value) for name in names]
        value.members, value.other = set(members), members[chosen]
        return value

    class Hashed(Plain):
        def __init__(self, name, back):
            super().__init__(name=name, back=back)

        def __hash__(self):
            return 1  # the set iterates in the order of insertion

    assert content_fingerprint(hub("ab", 0)) == content_fingerprint(hub("ab", 0))
    assert len({content_fingerprint(hub(names, chosen)) for names in ("ab", "ba") for chosen in (0, 1)}) == 4


@pytest.mark.parametrize("size", [1, 2, 6, 12])
def test_grid_takes_linear_time(size):
    value = values.grid(size)
    started = time.thread_time()
    before = content_fingerprint(value)
    assert time.thread_time() - started < 0.5
    assert before == content_fingerprint(copy.deepcopy(value)) == content_fingerprint(values.grid(size)) is not None
    assert content_fingerprint(values.grid(size, odd="other")) != before


def lattice(make, depth=60):
    value = make((1, 2))
    for _ in range(depth):
        value = make((value, value, value))
    return value


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "make",
    [
        partial(lattice, list),
        partial(lattice, tuple),
        partial(lattice, lambda items: dict(enumerate(items))),
        partial(lattice, lambda items: frozenset(enumerate(items))),
        partial(lattice, lambda items: Plain(items=items)),
        partial(lattice, Reducing, depth=30),
        lambda: [list(range(100_000))] * 2000,
        lambda: [ring(*range(2000))] * 50,
        partial(lattice, lambda items: [*items, [0] * 200]),
    ],
)
def test_shared_containers_are_written_once(make):
    value = make()
    started = time.thread_time()
    assert content_fingerprint(value) == content_fingerprint(value) is not None
    assert time.thread_time() - started < 4


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: Plain(v=v)])
def test_depth_is_limited(wrap):
    value = None
    for _ in range(150):
        value = wrap(value)
    assert content_fingerprint(value) is not None
    for _ in range(100_000):
        value = wrap(value)
    started = time.thread_time()
    assert content_fingerprint(value) is None
    assert time.thread_time() - started < 2


SMALL_STACK = """
import functools, threading
from fastserverstate.change import content_fingerprint
from unit.values import MUTATIONS, Plain, Reducing
WRAPS = [
    lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: Plain(v=(v,)), Reducing, lambda v: frozenset([v]),
    lambda v: ValueError(v), lambda v: functools.partial(len, v), lambda v: (lambda: v),
]
ends = []
kept = []  # freed on the main thread: freeing a deep value takes much of the stack, too

def walk():
    for wrap in WRAPS:
        value = None
        for depth in range(1000):
            if depth in (5, 395):
                ends.append(content_fingerprint(value) is not None)
            value = wrap(value)
        assert content_fingerprint(value) is None
        assert content_fingerprint(value, {"builtins.list": lambda v: v[0]}) is None
        kept.append(value)

threading.stack_size(SIZE * 1024)
thread = threading.Thread(target=walk)
thread.start()
thread.join()
print(ends.count(True), ends.count(False))
"""


@pytest.mark.parametrize("size", [128, 224, 512, 4096])
def test_depth_fits_the_stack_of_the_thread(size):
    """A value that needs more stack has no fingerprint."""
    known, unknown = map(int, run_script(SMALL_STACK.replace("SIZE", str(size)), package=True).split())
    assert known + unknown == 18
    assert known >= (9 if size >= 224 else 0)
    assert unknown <= (9 if size >= 224 else 18)


class Endless:
    def __reduce__(self):
        return Endless, tuple(Endless() for _ in range(10))


def test_endless_values_are_given_up():
    started = time.thread_time()
    assert content_fingerprint(Endless()) is None
    assert time.thread_time() - started < 30


# Values without a fingerprint


def raising(exception):
    class Raising:
        def __reduce__(self):
            raise exception

    return Raising()


def with_lock():
    return Plain(lock=threading.Lock(), items=[1])


class Singleton:
    """It is pickled as its name, without its attributes."""

    def __reduce__(self):
        return "singleton"


singleton = Singleton()


def zone_from_file():
    """It may have any name."""
    with zoneinfo._common.load_tzdata("Europe/Berlin") as file:
        return zoneinfo.ZoneInfo.from_file(file, key="Europe/Paris")


class Structure(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int)]


NONE = {
    "cache": lambda: functools.cache(lambda: 1),
    "universal function": lambda: np.frompyfunc(lambda _: 1, 1, 1),
    "pickled by name": lambda: singleton,
    "zone from a file": zone_from_file,
    "several frames": lambda: values.image_file(values.image("L")),
    "structure": Structure,
    "subclass of what is not known": type("Local", (threading.local,), {}),
    "weak reference": lambda: weakref.ref(singleton),
    "subclass of a weak reference": lambda: type("Reference", (weakref.ref,), {})(singleton),
    "array of several types": lambda: np.array([np.frompyfunc(len, 1, 1)], dtype=object),
    "lock": threading.Lock,
    "rlock": threading.RLock,
    "object with a lock": with_lock,
    "generator": lambda: (i for i in ()),
    "socket": socket.socket,
    "thread": threading.Thread,
    "file": lambda: open(os.devnull),  # noqa: SIM115
    "iterator of itertools": itertools.count,
    "reduce that raises": lambda: raising(RuntimeError("no")),
    "reduce that recurses": lambda: raising(RecursionError()),
    "reduce that finds no memory": lambda: raising(MemoryError()),
    "closure over a lock": lambda: values.adder(threading.Lock()),
    "released memory": lambda: (view := memoryview(b"a")).release() or view,
    "array of locks": lambda: np.array([threading.Lock()], dtype=object),
    "frame of locks": lambda: pd.DataFrame({"a": [threading.Lock()]}),
    "class without a module": type("Nameless", (type,), {"__module__": property()})("Kind", (), {}),
}  # fmt: skip


@pytest.mark.parametrize("make", NONE.values(), ids=NONE)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [1, v], lambda v: {"k": v}, lambda v: Account("a", [v])])
def test_values_of_unknown_content_have_no_fingerprint(make, wrap):
    value = make()
    assert content_fingerprint(wrap(value)) is None
    if hasattr(type(value), "close"):
        value.close()


class Stop(BaseException):
    pass


@pytest.mark.parametrize("exception", [KeyboardInterrupt, Stop, SystemExit])
def test_exceptions_that_stop_a_script_pass_through(exception):
    with pytest.raises(exception):
        content_fingerprint([1, {"k": raising(exception)}])
    with pytest.raises(exception):
        content_fingerprint([Plain()], {Plain: lambda _: (_ for _ in ()).throw(exception)})
    assert content_fingerprint([1]) is not None


def test_panic_of_a_library_in_rust_is_no_wish_to_stop():
    """It is a `BaseException`. Polars raises one for series that it cannot convert."""
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    assert content_fingerprint([1, {"k": raising(panic("called `unwrap()`"))}]) is None


def test_one_debug_line_for_each_type(caplog, monkeypatch):
    monkeypatch.setattr(change, "_reported", set())
    with caplog.at_level(logging.INFO, change.__name__):
        content_fingerprint(threading.Lock())
    with caplog.at_level(logging.DEBUG, change.__name__):
        for _ in range(3):
            content_fingerprint([threading.Lock()])
            content_fingerprint(Plain(a=(i for i in ())))
            content_fingerprint(nested(1000))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert "_thread.lock" in messages[0]
    assert "generator" in messages[1]
    assert "list" in messages[2]


# Concurrent changes


def test_class_that_changes_has_another_plan():
    class Kind:
        @functools.cached_property
        def total(self):
            return 1

    value = Kind()
    before = content_fingerprint(value)
    assert value.total == 1
    assert content_fingerprint(value) == before
    del Kind.total
    assert content_fingerprint(value) not in {before, None}
    Kind.total = functools.cached_property(lambda _: 1)
    assert content_fingerprint(value) == before


def test_class_that_is_defined_anew_with_other_slots():
    first = type("Kind", (), {"__slots__": ("a", "b"), "__module__": "m"})()
    second = type("Kind", (), {"__slots__": ("b", "c"), "__module__": "m"})()
    first.a, first.b = second.b, second.c = 1, 2
    assert content_fingerprint(first) != content_fingerprint(second)


def test_value_that_changes_its_class_has_no_fingerprint():
    class Kind(Plain):
        pass

    value = Kind()
    value.meddling = Meddling(lambda: setattr(value, "__class__", values.Sibling))
    assert content_fingerprint(value) is None
    value.meddling = None
    assert content_fingerprint(value) is not None


def test_values_whose_classes_other_threads_change():
    kinds = [type(f"Kind{i}", (Plain,), {}) for i in range(4)]
    objects = [kinds[0](a=[i]) for i in range(100)]
    stop = threading.Event()

    def write():
        i = 0
        while not stop.is_set():
            i += 1
            objects[i % 100].__class__ = kinds[i % 4]
            kinds[i % 3].note = i

    with ThreadSet() as threads:
        threads.add(write)
        threads.go()
        for _ in range(200):
            assert type(content_fingerprint(objects)) in {bytes, type(None)}
        stop.set()
    assert content_fingerprint(objects) == content_fingerprint(copy.deepcopy(objects)) is not None


class Meddling:
    """Changes its container during the fingerprint."""

    def __init__(self, meddle):
        self.meddle = meddle

    def __reduce__(self):
        self.meddle()
        return Meddling, (1,)


@pytest.mark.parametrize(
    ("holder", "meddle"),
    [
        ([], lambda holder: holder.append(1)),
        ([1, 2], lambda holder: holder.clear()),
        ({}, lambda holder: holder.update({len(holder): 1})),
        ({1: 2}, lambda holder: holder.clear()),
    ],
)
def test_container_that_changes_its_size_has_no_fingerprint(holder, meddle):
    meddling = Meddling(lambda: meddle(holder))
    holder.append(meddling) if isinstance(holder, list) else holder.update(m=meddling)
    for _ in range(3):
        holder.extend([3]) if isinstance(holder, list) else holder.update({len(holder) + 100: 3})
    assert content_fingerprint(holder) is None


def test_values_that_other_threads_change():
    """Nothing crashes, and the values that no thread changes at the end have their fingerprints."""
    value = {"list": [], "dict": {}, "set": set(), "object": Plain(), "array": np.zeros(9)}
    stop = threading.Event()

    def write(seed):
        i = seed
        while not stop.is_set():
            i += 2
            value["list"].append([i])
            value["dict"][i % 97] = {"k": i}
            value["set"].add((i % 89, "s"))
            setattr(value["object"], f"a{i % 31}", [i])
            value["array"][i % 9] = i
            if i % 50 < 2:
                value["list"].clear()
                value["dict"].clear()
                value["set"].clear()
                vars(value["object"]).clear()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    seen = Counter()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        seen[type(content_fingerprint(value))] += 1
    stop.set()
    for writer in writers:
        writer.join()
    assert set(seen) <= {bytes, type(None)}
    assert seen[bytes]
    assert content_fingerprint(value) == content_fingerprint(copy.deepcopy(value)) is not None


def test_threads_agree():
    value = [frame(), matrix(), {f"k{i}": Todo(str(i)) for i in range(200)}]
    found = []
    threads = [threading.Thread(target=lambda: found.append(content_fingerprint(value))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {content_fingerprint(value)}
    assert len(found) == 8


# hash_funcs


def test_functions_of_the_user_stand_for_values():
    funcs = {Plain: lambda value: value.a}
    assert content_fingerprint(Plain(a=1, b=1), funcs) == content_fingerprint(Plain(a=1, b=2), funcs)
    assert content_fingerprint(Plain(a=1, b=1), funcs) != content_fingerprint(Plain(a=2, b=1), funcs)
    assert content_fingerprint([{"k": Plain(a=1, b=1)}], funcs) == content_fingerprint([{"k": Plain(a=1)}], funcs)
    assert content_fingerprint(Plain(a=1), funcs) != content_fingerprint(1, funcs)
    assert content_fingerprint(Todo("a"), funcs) == content_fingerprint(Todo("a"))


def test_functions_by_name_of_the_type():
    assert content_fingerprint(Plain(a=1, b=1), {"unit.values.Plain": lambda value: value.a}) == content_fingerprint(
        Plain(a=1, b=2), {Plain: lambda value: value.a}
    )
    assert content_fingerprint(threading.Lock(), {"_thread.lock": lambda _: 0}) is not None


def test_functions_for_built_in_types():
    rounding = {float: lambda value: round(value, 1)}
    assert content_fingerprint([1.01, {"k": 2.0}], rounding) == content_fingerprint([1.02, {"k": 2.0}], rounding)
    assert content_fingerprint([1.01], rounding) != content_fingerprint([1.2], rounding)
    by_length = {list: len, "builtins.int": str}
    assert content_fingerprint([1, 2], by_length) == content_fingerprint([3, 4], by_length)
    assert content_fingerprint((1, 2), by_length) != content_fingerprint((1, 3), by_length)


@pytest.mark.parametrize("function", [lambda value: value, lambda value: [value, value.a], lambda value: {"k": value}])
def test_function_that_gives_the_value_back_hides_no_change(function):
    before = content_fingerprint(Plain(a=1), {Plain: function})
    assert before is None or before != content_fingerprint(Plain(a=2), {Plain: function})


def test_function_that_raises():
    assert content_fingerprint([Plain(a=1)], {Plain: lambda value: value.missing}) is None


# Leaks


@pytest.mark.skipif(sysconfig.get_config_var("Py_GIL_DISABLED") == 1, reason="it keeps classes of its own accord")
def test_nothing_is_retained():
    kind = type("Item", (Plain,), {})
    item, items, array = kind(content=[1, 2]), {1, 2, 3}, np.zeros(100_000)
    assert content_fingerprint([item, item, items, items, array, array, kind]) is not None
    references = [weakref.ref(kept) for kept in (kind, item, items, array)]
    del kind, item, items, array
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_plan_of_a_dead_class_is_not_that_of_its_successor():
    """Classes that are created and dropped in turn usually have the same address."""
    for i in range(20):
        slots = ("a",) if i % 2 else ("b",)
        kind = type(f"Kind{i % 2}", (), {"__slots__": slots})
        value, twin = kind(), kind()
        assert content_fingerprint(value) == content_fingerprint(twin)
        setattr(value, slots[0], i)
        assert content_fingerprint(value) != content_fingerprint(twin)
        del kind, value, twin
        gc.collect()


def test_references_are_kept_in_balance():
    values = [value for make in CASES.values() for value in make() if sys.getrefcount(value) < 50]
    lock, meddled = threading.Lock(), [object(), [1], (2, 3)]
    for _ in range(3):
        content_fingerprint(values)
    before = [sys.getrefcount(value) for value in values]
    alive = sys.getrefcount(lock), [sys.getrefcount(value) for value in meddled]
    for _ in range(20):
        content_fingerprint(values)
        content_fingerprint([meddled, {"k": meddled[1], "l": lock}])
        content_fingerprint(ring(*meddled))
    gc.collect()
    assert [sys.getrefcount(value) for value in values] == before
    assert (sys.getrefcount(lock), [sys.getrefcount(value) for value in meddled]) == alive


def test_libraries_are_not_imported():
    module = importlib.import_module(change.__name__)
    names = {"numpy", "pandas", "polars", "pyarrow", "pydantic", "attr", "PIL"}
    assert not names & {name.partition(".")[0] for name in vars(module)}
