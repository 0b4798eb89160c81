"""A chat whose messages are in a file before any page shows them."""

from __future__ import annotations

import os

import streamlit as st

from fastserverstate import atomic, connect, server_state

connect(f"sqlite:///{os.environ['STATE_FILE']}", durability="always", show="after_durable")

message = st.chat_input("Message")
if message:
    atomic("messages", lambda messages: [*messages, message], default=[])
for number, text in enumerate(server_state.get("messages", [])):
    st.text(f"{number}: {text}")
