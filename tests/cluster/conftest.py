"""Engines and proxies for the tests of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cluster.member import Member
from cluster.subject import Peer
from harness.engine import KINDS, Engine, engine
from harness.proxy import Proxy


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every test is run with both."""
    return str(request.param)


@pytest.fixture(scope="session")
def either_engine(kind: str) -> Iterator[Engine]:
    """One for all tests that do it no harm."""
    with engine(kind=kind) as server:
        yield server


@pytest.fixture
def empty_engine(either_engine: Engine) -> Engine:
    with either_engine.client() as client:
        client.flushall()
    return either_engine


@pytest.fixture
def own_engine(kind: str) -> Iterator[Engine]:
    """One that may be harmed."""
    with engine(kind=kind) as server:
        yield server


@pytest.fixture
def proxy(own_engine: Engine) -> Iterator[Proxy]:
    with Proxy(own_engine.port) as harmful:
        yield harmful


@pytest.fixture
def members(empty_engine: Engine) -> Iterator[tuple[Member, Member]]:
    """Two servers that share their state."""
    pair = Member(empty_engine.url), Member(empty_engine.url)
    yield pair
    for one in pair:
        one.close()


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
    """Says what came of a failure test, for the table of `make test-faults`."""
    return lambda text: request.node.user_properties.append(("result", text))
