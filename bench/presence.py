"""Who is online: how soon sessions see who comes and leaves, and what is left after thousands have.

    python bench/presence.py [--sessions 1 8 200] [--churn 1000] [--kills 500] [--leak 2000] [--no-silence]

Prints Markdown tables. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness.client import Client
from harness.proxy import Proxy
from harness.server import AppServer, streamlit_run

from fastserverstate._streamlit.names import CAN_PUSH

APP = """
import time
import streamlit as st
from fastserverstate import broadcast, edit, emit, events, guard, join, live, online, own, space

query = st.query_params
if "discard" in query:
    from streamlit.runtime import Runtime
    from streamlit.runtime.memory_session_storage import MemorySessionStorage
    Runtime.instance()._session_mgr._session_storage = MemorySessionStorage(ttl_seconds=1)

def people():
    visitors = online("room")
    latest = max((visitor.at for visitor in visitors), default=0.0)
    st.text(f"{len(visitors)} in the room, the latest at {latest!r}, {len(online())} online")

if "name" in query:
    join("room", name=query["name"], at=time.time())
if "show" in query:
    {"reruns": people, "live": live(people)}[query["show"]]()
if "all" in query:
    guard("secret/*", read=lambda: False)
    own(f"cursor/{query['name']}")
    room = space(f"room/{query['name']}")
    room.cursor = 1
    for text in events("news"):
        st.toast(text)
    if "told" not in st.session_state:
        st.session_state.told = True
        emit("news", query["name"], keep=10)
        emit("news", "to the room", to="room", keep=10)
        broadcast(st.toast, "Hello")
        with edit("visits", default={}) as visits:
            visits[query["name"]] = visits.get(query["name"], 0) + 1
    list(room)
st.text("shown")
"""
STEP = 20  # sessions that connect at the same time


def in_the_room(client: Client) -> tuple[int, float, int]:
    """Return what the page says: the sessions in the room, when the latest joined, and all sessions."""
    words = next(
        (text for text in client.texts if "in the room" in text), "-1 in the room, the latest at 0, -1"
    ).split()
    return int(words[0]), float(words[7].rstrip(",")), int(words[8])


@contextlib.asynccontextmanager
async def opened(server: AppServer, queries: list[str]) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        clients: list[Client] = []
        for at in range(0, len(queries), STEP):
            clients += await asyncio.gather(
                *(
                    stack.enter_async_context(Client(server.websocket_url, query=query))
                    for query in queries[at : at + STEP]
                )
            )
            await asyncio.gather(*(client.shows("shown") for client in clients[at:]))
        yield clients


async def latency(server: AppServer, sessions: int, show: str, visits: int = 10) -> None:
    """Print how long it takes until all sessions show a visitor who comes, and who closes the tab."""
    coming, leaving = [], []
    async with opened(server, [f"show={show}"] * sessions) as watchers:
        for number in range(visits):
            began = time.time()
            visitor = Client(server.websocket_url, query=f"name={number}")

            async def seen(watcher: Client, began: float = began) -> float:
                await watcher.until(lambda watcher: in_the_room(watcher)[1] >= began)
                return time.time() - in_the_room(watcher)[1]

            waits = [asyncio.create_task(seen(watcher)) for watcher in watchers]
            async with visitor:
                coming += await asyncio.gather(*waits)
                await asyncio.gather(*(watcher.until(lambda watcher: watcher.settled) for watcher in watchers))

                async def gone(watcher: Client, closed: float) -> float:
                    await watcher.until(lambda watcher: in_the_room(watcher)[0] == 0)
                    return time.monotonic() - closed

                waits = [asyncio.create_task(gone(watcher, time.monotonic())) for watcher in watchers]
                await visitor.close_tab()
                leaving += await asyncio.gather(*waits)
    figures = [statistics.median(coming), max(coming), statistics.median(leaving), max(leaving)]
    print(f"| {sessions} | {show} | " + " | ".join(f"{1000 * figure:.0f} ms" for figure in figures) + " |")


async def churn(server: AppServer, visits: int, kills: int) -> None:
    """Open and close sessions, kill others, and print who is left."""
    async with Client(server.websocket_url, query="show=reruns&discard=1") as watcher:
        await watcher.shows("shown")

        async def visit(number: int) -> None:
            client = Client(server.websocket_url, query=f"name={number}&show=reruns")
            async with client:
                await client.shows("shown")
                if number >= visits:
                    client.lose_connection()
                else:
                    await client.close_tab()

        most = 0
        for at in range(0, visits + kills, STEP):
            await asyncio.gather(*(visit(number) for number in range(at, min(at + STEP, visits + kills))))
            most = max(most, in_the_room(watcher)[0])
        ended = time.monotonic()
        await watcher.until(lambda watcher: in_the_room(watcher)[0] == 0 and in_the_room(watcher)[2] == 1, 120)
        print(
            f"{visits} sessions were opened and closed, then {kills} connections were killed. At most {most} were in "
            f"the room; {time.monotonic() - ended:.1f} s after the last, 0 were in the room and 1 was online, the "
            "observer."
        )


async def silence(server: AppServer) -> None:
    """Stop all data of a connection, as a computer that sleeps, and print when its session is gone."""
    with Proxy(server.port) as proxy:
        async with Client(server.websocket_url, query="show=reruns") as watcher:
            url = server.websocket_url.replace(str(server.port), str(proxy.port))
            async with Client(url, query="name=asleep") as sleeper:
                await sleeper.shows("shown")
                await watcher.until(lambda watcher: in_the_room(watcher)[0] == 1)
                proxy.to_server = proxy.to_client = False
                began = time.monotonic()
                await watcher.until(lambda watcher: in_the_room(watcher)[0] == 0, 120)
                print(f"\nA connection fell silent, and its session was gone {time.monotonic() - began:.0f} s later.")
                proxy.cut()


async def leak(server: AppServer, sessions: int) -> None:
    """Open and close sessions that also use events, toasts, spaces, guards and owned keys."""

    async def visit(number: int) -> None:
        query = f"name={number % 50}&show=reruns&discard=1&all=1"
        async with Client(server.websocket_url, query=query) as client:
            await client.shows("shown")
            await client.close_tab()

    print("\n| sessions so far | resident memory |\n|---:|---:|")
    for part in range(5):
        for _ in range(0, sessions // 5, STEP):
            await asyncio.gather(*(visit(number) for number in range(STEP)))
        await asyncio.sleep(3)  # until Streamlit has discarded them
        print(f"| {(part + 1) * sessions // 5} | {server.resident_bytes() / 2**20:.0f} MiB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 8, 200])
    parser.add_argument("--churn", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--leak", type=int, default=2000)
    parser.add_argument("--silence", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "app.py"
        script.write_text(APP)
        print("| sessions | by | shown: median | last | gone: median | last |\n|---:|---|---:|---:|---:|---:|")
        for sessions in arguments.sessions:
            for show in ("reruns", *(["live"] if CAN_PUSH else [])):
                with streamlit_run(script) as server:
                    asyncio.run(latency(server, sessions, show))
        if arguments.churn or arguments.kills:
            print()
            with streamlit_run(script) as server:
                asyncio.run(churn(server, arguments.churn, arguments.kills))
        if arguments.silence:
            with streamlit_run(script) as server:
                asyncio.run(silence(server))
        if arguments.leak:
            with streamlit_run(script) as server:
                asyncio.run(leak(server, arguments.leak))


if __name__ == "__main__":
    main()
