"""Fixtures for the tests of the cluster: engines, proxies, nodes and stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cluster.member import Member
from cluster.subject import Peer
from harness.engine import KINDS, Engine, engine
from harness.proxy import Proxy


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of engine. Every test runs with each."""
    return str(request.param)


@pytest.fixture(scope="session")
def either_engine(kind: str) -> Iterator[Engine]:
    """A running engine, which all tests share. Do not damage it."""
    with engine(kind=kind) as server:
        yield server


@pytest.fixture
def empty_engine(either_engine: Engine) -> Engine:
    """The shared engine without data."""
    with either_engine.client() as client:
        client.flushall()
    return either_engine


@pytest.fixture
def own_engine(kind: str) -> Iterator[Engine]:
    """An engine for this test alone, which it may kill or damage."""
    with engine(kind=kind) as server:
        yield server


@pytest.fixture
def proxy(own_engine: Engine) -> Iterator[Proxy]:
    """A proxy in front of `own_engine` that injects network failures."""
    with Proxy(own_engine.port) as running:
        yield running


@pytest.fixture
def members(empty_engine: Engine) -> Iterator[tuple[Member, Member]]:
    """Two stores that share their state, like those of two servers."""
    pair = Member(empty_engine.url), Member(empty_engine.url)
    yield pair
    for one in pair:
        one.close()


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """`peer(url)` connects a node. All nodes are closed at the end of the test."""
    peers: list[Peer] = []

    def connect(url: str, **options: object) -> Peer:
        peers.append(Peer(url, **options))
        return peers[-1]

    yield connect
    for one in peers:
        one.node.close()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Reports the result of a failure test, for the table of `make test-faults`."""
    return lambda text: request.node.user_properties.append(("result", text))
