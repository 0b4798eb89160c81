"""Pages of shared widgets, each with a count of its runs."""

import pandas as pd
import streamlit as st

from fastserverstate import server_state, shared

TEAM = pd.DataFrame({"name": ["Ada", "Bob"], "age": [36, 41]})


def count_run() -> None:
    st.session_state.runs = st.session_state.get("runs", 0) + 1
    st.text(f"Runs: {st.session_state.runs}")


def click() -> None:
    st.session_state.clicks = st.session_state.get("clicks", 0) + 1


def widgets() -> None:
    st.title("Widgets")
    st.text_input("Text", **shared("text", default=""))
    st.checkbox("Check", **shared("check", default=False))
    st.number_input("Number", 0, 100, **shared("number", default=10))
    st.selectbox("Select", ["Ant", "Bee", "Cat"], **shared("select", default="Ant"))
    st.multiselect("Several", ["Ant", "Bee", "Cat"], **shared("several", default=[]))
    values = [server_state[key] for key in ("text", "check", "number", "select", "several")]
    st.text(f"Values: {values}")
    count_run()


def sliders() -> None:
    st.title("Sliders")
    st.slider("X", 0, 100, **shared("x", default=50))
    st.slider("Y", 0, 100, **shared("y", default=50))
    st.text(f"Values: {server_state['x']} {server_state['y']}")
    st.button("Click", on_click=click)
    st.text(f"Clicks: {st.session_state.get('clicks', 0)}")
    count_run()


def form() -> None:
    st.title("Form")
    with st.form("form"):
        st.text_input("Name", **shared("name", default=""))
        st.checkbox("Member", **shared("member", default=False))
        st.form_submit_button("Save")
    st.text(f"Values: {server_state['name']!r} {server_state['member']}")
    st.button("Click", on_click=click)
    st.text(f"Clicks: {st.session_state.get('clicks', 0)}")


def fragment() -> None:
    st.title("Fragment")
    count_run()
    part()


@st.fragment
def part() -> None:
    st.slider("Part", 0, 100, **shared("part", default=50))
    st.text(f"Values: {server_state['part']}")


def save() -> None:
    table = server_state["team"]
    edits = st.session_state[st.session_state.editor]
    changed = table.copy()
    for row, cells in edits["edited_rows"].items():
        for column, value in cells.items():
            changed.loc[changed.index[int(row)], column] = value
    server_state["team"] = changed


def table() -> None:
    st.title("Table")
    team = server_state.setdefault("team", TEAM)
    # A key of its own for each version: the edits in the old one are in the new table.
    st.session_state.editor = f"team {id(team)}"
    st.data_editor(team, key=st.session_state.editor, on_change=save)
    st.text(f"Values: {team['name'].tolist()} {team['age'].tolist()}")


st.navigation(
    [
        st.Page(widgets, title="Widgets", default=True),
        st.Page(sliders, title="Sliders"),
        st.Page(form, title="Form"),
        st.Page(fragment, title="Fragment"),
        st.Page(table, title="Table"),
    ]
).run()
