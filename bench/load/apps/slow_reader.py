"""A script that takes 100 ms, in ten steps at which Streamlit can interrupt it."""

import time

import control
import streamlit as st
from meter import counted
from package import server_state

control.start()
with counted():
    value = server_state.get("n", 0)
    for step in range(10):
        time.sleep(0.01)
        st.text(f"step{step} {value}")
    st.text(f"n {value}")
