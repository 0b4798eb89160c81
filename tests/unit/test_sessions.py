"""Session hooks and owned keys: order, exactly once, errors, ends of runs, and what ends with a session."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest
from unit.helpers import DEADLINE, FORK, run_script

from fastserverstate import _core
from fastserverstate.configuration import KeyOptions
from fastserverstate.errors import FastServerStateError
from fastserverstate.sessions import MOST_ALIKE, MOST_ENDED, OWNED_TTL, Sessions
from fastserverstate.state import ServerState
from fastserverstate.workers import Workers


class Source:
    """A session without a server."""

    def __init__(self, name, user=None, state=None):
        self.id, self.user = name, user
        self._state = state or {}
        self.run_ended = threading.Event()
        self.run_ended.set()

    def wait_for_last_run(self, seconds):
        self.run_ended.wait(seconds)

    def session_state(self):
        return dict(self._state)


class Current:
    """The session that the test runs in."""

    def __init__(self):
        self.source = None

    def __call__(self, _call):
        return self.source


@pytest.fixture
def current():
    return Current()


@pytest.fixture
def key_options(store):
    return KeyOptions(store)


@pytest.fixture
def sessions(store, listeners, key_options, current):
    return Sessions(store, Workers(), listeners, key_options, current)


def refuse_thread(_thread):
    raise RuntimeError("too many threads")


def until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "The condition never became true."
        time.sleep(0.001)


def test_hooks_are_called_in_order_on_another_thread(sessions):
    heard = []

    def hook(kind):
        return lambda session: heard.append((kind, session.id, threading.current_thread().name))

    for kind in ("start", "pause", "resume", "end"):
        getattr(sessions, f"on_session_{kind}")(hook(kind))
    sessions.started(Source("a"))
    sessions.started(Source("a"))
    for _ in range(100):
        sessions.paused("a")
        sessions.resumed("a")
    sessions.ended("a")
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert [kind for kind, _, _ in heard] == ["start", *["pause", "resume"] * 100, "end"]
    assert {(name, thread) for _, name, thread in heard} == {("a", "fastserverstate.worker")}


def test_unknown_session_calls_no_hook(sessions):
    heard = []
    for kind in ("pause", "resume", "end"):
        getattr(sessions, f"on_session_{kind}")(lambda session: heard.append(session.id))
    sessions.paused("a")
    sessions.resumed("a")
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert heard == []


def test_start_hook_is_called_for_sessions_that_are_open(sessions):
    heard = []
    sessions.started(Source("ended"))
    sessions.ended("ended")
    sessions.started(Source("open"))
    sessions.started(Source("away"))
    sessions.paused("away")
    assert sessions.wait_until_done(DEADLINE)

    @sessions.on_session_start
    def first(session):
        heard.append(session.id)

    sessions.started(Source("later"))
    assert sessions.wait_until_done(DEADLINE)
    assert sorted(heard) == ["away", "later", "open"]


def test_same_function_replaces_the_earlier_one(sessions):
    """As scripts define their functions in every run, possibly with new code."""
    heard = []
    for run in range(3):
        scope = {"heard": heard, "run": run}
        exec(compile("def hook(session):\n    heard.append((run, session.id))", "app.py", "exec"), scope)
        sessions.on_session_start(scope["hook"])
        sessions.on_session_end(scope["hook"])
        sessions.started(Source("a"))
        assert sessions.wait_until_done(DEADLINE)
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert heard == [(0, "a"), (2, "a")]


def test_functions_that_close_over_other_values_are_bounded(sessions, caplog):
    heard = []
    for number in range(MOST_ALIKE + 5):
        sessions.on_session_end(lambda number=number: heard.append(number))
    sessions.started(Source("a"))
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert heard == list(range(5, MOST_ALIKE + 5))
    assert "more than 20 times" in caplog.records[0].message


def test_end_hook_gets_the_user_and_a_copy_of_the_session_state(sessions):
    heard = []
    sessions.on_session_start(heard.append)
    sessions.on_session_end(heard.append)
    state = {"draft": [1]}
    sessions.started(Source("a", {"email": "ann@example.com"}, state))
    assert sessions.wait_until_done(DEADLINE)
    assert dict(heard[0].session_state) == {}
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    start, end = heard
    assert end.session_state == {"draft": [1]}
    assert end.session_state is not state
    assert (start.id, start.user, start.since) == (end.id, end.user, end.since)
    assert (end.id, end.user) == ("a", {"email": "ann@example.com"})
    with pytest.raises(TypeError):
        end.session_state["draft"] = 2
    with pytest.raises(AttributeError):
        end.user = None


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_error_of_a_hook_is_logged_and_affects_no_other(sessions, caplog, error):
    heard = []

    @sessions.on_session_start
    def fails(_session):
        raise error("wrong")

    @sessions.on_session_start
    def works(session):
        heard.append(session.id)

    sessions.started(Source("a"))
    sessions.started(Source("b"))
    assert sessions.wait_until_done(DEADLINE)
    assert sorted(heard) == ["a", "b"]
    assert caplog.text.count("fails of on_session_start has failed for session") == 2


def test_unreadable_session_state_is_logged(sessions, caplog):
    heard = []
    sessions.on_session_end(heard.append)
    source = Source("a")
    source.session_state = lambda: 1 / 0
    sessions.started(source)
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert dict(heard[0].session_state) == {}
    assert "st.session_state of session a could not be copied" in caplog.text


def test_slow_hook_delays_only_its_session(sessions):
    heard, go = [], threading.Event()

    @sessions.on_session_start
    def hook(session):
        if session.id.startswith("slow"):
            go.wait(DEADLINE)

    sessions.on_session_end(lambda session: heard.append(session.id))
    for name in [f"slow{number}" for number in range(6)]:
        sessions.started(Source(name))
        sessions.ended(name)
    sessions.started(Source("fast"))
    sessions.ended("fast")
    until(lambda: heard)
    assert heard == ["fast"]
    go.set()
    assert sessions.wait_until_done(DEADLINE)
    assert len(heard) == 7


def test_reports_do_not_wait_for_hooks(sessions):
    go = threading.Event()
    sessions.on_session_start(lambda: go.wait(DEADLINE))
    began = time.monotonic()
    sessions.started(Source("a"))
    sessions.ended("a")
    assert time.monotonic() - began < 1
    assert not sessions.wait_until_done(0)
    go.set()
    assert sessions.wait_until_done(DEADLINE)


def test_end_hook_waits_for_the_last_run(sessions):
    heard = []
    sessions.on_session_end(heard.append)
    source = Source("a", state={"n": 0})
    source.run_ended.clear()
    sessions.started(source)
    sessions.ended("a")
    assert not sessions.wait_until_done(0.05)
    source._state["n"] = 1
    source.run_ended.set()
    assert sessions.wait_until_done(DEADLINE)
    assert heard[0].session_state == {"n": 1}


@pytest.mark.parametrize("wrong", [None, 1, lambda _one, _two: None])
def test_hooks_are_functions_of_a_session(sessions, wrong):
    with pytest.raises(TypeError, match="on_session_pause"):
        sessions.on_session_pause(wrong)


def test_async_function_is_refused(sessions):
    async def hook(session):
        pass

    with pytest.raises(TypeError, match="cannot be async"):
        sessions.on_session_end(hook)


def test_hook_is_late_if_no_thread_can_be_started(sessions, monkeypatch, caplog):
    heard = []
    sessions.on_session_start(lambda: heard.append("start"))
    sessions.on_session_pause(lambda: heard.append("pause"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_thread)
        sessions.started(Source("a"))
    assert not sessions.wait_until_done(0)
    assert "is late" in caplog.text
    sessions.paused("a")
    assert sessions.wait_until_done(DEADLINE)
    assert heard == ["start", "pause"]


# Owned keys


def test_owned_key_is_deleted_with_its_session(sessions, state, current, on_change):
    heard = []
    on_change("cursor", lambda _key, value, reason: heard.append((value, reason)))
    current.source = Source("a")
    sessions.own("cursor")
    state["cursor"] = 1
    state["other"] = 2
    sessions.paused("a")
    assert sessions.wait_until_done(DEADLINE)
    assert state["cursor"] == 1
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert dict(state) == {"other": 2}
    assert heard == [(1, "set"), (None, "deleted")]


def test_key_that_is_set_already_can_be_owned(sessions, state, current):
    state["cursor"] = 1
    current.source = Source("a")
    sessions.own("cursor")
    sessions.own("cursor")
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert "cursor" not in state


def test_last_session_owns_the_key(sessions, state, current):
    for name in ("a", "b"):
        current.source = Source(name)
        sessions.own("cursor")
    state["cursor"] = 1
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert "cursor" in state
    sessions.ended("b")
    assert sessions.wait_until_done(DEADLINE)
    assert "cursor" not in state


def test_owned_key_outlives_the_last_run(sessions, state, current):
    """A run that has not ended might set the key again."""
    current.source = source = Source("a")
    source.run_ended.clear()
    sessions.own("cursor")
    sessions.ended("a")
    assert not sessions.wait_until_done(0.05)
    state["cursor"] = 1
    source.run_ended.set()
    assert sessions.wait_until_done(DEADLINE)
    assert "cursor" not in state


def test_locked_key_keeps_no_other_waiting(sessions, state, locks, current):
    heard = []
    sessions.on_session_end(lambda session: heard.append(session.id))
    current.source = Source("a")
    for key in ("one", "locked", "two"):
        sessions.own(key)
        state[key] = 1
    with locks["locked"]:
        sessions.ended("a")
        until(lambda: list(state) == ["locked"] and heard)
    assert sessions.wait_until_done(DEADLINE)
    assert list(state) == []


def test_owned_key_does_not_expire_while_its_owner_is_there(sessions, state, store, current):
    current.source = Source("a")
    sessions.own("cursor")
    state["cursor"] = 1
    for _ in range(10):
        _core.advance_clock(OWNED_TTL / 2)
        store.expire_due()
    assert state["cursor"] == 1
    assert store.lifetime("cursor") == (0, OWNED_TTL)
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert store.lifetime("cursor") == (0, 0)
    assert store.statistics()["cells"] == 0


def test_configured_lifetimes_of_owned_keys_stay(sessions, store, key_options, current):
    key_options.set("brief", ttl=3.0, idle_ttl=2.0)
    current.source = Source("a")
    sessions.own("brief")
    assert store.lifetime("brief") == (3, 2)
    sessions.ended("a")
    assert sessions.wait_until_done(DEADLINE)
    assert store.lifetime("brief") == (3, 2)


def test_owned_keys_are_not_stored(sessions, state, store, current):
    store.start_journal(0)
    current.source = Source("a")
    sessions.own("cursor")
    state["cursor"] = 1
    state["other"] = 1
    stored = {key: value for key, value, *_ in store.take_journal()[2] if value is not _core.absent}
    store.stop_journal()
    assert stored == {"other": 1}


def test_session_that_has_ended_owns_nothing(sessions, current):
    current.source = Source("a")
    sessions.started(current.source)
    sessions.ended("a")
    with pytest.raises(FastServerStateError, match="has ended"):
        sessions.own("cursor")
    sessions.started(current.source)  # another session with an id that the app has chosen
    sessions.own("cursor")
    assert list(sessions._owners) == ["cursor"]


def test_key_is_a_str(sessions, current):
    current.source = Source("a")
    with pytest.raises(TypeError):
        sessions.own(1)


def test_nothing_is_owned_without_a_server(sessions, state):
    sessions.own("cursor")
    state["cursor"] = 1
    assert sessions._owners == {}


def test_two_thousand_sessions_leave_nothing(sessions, store, listeners, key_options, current):
    heard = []
    sessions.on_session_end(lambda session: heard.append(session.id))
    left = []
    for number in range(2000):
        current.source = source = Source(f"s{number}", state={"n": number})
        left.append(weakref.ref(source))
        sessions.started(source)
        sessions.own(f"cursor/{number}")
        ServerState(store)[f"cursor/{number}"] = number
        sessions.paused(source.id)
        sessions.ended(source.id)
    current.source = source = None
    assert sessions.wait_until_done(DEADLINE)
    assert len(heard) == 2000
    until(lambda: not [one for one in left if one() is not None and gc.collect() is not None])
    assert (sessions._records, sessions._owners, key_options._lent, listeners._subscriptions) == ({}, {}, {}, {})
    assert store.statistics()["cells"] == 0
    assert len(sessions._ended) == MOST_ENDED


SOURCE = """
from fastserverstate import on_session_end
from fastserverstate._instances import _sessions as sessions

class Source:
    id, user = "a", None

    def wait_for_last_run(self, seconds):
        time.sleep(0.3)

    def session_state(self):
        return {}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_process_has_no_sessions():
    run_script(
        FORK
        + SOURCE
        + """
heard = []
on_session_end(lambda session: heard.append(session.id))
sessions.started(Source())
assert sessions.wait_until_done(20)

def child():
    sessions.ended("a")
    assert sessions.wait_until_done(20) and not heard
    sessions.started(Source())
    sessions.ended("a")
    assert sessions.wait_until_done(20) and heard == ["a"]

in_child(child)
""",
        package=True,
    )


def test_process_waits_for_hooks_before_it_exits():
    output = run_script(
        SOURCE
        + """
on_session_end(lambda session: print("ended", session.id, flush=True))
sessions.started(Source())
sessions.ended("a")
""",
        package=True,
    )
    assert output == "ended a\n"
