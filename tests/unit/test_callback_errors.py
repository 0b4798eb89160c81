"""Callbacks that raise, or that end the session they are called for."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from unit.helpers import enter, leave

from fastserverstate import _core


class Failure(BaseException):
    pass


def test_failed_wake_is_called_again(store, state, session):
    """No session was informed of the first change, so the second change must call it again."""
    other = _core.Session(store)
    other.start_run()
    wakes = []

    def wake():
        wakes.append(1)
        if len(wakes) == 1:
            raise Failure

    state["k"] = state["l"] = 0
    state["k"]
    session.finish_run()
    enter(other)
    state["l"]
    other.finish_run()
    leave()
    store.on_stale(wake)
    with contextlib.suppress(Failure):
        state["k"] = 1
    assert (state["k"], len(wakes)) == (1, 1)
    state["l"] = 1
    assert (state["l"], len(wakes)) == (1, 2)
    assert {scope.session for scope in store.collect_stale()} == {session, other}


@pytest.mark.parametrize(
    "use", [lambda s: s["k"], lambda s: s.k, lambda s: "k" in s, len], ids=["item", "k", "in", "len"]
)
def test_failed_resolve_is_retried(store, state, use):
    calls = itertools.count()

    def resolve(context, part):
        if next(calls) == 0:
            raise Failure
        return context.session, context.session.scope(part), _core.RUN_CURRENT

    state["k"] = 0
    session = _core.Session(store)
    session.start_run()
    enter(session)
    _core.locate_scopes("_scope_of_test", None, "part", resolve)
    before = store.statistics()
    with pytest.raises(Failure):
        use(state)
    assert store.statistics() == before
    use(state)
    leave()
    del state["k"]
    assert [scope.session for scope in store.collect_stale()] == [session]


def test_failed_resolve_changes_nothing(store, state):
    def resolve(*_):
        raise Failure

    state["k"] = 0
    enter(_core.Session(store))
    _core.locate_scopes("_scope_of_test", None, "part", resolve)
    before = store.statistics()
    for use in (
        lambda: state.__setitem__("k", 1),
        lambda: state.__setitem__("new", 1),
        lambda: state.__delitem__("k"),
        lambda: state.pop("k"),
        lambda: state.setdefault("new", 1),
        lambda: store.touch("k"),
    ):
        with pytest.raises(Failure):
            use()
        assert store.statistics() == before
    leave()
    assert dict(state) == {"k": 0}


ENDS: dict[str, Callable[[Any], object]] = {
    "close": lambda session: session.close(),
    "drop": lambda session: session.drop_scope("f"),
    "start": lambda session: session.start_run(),
    "finish": lambda session: session.finish_run(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("moment", ["finish_run", "exists"])
def test_scope_closed_by_its_own_callback(store, state, session, end, moment):
    """Another session reuses its slot by then, and must remain stale."""
    state["k"] = state["l"] = 0
    for part in ("f", "g"):
        enter(session, part)
        state["l"]
    leave()
    heirs = []

    def inherit(part: object) -> bool:
        if part == "f" and not heirs:
            end(session)
            for _ in range(3):
                heir = _core.Session(store)
                heir.start_run()
                heirs.append(heir)
                enter(heir)
                state["k"]
                leave()
            state["k"] = 1
        return True

    class Parts(set[str]):
        def __contains__(self, part: object) -> bool:
            return inherit(part)

    if moment == "finish_run":
        session.start_run()
        session.finish_run(Parts(), lambda _: True)
    else:
        session.finish_run({"f", "g"}, inherit)
    assert {scope.session for scope in store.collect_stale()} >= set(heirs)
    assert len(heirs) == 3
    for heir in (*heirs, session):
        heir.close()
    assert store.statistics()["scopes"] == 0
