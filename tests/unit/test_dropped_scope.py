"""The dependencies of a read of a missing key. Dropped scopes depend on nothing.

The script thread of a session continues for a while after the event loop has closed the session.
"""

import threading

import pytest
from unit.helpers import DEADLINE, enter, leave

from fastserverstate import _core
from fastserverstate.suppression import NoRerun

READS = {
    "item": lambda state: state["k"],
    "get": lambda state: state.get("k"),
    "attribute": lambda state: state.k,
    "in": lambda state: "k" in state,
    "len": len,
    "iteration": list,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_closed_session_does_not_subscribe(store, state, session, read):
    state["k"] = 0
    read(state)
    session.close()
    read(state)
    leave()
    heir = _core.Session(store)
    heir.start_run()
    heir.scope(None)  # has the slot now
    state["k"] = 1
    del state["k"]
    assert store.collect_stale() == []
    assert heir.stale_fragment_ids() == []


def test_session_closed_while_it_waits_for_a_lock(store, state):
    state["k"] = 0
    session = _core.Session(store)
    running = threading.Event()

    def script():
        enter(session)
        session.start_run()
        state.get("other")
        running.set()
        state["k"]

    with store.lock("k"):
        thread = threading.Thread(target=script)
        thread.start()
        assert running.wait(DEADLINE)
        session.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    state["k"] = 1
    assert store.collect_stale() == []


def test_closed_session_makes_no_scope(store, state, session):
    session.close()
    state.get("k")
    "k" in state  # noqa: B015
    assert store.statistics()["scopes"] == 0
    assert store.statistics()["cells"] == 0


@pytest.mark.parametrize("read", [lambda s: s.setdefault("k", 0), lambda s: s.get("k")], ids=["setdefault", "get"])
def test_value_read_of_missing_key_depends_on_its_value(store, state, session, read):
    # After the key has appeared without marking the reader, a later change must still reach it.
    read(state)
    state["k"] = 0  # its own write, not shown in between: no rerun
    session.finish_run()
    assert store.collect_stale() == []
    leave()
    state["k"] = 5
    assert [scope.session for scope in store.collect_stale()] == [session]


def test_muted_appearance_keeps_the_reader_subscribed(store, state, session):
    state.get("k")
    session.finish_run()
    leave()
    with NoRerun():
        state["k"] = 1
    assert store.collect_stale() == []
    state["k"] = 2
    assert [scope.session for scope in store.collect_stale()] == [session]


def test_misses_of_a_stale_scope_leave_nothing(store, state, session):
    state["k"] = 0
    state["k"]
    leave()
    state["k"] = 1
    assert [scope.session for scope in store.collect_stale()] == [session]
    enter(session)
    for i in range(50):
        state.get(f"missing{i}")
    assert store.statistics()["cells"] == 1
