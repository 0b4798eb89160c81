"""Bounds of the number and size of values."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.helpers import DEADLINE, ThreadSet

from fastserverstate import _core
from fastserverstate.bounds import Bounds, bytes_of
from fastserverstate.computed_values import Computing, Evaluator
from fastserverstate.configuration import Configuration, KeyOptions, Settings
from fastserverstate.listeners import Listeners
from fastserverstate.lock import ServerStateLock
from fastserverstate.state import ServerState
from fastserverstate.workers import Workers


class Bounded:
    """A store with bounds, which are enforced when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.store = _core.Store(reserved=dir(ServerState))
        self.state = ServerState(self.store)
        self.bounds = Bounds(self.store, clock=lambda: self.now)
        self.bounds._thread = threading.current_thread()  # instead of one that enforces them

    def enforce(self) -> list[str]:
        self.is_within = self.bounds.enforce(self.store.take_changes())
        return list(self.state)


@pytest.fixture
def bounded() -> Bounded:
    return Bounded()


def fill(bounded: Bounded, *keys: str, size: int = 1) -> None:
    for key in keys:
        bounded.state[key] = b"0" * size


def test_the_least_recently_written_keys_go_first(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 2, None)
    fill(bounded, "room/a", "room/b", "other", size=1)
    assert bounded.enforce() == ["room/a", "room/b", "other"]
    bounded.state["room/a"] = b"newer"
    assert bounded.enforce() == ["room/a", "room/b", "other"]
    fill(bounded, "room/c")
    assert bounded.enforce() == ["room/a", "other", "room/c"]


def test_the_newest_keys_of_one_batch_stay(bounded: Bounded) -> None:
    bounded.bounds.set(None, 2, None)
    fill(bounded, "old")
    bounded.enforce()
    fill(bounded, "a", "b")
    assert sorted(bounded.enforce()) == ["a", "b"]
    fill(bounded, "c", "d", "e")
    assert len(bounded.enforce()) == 2
    assert bounded.is_within


def test_sizes_are_bounded(bounded: Bounded) -> None:
    bounded.bounds.set("upload/*", None, 3000)
    for key in ("upload/a", "upload/b"):
        fill(bounded, key, size=1000)
        bounded.enforce()
    fill(bounded, "upload/c", size=1000)
    assert bounded.enforce() == ["upload/b", "upload/c"]
    fill(bounded, "upload/b", size=10)
    assert bounded.enforce() == ["upload/b", "upload/c"]
    fill(bounded, "upload/d", size=1000)
    assert bounded.enforce() == ["upload/b", "upload/c", "upload/d"]


def test_a_value_that_is_too_large_alone_does_not_displace_others(
    bounded: Bounded, caplog: pytest.LogCaptureFixture
) -> None:
    bounded.bounds.set("upload/*", None, 3000)
    fill(bounded, "upload/a", size=1000)
    fill(bounded, "upload/large", size=5000)
    assert bounded.enforce() == ["upload/a"]
    assert "'upload/large' alone is larger" in caplog.text


def test_the_most_specific_pattern_counts_a_key(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 1, None)
    bounded.bounds.set("room/vip/*", 2, None)
    fill(bounded, "room/a", "room/vip/a", "room/vip/b")
    assert bounded.enforce() == ["room/a", "room/vip/a", "room/vip/b"]


def test_a_new_pattern_takes_its_keys_from_the_others(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 3, None)
    fill(bounded, "room/a", "room/vip/a", "room/vip/b")
    bounded.enforce()
    bounded.bounds.set("room/vip/*", 1, None)
    assert len(bounded.enforce()) == 2
    fill(bounded, "room/b", "room/c")
    assert len(bounded.enforce()) == 4


def test_bounds_apply_to_keys_that_exist(bounded: Bounded) -> None:
    fill(bounded, "room/a", "room/b", "room/c")
    bounded.bounds.set("room/*", 1, None)
    assert len(bounded.enforce()) == 1


def test_a_bound_can_be_ended(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 1, None)
    bounded.bounds.set("room/*", math.inf, None)
    fill(bounded, "room/a", "room/b", "room/c")
    assert len(bounded.enforce()) == 3


def test_setting_the_same_bounds_again_counts_nothing_anew(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 2, None)
    fill(bounded, "room/a", "room/b")
    bounded.enforce()
    bounded.bounds.set("room/*", 2, None)
    assert bounded.store.take_changes() == []


def test_deleted_keys_do_not_count(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 2, None)
    fill(bounded, "room/a", "room/b")
    bounded.enforce()
    del bounded.state["room/a"]
    fill(bounded, "room/c")
    assert bounded.enforce() == ["room/b", "room/c"]


# Keys in use


@pytest.fixture
def _uses(bounded: Bounded, request: pytest.FixtureRequest) -> Iterator[None]:
    kind = request.param
    if kind == "callback":
        Listeners(bounded.store).on_change("room/a", lambda: None)
    elif kind == "computed value":
        computed = Computing(bounded.store, Evaluator(bounded.store, Workers()), lambda call, _refuse: call()).computed
        bounded.state["room/a"] = 1
        computed(lambda: bounded.state["room/a"])()
    elif kind == "waiting thread":
        bounded.state["room/a"] = 1
        thread = threading.Thread(
            target=bounded.store.wait_for_change, args=("room/a", bounded.store.version("room/a"), DEADLINE)
        )
        thread.start()
        while not bounded.store.observers("room/a")[0]:
            pass
        yield
        bounded.state["room/a"] = 2
        thread.join(DEADLINE)
        return
    yield


@pytest.mark.parametrize("_uses", ["callback", "computed value", "waiting thread"], indirect=True)
@pytest.mark.usefixtures("_uses")
def test_keys_in_use_are_spared(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 2, None)
    bounded.state.setdefault("room/a", 1)
    fill(bounded, "room/b")
    bounded.enforce()
    fill(bounded, "room/c")
    assert bounded.enforce() == ["room/a", "room/c"]


def test_keys_in_use_go_when_nothing_else_is_left(bounded: Bounded, caplog: pytest.LogCaptureFixture) -> None:
    bounded.bounds.set("room/*", 1, None)
    for key in ("room/a", "room/b", "room/c"):
        Listeners(bounded.store).on_change(key, lambda: None)
    fill(bounded, "room/a")
    bounded.enforce()
    fill(bounded, "room/b")
    with caplog.at_level(logging.WARNING):
        assert len(bounded.enforce()) == 1
    assert "All keys are in use" in caplog.text
    caplog.clear()
    fill(bounded, "room/c", "room/b", size=2)
    bounded.enforce()
    assert not caplog.records  # once a minute
    bounded.now = 61
    fill(bounded, "room/a")
    bounded.enforce()
    assert "All keys are in use" in caplog.text


def test_a_key_whose_lock_is_held_stays_until_it_is_released(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 1, None)
    fill(bounded, "room/a", "room/b")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with ServerStateLock(bounded.store)["room/a", "room/b"]:
            held.set()
            assert done.wait(DEADLINE)

    with ThreadSet() as threads:
        holder = threads.add(hold)
        threads.go()
        assert held.wait(DEADLINE)
        assert bounded.enforce() == ["room/a", "room/b"]
        assert not bounded.is_within  # so it is tried again
        done.set()
        holder.join(DEADLINE)
    assert len(bounded.enforce()) == 1


def test_a_key_that_changes_meanwhile_is_not_evicted(bounded: Bounded) -> None:
    bounded.bounds.set("room/*", 1, None)
    fill(bounded, "room/a", "room/b")
    changes = bounded.store.take_changes()
    fill(bounded, "room/a", "room/b", size=2)
    bounded.bounds.enforce(changes)
    assert list(bounded.state) == ["room/a", "room/b"]
    assert len(bounded.enforce()) == 1


def test_callbacks_are_told_the_reason(bounded: Bounded) -> None:
    calls: list[object] = []
    for key in ("room/a", "room/b"):
        Listeners(bounded.store).on_change(key, lambda key, value, reason: calls.append((key, value, reason)))
    fill(bounded, "room/a", "room/b")
    calls.clear()
    bounded.bounds.set("room/*", 1, None)
    (kept,) = bounded.enforce()
    gone = "room/a" if kept == "room/b" else "room/b"  # of one batch: any of the two
    assert calls == [(gone, None, "evicted")]
    assert bounded.store.removals() == (0, 1)


@settings(max_examples=200, deadline=None)
@example([("write", "a/1", 1), ("write", "a/2", 1), ("write", "b/1", 35), ("write", "b/2", 500), ("write", "c", 1)])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "delete", "enforce"]),
            st.sampled_from(["a/1", "a/2", "a/3", "b/1", "b/2", "c"]),
            st.integers(1, 500),
        ),
        max_size=60,
    )
)
def test_the_bounds_hold_and_no_more_is_evicted_than_needed(steps: list[tuple[str, str, int]]) -> None:
    bounded = Bounded()
    bounded.bounds.set("a/*", 2, None)
    bounded.bounds.set("b/*", None, 600)
    bounded.bounds.set(None, 4, None)
    for step, key, size in [*steps, ("enforce", "", 0)]:
        if step == "write":
            bounded.state[key] = b"0" * size
        elif step == "delete":
            bounded.state.pop(key, None)
        else:
            before = dict(bounded.state)
            evicted = bounded.store.removals()[1]
            bounded.enforce()
            after = dict(bounded.state)
            assert bounded.store.removals()[1] - evicted == len(before) - len(after)
            assert after.items() <= before.items()
            assert (
                len([key for key in after if key.startswith("a/")])
                == min(2, len([key for key in before if key.startswith("a/")]))
                or len(after) == 4
            )
            assert sum(len(value) + 33 for key, value in after.items() if key.startswith("b/")) <= 600
            assert len(after) <= 4


def test_the_thread_enforces_the_bounds() -> None:
    store = _core.Store(reserved=dir(ServerState))
    state = ServerState(store)
    bounds = Bounds(store)
    bounds.set("room/*", 10, None)
    for number in range(1000):
        state[f"room/{number}"] = number
    patience = time.monotonic() + DEADLINE
    while len(state) > 10:
        assert time.monotonic() < patience
        time.sleep(0.001)
    bounds.close()
    assert bounds._thread is not None
    bounds._thread.join(DEADLINE)


# Configuration


@pytest.fixture
def configure(bounded: Bounded) -> Callable[..., None]:
    return Configuration(
        bounded.store,
        Settings(),
        KeyOptions(bounded.store),
        set_detect_inplace=lambda _value: None,
        set_gc_policy=lambda _policy: None,
        set_bounds=bounded.bounds.set,
    ).configure


def test_configure_sets_bounds(bounded: Bounded, configure: Callable[..., None]) -> None:
    configure("room/*", max_entries=1)
    configure(max_bytes="10MB")
    fill(bounded, "room/a", "room/b")
    assert len(bounded.enforce()) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (["room"], {"max_entries": 1}, ValueError, "such as 'room/\\*', not of a key"),
        (["room/*"], {"max_entries": 0}, ValueError, "max_entries is 1 or more, not 0"),
        (["room/*"], {"max_entries": math.nan}, ValueError, "max_entries is 1 or more"),
        (["room/*"], {"max_entries": "1"}, TypeError, "max_entries is a number, not '1' of type str"),
        ([], {"max_bytes": -1}, ValueError, "max_bytes is 1 or more, not -1"),
        ([], {"max_bytes": "1 furlong"}, ValueError, "max_bytes cannot be '1 furlong'. Write a number and its unit"),
        ([], {"max_bytes": None, "max_entries": True}, TypeError, "not True of type bool"),
    ],
)
def test_wrong_bounds_are_refused(
    configure: Callable[..., None], arguments: list[str], options: dict[str, object], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        configure(*arguments, **options)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("500kB", 500_000), ("1.5 MB", 1_500_000), ("2GiB", 2**31), (7, 7), (math.inf, math.inf)],
)
def test_sizes_are_numbers_or_text(text: float | str, size: float) -> None:
    assert bytes_of(text, "max_bytes") == size
