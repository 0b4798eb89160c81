"""Shows the time of the last write."""

import time

import streamlit as st

from fastserverstate import server_state

if st.button("Write"):
    server_state["t"] = time.time_ns()
st.text(server_state.get("t", 0))
