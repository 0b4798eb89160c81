"""Live regions on two servers that share one Redis server: each renders once, and pushes to its own sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.client import Client
from harness.engine import engine
from harness.server import AppServer, streamlit_run

from fastserverstate._streamlit.names import CAN_PUSH

APP = """
import os
import streamlit as st
from fastserverstate import *

connect(os.environ["ENGINE"], namespace="live")

@st.cache_resource
def calls():
    return []

@computed
def half():
    return server_state.get("n", 0) // 2

@live
def board():
    calls().append(1)
    n = server_state.get("n", 0)
    st.text(f"n {n} half {half()}")
    for i in range(n % 3):
        st.text(f"item {i}")

st.button("add", on_click=atomic.increment, args=("n",))
st.button("report")
board()
st.text(f"calls {len(calls())}")
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[AppServer]]:
    script = tmp_path / "main.py"
    script.write_text(APP)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(engine(kind="valkey")).url
        yield [stack.enter_context(streamlit_run(script, env={"ENGINE": url})) for _ in range(2)]


def test_each_server_renders_once(servers: list[AppServer]) -> None:
    async def steps() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for server in (*servers, *servers):
                client = await stack.enter_async_context(Client(server.websocket_url))
                await client.until(lambda client: client.settled)
                clients.append(client)
            runs = [client.started for client in clients]
            for n in range(1, 7):
                await clients[n % 2].click("add")
                for client in clients:
                    await client.until(
                        lambda client, n=n: (
                            f"n {n} half {n // 2}" in client.texts
                            and [text for text in client.texts if "item" in text] == [f"item {i}" for i in range(n % 3)]
                        )
                    )
            if not CAN_PUSH:
                return
            assert [client.started for client in clients[2:]] == runs[2:]
            for client in clients[:2]:
                await client.until(lambda client: client.settled)
                await client.click("report")
                # A change of n may be seen before that of half, which depends on it: then it is rendered again.
                await client.until(lambda client: client.settled and "calls 7" in client.texts)

    asyncio.run(steps())
