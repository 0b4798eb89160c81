"""Every session shows a number that a thread writes, after 20 ms of work. A bystander only clicks."""

import time

import control
import streamlit as st
from meter import counted
from package import region, server_state


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@region
def show() -> None:
    value = server_state.get("n", 0)
    st.text("title")
    burn(0.02)
    st.text(f"n {value}")


def bystander() -> None:
    st.session_state.setdefault("clicks", 0)
    if st.button("click"):
        st.session_state.clicks += 1
    st.text(f"clicks {st.session_state.clicks}")


control.start()
role = st.query_params.get("role", "reader")
with counted(role):
    bystander() if role == "bystander" else show()
