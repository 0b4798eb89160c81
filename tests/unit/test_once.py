"""`once`: a value that is built by the first who needs it."""

from __future__ import annotations

import threading

import pytest
from unit.helpers import enter

from fastserverstate import _core
from fastserverstate.once import Once


@pytest.fixture
def once(store: _core.Store):
    return Once(store).once


def test_value_is_built_once(once, state) -> None:
    calls: list[int] = []
    for _ in range(3):
        assert once("model", lambda: calls.append(1) or "built") == "built"
    assert calls == [1]
    assert state["model"] == "built"
    del state["model"]
    assert once("model", lambda: "again") == "again"


def test_none_is_a_value(once) -> None:
    assert once("none", lambda: None) is None
    assert once("none", lambda: 1 / 0) is None


def test_error_is_not_kept(once, state) -> None:
    with pytest.raises(ZeroDivisionError):
        once("model", lambda: 1 / 0)
    assert "model" not in state
    assert once("model", lambda: 1) == 1


def test_other_threads_wait_for_the_first(once) -> None:
    barrier, began, may_end = threading.Barrier(8), threading.Event(), threading.Event()
    built: list[object] = []
    found: list[object] = []
    errors: list[BaseException] = []

    def build() -> object:
        began.set()
        may_end.wait(20)
        value = object()
        built.append(value)
        return value

    def ask() -> None:
        try:
            barrier.wait()
            found.append(once("model", build))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert began.wait(20)
    assert found == []
    may_end.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    assert len(built) == 1
    assert found == built * 8


def test_script_depends_on_the_value_and_not_on_having_built_it(once, state, store, session) -> None:
    assert once("model", lambda: 1) == 1
    session.finish_run((None,), lambda _: True)
    assert store.collect_stale() == []
    assert not session.take_overwritten()
    enter(_core.Session(store))
    state["model"] = 2
    assert [scope.session for scope in store.collect_stale()] == [session]


def test_misuse_is_explained(once) -> None:
    async def load() -> None: ...

    with pytest.raises(TypeError, match="keys are of type str"):
        once(1, load)
    with pytest.raises(TypeError, match=r"The function of once\('a', ...\) cannot be async"):
        once("a", load)
    with pytest.raises(TypeError, match=r"The function of once\('a', ...\) has to be a function, not 3"):
        once("a", 3)
