"""A conversation in one key of the server state, for the chat and for every chat room."""

import random
from typing import NamedTuple

import streamlit as st

from fastserverstate import live, server_state, server_state_lock

ANIMALS = {"Bear": "🐻", "Cat": "🐱", "Fox": "🦊", "Frog": "🐸", "Koala": "🐨", "Lion": "🦁", "Panda": "🐼"}
MESSAGES_KEPT = 100


class Message(NamedTuple):
    author: str
    avatar: str
    text: str


def choose_name() -> None:
    """Ask for the user's name. The default is an animal."""
    if "animal" not in st.session_state:
        st.session_state.animal = random.choice(list(ANIMALS))
        st.session_state.name = st.session_state.animal
    st.sidebar.text_input("Your name in the chats", key="name", max_chars=30)


def conversation(key: str, prompt: str = "Say something") -> None:
    """Show the messages of the key, and a box for another one."""
    messages(key)
    st.chat_input(prompt, key=f"draft of {key}", on_submit=post, args=(key,), max_chars=500)


@live
def messages(key: str) -> None:
    # Every session with this key shows the same, so a new message is rendered once and sent to all of them.
    with st.container(height=360):
        said = server_state.get(key, ())
        if not said:
            st.caption("No messages yet.")
        for message in said:
            with st.chat_message(message.author, avatar=message.avatar):
                st.caption(message.author)
                st.markdown(message.text)


def post(key: str) -> None:
    me = st.session_state
    message = Message(me.name or me.animal, ANIMALS[me.animal], me[f"draft of {key}"])
    # Reading, adding and assigning are three steps: the lock keeps other sessions from writing in between.
    with server_state_lock[key]:
        server_state[key] = (*server_state.get(key, ()), message)[-MESSAGES_KEPT:]
