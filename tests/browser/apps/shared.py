"""What visitors of several servers see of one state."""

import streamlit as st

from fastserverstate import atomic, cluster, server_state, transaction


def write() -> None:
    with transaction("lines", "last"):
        lines = [*server_state.get("lines", []), len(server_state.get("lines", [])) + 1]
        server_state["lines"] = lines
        server_state["last"] = lines[-1]


st.text(f"Body: {server_state.get('clicks', 0)}")
st.button("Click", on_click=atomic.increment, args=("clicks",))
st.button("Write", on_click=write)


@st.fragment
def lines() -> None:
    st.text(f"Fragment: {len(server_state.get('lines', []))} lines, the last is {server_state.get('last')}")


lines()
status = cluster.status()
st.text(f"Namespace: {status and status.namespace}")
