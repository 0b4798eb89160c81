"""Two servers and one Redis server: changes on one apply to the sessions of the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.client import DEADLINE, Client
from harness.engine import engine
from harness.server import AppServer, streamlit_run

APP = """
import os
import streamlit as st
from fastserverstate import *
from fastserverstate import cluster

connect(os.environ["ENGINE"], namespace="servers")

@st.cache_resource
def listen():
    on_change("bell", lambda: server_state.update({os.environ["NAME"]: peek("bell")}))

listen()

def transfer():
    with transaction("a", "b"):
        server_state.a = server_state.get("a", 0) - 1
        server_state.b = server_state.get("b", 0) + 1

def quietly():
    with no_rerun:
        server_state.n = 100

st.text_input("box", **shared("text", default="first"))
st.button("add", on_click=atomic.increment, args=("n",))
st.button("ring", on_click=atomic.increment, args=("bell",))
st.button("quietly", on_click=quietly)
st.button("transfer", on_click=transfer)
st.button("touch", on_click=lambda: touch("n"))
st.button("same", on_click=lambda: server_state.update(n=peek("n")))
if st.button("wait"):
    server_state.waiting = True
    server_state.came = wait_for("bell", lambda bell: bell == 2, timeout=30)
if st.button("hold"):
    with server_state_lock["n"]:
        held = peek("n")
        server_state.holding = True
        wait_for("bell", lambda bell: bell == 3, timeout=30)
        server_state.n = held * 10
st.text(f"waiting {server_state.get('waiting')} holding {server_state.get('holding')}")
st.text(f"came {server_state.get('came')}")
st.text(f"n {server_state.get('n', 0)}")
st.text(f"sum {server_state.get('a', 0) + server_state.get('b', 0)} b {server_state.get('b', 0)}")
st.text(f"heard {server_state.get('A')} {server_state.get('B')}")
st.text(f"text {st.session_state.text}")
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[AppServer]]:
    script = tmp_path / "main.py"
    script.write_text(APP)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(engine(kind="valkey")).url
        yield [stack.enter_context(streamlit_run(script, env={"ENGINE": url, "NAME": name})) for name in ("A", "B")]


def test_widgets_are_shared_by_servers(servers: list[AppServer]) -> None:
    async def scenario() -> None:
        async with Client(servers[0].websocket_url) as here, Client(servers[1].websocket_url) as there:
            for client in (here, there):
                await client.shows("text first")
            await here.enter("box", "typed")
            await there.shows("text typed")
            await there.enter("box", "answered")
            await here.shows("text answered")

    asyncio.run(scenario())


def test_changes_on_one_server_apply_to_the_other(servers: list[AppServer]) -> None:
    async def scenario() -> None:
        async with Client(servers[0].websocket_url) as here, Client(servers[1].websocket_url) as there:
            for client in (here, there):
                await client.shows("n 0")

            await here.click("add")  # increments, one after the other
            await there.shows("n 1")
            await there.click("add")
            await here.shows("n 2")

            await here.click("ring")  # listeners are called on every server
            await here.shows("heard 1 1")
            await there.shows("heard 1 1")

            await here.click("transfer")  # a transaction is visible as a whole
            await there.shows("sum 0 b 1")

            await there.until(lambda client: client.settled)
            runs = there.started
            await here.click("same")  # an equal value reruns no session
            await here.click("quietly")  # nor does a write in `no_rerun`, which is applied nevertheless
            await here.shows("n 100")
            await here.click("transfer")
            await there.shows("sum 0 b 2")
            assert "n 100" in there.texts
            await there.until(lambda client: client.settled)
            assert there.started == runs + 1

            await here.click("touch")  # which behaves as if it were another value
            await there.until(lambda client: client.started == runs + 2)

    asyncio.run(scenario())


def test_one_server_waits_for_the_other(servers: list[AppServer]) -> None:
    async def scenario() -> None:
        async with Client(servers[0].websocket_url) as here, Client(servers[1].websocket_url) as there:
            for client in (here, there):
                await client.shows("n 0")
            await here.click("ring")
            await there.click("wait")  # for a change
            await here.shows("waiting True holding None")
            await here.click("ring")
            await there.shows("came 2")

            await here.click("add")
            await there.shows("n 1")
            await there.click("hold")  # a lock, for which the writes of the other server wait
            await here.shows("waiting True holding True")
            await here.click("add")
            async with Client(servers[0].websocket_url) as third:
                await third.shows("n 1")
                await third.click("ring")
                await third.shows("n 11")
            await here.shows("n 11")
            await there.shows("n 11")

    asyncio.run(scenario())


LATE = """
import os
import streamlit as st
from fastserverstate import connect, server_state

connect(os.environ["ENGINE"], namespace="late", timeout=0.5, required=os.environ["REQUIRED"] == "yes")
st.button("add", on_click=lambda: server_state.update(n=server_state.get("n", 0) + 1))
st.text(f"n {server_state.get('n', 0)}")
"""


@pytest.mark.parametrize("required", ["yes", "no"])
def test_server_that_starts_before_the_engine(tmp_path: Path, required: str) -> None:
    script = tmp_path / "main.py"
    script.write_text(LATE)
    with engine(kind="valkey") as late:
        url = late.url.replace("://", "://default:pass-word@")
        late.kill()

        async def scenario(server: AppServer) -> None:
            async with Client(server.websocket_url) as client:
                if required == "yes":
                    await client.until(lambda client: bool(client.exceptions))
                    assert f"NotConnectedError: {late.url} cannot be reached" in client.exceptions[0]
                    late.start()
                    await client.rerun()
                    await client.shows("n 0")
                else:
                    await client.shows("n 0")
                    await client.click("add")  # reconnected without a click
                    await client.shows("n 1")
                    late.start()
                async with Client(server.websocket_url) as other:
                    await client.click("add")
                    for each in (client, other):
                        await each.shows("n 1" if required == "yes" else "n 2")
            with late.client() as client:
                end = asyncio.get_running_loop().time() + DEADLINE
                while not client.hlen("fss:{late}:d"):  # it has joined
                    assert asyncio.get_running_loop().time() < end
                    await asyncio.sleep(0.01)

        with streamlit_run(script, env={"ENGINE": url, "REQUIRED": required}) as server:
            asyncio.run(scenario(server))
            assert "pass-word" not in server.output
            assert required == "yes" or "This server works by itself until" in server.output
