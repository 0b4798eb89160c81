"""Session hooks and owned keys on a real server: closed tabs, returns, closes, stops of the server."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit
from harness.client import Client
from harness.server import AppServer, streamlit_run, uvicorn_run
from harness.steps import FENCE, Serve, fence, with_clients

PRELUDE = "import time\nimport streamlit as st\nfrom fastserverstate import *\n"

# Hooks that print what they hear. Streamlit keeps closed sessions for a second.
HOOKS = """
        import os
        from streamlit.runtime import Runtime
        from streamlit.runtime.memory_session_storage import MemorySessionStorage

        @st.cache_resource
        def discard_soon():
            Runtime.instance()._session_mgr._session_storage = MemorySessionStorage(ttl_seconds=1)

        discard_soon()

        def heard(kind, session):
            line = f"heard {kind} {session.id} {sorted(session.session_state.items())}\\n"
            os.write(1, line.encode())  # in one piece, unlike print

        @on_session_start
        def start(session):
            heard("start", session)

        @on_session_pause
        def pause(session):
            heard("pause", session)

        @on_session_resume
        def resume(session):
            heard("resume", session)

        @on_session_end
        def end(session):
            heard("end", session)
"""


def heard(server: AppServer, session: str = "") -> list[str]:
    """Return which hooks were called, of one session or all of them."""
    return re.findall(rf"^heard (\w+) {session}.*", server.output, re.MULTILINE)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true: for less than the 120 seconds after which Streamlit discards sessions."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_hooks_follow_a_session_that_does_not_use_shared_state(serve: Serve) -> None:
    server = serve(
        HOOKS
        + """
        st.session_state["n"] = st.session_state.get("n", 0) + 1
        st.text_input("name", key="name")
        st.text(f"run {st.session_state['n']}")
        """
    )

    async def steps() -> None:
        async with Client(server.websocket_url) as client:
            await client.shows("run 1")
            session = client.session_id
        await until(lambda: heard(server, session) == ["start", "pause"])
        async with Client(server.websocket_url, resume=session) as client:
            await until(lambda: heard(server, session) == ["start", "pause", "resume"])
            await client.rerun()
            await client.shows("run 2")
            await client.enter("name", "Ann")
            await client.shows("run 3")
            await client.until(lambda client: client.settled)
        await until(lambda: heard(server, session)[-1] == "end")
        assert heard(server, session) == ["start", "pause", "resume", "pause", "end"]
        assert f"heard end {session} [('n', 3), ('name', 'Ann')]" in server.output

    asyncio.run(steps())


def test_each_hook_is_called_once_for_each_of_many_sessions(serve: Serve) -> None:
    server = serve(HOOKS + '\n        st.text("shown")\n', options={"runner.postScriptGC": "false"})

    async def visit(places: asyncio.Semaphore) -> None:
        async with places, Client(server.websocket_url) as client:
            await client.shows("shown")

    async def steps() -> None:
        places = asyncio.Semaphore(16)
        await asyncio.gather(*(visit(places) for _ in range(200)))
        await until(lambda: heard(server).count("end") == 200)

    asyncio.run(steps())
    assert Counter(heard(server)) == {"start": 200, "pause": 200, "end": 200}
    sessions = re.findall(r"^heard start (\S+)", server.output, re.MULTILINE)
    assert all(heard(server, session) == ["start", "pause", "end"] for session in set(sessions))


def test_sessions_of_before_the_import_are_found(tmp_path: Path) -> None:
    """An app may import this package later on."""
    script = tmp_path / "main.py"
    script.write_text('import streamlit as st\nst.text("shown")\nif st.button("import"):\n    import hooks\n')
    (tmp_path / "hooks.py").write_text(PRELUDE + textwrap.dedent(HOOKS))

    async def steps(first: Client, second: Client) -> None:
        await first.click("import")
        await until(lambda: heard(server).count("start") == 2)
        assert heard(server, second.session_id) == ["start"]

    with streamlit_run(script) as server:
        with_clients(server, 2, steps)


@pytest.mark.skipif(not hasattr(streamlit, "App"), reason="this Streamlit release has no st.App")
def test_hooks_may_be_registered_before_the_server_exists(tmp_path: Path) -> None:
    """By a service, whose script does not use this package."""
    hooks = textwrap.dedent(HOOKS).replace("\ndiscard_soon()\n", "\n")
    (tmp_path / "page.py").write_text('import streamlit as st\nst.text("shown")\n')
    (tmp_path / "service.py").write_text(f'{PRELUDE}{hooks}\napp = st.App("page.py")\n')

    async def steps(client: Client) -> None:
        await until(lambda: heard(server, client.session_id) == ["start"])
        session = client.session_id
        await client.reconnect()
        await until(lambda: heard(server, session) == ["start", "pause", "resume"])

    with uvicorn_run(tmp_path) as server:
        with_clients(server, 1, steps)


def test_closed_session_ends_immediately(serve: Serve) -> None:
    server = serve(
        HOOKS
        + """
        from streamlit.runtime.scriptrunner import get_script_run_ctx

        def close():
            loop = Runtime.instance()._session_mgr.get_active_session_info(me).session._event_loop
            loop.call_soon_threadsafe(Runtime.instance().close_session, me)

        me = get_script_run_ctx().session_id
        st.button("close", on_click=close)
        """
    )

    async def steps(client: Client) -> None:
        session = client.session_id
        await client.click("close")
        await until(lambda: "end" in heard(server, session))
        assert heard(server, session) == ["start", "end"]

    with_clients(server, 1, steps)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without a signal")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_sessions_end_when_the_server_stops(serve: Serve, stop: signal.Signals) -> None:
    server = serve(
        HOOKS.replace('heard("end", session)', 'time.sleep(0.5)\n            heard("end", session)')
        + '\n        st.text("shown")\n'
    )

    async def steps(first: Client, second: Client) -> None:
        sessions = [client.session_id for client in (first, second)]
        server.process.send_signal(stop)
        await until(lambda: server.process.poll() is not None)
        for session in sessions:
            assert heard(server, session)[-1] == "end"

    with_clients(server, 2, steps)


def test_hook_that_hangs_harms_no_session(serve: Serve) -> None:
    server = serve(
        HOOKS
        + """
        @on_session_start
        def hang(session):
            threading.Event().wait(60)

        st.text("shown")
        """
    )

    async def steps(*clients: Client) -> None:
        for client in clients:
            await client.shows("shown")
            await until(lambda client=client: heard(server, client.session_id) == ["start"])

    with_clients(server, 3, steps)


OWN = (
    HOOKS
    + """
        name = st.query_params.get("name")
        if name:
            own(f"cursor/{name}")
            server_state[f"cursor/{name}"] = 1
        st.text(f"cursors {sorted(key for key in server_state if key.startswith('cursor/'))}")
"""
)


def test_owned_keys_are_deleted_when_their_session_ends(serve: Serve) -> None:
    """Other sessions show it. A session that is away and returns keeps its key."""
    server = serve(OWN + FENCE)

    async def steps(watcher: Client) -> None:
        async with Client(server.websocket_url, query="name=Ann") as ann:
            await watcher.shows("cursors ['cursor/Ann']")
            await ann.until(lambda client: client.settled)
            session = ann.session_id
        async with Client(server.websocket_url, resume=session, query="name=Ann") as ann:
            await until(lambda: "resume" in heard(server, session))
            await fence(watcher)
            assert "cursors ['cursor/Ann']" in watcher.texts
            async with Client(server.websocket_url, query="name=Bob"):
                await watcher.shows("cursors ['cursor/Ann', 'cursor/Bob']")
            await watcher.shows("cursors ['cursor/Ann']")
        await watcher.shows("cursors []")

    with_clients(server, 1, steps)


def test_run_that_continues_after_the_end_leaves_no_owned_key(serve: Serve) -> None:
    server = serve(
        OWN
        + """
        if st.query_params.get("name"):
            for _ in range(150):
                time.sleep(0.01)
                server_state["cursor/Ann"] = time.time()
            print("the run has ended", flush=True)
        """
    )

    async def steps(watcher: Client) -> None:
        async with Client(server.websocket_url, query="name=Ann"):
            await watcher.shows("cursors ['cursor/Ann']")
        await watcher.shows("cursors []")
        assert "the run has ended" in server.output
        await until(lambda: heard(server).count("end") == 1)

    with_clients(server, 1, steps)


def test_own_needs_a_session(serve: Serve) -> None:
    server = serve("""
        def give():
            try:
                own("k")
            except FastServerStateError as error:
                found.append(str(error))

        found = []
        thread = threading.Thread(target=give)
        thread.start()
        thread.join()
        st.text(found[0])
    """)

    async def steps(client: Client) -> None:
        await client.until(lambda client: any("runs no session's script" in text for text in client.texts))

    with_clients(server, 1, steps)
