"""A finalizer runs at any allocation of any thread, and may call the function that it has interrupted."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from cluster.waiting import until
from unit.helpers import ThreadSet, run_script

import fastserverstate.cluster
from fastserverstate.cluster.errors import NotWrittenError
from fastserverstate.cluster.signals import Event

SOURCES = sorted(Path(fastserverstate.cluster.__file__).parent.glob("*.py"))
# These have a lock that is not re-entrant, so a finalizer would wait for its own thread.
PLAIN = {
    *("threading.Lock", "threading.Event", "threading.Semaphore", "threading.BoundedSemaphore", "threading.Barrier"),
    *("threading.Timer", "_thread.allocate_lock", "queue.Queue", "queue.LifoQueue", "queue.PriorityQueue"),
    *("concurrent.futures.ThreadPoolExecutor", "concurrent.futures.Future", "multiprocessing.Queue"),
}


def plain_locks(source):
    """Find uses and imports of objects with plain locks."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from ({f"{node.module}.{alias.name}" for alias in node.names} & {*PLAIN, "threading.Condition"})
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in PLAIN or (name == "threading.Condition" and not node.args):
                yield name


def test_scan_finds_plain_locks():
    assert list(
        plain_locks("threading.Lock(); threading.Condition(); threading.Condition(rlock); threading.RLock()")
    ) == [
        "threading.Lock",
        "threading.Condition",
    ]
    assert list(plain_locks("from threading import Event")) == ["threading.Event"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_plain_lock(path):
    assert list(plain_locks(path.read_text())) == []


# An event


def test_event_wakes_all_threads_and_remains_set():
    event, woken = Event(), []
    with ThreadSet() as threads:
        for _ in range(5):
            threads.add(lambda: woken.append(event.wait(20)))
        threads.go()
        event.set()
    assert woken == [True] * 5
    assert event.wait(0)
    assert event.is_set()
    event.set()
    event.clear()
    assert not event.is_set()
    assert not event.wait(0)


@pytest.mark.usefixtures("many_switches")
def test_event_set_after_clear_is_not_missed():
    event, turns = Event(), []

    def wait():
        for _ in range(300):
            assert event.wait(20)
            event.clear()
            turns.append(1)

    def tell():
        for n in range(300):
            event.set()
            until(lambda n=n: len(turns) > n)

    with ThreadSet() as threads:
        threads.add(wait)
        threads.add(tell)


# Finalizers


def test_finalizer_does_not_wait_for_own_thread(empty_engine, peer):
    """The finalizer has interrupted the code that it would wait for."""
    one, other = peer(empty_engine.url), peer(empty_engine.url)
    apply, raised = other.table.apply, []

    def finalize(act):
        try:
            act()
        except NotWrittenError as error:
            raised.append(str(error))

    def interrupted(*arguments):
        other.table.apply = apply
        finalize(lambda: other.node.leases.acquire(["free"], None))
        finalize(lambda: other.node.leases.acquire(["taken"], None))
        finalize(other.node.sync)
        other.node.set("by the finalizer", 1)
        return apply(*arguments)

    one.node.leases.acquire(["taken"], None)
    one.node.set("free", 1)
    other.node.sync()
    other.table.apply = interrupted
    one.node.set("free", 2)
    until(lambda: other.values == {"free": 2, "by the finalizer": 1})
    assert len(raised) == 3
    assert all("finalizer" in text for text in raised)
    assert other.node.leases.acquire(["free"], 10)


FINALIZERS = """
    import faulthandler
    import gc
    import threading
    import fastserverstate
    from fastserverstate import cluster, on_change, server_state, server_state_lock

    url = {url!r}
    done = []

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            try:
                n = len(done) % 10
                if n == 0:
                    fastserverstate.connect(url, namespace="tests")
                elif n == 1:
                    cluster.status()
                elif n == 2:
                    server_state.get("k")
                elif n == 3:
                    if server_state_lock["f"].acquire(timeout=0.01):
                        server_state_lock["f"].release()
                else:
                    server_state["finalized"] = len(done)
            except cluster.ClusterError:
                pass
            done.append(1)

    def work(name):
        for n in range(150):
            Cycle()
            server_state[name] = n
            server_state.setdefault(name, 1)
            with server_state_lock[name]:
                server_state["shared"] = n
            Cycle()
            if n % 50 == 0:
                cluster.sync()

    on_change("a", lambda: [Cycle() for _ in range(3)] and None)
    faulthandler.dump_traceback_later(100, exit=True)
    gc.set_threshold(2, 2, 2)
    for _ in range(3):
        fastserverstate.connect(url, namespace="tests")
        threads = [threading.Thread(target=work, args=[name], daemon=True) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread hangs"
        cluster.disconnect()
    gc.set_threshold(700, 10, 10)
    assert len(done) > 500
    print(sorted(server_state)[:3])
"""


def test_finalizers_in_all_threads(empty_engine):
    assert run_script(FINALIZERS.format(url=empty_engine.url), package=True) == "['a', 'b', 'c']\n"
