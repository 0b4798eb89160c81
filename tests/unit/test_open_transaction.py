"""Transactions that are left open: by a generator, a run that ends, a fork. Their writes are never visible."""

from __future__ import annotations

import os
import threading

import pytest
from unit.helpers import ThreadSet, elsewhere, is_free, run_script


def test_transaction_that_a_run_leaves_open_is_discarded_with_its_locks(store, state, locks, transaction):
    state["k"] = 0
    left_open = transaction("k", "other")
    left_open.__enter__()
    state["k"], state["new"] = 1, 2
    with transaction("k"):
        state["k"] = 3
    assert sorted(store.end_holder()[0]) == ["k", "new", "other"]
    assert dict(state) == elsewhere(dict, state) == {"k": 0}

    def change():
        with locks["k"], locks["new"]:
            found = state["k"], "new" in state
            state["k"] = "changed"
            return found

    assert elsewhere(change) == (0, False)
    state["new"] = 1  # visible immediately, as outside of a transaction
    assert elsewhere(dict, state) == {"k": "changed", "new": 1}
    with pytest.raises(RuntimeError, match="in the run"):
        left_open.__exit__(None, None, None)


def test_block_whose_transaction_was_discarded_passes_exceptions_on(store, state, transaction):
    def write():
        with transaction("k"), transaction("k"):
            state["k"] = 1
            store.end_holder()[0]
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write()
    assert "k" not in state


def test_transaction_without_references_goes_on(store, state, transaction):
    transaction("k").__enter__()
    others = [transaction("k") for _ in range(10)]  # reuse the memory of the released objects
    state["k"] = 1
    assert state["k"] == 1
    assert store.end_holder()[0] == ["k"]
    assert "k" not in state
    assert len(others) == 10


def test_thread_that_ends_in_its_transaction(state, locks, transaction):
    state["k"] = 1

    def end():
        transaction("k").__enter__()
        state["k"] = 2

    elsewhere(end)
    assert locks["k"].acquire(timeout=20)  # the thread's end follows its join
    locks["k"].release()
    assert state["k"] == 1


def test_generator_that_another_thread_closes(state, locks, transaction):
    def write():
        with transaction("k"):
            state["k"] = 1
            yield

    closed = threading.Event()
    generators = []

    def begin(state):
        generators.append(write())
        next(generators[0])
        began.set()
        closed.wait(20)
        state["other"] = 2  # in no transaction any more
        seen.append(dict(state))

    began, seen = threading.Event(), []
    with ThreadSet() as threads:
        threads.add(begin, state)
        threads.go()
        assert began.wait(20)
        with pytest.raises(RuntimeError, match="on the thread"):
            generators[0].close()
        assert is_free(locks["k"])
        generators.clear()
        closed.set()
    assert seen == [{"other": 2}]


def test_locks_of_written_keys_belong_to_the_transaction(state, locks, transaction):
    condition = threading.Condition(locks["k"])
    with transaction():
        state["k"] = 1
        for release in (locks["k"].release, locks["k", "k"].release, lambda: condition.wait(0.01)):
            with pytest.raises(RuntimeError, match="held by a transaction"):
                release()
        with locks["k"]:
            locks["k"].acquire()
            locks["k"].release()
            with pytest.raises(RuntimeError, match="held by a transaction"):
                condition.wait(0.01)
        assert locks["k"]._is_owned()
    assert not locks["k"].locked()
    assert state["k"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("end", ["pass", "raise SystemExit(7)"])
def test_fork_in_a_transaction(end):
    """The child is in no transaction, and the parent's continues."""
    run_script(
        f"""
state["k"] = 0
pid = None
try:
    with store.transaction(["k"], None), store.transaction(["l"], None):
        state["k"] = state["l"] = 1
        pid = os.fork()
        if not pid:
            store.reset_after_fork()
            assert dict.fromkeys(store.keys()) == {{}}
            state["child"] = 1
            {end}
except RuntimeError as error:
    assert not pid and "in the process" in str(error), error
    os._exit(7)
except SystemExit:
    assert not pid and store.keys() == ["child"]
    os._exit(7)
assert pid and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert (state["k"], state["l"]) == (1, 1)
"""
    )
