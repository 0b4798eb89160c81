"""The types that users see. Checked by mypy, never run."""

from typing import Any, assert_type

import streamlit as st

from fastserverstate import (
    FastServerStateError,
    RerunSuppressedError,
    force_rerun_bound_sessions,
    no_rerun,
    server_state,
    server_state_lock,
    shared,
)

server_state["a"] = 1
server_state.a = 1
assert_type(server_state["a"], Any)
assert_type(server_state.a, Any)
assert_type(server_state.get("a"), Any)
assert_type("a" in server_state, bool)
assert_type(len(server_state), int)
assert_type(list(server_state), list[str])
assert_type(list(server_state.items()), list[tuple[str, Any]])
del server_state["a"]
del server_state.a

with server_state_lock["a"], server_state_lock.b:
    assert_type(server_state_lock.a.acquire(timeout=1), bool)
    assert_type(server_state_lock.a.locked(), bool)

with no_rerun:
    server_state["a"] = 2


@no_rerun
def quietly(step: int) -> int:
    server_state["a"] += step
    return step


assert_type(quietly(1), int)

assert_type(force_rerun_bound_sessions("a"), None)
assert issubclass(RerunSuppressedError, FastServerStateError)

assert_type(shared("a", default=1)["key"], str)
st.slider("A", 0, 100, **shared("a", default=1, widget_key="b"))
st.text_input("B", on_change=print, args=(1,), **shared("b"))

server_state[1] = 2  # type: ignore[index]
server_state_lock[1]  # type: ignore[call-overload]
force_rerun_bound_sessions(1)  # type: ignore[arg-type]
shared(1)  # type: ignore[arg-type]
