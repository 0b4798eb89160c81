"""The state of a server survives its end: a signal, a crash, a restart."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import streamlit
from harness.client import DEADLINE, Client
from harness.server import AppServer, streamlit_run, uvicorn_run
from harness.steps import with_clients

APP = """
import os
import streamlit as st
from fastserverstate import connect, durable, server_state

durable.engine.INTERVAL = float(os.environ.get("STATE_INTERVAL", durable.engine.INTERVAL))
connect(f"sqlite:///{os.environ['STATE_FILE']}", durability=os.environ["STATE_DURABILITY"], timeout=0.1)
st.button("add", on_click=lambda: server_state.update(n=server_state.get("n", 0) + 1))
st.text(f"n {server_state.get('n', 0)}")
"""

SERVICE = """
import streamlit as st
app = st.App("app.py")
"""

SERVICE_WITH_LIFESPAN = """
import contextlib, os
import streamlit as st
from fastserverstate import connect, durable

@contextlib.asynccontextmanager
async def lifespan(app):
    connect(f"sqlite:///{os.environ['STATE_FILE']}", durability=os.environ["STATE_DURABILITY"], timeout=0.1)
    yield
    durable.disconnect()

app = st.App("app.py", lifespan=lifespan)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")


@pytest.fixture
def state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "service.py").write_text(SERVICE)
    path = tmp_path / "state" / "state.db"
    path.parent.mkdir(mode=0o700)
    monkeypatch.setenv("STATE_FILE", str(path))
    monkeypatch.setenv("STATE_DURABILITY", "interval")
    return path


def under_streamlit(folder: Path) -> AbstractContextManager[AppServer]:
    return streamlit_run(folder / "app.py")


def under_uvicorn(folder: Path) -> AbstractContextManager[AppServer]:
    return uvicorn_run(folder)


async def add(server: AppServer, before: int) -> None:
    async with Client(server.websocket_url) as client:
        await client.shows(f"n {before}")
        await client.click("add")
        await client.shows(f"n {before + 1}")


def end(server: AppServer, number: signal.Signals) -> None:
    server.process.send_signal(number)
    server.process.wait(DEADLINE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "serve",
    [
        under_streamlit,
        pytest.param(
            under_uvicorn,
            marks=pytest.mark.skipif(not hasattr(streamlit, "App"), reason="this Streamlit release has no st.App"),
        ),
    ],
)
def test_a_server_that_is_stopped_stores_everything(
    state_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Path], AbstractContextManager[AppServer]],
    number: signal.Signals,
) -> None:
    monkeypatch.setenv("STATE_INTERVAL", "1000")  # seconds
    folder = state_file.parents[1]
    for run in range(3):
        with serve(folder) as server:
            asyncio.run(add(server, run))
            end(server, number)


@pytest.mark.skipif(not hasattr(streamlit, "App"), reason="this Streamlit release has no st.App")
def test_a_lifespan_can_connect_and_disconnect(state_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_INTERVAL", "1000")  # seconds
    folder = state_file.parents[1]
    (folder / "service.py").write_text(SERVICE_WITH_LIFESPAN)
    for run in range(2):
        with under_uvicorn(folder) as server:
            asyncio.run(add(server, run))
            end(server, signal.SIGTERM)
        assert not Path(f"{state_file}-wal").exists()  # it was closed


def test_a_server_that_was_killed_has_what_it_has_shown(state_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DURABILITY", "always")
    for run in range(3):
        with under_streamlit(state_file.parents[1]) as server:
            asyncio.run(add(server, run))
            end(server, signal.SIGKILL)


def test_a_second_server_names_the_first(state_file: Path) -> None:
    folder = state_file.parents[1]
    with under_streamlit(folder) as first, under_streamlit(folder) as second:

        async def steps(client: Client) -> None:
            await client.shows("n 0")
            async with Client(second.websocket_url) as other:
                await other.until(lambda other: bool(other.exceptions))
                assert "FileInUseError" in other.exceptions[0]
                assert str(first.process.pid) in other.exceptions[0]
                assert "Redis" in other.exceptions[0]
                end(first, signal.SIGTERM)
                await other.rerun()
                await other.shows("n 0")

        with_clients(first, 1, steps)


def test_metrics_tell_whether_the_state_is_stored(state_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DURABILITY", "always")
    with under_streamlit(state_file.parents[1]) as server:
        asyncio.run(add(server, 0))
        with urllib.request.urlopen(f"{server.url}/_stcore/metrics", timeout=DEADLINE) as response:
            metrics = response.read().decode()
        assert re.search(r'fastserverstate_durable_failing\{file="state.db"\} 0', metrics)
        assert re.search(r'fastserverstate_durable_commits_total\{file="state.db"\} [1-9]', metrics)


def test_the_environment_connects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("FASTSERVERSTATE_URL", f"sqlite:///{tmp_path / 'state.db'}")
    monkeypatch.setenv("FASTSERVERSTATE_DURABILITY", "always")
    script = tmp_path / "app.py"
    script.write_text(re.sub(r"\nconnect\(.*", "", APP))
    for run in range(2):
        with streamlit_run(script) as server:
            asyncio.run(add(server, run))
            end(server, signal.SIGKILL)
