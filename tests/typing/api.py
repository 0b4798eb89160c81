"""The types that users see. Checked by mypy and pyright, never run."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, assert_type

import streamlit as st

from fastserverstate import (
    AccessDeniedError,
    DeadlockError,
    Events,
    FastServerStateError,
    Limiter,
    NotLoggedInError,
    RerunSuppressedError,
    SessionInfo,
    Space,
    State,
    Subscription,
    Visitor,
    atomic,
    broadcast,
    compare_and_set,
    computed,
    configure,
    edit,
    emit,
    events,
    expire,
    force_rerun_bound_sessions,
    guard,
    join,
    limiter,
    live,
    no_rerun,
    on_change,
    on_session_end,
    on_session_start,
    once,
    online,
    own,
    peek,
    server_state,
    server_state_lock,
    shared,
    space,
    touch,
    transaction,
    user_state,
    wait_for,
)

server_state["a"] = 1
server_state.a = 1
assert_type(server_state["b"], Any)
assert_type(server_state.b, Any)
assert_type(server_state.get("a"), Any)
assert_type("a" in server_state, bool)
assert_type(len(server_state), int)
assert_type(list(server_state), list[str])
assert_type(list(server_state.items()), list[tuple[str, Any]])
assert_type(server_state.to_dict(), dict[str, Any])
del server_state["a"]
del server_state.a

room: Space = space("room/7")
room.a = 1
room["b"] = 2
assert_type(room["b"], Any)
assert_type(room.get("a"), Any)
assert_type(list(room), list[str])
assert_type(room.to_dict(), dict[str, Any])
assert_type(room.key("a"), str)
assert_type(room.clear(), None)
with room.lock["a"], room.lock.b, room.lock["a", "b"]:
    assert_type(room.lock["a"].locked(), bool)
user_state.theme = "dark"
assert_type(user_state.get("theme"), Any)
assert_type(guard("salary/*", read=lambda: True, write=lambda key: key == "a"), None)
assert issubclass(AccessDeniedError, PermissionError)
assert issubclass(NotLoggedInError, FastServerStateError)
space(1)  # type: ignore[arg-type]
room[1]  # type: ignore[index]
guard("salary/*", read=1)  # type: ignore[arg-type]

with server_state_lock["a"], server_state_lock.b:
    assert_type(server_state_lock.a.acquire(timeout=1), bool)
    assert_type(server_state_lock.a.locked(), bool)

with server_state_lock["a", "b"] as taken:
    assert_type(taken, bool)
assert_type(server_state_lock["a", "b"].acquire(timeout=1), bool)

assert_type(atomic("a", lambda value: f"{value}", default=0), str)
assert_type(atomic.increment("a", 2, default=1), Any)
assert_type(atomic.append("log", "line", max_length=10), Any)
assert_type(atomic("a", lambda value: value + 1, default=0, returning=lambda old, new: bool(new > old)), bool)
assert_type(atomic("a", lambda value: f"{value}", returning=None), str)
assert_type(atomic.pop_first("queue", default=None), Any)
assert_type(atomic.update("progress", {"job": 0.4}), Any)
assert_type(atomic.add("tags", "new"), bool)
assert_type(atomic.discard("tags", "new"), bool)
assert_type(atomic.maximum("record", 42, default=0), Any)
votes_before: dict[str, int] = {}
with edit("votes", default=votes_before) as votes:
    assert_type(votes, dict[str, int])
with edit("votes", default={"Tea": 0}) as votes_by_literal:
    assert_type(votes_by_literal, dict[str, int])
with edit("votes", default={}) as untyped:
    assert_type(untyped, Any)
with edit("log", default=[], timeout="1s") as untyped_list:
    assert_type(untyped_list, Any)
with edit("votes") as without_default:
    assert_type(without_default, Any)
with edit("a", "b", "c", default={"a": [], "b": {}}) as drafts:
    assert_type(drafts, tuple[Any, ...])
with edit("a", "b") as (first_draft, second_draft):
    assert_type(first_draft, Any)
assert_type(compare_and_set("a", 1, 2), bool)
assert_type(peek("a", 0), Any)
assert_type(touch("a"), None)
assert_type(wait_for("a", lambda value: value > 1, timeout=timedelta(seconds=1)), Any)
with transaction("a", "b", timeout=1) as nothing:
    assert_type(nothing, None)


@on_change("a", args=(1,))
def announce(step: int) -> None: ...


assert_type(announce(1), None)
assert_type(on_change("a", print, kwargs={"end": ""}), Subscription)
on_change("a", print).remove()


@on_session_start
def started() -> None: ...


@on_session_end
def ended(session: SessionInfo) -> str:
    assert_type(session.id, str)
    assert_type(session.session_state["draft"], Any)
    return str(session.since.year)


assert_type(ended(SessionInfo("a", datetime.now())), str)
assert_type(own("cursor"), None)
on_session_end(3)  # type: ignore[type-var]

assert_type(limiter("api", 50, per="1m"), Limiter)
assert_type(once("model", lambda: 3.5), float)
once("model", 3)  # type: ignore[arg-type]
assert_type(limiter("api", 50, per=60).allow(), bool)
assert_type(join("room/7", name="Ann", cursor=(1, 2)), None)
for visitor in online("room/7", by="user"):
    assert_type(visitor, Visitor)
    assert_type(visitor.is_me, bool)
    assert_type(visitor.name, Any)
online(by="group")  # type: ignore[arg-type]


class Lobby(State, validate=True):
    topic: str = "General"
    names: list[str] = []  # noqa: RUF012


lobby = Lobby(space="7")
assert_type(lobby.topic, str)
assert_type(lobby.names, list[str])
assert_type(Lobby.topic, str)
assert_type(lobby.key("names"), str)
lobby.topic = "Lunch"
lobby.topic = 3  # type: ignore[assignment]
lobby.names = [3]  # type: ignore[list-item]
with lobby.edit("names") as changed:
    assert_type(changed, Any)
assert_type(wait_for(Lobby.topic), Any)

decorate: Callable[[type[int]], type[int]] = on_change("a")

configure(rerun_writer="stale", detect_inplace=True)
configure("a", compare="content", hash_funcs={int: str, "decimal.Decimal": str})
configure("room/*", min_rerun_interval="500ms", idle_ttl="1h")
configure("rate/*", ttl=timedelta(minutes=10), persist=False)
assert_type(expire("a", after="1h"), None)
expire("a", after=None)
configure(min_rerun_interval=timedelta(seconds=1))

with no_rerun:
    server_state["a"] = 2


@no_rerun
def quietly(step: int) -> int:
    server_state["a"] += step
    return step


assert_type(quietly(1), int)

assert_type(force_rerun_bound_sessions("a"), None)
assert issubclass(RerunSuppressedError, FastServerStateError)
assert issubclass(DeadlockError, FastServerStateError)

assert_type(shared("a", default=1)["key"], str)
st.slider("A", 0, 100, **shared("a", default=1, widget_key="b"))
st.text_input("B", on_change=print, args=(1,), **shared("b"))


@computed
def leaders(game: str, count: int = 3) -> list[str]:
    return [game] * count


@computed(max_entries=10)
def total() -> int:
    return 1


@live
def board(game: str) -> None: ...


@live(every="1s")
def clock() -> None: ...


assert_type(leaders("chess"), list[str])
assert_type(total(), int)
assert_type(wait_for(leaders, "chess", 3, bool), list[str])
board("chess")
clock()
leaders(1)  # type: ignore[arg-type]
board()  # type: ignore[call-arg]
live(every=[1])  # type: ignore[call-overload]

emit("a", {"b": 1}, to="group", keep=10, ttl="1d")
emit("a", 1, to=st.user)
assert_type(events("a", replay=1, timeout=timedelta(seconds=1)), Events)
assert_type(list(events("a")), list[Any])
assert_type(broadcast(st.toast, "a", icon="🚀"), None)
broadcast(st.balloons)


async def listen() -> list[Any]:
    return [event async for event in events("a")]


emit("a")  # type: ignore[call-arg]
emit("a", 1, to=1)  # type: ignore[arg-type]
events("a", replay="1")  # type: ignore[arg-type]
broadcast(st.toast)  # type: ignore[call-arg]
server_state[1] = 2  # type: ignore[index]
server_state_lock[1]  # type: ignore[call-overload]
force_rerun_bound_sessions(1)  # type: ignore[arg-type]
configure("a", compare="repr")  # type: ignore[arg-type]
transaction(1)  # type: ignore[arg-type]
edit(1)  # type: ignore[call-overload]
edit("a", "b", timeout=[1])  # type: ignore[call-overload]
wait_for("a", timeout=[1])  # type: ignore[call-overload]
on_change("a", None)  # type: ignore[call-overload]
configure("a", min_rerun_interval=[1])  # type: ignore[arg-type]
configure("a", ttl=[1])  # type: ignore[arg-type]
expire("a")  # type: ignore[call-arg]
expire(1, after=1)  # type: ignore[arg-type]
peek(1)  # type: ignore[arg-type]
shared(1)  # type: ignore[arg-type]
