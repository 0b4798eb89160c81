"""From a write on one server to what the browsers of that and of another server show. Clients are websockets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from harness.client import Client
from harness.server import AppServer, streamlit_run

APPS = Path(__file__).with_name("apps")
POLL = 0.1  # seconds between two runs of a page that asks


async def shown(client: Client, after: int) -> tuple[int, float]:
    """Return the time of the next write that the client shows, and the seconds until it does."""
    await client.until(lambda client: bool(client.texts) and int(client.texts[-1]) > after)
    now = time.time_ns()
    written = int(client.texts[-1])
    return written, (now - written) / 1e9


async def _told(servers: list[AppServer], rounds: int) -> tuple[list[float], list[float]]:
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


async def _asking(servers: list[AppServer], rounds: int) -> list[float]:
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
    """Seconds until a write is seen on the same server, on another, and on one whose page asks all the time."""
    env = {"FASTSERVERSTATE_URL": url, "FASTSERVERSTATE_NAMESPACE": "bench-screens", "ENGINE": url}
    results = []
    for app, follow in (("shared", _told), ("asking", _asking)):
        with streamlit_run(APPS / f"{app}.py", env=env) as one, streamlit_run(APPS / f"{app}.py", env=env) as other:
            results.append(asyncio.run(follow([one, other], rounds)))
    (here, there), asking = results
    return here, there, asking
