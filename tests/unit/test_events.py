"""Events of topics: against a model, from threads, on event loops, in AppTest, and in stopped runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from streamlit.testing.v1 import AppTest
from unit.helpers import ThreadSet

from fastserverstate import FastServerStateError, computed, no_rerun, transaction
from fastserverstate._core import HIDDEN, Store, absent
from fastserverstate._instances import _topics
from fastserverstate._instances import store as app_store
from fastserverstate.event_log import log_key
from fastserverstate.events import Topics
from fastserverstate.expiry import Expirer, Expiry
from fastserverstate.listeners import Listeners
from fastserverstate.rerun.inbox import MOST_SPARE, Inbox
from fastserverstate.state import ServerState

ANN = {"sub": "1", "email": "ann@example.com"}


@dataclass
class Reader:
    """A session in a run."""

    inbox: Inbox = field(default_factory=Inbox)
    fragment: str | None = None
    user: Mapping[str, Any] | None = None
    groups: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def run(self) -> int | None:
        return self.inbox.runs

    def raise_if_stopped(self) -> None:
        if self.stopped:
            raise StopRunError


class StopRunError(Exception):
    pass


class World:
    """Topics of a store of their own, with a clock, and the reader of the calling thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 1_000_000_000_000
        self.reader: Reader | None = None
        self.listeners = Listeners(store)
        self.expirer = Expirer(store)
        self.topics = Topics(
            store,
            self.listeners,
            expire=Expiry(store, self.expirer).expire,
            reader=lambda: self.reader,
            is_evaluating=lambda: False,
            now=lambda: self.now,
        )
        self.emit = self.topics.emit

    def close(self) -> None:
        self.expirer.close()

    def read(self, reader: Reader, topic: str = "t", replay: int = 0) -> list[Any]:
        self.reader = reader
        try:
            return list(self.topics.events(topic, replay=replay))
        finally:
            self.reader = None


@pytest.fixture
def world(store: Store) -> Iterator[World]:
    world = World(store)
    yield world
    world.close()


# Against a model

AUDIENCES = {None: {}, "group:g": {"to": "g"}, "user:#1": {"to": ANN}}


class Model(RuleBasedStateMachine):
    """Sessions come, read at any time, and go. The model has a list for each audience and a set for each session."""

    @initialize()
    def start(self) -> None:
        self.world = World(Store(reserved=dir(ServerState)))
        self.number = 0
        self.logs: dict[str | None, list[tuple[int, int, int]]] = {}  # (number, time, end), as they are kept
        self.readers: list[tuple[Reader, dict[str | None, set[int]]]] = []  # with what each will not get

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    def kept(self, audience: str | None) -> list[tuple[int, int, int]]:
        return [event for event in self.logs.get(audience, []) if event[2] > self.world.now]

    @rule(audience=st.sampled_from(list(AUDIENCES)), keep=st.integers(1, 4), ttl=st.integers(1, 50))
    def emit(self, audience: str | None, keep: int, ttl: int) -> None:
        self.world.now += 1  # events of the same time have no order between audiences
        self.world.emit("t", self.number, keep=keep, ttl=ttl, **AUDIENCES[audience])
        event = (self.number, self.world.now, self.world.now + ttl * 10**9)
        self.logs[audience] = [*self.kept(audience), event][-keep:]
        self.number += 1

    @rule(seconds=st.integers(1, 60))
    def advance(self, seconds: int) -> None:
        self.world.now += seconds * 10**9

    @rule(audience=st.sampled_from(list(AUDIENCES)))
    def expire(self, audience: str | None) -> None:
        """The log is deleted, and the next one has another epoch."""
        self.world.store.apply([(log_key("t", audience), absent, False)])
        self.logs.pop(audience, None)

    @rule(user=st.booleans(), in_group=st.booleans())
    def open(self, user: bool, in_group: bool) -> None:
        self.readers.append((Reader(user=ANN if user else None, groups=("g",) if in_group else ()), {}))

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.readers:
            self.readers.remove(data.draw(st.sampled_from(self.readers)))

    @rule(data=st.data(), replay=st.integers(0, 3))
    def read(self, data: st.DataObject, replay: int) -> None:
        if not self.readers:
            return
        reader, had = data.draw(st.sampled_from(self.readers))
        audiences = [
            None,
            *(["user:#1"] if reader.user else []),
            *(["group:g"] if reader.groups else []),
        ]
        new = [audience for audience in audiences if audience not in had]
        first = [event for audience in new for event in self.kept(audience)]
        replayed = {event[0] for event in sorted(first)[-replay:]} if replay else set()
        for audience in new:
            had[audience] = {event[0] for event in self.logs.get(audience, [])} - replayed
        expected = sorted(
            event[0] for audience in audiences for event in self.kept(audience) if event[0] not in had[audience]
        )
        assert self.world.read(reader, replay=replay) == expected
        for audience in audiences:
            had[audience].update(event[0] for event in self.logs.get(audience, []))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# Logs


def test_the_log_ends_with_its_last_event(world: World) -> None:
    world.emit("t", 1, ttl=50)
    world.emit("t", 2, ttl=10)
    assert 49 < (world.store.deadline(log_key("t")) or 0) <= 50
    world.emit("t", 3, ttl=float("inf"))
    assert world.store.deadline(log_key("t")) is None


def test_a_log_drops_events_that_have_expired(world: World) -> None:
    world.emit("t", 1, ttl=10)
    world.emit("t", 2, ttl=50)
    world.now += 20 * 10**9
    world.emit("t", 3)
    assert [event[3] for event in world.store.peek(log_key("t"))[2]] == [2, 3]


def test_topics_are_not_seen_by_apps(world: World) -> None:
    world.emit("a/b", 1, to="room/7")
    assert world.store.keys() == []
    assert world.store.keys(hidden=True) == [HIDDEN + "events/a%2Fb/group%3Aroom%2F7"]


def test_clocks_of_servers_that_differ_keep_the_order(world: World) -> None:
    reader = Reader()
    world.read(reader)
    world.emit("t", 1)
    world.now -= 10**9
    world.emit("t", 2)
    assert world.read(reader) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"to": None}, TypeError, "a user such as st.user"),
        ({"to": {}}, ValueError, "'sub' or an 'email'"),
        ({"keep": 0}, ValueError, "keep is a whole number"),
        ({"keep": 1.5}, ValueError, "keep is a whole number"),
        ({"ttl": -1}, ValueError, "ttl"),
    ],
)
def test_wrong_arguments_of_emit(world: World, arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        world.emit("t", 1, **arguments)
    assert world.store.keys(hidden=True) == []


@pytest.mark.parametrize("replay", [-1, 1.5, True])
def test_wrong_replay(world: World, replay: Any) -> None:
    with pytest.raises(ValueError, match="replay is a whole number"):
        world.topics.events("t", replay=replay)


def test_a_discarded_transaction_emits_nothing() -> None:
    received = _topics.events("discarded", timeout=0)

    def emit_in_vain() -> None:
        with transaction():
            _topics.emit("discarded", 1)
            raise StopRunError

    with pytest.raises(StopRunError):
        emit_in_vain()
    with transaction():
        _topics.emit("discarded", 2)
        _topics.emit("discarded", 3)
    assert list(received) == [2, 3]
    app_store.apply([(log_key("discarded"), absent, False)])


def test_events_in_a_computed_value() -> None:
    @computed
    def value() -> int:
        return len(list(_topics.events("t")))

    with pytest.raises(FastServerStateError, match=r"events\('t'\) gives each session its own events"):
        value()


# Threads and event loops


def test_threads_lose_no_event_and_keep_the_order(world: World) -> None:
    listening, emitting = Barrier(5), Barrier(5)
    received: list[list[tuple[int, int]]] = [[] for _ in range(4)]

    def listen(index: int) -> None:
        events = world.topics.events("t", timeout=20)
        listening.wait()
        for event in events:
            received[index].append(event)
            if len(received[index]) == 1000:
                break

    def emit(sender: int) -> None:
        emitting.wait()
        for number in range(250):
            world.emit("t", (sender, number), keep=1000)

    with ThreadSet() as threads:
        for index in range(4):
            threads.add(listen, index)
            threads.add(emit, index)
        threads.go()
        listening.wait()
        emitting.wait()
    for events in received:
        assert events == received[0]
        for sender in range(4):
            assert [number for found, number in events if found == sender] == list(range(250))


def test_iteration_ends_when_no_event_comes(world: World) -> None:
    events = world.topics.events("t", timeout=0.01)
    world.emit("t", 1)
    assert list(events) == [1]
    world.emit("t", 2)
    assert list(events) == []


def test_a_thread_gets_the_last_events_on_request(world: World) -> None:
    for number in range(5):
        world.emit("t", number)
    world.emit("t", 5, to="g")
    assert list(world.topics.events("t", replay=2, timeout=0)) == [3, 4]
    assert next(world.topics.events("t", replay=1)) == 4


def test_async_iteration(world: World) -> None:
    async def listen() -> list[Any]:
        events = world.topics.events("t", timeout=5)
        threading.Thread(target=lambda: [world.emit("t", number) for number in range(100)]).start()
        received = []
        async for event in events:
            received.append(event)
            if event == 99:
                break
        return received

    assert asyncio.run(listen()) == list(range(100))
    assert world.listeners._subscriptions == {}


def test_async_iteration_ends_when_no_event_comes(world: World) -> None:
    async def listen() -> list[Any]:
        return [event async for event in world.topics.events("t", timeout=0.01)]

    assert asyncio.run(listen()) == []


def test_async_iteration_waits_while_the_log_is_locked(world: World) -> None:
    locked, released = threading.Event(), threading.Event()

    def hold() -> None:
        with world.store.lock(log_key("t")):
            locked.set()
            assert released.wait(20)
            world.emit("t", 1)

    async def listen() -> Any:
        events = world.topics.events("t", timeout=20)
        threading.Thread(target=hold).start()
        await asyncio.to_thread(locked.wait)
        first = asyncio.ensure_future(anext(aiter(events)))
        await asyncio.sleep(0)
        released.set()
        return await first

    assert asyncio.run(listen()) == 1


# Sessions


def test_a_session_gets_each_event_once_in_two_scopes(world: World) -> None:
    reader = Reader()
    world.read(reader)
    world.emit("t", 1)
    world.emit("t", 2)
    world.reader = reader
    first, second = world.topics.events("t"), world.topics.events("t")
    assert [next(first), next(second)] == [1, 2]
    assert [*first, *second] == []


def test_a_stopped_run_takes_no_event(world: World) -> None:
    reader = Reader()
    world.read(reader)
    world.emit("t", 1)
    world.reader = reader
    events = world.topics.events("t")
    reader.stopped = True
    with pytest.raises(StopRunError):
        next(events)
    reader.stopped = False
    assert world.read(reader) == [1]


def test_a_replaced_run_takes_no_event(world: World) -> None:
    @dataclass
    class Old(Reader):
        run: int | None = 0

    reader = Old()
    world.read(reader)
    world.emit("t", 1)
    world.reader = reader
    events = world.topics.events("t")
    reader.inbox.run_started(by_user=True)
    assert list(events) == []
    assert world.read(Reader(reader.inbox)) == [1]


def test_joining_a_group_after_the_topic_was_read(world: World) -> None:
    reader = Reader(fragment="f")
    world.emit("t", "before", to="g")
    world.read(reader)
    world.reader = Reader(reader.inbox)  # the script joins, and the fragment has read the topic
    world.topics.joined("g")
    assert reader.inbox.take_owed() == {"f"}
    world.emit("t", "after", to="g")
    reader.groups = ("g",)
    assert world.read(reader) == ["after"]


def test_cursors_of_logs_that_nothing_reads_are_forgotten(world: World) -> None:
    inbox = Inbox()
    for number in range(10 * MOST_SPARE):
        inbox.run_finished((None,), lambda _: True, stopped=False, by_user=False)
        inbox.run_started(by_user=True)
        world.emit(f"t{number % 3}", 1)
        world.read(Reader(inbox), f"t{number % 3}")
        world.read(Reader(inbox), f"unused {number}")
    assert len(inbox) <= 2 * MOST_SPARE


# What is delivered again


class Browser:
    """The queue of a session, whose event loop runs in the test's thread."""

    def __init__(self) -> None:
        self.queue: list[object] = []
        self.due: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.loop: Any = SimpleNamespace(
            call_soon_threadsafe=lambda function, *args: self.due.append((function, args)), is_closed=lambda: False
        )

    def unsent(self) -> list[object]:
        return self.queue

    def run_loop(self) -> None:
        while self.due:
            function, args = self.due.pop(0)
            function(*args)


class Runs:
    """A session that reads a topic, as its runs are reported."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.browser = Browser()
        self.reader = Reader(Inbox(self.browser))
        self.inbox = self.reader.inbox
        self.inbox.run_started(by_user=True)
        world.read(self.reader)

    def show(self, number: int) -> Iterator[Any]:
        """Show so many events, each with one message, which enters the queue. Stop while the last is processed."""
        self.world.reader = self.reader
        events = self.world.topics.events("t")
        for _ in range(number):
            event = next(events)
            message = object()
            self.inbox.message_sent(message)
            self.browser.queue.append(message)
            self.inbox.queued(message)
            yield event

    def flush(self) -> None:
        self.browser.queue.clear()
        self.inbox.flushed()

    def begin(self, *, by_user: bool) -> None:
        """Begin another run, which discards what was not sent."""
        self.browser.due.append((self.clear, ()))
        self.inbox.run_started(by_user=by_user)
        self.browser.run_loop()

    def clear(self) -> None:
        self.browser.queue.clear()
        self.inbox.cleared()


@pytest.fixture
def runs(world: World) -> Runs:
    runs = Runs(world)
    for number in range(3):
        world.emit("t", number)
    return runs


def test_discarded_events_are_delivered_again_after_a_click(world: World, runs: Runs) -> None:
    shown = runs.show(3)
    assert next(shown) == 0
    runs.flush()
    assert list(shown) == [1, 2]
    runs.begin(by_user=True)
    assert world.read(runs.reader) == [1, 2]
    assert runs.inbox.take_owed() == set()  # it has read them
    runs.begin(by_user=True)
    assert world.read(runs.reader) == []


def test_discarded_events_are_not_delivered_again_after_a_rerun_of_the_script(world: World, runs: Runs) -> None:
    assert list(runs.show(2)) == [0, 1]
    runs.inbox.run_finished((), lambda _: True, stopped=False, by_user=False)
    runs.begin(by_user=False)
    assert world.read(runs.reader) == [2]


def test_an_event_without_messages_is_delivered_again_if_its_run_is_interrupted(world: World, runs: Runs) -> None:
    world.reader = runs.reader
    assert next(world.topics.events("t")) == 0
    runs.inbox.run_finished((), lambda _: True, stopped=False, by_user=True)
    runs.begin(by_user=True)
    assert world.read(runs.reader) == [0, 1, 2]


def test_an_event_without_messages_is_delivered_if_its_run_completes(world: World, runs: Runs) -> None:
    world.reader = runs.reader
    assert next(world.topics.events("t")) == 0
    runs.inbox.run_finished((None,), lambda _: True, stopped=False, by_user=False)
    runs.begin(by_user=True)
    assert world.read(runs.reader) == [1, 2]


def test_messages_that_the_queue_keeps_are_not_repeated(world: World, runs: Runs) -> None:
    """Newer releases keep toasts."""
    assert list(runs.show(3)) == [0, 1, 2]
    kept = runs.browser.queue[1]
    runs.clear = lambda: (runs.browser.queue.__delitem__(2), runs.browser.queue.__delitem__(0), runs.inbox.cleared())  # type: ignore[method-assign, assignment]
    runs.begin(by_user=True)
    assert runs.browser.queue == [kept]
    assert world.read(runs.reader) == [0, 2]


def test_a_message_that_never_entered_the_queue_is_lost(world: World, runs: Runs) -> None:
    """Another runner has begun. Streamlit drops what the earlier one has sent."""
    world.reader = runs.reader
    assert next(world.topics.events("t")) == 0
    runs.inbox.message_sent(object())
    runs.begin(by_user=True)
    assert world.read(runs.reader) == [0, 1, 2]


def test_the_fragment_that_read_discarded_events_is_rerun(runs: Runs) -> None:
    runs.reader.fragment = "f"
    assert list(runs.show(1)) == [0]
    runs.begin(by_user=True)
    assert runs.inbox.take_owed() == {"f"}


def test_a_run_that_emits_to_a_topic_it_has_read_is_rerun(world: World, runs: Runs) -> None:
    world.reader = runs.reader
    world.emit("other", 1)
    with no_rerun:
        world.emit("t", 3)
    assert runs.inbox.take_owed() == set()
    world.emit("t", 4)
    assert runs.inbox.take_owed() == {None}


def test_readers_wait_until_the_event_loop_has_seen_the_new_run(world: World, runs: Runs) -> None:
    assert list(runs.show(1)) == [0]
    runs.browser.due.append((runs.clear, ()))
    runs.inbox.run_started(by_user=True)
    threading.Timer(0.02, runs.browser.run_loop).start()
    assert world.read(runs.reader) == [0, 1, 2]


def test_a_stopped_run_does_not_wait_for_the_event_loop(world: World, runs: Runs) -> None:
    assert list(runs.show(1)) == [0]
    runs.inbox.run_started(by_user=True)
    world.reader = runs.reader

    def stop() -> None:
        runs.reader.stopped = True

    threading.Timer(0.02, stop).start()
    began = time.monotonic()
    with pytest.raises(StopRunError):
        world.topics.events("t")
    assert time.monotonic() - began < 10


# AppTest


def app() -> None:
    import streamlit as st  # noqa: PLC0415

    from fastserverstate import events  # noqa: PLC0415

    for event in events("apptest", replay=1):
        st.text(event)


def test_app_test_gets_each_event_once() -> None:
    _topics.emit("apptest", "before")
    _topics.emit("apptest", "last")
    first, second = AppTest.from_function(app), AppTest.from_function(app)
    assert [text.value for text in first.run().text] == ["last"]
    _topics.emit("apptest", "next")
    assert [text.value for text in first.run().text] == ["next"]
    assert not first.run().text
    assert [text.value for text in second.run().text] == ["next"]
    app_store.apply([(log_key("apptest"), absent, False)])
