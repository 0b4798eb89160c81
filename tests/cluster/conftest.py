"""Engines and proxies for the tests of the cluster, and the summary of the failure tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from cluster.subject import Peer
from harness.engine import KINDS, Engine, engine
from harness.proxy import Proxy

# `make test-faults` runs the failure tests for long.
LONG = os.environ.get("FASTSERVERSTATE_FAULTS") == "long"
_rows: list[tuple[str, str]] = []


def times(short: int, long: int) -> int:
    return long if LONG else short


@pytest.fixture(scope="session", params=KINDS)
def either_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One for all tests that do it no harm."""
    with engine(kind=request.param) as server:
        yield server


@pytest.fixture
def empty_engine(either_engine: Engine) -> Engine:
    with either_engine.client() as client:
        client.flushall()
    return either_engine


@pytest.fixture
def own_engine() -> Iterator[Engine]:
    """One that may be harmed."""
    with engine() as server:
        yield server


@pytest.fixture
def proxy(own_engine: Engine) -> Iterator[Proxy]:
    with Proxy(own_engine.port) as harmful:
        yield harmful


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """`peer(url)` connects a node of a process; they are closed at the end."""
    peers: list[Peer] = []

    def connect(url: str, **options: object) -> Peer:
        peers.append(Peer(url, **options))
        return peers[-1]

    yield connect
    for one in peers:
        one.node.close()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line about the test to the summary."""
    return lambda text: _rows.append((request.node.name, text))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows and LONG:
        terminalreporter.section("failures that were caused")
        width = max(len(name) for name, _ in _rows)
        for name, text in _rows:
            terminalreporter.write_line(f"{name:{width}}  {text}")
