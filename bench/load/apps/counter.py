"""A number that every session shows and any session increments."""

import control
import streamlit as st
from meter import counted
from package import read, region, server_state, server_state_lock


@region
def show() -> None:
    st.text(f"n {server_state.get('n', 0)}")


control.start()
with counted():
    if st.button("add"):
        with server_state_lock["n"]:
            server_state["n"] = read("n", 0) + 1
    show()
