"""The journal: what a storage engine takes, and when writers wait for it; values that the first read decodes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from unit.helpers import DEADLINE, ThreadSet, enter, leave, locate_in_streamlit, locate_in_tests

from fastserverstate import _core
from fastserverstate.computed_values import Computing, Evaluator
from fastserverstate.configuration import KeyOptions
from fastserverstate.durable.errors import NotDurableError
from fastserverstate.listeners import Listeners
from fastserverstate.lock import ServerStateLock
from fastserverstate.state import ServerState
from fastserverstate.updates import Atomic
from fastserverstate.workers import Workers

KEYS = ("a", "b", "c")


class Engine:
    """A storage engine that keeps its rows in memory, and stores batches when a test says so, or on its own thread."""

    def __init__(self, durability: int = _core.JOURNAL_LATER) -> None:
        self.store = _core.Store(reserved=dir(ServerState))
        self.state = ServerState(self.store)
        self.locks = ServerStateLock(self.store)
        self.rows: dict[str, tuple[Any, int, int]] = {}
        self.clock = 0
        self.batches: list[set[str]] = []
        self.failure: str | None = None
        self.go_on = threading.Semaphore(0)  # released once for every batch that may be stored
        self.store.set_decoder(lambda _key, data: eval(data))
        self.store.start_journal(durability)

    def commit(self) -> set[str]:
        epoch, version, changes = self.store.take_journal()
        for key, value, changed, position, _ in changes:
            if value is _core.absent:
                self.rows.pop(key, None)
            else:
                self.rows[key] = (value, changed, position)
        self.clock = max(self.clock, version)
        self.batches.append({key for key, *_ in changes})
        self.store.end_batch(epoch, self.failure)
        return self.batches[-1]

    def start(self) -> None:
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.failure = "end"
        self.store.close_journal()
        self.go_on.release()
        self.thread.join(DEADLINE)
        self.store.stop_journal()

    def run(self) -> None:
        """Commit one batch for every release of `go_on`, when a thread waits for it."""
        while True:
            self.store.sleep_until_due(-1, False)
            assert self.go_on.acquire(timeout=DEADLINE)
            if self.failure == "end":
                return
            self.commit()

    def stored(self) -> dict[str, Any]:
        rows = sorted(self.rows.items(), key=lambda row: row[1][2])
        return {key: eval(value.data) if type(value) is _core.Encoded else value for key, (value, *_) in rows}


@pytest.fixture
def waits() -> Iterator[Callable[[int], Engine]]:
    """Make an engine with a thread."""
    engines = []

    def make(durability: int = _core.JOURNAL_FIRST) -> Engine:
        engine = Engine(durability)
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.end()


# Batches


def test_a_batch_has_the_newest_value_of_every_changed_key() -> None:
    engine = Engine()
    for number in range(100):
        engine.state.a = number
    engine.state.b = [1]
    assert engine.store.undurable() == 2
    assert engine.commit() == {"a", "b"}
    assert engine.stored() == {"a": 99, "b": [1]}
    engine.state.a = 99  # the same
    assert engine.commit() == set()


def test_keys_that_were_set_before_are_in_the_first_batch() -> None:
    engine = Engine()
    engine.store.stop_journal()
    engine.state.a = 1
    engine.store.start_journal(_core.JOURNAL_LATER)
    assert engine.commit() == {"a"}


def test_deleted_and_touched_keys_are_in_the_batch() -> None:
    engine = Engine()
    engine.state.update(a=1, b=2)
    engine.commit()
    version = engine.rows["b"][1]
    del engine.state.a
    engine.store.touch("b")
    engine.commit()
    assert engine.stored() == {"b": 2}
    assert engine.rows["b"][1] > version


def test_deleted_keys_are_freed_after_the_batch() -> None:
    engine = Engine()
    for number in range(1000):
        engine.state[f"key {number}"] = number
        del engine.state[f"key {number}"]
    engine.commit()
    assert engine.store.statistics()["cells"] == 0


def test_no_computed_result_is_recorded() -> None:
    engine = Engine()
    computed = Computing(engine.store, Evaluator(engine.store, Workers()), lambda call, _refuse: call()).computed
    engine.state.a = 1
    engine.commit()

    @computed
    def double() -> int:
        return int(engine.state.a) * 2

    assert double() == 2
    assert engine.commit() == set()


def test_values_that_only_the_app_calls_equal_are_stored() -> None:
    engine = Engine()
    options = KeyOptions(engine.store)
    options.set("a", compare="equality")
    engine.state.a = 1
    engine.commit()
    engine.state.a = 1.0
    engine.commit()
    assert repr(engine.stored()["a"]) == "1.0"


def test_a_batch_has_a_transaction_as_a_whole() -> None:
    engine = Engine()
    engine.state.update(a=0, b=0)
    engine.commit()
    done = threading.Event()

    def transfer() -> None:
        for _ in range(3000):
            with engine.store.transaction(["a", "b"], None):
                engine.state.a -= 1
                engine.state.b += 1
        done.set()

    def commit() -> None:
        while not done.is_set():
            engine.commit()
            assert sum(engine.stored().values()) == 0

    with ThreadSet() as threads:
        threads.add(transfer)
        threads.add(commit)


class Restarts(RuleBasedStateMachine):
    """Writes, batches and restarts in any order: a restart finds the state of the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine()
        self.model: dict[str, int] = {}
        self.at_last_batch: dict[str, int] = {}
        self.version = 0

    @rule(key=st.sampled_from(KEYS), value=st.integers(0, 3))
    def write(self, key: str, value: int) -> None:
        self.engine.state[key] = value
        self.model[key] = value

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        self.engine.state.pop(key, None)
        self.model.pop(key, None)

    @rule(key=st.sampled_from(KEYS))
    def touch(self, key: str) -> None:
        self.engine.store.touch(key)

    @rule(keys=st.lists(st.sampled_from(KEYS), unique=True), fails=st.booleans())
    def transaction(self, keys: list[str], *, fails: bool) -> None:
        with contextlib.suppress(ZeroDivisionError), self.engine.store.transaction(keys, None):
            for key in keys:
                self.engine.state[key] = self.engine.state.get(key, 0) + 1
            1 / (not fails)
        if fails:
            return
        for key in keys:
            self.model[key] = self.model.get(key, 0) + 1

    @rule()
    def commit(self) -> None:
        self.engine.commit()
        self.at_last_batch = dict(self.model)
        self.version = self.engine.clock

    @rule(reads=st.booleans())
    def restart(self, *, reads: bool) -> None:
        rows, self.engine = self.engine.rows, Engine()
        encoded = []
        for key, (value, _, position) in sorted(rows.items(), key=lambda row: row[1][2]):
            encoded.append((key, value.data if type(value) is _core.Encoded else repr(value).encode(), position, None))
        assert self.engine.store.restore(encoded, self.version) == []
        self.engine.rows = {key: (_core.Encoded(data), 0, position) for key, data, position, _ in encoded}
        self.model = dict(self.at_last_batch)
        for key in self.model:
            assert self.engine.store.version(key) > self.version
        assert self.engine.store.undurable() == 0
        if reads:
            assert dict(self.engine.state) == self.model
            assert self.engine.store.undurable() == 0

    @invariant()
    def equals_the_model(self) -> None:
        assert list(self.engine.state) == list(self.model)
        assert self.engine.stored() == self.at_last_batch
        assert list(self.engine.stored()) == list(self.at_last_batch)

    def teardown(self) -> None:
        assert dict(self.engine.state) == self.model


def test_a_restart_finds_the_state_of_the_last_batch() -> None:
    run_state_machine_as_test(
        Restarts,
        settings=settings(
            max_examples=150,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Waiting until changes are durable


def test_a_write_returns_when_it_is_durable(waits: Callable[..., Engine]) -> None:
    engine = waits()
    steps: list[str] = []

    def write() -> None:
        engine.state.a = 1
        steps.append("returned")

    with ThreadSet() as threads:
        writer = threads.add(write)
        threads.go()
        while not engine.store.undurable():
            pass
        writer.join(0.05)
        assert steps == []
        assert engine.state.a == 1  # other threads see it meanwhile
        engine.go_on.release()
        writer.join(DEADLINE)
        assert steps == ["returned"]
        assert engine.stored() == {"a": 1}


@pytest.mark.parametrize(
    "write",
    [
        lambda engine: engine.state.update(a=1),
        lambda engine: engine.state.pop("z"),
        lambda engine: engine.store.touch("z"),
        lambda engine: Atomic(engine.store).increment("z"),
        lambda engine: Atomic(engine.store)("z", lambda z: z + 1),
        lambda engine: engine.state.setdefault("new", 1),
    ],
)
@pytest.mark.parametrize("durability", [_core.JOURNAL_FIRST, _core.JOURNAL_SHOW_LATER])
def test_all_kinds_of_writes_wait(
    waits: Callable[..., Engine], write: Callable[[Engine], object], durability: int
) -> None:
    engine = waits(durability)
    engine.go_on.release()
    engine.state.z = 1
    batches = len(engine.batches)
    engine.go_on.release()
    write(engine)
    assert len(engine.batches) == batches + 1
    assert engine.store.undurable() == 0


def test_a_transaction_waits_once(waits: Callable[..., Engine]) -> None:
    engine = waits()
    engine.go_on.release()
    with engine.store.transaction(["a"], None):
        engine.state.a = 1
        engine.state.b = 2
    assert engine.batches == [{"a", "b"}]


def test_a_thread_with_a_lock_waits_after_it_has_released_it(waits: Callable[..., Engine]) -> None:
    """So threads that change the same key share a batch."""
    engine = waits()

    def change() -> None:
        with engine.locks["a"]:
            engine.state.a = engine.state.get("a", 0) + 1
            engine.state.a += 1

    with ThreadSet() as threads:
        for _ in range(5):
            threads.add(change)
        threads.go()
        while engine.store.peek("a") != 10:
            pass
        engine.go_on.release()
    assert engine.batches == [{"a"}]


def test_no_thread_reads_a_value_before_it_is_durable(waits: Callable[..., Engine]) -> None:
    engine = waits(_core.JOURNAL_SHOW_LATER)
    seen: list[object] = []
    with ThreadSet() as threads:
        writer = threads.add(engine.state.__setitem__, "a", 1)
        threads.go()
        while not engine.store.undurable():
            pass
        reader = threading.Thread(target=lambda: seen.append((engine.state.get("a"), engine.stored())))
        reader.start()
        reader.join(0.05)
        assert seen == []
        engine.go_on.release()
        reader.join(DEADLINE)
        writer.join(DEADLINE)
    assert seen == [(1, {"a": 1})]


def test_callbacks_are_made_when_the_change_is_durable(waits: Callable[..., Engine]) -> None:
    engine = waits()
    calls: list[object] = []
    Listeners(engine.store).on_change("a", lambda: calls.append(engine.stored()))
    engine.go_on.release()
    engine.state.a = 1
    assert calls == [{"a": 1}]


@pytest.mark.parametrize("durability", [_core.JOURNAL_FIRST, _core.JOURNAL_SHOW_LATER])
def test_a_write_that_cannot_be_stored_raises_and_is_tried_again(waits: Callable[..., Engine], durability: int) -> None:
    engine = waits(durability)
    engine.failure = "the disk is full"
    engine.go_on.release()
    with pytest.raises(NotDurableError, match="the disk is full"):
        engine.state.a = 1
    assert engine.state.a == 1
    engine.failure = None
    engine.go_on.release()
    engine.state.b = 1
    assert not engine.locks["a"].locked()


@pytest.mark.parametrize("durability", [_core.JOURNAL_FIRST, _core.JOURNAL_SHOW_LATER])
def test_callbacks_are_made_for_changes_that_cannot_be_stored(waits: Callable[..., Engine], durability: int) -> None:
    engine = waits(durability)
    calls: list[str] = []
    for key in KEYS:
        Listeners(engine.store).on_change(key, lambda key=key: calls.append(key))
    engine.failure = "the disk is full"
    for _ in range(3):
        engine.go_on.release()
    with pytest.raises(NotDurableError), engine.store.transaction(["a", "b"], None):
        engine.state.update(a=1, b=1)
    with pytest.raises(NotDurableError), engine.locks["c"]:
        engine.state.c = 1
    assert sorted(calls) == ["a", "b", "c"]


def test_no_write_counts_as_durable_when_the_process_ends(waits: Callable[..., Engine]) -> None:
    engine = waits()
    errors: list[str] = []

    def write() -> None:
        with pytest.raises(NotDurableError) as caught:
            engine.state.a = 1
        errors.append(str(caught.value))

    with ThreadSet() as threads:
        threads.add(write)
        threads.go()
        while not engine.store.undurable():
            pass
        engine.store.end_journal()
    with pytest.raises(NotDurableError, match="the process is ending"):
        engine.state.b = 1
    assert "the process is ending" in errors[0]
    assert dict(engine.state) == {"a": 1, "b": 1}
    engine.store.start_journal(_core.JOURNAL_FIRST)
    engine.go_on.release()
    engine.state.a = 2


def test_an_event_loop_waits_briefly(waits: Callable[..., Engine]) -> None:
    engine = waits()

    async def write() -> None:
        engine.state.a = 1

    asyncio.run(write())
    assert engine.batches == []
    assert engine.store.undurable() == 1


def test_no_thread_waits_when_the_journal_stops(waits: Callable[..., Engine]) -> None:
    engine = waits()
    with ThreadSet() as threads:
        threads.add(engine.state.__setitem__, "a", 1)
        threads.go()
        while not engine.store.undurable():
            pass
        engine.store.stop_journal()
    engine.state.a = 2
    assert engine.store.undurable() == 0


def test_threads_that_come_back_share_the_next_batch() -> None:
    """The engine can wait until as many threads wait as before, so that commits do not serve half of them each."""
    engine = Engine(_core.JOURNAL_FIRST)
    writers = 8

    def write(number: int) -> None:
        for value in range(20):
            engine.state[f"key {number}"] = value

    def commit() -> None:
        while len(engine.stored()) < writers or set(engine.stored().values()) != {19}:
            engine.store.sleep_until_due(DEADLINE, False, writers)
            engine.commit()

    with ThreadSet() as threads:
        for number in range(writers):
            threads.add(write, number)
        threads.add(commit)
    assert len(engine.batches) == 20


# Values that were restored


def test_the_first_read_decodes() -> None:
    engine = Engine()
    decoded: list[str] = []
    engine.store.set_decoder(lambda key, data: decoded.append(key) or eval(data))
    engine.store.restore([("a", b"[1]", 1, None), ("b", b"2", 2, None)], 0)
    assert list(engine.state) == ["a", "b"]
    assert "a" in engine.state
    assert len(engine.state) == 2
    assert decoded == []
    assert engine.state.a == [1]
    assert engine.state.a is engine.state["a"]
    assert decoded == ["a"]


def test_all_threads_get_the_same_object() -> None:
    engine = Engine()
    both = threading.Barrier(2)

    def decode(_key: str, data: bytes) -> Any:
        both.wait(DEADLINE)
        return eval(data)

    engine.store.set_decoder(decode)
    engine.store.restore([("a", b"[1]", 1, None)], 0)
    found: list[Any] = []
    with ThreadSet() as threads:
        for _ in range(2):
            threads.add(lambda: found.append(engine.state.a))
    assert found[0] is found[1] is engine.state.a


def test_a_value_that_changes_while_it_is_decoded_stays_changed() -> None:
    engine = Engine()

    def decode(_key: str, data: bytes) -> Any:
        engine.store.set_decoder(lambda _key, data: eval(data))
        thread = threading.Thread(target=engine.state.__setitem__, args=("a", 2))
        thread.start()
        thread.join(DEADLINE)
        return eval(data)

    engine.store.set_decoder(decode)
    engine.store.restore([("a", b"1", 1, None)], 0)
    assert engine.state.a == 1
    assert engine.state.a == 2


@pytest.mark.parametrize("value", ["1", "'text'", "[1, 2]", "{'a': (1,)}", "None"])
def test_an_equal_value_changes_nothing(value: str) -> None:
    engine = Engine()
    engine.store.restore([("a", value.encode(), 1, None)], 0)
    version = engine.store.version("a")
    engine.state.a = eval(value)
    assert engine.store.version("a") == version
    with engine.store.transaction(["a"], None):
        engine.state.a = eval(value)
    assert engine.store.version("a") == version
    engine.state.a = "another"
    assert engine.store.version("a") > version


def test_a_change_in_place_is_found_when_the_value_is_assigned() -> None:
    engine = Engine()
    engine.store.restore([("a", b"[1]", 1, None)], 0)
    items = engine.state.a
    items.append(2)
    engine.state.a = items
    assert engine.commit() == {"a"}
    assert engine.stored() == {"a": [1, 2]}


def test_everything_that_returns_a_value_decodes_it() -> None:
    engine = Engine()
    calls: list[object] = []
    engine.store.restore([(key, b"[1]", place, None) for place, key in enumerate("abcdefg")], 0)
    Listeners(engine.store).on_change("f", lambda _key, value: calls.append(value))
    assert engine.state.pop("a") == [1]
    assert engine.state.setdefault("b", 2) == [1]
    assert engine.store.peek("c") == [1]
    with engine.store.transaction(["d"], None):
        assert engine.state.setdefault("d", 2) == [1]
        assert engine.state.pop("d") == [1]
        engine.store.touch("e")
        assert engine.state.e == [1]
    Atomic(engine.store)("g", lambda items: [*items, 2])
    assert engine.state.g == [1, 2]
    engine.store.touch("f")
    assert calls == [[1]]
    assert dict(engine.state.items()) == {"b": [1], "c": [1], "e": [1], "f": [1], "g": [1, 2]}


def test_a_touched_value_is_stored_without_decoding_it() -> None:
    engine = Engine()
    engine.store.restore([("a", b"no Python", 1, None)], 0)
    engine.store.touch("a")
    engine.commit()
    assert engine.rows["a"][0].data == b"no Python"


def test_a_value_that_cannot_be_decoded_is_an_error_until_it_is_replaced() -> None:
    engine = Engine()
    engine.store.restore([("a", b"no Python", 1, None)], 0)
    for _ in range(2):
        with pytest.raises(SyntaxError):
            engine.state.a  # noqa: B018
    assert "a" in engine.state
    assert engine.commit() == set()
    engine.state.a = 1
    assert engine.state.a == 1
    engine.commit()
    assert engine.stored() == {"a": 1}


def test_sessions_that_found_no_key_are_stale_when_it_is_restored() -> None:
    locate_in_tests()
    try:
        engine = Engine()
        session = _core.Session(engine.store)
        session.start_run()
        enter(session)
        assert engine.state.get("a") is None
        leave()
        engine.store.restore([("a", b"1", 1, None)], 0)
        assert engine.store.collect_stale()
    finally:
        leave()
        locate_in_streamlit()


def test_deadlines_are_stored_and_restored() -> None:
    engine = Engine()
    options = KeyOptions(engine.store)
    options.set("ttl/*", ttl=100.0)
    engine.state.update({"ttl/a": 1, "b": 2, "c": 3})
    engine.store.expire("b", 50)
    _, _, changes = engine.store.take_journal()
    left = {key: left for key, _, _, _, left in changes}
    assert left == {"ttl/a": pytest.approx(100, abs=10), "b": pytest.approx(50, abs=10), "c": None}
    engine.store.expire("b", None)
    engine.store.expire("c", 10)
    _, _, changes = engine.store.take_journal()
    assert {key: left for key, _, _, _, left in changes} == {"b": None, "c": pytest.approx(10, abs=10)}

    other = Engine()
    other.store.restore([("ttl/a", b"1", 1, 40.0), ("b", b"2", 2, None), ("c", b"3", 3, -5.0)], 0)
    KeyOptions(other.store).set("ttl/*", ttl=100.0)  # configured after the restart: it prolongs nothing
    assert other.store.deadline("ttl/a") == pytest.approx(40, abs=10)
    assert other.store.deadline("b") is None
    other.store.expire_due()
    assert list(other.state) == ["ttl/a", "b"]
    assert "c" in other.commit()  # its end is stored


def test_keys_that_are_not_to_persist_are_not_stored() -> None:
    engine = Engine()
    options = KeyOptions(engine.store)
    options.set("session/*", persist=False)
    engine.state.update({"session/a": 1, "b": 2})
    engine.commit()
    assert engine.stored() == {"b": 2}
    options.set("b", persist=False)
    engine.commit()
    assert engine.stored() == {}
    options.set("b", persist=True)
    engine.commit()
    assert engine.stored() == {"b": 2}


def test_keys_that_another_thread_has_locked_are_left() -> None:
    engine = Engine()
    engine.state.a = 0
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.locks["a"]:
            held.set()
            assert done.wait(DEADLINE)

    with ThreadSet() as threads:
        threads.add(hold)
        threads.go()
        assert held.wait(DEADLINE)
        assert engine.store.restore([("a", b"1", 1, None), ("b", b"2", 2, None)], 0) == [("a", b"1", 1, None)]
        done.set()
    assert engine.state.a == 0
    assert engine.state.b == 2


def test_callbacks_hear_of_restored_values() -> None:
    engine = Engine()
    calls: list[object] = []
    Listeners(engine.store).on_change("a", lambda _key, value, reason: calls.append((value, reason)))
    engine.store.restore([("a", b"1", 1, None)], 0)
    assert calls == [(1, "set")]


def test_restored_values_leave_nothing_behind() -> None:
    engine = Engine()

    class Value:
        alive = 0

        def __init__(self) -> None:
            Value.alive += 1

        def __del__(self) -> None:
            Value.alive -= 1

    engine.store.set_decoder(lambda _key, _data: Value())
    for _ in range(3):
        engine.store.restore([(f"key {number}", b"", number, None) for number in range(100)], 0)
        for key in list(engine.state):
            engine.state.get(key)
        engine.state.clear()
        engine.commit()
    gc.collect()
    assert Value.alive == 0
    assert engine.store.statistics()["cells"] == 0
