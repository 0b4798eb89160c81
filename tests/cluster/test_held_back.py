"""Changes of other servers are held back by a lock that was lost on the engine, or taken before `connect`."""

from __future__ import annotations

import threading

import pytest
from cluster.member import Member
from cluster.waiting import until
from unit.helpers import ThreadSet


@pytest.fixture
def pair(empty_engine, peer):
    return peer(empty_engine.url), peer(empty_engine.url)


def reach(one, other):
    """Wait until the other node has applied the log up to here. `sync` would apply more."""
    until(lambda: other.node.replica.cursor >= one.node.replica.version("end"))


def hold_back(other, *keys):
    other.table.held_by_others.update(keys)


def test_lock_released_while_change_is_held_back(pair):
    one, other = pair
    replica, apply = other.node.replica, other.table.apply
    hold_back(other, "k")
    freeing = []

    def apply_and_free(*arguments):
        result = apply(*arguments)
        if other.table.held_by_others:
            other.table.held_by_others.clear()
            thread = threading.Thread(target=replica.apply_held, args=[["k"]])
            thread.start()
            thread.join(0.5)  # it is too early, or waits for this thread
            freeing.append(thread)
        return result

    other.table.locked = lambda _: set()  # the lock was taken a moment ago
    other.table.apply = apply_and_free
    one.node.set("k", 1)
    until(lambda: freeing)
    freeing[0].join()
    until(lambda: other.values == {"k": 1})


def test_held_change_is_applied_without_unlock_notice(pair):
    one, other = pair
    hold_back(other, "k")
    one.node.set("k", 1)
    one.node.set("end", 1)
    reach(one, other)
    assert other.values == {"end": 1}
    assert other.node.status().held == 1
    other.table.held_by_others.clear()
    until(lambda: other.values == {"k": 1, "end": 1})
    assert other.node.status().held == 0


def test_sync_applies_unlocked_keys_only(pair):
    one, other = pair
    hold_back(other, "k")
    one.node.set("k", 1)
    other.node.sync()
    assert other.values == {}
    other.table.held_by_others.clear()
    other.node.sync()
    assert other.values == {"k": 1}


def test_held_transactions_are_applied_atomically(pair):
    one, other = pair
    hold_back(other, "a")
    one.node.commit({"a": 1, "b": 1})
    one.node.commit({"b": 2, "c": 2})
    one.node.set("end", 1)
    reach(one, other)
    assert other.values == {"end": 1}
    assert other.node.status().held == 3
    other.table.applied.clear()
    other.table.held_by_others.clear()
    until(lambda: other.values == {"a": 1, "b": 2, "c": 2, "end": 1})
    assert [sorted(keys) for keys in other.table.applied if keys] == [["a", "b", "c"]]


def test_disjoint_transactions_are_independent(pair):
    one, other = pair
    hold_back(other, "a", "c")
    one.node.commit({"a": 1, "b": 1})
    one.node.commit({"c": 1, "d": 1})
    one.node.commit({"e": 1, "f": 1})
    one.node.set("end", 1)
    reach(one, other)
    assert other.values == {"e": 1, "f": 1, "end": 1}
    other.table.held_by_others.discard("c")
    until(lambda: other.values == {"c": 1, "d": 1, "e": 1, "f": 1, "end": 1})


def test_next_holder_and_sync_apply_single_keys(pair):
    one, other = pair
    hold_back(other, "a")
    one.node.commit({"a": 1, "b": 1, "c": 1})
    one.node.set("end", 1)
    reach(one, other)
    other.node.replica.apply_held(["b"], alone=True)
    assert other.values == {"b": 1, "end": 1}
    other.node.sync()
    assert other.values == {"b": 1, "c": 1, "end": 1}
    other.table.held_by_others.clear()
    other.node.sync()
    assert other.values == {"a": 1, "b": 1, "c": 1, "end": 1}


def test_quiet_change_keeps_held_notification(pair):
    """Dependents were not notified of the first change."""
    one, other = pair
    quiet = {}
    apply = other.table.apply
    other.table.apply = lambda changes, origin: (
        quiet.update((key, is_quiet) for key, _, is_quiet in changes) or apply(changes, origin)
    )
    hold_back(other, "k", "l")
    one.node.set("k", 1)
    one.table.quiet = True
    one.node.set("k", 2)
    one.node.set("l", 2)
    one.node.set("end", 1)
    reach(one, other)
    other.table.held_by_others.clear()
    until(lambda: other.values == {"k": 2, "l": 2, "end": 1})
    assert quiet["k"] is False
    assert quiet["l"] is True


# With the core


@pytest.fixture
def members(own_engine):
    pair = Member(own_engine.url), Member(own_engine.url)
    yield pair
    for one in pair:
        one.close()


def test_held_transaction_is_atomic_for_readers(own_engine, members):
    one, other = members
    one.state.update(a=0, b=0)
    held, go, over, seen = (threading.Event(), threading.Event(), threading.Event(), set())

    def hold():
        with one.locks["a"]:
            held.set()
            go.wait(20)

    def read():
        while not over.is_set():
            newer_first = one.state["b"], one.state["a"]
            seen.add(newer_first)

    with ThreadSet() as threads:
        threads.add(hold)
        threads.go()
        held.wait(20)
        own_engine.restart()
        with other.transaction("a", "b"):
            other.state.update(a=1, b=1)
        until(lambda: one.adapter.node.status().held == 2)
        assert one.store.peek("b") == 0
        for _ in range(5):
            threads.add(read)
        go.set()
        until(lambda: (1, 1) in seen)
        over.set()
    assert (1, 0) not in seen
    assert one.adapter.node.status().held == 0


@pytest.mark.usefixtures("many_switches")
def test_no_change_is_missed_while_readers_wait(members):
    one, other = members
    one.state["k"] = -1
    for n in range(15):
        held, go = threading.Event(), threading.Event()

        def hold(held=held, go=go):
            with one.locks["k"]:
                held.set()
                go.wait(20)

        with ThreadSet() as threads:
            threads.add(hold)
            threads.go()
            held.wait(20)
            for _ in range(20):
                threads.add(one.state.get, "k")
            threads.add(other.state.update, {"k": n})
            go.set()
        one.sync()
        assert one.state["k"] == n
