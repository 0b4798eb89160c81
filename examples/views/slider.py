"""One slider for everyone: moved in one tab, it moves in all."""

import streamlit as st

from fastserverstate import server_state

st.title("Slider")
st.write("Open this page in a second tab and drag the slider, or focus it and press the arrow keys.")


def share() -> None:
    server_state["level"] = st.session_state.level


level = server_state.setdefault("level", 50)
# Before the slider is made, and only if somebody else has moved it: so nothing pulls at the handle that you hold.
if st.session_state.get("level") != level:
    st.session_state.level = level
st.slider("Everyone's level", 0, 100, key="level", on_change=share)
st.progress(level, f"Everyone sees {level} %")
