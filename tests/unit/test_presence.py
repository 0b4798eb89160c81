"""Who is online, on one server and several, with workers and a clock that the test drives."""

from __future__ import annotations

import copy
import gc
import heapq
import itertools
import pickle
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastserverstate import _core
from fastserverstate.configuration import KeyOptions
from fastserverstate.errors import FastServerStateError
from fastserverstate.listeners import Listeners
from fastserverstate.presence import GRACE, INTERVAL, LEFTOVER, Presence, Visitor
from fastserverstate.rerun.memberships import Memberships
from fastserverstate.state import ServerState
from fastserverstate.suppression import NoRerun
from fastserverstate.updates import BeginTransaction
from fastserverstate.workers import Workers


class Clock:
    """Time, and the tasks that are due at some time."""

    def __init__(self) -> None:
        self.now = 100.0
        self._tasks: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now

    def submit(self, task: Callable[[], None], _name: str) -> None:
        self.submit_later(0.0, task, _name)

    def submit_later(self, seconds: float, task: Callable[[], None], _name: str) -> None:
        heapq.heappush(self._tasks, (self.now + seconds, next(self._numbers), task))

    def reset_after_fork(self) -> None:
        self._tasks = []

    def advance(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while self._tasks and self._tasks[0][0] <= end:
            self.now, _, task = heapq.heappop(self._tasks)
            task()
        self.now = end


class Session:
    """A session, its source and its live session in one."""

    def __init__(self, name: str, user: dict[str, Any] | None = None, is_agent: bool = False) -> None:
        self.id, self.user, self.is_agent = name, user, is_agent
        self.path = ""
        self.is_rerun = False
        self.memberships: Memberships | None = None

    def page(self) -> str:
        return self.path

    def follower(self, _kind: type, make: Callable[[], Memberships]) -> Memberships:
        self.memberships = self.memberships or make()
        return self.memberships


class Server:
    """A presence, whose current run the test chooses. Runs follow each other in `run`."""

    def __init__(self, store: _core.Store, clock: Clock) -> None:
        self.store, self.clock = store, clock
        self.state = ServerState(store)
        self.part: Any = None
        self.is_evaluating = False
        self.ended: set[str] = set()
        self.presence = Presence(
            store,
            Listeners(store),
            KeyOptions(store),
            current=self._current,
            part_of_run=lambda: self.part,
            is_evaluating=lambda: self.is_evaluating,
            has_ended=lambda name: name in self.ended,
            workers=clock,  # type: ignore[arg-type]
            clock=clock,
        )
        self.join = self.presence.join
        self.online = self.presence.online

    def _current(self, call: str) -> Any:
        if self.part is None:
            raise FastServerStateError(f"{call} outside")
        return self.part.live

    def start(self, name: str, **options: Any) -> Session:
        session = Session(name, **options)
        self.presence.started(session)
        return session

    def run(
        self, session: Session, body: Callable[[], object], fragment: str | None = None, completes: bool = True
    ) -> None:
        """Run the script's body or a fragment of a session."""
        if session.memberships is not None:
            session.memberships.run_started()
        self.part = SimpleNamespace(live=session, fragment_id=fragment)
        body()
        if session.memberships is not None:
            session.memberships.run_finished((fragment,) if completes else (), lambda _: True)
        self.part = None

    def names(self, group: str | None = None) -> list[str]:
        """Return the ids of the sessions that are online, once all updates have been made."""
        self.clock.advance(INTERVAL)
        ids = {visit.id: name for name, visit in self.presence._visits.items()}
        return [ids[visitor.id] for visitor in self.online(group)]


@pytest.fixture
def server(store: _core.Store) -> Server:
    return Server(store, Clock())


# Groups


def test_session_is_in_a_group_while_its_runs_join_it(server: Server) -> None:
    ann, bob = server.start("ann"), server.start("bob")
    server.run(ann, lambda: server.join("room"))
    assert server.names("room") == ["ann"]
    server.run(bob, lambda: server.join("room"))
    assert server.names("room") == ["ann", "bob"]
    server.run(ann, lambda: None)
    assert server.names("room") == ["bob"]
    server.run(bob, lambda: server.join("other"))
    assert server.names("room") == []
    assert server.names("other") == ["bob"]


def test_interrupted_run_leaves_no_group(server: Server) -> None:
    ann = server.start("ann")
    server.run(ann, lambda: server.join("room"))
    server.run(ann, lambda: server.join("other"), completes=False)
    assert server.names("room") == server.names("other") == ["ann"]
    server.run(ann, lambda: server.join("other"))
    assert server.names("room") == []


def test_fragments_join_and_leave_by_themselves(server: Server) -> None:
    ann = server.start("ann")
    server.run(ann, lambda: server.join("room"))
    server.run(ann, lambda: server.join("typing"), fragment="f")
    server.run(ann, lambda: server.join("room"), fragment="f")
    assert server.names("typing") == []
    server.run(ann, lambda: None)
    assert server.names("room") == ["ann"], "The fragment has joined it, too."
    assert ann.memberships is not None
    ann.memberships.run_started()
    ann.memberships.run_finished((None,), lambda _: False)
    assert server.names("room") == [], "The fragment does not exist any more."


def test_all_sessions_are_online_without_a_group(server: Server) -> None:
    server.start("ann")
    bob = server.start("bob", is_agent=True)
    assert server.names() == ["ann", "bob"]
    assert [visitor.is_agent for visitor in server.online()] == [False, True]
    bob.path = "cities"
    server.presence.requested("bob", "cities")
    server.clock.advance(INTERVAL)
    assert [visitor.page for visitor in server.online()] == ["", "cities"]


def test_fields_are_attributes_of_the_visitor(server: Server) -> None:
    ann = server.start("ann")
    server.run(ann, lambda: server.join("room", name="Ann", cursor=(1, 2)))
    server.clock.advance(INTERVAL)
    (visitor,) = server.online("room")
    assert (visitor.name, visitor.cursor, visitor.fields) == ("Ann", (1, 2), {"name": "Ann", "cursor": (1, 2)})
    with pytest.raises(AttributeError, match=r"no field 'nme'. join\(..., nme=...\) gives it one"):
        _ = visitor.nme
    assert not hasattr(visitor, "colour")
    assert repr(visitor) == f"Visitor({visitor.id!r}, name='Ann', cursor=(1, 2))"
    assert "ann" not in visitor.id, "Streamlit's id of a session opens it."


def test_own_visitor_is_marked_and_shown_immediately(server: Server) -> None:
    ann, bob = server.start("ann"), server.start("bob")
    server.run(bob, lambda: server.join("room", name="Bob"))
    seen: list[tuple[str, bool]] = []

    def body() -> None:
        server.join("room", name="Ann")
        seen.extend((visitor.name, visitor.is_me) for visitor in server.online("room"))

    server.run(ann, body)
    assert seen == [("Bob", False), ("Ann", True)]
    server.is_evaluating = True
    server.part = SimpleNamespace(live=ann, fragment_id=None)
    server.clock.advance(INTERVAL)
    assert [visitor.is_me for visitor in server.online("room")] == [False, False]


def test_sessions_of_one_user_are_one_visitor(server: Server) -> None:
    user = {"email": "ann@example.com"}
    for number, who in enumerate([user, None, {"email": "bob@example.com"}, user]):
        session = server.start(f"s{number}", user=who)
        server.run(session, lambda number=number: server.join("room", number=number))
    server.clock.advance(INTERVAL)
    by_session, by_user = server.online("room"), server.online("room", by="user")
    assert [visitor.number for visitor in by_session] == [0, 1, 2, 3]
    assert [visitor.number for visitor in by_user] == [3, 1, 2]
    assert by_user[0].since == by_session[0].since
    assert by_user[0].user == user
    assert "ann" not in by_user[0].id


# Updates


def versions(server: Server, group: str = "room") -> int:
    return server.store.version(server.presence._groups[group].key)


def test_fields_of_a_session_are_updated_immediately_and_then_at_most_once_per_interval(server: Server) -> None:
    ann = server.start("ann")
    server.run(ann, lambda: server.join("room", cursor=0))
    server.clock.advance(INTERVAL)
    server.run(ann, lambda: server.join("room", cursor=1))
    first = versions(server)
    assert server.online("room")[0].cursor == 1
    for cursor in range(2, 100):
        server.run(ann, lambda cursor=cursor: server.join("room", cursor=cursor))
    server.clock.advance(0)
    assert versions(server) == first
    server.clock.advance(INTERVAL)
    second = versions(server)
    assert second > first
    assert server.online("room")[0].cursor == 99
    server.clock.advance(10 * INTERVAL)
    assert versions(server) == second


def test_fields_that_the_script_changes_in_place_are_updated(server: Server) -> None:
    ann = server.start("ann")
    basket = ["tea"]
    server.run(ann, lambda: server.join("room", basket=basket))
    server.clock.advance(INTERVAL)
    basket.append("milk")
    assert server.online("room")[0].basket == ["tea"]
    before = versions(server)
    server.run(ann, lambda: server.join("room", basket=basket))
    assert versions(server) > before
    assert server.online("room")[0].basket == ["tea", "milk"]


def test_joins_are_not_held_back(server: Server) -> None:
    for number in range(5):
        session = server.start(f"s{number}")
        before = 0 if number == 0 else versions(server)
        server.run(session, lambda: server.join("room"))
        assert versions(server) > before
        assert len(server.online("room")) == number + 1


def test_same_fields_cost_no_update(server: Server) -> None:
    ann = server.start("ann")
    server.run(ann, lambda: server.join("room", cells=[1, 2]))
    server.clock.advance(INTERVAL)
    before = versions(server)
    for _ in range(5):
        server.run(ann, lambda: server.join("room", cells=[1, 2]))
        server.clock.advance(INTERVAL)
    assert versions(server) == before


@pytest.mark.parametrize("block", ["transaction", "no_rerun"])
def test_join_inside_of_a_block_that_holds_changes_back_is_shown(server: Server, block: str) -> None:
    ann = server.start("ann")

    def body() -> None:
        if block == "transaction":
            with BeginTransaction(server.store)():
                server.join("room")
        else:
            with NoRerun():
                server.join("room")
        assert server.presence._groups["room"].key not in server.state

    server.run(ann, body)
    assert server.names("room") == ["ann"]


def test_update_that_fails_is_made_later(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    ann = server.start("ann")
    server.clock.advance(INTERVAL)
    write, fails = server.presence._state, [ConnectionError("no reply")]

    class Failing:
        def __setitem__(self, key: str, value: object) -> None:
            if fails:
                raise fails.pop()
            write[key] = value

        def __getattr__(self, name: str) -> Any:
            return getattr(write, name)

    server.presence._state = Failing()  # type: ignore[assignment]
    server.run(ann, lambda: server.join("room"))
    assert "is tried again: no reply" in caplog.text
    assert server.online("room") == []
    server.clock.advance(10)
    assert server.names("room") == ["ann"]


# Connections


def test_closed_tab_is_gone_immediately_and_back_with_its_connection(server: Server) -> None:
    ann = server.start("ann")
    server.run(ann, lambda: server.join("room"))
    server.presence.paused("ann")
    server.presence.left("ann")
    assert server.names("room") == server.names() == []
    server.presence.resumed("ann")
    assert server.names("room") == server.names() == ["ann"]
    server.presence.paused("ann")
    server.presence.ended("ann")
    assert server.names("room") == []
    server.clock.advance(GRACE)
    assert not server.presence._groups
    assert not server.presence._visits


def test_short_loss_of_the_connection_is_not_shown(server: Server) -> None:
    ann = server.start("ann")
    server.run(ann, lambda: server.join("room"))
    server.clock.advance(INTERVAL)
    before = versions(server)
    for _ in range(10):
        server.presence.paused("ann")
        server.clock.advance(GRACE * 0.9)
        server.presence.resumed("ann")
    assert versions(server) == before
    assert server.names("room") == ["ann"]
    server.presence.paused("ann")
    server.clock.advance(GRACE)
    assert server.names("room") == []


def test_fields_of_a_session_are_those_of_all_its_groups(server: Server) -> None:
    ann = server.start("ann")
    server.run(ann, lambda: (server.join("room", name="Ann", row=1), server.join("other", row=2)))
    assert server.presence.fields_of("ann") == {"name": "Ann", "row": 2}
    server.run(ann, lambda: server.join("room", name="Ann"))
    assert server.presence.fields_of("ann") == {"name": "Ann"}
    assert server.presence.fields_of("bob") == {}


def test_run_that_outlives_its_session_joins_no_group(server: Server) -> None:
    ann = server.start("ann")
    server.ended.add("ann")
    server.presence.ended("ann")
    server.run(ann, lambda: server.join("room"))
    server.clock.advance(1)
    assert server.online("room") == server.online() == []
    assert not server.presence._visits


# Several servers


class Connected:
    """A store that says that it is connected."""

    def __init__(self, store: _core.Store) -> None:
        self._store = store

    def has_backend(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def connected(server: Server) -> Server:
    server.presence._store = Connected(server.store)  # type: ignore[assignment]
    return server


def test_rows_of_a_killed_server_are_not_shown_and_then_deleted(store: _core.Store) -> None:
    clock, clock_there = Clock(), Clock()
    here, there = connected(Server(store, clock)), connected(Server(store, clock_there))
    here.run(here.start("ann"), lambda: here.join("room"))
    there.run(there.start("bob"), lambda: there.join("room"))
    clock.advance(1)
    clock_there.advance(1)
    assert len(here.online("room")) == len(there.online("room")) == 2
    alive, rows = f"\0fss/servers/{there.presence._server}", there.presence._groups["room"].key
    del here.state[alive]  # no worker of that server runs any more
    assert len(here.online("room")) == 1
    assert rows in here.state
    clock.advance(LEFTOVER)
    assert rows not in here.state


def test_server_whose_keys_were_lost_writes_them_again(store: _core.Store) -> None:
    clock = Clock()
    here, there = connected(Server(store, clock)), connected(Server(store, clock))
    there.run(there.start("bob"), lambda: there.join("room"))
    clock.advance(1)
    for key in store.keys(hidden=True):
        here.state.pop(key)
    clock.advance(1)
    assert len(here.online("room")) == 1


# Misuse


def test_misuse_is_explained(server: Server) -> None:
    with pytest.raises(TypeError, match=r"join takes the name of a group, a str such as 'room/7', not 7 of type int"):
        server.join(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"online needs the name of a group, which '' is not"):
        server.online("")
    with pytest.raises(ValueError, match=r"by='session' or by='user', not 'group'"):
        server.online(by="group")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"join\('room'\) cannot have a field 'page'"):
        server.join("room", page=1)
    with pytest.raises(FastServerStateError, match="outside"):
        server.join("room")
    server.is_evaluating = True
    with pytest.raises(FastServerStateError, match=r"join\('room'\) concerns one session"):
        server.join("room")


def test_visitor_can_be_copied_and_pickled() -> None:
    ann = Visitor("1", datetime.now(UTC), fields={"name": "Ann"})
    assert copy.copy(ann).name == pickle.loads(pickle.dumps(ann)).name == "Ann"


# Threads and leaks


def test_newest_rows_are_written_last(store: _core.Store) -> None:
    """Many threads join and leave at the same time. The workers update behind them."""
    server = Server(store, Clock())
    workers = Workers()
    parts = threading.local()
    presence = Presence(
        store,
        Listeners(store),
        KeyOptions(store),
        current=lambda _call: parts.part.live,
        part_of_run=lambda: getattr(parts, "part", None),
        is_evaluating=lambda: False,
        has_ended=lambda _name: False,
        workers=workers,
    )
    barrier = threading.Barrier(8)
    errors: list[BaseException] = []

    def visit(number: int) -> None:
        try:
            barrier.wait()
            session = Session(str(number))
            presence.started(session)
            parts.part = SimpleNamespace(live=session, fragment_id=None)
            for turn in range(100):
                if session.memberships is not None:
                    session.memberships.run_started()
                if turn % 3 or turn == 99:
                    presence.join("room", turn=turn)
                if session.memberships is not None:
                    session.memberships.run_finished((None,), lambda _: True)
            parts.part = None
            if number % 2:
                presence.ended(session.id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    key = presence._groups["room"].key
    done = threading.Event()
    while presence._groups["room"].due is not None or len(server.state[key]) != 4:
        done.wait(0.001)
    assert sorted(row[5]["turn"] for row in server.state[key]) == [99] * 4


def test_sessions_that_have_ended_leave_nothing(server: Server) -> None:
    def visit(number: int) -> None:
        session = server.start(f"s{number}")
        server.run(session, lambda: server.join(f"room/{number % 7}", number=number))
        server.run(session, lambda: server.online(f"room/{number % 7}"))
        server.presence.ended(session.id)
        server.clock.advance(INTERVAL)

    for number in range(20):
        visit(number)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(200):
        visit(number)
    gc.collect()
    assert len(gc.get_objects()) < before + 200
    assert server.store.keys(hidden=True) == []
    assert not server.presence._groups


# A model


class PresenceModel(RuleBasedStateMachine):
    """Sessions start, run, lose connections and end, in any order. Who is online follows."""

    GROUPS = ("a", "a/b", "ä")

    @initialize()
    def begin(self) -> None:
        self.store = _core.Store(reserved=dir(ServerState))
        self.clock = Clock()
        self.server = Server(self.store, self.clock)
        self.sessions: dict[str, Session] = {}
        self.joined: dict[str, dict[str | None, dict[str, int]]] = {}
        self.lost_at: dict[str, float] = {}
        self.gone: set[str] = set()
        self.names = itertools.count()

    @rule()
    def start(self) -> None:
        name = f"s{next(self.names)}"
        self.sessions[name] = self.server.start(name)
        self.joined[name] = {}

    def some(self, number: int) -> str:
        return sorted(self.sessions)[number % len(self.sessions)]

    @precondition(lambda self: self.sessions)
    @rule(
        number=st.integers(0, 9),
        groups=st.sets(st.sampled_from(GROUPS)),
        fragment=st.sampled_from([None, None, "f", "g"]),
        completes=st.booleans(),
    )
    def run(self, number: int, groups: set[str], fragment: str | None, completes: bool) -> None:
        name = self.some(number)
        value = random.randrange(10)

        def body() -> None:
            for group in groups:
                self.server.join(group, value=value)

        self.server.run(self.sessions[name], body, fragment, completes)
        joined = self.joined[name]
        for declared in joined.values():
            for group in groups & declared.keys():
                declared[group] = value
        earlier = {} if completes else joined.get(fragment, {})
        joined[fragment] = {**earlier, **dict.fromkeys(groups, value)}

    @precondition(lambda self: self.sessions.keys() - self.lost_at.keys())
    @rule(number=st.integers(0, 9), closes=st.booleans())
    def pause(self, number: int, closes: bool) -> None:
        connected = sorted(self.sessions.keys() - self.lost_at.keys())
        name = connected[number % len(connected)]
        self.server.presence.paused(name)
        self.lost_at[name] = self.clock.now
        if closes:
            self.server.presence.left(name)
            self.gone.add(name)

    @precondition(lambda self: self.lost_at)
    @rule(number=st.integers(0, 9))
    def resume(self, number: int) -> None:
        name = sorted(self.lost_at)[number % len(self.lost_at)]
        self.server.presence.resumed(name)
        del self.lost_at[name]
        self.gone.discard(name)

    @precondition(lambda self: self.sessions)
    @rule(number=st.integers(0, 9))
    def end(self, number: int) -> None:
        name = self.some(number)
        self.server.presence.ended(name)
        for known in (self.sessions, self.joined, self.lost_at):
            known.pop(name, None)  # type: ignore[attr-defined]
        self.gone.discard(name)

    @rule(seconds=st.sampled_from([0.001, INTERVAL, 1.0, GRACE]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def shown(self) -> set[str]:
        lost = {name for name, at in self.lost_at.items() if self.clock.now - at >= GRACE}
        return set(self.sessions) - self.gone - lost

    @invariant()
    def online_follows(self) -> None:
        if not hasattr(self, "server"):
            return
        self.clock.advance(INTERVAL)
        assert set(self.server.names()) == self.shown()
        ids = {visit.id: name for name, visit in self.server.presence._visits.items()}
        for group in self.GROUPS:
            expected = {
                name: {declared[group] for declared in self.joined[name].values() if group in declared}
                for name in self.shown()
                if any(group in declared for declared in self.joined[name].values())
            }
            found = {ids[visitor.id]: visitor.value for visitor in self.server.online(group)}
            assert found.keys() == expected.keys()
            assert all(value in expected[name] for name, value in found.items())

    def teardown(self) -> None:
        if hasattr(self, "server"):
            for name in list(self.sessions):
                self.server.presence.ended(name)
            self.clock.advance(GRACE + 1)
            assert self.store.keys(hidden=True) == []


TestPresenceModel = PresenceModel.TestCase
TestPresenceModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
