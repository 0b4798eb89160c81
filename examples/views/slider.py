"""One slider for everyone: when a user moves it, it moves in all sessions."""

import streamlit as st

from fastserverstate import shared

st.title("Slider")
st.write("Open this page in a second tab and drag the slider, or focus it and press the arrow keys.")

level = st.slider("Everyone's level", 0, 100, **shared("level", default=50))
st.progress(level, f"Everyone sees {level} %")
