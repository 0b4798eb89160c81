"""Measures the time from a write on one server until browsers of this and of another server show it.

The browsers are simulated by websockets.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from harness.client import Client
from harness.server import AppServer, streamlit_run

APPS = Path(__file__).with_name("apps")
POLL = 0.1  # seconds between two runs of a page that polls


async def shown(client: Client, after: int) -> tuple[int, float]:
    """Wait until the client shows a new write. Returns the time of the write, and the seconds since then."""
    await client.until(lambda client: bool(client.texts) and int(client.texts[-1]) > after)
    now = time.time_ns()
    written = int(client.texts[-1])
    return written, (now - written) / 1e9


async def _shared(servers: list[AppServer], rounds: int) -> tuple[list[float], list[float]]:
    here, there = [], []
    async with (
        Client(servers[0].websocket_url) as writer,
        Client(servers[0].websocket_url) as neighbour,
        Client(servers[1].websocket_url) as other,
    ):
        clients = (writer, neighbour, other)
        last = 0
        for _ in range(rounds):
            for client in clients:
                await client.until(lambda client: client.settled and bool(client.texts))
            await writer.click("Write")
            (last, near), (_, far) = await asyncio.gather(shown(neighbour, last), shown(other, last))
            here.append(near)
            there.append(far)
    return here, there


async def _polled(servers: list[AppServer], rounds: int) -> list[float]:
    took = []
    async with Client(servers[0].websocket_url) as writer, Client(servers[1].websocket_url) as other:

        async def poll() -> None:
            while True:
                await other.until(lambda client: client.settled)
                await other.rerun()
                await asyncio.sleep(POLL)

        polling = asyncio.create_task(poll())
        last = 0
        for _ in range(rounds):
            await writer.until(lambda client: client.settled and bool(client.texts))
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
