"""The scheduler, with sessions that only note what is asked of them and a clock that the test turns."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

import pytest
from unit.helpers import enter, leave

from fastserverstate import _core
from fastserverstate.configuration import KeyOptions, Settings
from fastserverstate.rerun import rest
from fastserverstate.rerun import scheduler as module
from fastserverstate.rerun.collector import SettingAside
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.session import LiveSession, Readiness


class Link:
    """A session's link: what is asked of it begins a run, which the test ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.state = Readiness.READY
        self.requests: list[str | None] = []

    def readiness(self) -> Readiness:
        return self.state

    def has_fragment(self, fragment: str) -> bool:
        return fragment != "gone"

    def request_rerun(self, fragment: str | None) -> None:
        self.requests.append(fragment)
        self.state = Readiness.RUNNING


class Runner:
    """What runs a session's script."""


class Server:
    """An event loop that runs when the test says so, and its sessions."""

    def __init__(self, store, state, settings: Settings) -> None:
        self.store, self.state = store, state
        self.loop = asyncio.new_event_loop()
        self.runner = Runner()
        self.scheduler = Scheduler(store, settings, SettingAside(lambda: False))

    def session(self, *reads: str, part: str | None = None) -> LiveSession:
        """A session whose last run has read these keys."""
        live = LiveSession(self.store, Link(self.loop))
        self.scheduler.adopt(live)
        live.run_started(self.runner)
        enter(live, part)
        for key in reads:
            self.state.get(key)
        leave()
        live.finish_run()
        live.runner_ended = True
        return live

    def turn(self, seconds: float = 0) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.loop.run_until_complete(asyncio.sleep(0))

    def end_run(self, live: LiveSession, *reads: str) -> None:
        live.run_started(self.runner)
        enter(live)
        for key in reads:
            self.state.get(key)
        leave()
        live.finish_run()
        live.runner_ended = True
        live.link.state = Readiness.READY
        self.scheduler.run_ended(live)
        self.turn()


@pytest.fixture
def settings() -> Settings:
    return Settings(max_parallel_reruns=1)


@pytest.fixture
def server(store, state, settings: Settings) -> Iterator[Server]:
    server = Server(store, state, settings)
    yield server
    server.loop.close()


@pytest.fixture
def always_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "process_time", time.monotonic)


def requests(*sessions: LiveSession) -> list[int]:
    return [len(live.link.requests) for live in sessions]


@pytest.mark.usefixtures("always_busy")
def test_one_at_a_time_oldest_first(server: Server) -> None:
    one, two, three = (server.session(key) for key in "abc")
    for key in "bca":
        server.state[key] = 1
        server.turn()
    assert requests(one, two, three) == [0, 1, 0]
    server.end_run(two)
    assert requests(one, two, three) == [0, 1, 1]
    server.end_run(three)
    assert requests(one, two, three) == [1, 1, 1]


@pytest.mark.usefixtures("always_busy")
def test_a_long_run_gives_its_place_to_the_next(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_RUN", 0.05)
    one, two = server.session("k"), server.session("k")
    server.state["k"] = 1
    server.turn()
    assert requests(one, two) == [1, 0]
    server.turn(0.2)
    assert requests(one, two) == [1, 1]


def test_idle_processors_admit_twice_as_many_each_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "process_time", lambda: 0.0)
    monkeypatch.setattr(module, "BUSY_LATENESS", 10)  # on a machine that has other things to do
    sessions = [server.session("k") for _ in range(16)]
    server.state["k"] = 1
    server.turn()
    assert sum(requests(*sessions)) == 1
    deadline = time.monotonic() + 10
    while sum(requests(*sessions)) < 16 and time.monotonic() < deadline:
        server.turn(module.BUSY_CHECK)
    assert sum(requests(*sessions)) == 16


def test_a_request_that_starts_nothing_keeps_no_place(server: Server) -> None:
    one, two = server.session("k"), server.session("k")
    one.link.request_rerun = one.link.requests.append
    server.state["k"] = 1
    server.turn()
    assert requests(one, two) == [1, 1]


@pytest.mark.parametrize("readiness", [Readiness.SENDING, Readiness.RUNNING])
def test_a_session_that_is_not_ready_is_looked_at_again(server: Server, readiness: Readiness) -> None:
    live = server.session("k")
    live.link.state = readiness
    server.state["k"] = 1
    server.turn()
    assert requests(live) == [0]
    live.link.state = Readiness.READY
    deadline = time.monotonic() + 10
    while requests(live) == [0] and time.monotonic() < deadline:
        server.turn(0.001)
    assert requests(live) == [1]


def test_a_session_that_is_away_is_asked_when_it_returns(server: Server) -> None:
    live = server.session("k")
    live.link.state = Readiness.AWAY
    server.state["k"] = 1
    server.turn(0.05)
    assert requests(live) == [0]
    live.link.state = Readiness.READY
    server.scheduler.returned(live)
    server.turn()
    assert requests(live) == [1]


def test_a_session_that_is_gone_leaves_nothing(server: Server) -> None:
    live = server.session("k")
    live.link.state = Readiness.GONE
    server.state["k"] = 1
    server.turn()
    assert server.store.statistics()["scopes"] == 0


def test_a_fragment_that_is_gone_is_dropped(server: Server) -> None:
    live = server.session("k", part="gone")
    server.state["k"] = 1
    server.turn()
    assert requests(live) == [0]
    assert server.store.statistics()["scopes"] == 0


def test_a_wake_up_that_died_with_its_loop_silences_nobody(server: Server) -> None:
    """One server ends with a wake-up in its loop, the next one in the process still hears of writes."""
    server.session("k")
    server.turn()
    server.state["k"] = 1  # into a loop that never runs again
    server.loop.close()
    server.loop = asyncio.new_event_loop()
    live = server.session("k")
    server.state["k"] = 2
    server.turn()
    assert requests(live) == [1]


def test_writes_without_any_loop_left(server: Server) -> None:
    server.session("k")
    server.loop.close()
    for i in range(3):
        server.state["k"] = i
    assert server.state["k"] == 2


@pytest.mark.parametrize(("interval", "during"), [(0.005, 0.001), (0.003, 0.003)], ids=["CPython's", "the app's"])
def test_switch_interval(server: Server, monkeypatch: pytest.MonkeyPatch, interval: float, during: float) -> None:
    """Short turns while reruns go on, and as before when they are over; never against the app's own setting."""
    monkeypatch.setattr(rest, "REST", 0.01)
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        live = server.session("k")
        server.state["k"] = 1
        server.turn()
        assert requests(live) == [1]
        assert sys.getswitchinterval() == pytest.approx(during)
        server.end_run(live)
        deadline = time.monotonic() + 10
        while sys.getswitchinterval() != pytest.approx(interval) and time.monotonic() < deadline:
            server.turn(0.01)
        assert sys.getswitchinterval() == pytest.approx(interval)
    finally:
        sys.setswitchinterval(before)


def test_change_that_was_held_back_is_shown_when_its_time_has_come(server, store, state, monkeypatch):
    """Once, and by one timer."""
    KeyOptions(store).set("k", min_rerun_interval=100)
    live = server.session("k")
    for number in range(3):
        state["k"] = number
        server.turn()
        if number == 0:
            server.end_run(live, "k")
    assert live.link.requests == [None]
    loop_time = server.loop.time
    for seconds, requests in ((50, 1), (101, 2), (300, 2)):
        _core.advance_clock(seconds)
        monkeypatch.setattr(server.loop, "time", lambda seconds=seconds: loop_time() + seconds)
        server.turn()
        assert len(live.link.requests) == requests
