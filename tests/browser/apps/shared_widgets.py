"""Pages of shared widgets, each with a count of its runs."""

import pandas as pd
import streamlit as st

from fastserverstate import server_state, server_state_lock, shared

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


def dialog() -> None:
    st.title("Dialog")
    count_run()
    st.button("Open", on_click=st.session_state.update, kwargs={"open": True})
    if st.session_state.pop("open", False):
        talk()


@st.dialog("Talk")
def talk() -> None:
    st.text_input("Words", **shared("words", default=""))
    st.slider("Loudness", 0, 100, **shared("loudness", default=50))
    st.text(f"Values: {server_state['words']!r} {server_state['loudness']}")


def save(base: pd.DataFrame, editor: str) -> None:
    with server_state_lock["team"]:
        version, team = server_state["team"]
        team = team.copy()
        for row, cells in st.session_state[editor]["edited_rows"].items():
            for column, value in cells.items():
                team.loc[base.index[row], column] = value
        server_state["team"] = version + 1, team
    if version == st.session_state.team_version:  # no other session has changed it, so this editor shows all rows
        st.session_state.team_version = version + 1


def table() -> None:
    st.title("Table")
    version, team = server_state.setdefault("team", (0, TEAM))
    if version != st.session_state.get("team_version"):
        st.session_state.team_version = version
        st.session_state.team_base = team
        st.session_state.team_editor = f"team, version {version}"
    base, editor = st.session_state.team_base, st.session_state.team_editor
    st.data_editor(base, key=editor, on_change=save, args=(base, editor))
    st.text(f"Values: {team['name'].tolist()} {team['age'].tolist()}")


st.navigation(
    [
        st.Page(widgets, title="Widgets", default=True),
        st.Page(sliders, title="Sliders"),
        st.Page(form, title="Form"),
        st.Page(fragment, title="Fragment"),
        st.Page(dialog, title="Dialog"),
        st.Page(table, title="Table"),
    ]
).run()
