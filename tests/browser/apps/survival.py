"""Widgets next to a shared value: `?show=form` in the script's body, `?show=form&scope=fragment` in a fragment.

Each run shows the value and what the server knows of the widgets in one line, so that no run can leave out either.
"""

import threading
import time
from collections.abc import Callable

import streamlit as st

from fastserverstate import server_state, server_state_lock


def writes() -> int:
    return server_state.get("writes", 0)


def write() -> None:
    with server_state_lock["writes"]:
        server_state["writes"] = writes() + 1


# A browser that gets more runs than it can show no longer reacts to clicks, and on a busy machine it can show few. So
# the runs are few but long, and about half of the clicks come in the middle of one.
BETWEEN_WRITES = 0.2  # seconds


def write_on() -> None:
    while server_state["writer"] == "at work":
        write()
        time.sleep(BETWEEN_WRITES)
    server_state["writer"] = "at rest"


def start_writing() -> None:
    server_state["writer"] = "at work"
    threading.Thread(target=write_on, daemon=True).start()


def stop_writing() -> None:
    server_state["writer"] = "about to rest"


def writer() -> str:
    st.button("Write", on_click=write)
    st.button("Start writing", on_click=start_writing)
    st.button("Stop writing", on_click=stop_writing)
    return server_state.get("writer", "at rest")


def text() -> str:
    return st.text_input("Line") + st.text_area("Lines") or "nothing"


def form() -> str:
    with st.form("form"):
        name = st.text_input("Name")
        age = st.number_input("Age", value=0)
        st.form_submit_button("Send")
    return f"{name!r} is {age}"


def upload() -> str:
    file = st.file_uploader("File")
    return f"{file.name} with {file.getvalue().decode()!r}" if file else "no file"


def choices() -> str:
    return f"{st.selectbox('Colour', ['red', 'green'])}, {st.slider('Level', 0, 9)}, {st.checkbox('Agreed')}"


def opened() -> str:
    with st.expander("More"):
        st.text(f"In the expander at write {writes()}")
    with st.tabs(["Left", "Right"])[1]:
        st.text(f"On the right at write {writes()}")
    return "opened by the user"


def count(clicks: str) -> None:
    st.session_state[clicks] = st.session_state.get(clicks, 0) + 1


def buttons() -> str:
    st.button("Callback", on_click=count, args=("Callback",))
    if server_state.get("writer") == "at work":
        time.sleep(BETWEEN_WRITES / 2)
    if st.button("Result"):
        count("Result")
    return ", ".join(f"{clicks} {st.session_state.get(clicks, 0)}" for clicks in ("Callback", "Result"))


def download() -> str:
    st.download_button("Download the same", "Always the same", "same.txt")
    st.download_button("Download the latest", f"As of write {writes()}", "latest.txt")
    return "ready"


def address() -> str:
    if st.button("Choose"):
        st.query_params["chosen"] = "this one"
    return str({name: value for name, value in st.query_params.items() if name not in ("show", "scope")})


@st.dialog("Dialog")
def dialog() -> None:
    show(text)


def opener() -> None:
    if st.button("Open"):
        dialog()


def show(section: Callable[[], str]) -> None:
    received = section()
    st.text(f"Write {writes()}: {received}")


SECTIONS = {section.__name__: section for section in (writer, text, form, upload, choices, opened, buttons, download)}


def first() -> None:
    st.title("First")
    name = st.query_params.get("show", "address")
    if name == "dialog":
        opener()
    else:
        in_scope = st.fragment(show) if st.query_params.get("scope") == "fragment" else show
        in_scope(SECTIONS.get(name, address))


def second() -> None:
    st.title("Second")
    show(address)


st.navigation([st.Page(first, title="First", default=True), st.Page(second, title="Second")]).run()
