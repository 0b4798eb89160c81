"""Chat rooms: a session shows the number of posts in the room that its query string names."""

import control
import streamlit as st
from meter import counted
from package import read, region, server_state, server_state_lock


@region
def show(key: str) -> None:
    st.text(f"{key} {server_state.get(key, 0)}")


control.start()
room = st.query_params["room"]
key = f"room{room}"
with counted(room):
    if st.button("post"):
        with server_state_lock[key]:
            server_state[key] = read(key, 0) + 1
    show(key)
