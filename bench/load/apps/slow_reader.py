"""A script that takes 100 ms, in ten steps at which Streamlit can interrupt it.

A live region shows the number before the work. Otherwise the script reads it before and shows it after the work.
"""

import time

import control
import streamlit as st
from meter import counted
from package import is_live, region, server_state


@region
def show() -> None:
    st.text(f"n {server_state.get('n', 0)}")


def work(value: int) -> None:
    for step in range(10):
        time.sleep(0.01)
        st.text(f"step{step} {value}")


control.start()
with counted():
    if is_live:
        show()
        work(0)
    else:
        value = server_state.get("n", 0)
        work(value)
        st.text(f"n {value}")
