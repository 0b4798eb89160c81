"""What it costs to tell whether a value has changed, beside the repr of streamlit-server-state and the hasher of
``st.cache_data``, and beside the memory that has to be read."""

from __future__ import annotations

import importlib.util
import runpy
import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
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
# At least so many times as fast as the older package's repr. That of an array shows its corners and reads no more.
FASTER_THAN_REPR = {"10,000 ints": 5, "2,000,000 ints": 5, "1000x10 DataFrame": 20}
# Their fingerprint takes less than twice as long as a copy into an array of rows.
COPIES = [name for name in VALUES if name.startswith("10 MB")]


@pytest.fixture(autouse=True)
def script_run() -> None:
    """No server is needed here."""


def streamlit_hash(value: Any) -> bytes:
    hasher = create_fast_hasher()
    update_hash(value, hasher, cache_type=CacheType.DATA, hash_source=len)
    digest: bytes = hasher.digest()
    return digest


def median_seconds(run: Callable[[], object]) -> float:
    """Of many rounds, or of fewer than that in half a second."""
    times: list[float] = []
    while not times or (len(times) < 200 and sum(times) < 0.5):
        started = perf_counter()
        run()
        times.append(perf_counter() - started)
    return statistics.median(times)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Rows of a Markdown table, printed at the end."""
    rows: list[str] = []
    yield rows
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        terminal.write_line("\n| did it change? | fingerprint | repr | | st.cache_data | | copy of the memory | |")
        terminal.write_line("|---|--:|--:|--:|--:|--:|--:|--:|")
        for row in rows:
            terminal.write_line(row)


@pytest.mark.parametrize("value", VALUES)
def test_fingerprint(benchmark: BenchmarkFixture, table: list[str], value: str) -> None:
    stored = VALUES[value]()
    benchmark.group = f"did it change: {value}"
    benchmark(content_fingerprint, stored)
    ours = median_seconds(lambda: content_fingerprint(stored))
    others = [median_seconds(lambda: calc_hash(stored)), median_seconds(lambda: streamlit_hash(stored))]
    if value in COPIES:
        source = np.frombuffer(stored, "u1") if isinstance(stored, bytes) else stored
        target = np.empty(source.shape, source.dtype)
        others.append(median_seconds(lambda: np.copyto(target, source)))
    columns = [f"{seconds * 1e6:,.1f} µs | {seconds / ours:.1f}x" for seconds in others]
    table.append(f"| {value} | {ours * 1e6:,.1f} µs | {' | '.join(columns)} |")
    assert others[0] / ours >= FASTER_THAN_REPR.get(value, 0)
    assert value not in COPIES or ours < 2 * others[-1]
