"""Who is online on two servers that share one Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.client import Client
from harness.engine import Engine, engine
from harness.server import AppServer, streamlit_run

APP = """
import os
import streamlit as st
from fastserverstate import *

connect(os.environ["ENGINE"], namespace="people")
name = st.query_params.get("name")
if name:
    join("room", name=name)
st.text(" ".join(["room", *sorted(visitor.name for visitor in online("room"))]))
st.text(f"online {len(online())}")
if st.button("unsendable"):
    join("other", thing=object())
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[list[AppServer], Engine]]:
    script = tmp_path / "main.py"
    script.write_text(APP)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(engine(kind="valkey"))
        yield [stack.enter_context(streamlit_run(script, env={"ENGINE": running.url})) for _ in range(2)], running


def test_sessions_of_all_servers_are_online(world: tuple[list[AppServer], Engine]) -> None:
    (here, there), _ = world

    async def steps() -> None:
        async with (
            Client(here.websocket_url, query="name=Ann") as ann,
            Client(there.websocket_url, query="name=Bob") as bob,
        ):
            for client in (ann, bob):
                await client.shows("room Ann Bob")
                await client.shows("online 2")
            await bob.close_tab()
            await ann.shows("room Ann")
            await ann.shows("online 1")

    asyncio.run(steps())


def test_sessions_of_a_killed_server_are_gone_within_ten_seconds(world: tuple[list[AppServer], Engine]) -> None:
    (here, there), _ = world

    async def steps() -> None:
        async with (
            Client(here.websocket_url, query="name=Ann") as ann,
            Client(there.websocket_url, query="name=Bob"),
        ):
            await ann.shows("room Ann Bob")
            there.process.kill()
            killed = time.monotonic()
            await ann.shows("room Ann")
            await ann.shows("online 1")
            assert time.monotonic() - killed < 10 + 1

    asyncio.run(steps())


def test_sessions_are_online_again_after_the_redis_server_has_lost_its_data(
    world: tuple[list[AppServer], Engine],
) -> None:
    (here, there), redis = world

    async def steps() -> None:
        async with (
            Client(here.websocket_url, query="name=Ann") as ann,
            Client(there.websocket_url, query="name=Bob") as bob,
        ):
            for client in (ann, bob):
                await client.shows("room Ann Bob")
            with redis.client() as client:
                client.flushall()
            async with Client(here.websocket_url, query="name=Cleo") as cleo:
                for client in (ann, bob, cleo):
                    await client.shows("room Ann Bob Cleo")

    asyncio.run(steps())


def test_field_that_cannot_be_sent_is_an_error_in_the_run(world: tuple[list[AppServer], Engine]) -> None:
    (here, _), _ = world

    async def steps() -> None:
        async with Client(here.websocket_url, query="name=Ann") as ann:
            await ann.until(lambda ann: ann.settled and "room Ann" in ann.texts)
            await ann.click("unsendable")
            await ann.until(lambda ann: bool(ann.exceptions))
            assert "The field 'thing' of join('other') is of type object" in ann.exceptions[0]
            assert "cannot be sent to other servers" in ann.exceptions[0]

    asyncio.run(steps())
