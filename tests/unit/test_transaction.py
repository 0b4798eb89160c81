"""`transaction`: several changes that become visible atomically or not at all."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from datetime import timedelta

import pytest
from unit.helpers import DEADLINE, ThreadSet, elsewhere, enter, is_free, leave

from fastserverstate import _core, no_rerun
from fastserverstate.updates import Atomic, BeginTransaction, KeyOperations

pytestmark = pytest.mark.usefixtures("many_switches")

SOON = 0.02


class StopException(BaseException):
    """Ends a script's run. Like Streamlit's, it is no ``Exception``."""


# -------------------------------------------------------------------------------------------------- what is seen inside


@pytest.mark.parametrize("declared", [("k", "gone", "new"), ()], ids=["declared", "undeclared"])
def test_writes_are_visible_to_the_writer(store, state, transaction, declared):
    state.update(k=1, gone=1, other=1)
    with transaction(*declared):
        state["k"] = 2
        del state["gone"]
        state["new"] = 3
        assert state["k"] == state.k == state.get("k") == store.peek("k") == state.setdefault("k", 9) == 2
        assert "k" in state
        assert "gone" not in state
        assert not hasattr(state, "gone")
        assert state.get("gone", "default") == "default"
        assert store.peek("gone", "default") == "default"
        with pytest.raises(KeyError):
            state["gone"]
        with pytest.raises(KeyError):
            del state["gone"]
        store.touch("gone")
        assert "gone" not in state
        assert state.new == 3
        assert len(state) == 3
        assert list(state) == list(state.keys()) == ["k", "other", "new"]
        assert dict(state.items()) == dict(state) == {"k": 2, "other": 1, "new": 3}
        assert list(state.values()) == [2, 1, 3]
        assert state == {"k": 2, "other": 1, "new": 3}
    assert dict(state) == {"k": 2, "other": 1, "new": 3}
    assert list(state) == ["k", "other", "new"]


def test_every_kind_of_change_can_be_made(store, state, transaction, atomic):
    state.update(item=1, attribute=1, pop=1, delete=1, delattr=1, touch=1, atomic=1, cas=1, log=["a"])
    before = store.version("touch")
    with transaction():
        state["item"] = 2
        state.attribute = 2
        assert state.pop("pop") == 1
        assert state.pop("pop", "none") == "none"
        del state["delete"]
        del state.delattr
        store.touch("touch")
        assert atomic("atomic", lambda value: value + 1) == 2
        assert atomic.increment("count") == 1
        assert atomic.increment("count", 5) == 6
        assert atomic.append("log", "b") == ["a", "b"]
        assert KeyOperations(store).compare_and_set("cas", 1, 2) is True
        assert KeyOperations(store).compare_and_set("cas", 1, 3) is False
        assert state.setdefault("default", 2) == 2
        assert state.setdefault("default", 3) == 2
        state.update(updated=2)
        inside = dict(state)
        assert store.version("touch") == before
    expected = {"item": 2, "attribute": 2, "touch": 1, "atomic": 2, "cas": 2, "log": ["a", "b"]}
    expected |= {"count": 6, "default": 2, "updated": 2}
    assert dict(state) == inside == expected
    assert store.version("touch") > before


def test_clear_and_popitem(state, transaction):
    state.update(a=1, b=2)
    with transaction():
        state.clear()
        assert dict(state) == {}
        with pytest.raises(KeyError):
            state.popitem()
        state["c"] = 3
        assert state.popitem() == ("c", 3)
    assert dict(state) == {}


def test_missing_keys_stay_missing(store, state, transaction, atomic):
    """For every operation in the block."""
    asks = [
        lambda: state["k"],
        lambda: state.k,
        lambda: state.__delitem__("k"),
        lambda: state.pop("k"),
        lambda: atomic("k", lambda value: value),
    ]
    with transaction("k"):
        store.touch("k")
        for ask in asks:
            with pytest.raises((KeyError, AttributeError)):
                ask()
            assert "k" not in state
            assert state.get("k") is None
        assert KeyOperations(store).compare_and_set("k", None, 1) is False
        assert len(state) == 0
    assert dict(state) == {}


def test_touch_does_not_bring_an_old_value_back(store, state, transaction):
    state["k"] = 1
    with transaction():
        state["k"] = 2
        store.touch("k")
        assert state["k"] == 2
        state["k"] = 3
    assert state["k"] == 3


# ------------------------------------------------------------------------------------------------------ what others see


def test_others_see_nothing_until_the_end(store, state, locks, transaction):
    """Keys without a lock can be read. Reads of locked keys wait, and see whole transactions."""
    state.update(a=1, b=1, free=1)
    seen = []

    def read():
        seen.append(state["free"])
        seen.append((state["a"], state["b"]))

    with ThreadSet() as threads:
        reader = threads.add(read)
        with transaction("a"):
            state["a"] = 2
            state["b"] = 2
            state["new"] = 2
            threads.go()
            reader.join(SOON)
            assert seen == [1]
            assert elsewhere(lambda: (len(state), list(state), store.keys())) == (
                3,
                ["a", "b", "free"],
                ["a", "b", "free"],
            )
            assert elsewhere(locks["b"].acquire, False) is False
    assert seen == [1, (2, 2)]
    assert list(state) == ["a", "b", "free", "new"]


@pytest.mark.parametrize("block", ["transaction", "locks"])
def test_several_keys_appear_atomically(state, locks, transaction, block):
    """For readers that hold all locks, through a transaction or through locks."""
    keys = [f"k{i}" for i in range(5)]
    state.update(dict.fromkeys(keys, 0))
    over = []

    def write(order):
        for n in range(300):
            with transaction(*order):
                for key in order:
                    state[key] = (id(order), n)
        over.append(1)

    def read():
        while len(over) < 2:
            with transaction(*keys) if block == "transaction" else locks[tuple(keys)]:
                assert len({state[key] for key in keys}) == 1

    with ThreadSet() as threads:
        threads.add(write, keys)
        threads.add(write, keys[::-1])
        threads.add(read)
        threads.add(read)


def test_keys_appear_and_vanish_atomically(state, transaction):
    """For threads that count the keys without a lock."""
    keys = [f"k{i}" for i in range(40)]
    over = threading.Event()

    def write():
        for _ in range(200):
            with transaction():
                state.update(dict.fromkeys(keys, 1))
            with transaction(*keys):
                for key in keys:
                    del state[key]
        over.set()

    def count():
        while not over.is_set():
            assert len(list(state)) in {0, 40}
            assert len(state) in {0, 40}

    with ThreadSet() as threads:
        threads.add(write)
        threads.add(count)
        threads.add(count)


def test_undeclared_reads_see_the_last_committed_value(state, transaction):
    state["k"] = 1
    with transaction("other"):
        assert state["k"] == 1
        elsewhere(state.__setitem__, "k", 2)
        assert state["k"] == 2


def test_declared_keys_do_not_change_under_the_reader(state, transaction):
    state["k"] = 1
    with ThreadSet() as threads, transaction("k"):
        thread = threads.add(state.__setitem__, "k", 2)
        threads.go()
        thread.join(SOON)
        assert thread.is_alive()
        assert state["k"] == 1
    assert state["k"] == 2


def test_written_keys_do_not_change_under_the_writer(state, transaction):
    """From the write on, even if the value is deleted again."""
    with ThreadSet() as threads, transaction():
        state["k"] = 1
        del state["k"]
        thread = threads.add(state.__setitem__, "k", 2)
        threads.go()
        thread.join(SOON)
        assert thread.is_alive()
        assert "k" not in state
    assert state["k"] == 2


# ------------------------------------------------------------------------------------------------------------- rollback


ERRORS = [ZeroDivisionError, StopException, KeyboardInterrupt, SystemExit, GeneratorExit]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("declared", [("changed", "deleted", "new"), ()], ids=["declared", "undeclared"])
def test_any_exception_discards_everything(store, state, locks, transaction, *, declared, error):
    state.update(changed=1, deleted=1, touched=1)
    versions = {key: store.version(key) for key in state}
    clock = store.statistics()["clock"]

    def fail():
        with transaction(*declared):
            state["changed"] = 2
            del state["deleted"]
            state["new"] = 1
            store.touch("touched")
            Atomic(store).increment("changed")
            raise error

    with pytest.raises(error):
        fail()
    assert dict(state) == {"changed": 1, "deleted": 1, "touched": 1}
    assert {key: store.version(key) for key in state} == versions
    assert store.statistics()["clock"] == clock
    assert all(is_free(locks[key]) for key in ("changed", "deleted", "new", "touched"))
    state["changed"] = 5
    assert elsewhere(state.get, "changed") == 5


def test_everything_works_after_a_rollback(state, transaction):
    for n in range(50):
        with contextlib.suppress(ZeroDivisionError), transaction():
            state["k"] = n
            raise ZeroDivisionError
        with transaction("k"):
            assert state.get("k") == (n - 1 if n else None)
            state["k"] = n
    assert state["k"] == 49


def test_error_in_the_block_is_the_error_that_is_raised(state, transaction):
    error = ZeroDivisionError("mine")

    def fail():
        with transaction():
            state["k"] = 1
            raise error

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert caught.value is error
    assert caught.value.__context__ is None


def test_leaving_the_block_by_return_and_break_commits(state, transaction):
    def leave_by_return():
        with transaction():
            state["a"] = 1
            return state["a"]

    assert leave_by_return() == 1
    for _ in range(2):
        with transaction():
            state["b"] = 1
            break
    assert dict(state) == {"a": 1, "b": 1}


def test_caught_inside_is_not_an_exception_of_the_block(state, transaction):
    with transaction():
        state["k"] = 1
        with contextlib.suppress(ZeroDivisionError):
            state["k"] = 2 // 0
    assert state["k"] == 1


def test_discarded_values_are_released(state, transaction):
    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    with contextlib.suppress(ZeroDivisionError), transaction():
        state["k"] = value
        del value
        raise ZeroDivisionError
    gc.collect()
    assert gone() is None


def test_replaced_values_are_released_when_no_lock_is_held(state, locks, transaction):
    """Their finalizers may run any code."""
    found = []

    class Value:
        def __del__(self):
            found.append([is_free(locks[key]) for key in ("a", "b", "c")])

    state.update(a=Value(), b=Value(), c=1)
    with transaction("a", "b", "c"):
        state["a"] = 1
        del state["b"]
        state["c"] = Value()
        state["c"] = 2
        assert [entry for entry in found if entry[0]] == []  # the one that was never seen may be freed immediately
    gc.collect()
    assert len(found) == 3
    assert sum(entry == [True] * 3 for entry in found) >= 2


# -------------------------------------------------------------------------------------------------------------- nesting


def test_nested_transaction_joins_the_outer(state, transaction):
    with transaction("a"):
        state["a"] = 1
        with transaction("b"):
            assert state["a"] == 1
            state["a"] = 2
            state["b"] = 2
            with transaction():
                state["c"] = state["a"] + state["b"]
        assert dict(state) == {"a": 2, "b": 2, "c": 4}
        assert elsewhere(list, state) == []
    assert elsewhere(dict, state) == {"a": 2, "b": 2, "c": 4}


def test_outer_exception_discards_the_writes_of_the_inner_block(state, transaction):
    with contextlib.suppress(ZeroDivisionError), transaction():
        with transaction():
            state["k"] = 1
        raise ZeroDivisionError
    assert dict(state) == {}


@pytest.mark.parametrize("error", ERRORS)
def test_inner_exception_undoes_the_writes_of_the_inner_block(store, state, locks, transaction, error):
    state.update(kept=0, changed=0, deleted=0)
    with transaction("kept"):
        state["kept"] = 1
        state["changed"] = 1
        del state["deleted"]
        state["new"] = 1
        with contextlib.suppress(error), transaction("x"):
            state["changed"] = 2
            state["deleted"] = 2
            del state["new"]
            state["newer"] = 2
            store.touch("kept")
            raise error
        assert dict(state) == {"kept": 1, "changed": 1, "new": 1}
        assert "newer" not in state
        state["after"] = 1
    assert dict(state) == {"kept": 1, "changed": 1, "new": 1, "after": 1}
    assert all(is_free(locks[key]) for key in ("kept", "changed", "deleted", "new", "newer", "after", "x"))


def test_inner_exception_in_the_middle_of_three(state, transaction):
    with transaction():
        state["a"] = 1
        with contextlib.suppress(ZeroDivisionError), transaction():
            state["a"] = 2
            with transaction():
                state["a"] = 3
                state["b"] = 3
            assert dict(state) == {"a": 3, "b": 3}
            raise ZeroDivisionError
        assert dict(state) == {"a": 1}
        with transaction():
            state["b"] = 4
            with contextlib.suppress(ZeroDivisionError), transaction():
                state["b"] = 5
                raise ZeroDivisionError
            assert state["b"] == 4
    assert dict(state) == {"a": 1, "b": 4}


def test_touch_that_was_undone_has_not_happened(store, state, transaction):
    """The outer transaction assigns the previous value, which is no change."""
    state["k"] = 1
    before = store.version("k")
    with transaction():
        with contextlib.suppress(ZeroDivisionError), transaction():
            store.touch("k")
            raise ZeroDivisionError
        state["k"] = 1
    assert store.version("k") == before


def test_key_that_was_undone_can_be_read_and_written_again(state, transaction):
    state["k"] = 0
    with transaction():
        with contextlib.suppress(ZeroDivisionError), transaction():
            state["k"] = 1
            raise ZeroDivisionError
        assert state["k"] == 0
        state["k"] += 5
        assert state["k"] == 5
    assert state["k"] == 5


def test_inner_timeout_leaves_the_outer_alone(state, locks, transaction):
    state["k"] = 0
    holding, let_go = threading.Event(), threading.Event()

    def hold():
        with locks["busy"]:
            holding.set()
            let_go.wait(DEADLINE)

    with ThreadSet() as threads:
        threads.add(hold)
        threads.go()
        assert holding.wait(DEADLINE)
        with transaction("k"):
            state["k"] = 1
            with pytest.raises(TimeoutError, match="busy"), transaction("also", "busy", timeout=0.01):
                raise AssertionError("entered")
            assert is_free(locks["also"])
            assert not is_free(locks["k"])
            state["k"] += 1
        let_go.set()
    assert state["k"] == 2


def test_locks_of_the_inner_are_kept_until_the_outer_ends(state, locks, transaction):
    """Their values can still be discarded."""
    with transaction():
        with transaction("declared"):
            state["written"] = 1
        assert not is_free(locks["declared"])
        assert not is_free(locks["written"])
    assert is_free(locks["declared"])
    assert is_free(locks["written"])


# --------------------------------------------------------------------------------------------------- locks and timeouts


def test_declared_keys_are_locked_at_the_start_and_others_when_written(state, locks, transaction):
    with transaction("a", "b"):
        assert [is_free(locks[key]) for key in "abc"] == [False, False, True]
        state["c"] = 1
        assert not is_free(locks["c"])
    assert [is_free(locks[key]) for key in "abc"] == [True] * 3


def test_declared_keys_need_not_be_written(store, state, transaction):
    state["a"] = 1
    before = store.version("a")
    with transaction("a", "absent", "a"):
        pass
    with transaction():
        pass
    assert store.version("a") == before
    assert list(state) == ["a"]


def test_transaction_in_locks_and_locks_in_a_transaction(state, locks, transaction):
    with locks["a"], transaction("a", "b"), locks["b", "c"]:
        state.update(a=1, b=1, c=1)
    assert dict(state) == {"a": 1, "b": 1, "c": 1}
    assert [is_free(locks[key]) for key in "abc"] == [True] * 3
    with locks["a"]:
        with contextlib.suppress(ZeroDivisionError), transaction("a"):
            state["a"] = 2
            raise ZeroDivisionError
        assert state["a"] == 1
        assert not is_free(locks["a"])


@pytest.mark.parametrize("keys", [("a", "b"), ("b", "a"), ("b", "a", "b")])
def test_opposite_orders_do_not_hang(state, transaction, keys):
    def work(order):
        for _ in range(1_500):
            with transaction(*order):
                state["n"] = state.get("n", 0) + 1

    with ThreadSet() as threads:
        threads.add(work, (*keys, "n"))
        threads.add(work, ("n", "b", "a"))
        threads.add(work, ("a", "n", "b"))
    assert state["n"] == 4_500


@pytest.mark.parametrize("timeout", [0, 0.05, timedelta(milliseconds=50)], ids=str)
def test_timeout(state, locks, transaction, timeout):
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    outcomes = []

    def enter_it():
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="'b'"), transaction("a", "b", "c", timeout=timeout):
            state["a"] = "entered"
        outcomes.append(time.monotonic() - started)

    with locks["b"], ThreadSet() as threads:
        threads.add(enter_it)
    assert seconds <= outcomes[0] < seconds + 1
    assert all(is_free(locks[key]) for key in "abc")
    assert dict(state) == {}
    with transaction("a", "b", "c", timeout=timeout):
        state["a"] = 1
    assert state["a"] == 1


@pytest.mark.parametrize("timeout", [-1, float("nan"), timedelta(seconds=-1)], ids=str)
def test_impossible_timeouts(transaction, timeout):
    with pytest.raises(ValueError, match="timeout"):
        transaction("k", timeout=timeout)


@pytest.mark.parametrize("timeout", [[], 1j], ids=repr)
def test_timeouts_that_are_no_numbers(transaction, timeout):
    with pytest.raises(TypeError, match="timeout is a number of seconds, a timedelta, or text"):
        transaction("k", timeout=timeout)


@pytest.mark.parametrize("key", [1, None, b"k", ("a", "b"), []])
def test_keys_are_str(state, transaction, key):
    with pytest.raises(TypeError, match=r"server_state keys are of type str|transaction\(\*keys\)"):
        transaction("a", key)
    with transaction():
        for use in (lambda: state.__setitem__(key, 1), lambda: state.get(key), lambda: state.pop(key, None)):
            with pytest.raises(TypeError, match="server_state keys are of type str"):
                use()


def test_transaction_object_can_be_reused_but_not_nested(state, transaction):
    block = transaction("k")
    for n in range(3):
        with block:
            state["k"] = n
            with pytest.raises(RuntimeError), block:
                pass
    assert state["k"] == 2


def test_transaction_is_its_thread_s_own(state, transaction):
    with transaction("k"):
        state["k"] = 1

        def elsewhere_too():
            with transaction("j"):
                state["j"] = 1
                return dict(state)

        assert elsewhere(elsewhere_too) == {"j": 1}
        assert elsewhere(dict, state) == {"j": 1}
    assert dict(state) == {"j": 1, "k": 1}


def test_another_store_is_not_part_of_it(state, transaction):
    other = _core.Store()
    others = _core.Namespace(other)
    with contextlib.suppress(ZeroDivisionError), transaction():
        state["k"] = 1
        others["k"] = 1
        raise ZeroDivisionError
    assert "k" not in state
    assert others["k"] == 1
    with transaction(), pytest.raises(RuntimeError, match="another store"), BeginTransaction(other)():
        pass


def test_threads_do_not_disturb_each_other(state, transaction):
    """Each moves objects between the keys of all, and discards half of its transactions."""
    keys = [f"k{i}" for i in range(6)]
    state.update(dict.fromkeys(keys, 100))

    def work(seed):
        for n in range(400):
            one, other = keys[(seed + n) % 6], keys[(seed * 5 + n * 7 + 1) % 6]
            with contextlib.suppress(ZeroDivisionError), transaction(one, other):
                state[one] -= 1
                time.sleep(0)
                state[other] += 1
                assert n % 2 or 1 // 0
                state.get(one)

    with ThreadSet() as threads:
        for seed in range(6):
            threads.add(work, seed)
    assert sum(state.values()) == 600


# --------------------------------------------------------------------------------------------------------------- reruns


@pytest.fixture
def shows(store, state):
    """Create a session that depends on keys, and return a function that tells whether it has become stale."""

    def make(*keys, presence=False, members=False):
        session = _core.Session(store)
        session.start_run()
        enter(session)
        for key in keys:
            key in state if presence else state.get(key)
        if members:
            len(state)
        leave()

        def is_stale():
            store.collect_stale()
            return session.stale_fragment_ids() == [None]

        return is_stale

    return make


def test_scope_that_depends_on_both_keys_is_told_once_at_the_end(store, state, transaction, shows):
    state.update(a=0, b=0)
    is_stale = shows("a", "b")
    wakes = []
    store.on_stale(lambda: wakes.append(1))
    with transaction("a", "b"):
        state["a"] = 1
        state["b"] = 1
        state["a"] = 2
        assert wakes == []
        assert store.collect_stale() == []
    assert wakes == [1]
    assert len(store.collect_stale()) == 1
    assert is_stale()


def test_only_sessions_that_depend_on_a_change_are_rerun(state, transaction, shows):
    state.update(changed=0, same=0, deleted=0, passing=0, untouched=0)
    of = {key: shows(key) for key in (*state, "new")}
    of_presence = {key: shows(key, presence=True) for key in (*state, "new")}
    of_members = shows(members=True)
    with transaction("untouched"):
        state["changed"] = 1
        state["same"] = 1
        state["same"] = 0
        del state["passing"]
        state["passing"] = 0
        del state["deleted"]
        state["new"] = 0
    assert {key for key, is_stale in of.items() if is_stale()} == {"changed", "deleted", "new"}
    assert {key for key, is_stale in of_presence.items() if is_stale()} == {"deleted", "new"}
    assert of_members()


def test_discarded_transaction_reruns_no_session(state, transaction, shows):
    state.update(a=0, b=0)
    readers = [shows("a"), shows("b", presence=True), shows(members=True), shows("new")]
    with contextlib.suppress(ZeroDivisionError), transaction():
        state["a"] = 1
        del state["b"]
        state["new"] = 1
        raise ZeroDivisionError
    assert not any(is_stale() for is_stale in readers)


def test_transaction_in_no_rerun_reruns_no_session(state, transaction, shows):
    is_stale = shows("a", "b")
    with no_rerun, transaction("a", "b"):
        state["a"] = 1
        state["b"] = 1
    assert not is_stale()
    assert dict(state) == {"a": 1, "b": 1}


def test_writes_in_no_rerun_inside_of_a_transaction_rerun_no_session(state, transaction, shows):
    """As elsewhere, only the place of the write counts."""
    of_muted, of_loud = shows("muted"), shows("loud")
    with transaction():
        with no_rerun:
            state["muted"] = 1
        state["loud"] = 1
    assert (of_muted(), of_loud()) == (False, True)
    assert dict(state) == {"muted": 1, "loud": 1}


@pytest.mark.parametrize("loud_first", [False, True])
def test_key_that_is_written_in_and_out_of_no_rerun_is_told(state, transaction, shows, loud_first):
    is_stale = shows("k")
    with transaction():
        if loud_first:
            state["k"] = 1
        with no_rerun:
            state["k"] = 2
        if not loud_first:
            state["k"] = 3
    assert is_stale()


def test_writer_is_not_rerun_for_its_own_transaction(store, state, session, transaction):
    state["k"] = 0
    with transaction("k"):
        state["k"] += 1
    assert session.take_overwritten() == {}
    assert store.collect_stale() == []


def test_writer_that_has_shown_the_old_value_is(store, state, session, transaction):
    state["k"] = 0
    assert state["k"] == 0
    session.message_sent()
    with transaction("k"):
        state["k"] += 1
    assert session.take_overwritten() == {None: "k"}
    assert store.collect_stale() == []


def test_reads_inside_subscribe(store, state, session, transaction):
    state.update(a=0, b=0)
    with transaction("a"):
        state["a"]
        state["b"] = 1
        state["b"]
        "new" in state  # noqa: B015
        state["new"] = 1
    leave()
    for key in ("a", "b"):
        assert store.collect_stale() == []
        state[key] = 5
        assert [scope.session for scope in store.collect_stale()] == [session]
        session.start_run()
        enter(session)
        state.get("b" if key == "a" else "nothing")
        leave()


def test_reads_inside_of_a_discarded_transaction_subscribe(store, state, session, transaction):
    """The script may continue and show the value that it has read."""
    state["k"] = 0
    with contextlib.suppress(ZeroDivisionError), transaction("k"):
        state["k"] = state["k"] + 1
        raise ZeroDivisionError
    leave()
    state["k"] = 5
    assert [scope.session for scope in store.collect_stale()] == [session]
