"""Conversations in rooms: a message reaches only the sessions in its room."""

import streamlit as st
from conversation import conversation_with_typing

from fastserverstate import server_state, server_state_lock

FIRST_ROOMS = ("Lounge", "Kitchen", "Garden")

st.title("Chat rooms")
st.write("Open this page in a second tab. Tabs in one room talk to each other; tabs in other rooms are left alone.")


def open_room() -> None:
    name = st.session_state.new_room.strip()
    if name:
        with server_state_lock["rooms"]:
            if name not in server_state["rooms"]:
                server_state["rooms"] = (*server_state["rooms"], name)
        st.session_state.room = name
    st.session_state.new_room = ""


rooms = server_state.setdefault("rooms", FIRST_ROOMS)
# Assigned again in every run, so that the choice survives a change of the list.
st.session_state.room = st.session_state.get("room", rooms[0])
room = st.radio("Room", rooms, key="room", horizontal=True)
st.sidebar.text_input("Open a new room", key="new_room", on_change=open_room, max_chars=30)

# Each room has a key of its own: a session depends on its current room, and no longer on the previous one.
conversation_with_typing(f"room {room}", f"Say something in {room}")
