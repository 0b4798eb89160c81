"""Toasts to all sessions, and toasts of the page's own run."""

from __future__ import annotations

import streamlit as st

from fastserverstate import broadcast

st.session_state["runs"] = st.session_state.get("runs", 0) + 1


@st.dialog("A dialog")
def ask() -> None:
    st.text_input("In the dialog")


st.button("Hello to all", on_click=broadcast, args=(st.toast, "Hello"), kwargs={"icon": "🚀"})
st.button("Balloons to all", on_click=broadcast, args=(st.balloons,))
if st.button("Own toast"):
    st.toast("My own")
if st.button("Ask"):
    ask()
st.button("Nothing")
st.text(f"run {st.session_state['runs']}")
