"""One conversation for everyone."""

import streamlit as st
from conversation import conversation

st.title("Chat")
st.write("Open this page in a second tab and talk to yourself. What you are typing stays while messages come in.")

conversation("chat")
