"""`min_rerun_interval` of a key: readers become stale once per interval, unless they show the last value."""

from __future__ import annotations

import pytest
from unit.helpers import enter, leave

from fastserverstate import _core, no_rerun
from fastserverstate.configuration import KeyOptions

INTERVAL = 3600.0


@pytest.fixture
def key_options(store):
    return KeyOptions(store)


@pytest.fixture
def paced(key_options):
    key_options.set("k", min_rerun_interval=INTERVAL)


class Screen:
    """A session whose runs read the keys that it shows."""

    def __init__(self, store, state, *keys):
        self.session = _core.Session(store)
        self.state = state
        self.run(*keys)

    def run(self, *keys):
        self.session.start_run()
        enter(self.session)
        for key in keys:
            self.state.get(key)
        leave()
        self.session.finish_run()


@pytest.fixture
def stale(store):
    """Return the sessions that are due."""

    def stale():
        store.release_throttled()
        return {scope.session for scope in store.collect_stale()}

    return stale


@pytest.mark.usefixtures("paced")
def test_sessions_are_stale_once_in_an_interval(store, state, stale):
    one, other = Screen(store, state, "k"), Screen(store, state, "k")
    state["k"] = 1
    assert stale() == {one.session, other.session}
    one.run("k")
    other.run("k")
    for number in range(2, 9):
        state["k"] = number
        assert stale() == set()
    assert 0 < store.release_throttled() <= INTERVAL
    _core.advance_clock(INTERVAL)
    assert stale() == {one.session, other.session}
    assert store.release_throttled() is None
    one.run("k")
    state["k"] = 9
    assert stale() == set()
    _core.advance_clock(INTERVAL)
    assert stale() == {one.session}


@pytest.mark.usefixtures("paced")
def test_session_that_has_seen_the_newest_value_is_not_stale(store, state, stale):
    late, early = Screen(store, state, "k"), Screen(store, state, "k")
    state["k"] = 1
    assert stale() == {late.session, early.session}
    late.run("k")
    early.run("k", "j")
    state["k"] = 2
    state["j"] = 1
    assert stale() == {early.session}  # changes of other keys are not delayed
    early.run("k", "j")
    newcomer = Screen(store, state, "k")
    _core.advance_clock(INTERVAL)
    assert stale() == {late.session}
    state["k"] = 3
    _core.advance_clock(INTERVAL)
    assert stale() == {early.session, newcomer.session}


@pytest.mark.usefixtures("paced")
def test_change_after_idle_time_is_announced_immediately(store, state, stale):
    screen = Screen(store, state, "k")
    for number in range(3):
        _core.advance_clock(INTERVAL)
        state["k"] = number
        assert stale() == {screen.session}
        screen.run("k")


@pytest.mark.usefixtures("paced")
def test_who_comes_and_goes_of_the_key_is_paced_too(store, state, stale):
    session = _core.Session(store)

    def look():
        session.start_run()
        enter(session)
        found = "k" in state
        leave()
        session.finish_run()
        return found

    look()
    state["k"] = 1
    assert stale() == {session}
    look()
    del state["k"]
    assert stale() == set()
    _core.advance_clock(INTERVAL)
    assert stale() == {session}
    assert not look()


def test_shorter_interval_applies_immediately(store, state, stale, key_options, paced):  # noqa: ARG001
    screen = Screen(store, state, "k")
    woken = []
    store.on_stale(lambda: woken.append(True))
    state["k"] = 1
    assert stale() == {screen.session}
    screen.run("k")
    state["k"] = 2
    assert stale() == set()
    woken.clear()
    key_options.set("*", min_rerun_interval=0)  # which is less specific
    assert woken == []
    key_options.set("k", min_rerun_interval=0)
    assert woken == [True]
    assert stale() == {screen.session}
    screen.run("k")
    state["k"] = 3
    assert stale() == {screen.session}


@pytest.mark.usefixtures("paced")
def test_own_change_is_the_session_s_own_affair(state, stale, session):
    state["k"] = 0
    for _ in range(2):
        state["k"] = state["k"] + 1
    assert stale() == set()
    assert session.take_overwritten() == {}
    session.message_sent()
    state["k"] = 5
    assert stale() == set()
    assert session.take_overwritten() == {None: "k"}


@pytest.mark.usefixtures("paced")
def test_nothing_is_told_later_of_what_was_changed_in_no_rerun(store, state, stale):
    screen = Screen(store, state, "k")
    state["k"] = 1
    assert stale() == {screen.session}
    screen.run("k")
    with no_rerun:
        state["k"] = 2
    _core.advance_clock(INTERVAL)
    assert stale() == set()


@pytest.mark.parametrize("sessions", [1, 4, 5, 200])
def test_closed_sessions_are_not_told(store, state, stale, key_options, sessions):
    key_options.set("k", min_rerun_interval=INTERVAL)
    screens = [Screen(store, state, "k") for _ in range(sessions)]
    state["k"] = 1
    stale()
    for screen in screens:
        screen.run("k")
    state["k"] = 2
    for screen in screens[::2]:
        screen.session.close()
    more = [Screen(store, state, "j") for _ in range(sessions)]  # in reused slots
    _core.advance_clock(INTERVAL)
    assert stale() == {screen.session for screen in screens[1::2]}
    state["j"] = 1
    assert stale() == {screen.session for screen in more}


@pytest.mark.usefixtures("paced")
def test_key_that_is_gone_leaves_nothing_behind(store, state, stale):
    before = store.statistics()["cells"]
    screen = Screen(store, state, "k")
    state["k"] = 1
    stale()
    screen.run("k")
    state["k"] = 2
    screen.session.close()
    del state["k"]
    _core.advance_clock(INTERVAL)
    assert stale() == set()
    assert store.statistics()["cells"] == before


@pytest.mark.usefixtures("paced")
def test_interval_in_transactions_and_for_changes_from_elsewhere(store, state, stale):
    screen = Screen(store, state, "k")
    with store.transaction((), None):
        state["k"] = 1
    assert stale() == {screen.session}
    screen.run("k")
    store.apply([("k", 2, False)])
    assert stale() == set()
    _core.advance_clock(INTERVAL)
    assert stale() == {screen.session}


def test_interval_of_a_pattern_holds_for_changes_from_elsewhere(store, state, stale, key_options):
    key_options.set("room/*", min_rerun_interval=INTERVAL)
    screen = Screen(store, state, "room/1")
    store.apply([("room/1", 1, False)])
    assert stale() == {screen.session}
    screen.run("room/1")
    store.apply([("room/1", 2, False)])
    assert stale() == set()
