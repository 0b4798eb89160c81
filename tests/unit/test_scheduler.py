"""The scheduler, with sessions that only record requests and a fake clock."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest
from harness.clock import FakeClock
from harness.interpreter import switch_interval
from unit.helpers import NO_POST_SCRIPT_GC, enter, leave

from fastserverstate.configuration import KeyOptions, Settings
from fastserverstate.rerun.observer import IDLE_AFTER
from fastserverstate.rerun.push import BATCH
from fastserverstate.rerun.rerun_queue import BUSY_CHECK, LONG_RUN, RUNNING_RETRY
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.session import LiveSession, Readiness
from fastserverstate.rerun.viewers import Viewer


class Adapter:
    """A session's link. A request begins a run, which the test ends."""

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
    """Runs a session's script."""


class Server:
    """Sessions, and an event loop that runs in `turn`."""

    def __init__(self, store, state, settings: Settings, clock: FakeClock) -> None:
        self.store, self.state, self.clock = store, state, clock
        self.start_loop()
        self.runner = Runner()
        self.scheduler = Scheduler(store, settings, NO_POST_SCRIPT_GC)

    def start_loop(self) -> None:
        self.loop = self.clock.drive(asyncio.new_event_loop())

    def session(self, *reads: str, part: str | None = None) -> LiveSession:
        """Open a session whose last run has read these keys."""
        live = LiveSession(self.store, Adapter(self.loop))
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
        """Run the event loop, after so many seconds."""
        self.clock.advance(seconds)
        for _ in range(2):
            self.loop.run_until_complete(asyncio.sleep(0))

    def end_run(self, live: LiveSession, *reads: str) -> None:
        live.run_started(self.runner)
        enter(live)
        for key in reads:
            self.state.get(key)
        leave()
        live.finish_run()
        live.runner_ended = True
        live.adapter.state = Readiness.READY
        self.scheduler.run_ended(live)
        self.turn()


@pytest.fixture
def settings() -> Settings:
    return Settings(max_parallel_reruns=1)


@pytest.fixture
def server(store, state, settings: Settings, clock: FakeClock) -> Iterator[Server]:
    server = Server(store, state, settings, clock)
    yield server
    server.loop.close()


def requests(*sessions: LiveSession) -> list[int]:
    return [len(live.adapter.requests) for live in sessions]


def test_one_at_a_time_oldest_first(server: Server) -> None:
    server.clock.is_busy = True
    one, two, three = (server.session(key) for key in "abc")
    for key in "bca":
        server.state[key] = 1
        server.turn()
    assert requests(one, two, three) == [0, 1, 0]
    server.end_run(two)
    assert requests(one, two, three) == [0, 1, 1]
    server.end_run(three)
    assert requests(one, two, three) == [1, 1, 1]


def test_a_long_run_gives_its_place_to_the_next(server: Server) -> None:
    server.clock.is_busy = True
    one, two = server.session("k"), server.session("k")
    server.state["k"] = 1
    server.turn()
    assert requests(one, two) == [1, 0]
    server.turn(LONG_RUN / 2)
    assert requests(one, two) == [1, 0]
    server.turn(LONG_RUN)
    assert requests(one, two) == [1, 1]


def test_idle_processors_admit_twice_as_many_each_time(server: Server) -> None:
    sessions = [server.session("k") for _ in range(16)]
    server.state["k"] = 1
    server.turn()
    assert sum(requests(*sessions)) == 1
    for admitted in (2, 4, 8, 16):
        server.turn(BUSY_CHECK)
        assert sum(requests(*sessions)) == admitted


def test_a_request_that_starts_nothing_keeps_no_place(server: Server) -> None:
    one, two = server.session("k"), server.session("k")
    one.adapter.request_rerun = one.adapter.requests.append
    server.state["k"] = 1
    server.turn()
    assert requests(one, two) == [1, 1]


@pytest.mark.parametrize("readiness", [Readiness.SENDING, Readiness.RUNNING])
def test_a_session_that_is_not_ready_is_looked_at_again(server: Server, readiness: Readiness) -> None:
    live = server.session("k")
    live.adapter.state = readiness
    server.state["k"] = 1
    server.turn()
    assert requests(live) == [0]
    live.adapter.state = Readiness.READY
    server.turn(RUNNING_RETRY)
    assert requests(live) == [1]


def test_a_session_that_is_away_is_asked_when_it_returns(server: Server) -> None:
    live = server.session("k")
    live.adapter.state = Readiness.AWAY
    server.state["k"] = 1
    server.turn(0.05)
    assert requests(live) == [0]
    live.adapter.state = Readiness.READY
    server.scheduler.returned(live)
    server.turn()
    assert requests(live) == [1]


def test_a_session_that_is_gone_leaves_nothing(server: Server) -> None:
    live = server.session("k")
    live.adapter.state = Readiness.GONE
    server.state["k"] = 1
    server.turn()
    assert server.store.statistics()["scopes"] == 0


def test_a_fragment_that_is_gone_is_dropped(server: Server) -> None:
    live = server.session("k", part="gone")
    server.state["k"] = 1
    server.turn()
    assert requests(live) == [0]
    assert server.store.statistics()["scopes"] == 0


def test_wakeup_lost_with_its_loop_stops_no_other_loop(server: Server) -> None:
    """A server ends with a wakeup in its loop. The next server of the process still gets wakeups."""
    server.session("k")
    server.turn()
    server.state["k"] = 1  # into a loop that never runs again
    server.loop.close()
    server.start_loop()
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
def test_switch_interval(server: Server, interval: float, during: float) -> None:
    """It is shorter during reruns and restored after them, unless the app has set it."""
    with switch_interval(interval):
        live = server.session("k")
        server.state["k"] = 1
        server.turn()
        assert requests(live) == [1]
        assert sys.getswitchinterval() == pytest.approx(during)
        server.end_run(live)
        server.clock.advance_until(lambda: sys.getswitchinterval() == pytest.approx(interval), IDLE_AFTER)


class Region:
    """A live region."""

    def __init__(self, *lives: LiveSession) -> None:
        self.rendering = None
        self.viewers = {Viewer(self, live, None, None, None): None for live in lives}
        self.sent = 0

    def is_sent_by(self, loops: int) -> None:
        self.sent -= loops

    def was_sent(self) -> None:
        self.sent += 1


def test_switch_interval_of_pushes(server: Server) -> None:
    with switch_interval(0.005):
        region = Region(server.session("k"), server.session("k"))
        server.scheduler.push(region)
        assert region.sent == -1
        server.turn()
        assert region.sent == 0
        assert sys.getswitchinterval() == pytest.approx(0.001)
        server.clock.advance_until(lambda: sys.getswitchinterval() == pytest.approx(0.005), IDLE_AFTER)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_loop_that_is_closed_before_it_has_pushed_holds_no_region_up(server: Server, turns: int) -> None:
    """A region is rendered again once all loops have sent its last rendering."""
    region = Region(*(server.session("k") for _ in range(10 * BATCH)))
    server.scheduler.push(region)
    for _ in range(turns):
        server.loop.run_until_complete(asyncio.sleep(0))
    assert region.sent == -1
    server.loop.close()
    server.start_loop()
    server.session("k")
    assert region.sent == 0


def test_change_that_was_held_back_is_shown_after_the_interval(server, store, state):
    """Once, and by one timer."""
    KeyOptions(store).set("k", min_rerun_interval=100)
    live = server.session("k")
    for number in range(3):
        state["k"] = number
        server.turn()
        if number == 0:
            server.end_run(live, "k")
    assert live.adapter.requests == [None]
    for seconds, requests in ((50, 1), (51, 2), (200, 2)):
        server.turn(seconds)
        assert len(live.adapter.requests) == requests


@pytest.mark.parametrize("has_heard_from_the_browser", [False, True])
def test_a_returning_session_repeats_what_its_browser_may_not_have_received(
    server: Server, has_heard_from_the_browser: bool
) -> None:
    live = server.session("k")
    server.state["k"] = 1
    server.turn()
    server.end_run(live, "k")
    if has_heard_from_the_browser:
        live.user_asked()
        server.end_run(live, "k")
    assert requests(live) == [1]
    server.scheduler.returned(live)
    server.turn()
    assert requests(live) == [1 if has_heard_from_the_browser else 2]
