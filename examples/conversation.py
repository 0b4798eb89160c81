"""A conversation in one key of the server state, for the chat and for every chat room; and who takes part."""

import inspect
import random
from typing import NamedTuple

import streamlit as st

from fastserverstate import broadcast, join, live, online, server_state, server_state_lock

ANIMALS = {"Bear": "🐻", "Cat": "🐱", "Fox": "🦊", "Frog": "🐸", "Koala": "🐨", "Lion": "🦁", "Panda": "🐼"}
MESSAGES_KEPT = 100
# Newer releases of Streamlit send a text while its user types it.
SENDS_WHILE_TYPING = "live" in inspect.signature(st.text_input).parameters


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


def my_name() -> str:
    return st.session_state.name or st.session_state.animal


def be_online() -> None:
    """Let others see this user, and show who else is there."""
    join("example app", name=my_name(), avatar=ANIMALS[st.session_state.animal])
    with st.sidebar:
        people()
        st.button("👋 Wave to all", on_click=wave, use_container_width=True)


@live
def people() -> None:
    visitors = online("example app")
    st.caption(f"{len(visitors)} online")
    for visitor in visitors:
        st.text(f"{visitor.avatar} {visitor.name}")


def wave() -> None:
    broadcast(st.toast, f"{my_name()} waves to all.", icon="👋")


def conversation(key: str, prompt: str = "Say something") -> None:
    """Show the messages of the key, and a box for another one."""
    messages(key)
    st.chat_input(prompt, key=f"draft of {key}", on_submit=post, args=(key,), max_chars=500)


def conversation_with_typing(key: str, prompt: str) -> None:
    """Show a conversation, and who is typing."""
    if not SENDS_WHILE_TYPING:
        conversation(key, prompt)
        return
    messages(key)
    typing(key)
    message_box(key, prompt)


@st.fragment
def message_box(key: str, prompt: str) -> None:
    draft, send = st.columns([5, 1])
    text = draft.text_input(
        "Message", key=f"draft of {key}", placeholder=prompt, label_visibility="collapsed", max_chars=500, live=True
    )
    send.button("Send", on_click=send_draft, args=(key,), use_container_width=True)
    if text:
        join(f"typing in {key}", name=my_name())


@st.fragment
def typing(key: str) -> None:
    names = [visitor.name for visitor in online(f"typing in {key}") if not visitor.is_me]
    st.caption(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} typing ..." if names else "&nbsp;")


def send_draft(key: str) -> None:
    if st.session_state[f"draft of {key}"]:
        post(key)
        st.session_state[f"draft of {key}"] = ""


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
    message = Message(my_name(), ANIMALS[st.session_state.animal], st.session_state[f"draft of {key}"])
    # Reading, adding and assigning are three steps: the lock keeps other sessions from writing in between.
    with server_state_lock[key]:
        server_state[key] = (*server_state.get(key, ()), message)[-MESSAGES_KEPT:]
