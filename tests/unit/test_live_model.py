"""Which session shows what, after any order of writes, runs, layouts, interruptions and disconnects.

The browsers of this model know what they show at each place. A push says what it expects to be there. It is an error if
that is something else, if a run is in progress, or if messages of a run were not sent yet.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from harness.clock import FakeClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from unit.helpers import NO_POST_SCRIPT_GC, enter, leave, locate_in_streamlit, locate_in_tests
from unit.test_computed import ManualWorkers

from fastserverstate import _core
from fastserverstate.computed_values import Evaluator
from fastserverstate.configuration import Settings
from fastserverstate.live_regions import LiveRegions
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.session import LiveSession, Readiness
from fastserverstate.state import ServerState

KEYS = ("a", "b")
SESSIONS = 2
MOSTLY = st.sampled_from([True, True, True, False])
LAYOUTS = st.lists(st.sampled_from(KEYS), min_size=1, max_size=4)


@dataclass(frozen=True)
class Place:
    path: tuple[str | None, int]
    fragment_id: str | None


class Rendering:
    """Shows one text."""

    def __init__(self, text: str, session: Any) -> None:
        self.text = text
        self._session = session

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rendering) and self.text == other.text

    __hash__ = None  # type: ignore[assignment]

    def show(self, place: Place) -> None:
        self._session().browser.outbox.append((place.path, None, self.text))

    def payloads_since(self, shown: Rendering, place: Place) -> list[Any]:
        return [(place.path, shown.text, self.text)]


@dataclass
class Browser:
    """What a session's browser shows, and the connection to it."""

    loop: asyncio.AbstractEventLoop
    screen: dict[Any, str] = field(default_factory=dict)
    outbox: list[Any] = field(default_factory=list)
    is_running: bool = False
    is_connected: bool = True
    is_receptive: bool = True
    requests: list[str | None] = field(default_factory=list)
    before_push: dict[Any, str] | None = None  # what was on the screen, unless a run has changed it since

    def readiness(self) -> Readiness:
        if not self.is_connected:
            return Readiness.AWAY
        if self.is_running:
            return Readiness.RUNNING
        return Readiness.SENDING if self.outbox else Readiness.READY

    def has_fragment(self, fragment: str) -> bool:
        return fragment == "f"

    def request_rerun(self, fragment: str | None) -> None:
        self.requests.append(fragment)
        self.is_running = True

    def push(self, payloads: list[Any]) -> bool:
        assert self.readiness() is Readiness.READY
        if not self.is_receptive:
            return False
        self.before_push = dict(self.screen)
        for path, assumed, text in payloads:
            assert self.screen[path] == assumed
            self.screen[path] = text
        return True

    def disconnect(self, loses_last_push: bool) -> None:
        self.is_connected = False
        if loses_last_push and self.before_push is not None:
            self.screen = self.before_push
        self.before_push = None

    def flush(self) -> None:
        if self.is_connected:
            for path, _, text in self.outbox:
                self.screen[path] = text
            self.outbox.clear()


class Session:
    """A session whose script shows the regions of a layout, the second half of them in a fragment."""

    def __init__(self, model: LiveModel) -> None:
        self._model = model
        self.browser = Browser(model.loop)
        self.live = LiveSession(model.store, self.browser)
        model.scheduler.adopt(self.live)
        self.layout: list[str] = []
        self.body_complete = True
        self.calls: list[tuple[str | None, int, str]] = []
        self.shown: set[Any] = set()

    def start(self, layout: list[str], fragment: str | None) -> None:
        """Begin a run of the script, or of the fragment alone."""
        self.browser.requests.clear()
        self.browser.is_running = True
        self.browser.before_push = None
        self.live.run_started(self)
        self.live.runner_ended = False
        if fragment is None:
            self.layout = layout
        half = len(self.layout) // 2
        calls = [(None if at < half else "f", at, key) for at, key in enumerate(self.layout)]
        self.fragment = fragment
        self.calls = [call for call in calls if fragment is None or call[0] == fragment]
        self.planned = {(call[0], call[1]) for call in self.calls}
        self.done: set[Any] = set()

    def step(self) -> None:
        """Show the next region."""
        if self.calls:
            fragment, at, key = self.calls.pop(0)
            self.place = Place((fragment, at), fragment)
            enter(self.live, fragment)
            self._model.current = self
            self._model.board(key)
            leave()
            self.done.add((fragment, at))

    def finish(self, complete: bool) -> None:
        """End the run: it has completed, or it is interrupted."""
        while complete and self.calls:
            self.step()
        has_fragment = any(fragment == "f" for fragment, *_ in self._all())
        if complete:
            ids = {None, "f"} if self.fragment is None and has_fragment else {self.fragment}
            self.live.run_finished(ids, ids.__contains__ if self.fragment is None else lambda _: True)
            self.browser.outbox.append(("end", None, self.fragment))
        else:
            self.live.run_finished((), lambda _: True)
        self.calls = []
        self.live.runner_ended = True
        self.browser.is_running = False
        self._remove_stale(complete)
        self._model.scheduler.run_ended(self.live)
        self.is_whole = complete if self.fragment is None else getattr(self, "is_whole", False)

    def _all(self) -> list[tuple[str | None, int]]:
        half = len(self.layout) // 2
        return [(None if at < half else "f", at) for at in range(len(self.layout))]

    def _remove_stale(self, complete: bool) -> None:
        """A browser removes what a completed run has not sent again."""
        self.browser.outbox = [item for item in self.browser.outbox if item[0] != "end"]
        if complete:
            scope = {"f"} if self.fragment == "f" else {None, "f"}
            gone = [path for path in self.browser.screen if path[0] in scope and path not in self.planned]
            for path in gone:
                del self.browser.screen[path]


class LiveModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        locate_in_tests()
        self.clock = FakeClock()
        self.loop = self.clock.drive(asyncio.new_event_loop())
        self.store = _core.Store(reserved=dir(ServerState))
        self.state = ServerState(self.store)
        self.workers = ManualWorkers()
        self.evaluator = Evaluator(self.store, self.workers)
        self.scheduler = Scheduler(self.store, Settings(), NO_POST_SCRIPT_GC, self.evaluator.collected)
        self.current: Session | None = None
        self.board = LiveRegions(self.store, self.evaluator, self, self.scheduler.push).live(self._board)
        self.state.update(dict.fromkeys(KEYS, 0))
        self.sessions = [Session(self) for _ in range(SESSIONS)]

    def _board(self, key: str) -> None:
        self.text = f"{key}={self.state[key]}"

    # The pages

    can_push = True

    def session_of_run(self) -> LiveSession | None:
        self.current.live.scope(self.current.place.fragment_id)
        return self.current.live

    def open_place(self) -> Place:
        return self.current.place

    def capture(self, function: Any, _refuse: Any, _previous: Any) -> Rendering:
        function()
        return Rendering(self.text, lambda: self.current)

    def turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    # What happens

    sessions_numbers = st.integers(0, SESSIONS - 1)

    @rule(key=st.sampled_from(KEYS), value=st.integers(0, 9), is_pushed=MOSTLY)
    def write(self, key: str, value: int, is_pushed: bool) -> None:
        self.state[key] = value
        if is_pushed:
            self.work()

    @rule(
        number=sessions_numbers,
        layout=LAYOUTS,
        fragment=st.sampled_from([None, None, "f"]),
        steps=st.integers(0, 4),
        ends=st.sampled_from(["complete", "complete", "later", "interrupted"]),
        is_flushed=MOSTLY,
    )
    def start(  # noqa: PLR0917
        self, number: int, layout: list[str], fragment: str | None, steps: int, ends: str, is_flushed: bool
    ) -> None:
        session = self.sessions[number]
        self.reconnect(number)
        if session.browser.is_running:
            self._end_run(session, complete=True)
        session.browser.flush()
        session.start(layout, fragment if session.layout else None)
        for _ in range(steps):
            session.step()
        if ends != "later":
            self.finish(number, ends == "complete", is_flushed)

    @staticmethod
    def _end_run(session: Session, complete: bool) -> None:
        if session.browser.requests:
            session.start(session.layout, session.browser.requests[-1])
        session.finish(complete)

    @rule(number=sessions_numbers, complete=MOSTLY, is_flushed=MOSTLY)
    def finish(self, number: int, complete: bool, is_flushed: bool) -> None:
        session = self.sessions[number]
        if session.browser.is_running:
            self._end_run(session, complete)
        if is_flushed:
            session.browser.flush()
            self.turn()

    @rule(number=sessions_numbers, loses_last_push=st.booleans())
    def disconnect(self, number: int, loses_last_push: bool) -> None:
        self.sessions[number].browser.disconnect(loses_last_push)

    @rule(number=sessions_numbers)
    def reconnect(self, number: int) -> None:
        if not self.sessions[number].browser.is_connected:
            self.sessions[number].browser.is_connected = True
            self.scheduler.returned(self.sessions[number].live)

    @rule(number=sessions_numbers, receptive=MOSTLY)
    def slow_connection(self, number: int, receptive: bool) -> None:
        self.sessions[number].browser.is_receptive = receptive

    @rule()
    def work(self) -> None:
        self.turn()
        while self.workers.tasks:
            self.workers.tasks.pop(0)()
        self.turn()

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.1]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.turn()

    def teardown(self) -> None:
        """When all comes to rest, every page shows the newest values."""
        try:
            for session in self.sessions:
                session.browser.is_receptive = True
                if not session.browser.is_connected:
                    session.browser.is_connected = True
                    self.scheduler.returned(session.live)
            for _ in range(20):
                for session in self.sessions:
                    browser = session.browser
                    if browser.is_running:
                        self._end_run(session, complete=True)
                    browser.flush()
                self.work()
                self.wait(0.1)
            for session in self.sessions:
                expected = {
                    place: f"{key}={self.state[key]}" for place, key in zip(session._all(), session.layout, strict=True)
                }
                if getattr(session, "is_whole", True):
                    assert session.browser.screen == expected
                else:
                    assert {place: session.browser.screen.get(place) for place in session.done} == {
                        place: expected[place] for place in session.done
                    }
        finally:
            for session in self.sessions:
                session.live.close()
            self.loop.close()
            self.store.end_holder()
            locate_in_streamlit()


LiveModel.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestLiveModel = LiveModel.TestCase
