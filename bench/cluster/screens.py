"""Measures the time from a write on one server until browsers of this and of another server show it.

The browsers are simulated by websockets.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from harness.server import AppServer, streamlit_run
from harness.tab import Tab

APPS = Path(__file__).with_name("apps")
POLL = 0.1  # seconds between two runs of a page that polls


async def shown(tab: Tab, after: int) -> tuple[int, float]:
    """Wait until the tab shows a new write. Returns the time of the write, and the seconds since then."""
    await tab.until(lambda tab: bool(tab.texts) and int(tab.texts[-1]) > after)
    now = time.time_ns()
    written = int(tab.texts[-1])
    return written, (now - written) / 1e9


async def _shared(servers: list[AppServer], rounds: int) -> tuple[list[float], list[float]]:
    here, there = [], []
    async with (
        Tab(servers[0].websocket_url) as writer,
        Tab(servers[0].websocket_url) as neighbour,
        Tab(servers[1].websocket_url) as other,
    ):
        tabs = (writer, neighbour, other)
        last = 0
        for _ in range(rounds):
            for tab in tabs:
                await tab.until(lambda tab: tab.settled and bool(tab.texts))
            await writer.click("Write")
            (last, near), (_, far) = await asyncio.gather(shown(neighbour, last), shown(other, last))
            here.append(near)
            there.append(far)
    return here, there


async def _polled(servers: list[AppServer], rounds: int) -> list[float]:
    took = []
    async with Tab(servers[0].websocket_url) as writer, Tab(servers[1].websocket_url) as other:

        async def poll() -> None:
            while True:
                await other.until(lambda tab: tab.settled)
                await other.rerun()
                await asyncio.sleep(POLL)

        polling = asyncio.create_task(poll())
        last = 0
        for _ in range(rounds):
            await writer.until(lambda tab: tab.settled and bool(tab.texts))
            await writer.click("Write")
            last, seconds = await shown(other, last)
            took.append(seconds)
        polling.cancel()
    return took


def measure(url: str, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds until a write is shown on the same server, on another, and on a page that polls."""
    env = {"FASTSERVERSTATE_URL": url, "FASTSERVERSTATE_NAMESPACE": "bench-screens", "ENGINE": url}
    results = []
    for app, follow in (("shared", _shared), ("polling", _polled)):
        with streamlit_run(APPS / f"{app}.py", env=env) as one, streamlit_run(APPS / f"{app}.py", env=env) as other:
            results.append(asyncio.run(follow([one, other], rounds)))
    (here, there), polled = results
    return here, there, polled
