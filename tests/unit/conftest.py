"""A store of its own for every test, and a current scope that the test chooses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from unit.helpers import enter, leave, locate_in_streamlit, locate_in_tests

from fastserverstate import _core
from fastserverstate.lock import ServerStateLock
from fastserverstate.rerun.control import force_rerun_with
from fastserverstate.state import ServerState


@pytest.fixture
def store() -> Iterator[_core.Store]:
    locate_in_tests()
    store = _core.Store(reserved=dir(ServerState))
    yield store
    store.release_locks()
    leave()
    locate_in_streamlit()


@pytest.fixture
def state(store: _core.Store) -> ServerState:
    return ServerState(store)


@pytest.fixture
def locks(store: _core.Store) -> ServerStateLock:
    return ServerStateLock(store)


@pytest.fixture
def force_rerun(store: _core.Store):
    return force_rerun_with(store)


@pytest.fixture
def session(store: _core.Store) -> _core.Session:
    """A session whose script this thread is running."""
    session = _core.Session(store)
    session.start_run()
    enter(session)
    return session
