"""A forked process has an empty store that works. The store of its parent is unchanged."""

from __future__ import annotations

import os

import pytest
from unit.helpers import FORK, run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def test_child_has_an_empty_store_that_works():
    run_script(
        FORK
        + """
from fastserverstate import atomic, server_state, server_state_lock, transaction

def child():
    assert len(server_state) == 0 and list(server_state) == []
    assert "k" not in server_state and callable(server_state.keys)
    server_state.k = 1
    with server_state_lock["k"], transaction("k", "other"):
        server_state["other"] = atomic.increment("k")
    assert dict(server_state) == {"k": 2, "other": 2}

server_state.update(k=0, keys=1)
with server_state_lock["k"]:
    in_child(child)
assert dict(server_state) == {"k": 0, "keys": 1}
""",
        package=True,
    )


def test_locks_of_other_threads_are_free_in_the_child():
    run_script(
        FORK
        + """
state["k"] = 0
held, done = threading.Event(), threading.Event()

def hold():
    with store.lock("k"):
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()

def child():
    store.reset_after_fork()
    assert store.lock("k").acquire(timeout=5)
    state["k"] = 1

in_child(child)
done.set()
thread.join()
"""
    )


def test_sessions_are_dead_in_the_child_and_versions_go_on():
    run_script(
        FORK
        + """
session = _core.Session(store)
session.start_run()
enter(session)
state["k"] = 0
state["k"]
version = store.version("k")

def child():
    store.reset_after_fork()
    state["k"] = 1
    assert store.version("k") > version
    state.get("k")
    assert store.statistics()["scopes"] == 0
    assert store.collect_stale() == []

in_child(child)
session.finish_run()
leave()
state["k"] = 2
assert [scope.session for scope in store.collect_stale()] == [session]
"""
    )


def test_computed_values_work_in_the_child_and_in_the_parent():
    run_script(
        FORK
        + """
from fastserverstate import computed, on_change, server_state

server_state.n = 1

@computed
def twice(): return 2 * server_state.n

def changed(value):
    seen.append(value)
    called.set()

def check(n):
    called.clear()
    server_state.n = n
    assert called.wait(10) and seen[-1] == 2 * n == twice()

def child():
    server_state.n = 10
    assert twice() == 20
    on_change(twice, changed)
    check(11)

seen, called = [], threading.Event()
on_change(twice, changed)
check(2)
in_child(child)
check(3)
""",
        package=True,
    )
