"""What many sessions leave behind: nothing. And what idle ones cost: nothing."""

from __future__ import annotations

import asyncio

from harness.server import AppServer
from harness.steps import Serve, with_tabs
from harness.tab import Tab

# Streamlit keeps this many disconnected sessions, to resume them.
STORED = 128

APP = """
        import gc
        from fastserverstate._shared import store
        if st.query_params.get("role") == "judge":
            if st.button("collect"):
                gc.collect()
            st.text(f"statistics {store.statistics()}")
            st.stop()
        for i in range(5):
            st.text(f"{i} {server_state.get(f'shared {i}')}")
        server_state.get(f"own {time.monotonic()}")
        @st.fragment
        def part():
            st.text(f"part {server_state.get('part')}")
        part()
"""


async def visit(server: AppServer, visits: int) -> None:
    """Open and close as many sessions, 16 at a time."""
    places = asyncio.Semaphore(16)

    async def one() -> None:
        async with places, Tab(server.websocket_url) as tab:
            await tab.until(lambda tab: tab.settled, 60)

    await asyncio.gather(*(one() for _ in range(visits)))


def test_two_thousand_sessions_leave_nothing(serve: Serve) -> None:
    server = serve(APP, options={"runner.postScriptGC": "false"})

    async def leftovers(judge: Tab) -> tuple[dict[str, int], int]:
        """Numbers of the store and the size of the process, when the collector has nothing more to do."""
        for _ in range(3):
            runs = judge.finished
            await judge.click("collect")
            await judge.until(lambda tab, n=runs: tab.finished > n)
        return eval(judge.texts[0].removeprefix("statistics ")), server.resident_bytes()

    async def steps() -> None:
        async with Tab(server.websocket_url, query="role=judge") as judge:
            await judge.until(lambda tab: tab.settled)
            await visit(server, 600)
            before, size_before = await leftovers(judge)
            await visit(server, 1400)
            after, size_after = await leftovers(judge)
        # Two scopes a session, and the one absent key of its own.
        for numbers in (before, after):
            assert numbers["scopes"] <= 2 * (STORED + 16)
            assert numbers["cells"] <= STORED + 16 + 6
        assert after["buckets"] == before["buckets"]
        assert size_after - size_before < 20 * 2**20

    asyncio.run(steps())


def test_idle_sessions_cost_no_processor_time(serve: Serve) -> None:
    """Nothing is polled: with 60 open sessions that depend on shared state the server does next to nothing."""
    seconds = 4.0

    async def idle(*_: Tab) -> None:
        nonlocal used
        start = server.cpu_seconds()
        await asyncio.sleep(seconds)  # the length of the measurement
        used = server.cpu_seconds() - start

    used = 0.0
    server = serve(APP)
    with_tabs(server, 60, idle)
    assert used < 0.05 * seconds
