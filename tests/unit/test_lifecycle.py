"""When sessions start, pause, resume and end, with a session manager and an event loop whose time the test advances."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from harness.clock import FakeClock
from streamlit.runtime.app_session import AppSession

from fastserverstate._streamlit import lifecycle
from fastserverstate._streamlit.connections import GOING_AWAY
from fastserverstate._streamlit.lifecycle import LOOK, Lifecycle
from fastserverstate._streamlit.names import ATTRIBUTE
from fastserverstate._streamlit.session import page_of
from fastserverstate._streamlit.users import user_of
from fastserverstate.sessions import SessionEvents

TTL = 120.0
PAGES = {"main": {"url_pathname": "start"}, "1": {"url_pathname": "cities"}, "2": {"page_name": "old_release"}}
MOST_STORED = 3


class Session:
    """An AppSession, as far as it is looked at."""

    def __init__(self, name, loop):
        self.id = name
        self._event_loop = loop
        self._user_info = {}
        self._session_state = SimpleNamespace(filtered_state={})
        self._scriptrunner = None
        self._client_state = SimpleNamespace(page_script_hash="", page_name="")
        self._pages_manager = SimpleNamespace(main_script_hash="main", get_pages=lambda: PAGES)


def new_manager_class():
    class Manager:
        """Stores disconnected sessions as Streamlit does: it discards them silently, when it uses the storage."""

        def __init__(self, clock, loop):
            self.clock, self.loop = clock, loop
            self.active, self.stored = {}, {}
            self.is_failing = False
            self.client = SimpleNamespace(close_code=None)

        def connect_session(self, name):
            session, _ = self.stored.pop(name, (Session(name, self.loop), 0))
            self.active[name] = SimpleNamespace(session=session, client=self.client)
            return name

        def disconnect_session(self, name):
            if name in self.active:
                self.stored[name] = self.active.pop(name).session, self.clock.monotonic() + TTL
                while len(self.stored) > MOST_STORED:
                    del self.stored[next(iter(self.stored))]

        def close_session(self, name):
            self.active.pop(name, None)
            self.stored.pop(name, None)

        def is_active_session(self, name):
            return name in self.active

        def get_active_session_info(self, name):
            return self.active.get(name)

        def list_active_sessions(self):
            return list(self.active.values())

        def list_sessions(self):
            if self.is_failing:
                raise KeyError("expired")
            now = self.clock.monotonic()
            stored = [SimpleNamespace(session=session) for session, end in self.stored.values() if now < end]
            return [*self.active.values(), *stored]

    return Manager


class Heard(list, SessionEvents):
    def started(self, source):
        self.append(f"start {source.id}")

    def paused(self, name):
        self.append(f"pause {name}")

    def left(self, name):
        self.append(f"left {name}")

    def resumed(self, name):
        self.append(f"resume {name}")

    def ended(self, name):
        self.append(f"end {name}")


class World:
    """A watched session manager. `do` calls its methods on the event loop."""

    def __init__(self):
        self.clock = FakeClock()
        self.loop = self.clock.drive(asyncio.new_event_loop())
        manager_class = new_manager_class()
        self.lifecycle = Lifecycle()
        self.heard = Heard()
        self.lifecycle.tell(self.heard)
        self.lifecycle._patch(manager_class)
        self.manager = manager_class(self.clock, self.loop)

    def do(self, method, name):
        async def call():
            getattr(self.manager, f"{method}_session")(name)

        self.loop.run_until_complete(call())

    def advance(self, seconds):
        """Let time pass, with a few turns of the event loop for each of its timers."""
        while seconds > 0:
            self.clock.advance(min(LOOK, seconds))
            seconds -= LOOK
            for _ in range(3):
                self.loop.run_until_complete(asyncio.sleep(0))

    @property
    def is_looking(self):
        return self.manager.__dict__[ATTRIBUTE]._timer is not None


@pytest.fixture
def world():
    world = World()
    yield world
    world.loop.close()


def test_closed_tab_ends_when_streamlit_discards_the_session(world):
    world.do("connect", "a")
    world.do("disconnect", "a")
    world.advance(TTL - 1)
    assert world.heard == ["start a", "pause a"]
    world.advance(1 + LOOK)
    assert world.heard == ["start a", "pause a", "end a"]
    assert not world.is_looking


def test_returning_session_resumes(world):
    world.do("connect", "a")
    world.do("disconnect", "a")
    world.advance(TTL - 1)
    world.do("connect", "a")
    world.advance(2 * TTL)
    assert world.heard == ["start a", "pause a", "resume a"]
    assert not world.is_looking
    world.do("close", "a")
    world.do("close", "a")
    assert world.heard[3:] == ["end a", "end a"]  # listeners ignore unknown sessions


def test_closed_session_ends_immediately(world):
    world.do("connect", "a")
    world.do("close", "a")
    world.do("connect", "b")
    world.do("disconnect", "b")
    world.do("close", "b")
    assert world.heard == ["start a", "end a", "start b", "pause b", "end b"]
    world.advance(2 * LOOK)
    assert not world.is_looking


def test_discarded_session_ends_when_another_takes_its_place(world):
    names = "abcde"
    for name in names:
        world.do("connect", name)
    for name in names:
        world.do("disconnect", name)
    assert world.heard[5:] == ["pause a", "pause b", "pause c", "pause d", "end a", "pause e", "end b"]


def test_session_of_a_user_who_logs_out_does_not_pause(world):
    world.do("connect", "a")
    world.manager.stored = type("Forgetful", (dict,), {"__setitem__": lambda *_: None})()
    world.do("disconnect", "a")
    assert world.heard == ["start a", "end a"]


def test_expiry_while_streamlit_lists_sessions_is_seen_later(world):
    world.do("connect", "a")
    world.manager.is_failing = True
    world.do("disconnect", "a")
    world.advance(TTL + LOOK)
    assert world.heard == ["start a", "pause a"]
    world.manager.is_failing = False
    world.advance(LOOK)
    assert world.heard == ["start a", "pause a", "end a"]


def test_repeated_disconnection_is_one_pause(world):
    world.do("connect", "a")
    world.do("disconnect", "a")
    world.do("disconnect", "a")
    world.do("disconnect", "unknown")
    assert world.heard == ["start a", "pause a"]


def test_sessions_from_before_are_found(world):
    for name in ("a", "b"):
        world.manager.active[name] = SimpleNamespace(session=Session(name, world.loop))
    type(world.manager).disconnect_session.__wrapped__(world.manager, "b")

    async def find():
        world.lifecycle._find(world.manager)

    world.loop.run_until_complete(find())
    assert world.heard == ["start a", "start b", "pause b"]
    world.advance(TTL + LOOK)
    assert world.heard[3:] == ["end b"]


def test_failing_listener_affects_neither_streamlit_nor_others(world, caplog):
    class Failing(Heard):
        def started(self, _source):
            raise ValueError("wrong")

    world.lifecycle._listeners.insert(0, Failing())
    world.do("connect", "a")
    assert world.heard == ["start a"]
    assert "could not be processed" in caplog.text


@pytest.mark.parametrize(
    ("info", "user"),
    [
        ({}, None),
        ({"email": None}, None),
        ({"email": "test@example.com"}, None),
        ({"is_logged_in": False}, None),
        ({"is_logged_in": False, "email": "ann@example.com"}, None),
        ({"email": "ann@example.com"}, {"email": "ann@example.com"}),
        (
            {"is_logged_in": True, "email": "ann@example.com", "tokens": {"id": "secret"}},
            {"is_logged_in": True, "email": "ann@example.com"},
        ),
    ],
)
def test_fields_of_a_user_who_is_logged_in(info, user):
    assert user_of(SimpleNamespace(_user_info=info)) == user


# How connections were closed


class Starlette:
    """A client of Starlette: its socket delivers messages, and forgets the code with which it was closed."""

    def __init__(self):
        self.messages = []
        self._websocket = SimpleNamespace(_receive=self._next)

    async def _next(self):
        return self.messages.pop(0)

    async def receive(self, message):
        self.messages.append(message)
        return await self._websocket._receive()


@pytest.mark.parametrize("code", [1001, 1006, 1005, None])
def test_session_has_left_if_its_browser_says_so_to_tornado(world, code):
    world.manager.client = SimpleNamespace(close_code=code)
    world.do("connect", "a")
    world.do("disconnect", "a")
    assert world.heard == ["start a", "pause a", *(["left a"] if code == GOING_AWAY else [])]


@pytest.mark.parametrize("code", [1001, 1006, None])
def test_session_has_left_if_its_browser_says_so_to_starlette(world, code):
    world.manager.client = client = Starlette()
    world.do("connect", "a")
    receive = client.receive
    assert world.loop.run_until_complete(receive({"type": "websocket.receive"})) == {"type": "websocket.receive"}
    world.loop.run_until_complete(receive({"type": "websocket.disconnect", "code": code}))
    assert world.heard == ["start a"]
    world.do("disconnect", "a")
    assert world.heard == ["start a", "pause a", *(["left a"] if code == GOING_AWAY else [])]


def test_session_has_left_although_a_failed_message_told_of_it_first(world):
    world.manager.client = client = Starlette()
    world.do("connect", "a")
    world.do("disconnect", "a")
    assert world.heard == ["start a", "pause a"]
    world.loop.run_until_complete(client.receive({"type": "websocket.disconnect", "code": GOING_AWAY}))
    assert world.heard == ["start a", "pause a", "left a"]


def test_late_end_of_an_earlier_connection_says_nothing_of_the_next(world):
    world.manager.client = client = Starlette()
    world.do("connect", "a")
    world.do("disconnect", "a")
    world.manager.client = Starlette()
    world.do("connect", "a")
    world.loop.run_until_complete(client.receive({"type": "websocket.disconnect", "code": GOING_AWAY}))
    assert world.heard == ["start a", "pause a", "resume a"]


@pytest.mark.parametrize(
    ("page_hash", "page_name", "page"),
    [
        ("", "", ""),
        ("", "cities", "cities"),
        ("main", "", ""),
        ("1", "", "cities"),
        ("2", "", "old_release"),
        ("?", "", ""),
    ],
)
def test_page_of_a_request(world, page_hash, page_name, page):
    state = SimpleNamespace(page_script_hash=page_hash, page_name=page_name)
    assert page_of(Session("a", world.loop), state) == page


def test_requests_of_the_browser_are_told_with_their_page(world, monkeypatch):
    monkeypatch.setattr(AppSession, "request_rerun", lambda _session, _client_state: None)
    heard = []
    listener = SessionEvents()
    listener.requested = lambda *args: heard.append(args)
    world.lifecycle.tell(listener)
    world.do("connect", "a")
    session = world.manager.active["a"].session
    session.request_rerun(SimpleNamespace(page_script_hash="1", page_name=""))
    session.request_rerun(None)
    assert heard == [("a", "cities")]


def test_page_that_cannot_be_found_keeps_no_session_from_its_run(world, monkeypatch, caplog):
    requests = []
    monkeypatch.setattr(AppSession, "request_rerun", lambda _session, client_state: requests.append(client_state))
    world.do("connect", "a")
    session = world.manager.active["a"].session
    session._pages_manager.get_pages = lambda: 1 / 0
    state = SimpleNamespace(page_script_hash="1", page_name="")
    session.request_rerun(state)
    assert requests == [state]
    assert "could not be found" in caplog.text


def test_error_in_a_new_session_does_not_reach_streamlit(world, monkeypatch, caplog):
    monkeypatch.setattr(lifecycle, "SessionSource", lambda _session: 1 / 0)
    world.do("connect", "a")
    assert world.manager.is_active_session("a")
    assert "could not be processed" in caplog.text
