"""Live regions that show what a user of the app can see change, by the section in the URL."""

from __future__ import annotations

import io
import wave

import numpy as np
import pandas as pd
import streamlit as st
import streamlit.components.v1 as components

from fastserverstate import atomic, live, server_state


def number() -> int:
    n: int = server_state.get("n", 0)
    return n


@live
def board(name: str) -> None:
    st.text(f"{name}: {number()}")
    for i in range(number() % 4):
        with st.container():
            st.text(f"{name} item {i}")
            if i % 2:
                st.code(f"{name} code {i}")


def page() -> None:
    st.text_input("Notes")
    left, right = st.columns(2)
    with left:
        board("Column")
    tab, _ = right.tabs(["First", "Second"])
    with tab:
        board("Tab")
    with st.expander("Expander", expanded=True):
        board("Expanded")
    with st.sidebar:
        board("Sidebar")
    board("Body")

    @st.fragment
    def part() -> None:
        board("Fragment")

    part()


def sound(n: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(8000)
        audio.writeframes(b"\0\0" * 800 * (n + 1))
    return file.getvalue()


def frame(n: int) -> pd.DataFrame:
    return pd.DataFrame({"cell": [f"cell {i}" for i in range(n + 1)]})


@live
def picture() -> None:
    st.image(np.full((8, 8, 3), number() * 5 % 256, np.uint8))
    st.text(f"Picture {number()}")


@live
def elements() -> None:
    n = number()
    st.markdown(f"Markdown **{n}**")
    st.metric("Metric", f"{n} points")
    st.dataframe(frame(n))
    st.table(frame(n))
    st.line_chart(frame(n).index.to_frame())
    st.graphviz_chart(f'digraph {{ "node {n}" }}')
    st.image(np.full((8, 8, 3), n * 5 % 256, np.uint8))
    st.audio(sound(n))
    st.video(f"https://example.com/{n}.mp4")
    st.html(f"<b>HTML {n}</b>")
    components.html(f"<b>Component {n}</b>")
    for i in range(n % 3):
        with st.chat_message("user"):
            st.text(f"Message {i} of {n}")
    for i, column in enumerate(st.columns(2)):
        column.text(f"Column {i} of {n}")
    for i, tab in enumerate(st.tabs(["First", "Second"])):
        tab.text(f"Tab {i} of {n}")
    with st.expander(f"Expander {n}", expanded=True):
        st.text(f"Expanded {n}")
    with st.status(f"Status {n}", state="complete"):
        pass
    st.progress(n % 100, f"Progress {n}")
    st.json({"n": n})
    st.text(f"End {n}")


@live
def chart(name: str) -> None:
    st.graphviz_chart(f'digraph {{ "{name} {number()}" }}')


def charts() -> None:
    chart("left")
    chart("right")
    chart("right")


@live
def blocks() -> None:
    n = number()
    place = st.empty()
    if n % 3 == 0:
        place.text("Nothing")
    elif n % 3 == 1:
        with place.container():
            st.text("One")
            st.text("Two")
    else:
        with place.expander("Open", expanded=True):
            st.text("One")
    with st.container(border=n % 2 == 0):
        for i in range(5 - n % 5):
            st.text(f"Framed {i}")
    for i in range(150):
        st.text(f"Line {i}, {n}")
    st.text(f"Blocks {n}")


@live
def window_board() -> None:
    st.text(f"Window: {number()}")


def dialog() -> None:
    @st.dialog("A dialog")
    def window() -> None:
        window_board()

    if st.button("Open"):
        window()
    board("Behind")


st.session_state.runs = st.session_state.get("runs", 0) + 1
st.text(f"Runs: {st.session_state.runs}")
st.button("Write", on_click=lambda: atomic.increment("n"))
{"page": page, "picture": picture, "elements": elements, "charts": charts, "blocks": blocks, "dialog": dialog}[
    st.query_params["show"]
]()
