"""The types that users see. Checked by mypy and pyright, never run."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, assert_type

import streamlit as st

from fastserverstate import (
    DeadlockError,
    Events,
    FastServerStateError,
    RerunSuppressedError,
    SessionInfo,
    Subscription,
    atomic,
    broadcast,
    compare_and_set,
    computed,
    configure,
    emit,
    events,
    expire,
    force_rerun_bound_sessions,
    live,
    no_rerun,
    on_change,
    on_session_end,
    on_session_start,
    own,
    peek,
    server_state,
    server_state_lock,
    shared,
    touch,
    transaction,
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

with server_state_lock["a"], server_state_lock.b:
    assert_type(server_state_lock.a.acquire(timeout=1), bool)
    assert_type(server_state_lock.a.locked(), bool)

with server_state_lock["a", "b"] as taken:
    assert_type(taken, bool)
assert_type(server_state_lock["a", "b"].acquire(timeout=1), bool)

assert_type(atomic("a", lambda value: f"{value}", default=0), str)
assert_type(atomic.increment("a", 2, default=1), Any)
assert_type(atomic.append("log", "line", max_length=10), Any)
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
wait_for("a", timeout=[1])  # type: ignore[call-overload]
on_change("a", None)  # type: ignore[call-overload]
configure("a", min_rerun_interval=[1])  # type: ignore[arg-type]
configure("a", ttl=[1])  # type: ignore[arg-type]
expire("a")  # type: ignore[call-arg]
expire(1, after=1)  # type: ignore[arg-type]
peek(1)  # type: ignore[arg-type]
shared(1)  # type: ignore[arg-type]
