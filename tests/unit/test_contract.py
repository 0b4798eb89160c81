"""The drop-in contract of `server_state`, its locks, `no_rerun` and `force_rerun_bound_sessions`."""

import contextlib
import math
import threading
from collections.abc import Mapping, MutableMapping
from decimal import Decimal
from enum import Enum, StrEnum

import numpy as np
import pytest
from unit.helpers import DEADLINE, ThreadSet, enter, leave

import fastserverstate
from fastserverstate import (
    RerunSuppressedError,
    _core,
    atomic,
    compare_and_set,
    force_rerun_bound_sessions,
    no_rerun,
    on_change,
    peek,
    touch,
    transaction,
    wait_for,
)


class Name(str):
    """A `str` with methods of its own, which may do anything."""

    __slots__ = ()

    def __str__(self):
        raise AssertionError("called")

    def __repr__(self):
        raise AssertionError("called")

    def __hash__(self):
        raise AssertionError("called")

    def __eq__(self, other):
        raise AssertionError("called")


class Color(StrEnum):
    RED = "red"


class OldColor(str, Enum):  # noqa: UP042
    RED = "red"


NOT_KEYS = {"int": 1, "None": None, "bytes": b"k", "tuple": ("a", "b"), "unhashable": [], "slice": slice(None)}
KINDS_OF_STR = {"enum": Color.RED, "enum of str": OldColor.RED, "numpy": np.str_("red"), "subclass": Name("red")}


# -------------------------------------------------------------------------------------------------------- server_state


def test_package_exports_one_state():
    name = "test_contract_key"
    fastserverstate.server_state[name] = 1
    try:
        assert getattr(fastserverstate.server_state, name) == 1
        assert name in fastserverstate.server_state_lock
    finally:
        del fastserverstate.server_state[name]
    assert all(hasattr(fastserverstate, name) for name in fastserverstate.__all__)


def test_items_and_attributes_are_the_same(state):
    state["a"] = 1
    assert state.a == state["a"] == 1
    state.a = 2
    assert state["a"] == 2
    del state.a
    assert "a" not in state
    state.a = 3
    del state["a"]
    assert not hasattr(state, "a")


def test_values_are_shared_by_reference(state):
    value = [object()]
    state["k"] = value
    assert state["k"] is value
    assert state.k is value
    assert state.get("k") is value
    assert state.setdefault("k", 0) is value
    assert state.pop("k") is value


@pytest.mark.parametrize("value", [None, False, 0, "", [], float("nan")], ids=repr)
def test_falsy_values_are_values(state, value):
    state["k"] = value
    assert "k" in state
    assert state["k"] is value
    assert state.get("k", 1) is value
    assert state.setdefault("k", 1) is value
    assert state.pop("k", 1) is value


@pytest.mark.parametrize(
    ("access", "error"),
    [
        (lambda s: s["k"], KeyError),
        (lambda s: s.__delitem__("k"), KeyError),
        (lambda s: s.pop("k"), KeyError),
        (lambda s: s.k, AttributeError),
        (lambda s: delattr(s, "k"), AttributeError),
        (lambda s: s.popitem(), KeyError),
    ],
    ids=["item", "del item", "pop", "attribute", "del attribute", "popitem"],
)
def test_missing_key(state, access, error):
    with pytest.raises(error) as caught:
        access(state)
    if error is AttributeError:
        assert caught.value.name == "k"
        assert caught.value.obj is state
    assert list(state) == []


def test_defaults_for_missing_keys(state):
    assert not hasattr(state, "k")
    assert getattr(state, "k", 5) == 5
    assert state.get("k") is None
    assert state.get("k", 5) == 5
    assert state.pop("k", None) is None
    assert state.pop("k", 5) == 5
    assert state.setdefault("k") is None
    assert "k" in state


@pytest.mark.parametrize("key", NOT_KEYS.values(), ids=NOT_KEYS)
def test_keys_are_str(store, state, locks, force_rerun, key):
    state["k"] = 0
    kind = "None" if key is None else type(key).__qualname__
    uses = [
        lambda: state[key],
        lambda: state.__setitem__(key, 1),
        lambda: state.__delitem__(key),
        lambda: state.get(key),
        lambda: state.get(key, 1),
        lambda: state.setdefault(key, 1),
        lambda: state.pop(key),
        lambda: state.pop(key, None),
        lambda: state.update([(key, 1)]),
        lambda: locks[key, 1] if type(key) is tuple else locks[key],  # a tuple of keys returns several locks
        lambda: force_rerun(key),
        lambda: store.peek(key),
        lambda: store.version(key),
    ]
    for use in uses:
        with pytest.raises(TypeError, match=kind):
            use()
    assert (key in state) is False
    assert (key in locks) is False
    assert dict(state) == {"k": 0}


@pytest.mark.parametrize("key", KINDS_OF_STR.values(), ids=KINDS_OF_STR)
def test_subclasses_of_str_count_as_the_text_that_they_hold(key):
    state, locks = fastserverstate.server_state, fastserverstate.server_state_lock
    calls = []
    subscription = on_change(key, calls.append, args=("changed",))
    assert key not in state
    assert state.get(key) is None
    assert state.setdefault(key, 1) == state["red"] == state[key] == getattr(state, key) == peek(key) == 1
    assert key in state
    assert key in locks
    state[key] = 2
    setattr(state, key, 3)
    assert atomic.increment(key) == 4
    assert atomic(key, lambda number: number + 1) == 5
    assert compare_and_set(key, 5, 6)
    with transaction(key):
        state[key] += 1
    assert wait_for(key, lambda number: number == 7) == 7
    touch(key)
    force_rerun_bound_sessions(key)
    assert locks[key] is locks["red"]
    with locks[key, "blue"]:
        assert locks["red"].locked()
    assert list(map(type, state)) == [str]
    assert state.pop(key) == 7
    state["red"] = []
    assert atomic.append(key, "item") == ["item"]
    del state[key]
    state["red"] = 1
    delattr(state, key)
    assert len(calls) == 15
    subscription.remove()
    state["red"] = 1
    assert len(calls) == 15
    del state["red"]


def test_iteration_is_a_snapshot_in_order_of_appearance(state):
    for key in ("b", "a", "c"):
        state[key] = 0
    state["b"] = 1  # a change is no insertion
    assert list(state) == list(state.keys()) == ["b", "a", "c"]
    del state["b"]
    state["b"] = 2
    assert list(state) == ["a", "c", "b"]
    keys = iter(state)
    assert next(keys) == "a"
    del state["c"]
    state["d"] = 0
    assert list(keys) == ["c", "b"]
    assert list(state.items()) == [("a", 0), ("b", 2), ("d", 0)]
    assert list(state.values()) == [0, 2, 0]
    assert len(state) == len(state.items()) == 3


@pytest.mark.parametrize("view", ["__iter__", "keys", "items", "values"])
def test_inserts_and_deletes_during_iteration_do_not_raise(state, view):
    for i in range(300):
        state[f"old{i}"] = i
    for i, _ in enumerate(getattr(state, view)()):
        state[f"new{i}"] = i
        state.pop(f"old{i + 150}", None)
    assert len(state) >= 300


def test_views_leave_out_what_was_deleted_meanwhile(state):
    state.update(a=1, b=2, c=3)
    items, values = iter(state.items()), iter(state.values())
    assert (next(items), next(values)) == (("a", 1), 1)
    del state["b"]
    assert list(items) == [("c", 3)]
    assert list(values) == [3]


def test_search_of_values_survives_a_deletion(state):
    class Deletes:
        def __eq__(self, other):
            state.pop("b", None)
            return False

        __hash__ = None

    state.update(a=1, b=2, c=3)
    assert Deletes() not in state.values()
    assert list(state) == ["a", "c"]


def test_mutable_mapping(state):
    assert isinstance(state, MutableMapping)
    state.update({"a": 1}, b=2)
    state.update([("c", 3)])
    state.update(d=4)
    assert state == {"d": 4, "c": 3, "b": 2, "a": 1}
    assert state != {"a": 1}
    assert state != {"a": 1}
    assert dict(state) == {**state} == dict(state.items())
    assert state.keys() & {"a", "z"} == {"a"}
    assert ("a", 1) in state.items()
    assert ("a", 2) not in state.items()
    assert 3 in state.values()
    assert 9 not in state.values()
    assert state.setdefault("a", 9) == 1
    assert state.setdefault("e", 5) == 5
    assert state.pop("e") == 5
    popped = [state.popitem() for _ in range(4)]
    assert sorted(popped) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    with pytest.raises(KeyError, match="empty"):
        state.popitem()
    state.update(a=1, b=2)
    state.clear()
    assert state == {}
    assert not state
    assert list(state) == []


def test_pop_takes_one_default(state):
    with pytest.raises(TypeError, match="at most 2"):
        state.pop("k", 1, 2)


def test_every_method_of_the_protocol_is_there():
    missing = {name for name in dir(MutableMapping) if not name.startswith("_")}
    missing |= {"__getitem__", "__setitem__", "__delitem__", "__iter__", "__len__", "__contains__", "__eq__"}
    assert missing <= set(dir(fastserverstate.server_state))


@pytest.mark.parametrize("name", ["items", "get", "pop", "update", "clear", "__class__", "__len__", "__repr__"])
def test_methods_win_over_keys(state, name):
    method = getattr(state, name)
    state[name] = "a value"
    assert getattr(state, name) == method
    assert state[name] == "a value"
    for change in (lambda: setattr(state, name, 1), lambda: delattr(state, name)):
        with pytest.raises(AttributeError, match=name):
            change()
    assert state[name] == "a value"
    assert state.pop(name) == "a value"


def test_double_underscores_are_never_keys_by_attribute(state):
    """Libraries such as copy, numpy and IPython probe objects for such names, and would use a value as a method."""
    state["__probe__"] = 1
    with pytest.raises(AttributeError):
        state.__probe__ = 2
    assert not hasattr(state, "__probe__")


def test_dir_lists_methods_and_keys(state):
    state["visitors"] = 1
    assert {"visitors", "items", "setdefault"} <= set(dir(state))


def test_repr_names_the_keys(state):
    state.update(a=1, b="secret")
    assert repr(state) == "server_state(a, b)"


def test_to_dict_depends_on_every_key(store, state, session):
    state.update(a=1, b=[2])
    found = state.to_dict()
    assert found == {"a": 1, "b": [2]}
    assert type(found) is dict
    assert found["b"] is state["b"]
    session.finish_run()
    leave()
    state["c"] = 3
    assert len(store.collect_stale()) == 1
    enter(session)
    session.start_run()
    state.to_dict()
    session.finish_run()
    leave()
    state["a"] = 2
    assert len(store.collect_stale()) == 1


def test_an_annotated_assignment_is_an_assignment(state):
    state["n"]: int = 5
    state.m: int = 6
    assert state.to_dict() == {"n": 5, "m": 6}


MISSES = {
    "get": lambda s, k: s.get(k),
    "in": lambda s, k: k in s,
    "item": lambda s, k: s[k],
    "attribute": hasattr,
    "pop": lambda s, k: s.pop(k, None),
    "del": lambda s, k: s.__delitem__(k),
}


@pytest.mark.parametrize("miss", MISSES.values(), ids=MISSES)
@pytest.mark.parametrize("reader", ["thread", "session", "stale session", "closed session"])
def test_no_phantom_keys(store, state, miss, reader):
    if reader != "thread":
        session = _core.Session(store)
        session.start_run()
        enter(session)
        state.get("first")
        if reader == "stale session":
            leave()
            state["first"] = 1
            del state["first"]
            store.collect_stale()
            enter(session)
        if reader == "closed session":
            session.close()
    cells = store.statistics()["cells"]
    for i in range(20_000 if reader == "thread" else 2_000):
        with contextlib.suppress(KeyError):
            miss(state, f"missing{i}")
    assert list(state) == []
    assert len(state) == 0
    if reader == "session":
        assert store.statistics()["cells"] <= cells + 2_000
        session.start_run()
        session.finish_run()
    assert store.statistics()["cells"] <= cells


# --------------------------------------------------------------------------------------------------- server_state_lock


def test_lock_of_a_key_never_changes(state, locks):
    lock = locks["k"]
    assert locks["k"] is locks.k is locks.get("k") is lock
    state["k"] = 1
    assert locks["k"] is lock
    del state["k"]
    assert locks["k"] is lock
    for i in range(5_000):  # the table grows several times
        state[f"other{i}"] = i
    assert locks["k"] is lock
    state.clear()
    state["k"] = 2
    assert locks["k"] is lock
    assert locks["other"] is not lock


def test_held_lock_survives_without_a_reference(state, locks):
    locks["k"].acquire()
    for i in range(5_000):
        state[f"other{i}"] = i
    assert locks["k"].locked()
    taken = []
    with ThreadSet() as threads:
        threads.add(lambda: taken.append(locks["k"].acquire(blocking=False)))
    assert taken == [False]
    locks["k"].release()
    assert not locks["k"].locked()


def test_forgotten_locks_do_not_pile_up(store, locks):
    for i in range(20_000):
        locks[f"k{i}"].acquire()
        locks[f"k{i}"].release()
    assert store.statistics()["cells"] < 1_000


def test_locks_are_a_mapping_of_the_keys_that_are_set(state, locks):
    assert isinstance(locks, Mapping)
    taken = locks["absent"]
    state.update(a=1, b=2)
    assert list(locks) == ["a", "b"]
    assert len(locks) == 2
    assert "a" in locks
    assert "absent" not in locks
    assert dict(locks) == {"a": locks["a"], "b": locks["b"]}
    assert locks.get("absent") is taken


def test_locks_cannot_be_replaced(locks):
    with pytest.raises(TypeError):
        locks["k"] = threading.RLock()
    with pytest.raises(AttributeError, match="Values belong in server_state"):
        locks.k = threading.RLock()
    with pytest.raises(AttributeError):
        del locks.k
    with pytest.raises(TypeError):
        type(locks["k"])()


def outcome(function):
    """Return the result of a call or the type of its error, to compare two calls."""
    try:
        return function()
    except Exception as error:
        return type(error)


LOCK_USES = {
    "release un-acquired": lambda lock: lock.release(),
    "exit un-acquired": lambda lock: lock.__exit__(None, None, None),
    "release twice": lambda lock: (lock.acquire(), lock.release(), lock.release()),
    "acquire": lambda lock: lock.acquire(),
    "acquire again": lambda lock: (lock.acquire(), lock.acquire(), lock.acquire(False), lock.acquire(timeout=1)),
    "enter": lambda lock: lock.__enter__(),
    "exit returns nothing": lambda lock: (lock.__enter__(), lock.__exit__(None, None, None)),
    "non-blocking": lambda lock: lock.acquire(False),
    "non-blocking keyword": lambda lock: lock.acquire(blocking=False),
    "timeout": lambda lock: lock.acquire(True, 1),
    "timeout zero": lambda lock: lock.acquire(timeout=0),
    "timeout -1": lambda lock: lock.acquire(timeout=-1),
    "timeout -1 non-blocking": lambda lock: lock.acquire(False, -1),
    "timeout negative": lambda lock: lock.acquire(timeout=-2),
    "timeout a little negative": lambda lock: lock.acquire(timeout=-1e-9),
    "timeout non-blocking": lambda lock: lock.acquire(False, 1),
    "timeout zero non-blocking": lambda lock: lock.acquire(False, 0),
    "timeout NaN": lambda lock: lock.acquire(timeout=math.nan),
    "timeout infinite": lambda lock: lock.acquire(timeout=math.inf),
    "timeout largest": lambda lock: lock.acquire(timeout=threading.TIMEOUT_MAX),
    "timeout too large": lambda lock: lock.acquire(timeout=threading.TIMEOUT_MAX * 1.01),
    "timeout far too large": lambda lock: lock.acquire(timeout=10**30),
    "timeout minus infinite": lambda lock: lock.acquire(timeout=-math.inf),
    "timeout NaN non-blocking": lambda lock: lock.acquire(False, math.nan),
    "timeout decimal": lambda lock: lock.acquire(timeout=Decimal(1)),
    "timeout true": lambda lock: lock.acquire(timeout=True),
    "blocking zero": lambda lock: lock.acquire(0),
    "blocking text": lambda lock: lock.acquire("x", 0),
    "blocking None": lambda lock: lock.acquire(None),
    "three arguments": lambda lock: lock.acquire(True, 1, 1),
    "timeout None": lambda lock: lock.acquire(timeout=None),
    "timeout text": lambda lock: lock.acquire(timeout="1"),
    "unknown argument": lambda lock: lock.acquire(wait=True),
    "owned": lambda lock: (lock._is_owned(), lock.acquire(), lock._is_owned()),
}


MAY_WAIT = {"release twice", "acquire", "acquire again", "enter", "exit returns nothing", "timeout", "timeout -1"}
MAY_WAIT |= {"timeout largest", "timeout true", "owned"}


@pytest.mark.parametrize(
    ("use", "held"),
    [
        pytest.param(use, held, id=f"{name}, {'held by another' if held else 'free'}")
        for name, use in LOCK_USES.items()
        for held in (False, True)
        if not (held and name in MAY_WAIT)
    ],
)
def test_lock_behaves_as_rlock(locks, use, held):
    ours, theirs = locks["k"], threading.RLock()
    done, holding = threading.Event(), threading.Event()

    def hold():
        with ours, theirs:
            holding.set()
            done.wait(DEADLINE)

    with ThreadSet() as threads:
        if held:
            threads.add(hold)
            threads.go()
            assert holding.wait(DEADLINE)
        try:
            assert outcome(lambda: use(ours)) == outcome(lambda: use(theirs))
        finally:
            done.set()


def test_lock_is_re_entrant(locks):
    lock = locks["k"]
    taken = []
    with lock, lock:
        assert lock.acquire(blocking=False)
        lock.release()
        with ThreadSet() as threads:
            threads.add(lambda: taken.append(lock.acquire(blocking=False)))
        assert lock.locked()
    assert taken == [False]
    assert not lock.locked()


def test_lock_is_released_when_the_block_raises(locks):
    with pytest.raises(ZeroDivisionError), locks["k"]:
        raise ZeroDivisionError
    assert not locks["k"].locked()


def test_lock_is_saved_by_its_owner_only(locks):
    lock = locks["k"]
    outcomes = []
    with pytest.raises(RuntimeError):
        lock._release_save()
    with lock:
        with lock, ThreadSet() as threads:
            threads.add(lambda: outcomes.append(outcome(lock._release_save)))
        assert outcomes == [RuntimeError]
        assert lock.locked()
    assert not lock.locked()


def test_lock_of_a_condition(state, locks):
    """`Condition.wait` releases all levels of a re-entrant lock and acquires them again."""
    condition = threading.Condition(locks["k"])
    with pytest.raises(RuntimeError):
        condition.notify()
    state["k"] = []

    def consume():
        with condition, condition:
            assert condition.wait_for(lambda: state["k"], DEADLINE)
            assert locks["k"]._is_owned()
            state["k"] = ["consumed"]
            condition.notify_all()
            condition.release()
            assert locks["k"]._is_owned()
            condition.acquire()

    with ThreadSet() as threads:
        threads.add(consume)
        threads.go()
        with condition:
            state["k"] = ["produced"]
            condition.notify_all()
            assert condition.wait_for(lambda: state["k"] == ["consumed"], DEADLINE)
    assert not locks["k"].locked()


# ------------------------------------------------------------------------------- no_rerun, force_rerun_bound_sessions


@pytest.fixture
def stale_after(store, state, session):
    """Return whether a change by a thread without a session makes stale a reader of ``state["k"]``."""
    state["k"] = 0

    def check(change):
        session.start_run()
        enter(session)
        state["k"]
        leave()
        change()
        return bool(store.collect_stale())

    return check


def change(state):
    state["k"] += 1


def test_writes_in_no_rerun_are_stored_and_rerun_no_session(state, stale_after):
    def muted():
        with no_rerun:
            change(state)

    assert stale_after(lambda: change(state))
    assert not stale_after(muted)
    assert state["k"] == 2
    assert stale_after(lambda: change(state))


def test_no_rerun_nests(state, stale_after):
    def inner():
        with no_rerun:
            with no_rerun, no_rerun:
                change(state)
            change(state)

    assert not stale_after(inner)
    assert stale_after(lambda: change(state))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_no_rerun_ends_with_an_exception(state, stale_after, error):
    def interrupted():
        with no_rerun:
            change(state)
            raise error

    def survived():
        with pytest.raises(error):
            interrupted()

    assert not stale_after(survived)
    assert stale_after(lambda: change(state))


def test_no_rerun_as_decorator(state, stale_after):
    @no_rerun
    def muted(by, *, twice=False):
        """Its text."""
        state["k"] += by * (1 + twice)
        return state["k"]

    assert not stale_after(lambda: muted(5, twice=True))
    assert state["k"] == 10
    assert muted(1) == 11
    assert (muted.__name__, muted.__doc__) == ("muted", "Its text.")
    assert stale_after(lambda: change(state))


def test_no_rerun_decorates_methods(state, stale_after):
    class Counter:
        @no_rerun
        def add(self, *, by):
            state["k"] += by
            return self

    counter = Counter()
    assert not stale_after(lambda: counter.add(by=2))
    assert counter.add(by=1) is counter
    assert state["k"] == 3


def test_no_rerun_affects_its_own_thread_only(state, stale_after):
    def elsewhere(function):
        with ThreadSet() as threads:
            threads.add(function, state)

    assert stale_after(lambda: no_rerun(elsewhere)(change))
    assert not stale_after(lambda: elsewhere(no_rerun(change)))
    assert stale_after(lambda: change(state))


def test_force_rerun_reruns_the_sessions_that_depend_on_the_key(store, state, force_rerun, stale_after):
    before = store.version("k")
    assert stale_after(lambda: force_rerun("k"))
    assert state["k"] == 0
    assert store.version("k") > before
    state["other"] = 0
    assert not stale_after(lambda: force_rerun("other"))


def test_force_rerun_of_the_caller_if_it_has_shown_the_value(store, state, session, force_rerun):
    state["k"] = []
    state["k"].append(1)
    force_rerun("k")
    assert session.take_overwritten() == {}
    session.message_sent()
    force_rerun("k")
    assert session.take_overwritten() == {None: "k"}
    assert store.collect_stale() == []


def test_force_rerun_is_refused_in_no_rerun(force_rerun, state):
    state["k"] = 0
    with no_rerun:
        with pytest.raises(RerunSuppressedError, match=r"'k'.*no_rerun") as caught:
            force_rerun("k")
        with pytest.raises(RerunSuppressedError), no_rerun:
            force_rerun("k")
    assert isinstance(caught.value, fastserverstate.FastServerStateError)
    force_rerun("k")


def test_no_rerun_encloses_no_async_function():
    async def write():
        raise AssertionError

    with pytest.raises(TypeError, match=r"an async or generator function has not begun"):
        no_rerun(write)


def test_force_rerun_of_a_missing_key(store, state, session, force_rerun):
    assert "missing" not in state
    leave()
    session.finish_run()
    force_rerun("missing")
    assert [scope.session for scope in store.collect_stale()] == [session]
    force_rerun("never asked for")
    assert store.collect_stale() == []
