"""No wait blocks a server's event loop or keeps the server from ending."""

from __future__ import annotations

import contextlib
import inspect
import signal
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import streamlit as st
from harness.client import Client
from harness.engine import engine
from harness.server import AppServer, uvicorn_run
from harness.steps import HOLD, Serve, with_clients

ENDS = 30  # seconds until a server has ended

on_release = pytest.mark.skipif(
    "on_release" not in inspect.signature(st.cache_resource.__call__).parameters,
    reason="this Streamlit release releases no resources",
)

# A session that leaves reads a key that is locked until another session releases it.
PRESENCE = f"""
        import asyncio, os
{HOLD.replace("threading.Event().wait()", 'wait_for("let go"); server_state_lock["held"].release()')}

        def forget():
            server_state["held"] = "left"

        def leave(_):
            try:
                forget()
            except WouldBlockError:
                server_state["refused"] = True
                asyncio.get_running_loop().run_in_executor(None, forget)

        @st.cache_resource(scope="session", on_release=leave)
        def presence():
            return object()

        if st.button("join"):
            hold()
            presence()
            st.session_state.joined = True
        st.text(f"joined {{st.session_state.get('joined')}}")
        if st.button("let go"):
            server_state["let go"] = True
        st.text(f"refused {{server_state.get('refused')}}")
        if server_state.get("let go"):
            st.text(f"held {{server_state.get('held')}}")
"""


@on_release
def test_resource_that_is_released_with_a_locked_key(serve: Serve) -> None:
    """The lock is held until another user clicks, and that click is served."""

    async def steps(staying: Client, leaving: Client) -> None:
        await leaving.click("join")
        await leaving.shows("joined True")
        await leaving.__aexit__(None, None, None)
        await staying.shows("refused True")
        await staying.click("let go")
        await staying.shows("held left")

    with_clients(serve(PRESENCE), 2, steps)


CONNECTED = """
    import os, signal

    connect({url!r}, namespace="waits")
    ENGINE = {pid}

    def leave(_):
        server_state["left"] = True

    @st.cache_resource(scope="session", on_release=leave)
    def presence():
        return object()

    if st.button("join"):
        presence()
        os.kill(ENGINE, signal.SIGSTOP)
        st.session_state.joined = True
    st.text(f"joined {{st.session_state.get('joined')}}")
    if st.button("go on"):
        os.kill(ENGINE, signal.SIGCONT)
    st.text(f"left {{server_state.get('left')}}")
"""


@on_release
def test_resource_that_is_released_while_the_engine_does_not_answer(serve: Serve) -> None:
    """The release blocks until another user clicks. That click is served, and the change is made then."""

    async def steps(staying: Client, leaving: Client) -> None:
        await leaving.click("join")
        await leaving.shows("joined True")
        await leaving.__aexit__(None, None, None)
        await staying.click("go on")
        await staying.shows("left True")

    with engine() as stopped:
        with_clients(serve(CONNECTED.format(url=stopped.url, pid=stopped.pid)), 2, steps)


SERVICE = """
import asyncio
import streamlit as st
from starlette.responses import JSONResponse
from starlette.routing import Route
from fastserverstate import WouldBlockError, atomic, server_state, wait_for, wait_for_async

async def poll(request):
    atomic.increment("polling")
    return JSONResponse(await asyncio.to_thread(wait_for, "never"))

async def poll_without_a_thread(request):
    atomic.increment("polling")
    return JSONResponse(await wait_for_async("never"))

async def poll_on_the_loop(request):
    try:
        wait_for("never")
    except WouldBlockError as error:
        return JSONResponse(str(error))

async def polling(request):
    await wait_for_async("polling", lambda polling: polling == 40)
    return JSONResponse(await asyncio.to_thread(lambda: "a thread is free"))

ROUTES = [poll, poll_without_a_thread, poll_on_the_loop, polling]
app = st.App("app.py", routes=[Route(f"/{route.__name__}", route) for route in ROUTES])
"""


@contextlib.contextmanager
def serving(folder: Path):
    (folder / "app.py").write_text("")
    (folder / "service.py").write_text(SERVICE)
    with uvicorn_run(folder) as server:
        yield server


def get(server: AppServer, route: str) -> str:
    with urllib.request.urlopen(f"{server.url}/{route}", timeout=ENDS) as answer:
        return str(answer.read().decode())


@contextlib.contextmanager
def polls(server: AppServer, route: str):
    """40 of them, more than the default executor has threads on most machines."""
    with ThreadPoolExecutor(40) as pool:
        for _ in range(40):
            pool.submit(get, server, route)
        yield


needs_app = pytest.mark.skipif(not hasattr(st, "App"), reason="this Streamlit release has no st.App")


@needs_app
@pytest.mark.parametrize("route", ["poll", "poll_without_a_thread"])
def test_interrupts_end_uvicorn(tmp_path: Path, route: str) -> None:
    """After the first interrupt, the server waits for requests. The second one ends it."""
    with serving(tmp_path) as server, polls(server, route):
        assert get(server, "poll_on_the_loop").startswith("\"Waiting for a change of 'never' would block")
        if route != "poll":
            assert get(server, "polling") == '"a thread is free"'
        server.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(1)
        server.process.send_signal(signal.SIGINT)
        server.process.wait(ENDS)


WAITING = f"""
        import contextlib
{HOLD}
        hold()

        def wait(call, key):
            with contextlib.suppress(RuntimeError):  # the process ends
                call(key)

        if st.button("wait"):
            for _ in range(2):
                threading.Thread(target=wait, args=(wait_for, "never")).start()
                threading.Thread(target=wait, args=(server_state.get, "held")).start()
            st.text("waiting")
            wait_for("never")
"""


def test_interrupt_ends_streamlit_run(serve: Serve) -> None:
    """Scripts and non-daemon threads wait."""
    server = serve(WAITING)

    async def steps(one: Client, two: Client) -> None:
        for client in (one, two):
            await client.click("wait")
            await client.shows("waiting")
        server.process.send_signal(signal.SIGINT)
        server.process.wait(ENDS)

    with_clients(server, 2, steps)
