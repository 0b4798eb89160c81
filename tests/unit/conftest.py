"""Each test has a store of its own. `enter` chooses the scope of a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from harness.clock import FakeClock
from unit.helpers import enter, leave, locate_in_streamlit, locate_in_tests

from fastserverstate import _core
from fastserverstate.atomic import (
    Atomic,
    BeginTransaction,
    Listeners,
    OnChange,
    Peek,
    WaitFor,
    compare_and_set_with,
    on_change_with,
    peek_with,
    touch_with,
    wait_for_with,
)
from fastserverstate.awaiting import WaitForAsync, wait_for_async_with
from fastserverstate.lock import ServerStateLock
from fastserverstate.rerun import rest, scheduler
from fastserverstate.rerun.control import force_rerun_with
from fastserverstate.state import ServerState


@pytest.fixture
def store() -> Iterator[_core.Store]:
    locate_in_tests()
    store = _core.Store(reserved=dir(ServerState))
    yield store
    store.end_holder()[0]
    leave()
    locate_in_streamlit()


@pytest.fixture
def state(store: _core.Store) -> ServerState:
    return ServerState(store)


@pytest.fixture
def locks(store: _core.Store) -> ServerStateLock:
    return ServerStateLock(store)


@pytest.fixture
def atomic(store: _core.Store) -> Atomic:
    return Atomic(store)


@pytest.fixture
def compare_and_set(store: _core.Store):
    return compare_and_set_with(store)


@pytest.fixture
def listeners(store: _core.Store) -> Listeners:
    return Listeners(store)


@pytest.fixture
def on_change(store: _core.Store, listeners: Listeners) -> OnChange:
    return on_change_with(store, listeners)


@pytest.fixture
def peek(store: _core.Store) -> Peek:
    return peek_with(store)


@pytest.fixture
def touch(store: _core.Store):
    return touch_with(store)


@pytest.fixture
def transaction(store: _core.Store) -> BeginTransaction:
    return BeginTransaction(store)


@pytest.fixture
def wait_for(store: _core.Store) -> WaitFor:
    return wait_for_with(store)


@pytest.fixture
def wait_for_async(store: _core.Store, listeners: Listeners) -> WaitForAsync:
    return wait_for_async_with(store, listeners)


@pytest.fixture
def force_rerun(store: _core.Store):
    return force_rerun_with(store)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClock]:
    """The clock of reruns, in place of the system's."""
    clock = FakeClock()
    for module in (rest, scheduler):
        monkeypatch.setattr(module, "time", clock)
    before = set(threading.enumerate())
    yield clock
    clock.advance_until(lambda: before.issuperset(threading.enumerate()), rest.REST)


@pytest.fixture
def session(store: _core.Store) -> _core.Session:
    """A session whose script runs on this thread."""
    session = _core.Session(store)
    session.start_run()
    enter(session)
    return session
