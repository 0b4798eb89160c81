"""A page of settings that everyone shares: every user sees all changes."""

import streamlit as st

from fastserverstate import server_state, shared

COLORS = ["Red", "Green", "Blue"]

st.title("Shared widgets")
st.write("Open this page in a second tab and change things in either. In the form, nothing is shared before you save.")


@st.fragment
def lamp() -> None:
    # In a fragment, only the fragment reruns, in this session and in the others.
    with st.container(border=True):
        on = st.toggle("Lamp", **shared("lamp on", default=False))
        color = st.selectbox("Color", COLORS, **shared("lamp color", default="Red"))
        # Two widgets for one value: the second needs a key of its own in this session.
        left, right = st.columns([3, 1], vertical_alignment="bottom")
        left.slider("Brightness", 0, 100, **shared("brightness", default=50))
        right.number_input("in %", 0, 100, **shared("brightness", default=50, widget_key="brightness in numbers"))
        brightness = server_state["brightness"]
        st.markdown(f"The lamp is :{color.lower()}[on], at {brightness} %." if on else "The lamp is off.")


lamp()

with st.form("plan"):
    st.text_input("Event", **shared("event", default="Summer party"))
    st.multiselect("Bring", ["Cake", "Drinks", "Games"], **shared("bring", default=[]))
    st.form_submit_button("Save")
st.write(f"{server_state['event']}: bring {', '.join(server_state['bring']) or 'nothing'}.")
