"""The linearizability checker: valid and invalid histories, and agreement with an exhaustive search."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
from harness.linearizability import Operation, assert_linearizable, find_violation, timed
from hypothesis import given, settings
from hypothesis import strategies as st
from linearizability.model import StoreModel

TRANSFER = ("transaction", ("a", "b"), (("move", "a", "b", 5),))
READ_BOTH = ("transaction", ("a", "b"), (("item", "a"), ("item", "b")))


def op(thread, start, end, call, *arguments, returns=None):
    return Operation(thread, call, arguments, returns, start, end)


LINEARIZABLE = {
    "empty": [],
    "one after the other": [
        op(1, 0, 1, "set", "a", 1),
        op(2, 2, 3, "get", "a", returns=1),
        op(1, 4, 5, "del", "a"),
        op(2, 6, 7, "item", "a", returns=KeyError),
    ],
    "read during a write sees the old value": [op(1, 0, 9, "set", "a", 1), op(2, 1, 2, "get", "a", returns=10)],
    "read during a write sees the new value": [op(1, 0, 9, "set", "a", 1), op(2, 1, 2, "get", "a", returns=1)],
    "operations at the same time overlap": [op(1, 0, 1, "set", "a", 1), op(2, 1, 2, "get", "a", returns=10)],
    "writes in the order of neither start nor end": [
        op(1, 0, 9, "set", "a", 1),
        op(2, 1, 8, "set", "a", 2),
        op(3, 2, 7, "set", "a", 3),
        op(4, 10, 11, "get", "a", returns=2),
    ],
    "increments that overlap": [
        op(1, 0, 9, "increment", "a", 1, returns=12),
        op(2, 0, 9, "increment", "a", 1, returns=11),
        op(3, 0, 9, "get", "a", returns=11),
    ],
    "transfer and reader overlap": [op(1, 0, 9, *TRANSFER, returns=(None,)), op(2, 1, 8, *READ_BOTH, returns=(10, 20))],
    "transfer that raises leaves nothing": [
        op(1, 0, 1, *TRANSFER, True, returns=(None,)),
        op(2, 2, 3, *READ_BOTH, returns=(10, 20)),
    ],
    "keys that come and go": [
        op(1, 0, 5, "del", "a"),
        op(2, 1, 6, "len", returns=1),
        op(1, 7, 8, "set", "c", 0),
        op(2, 9, 10, "list", returns=("b", "c")),
    ],
    "cut off and took effect": [op(1, 0, None, "set", "a", 1), op(2, 1, 2, "get", "a", returns=1)],
    "cut off and took effect late": [
        op(1, 0, None, "set", "a", 1),
        op(2, 1, 2, "get", "a", returns=10),
        op(2, 3, 4, "get", "a", returns=1),
    ],
    "cut off and took no effect": [
        op(1, 0, None, "increment", "a", 1),
        op(2, 1, 2, "get", "a", returns=10),
        op(1, 3, 4, "increment", "a", 1, returns=11),
    ],
}
NOT_LINEARIZABLE = {
    "lost update": [
        op(1, 0, 5, "increment", "a", 1, returns=11),
        op(2, 1, 6, "increment", "a", 1, returns=12),
        op(1, 7, 8, "get", "a", returns=11),
    ],
    "duplicate increment": [
        op(1, 0, 5, "increment", "a", 1, returns=11),
        op(2, 1, 6, "increment", "a", 1, returns=11),
    ],
    "increment that took effect twice": [
        op(1, 0, 1, "increment", "a", 1, returns=11),
        op(1, 2, 3, "get", "a", returns=12),
    ],
    "stale read": [op(1, 0, 1, "set", "a", 1), op(2, 2, 3, "get", "a", returns=10)],
    "reads go back in time": [
        op(1, 0, 9, "set", "a", 1),
        op(2, 1, 2, "get", "a", returns=1),
        op(3, 3, 4, "get", "a", returns=10),
    ],
    "two readers see two writes in two orders": [
        op(1, 0, 9, "set", "a", 1),
        op(2, 0, 9, "set", "a", 2),
        op(3, 1, 2, "get", "a", returns=1),
        op(3, 3, 4, "get", "a", returns=2),
        op(4, 5, 6, "get", "a", returns=1),
    ],
    "torn transaction": [op(1, 0, 9, *TRANSFER, returns=(None,)), op(2, 1, 8, *READ_BOTH, returns=(5, 20))],
    "transaction torn between two reads": [
        op(1, 0, 9, *TRANSFER, returns=(None,)),
        op(2, 1, 2, "get", "a", returns=5),
        op(2, 3, 4, "get", "b", returns=20),
    ],
    "transfer that raised and was seen": [
        op(1, 0, 9, *TRANSFER, True, returns=(None,)),
        op(2, 1, 8, "get", "a", returns=5),
    ],
    "two winners of one value": [op(1, 0, 9, "pop", "a", returns=10), op(2, 0, 9, "pop", "a", returns=10)],
    "two winners of one comparison": [
        op(1, 0, 9, "compare_and_set", "a", 10, 1, returns=True),
        op(2, 0, 9, "compare_and_set", "a", 10, 2, returns=True),
    ],
    "value from nowhere": [op(1, 0, 1, "get", "a", returns=3)],
    "cut off and took effect before it began": [
        op(2, 0, 1, "get", "a", returns=1),
        op(1, 2, None, "set", "a", 1),
    ],
    "cut off and took effect twice": [
        op(1, 0, None, "increment", "a", 1),
        op(2, 1, 2, "get", "a", returns=12),
    ],
    "cut off, took effect and was undone": [
        op(1, 0, None, "set", "a", 1),
        op(2, 1, 2, "get", "a", returns=1),
        op(2, 3, 4, "get", "a", returns=10),
    ],
}
MODEL = StoreModel({"a": 10, "b": 20})


@pytest.mark.parametrize("history", LINEARIZABLE.values(), ids=LINEARIZABLE)
def test_accepts_valid_histories(history):
    assert_linearizable(history, MODEL)
    assert_linearizable(history[::-1], MODEL)  # only the times matter, not the order of the list


@pytest.mark.parametrize("history", NOT_LINEARIZABLE.values(), ids=NOT_LINEARIZABLE)
def test_rejects_invalid_histories(history):
    violation = find_violation(history, MODEL)
    assert violation.operation in history
    assert violation.expected != violation.operation.result
    with pytest.raises(AssertionError, match="not linearizable"):
        assert_linearizable(history[::-1], MODEL)


def test_explanation_is_the_longest_prefix():
    good = [
        op(1, 0, 1, "increment", "a", 1, returns=11),
        op(2, 0, 3, "get", "a", returns=11),
        op(1, 2, 3.5, "increment", "b", 1, returns=21),
    ]
    pending = op(3, 2, 9, "set", "a", 5)
    bad = op(2, 4, 5, "get", "a", returns=10)
    after = op(1, 6, 7, "get", "a", returns=77)
    violation = find_violation([*good, pending, bad, after], MODEL)
    assert violation.operation is bad
    assert violation.order == [good[0], good[1]]  # "b" does not matter for "a"
    assert violation.pending == [replace(pending, end=None)]
    assert violation.expected == 11
    for line in (bad, good[1], replace(pending, end=None)):
        assert str(line) in str(violation)
    assert str(after) not in str(violation)


def test_unconnected_keys_are_searched_separately():
    """Combined, they would have about 10 ** 14 states."""
    history = [
        op(thread, thread, 1_000, "increment", f"k{key}", 1 << thread, returns=(2 << thread) - 1)
        for key in range(8)
        for thread in range(6)
    ]
    assert_linearizable(history, StoreModel())
    history[20] = replace(history[20], result=-1)
    assert find_violation(history, StoreModel()).operation is history[20]


def test_each_state_is_searched_once():
    """Twelve concurrent writes have 479 million orders."""
    history = [op(thread, 0, 9, "set", "a", thread % 3) for thread in range(12)]
    assert find_violation([*history, op(0, 10, 11, "get", "a", returns=7)], MODEL) is not None


def test_timed_records_results_errors_and_unknown_outcomes():
    value = timed(1, "get", ("a",), lambda call, arguments: (call, arguments))
    missing = timed(1, "item", ("a",), lambda *_: {}["a"])
    lost = timed(1, "set", ("a", 1), lambda *_: {}["a"], lost=(LookupError,))
    assert (value.result, missing.result) == (("get", ("a",)), KeyError)
    assert value.start <= value.end <= missing.start <= missing.end <= lost.start
    assert lost.end is None


# ------------------------------------------------------------------------------------------------------- any history

KEYS = st.sampled_from(["a", "b"])
VALUES = st.integers(0, 2)
SINGLE = st.one_of(
    st.tuples(st.sampled_from(["item", "get", "contains", "pop", "del"]), KEYS),
    st.tuples(st.sampled_from(["set", "setdefault", "increment"]), KEYS, VALUES),
    st.tuples(st.just("compare_and_set"), KEYS, VALUES, VALUES),
)
CALLS = st.one_of(
    SINGLE,
    st.sampled_from([("len",), ("list",)]),
    st.tuples(st.just("transaction"), st.just(()), st.lists(SINGLE, max_size=3).map(tuple), st.booleans()),
)
SMALL = settings(max_examples=300, deadline=None, database=None)


def sequential(calls):
    """Return a history of the calls in sequence, with the results of the model."""
    history = []
    state = MODEL.initial(None)
    for at, (call, *arguments) in enumerate(calls):
        result, state = MODEL.apply(state, call, tuple(arguments))
        history.append(op(at % 3, 10 * at, 10 * at + 1, call, *arguments, returns=result))
    return history


@SMALL
@given(st.lists(CALLS, max_size=12))
def test_every_sequential_history_is_linearizable(calls):
    assert_linearizable(sequential(calls), MODEL)


@SMALL
@given(st.data(), st.lists(CALLS, max_size=9))
def test_operations_that_take_longer_stay_linearizable(data, calls):
    """Each operation still includes the time at which it took effect. Some never return."""
    reach = st.integers(0, 40)
    history = [
        replace(
            operation,
            start=operation.start - data.draw(reach),
            end=None if data.draw(st.integers(0, 9)) == 0 else operation.end + data.draw(reach),
        )
        for operation in sequential(calls)
    ]
    assert_linearizable(data.draw(st.permutations(history)), MODEL)


def explained_by_some_order(history):
    """Apply the definition: try all orders of all subsets of operations that may have taken effect."""
    certain = [operation for operation in history if operation.end is not None]
    uncertain = [operation for operation in history if operation.end is None]
    for chosen in range(1 << len(uncertain)):
        effective = certain + [operation for bit, operation in enumerate(uncertain) if chosen >> bit & 1]
        for order in permutations(effective):
            if any(
                (math.inf if after.end is None else after.end) < before.start
                for at, before in enumerate(order)
                for after in order[at + 1 :]
            ):
                continue
            state = MODEL.initial(None)
            for operation in order:
                result, state = MODEL.apply(state, operation.call, operation.arguments)
                if operation.end is not None and result != operation.result:
                    break
            else:
                return True
    return False


@settings(SMALL, max_examples=500)
@given(st.data(), st.lists(CALLS, min_size=1, max_size=5))
def test_agrees_with_exhaustive_search(data, calls):
    """Including histories with swapped results, or with results that belong to another order."""
    shuffled = data.draw(st.permutations(sequential(calls)))
    history = []
    for operation in shuffled:
        start = data.draw(st.integers(0, 12))
        end = None if data.draw(st.integers(0, 9)) == 0 else start + data.draw(st.integers(0, 8))
        history.append(replace(operation, start=start, end=end))
    assert (find_violation(history, MODEL) is None) == explained_by_some_order(history)
