"""One number for everyone."""

import streamlit as st

from fastserverstate import live, server_state, server_state_lock

st.title("Counter")
st.write("Open this page in a second tab and click in either: both show the same number.")


def add(amount: int) -> None:
    # Reading, adding and assigning are three steps: the lock keeps other sessions from writing in between.
    with server_state_lock["count"]:
        server_state["count"] = server_state.get("count", 0) + amount


def reset() -> None:
    server_state["count"] = 0


@live
def count() -> None:
    # A click anywhere renders this once, for all sessions. The page itself does not run again.
    st.metric("Everyone's count", server_state.get("count", 0))


with st.container(border=True):
    count()
    less, more, zero, _ = st.columns([1, 1, 2, 4])
    less.button("-1", on_click=add, args=(-1,))
    more.button("+1", on_click=add, args=(1,), type="primary")
    zero.button("Reset", on_click=reset)
