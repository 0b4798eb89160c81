"""Subscriptions to the keys under a prefix."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from unit.helpers import FORK, enter, leave, run_script

from fastserverstate import _core, no_rerun
from fastserverstate._core import HIDDEN


def watch(store: _core.Store, session: _core.Session, *prefixes: str) -> None:
    """Have a run of the session depend on the keys under the prefixes, and on nothing else."""
    session.start_run()
    enter(session)
    for prefix in prefixes:
        store.watch_members(prefix)
    leave()
    session.finish_run([None])


@pytest.fixture
def watcher(store: _core.Store) -> _core.Session:
    return _core.Session(store)


def is_stale(store: _core.Store) -> bool:
    return bool(store.collect_stale())


def test_a_new_and_a_deleted_key_make_the_scope_stale(store, state, watcher):
    watch(store, watcher, "room/7/")
    state["room/7/votes"] = 1
    assert [scope.session for scope in store.collect_stale()] == [watcher]
    watch(store, watcher, "room/7/")
    state["room/7/votes"] = 2
    store.touch("room/7/votes")
    assert not is_stale(store)
    del state["room/7/votes"]
    assert is_stale(store)


@pytest.mark.parametrize("key", ["votes", "room", "room/7", "room/77/votes", "room/8/votes", "a/room/7/votes", "/", ""])
def test_keys_elsewhere_do_not(store, state, watcher, key):
    watch(store, watcher, "room/7/")
    state[key] = 1
    del state[key]
    assert not is_stale(store)


def test_the_key_that_is_the_prefix_itself_is_under_it(store, state, watcher):
    watch(store, watcher, "room/7/")
    state["room/7/"] = 1
    assert is_stale(store)


def test_nested_prefixes(store, state):
    outer, inner, top = (_core.Session(store) for _ in range(3))
    watch(store, outer, "room/7/")
    watch(store, inner, "room/7/sub/")
    watch(store, top, "room/")
    state["room/7/sub/x"] = 1
    assert {scope.session for scope in store.collect_stale()} == {outer, inner, top}
    for session, prefix in ((outer, "room/7/"), (inner, "room/7/sub/"), (top, "room/")):
        watch(store, session, prefix)
    state["room/7/x"] = 1
    assert {scope.session for scope in store.collect_stale()} == {outer, top}


# With one, two and four bytes per character, and prefixes that take fewer than the key
@pytest.mark.parametrize("space", ["room", "zimm\xe9r", "部屋", "\U0001f3e0", "\ud800", "a//b", "\0"])
@pytest.mark.parametrize("name", ["a", "\xe9", "名", "\U0001f600", "\ud801", ""])
def test_text_of_every_kind(store, state, watcher, space, name):
    watch(store, watcher, f"{space}/")
    state[f"{space}{name}x"] = 1
    assert not is_stale(store)
    state[f"{space}/{name}"] = 1
    assert is_stale(store)
    assert store.keys(prefix=f"{space}/") == [f"{space}/{name}"]


@pytest.mark.parametrize(("prefix", "key"), [("\xe9/", "i/x"), ("Ā/", "\0/x"), ("\U00010041/", "A/x"), ("A/", "ŁA/x")])
def test_characters_that_share_a_byte_differ(store, state, watcher, prefix, key):
    watch(store, watcher, prefix)
    state[key] = 1
    assert not is_stale(store)
    assert store.keys(prefix=prefix) == []


def test_keys_with_a_prefix_are_in_the_order_of_insertion(store, state):
    names = ["room/b", "x", "room/a", "room/sub/c", "rooms/d", f"{HIDDEN}room/e"]
    for name in names:
        state[name] = 1
    del state["room/b"]
    state["room/b"] = 1
    assert store.keys(prefix="room/") == ["room/a", "room/sub/c", "room/b"]
    assert store.keys(prefix="room/sub/") == ["room/sub/c"]
    assert store.keys(prefix=HIDDEN) == [f"{HIDDEN}room/e"]
    assert store.keys(prefix="other/") == []


def test_the_keys_under_prefixes_while_keys_come_and_go(store, state):
    choose = random.Random(7)
    parts = ["a", "b", "\xe9", "名", "\U0001f600", ""]
    for _ in range(3000):
        key = "/".join(choose.choices(parts, k=choose.randrange(1, 5)))
        if key in state and choose.random() < 0.6:
            del state[key]
        elif choose.random() < 0.6:
            state[key] = 1
        else:
            key in state  # noqa: B015
        prefix = "/".join(choose.choices(parts, k=choose.randrange(1, 4))) + "/"
        assert store.keys(prefix=prefix) == [key for key in state if key.startswith(prefix)]
    for key in list(state):
        del state[key]
    assert store.statistics()["cells"] == 0


def test_hidden_keys_concern_their_prefixes_only(store, state, watcher):
    everything = _core.Session(store)
    everything.start_run()
    enter(everything)
    len(state)
    leave()
    everything.finish_run([None])
    watch(store, watcher, f"{HIDDEN}online/")
    state[f"{HIDDEN}online/1"] = 1
    assert [scope.session for scope in store.collect_stale()] == [watcher]


def test_a_quiet_appearance_is_told_by_the_next_change(store, state, watcher):
    watch(store, watcher, "room/")
    with no_rerun:
        state["room/a"] = 1
    assert not is_stale(store)
    state["room/a"] = 2
    assert is_stale(store)
    watch(store, watcher, "room/")
    state["room/a"] = 3
    assert not is_stale(store)


def test_a_quiet_appearance_that_no_scope_watches_is_forgotten(store, state, watcher):
    watch(store, watcher, "hall/")
    with no_rerun:
        state["room/a"] = 1
    watch(store, watcher, "room/")
    state["room/a"] = 2
    assert not is_stale(store)


def test_a_transaction_marks_once(store, state, transaction, watcher):
    wakes: list[int] = []
    store.on_stale(lambda: wakes.append(1))
    watch(store, watcher, "room/")
    state["room/a"] = 1
    watch(store, watcher, "room/")
    store.collect_stale()
    wakes.clear()
    watch(store, watcher, "room/")
    with transaction():
        state["room/b"] = 1
        del state["room/a"]
        assert not wakes
    assert wakes == [1]
    assert is_stale(store)


def test_changes_of_a_backend_and_of_a_file(store, watcher):
    watch(store, watcher, "room/")
    store.apply([("room/a", 1, False)])
    assert is_stale(store)
    watch(store, watcher, "room/")
    store.apply([("room/a", _core.absent, True)])
    assert not is_stale(store)


def test_an_expired_key(store, state, watcher):
    state["room/a"] = 1
    store.set_deadline("room/a", 1)
    watch(store, watcher, "room/")
    _core.advance_clock(2)
    store.expire_due()
    assert store.keys() == []
    assert is_stale(store)


def test_a_run_that_adds_keys_shows_them(store, state, session):
    store.watch_members("room/")
    state["room/a"] = 1
    assert session.take_overwritten() == {}
    session.message_sent()
    state["room/b"] = 1
    assert session.take_overwritten() == {None: "(the set of keys)"}


def test_a_later_run_that_does_not_read_the_prefix_is_not_subscribed(store, state, watcher):
    watch(store, watcher, "room/")
    watch(store, watcher)
    state["room/a"] = 1
    assert not is_stale(store)


def test_computed_values_follow_quiet_changes(store, state):
    class Counted(_core.Node):
        def refuse_write(self) -> None:
            raise AssertionError

    def evaluated(read: Any) -> _core.Node:
        node = Counted(store, f"{HIDDEN}computed/{read}")
        node.execute(read)
        node.completed([])
        assert node.is_fresh()
        return node

    under = evaluated(lambda: store.watch_members("room/"))
    everything = evaluated(lambda: len(state))
    elsewhere = evaluated(lambda: store.watch_members("hall/"))
    with no_rerun:
        state["room/a"] = 1
    assert (under.is_fresh(), everything.is_fresh(), elsewhere.is_fresh()) == (False, False, True)


def test_results_of_computed_values_concern_no_prefix(store, state, watcher):
    node = _core.Node(store, f"{HIDDEN}computed/1")
    watch(store, watcher, HIDDEN, f"{HIDDEN}computed/")
    state[node.key] = 1
    assert not is_stale(store)
    assert store.keys(prefix=HIDDEN) == []


@pytest.mark.parametrize("prefix", ["room", "", "room/7"])
def test_a_prefix_ends_in_a_slash(store, prefix):
    for use in (store.watch_members, lambda prefix: store.keys(prefix=prefix)):
        with pytest.raises(ValueError, match=r"A prefix of keys ends in '/'"):
            use(prefix)


def test_a_prefix_is_a_str(store):
    with pytest.raises(TypeError, match="not bytes"):
        store.watch_members(b"room/")
    with pytest.raises(TypeError, match="not int"):
        store.keys(prefix=7)


def test_thousands_of_prefixes(store, state):
    sessions = [_core.Session(store) for _ in range(3000)]
    for number, session in enumerate(sessions):
        watch(store, session, f"room/{number}/", "room/")
    state["room/1234/x"] = 1
    assert len(store.collect_stale()) == 3000
    for number, session in enumerate(sessions):
        watch(store, session, f"room/{number}/")
    for number in (0, 1234, 2999):
        state[f"room/{number}/y"] = 1
    assert {scope.session for scope in store.collect_stale()} == {sessions[number] for number in (0, 1234, 2999)}


def test_swept_subscriptions_leave_the_others(store, state, watcher):
    watch(store, watcher, "room/7/")
    for number in range(50):
        session = _core.Session(store)
        watch(store, session, "room/7/", f"room/{number}/")
        session.close()
    store.statistics()  # sweeps
    state["room/7/x"] = 1
    assert [scope.session for scope in store.collect_stale()] == [watcher]


def test_memory_of_a_million_prefixes_of_sessions_that_are_gone():
    run_script(
        """
import resource

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def watch(first, count):
    for number in range(first, first + count, 10_000):
        session = _core.Session(store)
        session.start_run()
        enter(session)
        for each in range(number, number + 10_000):
            store.watch_members(f"room/{each}/")
        leave()
        session.finish_run([None])
        session.close()

watch(0, 100_000)
before = peak()
watch(100_000, 900_000)
assert peak() - before < 4096, (peak(), before)
"""
    )


def test_memory_of_a_million_keys_that_are_gone():
    run_script(
        """
import resource

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def come_and_go(first, count):
    for number in range(first, first + count):
        state[f"room/{number}/poll/votes"] = 1
        del state[f"room/{number}/poll/votes"]

come_and_go(0, 100_000)
before = peak()
come_and_go(100_000, 900_000)
assert peak() - before < 4096, (peak(), before)
assert store.keys(prefix="room/") == []
"""
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_starts_without_prefixes():
    run_script(
        FORK
        + """
session = _core.Session(store)
session.start_run()
enter(session)
store.watch_members("room/")
leave()
session.finish_run([None])

def child():
    store.reset_after_fork()
    state["room/a"] = 1
    assert not store.collect_stale()
    other = _core.Session(store)
    other.start_run()
    enter(other)
    store.watch_members("room/")
    leave()
    other.finish_run([None])
    state["room/b"] = 1
    assert [scope.session for scope in store.collect_stale()] == [other]

in_child(child)
state["room/a"] = 1
assert [scope.session for scope in store.collect_stale()] == [session]
"""
    )
