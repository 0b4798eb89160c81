"""Changes of other servers that meet a lock of this one. It was lost on the engine, or taken before `connect`."""

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
    """Wait until the other server's log has come as far, without `sync`, which brings in more."""
    until(lambda: other.node.replica.cursor >= one.node.replica.version("end"))


def hold_back(other, *keys):
    other.table.held_by_others.update(keys)


def test_change_comes_in_though_the_lock_is_freed_while_it_is_put_aside(pair):
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
            thread.join(0.5)  # it comes too early, or waits for this thread
            freeing.append(thread)
        return result

    other.table.locked = lambda _: set()  # the lock was taken a moment ago
    other.table.apply = apply_and_free
    one.node.set("k", 1)
    until(lambda: freeing)
    freeing[0].join()
    until(lambda: other.values == {"k": 1})


def test_change_comes_in_though_nothing_tells_that_the_lock_is_free(pair):
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


def test_sync_brings_in_what_is_free_and_does_not_wait_for_locks(pair):
    one, other = pair
    hold_back(other, "k")
    one.node.set("k", 1)
    other.node.sync()
    assert other.values == {}
    other.table.held_by_others.clear()
    other.node.sync()
    assert other.values == {"k": 1}


def test_transaction_of_which_a_key_is_locked_comes_in_at_once(pair):
    one, other = pair
    hold_back(other, "a")
    one.node.commit({"a": 1, "b": 1})
    one.node.commit({"b": 2, "c": 2})
    one.node.set("end", 1)
    reach(one, other)
    assert other.values == {"end": 1}
    assert other.node.status().held == 3
    other.table.told.clear()
    other.table.held_by_others.clear()
    until(lambda: other.values == {"a": 1, "b": 2, "c": 2, "end": 1})
    assert [sorted(keys) for keys in other.table.told if keys] == [["a", "b", "c"]]


def test_transactions_that_have_no_key_in_common_do_not_wait_for_each_other(pair):
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


def test_next_holder_and_sync_find_the_newest_value_of_a_key_alone(pair):
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


def test_quiet_change_does_not_hide_one_that_was_held_back(pair):
    """Dependents have not been told of the first one."""
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


def test_readers_see_a_transaction_at_once_though_a_lock_was_lost(own_engine, members):
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
def test_no_change_is_missed_while_a_lock_goes_along_readers(members):
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
