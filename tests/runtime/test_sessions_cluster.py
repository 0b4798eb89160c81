"""Keys that a session owns, on two servers that share one Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.client import Client
from harness.engine import engine
from harness.server import AppServer, streamlit_run

APP = """
import os
import streamlit as st
from fastserverstate import *
from streamlit.runtime import Runtime
from streamlit.runtime.memory_session_storage import MemorySessionStorage

connect(os.environ["ENGINE"], namespace="owners")

@st.cache_resource
def discard_soon():
    Runtime.instance()._session_mgr._session_storage = MemorySessionStorage(ttl_seconds=1)

discard_soon()
name = st.query_params.get("name")
if name:
    if "late" in name:
        server_state[f"cursor/{name}"] = 1
    own(f"cursor/{name}")
    server_state[f"cursor/{name}"] = 1
st.text(f"cursors {sorted(key for key in server_state if key.startswith('cursor/'))}")
st.text("shown")
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[list[AppServer], Any]]:
    """Two servers, and a client of the Redis server."""
    script = tmp_path / "main.py"
    script.write_text(APP)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(engine(kind="valkey"))
        client = stack.enter_context(running.client())
        yield [stack.enter_context(streamlit_run(script, env={"ENGINE": running.url})) for _ in range(2)], client


def test_owned_key_is_deleted_on_all_servers(world: tuple[list[AppServer], Any]) -> None:
    (here, there), _ = world

    async def steps() -> None:
        async with Client(there.websocket_url) as watcher:
            async with Client(here.websocket_url, query="name=Ann"):
                await watcher.shows("cursors ['cursor/Ann']")
            await watcher.shows("cursors []")

    asyncio.run(steps())


def test_owned_keys_of_a_killed_server_expire(world: tuple[list[AppServer], Any]) -> None:
    """The server renews the deadline of its sessions' keys until then, also if the key was set before it was owned."""
    (here, there), redis = world

    def deadlines() -> dict[bytes, float]:
        return dict(redis.zrange("fss:{owners}:idle", 0, -1, withscores=True))

    async def steps() -> None:
        async with (
            Client(there.websocket_url) as watcher,
            Client(here.websocket_url, query="name=Ann"),
            Client(here.websocket_url, query="name=late"),
        ):
            await watcher.shows("cursors ['cursor/Ann', 'cursor/late']")
            first = deadlines()
            assert len(first) == 2
            async with asyncio.timeout(20):
                while any(score <= first[key] + 8000 for key, score in deadlines().items()):
                    await asyncio.sleep(0.05)
            assert "cursors ['cursor/Ann', 'cursor/late']" in watcher.texts
            here.process.kill()
            killed = time.monotonic()
            await watcher.shows("cursors []")
            assert time.monotonic() - killed < 10 + 1

    asyncio.run(steps())
