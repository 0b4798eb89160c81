"""Assignments that count as changes: content, policies, and values that were changed in place."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from unit.helpers import ATTRIBUTE, DEADLINE, Context, ThreadSet, enter, leave, locate_in_tests

from fastserverstate import _core
from fastserverstate.bounds import Bounds
from fastserverstate.configuration import Configuration, KeyOptions, Settings
from fastserverstate.rerun.inplace import MANY_SCOPES, MOST_SAVED, SHARE, InPlaceWatch
from fastserverstate.updates import Atomic, KeyOperations


@pytest.fixture
def in_place(store):
    return InPlaceWatch(store, is_busy=lambda: False)


@pytest.fixture
def configure(store, in_place):
    return Configuration(
        store,
        Settings(),
        KeyOptions(store),
        set_detect_inplace=in_place.set,
        set_gc_policy=lambda _: None,
        set_bounds=Bounds(store).set,
    ).configure


@pytest.fixture
def changed(store) -> Callable[[Callable[[], object]], bool]:
    """Return whether something changes the key "k": by its version, and for a session that has read it."""
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
        told = [scope.session for scope in store.collect_stale()] == [reader]
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
    "force_rerun_bound_sessions": lambda store, _: KeyOperations(store).force_rerun_bound_sessions("k"),
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
    """Sessions have shown the touched content, so the earlier content is a change."""
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
def test_values_of_unknown_content_count_as_changed(state, changed, value):
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
    """Equals the given values, and counts its comparisons."""

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
    assert not changed(assign(state, state["k"]))  # equals itself


@pytest.mark.parametrize("answer", [False, 0, ValueError(), RecursionError(), np.array([True, True])], ids=repr)
def test_values_that_do_not_say_that_they_are_equal(state, configure, changed, answer):
    configure("k", compare="equality")
    state["k"] = old = Answers(answer)
    assert changed(assign(state, 1))
    assert old.asked == 1


class Slow:
    """Is compared slowly, so that others write meanwhile."""

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
    """Assign an equal value while another thread assigns. Return which of them has changed the key."""

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
    """The result depends on the value at the end of the comparison."""
    assert overtaken("newer") == (True, True)


def test_slow_comparison_overtaken_by_an_equal_assignment(overtaken):
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
        time.sleep(0.02)  # the thread may wait for the lock by then, which is not required
    assert seen == ["old"]
    assert state["k"].content == "new"
    assert not locks["k"].locked()


def test_slow_comparison_ends_while_others_write_quickly(state, configure):
    """The value counts as changed after several comparisons that other writes have overtaken."""

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


def test_content_is_compared_again_after_a_wait_for_the_lock(state, locks, changed):
    """It may have changed in place since then, and readers show its current content."""

    def hold(rows, held):
        with locks["k"]:
            held.set()
            time.sleep(0.02)  # the assignment usually waits for the lock by then. Otherwise, it is tried again
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
        time.sleep(0.02)  # the thread may wait for the lock by then, which is not required
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
    for _ in range(2):  # as in the next run of a script, with another function object
        configure("k", hash_funcs={Connection: lambda connection: connection.url})
    assert changed(assign(state, Connection("a")))  # the fingerprints of the other function are unknown
    assert not changed(assign(state, Connection("a")))
    configure("k", hash_funcs={Connection: lambda connection: connection.url})
    assert not changed(assign(state, Connection("a")))
    assert not changed(assign(state, Connection("a")))
    assert changed(assign(state, Connection("b")))
    configure("k", hash_funcs={})
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


def test_option_that_is_left_out_stays(state, configure, changed):
    configure("k", compare="always")
    configure("k", min_rerun_interval=0)
    configure("k", hash_funcs={})
    assert changed(assign(state, 1))
    assert changed(assign(state, 1))


def test_pattern_holds_for_keys_that_exist_and_for_later_ones(state, configure, changed):
    state["k"] = state["other"] = 1
    configure("[jk]", compare="always")
    assert changed(assign(state, 1))
    del state["k"]
    assert changed(assign(state, 1))
    assert changed(assign(state, 1))
    configure("[jk]", compare="content")
    assert not changed(assign(state, 1))


def test_name_wins_over_patterns_and_the_more_specific_of_these(store, configure):
    for pattern, compare in (("room/*", "always"), ("*", "identity"), ("room/1*", "equality"), ("room/1?", "content")):
        configure(pattern, compare=compare)
        configure("*", min_rerun_interval=0)
    configure("room/1", compare="identity")
    found = [store.policy(key) for key in ("lobby", "room/2", "room/123", "room/12", "room/1")]
    names = [getattr(_core, f"COMPARE_{name}") for name in ("IDENTITY", "ALWAYS", "EQUALITY", "CONTENT", "IDENTITY")]
    assert found == names


def test_options_are_resolved_once_for_a_key(store, state, changed):
    asked = []
    store.set_options(lambda key: asked.append(key) or (_core.COMPARE_ALWAYS, None, 0.0, (0.0, 0.0, True)))
    for _ in range(3):
        assert changed(assign(state, 1))
    with store.transaction((), None):
        state["j"] = 1
    Atomic(store).increment("i")
    assert asked == ["k", "j", "i"]


def test_keys_that_match_a_pattern_leave_nothing_behind(store, state, configure):
    before = store.statistics()["cells"]
    configure("room/*", compare="always", min_rerun_interval=1)
    for number in range(100):
        state[f"room/{number}"] = number
        del state[f"room/{number}"]
    assert store.statistics()["cells"] == before


def test_key_is_configured_while_others_are_first_assigned(store, state, configure):
    """In either order, the configured options apply afterwards."""
    for _ in range(30):
        with ThreadSet() as threads:
            threads.add(configure, "r/*")
            for number in range(4):
                threads.add(state.__setitem__, f"r/{number}", 1)
            threads.add(lambda: configure("r/*", compare="always"))
        for number in range(4):
            before = store.version(f"r/{number}")
            state[f"r/{number}"] = 1
            assert store.version(f"r/{number}") > before
            del state[f"r/{number}"]
        configure("r/*", compare="content")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (["k"], {"compare": "repr"}, ValueError, "compare is one of 'content', 'equality', 'identity', 'always'"),
        ([], {"compare": "always"}, ValueError, r"compare is an option of a key: configure\('key', compare="),
        ([], {"hash_funcs": {}}, ValueError, r"hash_funcs is an option of a key"),
        (["k"], {"hash_funcs": {int: str}, "compare": "identity"}, ValueError, "hash_funcs say what values hold"),
        ([1], {"compare": "always"}, TypeError, "server_state keys are of type str"),
        (["k"], {"gc": "paced"}, ValueError, r"gc is an option of the process, not of 'k': configure\(gc=...\)"),
        (["k"], {"detect_inplace": False}, ValueError, "detect_inplace is an option of the process"),
        (["k"], {"rerun_writer": "never"}, ValueError, "rerun_writer is an option of the process"),
        (["k"], {"max_parallel_reruns": 2}, ValueError, "max_parallel_reruns is an option of the process"),
        (["k"], {"min_rerun_interval": -1}, ValueError, "min_rerun_interval is a duration from 0 up"),
        (["k"], {"min_rerun_interval": "soon"}, ValueError, "min_rerun_interval cannot be 'soon'. Write a number and"),
        (["k"], {"min_rerun_interval": "5"}, ValueError, "min_rerun_interval cannot be '5', which has no unit"),
        (["k"], {"min_rerun_interval": "nat"}, ValueError, "min_rerun_interval cannot be 'nat'"),
        (["k"], {"min_rerun_interval": [1]}, TypeError, "min_rerun_interval is a number of seconds, a timedelta, or"),
        (["k"], {"hash_funcs": {int: None}}, TypeError, "The function for 'builtins.int' in hash_funcs has to"),
        (["k"], {"hash_funcs": {int: asyncio.sleep}}, TypeError, "'builtins.int' in hash_funcs cannot be async"),
        (["k"], {"hash_funcs": {1: str}}, TypeError, "hash_funcs has types or their full names as keys, not 1"),
        (["k"], {"hash_funcs": str}, TypeError, "hash_funcs is a dict of functions by type"),
    ],
)
def test_wrong_options(configure, arguments, options, error, message):
    with pytest.raises(error, match=message):
        configure(*arguments, **options)


# ------------------------------------------------------------------------------------------- values that take long


class PutsTheClockOn:
    """Takes a second to compare."""

    def __reduce__(self):
        _core.advance_clock(1)
        return object, ()


def slow(*more):
    return [PutsTheClockOn(), *range(3000), *more]


def test_value_that_takes_too_long_counts_as_changed(state, changed, caplog):
    value = slow()
    for _ in range(3):
        assert changed(assign(state, value))
    messages = [message for message in caplog.messages if "['k']" in message]
    assert len(messages) == 1
    assert "of type list, takes more than 20 ms" in messages[0]
    assert "configure('k', compare=\"identity\")" in messages[0]


def test_value_that_takes_too_long_in_a_transaction(store, state):
    value = slow()
    versions = []
    for _ in range(3):
        with store.transaction((), None):
            state["k"] = value
        versions.append(store.version("k"))
    assert len(set(versions)) == 3


def test_fingerprint_that_was_given_up_is_not_kept(state, changed):
    """The next value that is compared in time differs from all earlier ones."""
    assert changed(assign(state, slow()))
    assert changed(assign(state, [*range(3000)]))
    assert not changed(assign(state, [*range(3000)]))
    assert changed(assign(state, slow()))
    assert changed(assign(state, [*range(3000)]))


def test_small_value_is_always_compared_completely(state, changed):
    """The clock is read only now and then."""
    assert changed(assign(state, [PutsTheClockOn()]))
    assert not changed(assign(state, [PutsTheClockOn()]))


# ------------------------------------------------------------------------------------------------- changes in place


@pytest.fixture
def detecting(caplog):
    caplog.set_level(logging.WARNING, logger="fastserverstate")
    return caplog


READS: dict[str, Callable[..., object]] = {
    "item": lambda state: state["k"],
    "attribute": lambda state: state.k,
    "get": lambda state: state.get("k"),
    "setdefault": lambda state: state.setdefault("k", 0),
    "items": lambda state: dict(state.items()),
    "values": lambda state: list(state.values()),
    "unpacked": lambda state: {**state},
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("wanted", [None, True])
def test_change_in_place_is_reported_once_with_the_line_that_reads_it(
    state, session, in_place, detecting, *, read, wanted
):
    in_place.set(wanted)
    state["k"] = state["other"] = rows = [1]
    for number in range(4):
        session.start_run()
        read(state)
        read(state)
        if number == 1:
            rows.append(2)
        in_place.look()
        session.finish_run()
    messages = [message for message in detecting.messages if "['k']" in message]
    assert len(messages) == 1
    assert "was changed in place" in messages[0]
    assert f"{__file__}:{read.__code__.co_firstlineno} in " in messages[0]
    assert "force_rerun_bound_sessions('k')" in messages[0]


def test_change_in_place_in_a_callback_is_reported(state, store, session, in_place, detecting):
    """Reads of the comparison subscribe nothing."""
    state["k"] = {"Tea": 0}
    leave()
    context = Context(session=session, part=None)
    _core.locate_scopes(ATTRIBUTE, None, "part", lambda *_: (session, session.untracked_scope(), _core.RUN_STARTING))
    try:
        enter(session, context=context)
        state["k"]["Tea"] += 1
        in_place.look()
        leave()
    finally:
        locate_in_tests()
    assert len(detecting.messages) == 1
    assert "in test_change_in_place_in_a_callback_is_reported" in detecting.messages[0]
    session.finish_run()
    state["k"] = 1
    assert store.collect_stale() == []


def test_change_in_place_that_is_assigned_or_announced_is_none(store, state, session, in_place, detecting):
    def run(*actions):
        session.start_run()
        rows = state["k"]
        rows.append(len(rows))
        for action in actions:
            action(rows)
        in_place.look()
        session.finish_run()

    def commit(rows):
        with store.transaction((), None):
            state["k"] = rows

    state["k"] = []
    run(lambda rows: state.__setitem__("k", rows))
    run(lambda _: store.touch("k"))
    run(commit)
    assert detecting.messages == []
    run()
    assert len(detecting.messages) == 1


@pytest.mark.parametrize(
    "reason",
    [
        lambda configure, _session: configure(detect_inplace=False),
        lambda _configure, session: [session.scope(str(n)) for n in range(MANY_SCOPES + 1)],
    ],
    ids=["switched off", "many scopes"],
)
def test_nothing_is_noted(store, state, session, in_place, *, configure, detecting, reason):
    state["k"] = rows = [1]
    reason(configure, session)
    in_place.look()
    session.start_run()
    assert state["k"] is rows
    rows.append(2)
    assert store.take_reads()[0] == []
    in_place.look()
    assert detecting.messages == []


def test_nothing_is_checked_while_sessions_are_due(store, state, session, detecting):
    due = [False]
    watch = InPlaceWatch(store, is_busy=lambda: due[0])
    state["k"] = rows = [1]
    for due[0] in (True, False, False):
        assert detecting.messages == []
        session.start_run()
        assert state["k"] is rows
        rows.append(2)
        watch.look()
    assert len(detecting.messages) == 1


def test_checks_take_no_more_than_their_share(store, state, session, detecting):
    """After a check that has used up the time budget, no check follows before runs have taken long enough."""
    now = [0.0]

    def clock():
        now[0] += 2 * MOST_SAVED  # of each check
        return now[0]

    watch = InPlaceWatch(store, is_busy=lambda: False, clock=clock)
    state["k"], state["j"] = [1], [1]

    def run(seconds):
        session.start_run()
        looked = len(detecting.messages)
        for key in ("k", "j"):
            state[key].append(0)
        _core.advance_clock(seconds)
        watch.look()
        session.finish_run()
        return len(detecting.messages) - looked

    assert run(0) == 1
    assert run(0) == 0
    assert run(3 * MOST_SAVED / SHARE) == 0  # nothing was recorded, because nothing could be checked
    assert run(0) == 1


def test_value_that_takes_too_long_to_check_is_skipped(store, state, session, in_place, detecting):
    state["k"] = rows = [*range(3000)]
    session.start_run()
    assert state["k"] is rows
    rows.append(PutsTheClockOn())
    rows.reverse()
    in_place.look()
    assert detecting.messages == []
    assert store.changed_in_place("k", 0.01) is None


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_check_raises_nothing_into_the_run(state, session, in_place, detecting, error):
    class Raises:
        def __reduce__(self):
            raise error

    state["k"] = rows = [1]
    session.start_run()
    assert state["k"] is rows
    rows.append(Raises())
    in_place.look()
    assert detecting.messages == []


def test_check_of_a_value_that_reads_the_state_subscribes_nothing(store, state, session, in_place):
    class Reads:
        def __reduce__(self):
            state.get("other")
            return object, ()

    state["k"] = rows = [1]
    session.start_run()
    assert state["k"] is rows
    rows.append(Reads())
    in_place.look()
    session.finish_run()
    leave()
    state["other"] = 1
    assert store.collect_stale() == []
