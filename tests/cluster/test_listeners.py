"""Listeners are called for changes of other servers."""

from __future__ import annotations

import threading

import pytest
from cluster.waiting import until
from unit.helpers import ThreadSet, run_script

from fastserverstate.callers import MOST_THREADS, Callers


def test_slow_listener_does_not_delay_other_keys(members):
    one, other = members
    go, entered, heard = threading.Event(), threading.Event(), threading.Event()

    def wait():
        entered.set()
        go.wait(20)

    other.on_change("slow", wait)
    other.on_change("fast", heard.set)
    one.state["slow"] = 1
    assert entered.wait(20)
    one.state["fast"] = 1
    was_heard = heard.wait(10)
    go.set()
    assert was_heard


@pytest.fixture
def callers():
    made = []

    def make(call):
        made.append(Callers(call))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.usefixtures("many_switches")
def test_calls_of_key_are_sequential(callers):
    values, seen, busy, clashes = dict.fromkeys("abc", 0), {key: [] for key in "abc"}, set(), []

    def call(key):
        if key in busy:
            clashes.append(key)
        busy.add(key)
        seen[key].append(values[key])
        busy.discard(key)

    calls = callers(call)
    with ThreadSet() as threads:

        def change(key):
            for n in range(1, 500):
                values[key] = n
                calls.add([key])

        for key in values:
            threads.add(change, key)
    until(lambda: all(of_key[-1:] == [499] for of_key in seen.values()))
    assert not clashes
    assert all(of_key == sorted(of_key) for of_key in seen.values())


def test_thread_count_is_bounded(callers):
    go, called, lock = threading.Event(), [], threading.Lock()

    def call(key):
        go.wait(20)
        with lock:
            called.append(key)

    calls = callers(call)
    keys = [str(n) for n in range(5 * MOST_THREADS)]
    for _ in range(3):
        calls.add(keys)
    assert not calls._spare
    go.set()
    until(lambda: set(called) == set(keys))
    assert len(called) <= len(keys) + MOST_THREADS  # a call may have started before its last change


def test_failing_call_does_not_affect_others(callers, caplog):
    called = []

    def call(key):
        called.append(key)
        raise SystemExit

    calls = callers(call)
    calls.add(["a"])
    until(lambda: called == ["a"])
    calls.add(["b", "a"])
    until(lambda: sorted(called) == ["a", "a", "b"])
    until(lambda: caplog.text.count("has failed") == 3)


def test_idle_threads_end(callers, monkeypatch):
    monkeypatch.setattr("fastserverstate.callers.LINGER", 0.05)
    called = []
    calls = callers(called.append)
    for n in range(3):
        calls.add("abc")
        until(lambda n=n: len(called) == 3 * (n + 1))
        until(lambda: len(calls._spare) == MOST_THREADS)


EXIT = """
    import threading
    import fastserverstate
    from fastserverstate import on_change

    fastserverstate.connect({url!r}, namespace="tests")
    entered = threading.Event()
    on_change("k", lambda: entered.set() or threading.Event().wait())
    import sys
    sys.path.append({tests!r})
    from cluster.subject import Peer
    with Peer({url!r}, secret=None) as other:
        other.node.set("k", 1)
    assert entered.wait(20)
    print("ends")
"""


def test_process_exits_while_listener_runs(empty_engine, request):
    tests = str(request.config.rootpath / "tests")
    assert run_script(EXIT.format(url=empty_engine.url, tests=tests), package=True) == "ends\n"
