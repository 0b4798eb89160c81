"""Locks that cannot hang an app: several in one call, cycles of waiters, stops, and fairness."""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from unit.helpers import ATTRIBUTE, DEADLINE, ThreadSet, elsewhere, enter, is_free, leave, run_script

from fastserverstate import DeadlockError, FastServerStateError, _core
from fastserverstate.listeners import Listeners
from fastserverstate.updates import Atomic, BeginTransaction
from fastserverstate.waiting import Waiting

pytestmark = pytest.mark.usefixtures("many_switches")

SOON = 0.02  # long enough for a thread that does not wait


@pytest.fixture
def world(store, state, locks):
    return SimpleNamespace(
        store=store,
        state=state,
        locks=locks,
        atomic=Atomic(store),
        transaction=BeginTransaction(store),
        wait_for=Waiting(store, Listeners(store)).wait_for,
    )


# -------------------------------------------------------------------------------------------- several locks in one call


def test_several_locks_are_held_and_released_together(locks):
    with locks["b", "a"] as taken:
        assert taken is True
        assert [is_free(locks[key]) for key in "abc"] == [False, False, True]
        assert locks["a", "b"].locked()
    assert [is_free(locks[key]) for key in "ab"] == [True, True]
    assert not locks["a", "b"].locked()


def test_several_locks_are_re_entrant(locks):
    both = locks["a", "b"]
    with both, both, locks["b"], locks["b", "c"]:
        assert both.acquire(blocking=False)
        both.release()
        assert not is_free(locks["a"])
    assert all(is_free(locks[key]) for key in "abc")


@pytest.mark.parametrize("keys", [("a",), ("a", "a"), ("b", "a", "b")])
def test_a_key_may_be_named_alone_and_twice(locks, keys):
    with locks[keys]:
        assert not is_free(locks["a"])
    assert is_free(locks["a"])
    assert not locks["a"]._is_owned()


def test_several_locks_are_the_locks_of_the_keys(locks):
    with locks["a", "b"]:
        locks["a"].release()
        assert is_free(locks["a"])
        locks["a"].acquire()
    assert is_free(locks["a"])


@pytest.mark.parametrize("keys", [("a", 1), (None, "a"), (("a", "b"), "c"), (b"a",)])
def test_several_keys_are_exact_str(locks, keys):
    with pytest.raises(TypeError, match="server_state keys are of type str"):
        locks[keys]
    assert is_free(locks["a"])


@pytest.mark.parametrize("held", [[], ["a"], ["b"]])
def test_release_of_several_that_are_not_all_held(locks, held):
    """Raises an error as an RLock does. Held locks are released, because no block will release them later."""
    with contextlib.ExitStack() as stack:
        for key in held:
            stack.enter_context(locks[key])
        with pytest.raises(RuntimeError, match="un-acquired"):
            locks["a", "b"].release()
        with pytest.raises(RuntimeError, match="un-acquired"):
            locks["a", "b"].__exit__(None, None, None)
        stack.pop_all()
        assert is_free(locks["a"])
        assert is_free(locks["b"])


@pytest.mark.parametrize(
    "arguments", [{"timeout": -2}, {"blocking": False, "timeout": 1}, {"timeout": threading.TIMEOUT_MAX * 1.01}]
)
def test_several_check_their_arguments_as_one_does(locks, arguments):
    with pytest.raises((ValueError, OverflowError)) as ours:
        locks["a", "b"].acquire(**arguments)
    with pytest.raises(ours.type):
        threading.RLock().acquire(**arguments)
    assert is_free(locks["a"])


class Holder:
    """Another thread that holds a lock in the ``with`` block."""

    def __init__(self, lock):
        self._lock = lock
        self._threads = ThreadSet()
        self._holding, self.let_go = threading.Event(), threading.Event()

    def _hold(self):
        with self._lock:
            self._holding.set()
            self.let_go.wait(DEADLINE)

    def __enter__(self):
        self.thread = self._threads.add(self._hold)
        self._threads.go()
        assert self._holding.wait(DEADLINE)
        return self

    def __exit__(self, *exc):
        self.let_go.set()
        self._threads.__exit__(*exc)


@pytest.mark.parametrize("held", ["a", "b", "c"])
@pytest.mark.parametrize("arguments", [{"blocking": False}, {"timeout": 0}, {"timeout": 0.03}])
def test_several_locks_are_all_taken_or_none(locks, held, arguments):
    with Holder(locks[held]):
        started = time.monotonic()
        assert locks["a", "b", "c"].acquire(**arguments) is False
        assert time.monotonic() - started < 1
        assert [is_free(locks[key]) for key in "abc"] == [key != held for key in "abc"]
    assert locks["a", "b", "c"].acquire(**arguments) is True
    locks["c", "b", "a"].release()
    assert all(is_free(locks[key]) for key in "abc")


def test_timeout_is_for_all_locks_together(locks):
    """The first lock is released late, and the wait for the second one has only the remaining time."""
    with Holder(locks["a"]) as first, Holder(locks["b"]):
        started = time.monotonic()
        threading.Timer(0.2, first.let_go.set).start()
        assert locks["a", "b"].acquire(timeout=0.3) is False
        assert 0.3 <= time.monotonic() - started < 0.45
        assert is_free(locks["a"])


@pytest.mark.parametrize("key", ["a", "b"])
def test_others_wait_for_each_of_several_keys(state, locks, key):
    seen = []
    state.update(a=0, b=0)
    with ThreadSet() as threads:
        thread = threads.add(lambda: seen.append(state[key]))
        with locks["a", "b"]:
            threads.go()
            thread.join(SOON)
            assert seen == []
            state[key] = 1
    assert seen == [1]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("keys", ["a", ("a", "b")])
def test_locks_are_released_when_the_block_is_interrupted(locks, keys, error):
    with pytest.raises(error), locks[keys]:
        raise error
    assert is_free(locks["a"])
    assert is_free(locks["b"])


def test_locks_that_were_not_released_by_the_end_of_a_run(store, locks):
    """`Store.release_locks` is called at the end of every run of a script."""
    for key in ("a", "b", "a", "c"):
        locks[key].acquire()
    locks["c"].release()
    with Holder(locks["other"]):
        assert sorted(store.end_holder()[0]) == ["a", "b"]
        assert locks["other"].locked()
    assert all(is_free(locks[key]) for key in "abc")
    assert store.end_holder()[0] == []
    with pytest.raises(RuntimeError, match="un-acquired"):
        locks["a"].release()


def test_opposite_orders_do_not_hang(locks):
    """Thousands of times, by threads that pass the keys in all orders."""
    inside = [0]

    def work(keys):
        for _ in range(2_000):
            with locks[keys]:
                inside[0] += 1
                assert inside == [1]
                inside[0] -= 1

    with ThreadSet() as threads:
        for keys in (("a", "b"), ("b", "a"), ("b", "a", "c"), ("c", "b")):
            threads.add(work, keys)


# --------------------------------------------------------------------------------------------------- circles of waiters


def line_after():
    """Return the number of the line after the call."""
    return inspect.currentframe().f_back.f_lineno + 1


def hold_with(world, key, then):
    line = line_after()
    with world.locks[key]:
        then(line)


def hold_by_acquire(world, key, then):
    line = line_after()
    world.locks[key].acquire()
    try:
        then(line)
    finally:
        world.locks[key].release()


def hold_again(world, key, then):
    """The first acquisition counts."""
    line = line_after()
    with world.locks[key]:
        hold_with(world, key, lambda _: then(line))


def hold_after_a_wait(world, key, then):
    holder = Holder(world.locks[key])
    with holder:
        threading.Timer(SOON, holder.let_go.set).start()
        line = line_after()
        with world.locks[key]:
            then(line)


def hold_several(world, key, then):
    line = line_after()
    with world.locks[f"{key}-more", key]:
        then(line)


def hold_several_by_acquire(world, key, then):
    both = world.locks[key, f"{key}-more"]
    line = line_after()
    both.acquire(timeout=DEADLINE)
    try:
        then(line)
    finally:
        both.release()


def hold_by_atomic(world, key, then):
    line = line_after()
    world.atomic(key, lambda value: [then(line), value][1])


def hold_by_transaction(world, key, then):
    line = line_after()
    with world.transaction(key):
        then(line)


def hold_by_undeclared_write(world, key, then):
    with world.transaction():
        line = line_after()
        world.state[key] = 5
        then(line)


HOLDS = {
    "with": hold_with,
    "acquire": hold_by_acquire,
    "again": hold_again,
    "after a wait": hold_after_a_wait,
    "several": hold_several,
    "several, acquire": hold_several_by_acquire,
    "atomic": hold_by_atomic,
    "transaction": hold_by_transaction,
    "write in a transaction": hold_by_undeclared_write,
}


def run_transaction(world, key):
    with world.transaction(key):
        pass


WAITS = {
    "with": lambda world, key: world.locks[key].__enter__() and world.locks[key].release(),
    "acquire": lambda world, key: world.locks[key].acquire() and world.locks[key].release(),
    "several": lambda world, key: world.locks["0", key].acquire() and world.locks["0", key].release(),
    "item": lambda world, key: world.state[key],
    "attribute": lambda world, key: getattr(world.state, key),
    "get": lambda world, key: world.state.get(key),
    "in": lambda world, key: key in world.state,
    "peek": lambda world, key: world.store.peek(key),
    "set": lambda world, key: world.state.__setitem__(key, 3),
    "delete": lambda world, key: world.state.__delitem__(key),
    "pop": lambda world, key: world.state.pop(key, None),
    "setdefault": lambda world, key: world.state.setdefault(key, 3),
    "touch": lambda world, key: world.store.touch(key),
    "atomic": lambda world, key: world.atomic(key, lambda value: value, default=0),
    "increment": lambda world, key: world.atomic.increment(key),
    "transaction": run_transaction,
    "wait_for": lambda world, key: world.wait_for(key),
}


def run_circle(world, keys, hold=hold_with, wait=WAITS["with"]):
    """Run one thread per key, which holds its key and waits for the next. Return the errors and the holders' lines."""
    world.state.update(dict.fromkeys(keys, 1))
    everybody_holds = threading.Barrier(len(keys))
    errors, lines, went_on = [], {}, []

    def take(at):
        def take_the_next(line):
            lines[keys[at]] = line
            everybody_holds.wait(DEADLINE)
            wait(world, keys[(at + 1) % len(keys)])
            went_on.append(at)

        try:
            hold(world, keys[at], take_the_next)
        except DeadlockError as error:
            errors.append(error)

    with ThreadSet() as threads:
        for at, key in enumerate(keys):
            threads.add(take, at).name = f"thread of {key}"
    assert len(errors) + len(went_on) == len(keys)
    return errors, lines


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
def test_deadlock_is_raised_in_one_thread_and_names_holders_and_lines(world, hold):
    errors, lines = run_circle(world, ["a", "b"], hold)
    assert len(errors) == 1
    message = str(errors[0])
    for key in ("a", "b"):
        assert repr(key) in message
        assert f"'thread of {key}'" in message
        assert f"{__file__}:{lines[key]}" in message


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_deadlock_is_found_however_the_threads_wait(world, wait):
    errors, _ = run_circle(world, ["a", "b"], wait=wait)
    assert len(errors) == 1
    assert all(is_free(world.locks[key]) for key in "ab")


@pytest.mark.parametrize("size", [2, 3, 5, 20])
def test_every_thread_in_a_cycle_is_named(world, size):
    keys = [f"k{i}" for i in range(size)]
    errors, lines = run_circle(world, keys)
    assert len(errors) == 1
    for key in keys:
        assert repr(key) in str(errors[0])
        assert f"'thread of {key}'" in str(errors[0])
        assert f"{__file__}:{lines[key]}" in str(errors[0])


def test_types_of_deadlock_error():
    assert issubclass(DeadlockError, FastServerStateError)
    assert issubclass(DeadlockError, RuntimeError)


def test_everything_can_be_used_after_a_deadlock(world):
    for _ in range(100):
        errors, _ = run_circle(world, ["a", "b", "c"])
        assert len(errors) == 1
        assert [is_free(world.locks[key]) for key in "abc"] == [True] * 3
    with world.locks["a", "b", "c"]:
        world.state.update(a=1, b=2, c=3)
    assert elsewhere(lambda: dict(world.state)) == {"a": 1, "b": 2, "c": 3}


def test_thread_that_catches_the_error_keeps_its_locks(world):
    caught = []
    a_and_b_are_held = threading.Barrier(2)

    def give_up(first, second):
        with world.locks[first]:
            a_and_b_are_held.wait(DEADLINE)
            try:
                with world.locks[second]:
                    pass
            except DeadlockError:
                caught.append(first)
                assert world.locks[first]._is_owned()
                assert not world.locks[second]._is_owned()
                assert not is_free(world.locks[first])

    with ThreadSet() as threads:
        threads.add(give_up, "a", "b")
        threads.add(give_up, "b", "a")
    assert len(caught) == 1


def test_deadlock_between_sessions_names_them(world):
    class Named(_core.Session):
        def __init__(self, store, name):
            super().__init__(store)
            self.name = name

        def __repr__(self):
            return self.name

    def enter_session(world, key):
        session = Named(world.store, f"session of {key}")
        session.start_run()
        enter(session)

    def hold(world, key, then):
        enter_session(world, key)
        try:
            hold_with(world, key, then)
        finally:
            leave()

    errors, _ = run_circle(world, ["a", "b"], hold, WAITS["item"])
    assert len(errors) == 1
    assert "session of a" in str(errors[0])
    assert "session of b" in str(errors[0])


def test_waiters_outside_the_cycle_get_their_locks(world):
    """Threads that wait for locks of a cycle without being part of it get them."""
    got = []

    def stand_by():
        for key in "ab":
            with world.locks[key]:
                got.append(key)

    def hold_beside_bystanders(world, key, then):
        with world.locks[key]:
            for _ in range(3):
                bystanders.add(stand_by)
            bystanders.go()
            time.sleep(SOON)  # they may wait by then, which is not required
            then(0)

    with ThreadSet() as bystanders:
        errors, _ = run_circle(world, ["a", "b"], hold_beside_bystanders)
    assert len(errors) == 1
    assert sorted(got) == ["a"] * 6 + ["b"] * 6


# ------------------------------------------------------------------------------------------------------ no false alarms


def test_lock_that_is_given_before_the_sleep_is_no_deadlock(world):
    """A thread finds its session after it has queued, and may be the holder by then."""
    queued, given, taken = threading.Event(), threading.Event(), []

    def resolve(_context, _part):
        queued.set()
        assert given.wait(DEADLINE)

    def wait():
        enter(None)
        with world.locks["k"]:
            taken.append(1)

    _core.locate_scopes(ATTRIBUTE, None, "part", resolve)
    with ThreadSet() as threads:
        with world.locks["k"]:
            threads.add(wait)
            threads.go()
            assert queued.wait(DEADLINE)
            time.sleep(0.01)  # long enough for the lock to be handed over
        given.set()
    assert taken == [1]


def test_fifty_contenders_raise_no_deadlock_and_none_starves(world):
    """Each holds another lock meanwhile. A waiter is overtaken by hardly more threads than were there first."""
    contenders = 50
    turns = [0] * contenders
    passed_over = []
    together = threading.Barrier(contenders)

    def contend(at):
        together.wait(DEADLINE)
        with world.locks[f"own {at}"]:
            while min(turns) < 20:
                before = sum(turns)
                with world.locks["k"]:
                    passed_over.append(sum(turns) - before)
                    turns[at] += 1
                    time.sleep(0.0002)

    with ThreadSet() as threads:
        for at in range(contenders):
            threads.add(contend, at)
    assert max(passed_over) < 3 * contenders
    assert max(turns) < 3 * 20


@pytest.mark.parametrize("timeouts", [(0.05, 0.05), (0.05, -1), (-1, 0.05)])
def test_timed_waits_end_by_themselves(world, timeouts):
    """A cycle that contains a timed wait is no deadlock."""
    both_hold = threading.Barrier(2)
    outcomes = []

    def take(first, second, timeout):
        with world.locks[first]:
            both_hold.wait(DEADLINE)
            taken = world.locks[second].acquire(timeout=timeout)
            outcomes.append(taken)
            if taken:
                world.locks[second].release()
            elif -1 not in timeouts:
                both_hold.wait(DEADLINE)

    with ThreadSet() as threads:
        threads.add(take, "a", "b", timeouts[0])
        threads.add(take, "b", "a", timeouts[1])
    assert sorted(outcomes) == ([False, False] if -1 not in timeouts else [False, True])


def test_timed_transactions_end_by_themselves(world):
    both_hold = threading.Barrier(2)
    outcomes = []

    def take(first, second):
        with world.locks[first]:
            both_hold.wait(DEADLINE)
            with pytest.raises(TimeoutError, match=second), world.transaction(second, timeout=0.05):
                outcomes.append("entered")
            both_hold.wait(DEADLINE)

    with ThreadSet() as threads:
        threads.add(take, "a", "b")
        threads.add(take, "b", "a")
    assert outcomes == []


def test_locks_that_change_holders_raise_no_deadlock(world):
    """Eight threads that take pairs in order, one by one and in one call, and wait in chains all the time."""

    def work(seed):
        for i in range(600):
            first, second = sorted({(seed + i) % 5, (seed * i + 1) % 5} | {5, 6})[:2]
            keys = f"k{first}", f"k{second}"
            if i % 3:
                with world.locks[keys[0]], world.locks[keys[1]]:
                    world.state[keys[0]] = i
                    world.state.get(keys[1])
            else:
                with world.locks[keys]:
                    world.state[keys[1]] = i

    with ThreadSet() as threads:
        for seed in range(8):
            threads.add(work, seed)


def test_wait_of_a_condition_is_no_wait_for_a_lock(world):
    """It releases its lock, so a waiting thread is in no cycle."""
    condition = threading.Condition(world.locks["a"])
    done = []

    def consume():
        with world.locks["b"], condition:
            assert condition.wait_for(lambda: done, DEADLINE)

    with ThreadSet() as threads:
        consumer = threads.add(consume)
        threads.go()
        while not world.locks["b"].locked() or world.locks["a"].locked() or not condition._waiters:
            assert consumer.is_alive()
            time.sleep(0)
        with condition:
            assert world.locks["b"].acquire(timeout=SOON) is False
            done.append(1)
            condition.notify()
    assert is_free(world.locks["b"])


def test_random_orders_end_in_errors_and_never_hang(world):
    """Two locks in any order: all threads end, and some of them get a `DeadlockError`."""
    errors = []

    def work(seed):
        for i in range(300):
            first, second = f"k{(seed + i) % 3}", f"k{(seed * 7 + i * 5) % 3}"
            try:
                with world.locks[first]:
                    time.sleep(0)
                    with world.locks[second]:
                        world.state[second] = i
            except DeadlockError as error:
                errors.append(error)

    with ThreadSet() as threads:
        for seed in range(6):
            threads.add(work, seed)
    assert 0 < len(errors) < 1_800
    assert all(is_free(world.locks[f"k{i}"]) for i in range(3))


# ------------------------------------------------------------------------------------------------ runs that are stopped


class StopException(BaseException):
    """Ends a script's run. Like Streamlit's, it is no ``Exception``."""


class StoppableSession(_core.Session):
    def __init__(self, store):
        super().__init__(store)
        self.stopped = False

    def raise_if_stopped(self):
        if self.stopped:
            raise StopException


def run_of(session, wait, world, outcomes):
    session.start_run()
    enter(session)
    try:
        wait(world, "k")
    except StopException:
        outcomes.append("stopped")
    else:
        outcomes.append("went on")


def wait_for_another_value(world, key):
    world.wait_for(key, lambda value: value == "never")


def wait_with_timeout(world, key):
    if not world.locks[key].acquire(timeout=DEADLINE):
        raise TimeoutError
    world.locks[key].release()


STOPPABLE = {**WAITS, "timeout": wait_with_timeout}


@pytest.mark.parametrize("wait", STOPPABLE.values(), ids=STOPPABLE)
@pytest.mark.parametrize("when", ["before it waits", "while it waits"])
def test_waiter_whose_run_is_stopped_gives_up_immediately(world, wait, when):
    session, outcomes = StoppableSession(world.store), []
    world.state["k"] = 1
    with world.locks["k"], ThreadSet() as threads:
        if when == "before it waits":
            session.stopped = True
        thread = threads.add(run_of, session, wait, world, outcomes)
        threads.go()
        if when == "while it waits":
            thread.join(SOON)
            assert thread.is_alive()
            session.stop_waiting()  # for another reason
            thread.join(SOON)
            assert thread.is_alive()
            session.stopped = True
            session.stop_waiting()
        thread.join(1)
        assert outcomes == ["stopped"]
        assert world.locks["k"]._is_owned()
    assert is_free(world.locks["k"])
    assert is_free(world.locks["0"])
    assert world.state["k"] == 1


def test_wait_for_a_value_ends_with_the_run(world):
    session, outcomes = StoppableSession(world.store), []
    world.state["k"] = 1
    with ThreadSet() as threads:
        thread = threads.add(run_of, session, wait_for_another_value, world, outcomes)
        threads.go()
        thread.join(SOON)
        assert thread.is_alive()
        session.stopped = True
        session.stop_waiting()
        thread.join(1)
    assert outcomes == ["stopped"]


def test_waiters_of_other_sessions_go_on(world):
    stopped, other = StoppableSession(world.store), StoppableSession(world.store)
    outcomes, of_other = [], []
    world.state["k"] = 1
    with ThreadSet() as threads, world.locks["k"]:
        threads.add(run_of, stopped, WAITS["item"], world, outcomes)
        still_there = threads.add(run_of, other, WAITS["item"], world, of_other)
        without_session = threads.add(WAITS["item"], world, "k")
        threads.go()
        still_there.join(SOON)
        stopped.stopped = True
        stopped.stop_waiting()
        for thread in (still_there, without_session):
            thread.join(SOON)
            assert thread.is_alive()
        assert outcomes == ["stopped"]
    assert of_other == ["went on"]


def test_stopped_run_still_does_what_need_not_wait(world):
    """Its ``finally`` blocks and callbacks may need it."""
    session = StoppableSession(world.store)
    session.stopped = True
    session.start_run()
    enter(session)
    world.state["k"] = 1
    with world.locks["k"], world.transaction("j"):
        world.state["j"] = world.state["k"] + world.atomic.increment("n")
    assert dict(world.state) == {"k": 1, "n": 1, "j": 2}


def test_stop_passes_the_lock_on(world):
    """If the lock is released for a waiter while its run is stopped, the next waiter gets it."""
    world.state["k"] = 0

    def be_stopped():
        for _ in range(200):
            session = StoppableSession(world.store)
            session.start_run()
            enter(session)
            sessions.append(session)
            with contextlib.suppress(StopException), world.locks["k"]:
                pass
            leave()
        ended.append(1)

    def stop():
        while len(ended) < 2:
            for session in list(sessions)[-3:]:
                session.stopped = True
                session.stop_waiting()

    def insist():
        for _ in range(400):
            assert world.locks["k"].acquire(timeout=DEADLINE)
            world.state["k"] += 1
            time.sleep(0)
            world.locks["k"].release()

    sessions, ended = [], []
    with ThreadSet() as threads:
        threads.add(be_stopped)
        threads.add(be_stopped)
        threads.add(stop)
        threads.add(insist)
        threads.add(insist)
    assert world.state["k"] == 800
    assert is_free(world.locks["k"])


def test_stop_inside_of_locks_and_transaction_releases_all(world):
    """The run waits for the third key, holds the first two and has written one of them."""
    session, outcomes = StoppableSession(world.store), []
    world.state.update(a=1, b=1, k=1)

    def hold_and_wait(world, key):
        with world.locks["a"], world.transaction("b"):
            world.state["b"] = 2
            world.state[key] = 2

    with world.locks["k"], ThreadSet() as threads:
        thread = threads.add(run_of, session, hold_and_wait, world, outcomes)
        threads.go()
        deadline = time.monotonic() + DEADLINE
        while is_free(world.locks["b"]):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        thread.join(SOON)
        session.stopped = True
        session.stop_waiting()
        thread.join(1)
        assert outcomes == ["stopped"]
        assert is_free(world.locks["a"])
        assert is_free(world.locks["b"])
    assert dict(world.state) == {"a": 1, "b": 1, "k": 1}


# -------------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer signals")
def test_interrupt_while_the_second_lock_is_waited_for_releases_the_first():
    output = run_script(
        """
        from fastserverstate.lock import ServerStateLock
        locks = ServerStateLock(store)
        holding, let_go = threading.Event(), threading.Event()

        def hold():
            with locks["b"]:
                holding.set()
                let_go.wait()

        def handle(*_):
            raise KeyboardInterrupt

        holder = threading.Thread(target=hold)
        holder.start()
        holding.wait()
        signal.signal(signal.SIGALRM, handle)
        for use in (locks["a", "b"].acquire, locks["a", "b"].__enter__, store.transaction(("a", "b"), None).__enter__):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # again if it comes just before the sleep
            try:
                use()
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
                print(locks["a"].locked(), locks["b"].locked())
        let_go.set()
        holder.join()
        """,
        package=True,
    )
    assert output == "False True\n" * 3


def test_deadlock_while_the_interpreter_ends():
    """Daemon threads that wait for each other do not prevent its end, and nothing is printed."""
    output = run_script(
        """
        both = threading.Barrier(3)

        def take(first, second):
            with store.lock(first):
                both.wait()
                store.lock(second).acquire(timeout=60)

        for keys in ("ab", "ba"):
            threading.Thread(target=take, args=keys, daemon=True).start()
        both.wait()
        print("end")
        """
    )
    assert output == "end\n"
