"""What an access costs in a script run, beside a plain dict with an RLock and beside streamlit-server-state."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from live import detached
from pytest_benchmark.fixture import BenchmarkFixture
from streamlit.runtime import Runtime

import fastserverstate

UNROLLED = 100

READS = {
    "item read": 'state["k"]',
    "attribute read": "state.k",
    "membership": '"k" in state',
}


class PlainLocks:
    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __getitem__(self, key: str) -> threading.RLock:
        return self._lock


@pytest.fixture(params=["dict", "fastserverstate", "streamlit-server-state"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def implementation(name: str) -> tuple[Any, Any]:
    """A state and its locks."""
    if name == "dict":
        return {}, PlainLocks()
    if name == "fastserverstate":
        return fastserverstate.server_state, fastserverstate.server_state_lock
    import streamlit_server_state  # noqa: PLC0415  (needs the running server)

    return streamlit_server_state.server_state, streamlit_server_state.server_state_lock


def unrolled(statement: str, **names: Any) -> Callable[[], None]:
    """A function that executes the statement `UNROLLED` times."""
    body = "\n".join([statement] * UNROLLED)
    code = compile(f"def run():\n{_indented(body)}", "<benchmark>", "exec")
    exec(code, names)
    run: Callable[[], None] = names["run"]
    return run


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def measure(benchmark: BenchmarkFixture, group: str, run: Callable[[], None]) -> None:
    benchmark.group = group
    benchmark.extra_info["operations"] = UNROLLED
    benchmark(run)


@pytest.mark.parametrize("group", READS)
def test_read(benchmark: BenchmarkFixture, implementation: tuple[Any, Any], name: str, group: str) -> None:
    """Reads of a session that is subscribed to the key."""
    state, _ = implementation
    with detached():
        state["k"] = 1
    # A dict's attribute read is an item read, there being nothing cheaper to compare with.
    statement = READS[group] if name != "dict" else READS[group].replace("state.k", 'state["k"]')
    measure(benchmark, f"{group}, subscribed", unrolled(statement, state=state))


def test_write(benchmark: BenchmarkFixture, implementation: tuple[Any, Any]) -> None:
    """Assignments of another small value to a key that nobody reads."""
    state, _ = implementation
    values = itertools.cycle([1, 2]).__next__
    measure(benchmark, "write, no subscriber", unrolled('state["unread"] = values()', state=state, values=values))


def test_locked_increment(benchmark: BenchmarkFixture, implementation: tuple[Any, Any]) -> None:
    """In a script, as apps count. The older package reruns the session at every step."""
    state, locks = implementation
    state["n"] = 0
    run = unrolled('with locks["n"]: state["n"] += 1', state=state, locks=locks)
    benchmark.group = "locked increment"
    benchmark.extra_info["operations"] = UNROLLED
    benchmark.pedantic(run, rounds=30, warmup_rounds=2)


def test_write_with_subscriber(benchmark: BenchmarkFixture, implementation: tuple[Any, Any], name: str) -> None:
    """One assignment of another value, from a thread without a session, to a key that a session has just read."""
    state, _ = implementation
    values = itertools.count()

    def subscribe() -> None:
        state["hot"] = next(values)
        if name == "fastserverstate":
            # The session's run stays open, so it takes a new run to subscribe again.
            session = Runtime.instance()._session_mgr.list_active_sessions()[-1].session
            session._fastserverstate.start_run()
        state["hot"]
        stack.enter_context(detached())

    def write() -> None:
        state["hot"] = next(values)

    def attach() -> None:
        stack.close()

    benchmark.group = "write, one subscriber"
    benchmark.extra_info["operations"] = 1
    with ExitStack() as stack:
        benchmark.pedantic(write, setup=subscribe, teardown=attach, rounds=300, warmup_rounds=20)
