"""Sizes of values, compared with what the interpreter allocates for them."""

from __future__ import annotations

import datetime
import gc
import random
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from fastserverstate._core import Encoded
from fastserverstate.sizes import SAMPLE, size_of


@dataclass
class Message:
    author: str
    text: str
    at: float


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self, first: object) -> None:
        self.first = first


def text(length: int) -> str:
    return "".join(random.choices("abcdefgh", k=length))


VALUES: dict[str, Callable[[], Any]] = {
    "text": lambda: text(10_000),
    "wide text": lambda: text(5000) + "\N{SNOWMAN}",
    "bytes": lambda: b"0" * random.randint(9000, 10_000),
    "integer": lambda: random.getrandbits(80_000),
    "list of texts": lambda: [text(100) for _ in range(100)],
    "long list of texts": lambda: [text(random.randint(1, 200)) for _ in range(50_000)],
    "long list of numbers": lambda: [random.random() for _ in range(50_000)],
    "deque": lambda: deque((text(20) for _ in range(10_000)), maxlen=20_000),
    "set": lambda: {text(20) for _ in range(10_000)},
    "dict": lambda: {text(20): text(50) for _ in range(10_000)},
    "table of dicts": lambda: [{f"column {i}": random.random() for i in range(10)} for _ in range(2000)],
    "nested": lambda: {
        text(5): [{"text": text(50), "tags": [text(5) for _ in range(3)]} for _ in range(50)] for _ in range(50)
    },
    "objects": lambda: [Message(text(10), text(random.randint(10, 300)), random.random()) for _ in range(2000)],
    "slots": lambda: [Slotted(text(100)) for _ in range(1000)],
    "bytearray": lambda: bytearray(50_000),
    "tuples": lambda: [(random.random(), text(30)) for _ in range(1000)],
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_size_is_within_20_percent(make: Callable[[], Any]) -> None:
    random.seed(1)
    make()  # what is cached
    gc.collect()  # clears the interpreter's lists of free objects, whose memory is not traced again
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value = make()
        allocated = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert size_of(value) == pytest.approx(allocated, rel=0.2)


MEASURED: dict[str, tuple[Callable[[], Any], float]] = {
    "array": (lambda: np.zeros((1000, 100)), 800_000),
    "view of an array": (lambda: np.zeros((1000, 100))[:500], 400_000),
    "array of objects": (lambda: np.array([text(1000) for _ in range(1000)], dtype=object), 1_057_000),
    "frame": (lambda: pd.DataFrame({"a": range(10_000), "b": 0.5}), 160_000),
    "frame with text": (lambda: pd.DataFrame({"a": [text(1000) for _ in range(1000)]}, dtype=object), 1_057_000),
    "series": (lambda: pd.Series(range(10_000)), 80_000),
    "index": (lambda: pd.Index(np.arange(10_000)), 80_000),
    "Arrow table": (lambda: pa.table({"a": list(range(10_000))}), 80_000),
    "Polars frame": (lambda: pl.DataFrame({"a": range(10_000)}), 80_000),
    "array in a dict": (lambda: {"array": np.zeros(100_000), "at": datetime.datetime.now(datetime.UTC)}, 800_000),
}


@pytest.mark.parametrize(("make", "size"), MEASURED.values(), ids=MEASURED)
def test_arrays_and_frames_are_measured(make: Callable[[], Any], size: float) -> None:
    assert size_of(make()) == pytest.approx(size, rel=0.02)


def test_an_object_counts_once() -> None:
    big = b"0" * 100_000
    assert size_of([big] * 10) < 110_000
    items: list[object] = [big]
    items.append(items)
    assert size_of(items) < 110_000


def test_an_encoded_value_counts_as_its_bytes() -> None:
    assert size_of(Encoded(b"0" * 10_000)) == pytest.approx(10_000, rel=0.01)


def test_classes_and_functions_do_not_count() -> None:
    assert size_of([Message, size_of, np]) < 200


def test_a_large_value_takes_no_longer_than_a_sample() -> None:
    looked_at = 0

    class Counted:
        def __sizeof__(self) -> int:
            nonlocal looked_at
            looked_at += 1
            return 16

    size_of([Counted() for _ in range(100_000)])
    assert looked_at <= SAMPLE


def test_a_container_that_changes_meanwhile_counts_without_its_items() -> None:
    items: dict[Any, Any] = {}

    class Changes:
        def __sizeof__(self) -> int:
            items[time.monotonic_ns()] = 1
            return 16

    items.update({number: Changes() for number in range(10)})
    assert size_of(items) > 0
