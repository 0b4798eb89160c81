"""The default configuration, compared with Streamlit's collections after every run switched off.

    python bench/installed.py [--seconds 5] [--rounds 3] [1 4 8 200]

Both servers take turns in one run, and the order alternates from round to round. A figure is the median of the rounds.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness.client import Client
from harness.server import AppServer, streamlit_run

APP = """
import threading, time
import streamlit as st
from fastserverstate import atomic, server_state

@st.cache_resource
def writer():
    def write():
        while True:
            writing.wait()
            time.sleep(0.01)
            atomic.increment("n")
    writing = threading.Event()
    threading.Thread(target=write, daemon=True).start()
    return writing

st.text(f"n {server_state.setdefault('n', 0)}")
if st.query_params.get("role") == "switch":
    (writer().set if st.toggle("writes") else writer().clear)()
elif st.query_params.get("role") == "clicks":
    st.session_state.clicks = st.session_state.get("clicks", 0) + st.button("click")
    st.text(f"clicks {st.session_state.clicks}")
else:
    time.sleep(0.1)
st.text("end")
"""

AS_INSTALLED = {"runner.postScriptGC": "true"}
COLLECTOR_OFF = {"runner.postScriptGC": "false"}


async def completed_runs(server: AppServer, sessions: int, seconds: float) -> float:
    """Return completed runs per second and session of a 100 ms script, with a write every 10 ms."""
    async with AsyncExitStack() as stack:
        opened = (stack.enter_async_context(Client(server.websocket_url)) for _ in range(sessions))
        clients = await asyncio.gather(*opened)
        await asyncio.gather(*(client.until(lambda client: client.settled, 120) for client in clients))
        switch = await stack.enter_async_context(Client(server.websocket_url, query="role=switch"))
        await switch.until(lambda client: client.settled)
        await switch.switch("writes", on=True)
        await asyncio.sleep(1)
        before = sum(client.finished for client in clients)
        await asyncio.sleep(seconds)
        runs = sum(client.finished for client in clients) - before
        await switch.switch("writes", on=False)
        await switch.until(lambda client: client.settled)
    return runs / seconds / sessions


async def click(server: AppServer) -> float:
    """Return the milliseconds until a user's own click is shown, without other sessions."""
    times = []
    async with Client(server.websocket_url, query="role=clicks") as client:
        await client.until(lambda client: client.settled)
        for number in range(1, 21):
            start = time.perf_counter()
            await client.click("click")
            await client.until(lambda client, number=number: f"clicks {number}" in client.texts and client.settled)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


async def opening(server: AppServer, sessions: int) -> float:
    """Return the seconds until this many sessions, opened at the same time, have shown their page."""
    start = time.perf_counter()
    async with AsyncExitStack() as stack:
        clients = await asyncio.gather(
            *(stack.enter_async_context(Client(server.websocket_url, query="role=clicks")) for _ in range(sessions))
        )
        await asyncio.gather(*(client.until(lambda client: client.settled, 300) for client in clients))
        return time.perf_counter() - start


Measure = Callable[[AppServer], Awaitable[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sessions", nargs="*", type=int, default=[1, 4, 8, 200])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    measures: dict[str, Measure] = {
        f"{n} sessions: runs/s each": lambda server, n=n: completed_runs(server, n, arguments.seconds)
        for n in arguments.sessions
    }
    measures["a click, ms"] = click
    measures["opening 200 sessions, s"] = lambda server: opening(server, 200)
    print("| | as installed | collector off | ratio |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "app.py"
        script.write_text(textwrap.dedent(APP))
        for name, measure in measures.items():
            found: dict[str, list[float]] = {"installed": [], "off": []}
            for round_number in range(arguments.rounds):
                kinds = [("installed", AS_INSTALLED), ("off", COLLECTOR_OFF)]
                for kind, options in kinds if round_number % 2 == 0 else reversed(kinds):
                    with streamlit_run(script, options=options) as server:
                        found[kind].append(asyncio.run(measure(server)))
            installed, off = (statistics.median(values) for values in found.values())
            print(f"| {name} | {installed:.2f} | {off:.2f} | {installed / off:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
