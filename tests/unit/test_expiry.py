"""Keys that expire: deadlines, ttl, idle_ttl, and why a key was removed."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import tracemalloc
import weakref
from datetime import timedelta

import pytest
from harness.interpreter import run_python
from unit.helpers import DEADLINE, FORK, ThreadSet, elsewhere, enter, leave, run_script

from fastserverstate import _core
from fastserverstate.bounds import Bounds
from fastserverstate.configuration import Configuration, KeyOptions, Settings
from fastserverstate.expiry import Expirer, Expiry


@pytest.fixture
def expirer(store):
    expirer = Expirer(store)
    yield expirer
    expirer.close()


@pytest.fixture
def expire(store, expirer):
    """`expire`, without the thread that removes keys."""
    expirer.start = lambda: None
    return Expiry(store, expirer).expire


@pytest.fixture
def configure(store):
    options = KeyOptions(store)
    return Configuration(
        store,
        Settings(),
        options,
        set_detect_inplace=lambda _: None,
        set_gc_policy=lambda _: None,
        set_bounds=Bounds(store).set,
    ).configure


def advance(store, seconds):
    _core.advance_clock(seconds)
    return store.expire_due()


# Deadlines


@pytest.mark.parametrize("after", [3600, 3600.0, "1h", timedelta(hours=1)])
def test_key_is_deleted_at_its_deadline(store, state, expire, after):
    state["fx"] = 1
    expire("fx", after=after)
    assert store.deadline("fx") == pytest.approx(3600, abs=5)
    assert advance(store, 3590) == pytest.approx(10, abs=5)
    assert state["fx"] == 1
    assert advance(store, 10) is None
    assert "fx" not in state
    assert store.deadline("fx") is None


def test_deadline_of_a_missing_key(expire):
    with pytest.raises(KeyError, match=r"no key 'fx', so it cannot expire.*configure\('fx', ttl=...\)"):
        expire("fx", after=1)


@pytest.mark.parametrize(
    ("after", "error", "message"),
    [
        (-1, ValueError, "after is a duration from 0 up"),
        (b"1h", TypeError, "after is a number of seconds, a timedelta, or text"),
        ("an hour", ValueError, "after cannot be 'an hour'"),
    ],
)
def test_wrong_times(state, expire, after, error, message):
    state["fx"] = 1
    with pytest.raises(error, match=message):
        expire("fx", after=after)


@pytest.mark.parametrize("end", [None, float("inf")])
def test_deadline_is_cancelled(store, state, expire, end):
    state["fx"] = 1
    expire("fx", after=10)
    expire("fx", after=end)
    assert advance(store, 100) is None
    assert state["fx"] == 1


def test_expiry_now(store, state, expire):
    state["fx"] = 1
    expire("fx", after=0)
    store.expire_due()
    assert "fx" not in state


@pytest.mark.parametrize("value", [1, 2])
def test_assignment_ends_a_deadline(store, state, expire, value):
    state["fx"] = 1
    expire("fx", after=10)
    state["fx"] = value
    advance(store, 100)
    assert state["fx"] == value


def test_deletion_ends_a_deadline(store, state, expire):
    state["fx"] = 1
    expire("fx", after=10)
    del state["fx"]
    state["fx"] = 2
    assert advance(store, 100) is None
    assert state["fx"] == 2


@pytest.mark.parametrize("change", ["increment", "increment by 0", "increment a float", "function", "touch"])
def test_atomic_changes_keep_a_deadline(state, atomic, expire, change, *, store):
    state["count"] = 1
    expire("count", after=10)
    if change == "function":
        atomic("count", lambda count: count + 1)
    elif change == "touch":
        store.touch("count")
    else:
        atomic.increment("count", {"increment": 1, "increment by 0": 0, "increment a float": 0.5}[change])
    advance(store, 9)
    assert "count" in state
    advance(store, 2)
    assert "count" not in state


def test_setdefault_keeps_a_deadline(store, state, expire):
    state["fx"] = 1
    expire("fx", after=10)
    assert state.setdefault("fx", 2) == 1
    advance(store, 11)
    assert "fx" not in state


def test_removal_marks_subscribers(store, state, expire):
    session, other = _core.Session(store), _core.Session(store)
    for each in (session, other):
        each.start_run()
        enter(each)
        state.get("fx")
        leave()
        each.finish_run()
    state["fx"] = 1
    store.collect_stale()
    enter(session)
    session.start_run()
    state.get("fx")
    session.finish_run()
    leave()
    expire("fx", after=10)
    advance(store, 11)
    assert [scope.session for scope in store.collect_stale()] == [session]


# Locks and transactions


def test_locked_key_expires_when_the_lock_is_released(store, state, locks, expire):
    state["fx"] = 1
    expire("fx", after=10)
    with locks["fx"]:
        assert advance(store, 11) is None
        assert state["fx"] == 1
    assert store.expire_due() is None
    assert "fx" not in state


def test_release_wakes_the_thread_that_waits(store, state, locks, expirer):
    state["fx"] = 1
    gone = threading.Event()
    store.set_listeners("fx", lambda value: gone.set() if value is _core.expired else None)
    with locks["fx"]:
        store.set_deadline("fx", 0)
        expirer.start()
        while (left := store.expire_due()) is not None:  # until the key is parked
            assert left == 0
        assert not gone.is_set()
    assert gone.wait(DEADLINE)


def test_lock_that_is_released_by_the_end_of_a_run(store, state, locks, expire):
    state["fx"] = 1
    expire("fx", after=10)
    locks["fx"].acquire()
    advance(store, 11)
    store.end_holder()
    store.expire_due()
    assert "fx" not in state


def test_transaction_sees_all_keys_or_none(store, state, transaction, expire):
    state.update(a=1, b=1)
    for key in ("a", "b"):
        expire(key, after=10)
    with transaction("a", "b"):
        advance(store, 11)
        assert (state["a"], state["b"]) == (1, 1)
    store.expire_due()
    assert not state


def test_deadline_is_staged(store, state, transaction, expire):
    with transaction():
        state["fx"] = 1
        expire("fx", after=10)
        assert store.deadline("fx") is None
        advance(store, 100)
        assert state["fx"] == 1
    assert store.deadline("fx") == pytest.approx(10, abs=5)
    advance(store, 11)
    assert "fx" not in state


def test_deadline_is_discarded_with_the_transaction(store, state, transaction, expire):
    state["fx"] = 1
    expire("fx", after=10)

    def fail():
        with transaction():
            expire("fx", after=None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.deadline("fx") is not None


def test_deadline_is_discarded_with_an_inner_block(store, state, transaction, expire):
    state.update(a=1, b=1)

    def fail():
        with transaction():
            expire("a", after=None)
            expire("b", after=5)
            raise ZeroDivisionError

    with transaction():
        expire("a", after=10)
        with pytest.raises(ZeroDivisionError):
            fail()
        with transaction():
            expire("b", after=20)
    assert store.deadline("a") == pytest.approx(10, abs=5)
    assert store.deadline("b") == pytest.approx(20, abs=5)


def test_last_word_of_a_transaction_counts(store, state, transaction, atomic, expire):
    state.update(assigned=1, deleted=1, kept=1, changed=1, both=1)
    for key in ("kept", "changed", "both"):
        expire(key, after=10)
    with transaction():
        for key in ("assigned", "deleted"):
            expire(key, after=10)
        state["assigned"] = 2
        del state["deleted"]
        with pytest.raises(KeyError):
            expire("deleted", after=10)
        atomic.increment("kept")
        state["changed"] = 2
        atomic.increment("both")
        state["both"] = 5
    assert store.deadline("kept") is not None
    assert [store.deadline(key) for key in ("assigned", "deleted", "changed", "both")] == [None] * 4


def test_thread_waits_for_the_lock(store, state, locks, expire):
    state["fx"] = 1
    locks["fx"].acquire()
    with ThreadSet() as threads:
        thread = threads.add(lambda: expire("fx", after=10))
        threads.go()
        while thread.ident not in dict(_core.waits()):
            time.sleep(0.001)
        assert store.deadline("fx") is None
        locks["fx"].release()
    assert store.deadline("fx") is not None


# ttl


def test_every_write_begins_the_ttl_again(store, state, atomic, configure, *, transaction):
    configure("rate/*", ttl="10s")

    def transact():
        with transaction():
            state["rate/1"] = 2

    writes = [
        lambda: state.update({"rate/1": 1}),
        lambda: state.update({"rate/1": 1}),
        lambda: atomic.increment("rate/1"),
        lambda: store.touch("rate/1"),
        transact,
    ]
    for write in writes:
        write()
        advance(store, 8)
        assert "rate/1" in state
    advance(store, 3)
    assert "rate/1" not in state


def test_ttl_applies_to_existing_keys_from_now_on(store, state, configure):
    state.update({"rate/1": 1, "other": 1})
    configure("rate/*", ttl=10)
    advance(store, 8)
    configure("rate/*", ttl=10)  # as in every run
    advance(store, 3)
    assert list(state) == ["other"]


def test_ttl_is_changed_and_ended(store, state, configure):
    configure("rate/*", ttl=10)
    state.update({"rate/1": 1, "rate/2": 1})
    configure("rate/1", ttl=20)
    configure("rate/2", ttl=float("inf"))
    advance(store, 15)
    assert list(state) == ["rate/1", "rate/2"]
    assert advance(store, 6) is None
    assert list(state) == ["rate/2"]


def test_ttl_of_a_key_that_returns(store, state, configure):
    configure("rate/1", ttl=10)
    session = _core.Session(store)
    session.start_run()
    enter(session)
    state.get("rate/1")  # keeps the cell
    leave()
    for _ in range(2):
        state["rate/1"] = 1
        advance(store, 11)
        assert "rate/1" not in state


def test_expire_overrides_a_ttl_until_the_next_write(store, state, configure, expire):
    configure("rate/*", ttl=10)
    state["rate/1"] = 1
    expire("rate/1", after=20)
    advance(store, 15)
    assert state["rate/1"] == 1
    state["rate/1"] = 2
    advance(store, 11)
    assert "rate/1" not in state


@pytest.mark.parametrize("option", ["ttl", "idle_ttl"])
def test_wrong_durations(configure, option):
    with pytest.raises(ValueError, match=f"{option} is longer than 0"):
        configure("k", **{option: 0})
    with pytest.raises(ValueError, match=f"{option} is an option of a key"):
        configure(**{option: 1})
    with pytest.raises(TypeError, match=f"{option} is a number of seconds"):
        configure("k", **{option: []})


def test_persist_is_a_bool(configure):
    configure("session/*", persist=False)
    with pytest.raises(TypeError, match="persist is True or False, not 'no' of type str"):
        configure("session/*", persist="no")


# idle_ttl


def read(state, session, key):
    session.start_run()
    enter(session)
    state.get(key)
    leave()
    session.finish_run()


def advance_in_steps(store, state, key, seconds):
    """Advance a second at a time. Return after how many the key was gone, or None."""
    for passed in range(1, seconds + 1):
        advance(store, 1)
        if key not in state:
            return passed
    return None


def test_unused_key_expires(store, state, configure):
    configure("room/*", idle_ttl=100)
    state["room/1"] = 1
    assert 99 <= advance_in_steps(store, state, "room/1", 200) <= 126


@pytest.mark.parametrize("user", ["session", "watcher", "listener", "lock", "wait", "computed"])
def test_key_in_use_does_not_expire(store, state, configure, locks, user):
    configure("room/*", idle_ttl=100)
    state["room/1"] = 1
    session = _core.Session(store)
    threads = ThreadSet()
    if user == "session":
        read(state, session, "room/1")
    elif user == "watcher":
        session.start_run()
        enter(session)
        assert "room/1" in state
        leave()
    elif user == "listener":
        store.set_listeners("room/1", print)
    elif user == "lock":
        locks["room/1"].acquire()
    elif user == "wait":
        thread = threads.add(store.wait_for_change, "room/1", store.version("room/1"), -1)
        threads.go()
        while thread.ident not in dict(_core.waits()):
            time.sleep(0.001)
    else:
        node = _core.Node(store, "result")
        node.execute(lambda: state["room/1"])
        node.completed([])
    assert advance_in_steps(store, state, "room/1", 500) is None
    if user in {"session", "watcher"}:
        session.close()
    elif user == "listener":
        store.set_listeners("room/1", None)
    elif user == "lock":
        locks["room/1"].release()
    elif user == "wait":
        store.touch("room/1")
        threads.__exit__()
    else:
        node.close()
    assert 99 <= advance_in_steps(store, state, "room/1", 200) <= 126


def test_a_short_visit_counts(store, state, configure):
    configure("room/*", idle_ttl=100)
    state["room/1"] = 1
    assert advance_in_steps(store, state, "room/1", 90) is None
    visitor = _core.Session(store)
    read(state, visitor, "room/1")
    visitor.close()
    store.statistics()  # sweeps the subscriptions of ended sessions
    assert 99 <= advance_in_steps(store, state, "room/1", 200) <= 126


def test_reads_outside_of_runs_do_not_count(store, state, configure, peek):
    configure("room/*", idle_ttl=100)
    state["room/1"] = 1
    advance(store, 60)
    assert peek("room/1") == state["room/1"] == 1
    advance(store, 41)
    assert "room/1" not in state


def test_deadline_outlives_an_idle_ttl(store, state, configure, expire):
    configure("draft", idle_ttl=20)
    state["draft"] = 1
    expire("draft", after=10)
    configure("draft", idle_ttl=float("inf"))
    assert store.deadline("draft") == pytest.approx(10, abs=5)
    advance(store, 9)
    assert "draft" in state
    assert advance(store, 2) is None
    assert "draft" not in state


def test_ttl_and_idle_ttl(store, state, configure):
    configure("room/*", idle_ttl=20, ttl=100)
    state.update({"room/1": 1, "room/2": 1})
    session = _core.Session(store)
    read(state, session, "room/1")
    assert 19 <= advance_in_steps(store, state, "room/2", 30) <= 26
    assert 70 <= advance_in_steps(store, state, "room/1", 100) <= 82


# Reasons


def test_callback_gets_the_reason(store, state, on_change, expire):
    calls = []

    def note(key, value, reason):
        calls.append((key, value, reason))

    on_change("fx", note)
    state["fx"] = 1
    del state["fx"]
    state["fx"] = 2
    expire("fx", after=10)
    advance(store, 11)
    state["fx"] = 3
    assert store.remove_because("fx", store.version("fx"), _core.evicted)
    store.touch("fx")
    state["fx"] = 4
    store.touch("fx")
    reasons = ["set", "deleted", "set", "expired", "set", "evicted", "deleted", "set", "set"]
    assert [reason for *_, reason in calls] == reasons
    assert [value for _, value, _ in calls] == [1, None, 2, None, 3, None, None, 4, 4]
    assert store.removals() == (1, 1)


def test_callback_of_an_eviction_by_a_backend(store, state, on_change):
    calls = []
    on_change("fx", lambda _key, _value, reason: calls.append(reason))
    state["fx"] = 1
    for removal in (_core.expired, _core.evicted, _core.absent):
        store.flush(store.apply([("fx", 1, False)])[1])
        store.flush(store.apply([("fx", removal, False)])[1])
    assert [reason for reason in calls if reason != "set"] == ["expired", "evicted", "deleted"]
    assert store.removals() == (1, 1)


def test_removal_only_of_this_version(store, state, locks):
    assert not store.remove_because("fx", 0, _core.evicted)
    state["fx"] = 1
    version = store.version("fx")
    state["fx"] = 2
    assert not store.remove_because("fx", version, _core.evicted)
    with locks["fx"]:
        assert not elsewhere(store.remove_because, "fx", store.version("fx"), _core.evicted)
    assert state["fx"] == 2
    assert store.remove_because("fx", store.version("fx"), _core.evicted)
    with pytest.raises(ValueError, match="A reason is"):
        store.remove_because("fx", 1, "evicted")


# Memory, threads and forks


def test_expired_values_are_freed(store, state, expire):
    class Value:
        pass

    state["fx"] = value = Value()
    reference = weakref.ref(value)
    del value
    expire("fx", after=10)
    advance(store, 11)
    gc.collect()
    assert reference() is None
    assert store.statistics()["cells"] == 0


def test_finalizers_of_expired_values_use_the_store(store, state, configure):
    configure("*", ttl=10)

    class Value:
        def __del__(self):
            state[f"trace/{id(self)}"] = 1
            store.expire_due()

    for number in range(200):
        state[f"k{number}"] = Value()
    _core.advance_clock(11)
    while store.expire_due() == 0:
        pass
    assert len(state) == 200
    assert all(key.startswith("trace/") for key in state)


def test_many_keys_that_come_and_go_in_any_order(store, state, expire):
    """The heap keeps its order, and shrinks."""
    keys = [f"k{number}" for number in range(5000)]
    for round_ in range(3):
        for at, key in enumerate(keys):
            state[key] = at
            expire(key, after=10 + (at * 7919) % 5000)
        for key in keys[::3]:
            del state[key]
        for key in keys[1::3]:
            expire(key, after=20 if round_ % 2 else None)
        for _ in range(101):
            _core.advance_clock(50)
            while store.expire_due() == 0:
                pass
            assert not [key for key in state if store.deadline(key) == 0], "A key was passed over."
        assert len(state) == (0 if round_ % 2 else len(keys[1::3]))
        state.clear()
    assert store.statistics()["cells"] == 0


def test_a_million_deadlines_cost_at_most_64_bytes_each():
    measured = json.loads(
        run_script(
            """
import json, tracemalloc

def bytes_of_a_key(lifetime):
    store = _core.Store()
    state = _core.Namespace(store)
    store.set_options(lambda _: (_core.COMPARE_CONTENT, None, 0.0, lifetime))
    keys = [f"k{i}" for i in range(1_000_000)]
    tracemalloc.start()
    for key in keys:
        state[key] = None
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used / len(keys)

print(json.dumps([bytes_of_a_key((0.0, 0.0, True)), bytes_of_a_key((600.0, 60.0, True))]))
"""
        )
    )
    print(measured)  # pytest -rP shows it
    assert measured[1] - measured[0] <= 64


def test_tables_end_with_deadlines(store):
    del store
    for _ in range(20):
        doomed = _core.Store()
        namespace = _core.Namespace(doomed)
        for number in range(100):
            namespace[f"k{number}"] = number
            doomed.set_deadline(f"k{number}", number)
        lock = doomed.lock("k1")
        del doomed, namespace
        with lock:
            pass
        del lock


def test_callback_that_blocks_does_not_delay_other_keys(store, state, on_change, expirer):
    blocked, release, expired = threading.Event(), threading.Event(), threading.Event()
    calls = []

    def call(keys):
        calls.extend(threading.Thread(target=store.flush, args=([key],), daemon=True) for key in keys)
        for thread in calls[-len(keys) :]:
            thread.start()

    store.offload_callbacks(call)
    on_change("slow", lambda _key, _value, reason: reason == "expired" and (blocked.set(), release.wait(DEADLINE)))
    on_change("fast", lambda _key, _value, reason: reason == "expired" and expired.set())
    state.update(slow=1, fast=1)
    store.set_deadline("slow", 0)
    expirer.start()
    assert blocked.wait(DEADLINE)
    store.set_deadline("fast", 0.01)
    assert expired.wait(DEADLINE)
    release.set()
    for thread in calls:
        thread.join()


def test_an_earlier_deadline_wakes_the_thread(store, state, expirer):
    """And the thread sleeps in between."""
    gone = threading.Event()
    store.set_listeners("early", lambda value: value is _core.expired and gone.set())
    state.update(late=1, early=1)
    store.set_deadline("late", 3600)
    expirer.start()
    used = time.thread_time()
    begin = time.monotonic()
    store.set_deadline("early", 0.2)
    assert gone.wait(DEADLINE)
    assert 0.2 <= time.monotonic() - begin < DEADLINE
    assert time.thread_time() - used < 0.2
    assert list(state) == ["late"]


def test_thread_survives_an_error(store, state, expirer, monkeypatch, caplog):
    monkeypatch.setattr("fastserverstate.expiry.RETRY", 0.01)
    heard, gone = threading.Event(), threading.Event()
    errors = [MemoryError()]

    def fail():
        if errors:
            raise errors.pop()

    session = _core.Session(store)
    state.update(a=1, b=1)
    read(state, session, "a")
    store.on_stale(fail)
    store.set_listeners("a", lambda _: heard.set())
    store.set_listeners("b", lambda _: gone.set())
    store.set_deadline("a", 0)
    expirer.start()
    assert heard.wait(DEADLINE)
    store.set_deadline("b", 0)
    assert gone.wait(DEADLINE)
    assert "The next attempt is in 0.01 seconds." in caplog.text
    store.on_stale(None)


def test_many_threads(store, state, locks, transaction, configure, *, expirer):
    """Keys expire while threads write, lock and delete them. None is lost, and none stays."""
    configure("*", ttl=0.002)
    expirer.start()
    end = time.monotonic() + 1

    def work(me):
        number = 0
        while time.monotonic() < end:
            number += 1
            key = f"k{(number + me) % 50}"
            if number % 5 == 0:
                with locks[key]:
                    state[key] = number
                    assert state[key] == number
            elif number % 7 == 0:
                with transaction(key):
                    state[key] = number
                    store.expire(key, 0.001)
                    assert state[key] == number
            elif number % 11 == 0:
                state.pop(key, None)
            else:
                state[key] = number

    with ThreadSet() as threads:
        for me in range(4):
            threads.add(work, me)
    patience = time.monotonic() + DEADLINE
    while state and time.monotonic() < patience:
        time.sleep(0.005)
    assert not state


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_process_has_deadlines_of_its_own():
    run_script(
        FORK
        + """
from fastserverstate import configure, expire, on_change, server_state

def child():
    assert not server_state
    gone = threading.Event()
    on_change("rate/2", lambda key, value, reason: reason == "expired" and gone.set())
    server_state["rate/2"] = 1
    assert gone.wait(20)

configure("rate/*", ttl=0.05)
server_state["rate/1"] = 1
server_state["late"] = 1
expire("late", after=3600)
in_child(child)
""",
        package=True,
    )


def test_no_thread_without_deadlines():
    run_script(
        """
from fastserverstate import configure, server_state

def is_running():
    return any("expiry" in thread.name for thread in threading.enumerate())

configure("rate/*", min_rerun_interval=1)
server_state["rate/1"] = 1
assert not is_running()
configure("rate/*", ttl=10)
assert is_running()
""",
        package=True,
    )


def test_computed_values_set_no_deadlines():
    run_script(
        """
from fastserverstate import computed, expire, server_state

@computed
def total():
    expire("k", after=1)

server_state["k"] = 1
try:
    total()
except Exception as error:
    assert "total" in str(error), error
else:
    raise AssertionError("not refused")
""",
        package=True,
    )


def test_thread_ends_before_the_process():
    run_python(
        "",
        """
import atexit, threading

def is_running():
    return any("expiry" in thread.name for thread in threading.enumerate())

def check():
    assert not is_running()

atexit.register(check)  # runs after what the package registers

from fastserverstate import expire, server_state

server_state["k"] = 1
expire("k", after=3600)
assert is_running()
""",
    )


def test_memory_stays_flat(store, state, configure):
    """Keys come and go with all kinds of deadlines."""
    configure("room/*", ttl=50, idle_ttl=20)
    configure("idle/*", idle_ttl=20)

    def round_(number):
        for at in range(1000):
            state[f"room/{at}"] = state[f"idle/{at}"] = state[f"k{at}"] = number
            store.set_deadline(f"k{at}", at % 40)
        for at in range(0, 1000, 7):
            del state[f"idle/{at}"]
        for _ in range(12):
            _core.advance_clock(5)
            while store.expire_due() == 0:
                pass
        assert not store.keys()

    for number in range(3):
        round_(number)
    gc.collect()
    tracemalloc.start()
    round_(3)
    before = tracemalloc.get_traced_memory()[0]
    for number in range(10):
        round_(number)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 50_000
