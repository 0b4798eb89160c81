"""Events and broadcasts on two servers that share one Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.engine import engine
from harness.server import AppServer, streamlit_run
from runtime.test_events import Receiver

APP = """
import os, threading, time
import streamlit as st
from fastserverstate import *

connect(os.environ["ENGINE"], namespace="events")

def send():
    def run():
        for number in range(50):
            emit("n", [sender, number], keep=1000)
    sender = st.session_state["sender"]
    threading.Thread(target=run).start()

st.text_input("sender", key="sender", on_change=send)
st.button("toast", on_click=broadcast, args=(st.toast, "hello"))
st.button("click")
for sender, number in events("n"):
    st.text(f"got {int(sender) * 1000 + number}")
    time.sleep(0.001)
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[list[AppServer]]:
    """Two servers."""
    script = tmp_path / "main.py"
    script.write_text(APP)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(engine(kind="valkey"))
        yield [stack.enter_context(streamlit_run(script, env={"ENGINE": running.url})) for _ in range(2)]


def test_sessions_of_both_servers_get_each_event_once_in_one_order(world: list[AppServer]) -> None:
    servers = world
    chance = random.Random(3)

    async def steps() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(Receiver(server.websocket_url)) for server in servers for _ in range(3)
            ]
            for client in clients:
                await client.until(lambda client: client.settled)
            await asyncio.gather(clients[0].enter("sender", "1"), clients[-1].enter("sender", "2"))
            while any(len(client.got) < 100 for client in clients):
                await asyncio.sleep(chance.uniform(0, 0.1))
                await chance.choice(clients[1:3]).click("click")
            for client in clients:
                await client.until(lambda client: client.settled)
                assert client.got == clients[0].got
            for sender in (1, 2):
                assert [number % 1000 for number in clients[0].got if number // 1000 == sender] == list(range(50))

    asyncio.run(steps())


def test_a_toast_is_shown_on_both_servers(world: list[AppServer]) -> None:
    here, there = world

    async def steps() -> None:
        async with Receiver(here.websocket_url) as one, Receiver(there.websocket_url) as two:
            for client in (one, two):
                await client.until(lambda client: client.settled)
            for toasts in (["hello"], ["hello", "hello"]):
                await one.click("toast")
                for client in (one, two):
                    await client.until(lambda client, toasts=toasts: client.toasts == toasts)
            assert two.started == 1

    asyncio.run(steps())
