"""When an assignment counts as a change: content, policies, and values that were changed in place."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from unit.helpers import DEADLINE, ThreadSet, enter, leave

from fastserverstate import _core
from fastserverstate.atomic import Atomic, compare_and_set_with, wait_for_with
from fastserverstate.configuration import configure_with
from fastserverstate.rerun.control import force_rerun_with


@pytest.fixture
def configure(store):
    return configure_with(store, SimpleNamespace(), SimpleNamespace(collector=None), None)


@pytest.fixture
def changed(store) -> Callable[[Callable[[], object]], bool]:
    """Whether something changes the key "k": by its version, and for a session that has read it."""
    reader = _core.Session(store)
    state = _core.Namespace(store)

    def changed(action: Callable[[], object]) -> bool:
        reader.start_run()
        enter(reader)
        state.get("k")
        reader.finish_run()
        leave()
        version = store.version("k")
        action()
        told = [scope.owner for scope in store.collect_stale()] == [reader]
        assert told == (store.version("k") != version)
        return told

    return changed


def assign(state, value):
    return lambda: state.__setitem__("k", value)


def test_equal_content_is_no_change_and_a_change_in_place_is_one(state, changed):
    rows = [{"id": i, "tags": ["a"]} for i in range(100)]
    assert changed(assign(state, rows))
    assert not changed(assign(state, rows))
    rows[50]["tags"].append("b")
    assert changed(assign(state, rows))
    assert not changed(assign(state, rows))
    assert not changed(assign(state, [{"id": i, "tags": ["a", "b"] if i == 50 else ["a"]} for i in range(100)]))
    assert changed(assign(state, rows[:-1]))


def test_value_is_replaced_by_an_equal_one(state):
    state["k"] = first = [1]
    state["k"] = second = [1]
    assert state["k"] is second is not first


TOUCHES: dict[str, Callable[..., object]] = {
    "touch": lambda store, _: store.touch("k"),
    "force_rerun_bound_sessions": lambda store, _: force_rerun_with(store)("k"),
    "touch in a transaction": lambda store, _: in_transaction(store, lambda: store.touch("k")),
    "assignment": lambda _, state: state.__setitem__("k", state["k"]),
    "assignment in a transaction": lambda store, state: in_transaction(
        store, lambda: state.__setitem__("k", state["k"])
    ),
    "atomic": lambda store, _: Atomic(store)("k", lambda value: value),
}


def in_transaction(store, action):
    with store.transaction((), None):
        action()


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_content_from_before_a_touch_is_a_change(store, state, changed, touch):
    """Sessions have been shown what was touched, so going back is news."""
    state["k"] = rows = [1]
    rows.append(2)
    assert changed(lambda: touch(store, state))
    rows.pop()
    assert changed(assign(state, rows))
    assert not changed(assign(state, [1]))
    state["k"].append(2)
    touch(store, state)
    assert changed(assign(state, [1]))


def test_removal_forgets_the_content(store, state, changed):
    state["k"] = [1]
    del state["k"]
    assert changed(assign(state, [1]))
    state["k"].append(2)
    assert changed(lambda: in_transaction(store, lambda: (state.pop("k"), state.__setitem__("k", [1, 2]))))
    assert changed(assign(state, [1]))


def test_array_that_was_changed_in_the_middle(state, changed):
    array = np.zeros((1000, 1000))
    assert changed(assign(state, array))
    assert not changed(assign(state, array.copy()))
    array[500, 500] = 1
    assert changed(assign(state, array))


UNTELLABLE = {
    "bare object": object(),
    "lock": threading.Lock(),
    "generator": (i for i in "a"),
    "what holds one": [{"k": threading.Lock()}],
}


@pytest.mark.parametrize("value", UNTELLABLE.values(), ids=UNTELLABLE)
def test_what_cannot_be_told_counts_as_changed(state, changed, value):
    assert changed(assign(state, value))
    assert changed(assign(state, value))


def test_plain_and_other_values_in_turn(state, changed):
    for value in ([1], 1, [1], None, (1,), 1.0, True, 1, "1", b"1"):
        assert changed(assign(state, value))
        assert not changed(assign(state, value))


def test_content_counts_in_transactions(state, store, changed):
    state["k"] = rows = [1]

    def write(value):
        with store.transaction((), None):
            state["k"] = 0
            state["k"] = value

    assert not changed(lambda: write([1]))
    assert not changed(lambda: write(rows))
    rows.append(2)
    assert changed(lambda: write(rows))
    assert not changed(assign(state, [1, 2]))


def test_content_counts_in_atomic_changes(state, store, changed):
    state["k"] = [1]
    change = Atomic(store)
    assert not changed(lambda: change("k", list))
    assert changed(lambda: change("k", lambda value: value.append(2) or value))


class Answers:
    """Equal to what it is told, and counts how often it is asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0

    def __eq__(self, _):
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    __hash__ = None


def test_equality(state, configure, changed):
    configure("k", compare="equality")
    assert changed(assign(state, 1))
    assert not changed(assign(state, 1.0))
    assert not changed(assign(state, True))
    assert changed(assign(state, 2))
    assert changed(assign(state, [1]))
    state["k"].append(2)
    assert not changed(assign(state, state["k"]))  # it equals itself


@pytest.mark.parametrize("answer", [False, 0, ValueError(), RecursionError(), np.array([True, True])], ids=repr)
def test_values_that_do_not_say_that_they_are_equal(state, configure, changed, answer):
    configure("k", compare="equality")
    state["k"] = old = Answers(answer)
    assert changed(assign(state, 1))
    assert old.asked == 1


class Slow:
    """Takes its time to say what it holds: others write meanwhile."""

    meanwhile: list[Callable[[], object]] = []  # noqa: RUF012
    thoughts = 0

    def __init__(self, content):
        self.content = content

    def _think(self):
        Slow.thoughts += 1
        meanwhile, Slow.meanwhile = Slow.meanwhile, []
        for write in meanwhile:
            writer = threading.Thread(target=write)
            writer.start()
            writer.join(DEADLINE)
            assert not writer.is_alive()

    def __eq__(self, other):
        self._think()
        return isinstance(other, Slow) and other.content == self.content

    __hash__ = None

    def __reduce__(self):
        self._think()
        return Slow, (self.content,)


COMPARISONS = {
    "content": {},
    "hash_funcs": {"hash_funcs": {Slow: lambda value: (value._think(), value.content)}},
    "equality": {"compare": "equality"},
}


@pytest.fixture(params=COMPARISONS.values(), ids=COMPARISONS)
def overtaken(request, state, store, configure):
    """Assign what equals the value that is there. Meanwhile another thread assigns. Which of them has changed it."""

    def overtaken(newer: str) -> tuple[bool, bool]:
        configure("k", **request.param)
        state["k"] = Slow("same")
        versions = [store.version("k")]

        def overtake() -> None:
            state["k"] = Slow(newer)
            versions.append(store.version("k"))

        Slow.meanwhile = [overtake]
        state["k"] = Slow("same")
        assert state["k"].content == "same"
        before, between, after = *versions, store.version("k")
        return after > between, between > before

    return overtaken


def test_slow_comparison_hides_no_change_that_was_made_meanwhile(overtaken):
    """What counts is what is there at its end, not what it began with."""
    assert overtaken("newer") == (True, True)


def test_slow_comparison_beside_an_equal_assignment(overtaken):
    assert overtaken("same") == (False, False)


@pytest.mark.parametrize("options", COMPARISONS.values(), ids=COMPARISONS)
def test_comparison_after_a_wait_holds_up_no_reader(state, locks, configure, options):
    configure("k", **options)
    state["k"] = Slow("old")
    seen = []
    writing = threading.Event()

    def write():
        writing.set()
        state["k"] = Slow("new")

    with ThreadSet() as threads, locks["k"]:
        Slow.meanwhile = [lambda: seen.append(state["k"].content)]
        threads.add(write)
        threads.go()
        assert writing.wait(DEADLINE)
        time.sleep(0.02)  # it may wait for the lock by then, which is no condition of anything
    assert seen == ["old"]
    assert state["k"].content == "new"
    assert not locks["k"].locked()


def test_slow_comparison_beside_quick_writers_comes_to_an_end(state, configure):
    """It counts as changed after some tries, each of which another write has overtaken."""

    def overtake():
        state["k"] = object()
        Slow.meanwhile.append(overtake)

    configure("k", compare="equality")
    state["k"] = Slow("old")
    Slow.thoughts, Slow.meanwhile = 0, [overtake]
    state["k"] = new = Slow("new")
    Slow.meanwhile.clear()
    assert state["k"] is new
    assert 2 < Slow.thoughts < 100


def test_content_is_looked_at_again_after_a_wait_for_the_lock(state, locks, changed):
    """It may have changed in place since then, and readers are shown what it is now."""

    def hold(rows, held):
        with locks["k"]:
            held.set()
            time.sleep(0.02)  # the assignment mostly waits for the lock by then: if not, it is tried again
            rows.append(2)

    Slow.thoughts = 0
    while Slow.thoughts < 2:
        state["k"], held, rows = 0, threading.Event(), [Slow(1)]
        Slow.thoughts = 0
        with ThreadSet() as threads:
            threads.add(hold, rows, held)
            Slow.meanwhile = [lambda: (threads.go(), held.wait(DEADLINE))]  # noqa: B023
            state["k"] = rows
    rows.pop()
    assert changed(assign(state, rows))


def test_stopped_comparison_changes_nothing(state, locks, configure):
    configure("k", compare="equality")
    state["k"] = old = Answers(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        state["k"] = 1
    assert state["k"] is old
    assert not locks["k"].locked()


def test_stopped_comparison_gives_back_the_lock_that_it_has_waited_for(state, locks, configure):
    configure("k", compare="equality")
    state["k"] = Answers(KeyboardInterrupt())
    stopped = []
    writing = threading.Event()

    def write():
        writing.set()
        try:
            state["k"] = 1
        except KeyboardInterrupt:
            stopped.append(True)

    with ThreadSet() as threads, locks["k"]:
        threads.add(write)
        threads.go()
        assert writing.wait(DEADLINE)
        time.sleep(0.02)  # it may wait for the lock by then, which is no condition of anything
    assert stopped == [True]
    assert not locks["k"].locked()


def test_identity(state, configure, changed):
    configure("k", compare="identity")
    value = [1]
    assert changed(assign(state, value))
    value.append(2)
    assert not changed(assign(state, value))
    assert changed(assign(state, [1, 2]))


def test_always(state, configure, changed):
    configure("k", compare="always")
    assert changed(assign(state, 1))
    assert changed(assign(state, 1))


def test_hash_funcs(state, configure, changed):
    class Connection:
        def __init__(self, url):
            self.url, self.socket = url, threading.Lock()

    assert changed(assign(state, Connection("a")))
    assert changed(assign(state, Connection("a")))
    for _ in range(2):  # as a script does it that is run again, with another function
        configure("k", hash_funcs={Connection: lambda connection: connection.url})
    assert changed(assign(state, Connection("a")))  # nothing is known of how the other one would be told
    assert not changed(assign(state, Connection("a")))
    configure("k", hash_funcs={Connection: lambda connection: connection.url})
    assert not changed(assign(state, Connection("a")))
    assert not changed(assign(state, Connection("a")))
    assert changed(assign(state, Connection("b")))
    configure("k", compare="content")
    assert changed(assign(state, Connection("b")))
    assert changed(assign(state, Connection("b")))


def test_hash_funcs_for_plain_types(state, store, configure, changed):
    configure("k", hash_funcs={float: round})
    assert changed(assign(state, 1.1))
    assert not changed(assign(state, 1.2))
    assert changed(assign(state, 1.7))
    configure("k", hash_funcs={"builtins.int": lambda value: value // 10})
    assert changed(assign(state, 10))
    assert not changed(lambda: Atomic(store).increment("k", 1))
    assert changed(lambda: Atomic(store).increment("k", 10))


def test_hash_func_that_fails(state, configure, changed):
    configure("k", hash_funcs={int: lambda _: 1 / 0})
    assert changed(assign(state, 1))
    assert changed(assign(state, 1))


def test_policy_of_a_key_that_is_not_set_is_kept(state, configure, changed):
    configure("k", compare="always")
    assert changed(assign(state, 1))
    del state["k"]
    assert changed(assign(state, 1))
    assert changed(assign(state, 1))


def test_policy_outlives_a_fork(store, state, configure, changed):
    configure("k", compare="always")
    store.reset_after_fork()
    state["k"] = 1
    assert changed(assign(state, 1))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (["k"], {"compare": "repr"}, ValueError, "compare is one of 'content', 'equality', 'identity', 'always'"),
        ([], {"compare": "always"}, ValueError, r"options of a key: configure\('key', ...\)"),
        ([], {"hash_funcs": {}}, ValueError, r"options of a key: configure\('key', ...\)"),
        (["k"], {"hash_funcs": {int: str}, "compare": "identity"}, ValueError, "hash_funcs say what values hold"),
        ([1], {"compare": "always"}, TypeError, "server_state keys are of type str"),
    ],
)
def test_wrong_options(configure, arguments, options, error, message):
    with pytest.raises(error, match=message):
        configure(*arguments, **options)


# ------------------------------------------------------------------------------------------------- changes in place


@pytest.fixture
def detecting(configure, caplog):
    configure(detect_inplace=True)
    caplog.set_level(logging.WARNING, logger="fastserverstate")
    yield caplog
    configure(detect_inplace=False)


READS: dict[str, Callable[..., object]] = {
    "item": lambda state, _: state["k"],
    "attribute": lambda state, _: state.k,
    "get": lambda state, _: state.get("k"),
    "setdefault": lambda state, _: state.setdefault("k", 0),
    "peek": lambda _, store: store.peek("k"),
    "items": lambda state, _: dict(state.items()),
    "values": lambda state, _: list(state.values()),
    "unpacked": lambda state, _: {**state},
    "compare_and_set": lambda _, store: compare_and_set_with(store)("k", "never", 1),
    "wait_for": lambda _, store: wait_for_with(store)("k"),
    "atomic": lambda _, store: Atomic(store)("k", lambda value: value),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_change_in_place_is_reported_once_with_the_line_that_reads_it(store, state, detecting, read):
    state["k"] = state["other"] = rows = [1]
    read(state, store)
    assert detecting.messages == []
    rows.append(2)
    read(state, store)
    read(state, store)
    messages = [message for message in detecting.messages if "['k']" in message]
    assert len(messages) == 1
    assert "was changed in place" in messages[0]
    assert f"{__file__}:{read.__code__.co_firstlineno} in " in messages[0]


def test_change_in_place_that_is_assigned_or_announced_is_none(store, state, detecting):
    state["k"] = rows = [1]
    rows.append(2)
    state["k"] = rows
    assert state["k"] == [1, 2]
    rows.append(3)
    store.touch("k")
    assert state["k"] == [1, 2, 3]
    with store.transaction((), None):
        state["k"] = rows
    assert state["k"] == [1, 2, 3]
    assert detecting.messages == []
    rows.append(4)
    assert state["k"] == [1, 2, 3, 4]
    assert len(detecting.messages) == 1


def test_detection_ends(state, configure, detecting):
    state["k"] = rows = [1]
    configure(detect_inplace=False)
    rows.append(2)
    assert state["k"] == [1, 2]
    assert detecting.messages == []
