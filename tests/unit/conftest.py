"""Each test has a store of its own. `enter` chooses the scope of a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from harness.clock import FakeClock
from unit.helpers import enter, leave, locate_in_streamlit, locate_in_tests

from fastserverstate import _core
from fastserverstate.edits import Edit
from fastserverstate.listeners import Listeners
from fastserverstate.lock import ServerStateLock
from fastserverstate.rerun import gc_policy, observer, rerun_queue
from fastserverstate.state import ServerState
from fastserverstate.updates import Atomic, BeginTransaction, KeyOperations
from fastserverstate.waiting import Waiting


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
def operations(store: _core.Store) -> KeyOperations:
    return KeyOperations(store)


@pytest.fixture
def compare_and_set(operations: KeyOperations):
    return operations.compare_and_set


@pytest.fixture
def listeners(store: _core.Store) -> Listeners:
    return Listeners(store)


@pytest.fixture
def on_change(listeners: Listeners):
    return listeners.on_change


@pytest.fixture
def peek(operations: KeyOperations):
    return operations.peek


@pytest.fixture
def touch(operations: KeyOperations):
    return operations.touch


@pytest.fixture
def transaction(store: _core.Store) -> BeginTransaction:
    return BeginTransaction(store)


@pytest.fixture
def edit(store: _core.Store):
    return Edit(store).edit


@pytest.fixture
def waiting(store: _core.Store, listeners: Listeners) -> Waiting:
    return Waiting(store, listeners)


@pytest.fixture
def wait_for(waiting: Waiting):
    return waiting.wait_for


@pytest.fixture
def wait_for_async(waiting: Waiting):
    return waiting.wait_for_async


@pytest.fixture
def force_rerun(operations: KeyOperations):
    return operations.force_rerun_bound_sessions


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClock]:
    """Replace the clock of reruns by a fake clock."""
    clock = FakeClock()
    for module in (gc_policy, observer, rerun_queue):
        monkeypatch.setattr(module, "time", clock)
    before = set(threading.enumerate())
    yield clock
    clock.advance_until(lambda: before.issuperset(threading.enumerate()), observer.IDLE_AFTER)


@pytest.fixture
def session(store: _core.Store) -> _core.Session:
    """A session whose script runs on this thread."""
    session = _core.Session(store)
    session.start_run()
    enter(session)
    return session
