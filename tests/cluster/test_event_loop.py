"""Event loops of a connected server: they do not wait for the engine, and their writes are not lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading

import pytest
from cluster.waiting import until
from harness.proxy import Proxy

import fastserverstate
from fastserverstate import (
    WouldBlockError,
    atomic,
    cluster,
    no_rerun,
    peek,
    server_state,
    server_state_lock,
    touch,
    transaction,
)
from fastserverstate.cluster import UnknownOutcomeError, background


@pytest.fixture
def connected(own_engine):
    """This process is connected to an engine that the test may stop."""
    fastserverstate.connect(own_engine.url, namespace="tests", timeout=5)
    yield own_engine
    own_engine.signal(signal.SIGCONT)
    cluster.disconnect()
    server_state.clear()


@contextlib.contextmanager
def stopped(engine):
    engine.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.signal(signal.SIGCONT)


def on_loop(function, *args):
    async def call():
        return function(*args)

    return asyncio.run(call())


def on_engine(engine, key, peer):
    other = peer(engine.url)
    other.node.sync()
    return other.values.get(key)


def test_calls_with_fast_replies(connected, peer):
    """Calls on an event loop have the same results as on other threads, and see their own writes and locks."""

    def work():
        server_state["k"] = 1
        server_state["k"] += 1
        with server_state_lock["k"], no_rerun:
            server_state["k"] += 1
            assert peek("k") == 3
            assert atomic.increment("k") == 4
        with transaction("a", "b"):
            server_state["a"] = server_state["b"] = 5
        del server_state["a"]
        touch("b")
        cluster.sync()
        return server_state.pop("b"), server_state.setdefault("c", 6), atomic("k", lambda value: value + 1)

    changes = cluster.membership.adapter._backend._background

    def succeeds():
        until(lambda: changes._late is None or changes._late.is_over())  # calls behind a late one do not wait
        with contextlib.suppress(WouldBlockError, UnknownOutcomeError, AssertionError, KeyError):
            return on_loop(work) == (5, 6, 5)

    until(succeeds)  # on a slow machine, replies may be late
    other = peer(connected.url)
    other.node.sync()
    assert other.values == {"k": 5, "c": 6}
    assert not server_state_lock["k"].locked()


def test_background_writes_keep_order(connected, peer):
    server_state["old"] = 1

    def write():
        for n in range(100):
            server_state["k"] = n
        touch("old")
        server_state["last"] = 1

    with stopped(connected):
        on_loop(write)
        assert "k" not in server_state
    until(lambda: server_state.get("last") == 1)
    assert server_state["k"] == 99
    assert on_engine(connected, "k", peer) == 99


@pytest.mark.parametrize(
    ("change", "result"),
    [
        (lambda: atomic.increment("n", 2), 3),
        (lambda: server_state.pop("n"), None),
        (lambda: server_state.__delitem__("n"), None),
        (lambda: server_state.setdefault("m", 1), 1),
    ],
    ids=["increment", "pop", "del", "setdefault"],
)
def test_late_result_is_unknown_outcome(connected, peer, change, result):
    server_state["n"] = 1
    key = "m" if result == 1 else "n"
    with (
        stopped(connected),
        pytest.raises(UnknownOutcomeError, match=f"{key!r}.*continues in the background.*to_thread"),
    ):
        on_loop(change)
    until(lambda: server_state.get(key) == result)
    assert on_engine(connected, key, peer) == result


def in_transaction():
    with transaction():
        server_state["k"] = 1


def test_refused_locks_are_not_kept(connected):
    for take in (
        server_state_lock["k"].acquire,
        server_state_lock["j", "k"].acquire,
        lambda: atomic("k", str),
        in_transaction,
    ):
        with stopped(connected), pytest.raises(WouldBlockError, match=r"lock of '[jk]'.*to_thread"):
            on_loop(take)
    assert not server_state_lock["k"].locked()
    with server_state_lock["k"]:  # another holder
        server_state["k"] = 1
    assert not cluster.membership.adapter.node.leases.keys() & {"j", "k"}


def test_sync_is_refused(connected):
    with stopped(connected), pytest.raises(WouldBlockError, match="Waiting for the Redis server"):
        on_loop(cluster.sync)


@pytest.mark.parametrize("block", [lambda key: server_state_lock[key], transaction], ids=["lock", "transaction"])
def test_write_and_release_under_earlier_lock(connected, peer, block):
    """The lock remains on the engine until the write is done."""

    def work(block):
        while True:
            with contextlib.suppress(WouldBlockError):
                block.__enter__()
                break
        connected.signal(signal.SIGSTOP)
        server_state["k"] = "under the lock"
        block.__exit__(None, None, None)

    on_loop(work, block("k"))
    assert not server_state_lock["k"].locked()
    connected.signal(signal.SIGCONT)
    until(lambda: server_state.get("k") == "under the lock")
    until(lambda: not cluster.membership.adapter.node.leases.keys())
    assert on_engine(connected, "k", peer) == "under the lock"


def test_lock_of_another_server(connected, peer):
    """A write waits for the lock in the background. Taking the lock is refused."""
    other = peer(connected.url)
    assert other.node.leases.acquire(["k"], None)

    def work():
        server_state["k"] = 1
        with pytest.raises(WouldBlockError, match="'k'"):
            server_state_lock["k"].acquire()

    on_loop(work)
    assert "k" not in server_state
    other.node.leases.release(["k"])
    until(lambda: server_state.get("k") == 1)


def test_late_failure_is_logged(connected, monkeypatch, caplog):
    monkeypatch.setattr(background, "LONGEST_TIMEOUT", 0.1)
    with stopped(connected):
        on_loop(server_state.__setitem__, "k", 1)
        until(lambda: caplog.records)
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.messages[0].startswith("Setting server_state['k'], called on an event loop, failed in the background")


@pytest.mark.usefixtures("connected")
def test_refused_change_raises_immediately():
    """As on other threads, unless the machine is too slow."""
    for _ in range(100):
        try:
            on_loop(server_state.__setitem__, "k", threading.Lock())
        except cluster.UnsharableValueError:
            return
    pytest.fail("The refusal never arrived in time.")


def test_disconnect_does_not_wait(connected, caplog):
    with stopped(connected):
        on_loop(server_state.__setitem__, "j", 1)
        on_loop(server_state.__setitem__, "k", 1)
        on_loop(cluster.disconnect)
    until(lambda: caplog.messages)
    assert caplog.messages[-1] == (
        "Setting server_state['k'], called on an event loop, was not done before the disconnection."
    )


def test_slow_connection_setup(own_engine):
    """The background thread opens connections, because looking up a name has no timeout."""
    with Proxy(own_engine.port) as proxy:
        fastserverstate.connect(proxy.url, namespace="tests", timeout=5)
        try:
            proxy.to_server = False
            proxy.cut()
            on_loop(server_state.__setitem__, "k", 1)
            proxy.to_server = True
            until(lambda: server_state.get("k") == 1)
        finally:
            cluster.disconnect()
            server_state.clear()
