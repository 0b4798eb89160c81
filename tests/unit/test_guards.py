"""`guard`: which sessions may read and write which keys."""

from __future__ import annotations

from typing import Any

import pytest
from unit.helpers import FORK, elsewhere, enter, leave, run_script

from fastserverstate import AccessDeniedError, FastServerStateError, _core
from fastserverstate.computed_values import Computing, Evaluator
from fastserverstate.expiry import Expirer, Expiry
from fastserverstate.guards import Guards
from fastserverstate.spaces import Spaces
from fastserverstate.state import ServerState
from fastserverstate.workers import Workers


class Asked:
    """A function of a guard that counts its calls."""

    def __init__(self, answer: object = False) -> None:
        self.answer = answer
        self.calls = 0

    def __call__(self) -> object:
        self.calls += 1
        return self.answer


@pytest.fixture
def guards(store: _core.Store) -> Guards:
    return Guards(store)


@pytest.fixture
def guard(guards: Guards) -> Any:
    return guards.guard


@pytest.fixture(autouse=True)
def _values(state: Any) -> None:
    state.update({"salary/ann": 1, "salary/list": [1], "open": 2})


def begin(session: _core.Session, fragment: str | None = None) -> None:
    session.start_run()
    enter(session, fragment)


READS = {
    "item": lambda state, _: state["salary/ann"],
    "get": lambda state, _: state.get("salary/ann"),
    "attribute": lambda state, _: getattr(state, "salary/ann"),
    "in": lambda state, _: "salary/ann" in state,
    "setdefault": lambda state, _: state.setdefault("salary/ann", 3),
    "of an absent key": lambda state, _: state.get("salary/eve"),
    "presence of an absent key": lambda state, _: "salary/eve" in state,
    "peek": lambda _, do: do["operations"].peek("salary/ann"),
    "wait_for": lambda _, do: do["waiting"].wait_for("salary/ann", timeout=5),
    "values": lambda state, _: list(state.values()),
    "items": lambda state, _: list(state.items()),
    "to_dict": lambda state, _: state.to_dict(),
    "space": lambda _, do: do["room"].ann,
    "space item": lambda _, do: do["room"]["ann"],
    "space values": lambda _, do: do["room"].to_dict(),
}
WRITES = {
    "item": lambda state, _: state.__setitem__("salary/ann", 3),
    "attribute": lambda state, _: setattr(state, "salary/ann", 3),
    "new key": lambda state, _: state.__setitem__("salary/eve", 3),
    "update": lambda state, _: state.update({"salary/ann": 3}),
    "del": lambda state, _: state.__delitem__("salary/ann"),
    "delattr": lambda state, _: delattr(state, "salary/ann"),
    "touch": lambda _, do: do["operations"].touch("salary/ann"),
    "force": lambda _, do: do["operations"].force_rerun_bound_sessions("salary/ann"),
    "expire": lambda _, do: do["expiry"].expire("salary/ann", after=60),
    "space": lambda _, do: setattr(do["room"], "ann", 3),
    "space clear": lambda _, do: do["room"].clear(),
}
BOTH = {
    "pop": lambda state, _: state.pop("salary/ann"),
    "setdefault of an absent key": lambda state, _: state.setdefault("salary/eve", 3),
    "atomic": lambda _, do: do["atomic"]("salary/ann", lambda value: value + 1),
    "increment": lambda _, do: do["atomic"].increment("salary/ann"),
    "append": lambda _, do: do["atomic"].append("salary/list", 3),
    "pop_first": lambda _, do: do["atomic"].pop_first("salary/list"),
    "edit": lambda _, do: append_in_block(do["edit"]),
    "compare_and_set": lambda _, do: do["operations"].compare_and_set("salary/ann", 1, 3),
}


def append_in_block(edit: Any) -> None:
    with edit("open list", "salary/list", default=[]) as drafts:
        for draft in drafts:
            draft.append(3)


@pytest.fixture
def do(store, atomic, edit, operations, waiting) -> dict[str, Any]:
    return {
        "state": ServerState(store),
        "atomic": atomic,
        "edit": edit,
        "operations": operations,
        "waiting": waiting,
        "expiry": Expiry(store, Expirer(store)),
        "room": Spaces(store, lambda: None).space("salary"),
    }


@pytest.fixture
def unchanged(state):
    """Check that nothing was written."""
    before = elsewhere(lambda: dict(state))
    yield
    leave()
    assert dict(state) == before == {"salary/ann": 1, "salary/list": [1], "open": 2}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("access", READS.values(), ids=READS)
def test_refused_reads(store, guard, do, session, access):
    state = do["state"]
    guard("salary/*", read=Asked())
    with pytest.raises(
        AccessDeniedError, match=r"must not read server_state\['salary/.*'\]: guard\('salary/\*', read="
    ):
        access(state, do)
    state.get("open")
    session.finish_run([None])
    leave()
    store.collect_stale()
    state["salary/ann"] = 5
    state["salary/ann"] = 1
    assert not store.collect_stale(), "the session is subscribed"


@pytest.mark.usefixtures("session", "unchanged")
@pytest.mark.parametrize("access", WRITES.values(), ids=WRITES)
def test_refused_writes(state, guard, do, access):
    guard("salary/*", write=Asked())
    with pytest.raises(
        AccessDeniedError, match=r"must not write server_state\['salary/.*'\]: guard\('salary/\*', write="
    ):
        access(state, do)


@pytest.mark.usefixtures("session", "unchanged")
@pytest.mark.parametrize("refused", ["read", "write"])
@pytest.mark.parametrize("access", BOTH.values(), ids=BOTH)
def test_refused_changes(state, guard, do, access, refused):
    guard("salary/*", **{refused: Asked()})
    with pytest.raises(AccessDeniedError, match=f"must not {refused} "):
        access(state, do)


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("access", [*READS.values(), *WRITES.values(), *BOTH.values()], ids=[*READS, *WRITES, *BOTH])
def test_allowed(state, guard, do, access):
    asked = Asked(True)
    guard("salary/*", read=asked, write=asked)
    access(state, do)
    assert asked.calls in {1, 2}


@pytest.mark.usefixtures("session")
def test_a_transaction_is_refused_at_the_write(state, guard, transaction):
    guard("salary/*", write=Asked())

    def change() -> None:
        with transaction("salary/ann"):
            state["open"] = 3
            state["salary/ann"] = 3

    with pytest.raises(AccessDeniedError):
        change()
    assert elsewhere(lambda: dict(state)) == {"salary/ann": 1, "salary/list": [1], "open": 2}


@pytest.mark.usefixtures("session")
def test_reads_and_writes_are_guarded_apart(state, guard):
    guard("salary/*", read=Asked(True), write=Asked(False))
    assert state["salary/ann"] == 1
    with pytest.raises(AccessDeniedError):
        state["salary/ann"] = 2
    guard("salary/*", write=Asked(True))
    state["salary/ann"] = 2
    assert state["salary/ann"] == 2


@pytest.mark.usefixtures("session")
def test_names_are_not_guarded(state, guard):
    guard("salary/*", read=Asked())
    assert list(state) == ["salary/ann", "salary/list", "open"]
    assert len(state) == 3


@pytest.mark.usefixtures("session")
def test_a_key_that_was_read_before(state, guard):
    for _ in range(2):
        assert state["salary/ann"] == 1
        assert "salary/list" in state
    guard("salary/*", read=Asked())
    with pytest.raises(AccessDeniedError):
        state["salary/ann"]
    with pytest.raises(AccessDeniedError):
        "salary/list" in state  # noqa: B015


def test_threads_without_a_session_are_not_asked(state, guard):
    asked = Asked()
    guard("salary/*", read=asked, write=asked)
    assert state["salary/ann"] == 1
    state["salary/ann"] = 2
    assert elsewhere(lambda: state.pop("salary/ann")) == 2
    assert asked.calls == 0


def test_once_per_run_and_scope(store, state, guard):
    read, write = Asked(True), Asked(True)
    guard("salary/*", read=read, write=write)
    session = _core.Session(store)
    begin(session)
    for _ in range(3):
        state["salary/ann"] = state["salary/ann"] + 1
        state["salary/bob"] = 1
    assert (read.calls, write.calls) == (1, 1)
    enter(session, "fragment")
    state["salary/ann"], state["salary/list"]
    assert (read.calls, write.calls) == (2, 1)
    session.finish_run([None])
    begin(session)
    read.answer = False
    with pytest.raises(AccessDeniedError):
        state["salary/ann"]
    read.answer = True
    with pytest.raises(AccessDeniedError):
        state["salary/ann"]
    assert read.calls == 3
    begin(session)
    assert state["salary/ann"] == 4
    other = _core.Session(store)
    begin(other)
    assert state["salary/ann"] == 4
    assert read.calls == 5


@pytest.mark.usefixtures("session")
def test_a_function_that_takes_the_key(state, guard):
    asked: list[str] = []

    def may(key: str) -> bool:
        asked.append(key)
        return key == "salary/ann"

    guard("salary/*", read=may)
    assert state["salary/ann"] == state["salary/ann"] == 1
    for _ in range(2):
        with pytest.raises(AccessDeniedError, match="salary/list"):
            state["salary/list"]
    assert asked == ["salary/ann", "salary/list"]


@pytest.mark.usefixtures("session")
def test_the_most_specific_guard_decides(state, guard):
    guard("salary/l*", read=Asked(True))
    guard("*", read=Asked(False))
    guard("salary/*", write=Asked(False))
    assert state["salary/list"] == [1]
    with pytest.raises(AccessDeniedError, match=r"guard\('\*', read="):
        state["salary/ann"]
    guard("salary/an*", read=Asked(True))
    guard("salary/[abcdefghij]*", read=Asked(False))
    assert state["salary/ann"] == 1
    guard("salary/an*")
    with pytest.raises(AccessDeniedError, match=r"guard\('salary/\[abcdefghij\]\*', read="):
        state["salary/ann"]
    guard("salary/ann", read=Asked(True))
    assert state["salary/ann"] == 1
    with pytest.raises(AccessDeniedError, match=r"guard\('salary/\*', write="):
        state["salary/ann"] = 2


@pytest.mark.usefixtures("session")
def test_a_guard_is_replaced_and_removed(state, guard):
    guard("salary/*", read=Asked(False))
    with pytest.raises(AccessDeniedError):
        state["salary/ann"]
    guard("salary/*", read=Asked(True))
    assert state["salary/ann"] == 1
    guard("salary/*", read=Asked(False))
    with pytest.raises(AccessDeniedError):
        state["salary/ann"]
    guard("salary/*")
    assert state["salary/ann"] == 1
    state["salary/ann"] = 2


def test_a_replaced_guard_of_a_thread_counts_for_all(store, state, guard):
    session = _core.Session(store)
    begin(session)
    guard("salary/*", read=Asked(True))
    assert state["salary/ann"] == 1
    elsewhere(lambda: guard("salary/*", read=Asked(False)))
    session.finish_run([None])
    begin(session)
    with pytest.raises(AccessDeniedError):
        state["salary/ann"]


def test_each_session_is_asked_by_the_functions_of_its_own_run(store, state, guard):
    """A script defines functions anew in each run. They use the variables of that run."""
    sessions = {name: _core.Session(store) for name in ("ann", "bob")}

    def script(user: str) -> None:
        guard("salary/*", read=lambda: user == "ann")

    for name, session in sessions.items():
        begin(session)
        script(name)
    enter(sessions["ann"])
    assert state["salary/ann"] == 1
    enter(sessions["bob"])
    with pytest.raises(AccessDeniedError):
        state["salary/ann"]


def test_the_same_function_again_keeps_what_was_said(state, guard, session):
    calls: list[int] = []

    def script() -> None:
        def may() -> bool:
            calls.append(1)
            return True

        guard("salary/*", read=may)
        state["salary/ann"]

    script()
    script()
    assert len(calls) == 1
    begin(session)
    script()
    assert len(calls) == 2


def test_only_new_guards_are_news_to_the_store():
    class Recorder:
        told = 0

        def set_guard(self, _decide: Any) -> None:
            self.told += 1

    recorder: Any = Recorder()
    guards = Guards(recorder)
    for _ in range(3):
        guards.guard("salary/*", read=Asked(True))
    assert recorder.told == 1
    guards.guard("salary/*", write=Asked(True))
    assert recorder.told == 2


@pytest.mark.usefixtures("session")
def test_unguarded_keys_are_asked_for_once(store, state):
    asked: list[str] = []

    def decide(key: str, _access: int) -> bool:
        asked.append(key)
        return key.startswith("salary/")

    store.set_guard(decide)
    for _ in range(3):
        state["open"], "open" in state
        state["open"] = 5
        state["salary/ann"]
        state.get(f"{_core.HIDDEN}own")
    assert asked.count("open") == 1
    assert asked.count("salary/ann") == 3
    assert set(asked) == {"open", "salary/ann"}
    asked.clear()
    store.set_guard(decide)
    state["open"]
    assert asked == ["open"]


@pytest.mark.usefixtures("session", "unchanged")
def test_an_exception_of_the_function_refuses(state, guard):
    def fail() -> bool:
        raise ZeroDivisionError

    guard("salary/*", read=fail, write=fail)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            state["salary/ann"]
        with pytest.raises(ZeroDivisionError):
            state["salary/ann"] = 2


@pytest.mark.usefixtures("session")
def test_a_function_that_uses_what_it_guards(state, guard):
    guard("salary/*", read=lambda: state["salary/ann"] == 1)
    with pytest.raises(FastServerStateError, match=r"which it guards itself"):
        state["salary/ann"]


def test_a_function_may_read_other_keys_which_the_session_depends_on(store, state, guard, session):
    guard("salary/*", read=lambda: state["open"] == 2)
    assert state["salary/ann"] == 1
    session.finish_run([None])
    leave()
    state["open"] = 3
    assert [scope.session for scope in store.collect_stale()] == [session]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (7, "has to be a function"),
        (lambda _a, _b: True, r"takes one of \(\), \(key\)"),
    ],
)
def test_functions(guard, function, message):
    with pytest.raises(TypeError, match=rf"guard\('salary/\*', read=\.\.\.\).*{message}"):
        guard("salary/*", read=function)


@pytest.mark.usefixtures("session")
def test_async_functions(state, guard):
    async def may() -> bool:
        return True

    def coroutine() -> object:
        return may()

    with pytest.raises(TypeError, match="async"):
        guard("salary/*", read=may)
    guard("salary/*", read=coroutine)
    with pytest.raises(TypeError, match="coroutine"):
        state["salary/ann"]


def test_patterns_are_text(guard):
    with pytest.raises(TypeError, match="of type str"):
        guard(7, read=Asked())


@pytest.mark.usefixtures("session")
def test_computed_values_cannot_read_guarded_keys(store, state, guard):
    workers = Workers()
    computing = Computing(store, Evaluator(store, workers), lambda function, _: function())

    @computing.computed
    def total(key: str) -> object:
        return state.get(key)

    guard("salary/*", read=Asked(True))
    guard("written/*", write=Asked(False))
    assert total("open") == 2
    assert total("written/x") is None
    for _ in range(2):
        with pytest.raises(AccessDeniedError, match=r"has read server_state\['salary/ann'\].*for all sessions"):
            total("salary/ann")
    with pytest.raises(AccessDeniedError):
        elsewhere(lambda: total("salary/ann"))


@pytest.mark.usefixtures("session")
def test_a_computed_value_from_before_the_guard(store, state, guard):
    computing = Computing(store, Evaluator(store, Workers()), lambda function, _: function())

    @computing.computed
    def salary() -> object:
        return state["salary/ann"]

    @computing.computed
    def doubled() -> object:
        return 2 * salary()

    assert (salary(), doubled()) == (1, 2)
    guard("salary/*", read=Asked(True))
    with pytest.raises(AccessDeniedError):
        doubled()
    with pytest.raises(AccessDeniedError):
        salary()


@pytest.mark.usefixtures("session")
def test_computed_values_do_not_know_the_user(store):
    spaces = Spaces(store, lambda: {"email": "ann@example.com"})
    computing = Computing(store, Evaluator(store, Workers()), lambda function, _: function())

    @computing.computed
    def theme() -> object:
        return spaces.user_state.get("theme")

    assert spaces.user_state.get("theme") is None
    with pytest.raises(FastServerStateError, match=r"has used user_state\. It is evaluated once for all sessions"):
        theme()


def test_the_error_is_a_permission_error():
    assert issubclass(AccessDeniedError, FastServerStateError)
    assert issubclass(AccessDeniedError, PermissionError)


def test_guards_hold_in_a_forked_child():
    run_script(
        FORK
        + """
session = _core.Session(store)
asked = []
state["k"] = 0
store.set_guard(lambda key, access: asked.append(key) or True)

def child():
    store.reset_after_fork()
    other = _core.Session(store)
    other.start_run()
    enter(other)
    state["k"] = 1
    state["k"]
    assert asked == ["k", "k"], asked

in_child(child)
"""
    )
