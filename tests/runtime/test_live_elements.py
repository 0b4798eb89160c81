"""Each kind of element in a live region."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from harness.client import Client
from harness.server import AppServer, streamlit_run
from runtime.live_elements import ALLOWED, FORBIDDEN

from fastserverstate._streamlit.names import CAN_PUSH

APP = """
import streamlit as st
from fastserverstate import atomic, live, server_state
from runtime.live_elements import ALLOWED, FORBIDDEN

FUNCTIONS = {**ALLOWED, **FORBIDDEN}
OUTSIDE = st.container()

@live
def region(name):
    n = server_state.get(f"n/{name}", 0)
    FUNCTIONS[name](n)
    st.text(f"n {n}")

@live
def container_outside(name):
    server_state.get(f"n/{name}", 0)
    OUTSIDE.text("x")

name = st.query_params["name"]
if name == "container_outside":
    container_outside(name)
elif st.query_params.get("plain"):
    with st.container():
        region.function(name)
else:
    region(name)
st.button("plus", on_click=lambda: atomic.increment(f"n/{name}"))
st.text("below")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    script = tmp_path_factory.mktemp("app") / "app.py"
    script.write_text(APP)
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    with streamlit_run(script, env={"PYTHONPATH": path}) as server:
        yield server


# In a script, Streamlit sends the new block before what the old one has left in it.
DIFFER = {"empty_that_becomes_another_block"}


def content(element: Any) -> bytes:
    """Return the bytes of an element, without what Streamlit derives from where it is."""
    if not CAN_PUSH:
        return str(element.WhichOneof("type")).encode()  # charts and help texts differ from run to run
    if element.HasField("graphviz_chart"):
        element.graphviz_chart.ClearField("element_id")
    kind = element.WhichOneof("type")
    if kind in ("doc_string", "help_info"):
        getattr(element, kind).ClearField("name")  # some releases find it in the code of the caller
    return re.sub(rb"(?m)^ *(styles|uuid): .*", b"", str(element).encode())


def elements(client: Client) -> dict[tuple[int, ...], bytes]:
    return {path: content(element) for path, (kind, element, _) in client._elements.items() if kind != "empty"}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(server: AppServer, name: str) -> None:
    """A session to which it is pushed shows the same as one whose script has just called the function."""
    if name in DIFFER and not CAN_PUSH:
        pytest.skip("Streamlit loses elements of the new block, unless it sends the old one's before")

    async def steps() -> None:
        async with (
            Client(server.websocket_url, query=f"name={name}") as reader,
            Client(server.websocket_url, query=f"name={name}") as writer,
        ):
            for client in (reader, writer):
                await client.shows("n 0")
                await client.until(lambda client: client.settled)
            runs = reader.started
            for n in range(1, 4):
                await writer.click("plus")
                await reader.shows(f"n {n}")
                for query in ("", "&plain=yes") if name not in DIFFER else ("",):
                    async with Client(server.websocket_url, query=f"name={name}{query}") as late:
                        await late.until(lambda client: client.settled)
                        expected = elements(late)
                        await reader.until(lambda client, expected=expected: elements(client) == expected)
            assert reader.started == runs or not CAN_PUSH
            assert "two" not in reader.texts
            if name != "alerts":
                assert reader.exceptions == []

    asyncio.run(steps())


@pytest.mark.skipif(
    not CAN_PUSH, reason="before Streamlit 1.44, a live region is a fragment, which may use all of this"
)
@pytest.mark.parametrize("name", [*FORBIDDEN, "container_outside"])
def test_forbidden(server: AppServer, name: str) -> None:
    """The error is shown in place of the elements, the rest of the page stays, and the error is pushed."""

    async def steps() -> None:
        async with (
            Client(server.websocket_url, query=f"name={name}") as reader,
            Client(server.websocket_url, query=f"name={name}") as writer,
        ):
            for client in (reader, writer):
                await client.shows("below")
                await client.until(lambda client: client.settled)
            await writer.click("plus")
            await writer.until(lambda client: client.settled)
            for client in (reader, writer):
                assert len(client.exceptions) == 1
                assert "FastServerStateError: The live function" in client.exceptions[0]
                assert ("container_outside" if name == "container_outside" else "region") in client.exceptions[0]
                assert "@st.fragment" in client.exceptions[0]
            assert reader.started == 1
            assert "n 0" not in reader.texts

    asyncio.run(steps())
