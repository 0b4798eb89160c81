"""Resources do not leak, and queues and waits are bounded."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from cluster.member import Member
from cluster.waiting import until
from unit.helpers import ThreadSet

from fastserverstate.cluster import locks
from fastserverstate.cluster.errors import NotConnectedError


def connections(server):
    with server.client() as asking:
        return len(asking.client_list()) - 1


def test_surplus_connections_are_closed(own_engine, peer):
    one = peer(own_engine.url, timeout=60.0)
    own_engine.signal(signal.SIGSTOP)
    with ThreadSet() as threads:
        for _ in range(40):
            threads.add(one.node.increment, "n", 1, 0)
        threads.go()
        until(lambda: len(one.node.replica._in_flight) == 40)
        own_engine.signal(signal.SIGCONT)
    assert one.values == {"n": 40}
    until(lambda: connections(own_engine) <= 20)


def test_reconnecting_leaks_nothing(own_engine, peer):
    one = peer(own_engine.url)
    one.node.leases.acquire(["k"], None)
    one.node.leases.release(["k"])

    def count():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = count()
    with own_engine.client() as asking:
        for n in range(50):
            asking.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            one.node.set("k", n)
            one.node.sync()
        assert len(asking.keys("fss:{tests}:op:*")) <= 3  # a writer outlives its connections
        files, threads = count()
    assert files <= before[0] + 2
    assert threads == before[1]


def test_slow_listener_queue_is_bounded(own_engine):
    one, other = Member(own_engine.url), Member(own_engine.url)
    try:
        go, entered, heard = threading.Event(), threading.Event(), []

        def listen():
            entered.set()
            go.wait(20)
            heard.append(other.store.peek("k"))

        other.on_change("k", listen)
        one.state["k"] = 0
        entered.wait(20)
        for n in range(1, 200):
            one.state["k"] = n
            other.sync()
        assert other.adapter._table._callers._ready.qsize() <= 1
        go.set()
        until(lambda: heard[-1:] == [199])
    finally:
        one.close()
        other.close()


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_lock_timeout_limits_wait_for_engine(own_engine, peer, timeout):
    """Even if a write would wait for the engine much longer."""
    one = peer(own_engine.url, timeout=120.0)
    own_engine.kill()
    start = time.monotonic()
    with pytest.raises(NotConnectedError, match=rf"within {locks.LEAST_TIMEOUT:g} seconds"):
        one.node.leases.acquire(["k"], timeout)
    assert time.monotonic() - start < 60


def test_dead_waiter_is_forgotten(own_engine, peer):
    """Otherwise every release would be logged for it forever."""
    peer(own_engine.url)
    with own_engine.client() as asking:
        asking.hset("fss:{tests}:w", "died", "1|1|1|1-1|other|k")
        asking.hset("fss:{tests}:w", "lives", "99999999999999|1|1|1-1|other|k")
        until(lambda: asking.hkeys("fss:{tests}:w") == [b"lives"])
