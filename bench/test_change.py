"""The cost of finding out whether a value has changed, compared with the repr of streamlit-server-state, the hasher of
``st.cache_data``, and reading the memory of the value."""

from __future__ import annotations

import importlib.util
import math
import pickle
import runpy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from time import thread_time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from streamlit.runtime.caching.cache_type import CacheType
from streamlit.runtime.caching.hashing import update_hash
from streamlit.util import create_fast_hasher

from fastserverstate.change import content_fingerprint

# Of streamlit-server-state, by file: the package itself needs a running server when it is imported.
_FOLDER = importlib.util.find_spec("streamlit_server_state").submodule_search_locations[0]  # type: ignore[union-attr, index]
calc_hash: Callable[[Any], object] = runpy.run_path(f"{_FOLDER}/hash.py")["calc_hash"]

RANDOM = np.random.default_rng(1)
VALUES: dict[str, Callable[[], Any]] = {
    "small int": lambda: 12,
    "short list": lambda: [1, 2, 3],
    "10,000 ints": lambda: list(range(10_000)),
    "2,000,000 ints": lambda: list(range(2_000_000)),
    "nested dict of 1,000": lambda: {f"k{i}": {"id": i, "tags": ["a", "b"], "score": i / 3} for i in range(1000)},
    "1000x10 DataFrame": lambda: pd.DataFrame(RANDOM.random((1000, 10)), columns=list("abcdefghij")),
    "10 MB array": lambda: RANDOM.random((1250, 1000)),
    "10 MB array, columns first": lambda: np.asfortranarray(RANDOM.random((1250, 1000))),
    "10 MB bytes": lambda: RANDOM.bytes(10_000_000),
}
# The least ratio to the older package's repr, without ellipses.
FASTER_THAN_REPR = {"10,000 ints": 5, "2,000,000 ints": 5, "1000x10 DataFrame": 20}
FASTER_THAN_WHOLE_REPR = {"1000x10 DataFrame": 20, "10 MB array": 20}
# Less than twice the time of reading the memory once, or of copying it into the order of rows.
MEMORY: dict[str, Callable[[Any], Callable[[], object]]] = {
    "10 MB array": lambda array: partial(np.bitwise_or.reduce, array.reshape(-1).view("u8")),
    "10 MB array, columns first": lambda array: partial(np.copyto, np.empty(array.shape), array),
    "10 MB bytes": lambda data: partial(np.bitwise_or.reduce, np.frombuffer(data, "u8")),
}


OTHERS = ("repr", "whole repr", "st.cache_data", "memory")


@pytest.fixture(autouse=True)
def script_run() -> None:
    """Replaced, because no server runs here."""


def streamlit_hash(value: Any) -> bytes:
    hasher = create_fast_hasher()
    update_hash(value, hasher, cache_type=CacheType.DATA, hash_source=len)
    digest: bytes = hasher.digest()
    return digest


def whole_repr(value: Any) -> object:
    """Return the hash of the repr without an ellipsis for the middle."""
    with np.printoptions(threshold=sys.maxsize), pd.option_context("display.max_rows", None):
        return calc_hash(value)


def least_seconds(run: Callable[[], object]) -> float:
    """Return the processor time of a call: the best of many rounds, or of the rounds in half a second."""
    least, spent, calls = math.inf, 0.0, 1
    while spent < 0.5:
        started = thread_time()
        for _ in range(calls):
            run()
        taken = thread_time() - started
        spent += taken
        least = min(least, taken / calls)
        if taken < 0.001:
            calls *= 10
    return least


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Collect the rows of a Markdown table, printed at the end."""
    rows: list[str] = []
    yield rows
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        terminal.write_line("\n| did it change? | fingerprint | repr | | whole repr | | st.cache_data | | memory | |")
        terminal.write_line("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
        for row in rows:
            terminal.write_line(row)


@pytest.mark.parametrize("value", VALUES)
def test_fingerprint(benchmark: BenchmarkFixture, table: list[str], value: str) -> None:
    stored = VALUES[value]()
    benchmark.group = f"did it change: {value}"
    benchmark(content_fingerprint, stored)
    ours = least_seconds(lambda: content_fingerprint(stored))
    others = {"repr": least_seconds(lambda: calc_hash(stored))}
    if value in FASTER_THAN_WHOLE_REPR:
        others["whole repr"] = least_seconds(lambda: whole_repr(stored))
    others["st.cache_data"] = least_seconds(lambda: streamlit_hash(stored))
    if value in MEMORY:
        others["memory"] = least_seconds(MEMORY[value](stored))
    columns = [
        f"{others[name] * 1e6:,.1f} µs | {others[name] / ours:.2f}x" if name in others else " | " for name in OTHERS
    ]
    table.append(f"| {value} | {ours * 1e6:,.1f} µs | {' | '.join(columns)} |")
    assert others["repr"] / ours >= FASTER_THAN_REPR.get(value, 0)
    assert others.get("whole repr", math.inf) / ours >= FASTER_THAN_WHOLE_REPR.get(value, 0)
    assert ours < 2 * others.get("memory", math.inf)


def test_cycles() -> None:
    """Each node is written once, as in a pickle. Following all paths, as a repr does, would not end."""
    nodes = [SimpleNamespace(number=number, neighbours=[]) for number in range(100)]
    for node in nodes:
        node.neighbours += nodes
    assert least_seconds(lambda: content_fingerprint(nodes)) < 20 * least_seconds(lambda: pickle.dumps(nodes))
