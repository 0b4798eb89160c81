"""Changes that depend on the current value, `peek` and `touch`."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import nullcontext

import pytest
from unit.helpers import DEADLINE, ThreadSet, enter, leave

from fastserverstate import _core, no_rerun

pytestmark = pytest.mark.usefixtures("many_switches")

THREADS = 8


async def decide_later(old, new): ...


@pytest.fixture
def stale_after(store, state):
    """Return whether a change by a thread without a session makes stale a reader of ``state["k"]``."""

    def check(change):
        session = _core.Session(store)
        session.start_run()
        enter(session)
        state.get("k")
        leave()
        change()
        found = bool(store.collect_stale())
        session.close()
        return found

    return check


class Unreadable:
    """Refuses to be compared, added, hashed or copied."""

    def _refuse(self, *_):
        raise AssertionError("called")

    __eq__ = __hash__ = __add__ = __radd__ = __reduce_ex__ = _refuse


# --------------------------------------------------------------------------------------------------------------- atomic


def test_atomic_sets_and_returns_the_new_value(state, atomic):
    state["k"] = 20
    new = {}
    assert atomic("k", lambda value: value + 1) == 21
    assert state["k"] == 21
    assert atomic("k", lambda _: new) is new
    assert state["k"] is new


async def changed_async(value):
    return value


async def yielding_async(value):
    yield value


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (5, "has to be a function, not 5 of type int"),
        (None, "has to be a function, not None"),
        (changed_async, "cannot be async, and changed_async is"),
        (yielding_async, "cannot be async, and yielding_async is"),
        (lambda value: changed_async([value]), "has returned a coroutine, which has to be awaited"),
        (lambda value: value.update(a=1), r"has returned None for a dict. server_state\['\w+'\] was not assigned"),
    ],
)
def test_functions_that_are_probably_mistakes(store, state, atomic, function, message):
    state["k"] = value = {}
    version = store.version("k")
    with pytest.raises(TypeError, match=message) as caught:
        atomic("k", function)
    assert "'k'" in str(caught.value)
    assert state["k"] is value
    assert store.version("k") == version
    with pytest.raises(TypeError, match=message):
        atomic("other", function, default={})
    assert "other" not in state
    assert not store.lock("k").locked()


def test_none_is_kept_by_a_function_that_is_given_it(state, atomic):
    assert atomic("k", lambda value: value, default=None) is None
    assert state["k"] is None
    assert atomic("k", lambda value: value) is None


def test_atomic_passes_the_default_for_a_missing_key_only(state, atomic):
    assert atomic("k", lambda value: value + 1, default=5) == 6
    assert atomic("k", lambda value: value + 1, default=5) == 7
    assert atomic("other", lambda value: [value], default=None) == [None]
    state["none"] = None
    assert atomic("none", lambda value: value is None, default=5) is True


def test_atomic_of_a_missing_key_without_default(state, locks, atomic):
    calls = []
    with pytest.raises(KeyError) as caught:
        atomic("k", calls.append)
    assert "atomic('k', function, default=...)" in str(caught.value)
    assert calls == []
    assert "k" not in state
    assert not locks["k"].locked()


def test_atomic_takes_its_default_by_name(atomic):
    with pytest.raises(TypeError):
        atomic("k", lambda value: value, 0)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_exception_of_the_function_leaves_the_key_unchanged(store, state, locks, atomic, *, error, present):
    if present:
        state["k"] = "old"
    before = store.version("k")

    def fail(_):
        raise error

    with pytest.raises(error):
        atomic("k", fail, default=0)
    assert state.get("k") == ("old" if present else None)
    assert store.version("k") == before
    assert not locks["k"].locked()


def test_function_is_called_once_however_many_compete(state, atomic):
    calls = []
    state["n"] = 0

    def add(value):
        calls.append(value)
        return value + 1

    def work():
        returned.extend([atomic("n", add) for _ in range(300)])

    returned = []
    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(work)
    total = THREADS * 300
    assert state["n"] == total
    assert calls == list(range(total))
    assert sorted(returned) == list(range(1, total + 1))


def test_others_wait_while_the_function_runs(state, locks, atomic):
    seen = []
    running = threading.Event()
    state.update(k=1, other=1)

    def read():
        assert running.wait(DEADLINE)
        seen.append(state["other"])
        seen.append(state["k"])

    with ThreadSet() as threads:
        reader = threads.add(read)
        threads.go()

        def change(value):
            assert locks["k"]._is_owned()
            running.set()
            reader.join(0.03)
            assert seen == [1]  # other keys can be read
            assert state["k"] == 1
            return value + 1

        atomic("k", change)
    assert seen == [1, 2]
    assert not locks["k"].locked()


def test_function_may_use_the_store(state, atomic):
    state.update(k=1, other=10)

    def change(value):
        state["k"] = "overwritten by what is returned"
        assert atomic("k", lambda _: "this too") == "this too"
        return value + atomic.increment("other")

    assert atomic("k", change) == 12
    assert (state["k"], state["other"]) == (12, 11)


def test_function_may_delete_the_key(state, atomic):
    state["k"] = 1
    assert atomic("k", lambda value: state.pop("k") + value) == 2
    assert state["k"] == 2


def test_equal_result_is_no_change(store, state, atomic, stale_after):
    state["k"] = (1, "x")
    before = store.version("k")
    assert not stale_after(lambda: atomic("k", lambda value: (value[0], "".join(["x"]))))
    assert not stale_after(lambda: atomic("k", lambda value: value))
    assert store.version("k") == before
    assert stale_after(lambda: atomic("k", lambda _: (2, "x")))


CHANGES = {
    "atomic": lambda atomic: atomic("k", lambda value: value + 1, default=0),
    "increment": lambda atomic: atomic.increment("k"),
    "append": lambda atomic: atomic.append("k", 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_readers_are_told_and_the_writer_is_not(store, state, atomic, stale_after, *, change, present):
    """A script that changes a key without reading it is not rerun for any change of the key."""
    if present:
        state["k"] = [] if change is CHANGES["append"] else 0
    session = _core.Session(store)
    session.start_run()
    enter(session)
    change(atomic)
    session.message_sent()
    change(atomic)
    assert session.take_overwritten() == {}
    assert stale_after(lambda: change(atomic))
    assert session.stale_fragment_ids() == []

    def muted():
        with no_rerun:
            change(atomic)

    assert not stale_after(muted)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_keep_the_version_growing(store, atomic, change):
    versions = []
    for _ in range(5):
        change(atomic)
        versions.append(store.version("k"))
    assert versions == sorted(set(versions))


NOT_KEYS = {"int": 1, "None": None, "bytes": b"k", "tuple": ("a", "b"), "unhashable": []}


@pytest.mark.parametrize("key", NOT_KEYS.values(), ids=NOT_KEYS)
def test_keys_are_exact_str(atomic, compare_and_set, peek, touch, key):
    uses = [
        lambda: atomic(key, lambda value: value, default=0),
        lambda: atomic.increment(key),
        lambda: atomic.append(key, 1),
        lambda: compare_and_set(key, 1, 2),
        lambda: peek(key),
        lambda: touch(key),
    ]
    for use in uses:
        with pytest.raises(TypeError, match="server_state keys are of type str"):
            use()


# ------------------------------------------------------------------------------------------------------------ increment


def test_increment(state, atomic):
    assert atomic.increment("k") == 1
    assert atomic.increment("k", 5) == 6
    assert atomic.increment("k", by=-10) == -4
    assert atomic.increment("k", 0.5) == -3.5
    assert atomic.increment("k", 0) == -3.5
    assert atomic.increment("other", default=100) == 101
    assert atomic.increment("other", default=100) == 102
    assert dict(state) == {"k": -3.5, "other": 102}


def test_increment_goes_beyond_machine_words(state, atomic):
    state["k"] = 2**63 - 1
    assert atomic.increment("k") == 2**63
    assert atomic.increment("k", 2**200) == 2**63 + 2**200
    assert atomic.increment("k", -(2**200)) == state["k"] == 2**63


def test_increment_by_any_addable_value(state, atomic):
    state.update(text="a", flag=True, money=(1,))
    assert atomic.increment("text", "b") == "ab"
    assert atomic.increment("flag") == 2
    assert atomic.increment("money", (2,), default=()) == (1, 2)
    assert atomic.increment("new", "x", default="") == "x"


@pytest.mark.parametrize("value", [None, "text", [], Unreadable()], ids=["None", "str", "list", "hostile"])
def test_increment_that_fails_leaves_the_key_unchanged(store, state, locks, atomic, value):
    state["k"] = value
    before = store.version("k")
    with pytest.raises((TypeError, AssertionError)):
        atomic.increment("k")
    assert state["k"] is value
    assert store.version("k") == before
    assert not locks["k"].locked()
    with pytest.raises(TypeError, match=r"increment\('absent', 'text'\) cannot add that to a value of type int"):
        atomic.increment("absent", "text")
    assert "absent" not in state


@pytest.mark.parametrize("by", [1, 0.5, True])
def test_no_increment_is_lost(state, atomic, by):
    """The key does not exist at first. Others read and lock it meanwhile."""
    locked = threading.Event()

    def count():
        for _ in range(1_000):
            atomic.increment("n", by)

    def disturb():
        for _ in range(300):
            atomic("n", lambda value: value, default=0)
            locked.set()
            state.get("n")

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(count)
        threads.add(disturb)
    assert state["n"] == THREADS * 1_000 * by


def test_increment_returns_each_number_once(atomic):
    """So it can issue unique numbers."""
    tickets = []

    def draw():
        mine = [atomic.increment("ticket") for _ in range(1_000)]
        assert mine == sorted(mine)
        tickets.extend(mine)

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(draw)
    assert sorted(tickets) == list(range(1, THREADS * 1_000 + 1))


def test_increment_waits_for_the_lock(state, locks, atomic):
    state["n"] = 0
    with ThreadSet() as threads:
        thread = threads.add(atomic.increment, "n")
        with locks["n"]:
            threads.go()
            thread.join(0.02)
            assert thread.is_alive()
            assert atomic.increment("n", 10) == 10  # the lock is ours
            state["n"] = 100
    assert state["n"] == 101


# --------------------------------------------------------------------------------------------------------------- append


def test_append_makes_a_new_list_and_leaves_the_old_one_alone(state, atomic):
    old = ["a"]
    state["k"] = old
    new = atomic.append("k", "b")
    assert new == ["a", "b"]
    assert state["k"] is new
    assert old == ["a"]
    assert atomic.append("absent", "x") == ["x"] == state["absent"]


def test_append_keeps_the_type(state, atomic):
    state.update(list=[1], tuple=(1,), deque=deque([1]), bounded=deque([1, 2], maxlen=2))
    assert atomic.append("list", 2) == [1, 2]
    assert atomic.append("tuple", 2) == (1, 2)
    assert atomic.append("deque", 2) == deque([1, 2])
    assert atomic.append("bounded", 3) == deque([2, 3])
    assert state["bounded"].maxlen == 2
    assert state["deque"].maxlen is None


@pytest.mark.parametrize("kind", [list, tuple, deque])
@pytest.mark.parametrize("max_length", [1, 2, 3, 10])
def test_append_keeps_the_last_items(state, atomic, kind, max_length):
    state["k"] = kind()
    for n in range(12):
        kept = atomic.append("k", n, max_length=max_length)
        assert list(kept) == list(range(n + 1))[-max_length:]
    state["k"] = kind(range(50))  # longer than it may be
    assert atomic.append("k", 50, max_length=max_length) == kind(range(50 - max_length + 1, 51))


@pytest.mark.parametrize("max_length", [0, -1, 2.5, "3"])
def test_append_to_nothing_is_refused(state, atomic, max_length):
    state["k"] = [1]
    with pytest.raises(ValueError, match="max_length"):
        atomic.append("k", 2, max_length=max_length)
    assert state["k"] == [1]


@pytest.mark.parametrize("value", ["text", {}, {1}, 5, None, b"x"], ids=repr)
def test_append_to_something_else_is_refused(state, locks, atomic, value):
    state["k"] = value
    with pytest.raises(TypeError, match=rf"'k'.*{type(value).__name__}"):
        atomic.append("k", 1)
    assert state["k"] is value
    assert not locks["k"].locked()


def test_append_looks_at_no_item(state, atomic):
    state["k"] = [Unreadable()]
    assert len(atomic.append("k", Unreadable())) == 2


def test_no_appended_item_is_lost(state, atomic):
    def work(thread):
        for n in range(100):
            atomic.append("log", (thread, n))

    with ThreadSet() as threads:
        for thread in range(THREADS):
            threads.add(work, thread)
    for thread in range(THREADS):
        assert [item for item in state["log"] if item[0] == thread] == [(thread, n) for n in range(100)]
    assert len(state["log"]) == THREADS * 100


# ------------------------------------------------------------------------------------------------------------ returning


def test_decision_comes_back(state, atomic):
    def may_i():
        return atomic("hits", lambda n: min(n + 1, 3), default=0, returning=lambda old, new: new > old)

    assert [may_i() for _ in range(5)] == [True, True, True, False, False]
    assert state["hits"] == 3


def test_returning_gets_the_old_and_the_new_value(state, locks, atomic):
    state["k"] = old = [1]
    seen = []

    def note(*values):
        seen.append((values, locks["k"].locked(), state["k"] is old))
        return "returned"

    assert atomic("k", lambda value: [*value, 2], returning=note) == "returned"
    assert seen == [(([1], [1, 2]), True, True)]
    assert atomic("absent", lambda n: n + 1, default=0, returning=lambda *values: values) == (0, 1)
    assert atomic("absent", lambda n: n + 1, returning=lambda *_: None) is None
    assert state["absent"] == 2


def test_returning_that_raises_leaves_the_value(state, locks, atomic):
    state["k"] = 1
    with pytest.raises(ZeroDivisionError):
        atomic("k", lambda n: n + 1, returning=lambda old, _: old / 0)
    assert state["k"] == 1
    assert not locks["k"].locked()


@pytest.mark.parametrize("returning", [True, "old", decide_later])
def test_returning_that_is_no_function_is_refused(state, atomic, returning):
    state["k"] = 1
    with pytest.raises(TypeError, match=r"returning= of atomic\('k', \.\.\.\)"):
        atomic("k", lambda n: n + 1, returning=returning)
    assert state["k"] == 1


def test_as_many_decisions_as_allowed_in_many_threads(atomic):
    allowed = []

    def work():
        for _ in range(100):
            allowed.append(atomic("hits", lambda n: min(n + 1, 250), default=0, returning=lambda old, new: new > old))

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(work)
    assert (sum(allowed), len(allowed)) == (250, THREADS * 100)


# ------------------------------------------------------------------------------------------------------------ pop_first


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_pop_first_removes_the_first_item(state, atomic, kind):
    state["k"] = old = kind("abc")
    assert atomic.pop_first("k") == "a"
    assert type(state["k"]) is kind
    assert state["k"] == kind("bc")
    assert old == kind("abc")


def test_pop_first_keeps_the_bound_of_a_deque(state, atomic):
    state["k"] = deque("ab", maxlen=2)
    atomic.pop_first("k", default=None)
    assert state["k"] == deque("b")
    assert state["k"].maxlen == 2


def test_pop_first_without_an_item(store, state, locks, atomic):
    state["k"] = []
    before = store.version("k")
    assert atomic.pop_first("k", default="nothing") == "nothing"
    assert atomic.pop_first("absent", default=None) is None
    with pytest.raises(IndexError, match=r"The list in server_state\['k'\] is empty.*default=None"):
        atomic.pop_first("k")
    with pytest.raises(KeyError, match=r"no key 'absent'.*default=None"):
        atomic.pop_first("absent")
    assert "absent" not in state
    assert store.version("k") == before
    assert not locks["k"].locked()


def test_each_item_is_popped_once(state, atomic):
    popped = []
    state["k"] = tuple(range(THREADS * 100))
    gate = threading.Barrier(THREADS)

    def work():
        gate.wait(DEADLINE)
        while (item := atomic.pop_first("k", default=None)) is not None:
            popped.append(item)

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(work)
    assert sorted(popped) == list(range(THREADS * 100))


# -------------------------------------------------------------------------------------- update, add, discard, maximum


def test_update_makes_a_new_dict(state, atomic):
    assert atomic.update("k", {"a": 1}) == {"a": 1}
    old = state["k"]
    assert atomic.update("k", {"b": 2, "a": 3}) is state["k"]
    assert (state["k"], old) == ({"a": 3, "b": 2}, {"a": 1})


@pytest.mark.parametrize("value", [OrderedDict(a=1), defaultdict(list, a=1)], ids=lambda value: type(value).__name__)
def test_update_keeps_the_type(state, atomic, value):
    state["k"] = value
    atomic.update("k", {"b": 2})
    assert type(state["k"]) is type(value)
    assert dict(state["k"]) == {"a": 1, "b": 2}
    assert getattr(state["k"], "default_factory", list) is list


def test_changes_of_an_update_are_a_mapping(state, atomic):
    for changes in (1, [("a", 1)], "ab", None):
        with pytest.raises(TypeError, match=r"atomic.update\('k', ...\) needs the changes as a dict"):
            atomic.update("k", changes)
    assert "k" not in state


def test_add_and_discard(store, state, atomic):
    assert atomic.add("k", 1) is True
    old = state["k"]
    assert atomic.add("k", 2) is True
    version = store.version("k")
    assert atomic.add("k", 2) is False
    assert atomic.discard("k", 3) is False
    assert store.version("k") == version
    assert (state["k"], old) == ({1, 2}, {1})
    assert atomic.discard("k", 1) is True
    assert state["k"] == {2}
    assert atomic.discard("absent", 1) is False
    assert "absent" not in state


def test_add_and_discard_keep_the_type(state, atomic):
    state["k"] = frozenset({1})
    assert atomic.add("k", 2)
    assert state["k"] == frozenset({1, 2})
    assert atomic.discard("k", 1)
    assert type(state["k"]) is frozenset


def test_items_that_cannot_be_in_a_set_are_refused(state, locks, atomic):
    for method in (atomic.add, atomic.discard):
        with pytest.raises(TypeError, match=r"'k'.*in a set, not a list.*A tuple or a str can be"):
            method("k", [])
    assert "k" not in state
    assert not locks["k"].locked()


def test_one_of_many_threads_adds_an_item(state, atomic):
    added = []

    def work():
        added.extend(n for n in range(100) if atomic.add("k", n))

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(work)
    assert sorted(added) == list(range(100))
    assert state["k"] == set(range(100))


def test_maximum(store, state, atomic):
    assert atomic.maximum("k", 5) == 5
    version = store.version("k")
    assert atomic.maximum("k", 3) == atomic.maximum("k", 5) == 5
    assert store.version("k") == version
    assert atomic.maximum("k", 7) == state["k"] == 7
    assert atomic.maximum("low", -3, default=0) == state["low"] == 0
    assert atomic.maximum("high", 3, default=0) == state["high"] == 3
    assert atomic.maximum("text", "b") == "b"
    assert atomic.maximum("text", "a") == "b"
    with pytest.raises(TypeError, match=r"atomic.maximum\('k', 'a'\).*\['k'\] of type int. Use atomic"):
        atomic.maximum("k", "a")


def test_calls_that_change_nothing_assign_nothing(store, state, atomic):
    state.update(record=5, tags={1}, queue=[])
    store.set_options(lambda _: (_core.COMPARE_ALWAYS, None, 0.0, (0.0, 0.0, True)))
    for key in list(state):
        store.resolve(key)
    versions = list(map(store.version, state))
    atomic.maximum("record", 5)
    atomic.maximum("record", 3)
    atomic.add("tags", 1)
    atomic.discard("tags", 2)
    atomic.pop_first("queue", default=None)
    assert list(map(store.version, state)) == versions


def test_maximum_of_many_threads(state, atomic):
    with ThreadSet() as threads:
        for thread in range(THREADS):
            threads.add(lambda thread: [atomic.maximum("k", n * THREADS + thread) for n in range(200)], thread)
    assert state["k"] == 200 * THREADS - 1


OF_OTHER_TYPES = {
    "pop_first": (["text", {}, {1}, 5, None], ()),
    "update": ([[1], {1}, 5, None, Counter()], ({},)),
    "add": ([[1], {}, 5, None], (1,)),
    "discard": ([[1], {}, 5, None], (1,)),
}


@pytest.mark.parametrize("method", OF_OTHER_TYPES)
def test_values_of_other_types_are_refused(state, locks, atomic, method):
    values, args = OF_OTHER_TYPES[method]
    for value in values:
        state["k"] = value
        words = rf"atomic.{method}\('k', ...\) needs .* is of type {type(value).__name__}. Use atomic\('k', function\)"
        with pytest.raises(TypeError, match=words):
            getattr(atomic, method)("k", *args)
        assert state["k"] is value
        assert not locks["k"].locked()


def test_changes_of_containers_join_a_transaction(state, atomic, transaction):
    state.update(queue=[1, 2], record=3)

    def change():
        with transaction():
            atomic.pop_first("queue")
            atomic.maximum("record", 5)
            atomic.add("tags", state["queue"][0] / 0)

    with pytest.raises(ZeroDivisionError):
        change()
    assert state.to_dict() == {"queue": [1, 2], "record": 3}
    with transaction():
        atomic.update("done", {atomic.pop_first("queue"): True})
        atomic.add("tags", "a")
    assert state.to_dict() == {"queue": [2], "record": 3, "done": {1: True}, "tags": {"a"}}


# ------------------------------------------------------------------------------------------------------ compare_and_set


def test_compare_and_set(state, compare_and_set):
    state["k"] = "waiting"
    assert compare_and_set("k", "running", "done") is False
    assert state["k"] == "waiting"
    assert compare_and_set("k", "waiting", "running") is True
    assert state["k"] == "running"


@pytest.mark.parametrize("expected", [None, False, 0, "", ()], ids=repr)
def test_key_that_is_not_set_is_never_as_expected(state, locks, compare_and_set, expected):
    assert compare_and_set("k", expected, 1) is False
    assert "k" not in state
    assert not locks["k"].locked()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, {"a": (2,)}], [1, {"a": (2,)}]),
        (float("nan"), float("nan")),
        ("long " * 100, "long " * 100),
        (None, None),
        (2**100, 2**100),
    ],
)
def test_values_are_compared_by_content(state, compare_and_set, value, expected):
    state["k"] = value
    assert compare_and_set("k", expected, "new") is True
    assert state["k"] == "new"


@pytest.mark.parametrize(("value", "expected"), [([1, 2], [1, 3]), (1, 2), ("a", b"a"), (0.0, -0.0), (None, 0)])
def test_other_content_is_not_as_expected(state, compare_and_set, value, expected):
    state["k"] = value
    assert compare_and_set("k", expected, "new") is False
    assert state["k"] is value


def test_same_object_is_as_expected(state, compare_and_set):
    """For any value: an object equals itself."""
    for value in (["list"], object(), Unreadable()):
        state["k"] = value
        assert compare_and_set("k", value, "new") is True


def test_set_to_an_equal_value_is_no_change(store, state, compare_and_set, stale_after):
    state["k"] = 1
    before = store.version("k")
    assert not stale_after(lambda: compare_and_set("k", 1, 1))
    assert not stale_after(lambda: compare_and_set("k", 2, 3))
    assert store.version("k") == before
    assert stale_after(lambda: compare_and_set("k", 1, 2))


def test_one_of_many_wins_each_round(state, compare_and_set):
    won = []
    state["turn"] = 0
    rounds = 300
    gate = threading.Barrier(THREADS)

    def race(thread):
        for n in range(rounds):
            gate.wait(DEADLINE)
            if compare_and_set("turn", n, n + 1):
                won.append((n, thread))
            gate.wait(DEADLINE)

    with ThreadSet() as threads:
        for thread in range(THREADS):
            threads.add(race, thread)
    assert [n for n, _ in won] == list(range(rounds))
    assert state["turn"] == rounds


# ------------------------------------------------------------------------------------------------------- peek and touch


def test_peek_subscribes_to_nothing(store, state, session, peek):
    assert peek("k") is None
    assert peek("k", 5) == 5
    assert peek("k", default=6) == 6
    state["k"] = value = []
    assert peek("k", 5) is value
    session.message_sent()
    leave()
    state["k"] = 2
    del state["k"]
    assert store.collect_stale() == []


def test_touch_behaves_as_a_change(store, state, touch, stale_after):
    state["k"] = value = [1]
    before = store.version("k")
    assert stale_after(lambda: touch("k"))
    assert state["k"] is value
    assert store.version("k") > before

    def muted():
        with no_rerun:
            touch("k")

    assert not stale_after(muted)


LOOKS = {
    "in": lambda state: "k" in state,
    "get": lambda state: state.get("k"),
    "attribute": lambda state: hasattr(state, "k"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("is_in_transaction", [False, True])
def test_touch_of_a_missing_key_reruns_the_sessions_that_have_looked_for_it(
    store, state, touch, transaction, session, *, look, is_in_transaction
):
    look(state)
    leave()
    session.finish_run()
    with no_rerun:
        touch("k")
    assert store.collect_stale() == []
    with transaction() if is_in_transaction else nullcontext():
        touch("k")
    assert [scope.session for scope in store.collect_stale()] == [session]
    assert "k" not in state


def test_touch_of_a_missing_key_calls_listeners(state, touch, on_change):
    calls = []
    on_change("k", lambda: calls.append("k" in state))
    touch("k")
    assert calls == [False]


def test_touch_of_a_key_that_is_only_locked(store, state, touch):
    with store.lock("k"):
        touch("k")
    touch("never seen")
    assert "k" not in state
    assert len(state) == 0


def test_touch_of_a_missing_key_is_no_change_of_the_set_of_keys(store, state, touch, session):
    list(state)
    leave()
    session.finish_run()
    touch("k")
    assert store.collect_stale() == []
