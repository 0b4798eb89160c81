"""Locks and transactions end with their holder: a thread, a run, a task or a process."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from types import SimpleNamespace

import pytest
from harness.interpreter import switch_interval
from unit.helpers import DEADLINE, FORK, NO_POST_SCRIPT_GC, ThreadSet, elsewhere, enter, is_free, leave, run_script

from fastserverstate import _core
from fastserverstate.configuration import Settings
from fastserverstate.rerun import observer
from fastserverstate.rerun.rerun_queue import RerunQueue
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.session import LiveSession
from fastserverstate.rerun.switch_interval import CPYTHON_INTERVAL, SHORT_INTERVAL, SwitchInterval
from fastserverstate.suppression import NoRerun

no_rerun = NoRerun()


# -------------------------------------------------------------------------------------------------------------- threads


@pytest.fixture(autouse=True)
def leftovers():
    """Return the warnings about threads that have ended."""
    reported = []
    _core.on_leftovers(lambda keys, written: reported.append((sorted(keys), written)))
    yield reported
    _core.on_leftovers(None)


def test_locks_of_a_thread_that_ends_are_free(locks, leftovers):
    def take():
        locks["a"].acquire()
        locks["b", "c"].acquire()
        locks["b"].acquire()

    elsewhere(take)
    for key in "abc":
        assert locks[key].acquire(timeout=DEADLINE)  # it follows the join
        locks[key].release()
    assert leftovers == [(["a", "b", "c"], [])]


def test_thread_with_the_ident_of_one_that_has_ended_holds_nothing(locks):
    """The system reuses thread idents."""
    idents, owners = set(), []

    def take():
        idents.add(threading.get_ident())
        locks["k"].acquire()

    def look():
        if threading.get_ident() in idents:
            owners.append(locks["k"]._is_owned())

    for _ in range(50):
        elsewhere(take)
        elsewhere(look)
    assert owners
    assert not any(owners)


def test_waiter_gets_the_lock_of_a_thread_that_ends(locks):
    taken = threading.Event()
    got = []

    def take():
        locks["k"].acquire()
        taken.set()

    def wait():
        assert taken.wait(DEADLINE)
        got.append(locks["k"].acquire(timeout=DEADLINE))

    with ThreadSet() as threads:
        threads.add(wait)
        threads.add(take)
    assert got == [True]


def test_transaction_of_a_thread_that_ends_is_discarded(state, locks, transaction, leftovers):
    state["k"] = 1

    def write():
        transaction("k", "other").__enter__()
        state["k"] = 2

    elsewhere(write)
    assert locks["k", "other"].acquire(timeout=DEADLINE)
    locks["k", "other"].release()
    assert dict(state) == {"k": 1}
    assert leftovers == [(["k", "other"], ["k"])]


def test_calls_that_a_thread_has_put_off_are_made_when_it_ends(state, locks, on_change):
    called = threading.Event()
    on_change("k", called.set)

    def write():
        locks["other"].acquire()
        state["k"] = 1
        assert not called.is_set()

    elsewhere(write)
    assert called.wait(DEADLINE)


def test_callback_that_a_thread_calls_at_its_end_leaves_nothing(state, locks, on_change):
    called = threading.Event()

    def leave_a_lock():
        locks["left"].acquire()
        called.set()

    on_change("k", leave_a_lock)

    def write():
        locks["other"].acquire()
        state["k"] = 1

    elsewhere(write)
    assert called.wait(DEADLINE)
    assert locks["left"].acquire(timeout=DEADLINE)
    locks["left"].release()


def test_a_holder_has_a_number_of_its_own(store):
    mine = _core.holder_serial()
    assert mine == _core.holder_serial()
    numbers = [elsewhere(_core.holder_serial) for _ in range(20)]
    store.end_holder()
    assert len({mine, *numbers, _core.holder_serial()}) == 22


# ------------------------------------------------------------------------------------------------- the end of a part


def test_end_of_a_part_releases_all(state, locks, transaction, store, on_change):
    calls = []
    on_change("k", lambda: calls.append(state.get("k")))
    locks["a"].acquire()
    locks["a"].acquire()
    state["k"] = 1
    transaction("b").__enter__()
    state["c"] = 2
    no_rerun.__enter__()
    keys, written = store.end_holder()
    assert sorted(keys) == ["a", "b", "c"]
    assert written == ["c"]
    assert all(is_free(locks[key]) for key in "abc")
    assert dict(state) == {"k": 1}
    assert calls == [1]
    assert not _core.reruns_are_suppressed()
    assert store.end_holder() == ([], [])


def test_thread_goes_on_after_its_part_with_a_new_one(state, locks, store):
    locks["a"].acquire()
    store.end_holder()
    with pytest.raises(RuntimeError, match="un-acquired"):
        locks["a"].release()
    with locks["a"]:
        state["a"] = 1
    assert is_free(locks["a"])


# ----------------------------------------------------------------------------- getting by is not holding (a short wait)


def test_readers_that_waited_never_hold_the_lock(state, store, locks):
    """Writes of another server are applied while they read."""
    state["k"] = 0
    readers, seen, left = 20, [], []
    waiting = threading.Barrier(readers + 1)

    def read():
        waiting.wait(DEADLINE)
        seen.append(state["k"])

    for number in range(1, 20):
        with ThreadSet() as threads:
            locks["k"].acquire()
            for _ in range(readers):
                threads.add(read)
            threads.go()
            waiting.wait(DEADLINE)
            locks["k"].release()
            while len(seen) < readers * number:
                left += store.apply([("k", number, False)])[0]
                assert not locks["k"].locked()
    assert left == []
    assert state["k"] == 19


def test_writer_that_waited_compares_while_others_read(state, locks):
    """No thread waits for the comparison of the assigned value."""
    compares, read = threading.Event(), threading.Event()

    class Slow:
        def __reduce__(self):
            compares.set()
            assert read.wait(DEADLINE)
            return str, ("slow",)

    state["k"] = 0

    def write():
        state["k"] = Slow()

    with ThreadSet() as threads:
        locks["k"].acquire()
        threads.add(write)
        threads.go()
        locks["k"].release()
        assert compares.wait(DEADLINE)
        assert elsewhere(lambda: state["k"]) == 0
        read.set()
    assert type(state["k"]) is Slow


def test_one_reader_after_the_other_gets_by_a_greedy_thread(state, locks):
    """It acquires the lock again immediately after releasing it, and would always be first."""
    state["k"] = 0
    reads, done = [], threading.Event()
    ready = threading.Barrier(9)

    def take():
        ready.wait(DEADLINE)
        while not done.is_set():
            with locks["k"]:
                state["k"] += 1

    def read():
        ready.wait(DEADLINE)
        for _ in range(20):
            reads.append(state["k"])

    with ThreadSet() as threads:
        threads.add(take)
        readers = [threads.add(read) for _ in range(8)]
        threads.go()
        for reader in readers:
            reader.join(DEADLINE)
        done.set()
    assert len(reads) == 160


# ---------------------------------------------------------------------------------------------- out of order, elsewhere


def in_transaction(transaction, key):
    with transaction(key):
        yield


def test_generators_that_end_transactions_out_of_order(state, locks, transaction):
    first, second = in_transaction(transaction, "a"), in_transaction(transaction, "b")
    next(first)
    next(second)
    state["a"] = state["b"] = 1
    with pytest.raises(RuntimeError, match="discarded"):
        next(first)
    with pytest.raises(RuntimeError, match="discarded"):
        next(second)
    assert dict(state) == {}
    assert is_free(locks["a"])
    assert is_free(locks["b"])
    state["a"] = 2  # in no transaction
    assert elsewhere(state.get, "a") == 2


def test_exceptions_pass_a_transaction_that_was_discarded(locks, transaction):
    first, second = in_transaction(transaction, "a"), in_transaction(transaction, "b")
    next(first)
    next(second)
    with pytest.raises(KeyError, match="mine"):
        first.throw(KeyError("mine"))
    second.close()
    assert is_free(locks["a"])
    assert is_free(locks["b"])


def test_tasks_do_not_share_a_transaction(state, locks, transaction):
    """A task that awaits in its transaction prevents other tasks of the thread from beginning one."""
    refused = []

    async def hold(begun, end):
        with transaction("a"):
            state["a"] = 1
            begun.set()
            await end.wait()

    async def interfere(begun, end):
        await begun.wait()
        with pytest.raises(RuntimeError, match="Another task"), transaction("b"):
            pass
        refused.append(True)
        end.set()

    async def run():
        begun, end = asyncio.Event(), asyncio.Event()
        await asyncio.gather(hold(begun, end), interfere(begun, end))

    asyncio.run(run())
    assert refused == [True]
    assert dict(state) == {"a": 1}
    assert is_free(locks["a"])
    assert is_free(locks["b"])


def test_loop_that_runs_inside_of_a_transaction_joins_it(state, transaction):
    async def write():
        with transaction("b"):
            state["b"] = 1

    with transaction("a"):
        asyncio.run(write())
        assert elsewhere(lambda: len(list(state.keys()))) == 0
    assert dict(state) == {"b": 1}


def test_lock_released_inside_of_several_releases_the_others(locks):
    with pytest.raises(RuntimeError, match="un-acquired"), locks["a", "b"]:
        locks["a"].release()
    assert is_free(locks["a"])
    assert is_free(locks["b"])


def test_transaction_that_another_thread_ends(state, locks, transaction):
    block = transaction("a")
    block.__enter__()
    state["a"] = 1

    def end():
        with pytest.raises(RuntimeError, match="on the thread"):
            block.__exit__(None, None, None)

    elsewhere(end)
    assert is_free(locks["a"])
    assert "a" not in state
    state["b"] = 2
    assert elsewhere(state.get, "b") == 2


def test_transaction_that_is_ended_while_a_block_waits_to_join_it(locks, transaction):
    outer = transaction("a")
    held, waits, ended = threading.Event(), threading.Event(), threading.Event()

    def hold():
        with locks["b"]:
            held.set()
            assert ended.wait(DEADLINE)

    def join():
        outer.__enter__()
        assert held.wait(DEADLINE)
        waits.set()
        with pytest.raises(RuntimeError, match="ended on another thread"), transaction("b"):
            pass

    def end():
        assert waits.wait(DEADLINE)
        with pytest.raises(RuntimeError, match="on the thread"):
            outer.__exit__(None, None, None)
        ended.set()

    with ThreadSet() as threads:
        for step in (hold, join, end):
            threads.add(step)
    assert is_free(locks["a"])
    assert is_free(locks["b"])


def test_transaction_that_is_ended_while_it_compares_publishes_nothing(state, locks, transaction):
    block = transaction("a")

    class Slow:
        def __reduce__(self):
            with pytest.raises(RuntimeError, match="on the thread"):
                elsewhere(block.__exit__, None, None, None)
            return str, ("slow",)

    state["a"] = 0
    block.__enter__()
    state["a"] = Slow()
    with pytest.raises(RuntimeError, match="ended on another thread"):
        block.__exit__(None, None, None)
    assert dict(state) == {"a": 0}
    assert is_free(locks["a"])


# ------------------------------------------------------------------------------------------------------------ no_rerun


def read_in_session(store, state, key):
    session = _core.Session(store)
    session.start_run()
    enter(session)
    state.get(key)
    session.finish_run()
    leave()
    return session


def test_no_rerun_that_ends_on_another_thread_is_an_error_there(store, state):
    reader = read_in_session(store, state, "k")

    def end_and_write():
        with pytest.raises(RuntimeError, match="no_rerun"):
            no_rerun.__exit__(None, None, None)
        state["k"] = 1

    no_rerun.__enter__()
    elsewhere(end_and_write)
    assert [scope.session for scope in store.collect_stale()] == [reader]
    no_rerun.__exit__(None, None, None)


def test_no_rerun_does_not_outlive_the_part_that_has_begun_it(store, state):
    reader = read_in_session(store, state, "k")
    no_rerun.__enter__()
    state["k"] = 1
    assert store.collect_stale() == []
    store.end_holder()
    state["k"] = 2
    assert [scope.session for scope in store.collect_stale()] == [reader]


def test_no_rerun_is_of_its_thread_wherever_its_context_is_copied_to(store, state):
    reader = read_in_session(store, state, "k")
    with no_rerun:
        context = contextvars.copy_context()
    elsewhere(context.run, state.__setitem__, "k", 1)
    assert [scope.session for scope in store.collect_stale()] == [reader]


def test_no_rerun_ends_for_tasks_that_were_made_inside(store, state):
    reader = read_in_session(store, state, "k")

    async def write(ended):
        await ended.wait()
        state["k"] = 1

    async def run():
        ended = asyncio.Event()
        with no_rerun:
            task = asyncio.create_task(write(ended))
        ended.set()
        await task

    asyncio.run(run())
    assert [scope.session for scope in store.collect_stale()] == [reader]


# ----------------------------------------------------------------------------------------------------------- callbacks


class Stop(BaseException):
    pass


def test_callback_that_stops_loses_no_call(state, locks, on_change):
    """Not calls that other threads have left to it, nor those of other keys."""
    calls = []
    calling, written = threading.Event(), threading.Event()

    def stop():
        calls.append("a")
        if len(calls) == 1:
            calling.set()
            assert written.wait(DEADLINE)
            raise Stop

    on_change("a", stop)
    on_change("b", lambda: calls.append("b"))

    def write():
        with locks["other"]:
            state.update(a=1, b=1)

    def write_and_be_stopped():
        with pytest.raises(Stop):
            write()

    with ThreadSet() as threads:
        threads.add(write_and_be_stopped)
        threads.go()
        assert calling.wait(DEADLINE)
        state["a"] = 2
        state["a"] = 3
        written.set()
    assert calls == ["a", "a", "a", "b"]


def test_callbacks_of_a_transaction_are_all_made(state, transaction, on_change):
    calls = []

    def stop(key):
        calls.append(key)
        raise Stop

    for key in "abc":
        on_change(key, stop, args=(key,))
    with pytest.raises(Stop), transaction():
        state.update(a=1, b=1, c=1)
    assert calls == ["a", "b", "c"]
    assert dict(state) == {"a": 1, "b": 1, "c": 1}


def test_callbacks_that_take_locks_are_called_one_after_the_other(state, transaction, on_change, atomic):
    """Each callback leaves a lock while others are still pending."""
    order, depth, deepest = [], [], []

    def count(key):
        depth.append(key)
        deepest.append(len(depth))
        atomic("calls", lambda calls: calls + 1, default=0)
        order.append(key)
        depth.pop()

    keys = [f"k{number}" for number in range(300)]
    for key in keys:
        on_change(key, count, args=(key,))
    with transaction():
        state.update(dict.fromkeys(keys, 1))
    assert order == keys
    assert set(deepest) == {1}
    assert state["calls"] == 300


def test_what_a_callback_reads_is_no_dependency_of_the_writer(store, state, on_change, session):
    state["total"] = 0
    on_change("k", lambda: state["total"])
    state["k"] = 1
    session.finish_run()
    leave()
    state["total"] = 1
    assert store.collect_stale() == []


def test_what_the_writer_reads_after_a_callback_is(store, state, on_change, session):
    state["total"] = 0
    on_change("k", lambda: state["total"])
    state["k"] = 1
    state["total"]
    session.finish_run()
    leave()
    state["total"] = 1
    assert [scope.session for scope in store.collect_stale()] == [session]


# ------------------------------------------------------------------------------ threads of one session, and its writes


@pytest.mark.parametrize("same_task", [True, False])
def test_write_of_another_task_is_none_of_the_reader(state, session, same_task):
    """A task may show later what it has read, whatever another task does meanwhile."""
    state["k"] = 0
    enter(session)

    async def read():
        assert state["k"] == 0
        if same_task:
            state["k"] = 1

    async def write():
        await asyncio.create_task(read())
        if not same_task:
            state["k"] = 1

    asyncio.run(write())
    leave()
    assert session.take_overwritten() == ({} if same_task else {None: "k"})


def test_blocks_do_not_make_another_task_of_a_thread(state, session):
    def run():
        enter(session)
        assert state["k"] == 0
        with no_rerun:
            pass
        state["k"] = 1

    state["k"] = 0
    with ThreadSet() as threads:
        threads.add(run)
    assert session.take_overwritten() == {}


def test_write_of_another_thread_of_the_session_is_none_of_the_reader(state, session):
    """The reader continues with the value that it has read, and shows it."""
    state["k"] = 0
    state["k"]

    def write():
        enter(session)
        state["k"] = 1
        leave()

    elsewhere(write)
    session.message_sent()
    session.finish_run()
    leave()
    assert session.take_overwritten() == {None: "k"}


def test_write_of_another_fragment_is_none_of_the_reader(state, session):
    state["k"] = 0

    def read():
        enter(session, "f")
        state["k"]
        leave()

    elsewhere(read)
    enter(session, "g")
    state["k"] = 1
    session.finish_run({"f", "g"})
    leave()
    assert session.take_overwritten() == {"f": "k"}


# -------------------------------------------------------------------------------------------------- what was executed


def execute(state, session, *, complete):
    session.start_run()
    enter(session)
    state["k"]
    session.message_sent()
    leave()
    session.finish_run((None,) if complete else ())


def test_execution_that_is_broken_off_leaves_the_one_before_it_subscribed(store, state):
    session = _core.Session(store)
    state.update(k=0, tail=0)
    session.start_run()
    enter(session)
    state["tail"]
    leave()
    session.finish_run()
    for _ in range(70):  # more than the capacity
        execute(state, session, complete=False)
    state["tail"] = 1
    store.collect_stale()
    assert session.stale_fragment_ids() == [None]
    execute(state, session, complete=True)
    assert session.stale_fragment_ids() == []
    state["tail"] = 2
    assert store.collect_stale() == []
    assert store.statistics()["scopes"] == 1


def test_own_change_in_an_execution_that_is_broken_off_is_shown(store, state):
    """An earlier run still shows the older value."""
    session = _core.Session(store)
    state["k"] = 0
    execute(state, session, complete=True)
    session.start_run()
    enter(session)
    state["k"] += 1
    leave()
    session.finish_run(())
    assert session.stale_fragment_ids() == [None]
    execute(state, session, complete=True)
    assert session.stale_fragment_ids() == []


# --------------------------------------------------------------------------------------------------------------- forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
@pytest.mark.parametrize("held", [True, False])
def test_lock_that_was_kept_is_that_of_its_key_in_the_child(held):
    run_script(
        FORK
        + f"""
kept = store.lock("k")
unset = store.lock("never set")
state["k"] = 0
if {held}:
    kept.acquire()

def child():
    store.reset_after_fork()
    assert store.lock("k") is kept and store.lock("never set") is unset
    assert not kept.locked() and not kept._is_owned()
    for lock in (kept, unset):
        with lock:
            taken = []
            thread = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
            thread.start()
            thread.join()
            assert taken == [False]
    state["k"] = 1

in_child(child)
assert kept.locked() == {held}
"""
    )


@needs_fork
def test_callbacks_are_called_in_a_child_that_was_forked_inside_of_a_lock():
    run_script(
        FORK
        + """
calls = []
with store.lock("k"), store.lock("k"):
    def child():
        store.reset_after_fork()
        store.set_listeners("x", lambda _: calls.append(1))
        state["x"] = 1
        assert calls == [1]
    in_child(child)
"""
    )


@needs_fork
def test_child_does_not_end_what_its_parents_threads_hold():
    run_script(
        """
called = []
store.set_listeners("k", lambda _: called.append(os.getpid()))
held, done = threading.Event(), threading.Event()

def hold():
    with store.lock("other"):
        state["k"] = 1  # the call is put off
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if not pid:
    os._exit(bool(called))
assert os.waitpid(pid, 0)[1] == 0
assert called == []
done.set()
thread.join()
assert called == [os.getpid()]
"""
    )


@needs_fork
def test_child_may_leave_the_blocks_that_its_parent_was_in():
    run_script(
        """
with store.lock("a"), _core.KeyLocks(store, ["a", "b"]):
    pid = os.fork()
    if not pid:
        store.reset_after_fork()
if not pid:
    assert not store.lock("a").locked()
    try:
        store.lock("a").release()
    except RuntimeError:
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    )


# --------------------------------------------------------------------------------------------- loops, and plain locks


def test_loop_that_closes_during_a_fan_out_leaves_nothing_behind(clock):
    """Its timers never fire."""
    interval = SwitchInterval()
    queue = RerunQueue(asyncio.new_event_loop(), Settings(), set(), interval.rerun_requested)
    queue._admitted = 1
    with switch_interval(CPYTHON_INTERVAL):
        interval.rerun_requested(queue.is_fanning_out)
        assert sys.getswitchinterval() == pytest.approx(SHORT_INTERVAL)
        timer = interval._timer
        queue.loop.close()
        clock.advance_until(lambda: not timer.is_alive(), observer.IDLE_AFTER)
        assert sys.getswitchinterval() == pytest.approx(CPYTHON_INTERVAL)


@pytest.mark.parametrize("point", ["adopt", "_wake"])
def test_finalizer_that_writes_where_the_scheduler_is_locked(store, state, point):
    """A garbage collection may run one at any allocation."""
    scheduler = Scheduler(store, Settings(), NO_POST_SCRIPT_GC)
    loop = asyncio.new_event_loop()
    read_in_session(store, state, "k")
    writes = []

    class Queues(dict):
        def _write(self, view):
            writes.append(True)
            state["k"] = len(writes)
            return view

        def items(self):
            return self._write(super().items())

        def values(self):
            return self._write(super().values()) if len(writes) < 3 else super().values()

    scheduler._queues = Queues()
    if point == "adopt":
        scheduler.adopt(LiveSession(store, SimpleNamespace(loop=loop)))
    else:
        state["k"] = "of a stranger"
    assert writes
    loop.close()


PLAIN_LOCKS = [f"threading.{name}(" for name in ("Lock", "Event", "Semaphore", "BoundedSemaphore", "Barrier")]
PLAIN_LOCKS += ["threading.Condition()", "queue.Queue("]


def test_no_plain_lock_where_foreign_code_can_run():
    """A finalizer may call any of our code on the same thread."""
    package = os.path.dirname(_core.__file__)
    found = []
    for folder, _, names in os.walk(package):
        for name in names:
            if name.endswith((".py", ".pyx", ".pxi")):
                with open(os.path.join(folder, name), encoding="utf-8") as source:
                    found += [
                        f"{name}:{number}"
                        for number, line in enumerate(source, 1)
                        if any(word in line for word in PLAIN_LOCKS)
                    ]
    assert found == []
