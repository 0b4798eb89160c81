"""Pages that tell what was rerun."""

import streamlit as st

from fastserverstate import server_state, server_state_lock


def write(key: str) -> None:
    with server_state_lock[key]:
        server_state[key] = server_state.get(key, 0) + 1


def count_run_of(part: str) -> None:
    st.session_state[part] = st.session_state.get(part, 0) + 1
    st.text(f"{part} runs: {st.session_state[part]}")


def whole_page() -> None:
    st.title("Whole page")
    st.button("Write", on_click=write, args=("page writes",))
    notes = st.text_input("Notes")
    st.text(f"Notes received: {notes!r}")
    st.text(f"Writes: {server_state.get('page writes', 0)}")


def fragment_page() -> None:
    st.title("Fragment")
    st.button("Write", on_click=write, args=("fragment writes",))
    st.button("Rerun the page")
    count_run_of("Body")
    shared_fragment()


@st.fragment
def shared_fragment() -> None:
    count_run_of("Fragment")
    st.text(f"Writes: {server_state.get('fragment writes', 0)}")


st.navigation([st.Page(whole_page, title="Whole page", default=True), st.Page(fragment_page, title="Fragment")]).run()
