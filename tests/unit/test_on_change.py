"""`on_change`: callbacks of a key, in the order of its changes, one call for each, with no lock held."""

from __future__ import annotations

import gc
import inspect
import logging
import queue
import threading
import time
import weakref
from contextlib import suppress
from functools import partial

import pytest
from unit.helpers import DEADLINE, ThreadSet, enter, is_free, leave

from fastserverstate import _core, no_rerun
from fastserverstate.listeners import MANY_ALIKE, Listeners
from fastserverstate.lock import ServerStateLock
from fastserverstate.state import ServerState
from fastserverstate.updates import Atomic, BeginTransaction

pytestmark = pytest.mark.usefixtures("many_switches")

WRITERS = 8


@pytest.fixture
def calls(state, on_change):
    """Record the value at each call, or None for a deleted key."""
    calls = []
    on_change("k", lambda: calls.append(state.get("k")))
    return calls


# --------------------------------------------------------------------------------------------------------- registration


def test_callback_gets_its_arguments(state, on_change):
    calls = []
    on_change("k", lambda *args, **kwargs: calls.append((args, kwargs)), args=(1, "x"), kwargs={"flag": True})
    on_change("k", lambda *args, **kwargs: calls.append((args, kwargs)))
    on_change("k", lambda *args: calls.append(args), args=[1, 2])
    state["k"] = 1
    assert calls == [((1, "x"), {"flag": True}), ((), {}), (1, 2)]


def test_decorator_returns_the_function(state, on_change):
    calls = []

    @on_change("k", args=("decorated",), kwargs={"times": 2})
    def listen(text, times):
        calls.append(text * times)

    @on_change("k")
    @on_change("other")
    def listen_to_both():
        calls.append("both")

    state["k"] = 1
    state["other"] = 1
    assert calls == ["decorateddecorated", "both", "both"]
    listen("called", times=1)
    assert calls[-1] == "called"


def test_arguments_are_those_of_the_registration(state, on_change):
    calls, args, kwargs = [], [1], {"b": 2}
    on_change("k", lambda *args, **kwargs: calls.append((args, kwargs)), args=args, kwargs=kwargs)
    args.append(3)
    kwargs["c"] = 4
    state["k"] = 1
    assert calls == [((1,), {"b": 2})]


@pytest.mark.parametrize("key", [1, None, b"k", ("a", "b"), []])
def test_keys_are_exact_str(on_change, key):
    with pytest.raises(TypeError, match="server_state keys are of type str"):
        on_change(key, print)


@pytest.mark.parametrize("callback", [1, "print", []])
def test_callback_has_to_be_callable(state, on_change, callback):
    with pytest.raises(TypeError, match="'k'"):
        on_change("k", callback)
    state["k"] = 1


def test_registration_makes_no_key(store, state, on_change):
    subscription = on_change("k", print)
    assert "k" not in state
    assert list(state) == []
    subscription.remove()
    assert store.statistics()["keys"] == 0


def test_remove(state, on_change):
    calls = []
    first = on_change("k", calls.append, args=("first",))
    second = on_change("k", calls.append, args=("second",))
    state["k"] = 1
    first.remove()
    first.remove()  # harmless
    state["k"] = 2
    second.remove()
    state["k"] = 3
    del state["k"]
    assert calls == ["first", "second", "second"]
    on_change("k", calls.append, args=("third",))
    state["k"] = 4
    assert calls[3:] == ["third"]


SCRIPT = """
import functools

def report(): seen.append("function")
def report_to(target): target.append("partial")
def both(key, value): seen.append((key, value))

def announcer(room):
    def announce(): seen.append(room)
    return announce

on_change("k", report)
on_change("k", lambda: seen.append("lambda 1")); on_change("k", lambda: seen.append("lambda 2"))
on_change("k", functools.partial(report_to, seen))
on_change("k", reporter.report)
on_change("k", both)
on_change("k", seen.append, args=("built-in",))
for room in "ab":
    on_change("k", announcer(room))
    on_change("k", lambda room: seen.append(room), args=(room.upper(),))
"""


def test_script_that_registers_in_every_run_is_called_once(state, on_change):
    class Reporter:
        def report(self):
            seen.append("method")

    seen, reporter = [], Reporter()
    code = compile(SCRIPT, "app.py", "exec")
    for run in range(4):
        exec(code, {"on_change": on_change, "seen": seen, "reporter": reporter, "__name__": f"run {run}"})
        seen.clear()
        state["k"] = run
        rooms = ["a", "A", "b", "B"]
        first = ["function", "lambda 1", "lambda 2", "partial", "method", ("k", run), "built-in"]
        assert seen == [*first, *rooms]


def test_callbacks_that_close_over_lists_of_their_own_are_all_called(state, on_change):
    """Two sessions that each record events: both lists are empty, but not the same."""

    def session():
        events = []

        def note(_key, value):
            events.append(value)

        on_change("k", note)
        return events

    first, second = session(), session()
    state["k"] = 1
    assert (first, second) == ([1], [1])


def test_methods_of_objects_that_are_made_in_every_run_are_warned_of(state, on_change, caplog):
    class Page:
        def report(self):
            pass

    for _ in range(MANY_ALIKE):
        on_change("k", Page().report)
    assert "has registered a callback of the same name" in caplog.text
    assert "k" not in state


def test_signature_that_cpython_fails_to_parse_is_asked_for_again(state, on_change, monkeypatch):
    """A built-in function raises it on 3.11 while another thread parses."""
    failures = [SystemError("AST constructor recursion depth mismatch")] * 2
    signature = inspect.signature

    def fail_at_first(function):
        if failures:
            raise failures.pop()
        return signature(function)

    monkeypatch.setattr(inspect, "signature", fail_at_first)
    calls = []
    on_change("k", calls.append, args=("changed",))
    state["k"] = 1
    assert calls == ["changed"]


def test_functions_without_a_file_are_told_by_their_code(state, on_change):
    calls = []
    for number in (1, 2):
        namespace = {"calls": calls}
        exec(f"def report(): calls.append({number})", namespace)
        on_change("k", namespace["report"])
    state["k"] = 1
    assert calls == [1, 2]


def test_newest_of_the_same_callbacks_is_called(state, on_change):
    calls = []

    def register(text):
        namespace = {"calls": calls, "text": text, "__name__": "app"}
        exec(compile(f"\n\ndef report(): calls.append({text!r})", "app.py", "exec"), namespace)
        return on_change("k", namespace["report"])

    old, _ = register("as it was"), register("as it was edited")
    state["k"] = 1
    old.remove()  # of a callback that another one has replaced
    state["k"] = 2
    assert calls == ["as it was edited"] * 2


def test_same_name_in_another_file_is_another_callback(state, on_change):
    calls = []
    for page in ("one.py", "two.py"):
        namespace = {"calls": calls, "page": page}
        exec(compile("def report(): calls.append(page)", page, "exec"), namespace)
        on_change("k", namespace["report"])
    state["k"] = 1
    assert calls == ["one.py", "two.py"]


def test_indistinguishable_callbacks_cause_a_warning(state, on_change, caplog):
    """Each is a closure over a queue of its own."""

    def reporter(target):
        return lambda: target.put(1)

    targets = [queue.SimpleQueue() for _ in range(MANY_ALIKE + 5)]
    for target in targets:
        on_change("k", reporter(target))
    state["k"] = 1
    assert [target.qsize() for target in targets] == [1] * len(targets)
    assert len(caplog.messages) == 1
    assert f"on_change('k', ...) has registered a callback of the same name {MANY_ALIKE} times" in caplog.messages[0]


def test_callback_takes_nothing_the_key_or_the_key_and_the_value(state, on_change):
    calls = []
    on_change("k", lambda: calls.append(()))
    on_change("k", lambda key: calls.append((key,)))
    on_change("k", lambda key, value: calls.append((key, value)))
    on_change("k", lambda key, value, extra: calls.append((key, value, extra)), args=(1,))
    on_change("k", lambda key, *, flag: calls.append((key, flag)), kwargs={"flag": True})
    on_change("k", lambda key=None, value=None: calls.append((key, value)))
    state["k"] = 5
    assert calls == [(), ("k",), ("k", 5), ("k", 5, 1), ("k", True), (None, None)]
    calls.clear()
    del state["k"]
    assert calls == [(), ("k",), ("k", None), ("k", None, 1), ("k", True), (None, None)]


def test_value_of_a_callback_does_not_wait_for_the_lock(state, locks, on_change):
    calls = []

    def take_lock_elsewhere():
        taken = threading.Event()
        leave = threading.Event()

        def hold():
            with locks["k"]:
                taken.set()
                assert leave.wait(DEADLINE)

        threads.add(hold)
        threads.go()
        assert taken.wait(DEADLINE)
        return leave

    free = []
    with ThreadSet() as threads:
        on_change("k", lambda: free.append(take_lock_elsewhere()))
        on_change("k", lambda key, value: calls.append((key, value)))
        state["k"] = 1
        assert calls == [("k", 1)]
        free[0].set()


async def report_async():
    raise AssertionError


class CallableAsync:
    async def __call__(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (None, r"has to be a function, not None of type NoneType. Pass the function itself, without calling it"),
        (5, "has to be a function, not 5 of type int"),
        (report_async, "cannot be async, and report_async is"),
        (CallableAsync(), "cannot be async, and CallableAsync is"),
        (partial(report_async), "cannot be async"),
        (
            lambda a, b, c, d: (a, b, c, d),
            r"takes one of .*\(key, value, reason\), and .*<lambda> takes \(a, b, c, d\)",
        ),
        (lambda *, flag: flag, r"takes one of \(\), \(key\), \(key, value\), \(key, value, reason\), and"),
    ],
)
def test_wrong_callbacks(on_change, callback, message):
    with pytest.raises(TypeError, match=rf"The callback of on_change\('k', ...\) {message}"):
        on_change("k", callback)


def test_callback_that_turns_out_to_be_async_is_logged(state, on_change, caplog):
    on_change("k", lambda key: report_async(*key[1:]))
    state["k"] = 1
    assert "has returned a coroutine, which has to be awaited" in caplog.text


def test_removed_callbacks_are_let_go_of(on_change):
    def callback():
        pass

    subscription = on_change("k", callback)
    gone = weakref.ref(callback)
    subscription.remove()
    del callback, subscription
    gc.collect()
    assert gone() is None


# ------------------------------------------------------------------------------------------------- what calls, and when


def test_one_call_for_each_change(store, state, calls):
    state["k"] = 1
    state["k"] = 2
    state.k = 3
    store.touch("k")
    del state["k"]
    state.setdefault("k", 4)
    assert state.pop("k") == 4
    Atomic(store).increment("k")
    Atomic(store).increment("k")
    Atomic(store)("k", lambda value: -value)
    assert calls == [1, 2, 3, 3, None, 4, None, 1, 2, -2]


def test_no_call_without_a_change(state, calls):
    state["k"] = (1, "x")
    state["k"] = (1, "".join(["x"]))
    state.setdefault("k", 2)
    state.pop("other", None)
    state["other"] = 1
    assert state["k"]
    assert "k" in state
    assert calls == [(1, "x")]
    state.clear()
    for miss in (lambda: state.pop("k", None), lambda: state.__delitem__("k")):
        with suppress(KeyError):
            miss()
    assert calls == [(1, "x"), None]


def test_callbacks_are_called_in_no_rerun(state, calls):
    with no_rerun:
        state["k"] = 1
    assert calls == [1]


def test_callbacks_run_on_the_writer_s_thread(state, on_change):
    ran_on = []
    on_change("k", lambda: ran_on.append(threading.current_thread()))
    with ThreadSet() as threads:
        thread = threads.add(state.__setitem__, "k", 1)
    state["k"] = 2
    assert ran_on == [thread, threading.current_thread()]


def test_readers_are_marked_before_callbacks_run(store, state, on_change):
    """So a callback that wakes another thread finds the sessions stale."""
    session = _core.Session(store)
    session.start_run()
    enter(session)
    state.get("k")
    leave()
    found = []
    on_change("k", lambda: found.append(len(store.collect_stale())))
    state["k"] = 1
    assert found == [1]


def test_callbacks_come_in_the_order_of_registration(state, on_change):
    calls = []
    for n in range(10):
        on_change("k", calls.append, args=(n,))
    state["k"] = 1
    assert calls == list(range(10))


# --------------------------------------------------------------------------------------------------------- no lock held


LOCKED_WRITES = {
    "lock": lambda s: [s.locks["k"]],
    "lock, twice": lambda s: [s.locks["k"], s.locks["k"]],
    "several locks": lambda s: [s.locks["a", "k", "z"]],
    "another lock inside": lambda s: [s.locks["k"], s.locks["z"]],
    "another lock outside": lambda s: [s.locks["z"], s.locks["k"]],
    "only another lock": lambda s: [s.locks["z"]],
    "transaction": lambda s: [s.transaction("a", "k", "z")],
    "undeclared": lambda s: [s.transaction()],
    "undeclared and declared": lambda s: [s.transaction("z", "a")],
    "nested": lambda s: [s.transaction("z"), s.transaction("k")],
    "transaction in a lock": lambda s: [s.locks["a"], s.transaction("k")],
}


class Api:
    def __init__(self):
        self.store = _core.Store(reserved=dir(ServerState))
        self.state = ServerState(self.store)
        self.locks = ServerStateLock(self.store)
        self.transaction = BeginTransaction(self.store)
        self.on_change = Listeners(self.store).on_change


@pytest.mark.parametrize("blocks", LOCKED_WRITES.values(), ids=LOCKED_WRITES)
def test_callbacks_hold_no_lock(blocks):
    """They run after the outermost block, so they can wait for anything."""
    api = Api()
    found = []
    api.on_change("k", lambda: found.append([is_free(api.locks[key]) for key in ("a", "k", "z")]))
    entered = blocks(api)
    for block in entered:
        block.__enter__()
    api.state["k"] = 1
    for block in entered[::-1]:
        assert found == []
        block.__exit__(None, None, None)
    assert found == [[True] * 3]


def test_changes_under_a_lock_are_called_for_one_by_one_after_it(state, locks, calls):
    with locks["k"]:
        for n in range(5):
            state["k"] = n
        assert calls == []
    assert calls == [4] * 5


def test_callbacks_do_not_run_inside_of_atomic(store, state, locks, on_change):
    found = []
    on_change("k", lambda: found.append((state["k"], is_free(locks["k"]))))
    Atomic(store)("k", lambda value: value + len(found) + 1, default=0)
    assert found == [(1, True)]


def test_writers_need_not_wait_for_callbacks(state, on_change):
    """They leave their calls to the thread that already calls callbacks."""
    calling, go_on = threading.Event(), threading.Event()
    seen = []

    def slow():
        calling.set()
        assert go_on.wait(DEADLINE)
        seen.append(state["k"])

    on_change("k", slow)
    with ThreadSet() as threads:
        first = threads.add(state.__setitem__, "k", 1)
        threads.go()
        assert calling.wait(DEADLINE)
        state["k"] = 2
        assert state["k"] == 2
        with ThreadSet() as more:
            more.add(state.__setitem__, "k", 3)
        assert seen == []
        assert first.is_alive()
        go_on.set()
    assert seen == [3, 3, 3]


def test_callback_that_waits_for_a_writer_is_no_deadlock(state, locks, on_change):
    """The writer holds the lock that the callback needs, and writes the key of the callback."""
    calling = threading.Event()
    seen = []

    def callback():
        calling.set()
        with locks["other"]:
            seen.append(state["k"])

    on_change("k", callback)
    with ThreadSet() as threads, locks["other"]:
        threads.add(state.__setitem__, "k", 1)
        threads.go()
        assert calling.wait(DEADLINE)
        state["k"] = 2
    assert len(seen) == 2
    assert set(seen) <= {1, 2}
    assert seen[-1] == 2


# ------------------------------------------------------------------------------------------------------ order and count


@pytest.mark.parametrize("how", ["set", "increment", "lock", "transaction", "mixed"])
def test_calls_are_as_many_as_changes_and_in_their_order(store, state, locks, transaction, on_change, *, how):
    """With eight writers: the values that a callback sees never go back, and calls never overlap."""
    each = 200
    atomic = Atomic(store)
    versions, inside = [], [0]

    def callback():
        inside[0] += 1
        assert inside == [1]
        versions.append(store.version("k"))
        time.sleep(0)
        inside[0] -= 1

    on_change("k", callback)

    def write(writer):
        for n in range(each):
            way = ["set", "increment", "lock", "transaction"][n % 4] if how == "mixed" else how
            if way == "set":
                state["k"] = writer * each + n
            elif way == "increment":
                atomic.increment("k", 10_000)
            elif way == "lock":
                with locks["k"]:
                    state["k"] = (writer, n)
                    state["k"] = writer * each + n
            else:
                with transaction("k", "other"):
                    state["k"] = state["other"] = (writer, n)
                    state["k"] = writer * each + n

    before = store.statistics()["clock"]
    with ThreadSet() as threads:
        for writer in range(WRITERS):
            threads.add(write, writer)
    changes = WRITERS * each * (2 if how == "lock" else 1)
    if how == "mixed":
        changes = WRITERS * each * 5 // 4
    assert store.statistics()["clock"] > before
    assert len(versions) == changes
    assert versions == sorted(versions)
    assert versions[-1] == store.version("k")


def test_no_call_is_lost_while_others_register_and_leave(state, on_change):
    counted = []
    on_change("k", lambda: counted.append(1))
    over = threading.Event()

    def come_and_go():
        while not over.is_set():
            on_change("k", lambda: None).remove()

    def write(writer):
        for n in range(1_000):
            state["k"] = (writer, n)
        ended.append(writer)
        if len(ended) == 4:
            over.set()

    ended = []
    with ThreadSet() as threads:
        threads.add(come_and_go)
        threads.add(come_and_go)
        for writer in range(4):
            threads.add(write, writer)
    state["k"] = "last"
    assert len(counted) == 4_001


def test_callback_is_called_for_every_change_after_its_registration(state, on_change):
    """And for none after its removal, as seen by a single thread."""

    def use(thread):
        for n in range(300):
            mine = []
            subscription = on_change(f"k{n % 2}", mine.append, args=(n,))
            state[f"own {thread}"] = n
            subscription.remove()
            left = len(mine)
            time.sleep(0)
            missed.append(len(mine) - left)

    def write():
        for n in range(2_000):
            state[f"k{n % 2}"] = n

    missed = []
    with ThreadSet() as threads:
        for thread in range(3):
            threads.add(use, thread)
        threads.add(write)
    assert sum(missed) <= 3 * 2  # calls that had already started


# ---------------------------------------------------------------------------------------------------- what can go wrong


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, RecursionError, TimeoutError])
def test_errors_are_logged_and_stop_no_other_callback(state, on_change, caplog, error):
    calls = []

    def fail():
        raise error("on purpose")

    on_change("k", calls.append, args=("before",))
    on_change("k", fail)
    on_change("k", calls.append, args=("after",))
    with caplog.at_level(logging.ERROR, logger="fastserverstate"):
        state["k"] = 1
        state["k"] = 2
    assert state["k"] == 2
    assert calls == ["before", "after"] * 2
    records = [record for record in caplog.records if record.name == "fastserverstate"]
    assert len(records) == 2
    for record in records:
        assert "'k'" in record.getMessage()
        assert record.exc_info[0] is error


def test_arguments_that_do_not_fit_are_refused(on_change):
    with pytest.raises(TypeError, match=r"takes one of .*\(key, value, reason\) besides args and kwargs, and"):
        on_change("k", lambda: None, args=(1, 2))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("write", ["set", "lock", "several locks", "transaction"])
def test_interrupted_callback_leaves_everything_usable(state, locks, transaction, on_change, *, error, write):
    """The change has happened, all locks are free, and later changes still call all callbacks."""
    calls = []
    interrupt = [True, False, False]

    def interrupted():
        if interrupt.pop(0):
            raise error

    on_change("k", interrupted)
    on_change("j", calls.append, args=("j",))
    with suppress(error):
        if write == "set":
            state["k"] = 1
        elif write == "transaction":
            with transaction("a", "j", "k", "z"):
                state["j"] = state["k"] = 1
        else:
            with locks["k"] if write == "lock" else locks["a", "j", "k", "z"]:
                state["k"] = 1
    assert state["k"] == 1
    assert [is_free(locks[key]) for key in "ajkz"] == [True] * 4
    on_change("k", calls.append, args=("k",))
    state["k"] = 2
    state["j"] = 2
    assert {"j", "k"} <= set(calls)
    with transaction("a", "j", "k", "z"):
        assert state["k"] == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupted_callback_keeps_no_other_from_being_called(state, on_change, error):
    calls = []

    def interrupted():
        raise error("on purpose")

    for callback in (partial(calls.append, "before"), interrupted, partial(calls.append, "after"), interrupted):
        on_change("k", callback)
    with pytest.raises(error, match="on purpose"):
        state["k"] = 1
    assert calls == ["before", "after"]


def test_callback_may_remove_itself_and_others(state, on_change):
    calls = []

    def once():
        calls.append("once")
        first.remove()
        third.remove()

    first = on_change("k", once)
    on_change("k", calls.append, args=("second",))
    third = on_change("k", calls.append, args=("third",))
    state["k"] = 1
    assert calls[:2] == ["once", "second"]
    del calls[:]
    state["k"] = 2
    assert calls == ["second"]


def test_callback_may_register_more(state, on_change):
    calls = []

    def register():
        calls.append("first")
        if len(calls) == 1:
            on_change("k", calls.append, args=("new",))

    on_change("k", register)
    state["k"] = 1
    state["k"] = 2
    assert [call for call in calls if call == "first"] == ["first"] * 2
    assert calls[-1] == "new"


def test_callback_may_remove_the_last_subscription(store, state, on_change):
    """Also while calls are pending, and while the key is deleted."""
    calls = []

    def leave_at_once():
        calls.append(1)
        subscription.remove()
        state["k"] = "again"
        del state["k"]

    subscription = on_change("k", leave_at_once)
    state["k"] = 1
    assert calls == [1]
    assert store.statistics()["keys"] == 0
    on_change("k", calls.append, args=(2,))
    assert calls == [1]
    state["k"] = 3
    assert calls == [1, 2]


def test_callback_that_changes_its_own_key(state, on_change):
    """It is called again for each change after it has returned, and never recursively."""
    depth, deepest, calls = [0], [0], []

    def count_up():
        depth[0] += 1
        deepest[0] = max(deepest[0], depth[0])
        calls.append(state["k"])
        if state["k"] < 2_000:
            state["k"] += 1
        depth[0] -= 1

    on_change("k", count_up)
    state["k"] = 0
    assert calls == list(range(2_001))
    assert deepest == [1]


def test_callbacks_that_change_each_other_s_keys(state, on_change):
    state.update(a=0, b=0)

    def follow(mine, other):
        if state[mine] < 2_000:
            state[other] = state[mine] + 1

    on_change("a", follow, args=("a", "b"))
    on_change("b", follow, args=("b", "a"))
    state["a"] = 1
    assert max(state["a"], state["b"]) == 2_000


def test_callback_keeps_a_derived_value_in_step(state, on_change):
    @on_change("numbers")
    def add_up():
        state["sum"] = sum(state["numbers"])

    def write(writer):
        for n in range(200):
            state["numbers"] = [writer, n]

    with ThreadSet() as threads:
        for writer in range(4):
            threads.add(write, writer)
    assert state["sum"] == sum(state["numbers"])


# --------------------------------------------------------------------------------------------------------- transactions


def test_transaction_calls_once_for_each_key_that_changed(state, transaction, on_change):
    state.update(changed=1, same=1, deleted=1)
    calls = []
    for key in ("changed", "same", "deleted", "new", "passing", "untouched"):
        on_change(key, lambda key=key: calls.append((key, dict(state))))
    with transaction("untouched"):
        for n in range(5):
            state["changed"] = n
            state["new"] = n
        state["same"] = 2
        state["same"] = 1
        del state["deleted"]
        state["passing"] = 1
        del state["passing"]
        assert calls == []
    after = {"changed": 4, "same": 1, "new": 4}
    assert sorted(key for key, _ in calls) == ["changed", "deleted", "new"]
    assert all(seen == after for _, seen in calls)


def test_discarded_transaction_calls_no_callback(state, transaction, calls):
    state["k"] = 1
    with suppress(ZeroDivisionError), transaction("k"):
        state["k"] = 2
        raise ZeroDivisionError
    with transaction("k"), suppress(ZeroDivisionError), transaction():
        state["k"] = 3
        del state["k"]
        raise ZeroDivisionError
    assert calls == [1]


def test_callback_may_begin_a_transaction(state, transaction, on_change):
    def book():
        with transaction("k", "total"):
            state["total"] = state.get("total", 0) + state["k"]

    on_change("k", book)
    with transaction("k", "total", "other"):
        state["k"] = 5
        state["other"] = 1
    state["k"] = 7
    assert state["total"] == 12
