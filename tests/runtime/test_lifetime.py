"""Many sessions leave nothing behind, and idle sessions cost no processor time."""

from __future__ import annotations

import asyncio

from harness.client import Client
from harness.server import AppServer
from harness.steps import Serve, with_clients

# Streamlit keeps this many disconnected sessions, to resume them.
STORED = 128

APP = """
        import gc
        from fastserverstate._instances import store
        if st.query_params.get("role") == "judge":
            if st.button("collect"):
                gc.collect()
            st.text(f"statistics {store.statistics()}")
            st.text(f"owned {sum(key.startswith('cursor/') for key in store.keys())}")
            st.text(f"ended {peek('ended', 0)}")
            st.stop()

        @on_session_end
        def count():
            atomic.increment("ended")

        for i in range(5):
            st.text(f"{i} {server_state.get(f'shared {i}')}")
        server_state.get(f"own {time.monotonic()}")
        cursor = st.session_state.setdefault("cursor", f"cursor/{time.monotonic()}")
        own(cursor)
        server_state[cursor] = 1
        @st.fragment
        def part():
            st.text(f"part {server_state.get('part')}")
        part()
"""


async def visit(server: AppServer, visits: int) -> None:
    """Open and close this many sessions, 16 at a time."""
    places = asyncio.Semaphore(16)

    async def one() -> None:
        async with places, Client(server.websocket_url) as client:
            await client.until(lambda client: client.settled, 60)

    await asyncio.gather(*(one() for _ in range(visits)))


def test_two_thousand_sessions_leave_nothing(serve: Serve) -> None:
    server = serve(APP, options={"runner.postScriptGC": "false"})

    async def leftovers(judge: Client) -> tuple[dict[str, int], int]:
        """Return the statistics of the store and the size of the process, after garbage collections."""
        for _ in range(3):
            runs = judge.finished
            await judge.click("collect")
            await judge.until(lambda client, n=runs: client.finished > n)
        return eval(judge.texts[0].removeprefix("statistics ")), server.resident_bytes()

    async def steps() -> None:
        async with Client(server.websocket_url, query="role=judge") as judge:
            await judge.until(lambda client: client.settled)
            await visit(server, 600)
            before, size_before = await leftovers(judge)
            await visit(server, 1400)
            after, size_after = await leftovers(judge)
            owned, ended = (int(text.split()[1]) for text in judge.texts[1:3])
        # Each session has two scopes, one absent key of its own, and a key that it owns.
        for numbers in (before, after):
            assert numbers["scopes"] <= 2 * (STORED + 16)
            assert numbers["cells"] <= 2 * (STORED + 16) + 7
        assert owned <= STORED + 16
        assert 2000 - STORED - 16 <= ended <= 2000
        assert after["buckets"] == before["buckets"]
        assert size_after - size_before < 20 * 2**20

    asyncio.run(steps())


# Things that may keep a session alive: pages, fragments, dialogs, locks, transactions, callbacks, widgets, threads.
VISITED = """
        import gc
        from fastserverstate._core import Scope
        from fastserverstate.rerun.session import LiveSession
        from streamlit.runtime.app_session import AppSession
        from streamlit.runtime.scriptrunner import ScriptRunContext, ScriptRunner
        from streamlit.runtime.scriptrunner import add_script_run_ctx, get_script_run_ctx

        if st.query_params.get("role") == "judge":
            if st.button("count"):
                gc.unfreeze()
                gc.collect()
                kinds = (AppSession, LiveSession, Scope, ScriptRunContext, ScriptRunner)
                found = [type(known) for known in gc.get_objects()]
                st.text(f"counts {({kind.__name__: found.count(kind) for kind in kinds})}")
            st.stop()

        @st.cache_resource
        def pool():
            from concurrent.futures import ThreadPoolExecutor
            return ThreadPoolExecutor(4)

        def read_in_thread(context):
            add_script_run_ctx(ctx=context)
            try:
                return server_state.get("thread")
            finally:
                del threading.current_thread().streamlit_script_run_ctx

        def written():
            pass

        def home():
            with server_state_lock["locked"], transaction("a", "b"):
                server_state["a"] = server_state.get("a", 0) + 1
            on_change("a", written)
            st.slider("shared", **shared("slider"))
            st.text(f"absent {server_state.get(f'own {time.monotonic()}')}")

            @st.fragment
            def part():
                st.text(f"part {server_state.get('part')}")

            @st.dialog("open")
            def dialog():
                st.text(f"dialog {server_state.get('dialog')}")

            part()
            if st.query_params.get("role") == "dialog":
                dialog()

        def other():
            st.text(f"other {server_state.get('other')}")

        pool().submit(read_in_thread, get_script_run_ctx()).result()
        page = st.navigation([st.Page(home, default=True), st.Page(other, url_path="other")])
        page.run()
        if st.button("go"):
            st.switch_page("other")
        st.text("visited")
"""


async def visit_and_return(server: AppServer, visits: int) -> None:
    """Some sessions open a dialog. Some reconnect, after Streamlit has noticed that they have left."""
    places = asyncio.Semaphore(8)
    sessions = []

    async def one(*, query: str = "", resume: str | None = None) -> None:
        async with places, Client(server.websocket_url, query=query, resume=resume) as client:
            if resume is not None:
                await client.rerun()
            await client.until(lambda client: client.settled and "visited" in client.texts, 60)
            sessions.append(client.session_id)

    await asyncio.gather(*(one(query="role=dialog" if number % 3 == 0 else "") for number in range(visits)))
    await asyncio.gather(*(one(resume=session) for session in sessions[visits - STORED // 2 : visits - 16]))


def test_sessions_that_have_left_are_freed(serve: Serve) -> None:
    """With the file watcher, which knows every session: Streamlit keeps only sessions that may reconnect."""
    server = serve(VISITED, options={"server.fileWatcherType": "auto", "runner.postScriptGC": "false"})

    here = STORED + 1  # including the judge's
    # The runners and contexts are the judge's, and those that a thread has just left.
    limits = {"AppSession": here, "LiveSession": here, "Scope": 3 * here, "ScriptRunner": 3, "ScriptRunContext": 3}

    async def steps() -> None:
        async with Client(server.websocket_url, query="role=judge") as judge:
            await judge.until(lambda client: client.settled)
            await visit_and_return(server, 300)
            for _ in range(50):  # Streamlit's own timers go on for a moment
                runs = judge.finished
                await judge.click("count")
                await judge.until(lambda client, runs=runs: client.finished > runs, 60)
                counts = eval(next(text for text in judge.texts if text.startswith("counts")).removeprefix("counts "))
                over = {name: count for name, count in counts.items() if count > limits[name]}
                if not over:
                    break
            assert not over

    asyncio.run(steps())


def test_idle_sessions_cost_no_processor_time(serve: Serve) -> None:
    """Nothing is polled: 60 open sessions that depend on shared state use next to no processor time."""
    seconds = 4.0

    async def idle(*_: Client) -> None:
        nonlocal used
        start = server.cpu_seconds()
        await asyncio.sleep(seconds)  # duration of the measurement
        used = server.cpu_seconds() - start

    used = 0.0
    server = serve(APP)
    with_clients(server, 60, idle)
    assert used < 0.05 * seconds
