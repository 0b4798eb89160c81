"""Crafted messages, which no browser sends by itself, affect their own session only."""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import AsyncExitStack, suppress
from datetime import date
from typing import Any

import pytest
import streamlit
from harness.client import Client
from harness.steps import FENCE, Serve, fence, shown, with_clients
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ButtonGroup_pb2 import ButtonGroup
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.MultiSelect_pb2 import MultiSelect
from streamlit.proto.Radio_pb2 import Radio
from streamlit.proto.Selectbox_pb2 import Selectbox
from streamlit.proto.Slider_pb2 import Slider
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest
from websockets.exceptions import ConnectionClosed

from fastserverstate import server_state
from fastserverstate.shared_widgets import _Widget

ID = re.compile(rb"\$\$(?:ID|WIDGET_ID)-[0-9a-f]+-([a-z_]+)\.")

# Newer releases send options by their names, older ones by their places.
NAMES_ONE = "raw_value" in Selectbox.DESCRIPTOR.fields_by_name
NAMES_RADIO = "raw_value" in Radio.DESCRIPTOR.fields_by_name
NAMES_MANY = "raw_values" in MultiSelect.DESCRIPTOR.fields_by_name
NAMES_BUTTONS = "raw_values" in ButtonGroup.DESCRIPTOR.fields_by_name
NAMES_PLACES = "raw_value" in Slider.DESCRIPTOR.fields_by_name


class CraftedClient(Client):
    """A client that sends any value for any widget, and records all errors that the page has shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ids: dict[str, str] = {}
        self.errors: list[str] = []

    def _apply(self, message: ForwardMsg) -> None:
        super()._apply(message)
        error = message.delta.new_element.exception
        if error.type:
            self.errors.append(f"{error.type}: {error.message}")
        if not self.finished:
            self.ids |= {found[1].decode(): found[0].decode() for found in ID.finditer(message.SerializeToString())}

    async def send(self, message: BackMsg | bytes) -> None:
        await self._socket.send(message if isinstance(message, bytes) else message.SerializeToString())

    async def set(self, key: str, **value: Any) -> None:
        """Send the value of one widget, and wait until the run is over."""
        runs = self.finished
        await self.rerun(state(self.ids[key], **value))
        await self.until(lambda client: client.settled and client.finished > runs)


def state(widget: str, **value: Any) -> WidgetState:
    found = WidgetState(id=widget)
    for field, content in value.items():
        if field.endswith("_array_value"):
            getattr(found, field).SetInParent()
            getattr(found, field).data.extend(content)
        elif field == "string_trigger_value":
            found.string_trigger_value.data = content
        elif field == "file_uploader_state_value":
            found.file_uploader_state_value.SetInParent()
        else:
            setattr(found, field, content)
    return found


def kind(source: str, default: Any, check: str, *honest: tuple[dict[str, Any], Any]) -> tuple[str, str, str, Any]:
    return source, repr(default), check, honest


def one_of(index: int, names: bool = NAMES_ONE) -> dict[str, Any]:
    return {"string_value": "abc"[index]} if names else {"int_value": index}


def some_of(*indices: int, names: bool = NAMES_MANY) -> dict[str, Any]:
    return {"string_array_value": ["abc"[i] for i in indices]} if names else {"int_array_value": indices}


def on_slider(*indices: int) -> dict[str, Any]:
    return {"string_array_value": ["abc"[i] for i in indices]} if NAMES_PLACES else {"double_array_value": indices}


OPTIONS = "['a', 'b', 'c']"
DATE = "datetime.date(2026, 1, {})"
DAY = "st.date_input('label', {}, DAY(1), DAY(28), **arguments)"

# How a widget is created, its shared default, the app's assertion, and values that its user may set.
KINDS = {
    "slider": kind(
        "st.slider('label', 0, 100, **arguments)",
        50,
        "type(value) is int and 0 <= value <= 100",
        ({"double_array_value": [20.0]}, "20"),
        ({"double_array_value": [30.0]}, "30"),
    ),
    "range_slider": kind(
        "st.slider('label', 0.0, 1.0, (0.2, 0.5), **arguments)",
        (0.2, 0.5),
        "len(value) == 2 and 0 <= value[0] <= value[1] <= 1",
        ({"double_array_value": [0.25, 0.5]}, "(0.25, 0.5)"),
        ({"double_array_value": [0.5, 0.75]}, "(0.5, 0.75)"),
    ),
    "select_slider": kind(
        f"st.select_slider('label', {OPTIONS}, **arguments)",
        "b",
        "value in ('a', 'b', 'c')",
        (on_slider(2), "'c'"),
        (on_slider(0), "'a'"),
    ),
    "select_range": kind(
        f"st.select_slider('label', {OPTIONS}, ('a', 'b'), **arguments)",
        ("a", "b"),
        "len(value) == 2 and 'a' <= value[0] <= value[1] <= 'c'",
        (on_slider(1, 2), "('b', 'c')"),
        (on_slider(0, 2), "('a', 'c')"),
    ),
    "integer": kind(
        "st.number_input('label', 0, 100, **arguments)",
        1,
        "type(value) is int and 0 <= value <= 100",
        ({"int_value": 2}, "2"),
        ({"int_value": 3}, "3"),
    ),
    "number": kind(
        "st.number_input('label', 0.0, **arguments)",
        1.0,
        "type(value) is float and int(value) >= 0",
        ({"double_value": 2.5}, "2.5"),
        ({"double_value": 3.5}, "3.5"),
    ),
    "text_input": kind(
        "st.text_input('label', max_chars=5, **arguments)",
        "one",
        "len(value) <= 5",
        ({"string_value": "two"}, "'two'"),
        ({"string_value": "three"}, "'three'"),
    ),
    "text_area": kind(
        "st.text_area('label', **arguments)",
        "one",
        "isinstance(value, str)",
        ({"string_value": "two"}, "'two'"),
        ({"string_value": "three"}, "'three'"),
    ),
    "checkbox": kind(
        "st.checkbox('label', **arguments)",
        True,
        "value in (True, False)",
        ({"bool_value": False}, "False"),
        ({"bool_value": True}, "True"),
    ),
    "toggle": kind(
        "st.toggle('label', **arguments)",
        True,
        "value in (True, False)",
        ({"bool_value": False}, "False"),
        ({"bool_value": True}, "True"),
    ),
    "radio": kind(
        f"st.radio('label', {OPTIONS}, **arguments)",
        "b",
        "value in ('a', 'b', 'c')",
        (one_of(2, NAMES_RADIO), "'c'"),
        (one_of(0, NAMES_RADIO), "'a'"),
    ),
    "selectbox": kind(
        f"st.selectbox('label', {OPTIONS}, **arguments)",
        "b",
        "value in ('a', 'b', 'c')",
        (one_of(2), "'c'"),
        (one_of(0), "'a'"),
    ),
    "multiselect": kind(
        f"st.multiselect('label', {OPTIONS}, max_selections=2, **arguments)",
        ["b"],
        "set(value) <= {'a', 'b', 'c'} and len(value) == len(set(value)) <= 2",
        (some_of(1, 2), "['b', 'c']"),
        (some_of(0), "['a']"),
    ),
    "color_picker": kind(
        "st.color_picker('label', **arguments)",
        "#ff0000",
        "int(value[1:], 16) >= 0",
        ({"string_value": "#00ff00"}, "'#00ff00'"),
        ({"string_value": "#0000ff"}, "'#0000ff'"),
    ),
    "date_input": kind(
        DAY.format("DAY(2)"),
        None,
        "DAY(1) <= value <= DAY(28)",
        ({"string_array_value": ["2026/01/05"]}, DATE.format(5)),
        ({"string_array_value": ["2026/01/06"]}, DATE.format(6)),
    ),
    "date_range": kind(
        DAY.format("(DAY(2), DAY(3))"),
        None,
        "len(value) <= 2 and all(DAY(1) <= value[0] <= day <= DAY(28) for day in value)",
        ({"string_array_value": ["2026/01/05", "2026/01/06"]}, f"({DATE.format(5)}, {DATE.format(6)})"),
        ({"string_array_value": ["2026/01/07"]}, f"({DATE.format(7)},)"),
    ),
    "time_input": kind(
        "st.time_input('label', datetime.time(1), **arguments)",
        None,
        "value.hour >= 0",
        ({"string_value": "02:30"}, "datetime.time(2, 30)"),
        ({"string_value": "03:30"}, "datetime.time(3, 30)"),
    ),
    "feedback": kind(
        "st.feedback('thumbs', **arguments)",
        None,
        "value in (None, 0, 1)",
        ({"string_value": "1"} if hasattr(streamlit.proto, "Feedback_pb2") else {"int_array_value": [0]}, "1"),
        ({"string_value": "0"} if hasattr(streamlit.proto, "Feedback_pb2") else {"int_array_value": [1]}, "0"),
    ),
    "datetime_input": kind(
        "st.datetime_input('label', datetime.datetime(2026, 1, 2), datetime.datetime(2026, 1, 1), **arguments)",
        None,
        "value >= datetime.datetime(2026, 1, 1)",
        ({"string_array_value": ["2026-01-05T01:00"]}, "datetime.datetime(2026, 1, 5, 1, 0)"),
        ({"string_array_value": ["2026-01-06T01:00"]}, "datetime.datetime(2026, 1, 6, 1, 0)"),
    ),
    "pills": kind(
        f"st.pills('label', {OPTIONS}, **arguments)",
        "b",
        "value in ('a', 'b', 'c', None)",
        (some_of(2, names=NAMES_BUTTONS), "'c'"),
        (some_of(0, names=NAMES_BUTTONS), "'a'"),
    ),
    "segmented_control": kind(
        f"st.segmented_control('label', {OPTIONS}, selection_mode='multi', **arguments)",
        ["b"],
        "set(value) <= {'a', 'b', 'c'} and len(value) == len(set(value))",
        (some_of(1, 2, names=NAMES_BUTTONS), "['b', 'c']"),
        (some_of(0, names=NAMES_BUTTONS), "['a']"),
    ),
    "pagination": kind(
        "st.pagination(10, **arguments)", 1, "1 <= value <= 10", ({"int_value": 2}, "2"), ({"int_value": 3}, "3")
    ),
    "tabs": kind(
        "[tab.open for tab in st.tabs(['a', 'b', 'c'], on_change='rerun', **arguments)].index(True)",
        "b",
        "True",
        ({"string_value": "c"}, "2"),
        ({"string_value": "a"}, "0"),
    ),
    "expander": kind(
        "st.expander('label', on_change='rerun', **arguments).open",
        True,
        "value in (True, False)",
        ({"bool_value": False}, "False"),
        ({"bool_value": True}, "True"),
    ),
}
for name in list(KINDS):
    command = re.search(r"st\.(\w+)", KINDS[name][0])[1]
    if not hasattr(streamlit, command) or (name in ("tabs", "expander") and not hasattr(streamlit, "pagination")):
        del KINDS[name]

SETUP = """
        import datetime, functools, sys
        constants = {"DELIVERY_TIME": 0.0, "REACTION_TIME": 0.0, "CREATION_TIME": 0.0}
        vars(sys.modules["fastserverstate.shared_widgets"]).update(constants)
        DAY = functools.partial(datetime.date, 2026, 1)
"""


def widget(name: str) -> str:
    """Return a part of an app that relies on the values of a shared widget."""
    source, default, check, _ = KINDS[name]
    default = "" if default == "None" else f", default={default}"
    return f"""
        if st.query_params["kind"] == "{name}":
            arguments = shared("{name}."{default})
            value = {source}
            assert {check}, value
            st.text(f"shows {{value!r}}")
"""


NUMBERS = [math.nan, math.inf, -math.inf, 1e308, -1.0, 0.5, 101.0, 2.0**70]
TEXTS = [
    "",
    "x",
    "-1",
    "7",
    "1e999",
    "\0",
    "9999/99/99",
    "0001/01/01",
    "25:99",
    "red",
    "#ggg",
    "2026-01-02",
    "a" * 9999,
]
VALUES: list[dict[str, Any]] = [
    {},
    *({"trigger_value": value} for value in (True, False)),
    *({"bool_value": value} for value in (True, False)),
    *({"double_value": value} for value in NUMBERS),
    *({"int_value": value} for value in (-1, 3, 101, 2**53, -(2**53), 2**63 - 1)),
    *({"string_value": value} for value in TEXTS),
    *({"json_value": value} for value in ("{", "[1]", '{"a": NaN}', "1" * 5000)),
    *({"double_array_value": value} for value in ([], *([number] for number in NUMBERS))),
    *({"double_array_value": value} for value in ([0.75, 0.25], [2, 0], [80, 20], [1, 2, 3], [math.nan, 1.0])),
    *({"int_array_value": value} for value in ([], [-1], [99], [0, 1, 2], [0, 0], [2, 0], [2**62])),
    *({"string_array_value": value} for value in ([], *([text] for text in TEXTS))),
    *({"string_array_value": value} for value in (["a", "a"], ["a", "x"], ["c", "a"], ["a", "b", "c"])),
    *({"string_array_value": value} for value in (["2026/01/05", "2026/01/04"], ["2026/01/05"] * 3, ["2026/02/01"])),
    *({"bytes_value": value} for value in (b"", b"a", b"\xff")),
    {"file_uploader_state_value": True},
    {"string_trigger_value": "a"},
]


def test_values_that_no_widget_offers(serve: Serve) -> None:
    """After each message, the other sessions show no error and follow each other's changes."""
    server = serve(SETUP + "".join(widget(name) for name in KINDS), options={"runner.postScriptGC": "false"})

    async def attack(name: str) -> None:
        async with AsyncExitStack() as stack:
            clients = [CraftedClient(server.websocket_url, query=f"kind={name}") for _ in range(3)]
            for client in clients:
                await stack.enter_async_context(client)
                await client.until(lambda client: client.settled)
            attacker, honest, victim = clients
            for value in VALUES:
                await attacker.set(name, **value)
                assert not victim.errors, (name, value)
            first, second = KINDS[name][3]
            for client, (value, text) in ((honest, first), (victim, second)):
                await client.set(name, **value)
                await honest.shows(f"shows {text}")
                await victim.shows(f"shows {text}")
            assert not honest.errors

    async def attack_all() -> None:
        async with asyncio.TaskGroup() as group:
            for name in KINDS:
                group.create_task(attack(name))

    asyncio.run(attack_all())


# What makes a widget in one session, and in another with fewer options or closer bounds; a value that fits in the first
# only, and one that fits in both.
NARROWER = {
    "slider": ("st.slider('label', 0, {}, **arguments)", "100", "10", 50, 7),
    "number_input": ("st.number_input('label', 0, {}, **arguments)", "100", "10", 50, 7),
    "select_slider": ("st.select_slider('label', {}, **arguments)", "['a', 'b', 'c']", "['a', 'b']", "c", "b"),
    "selectbox": ("st.selectbox('label', {}, **arguments)", "['a', 'b', 'c']", "['a', 'b']", "c", "b"),
    "radio": ("st.radio('label', {}, **arguments)", "['a', 'b', 'c']", "['a', 'b']", "c", "b"),
    "multiselect": ("st.multiselect('label', {}, **arguments)", "['a', 'b', 'c']", "['a', 'b']", ["c"], ["b"]),
    "max_selections": (
        "st.multiselect('label', ['a', 'b'], max_selections={}, **arguments)",
        "2",
        "1",
        ["a", "b"],
        ["b"],
    ),
    "date_input": (
        "st.date_input('label', min_value=date(2026, 1, 1), max_value=date(2026, 1, {}), **arguments)",
        "31",
        "10",
        date(2026, 1, 20),
        date(2026, 1, 7),
    ),
    "another type": ("st.{}('label', **arguments)", "text_input", "slider", "text", 7),
}


@pytest.mark.parametrize("kind", NARROWER)
def test_a_shared_value_that_does_not_fit_everywhere(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The page shows another value and no error, does not share it, and shows the next value that fits."""
    source, wide, narrow, first, second = NARROWER[kind]
    key = f"narrower {kind}"
    script = f"""
from datetime import date
import streamlit as st
from fastserverstate import shared
arguments = shared({key!r})
st.text(repr({{}}))
"""
    # Some releases of Streamlit do not check all assigned values.
    assigned = f"import datetime\narguments = dict(key={key!r})\nst.session_state[{key!r}] = {first!r}"
    plain = AppTest.from_string(re.sub("arguments = .*", assigned, script).format(source.format(narrow))).run(
        timeout=30
    )
    if not plain.exception and plain.text[0].value == repr(first):
        return
    try:
        server_state[key] = first
        ours = AppTest.from_string(script.format(source.format(wide))).run(timeout=30)
        theirs = AppTest.from_string(script.format(source.format(narrow)))
        for _ in range(2):
            theirs.run(timeout=30)
            assert not theirs.exception
            assert theirs.text[0].value != repr(first)
        ours.run(timeout=30)
        assert ours.text[0].value == repr(first)
        assert server_state[key] == first
        warnings = [record.getMessage() for record in caplog.records if record.name == "fastserverstate"]
        assert [repr(key) in warning for warning in warnings] == [True]
        server_state[key] = second
        for app in (theirs, ours):
            app.run(timeout=30)
            assert not app.exception
            assert app.text[0].value == repr(second) or (kind, app) == ("another type", ours)
    finally:
        server_state.clear()


def test_a_widget_that_gets_other_bounds_keeps_the_shared_value() -> None:
    """Streamlit creates another widget, which would start with its own value and share that."""
    script = """
import streamlit as st
from fastserverstate import server_state, shared
most = server_state.setdefault("most", 100)
st.text(st.slider("label", 0, most, **shared("value", default=50)))
"""
    try:
        app = AppTest.from_string(script).run(timeout=30)
        server_state["most"] = 200
        for _ in range(2):
            assert app.run(timeout=30).text[0].value == "50"
        app.slider[0].set_value(150).run(timeout=30)
        assert server_state["value"] == 150
        server_state["most"] = 100
        app.run(timeout=30)
        assert not app.exception
    finally:
        server_state.clear()


PLAIN = """
        def note():
            server_state["noted"] = server_state.get("noted", 0) + 1
        @st.fragment
        def part():
            st.text(f"part {server_state.get('n', 0)}")
            st.button("note", on_click=note, key="note.")
        part()
        if not st.session_state.get("gone"):
            @st.fragment
            def other():
                st.text(f"other {server_state.get('n', 0)}")
                st.button("go", on_click=lambda: st.session_state.update(gone=True))
            other()
        st.text(f"body {server_state.get('n', 0)}")
        st.text(f"noted {server_state.get('noted', 0)}")
        st.text_input("shared", **shared("text.", default="first"))
        if st.button("add"):
            server_state["n"] = server_state.get("n", 0) + 1
        if st.button("count"):
            import gc
            from fastserverstate._core import Scope
            gc.collect()
            st.text(f"scopes {sum(isinstance(each, Scope) for each in gc.get_objects())}")
"""


def rerun(**fields: Any) -> BackMsg:
    message = BackMsg()
    message.rerun_script.SetInParent()
    for field, content in fields.items():
        if field in message.rerun_script.DESCRIPTOR.fields_by_name:  # some are new
            setattr(message.rerun_script, field, content)
    return message


def messages(*fragments: str) -> list[Any]:
    """What no browser sends, empty ones first. The fragments are another session's, its own, and one that is gone."""
    fragments = ("", "x", "\0", "a" * 9999, *fragments)
    return [
        b"",
        b"\xff" * 99,
        BackMsg(),
        BackMsg(clear_cache=True),
        BackMsg(stop_script=True),
        BackMsg(load_git_info=True),
        BackMsg(set_run_on_save=True),
        BackMsg(app_heartbeat=True),
        *(rerun(fragment_id=fragment, is_auto_rerun=auto) for fragment in fragments for auto in (False, True)),
        *(rerun(page_script_hash=text, page_name=text, query_string=text) for text in ("x", "a=%ff", "&" * 9999)),
        *(rerun(page_script_hash="x", fragment_id=fragment) for fragment in fragments),
        rerun(is_history_navigation=True),
    ]


def test_messages_that_no_browser_sends(serve: Serve) -> None:
    """Other sessions do not notice them, and the server becomes idle and keeps no data of them."""
    server = serve(PLAIN + FENCE, options={"runner.postScriptGC": "false"})

    async def works(victim: CraftedClient, honest: CraftedClient) -> None:
        number, noted = shown(victim, "body"), shown(victim, "noted")
        await honest.click("add")
        for client in (victim, honest):
            await client.shows(f"part {number + 1}")
            await client.shows(f"body {number + 1}")
            await client.until(lambda client: client.settled)
        await victim.click("note")
        await honest.until(lambda client: shown(client, "noted") > noted)

    async def count(client: CraftedClient) -> int:
        await client.click("count")
        await client.until(lambda client: shown(client, "scopes") > 0)
        return shown(client, "scopes")

    async def steps(honest: CraftedClient, victim: CraftedClient) -> None:
        for place in range(len(messages("", "", ""))):
            async with CraftedClient(server.websocket_url) as attacker:
                await attacker.until(lambda client: client.settled)
                mine, gone = attacker.element("note")[1], attacker.element("go")[1]
                await attacker.click("go")
                await attacker.until(lambda client: "part" in " ".join(client.texts) and client.settled)
                message = messages(victim.element("note")[1], mine, gone)[place]
                for client in (attacker, victim):
                    if isinstance(message, BackMsg) and message.WhichOneof("type") == "rerun_script":
                        message.rerun_script.widget_states.widgets.append(state(client.ids["note"], trigger_value=True))
                    with suppress(ConnectionClosed):
                        await attacker.send(message)
                await works(victim, honest)
        scopes = await count(honest)
        async with CraftedClient(server.websocket_url) as attacker:
            await attacker.until(lambda client: client.settled)
            for number in range(1000):
                message = rerun(fragment_id=f"none {number}")
                message.rerun_script.widget_states.widgets.append(state(attacker.ids["note"], trigger_value=True))
                await attacker.send(message)
            await attacker.until(lambda client: client.settled)
        async with CraftedClient(server.websocket_url, resume="unknown") as hasty:  # it requests no first run
            for message in messages("x", "y", "z")[2:]:
                await hasty.send(message)
        await works(victim, honest)
        assert await count(honest) < scopes + 20  # the server keeps those of the two sessions for two minutes
        await fence(honest, victim)
        runs = victim.started
        await fence(honest, victim)
        assert victim.started == runs + 1
        assert not victim.errors
        assert not honest.errors

    with_clients(server, 2, steps, CraftedClient)


def test_a_session_whose_user_does_nothing_keeps_no_old_values() -> None:
    """The changes of others are sent to it all the time."""
    idle = _Widget("key", 0.0)
    for second in range(100):
        idle.send(second, float(second))
    assert len(idle.history) <= 2
