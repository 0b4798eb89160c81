"""`limiter`: uses in a sliding window."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserverstate import _core
from fastserverstate.expiry import Expirer, Expiry
from fastserverstate.limits import MOST, Limits
from fastserverstate.state import ServerState
from fastserverstate.updates import BeginTransaction


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(store: _core.Store, clock: Clock) -> Limits:
    return Limits(store, Expiry(store, Expirer(store)).expire, clock)


def test_uses_count_until_the_period_has_passed(limits: Limits, clock: Clock) -> None:
    api = limits.limiter("api", 2, per="10s")
    assert api.allow()
    clock.now += 4
    assert api.allow()
    assert not api.allow()
    assert api.remaining() == 0
    assert api.retry_after() == 6
    clock.now += 6
    assert api.remaining() == 1
    assert api.retry_after() == 0
    assert api.allow()
    assert api.retry_after() == 4
    api.reset()
    assert api.remaining() == 2


def test_limiters_of_one_name_share_the_count(limits: Limits) -> None:
    assert limits.limiter("api", 1, per=60).allow()
    assert not limits.limiter("api", 1, per=60).allow()
    assert limits.limiter("api/ann", 1, per=60).allow()


def test_cost_is_counted_whole_or_not(limits: Limits) -> None:
    api = limits.limiter("api", 5, per=60)
    assert api.allow(3)
    assert not api.allow(3)
    assert api.remaining() == 2
    assert api.allow(2)


def test_discarded_transaction_counts_nothing(limits: Limits, store: _core.Store) -> None:
    api = limits.limiter("api", 1, per=60)
    answers = []
    with pytest.raises(ZeroDivisionError), BeginTransaction(store)():
        answers.append(api.allow() / 0)
    assert api.allow()
    assert answers == []


def test_apps_do_not_see_the_count_and_it_expires(limits: Limits, store: _core.Store) -> None:
    limits.limiter("api", 1, per=60).allow()
    assert list(ServerState(store)) == []
    (key,) = store.keys(hidden=True)
    left = store.deadline(key)
    assert left is not None
    assert 0 < left <= 60


def test_threads_get_no_more_than_the_limit(limits: Limits) -> None:
    barrier = threading.Barrier(8)
    allowed: list[bool] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            barrier.wait()
            for _ in range(50):
                allowed.append(limits.limiter("api", 100, per=60).allow())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    assert allowed.count(True) == 100


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 3)), max_size=30))
def test_no_window_has_more_uses_than_the_limit(steps: list[tuple[float, int]]) -> None:
    store, clock = _core.Store(), Clock()
    api = Limits(store, Expiry(store, Expirer(store)).expire, clock).limiter("api", 3, per=10)
    counted: list[float] = []
    for pause, cost in steps:
        clock.now += pause
        used = [each for each in counted if each > clock.now - 10]
        assert api.remaining() == 3 - len(used)
        assert api.allow(cost) == (len(used) + cost <= 3)
        if len(used) + cost <= 3:
            counted += [clock.now] * cost


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda limits: limits.limiter(3, 1, per=1), TypeError, "keys are of type str"),
        (lambda limits: limits.limiter("a", 0, per=1), ValueError, "a limit from 1 to 10,000, a whole number, not 0"),
        (lambda limits: limits.limiter("a", MOST + 1, per=1), ValueError, "a limit from 1"),
        (lambda limits: limits.limiter("a", 1.5, per=1), ValueError, "a limit from 1"),
        (lambda limits: limits.limiter("a", 1, per=0), ValueError, "a period such as per='1m', not 0"),
        (lambda limits: limits.limiter("a", 1, per="inf"), ValueError, "per"),
        (lambda limits: limits.limiter("a", 2, per=1).allow(3), ValueError, "from 1 to the limit of 2, not 3"),
        (lambda limits: limits.limiter("a", 2, per=1).allow(0), ValueError, "not 0"),
    ],
)
def test_misuse_is_explained(
    limits: Limits, call: Callable[[Limits], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(limits)
