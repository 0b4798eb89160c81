"""The cost of `detect_inplace`: processor time of runs with and without it, alternating on one server.

PYTHONPATH=tests python -m bench.in_place
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from harness.client import Client
from harness.server import AppServer, streamlit_run

SCRIPT = """
import streamlit as st
from fastserverstate import server_state
from fastserverstate._instances import scheduler

for number in range(8):
    server_state.setdefault(f"rows {number}", [{"id": i, "name": f"name {i}"} for i in range(100)])

def click():
    server_state["rows 0"]

st.button("run", on_click=click)
if st.button("off"):
    scheduler.in_place.set(False)
if st.button("sampled"):
    scheduler.in_place.set(None)
if st.button("always"):
    scheduler.in_place.set(True)
total = sum(len(server_state[f"rows {number}"]) for number in range(8))
st.text(f"rows {total}")
"""

MODES = ("off", "sampled", "always")
ROUNDS = 6
RUNS = {1: 60, 8: 80, 200: 200}  # in a round, by all sessions together


async def click(client: Client, label: str) -> None:
    finished = client.finished
    await client.click(label)
    await client.until(lambda client: client.finished > finished and client.settled)


async def measure(server: AppServer, sessions: int) -> dict[str, float]:
    """Return the milliseconds of processor time of one run, by mode."""
    spent = dict.fromkeys(MODES, 0.0)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(server.websocket_url)) for _ in range(sessions)]
        for client in clients:
            await client.shows("rows 800")

        async def clicks(client: Client) -> None:
            for _ in range(RUNS[sessions] // sessions):
                await click(client, "run")

        for number in range(ROUNDS + 1):
            for mode in MODES[number % 3 :] + MODES[: number % 3]:
                await click(clients[0], mode)
                start = server.cpu_seconds()
                await asyncio.gather(*map(clicks, clients))
                if number:  # the first round warms up
                    spent[mode] += server.cpu_seconds() - start
    return {mode: seconds / ROUNDS / RUNS[sessions] * 1e3 for mode, seconds in spent.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "app.py"
        script.write_text(SCRIPT)
        print("| sessions | off, ms per run | sampled | always |\n|--:|--:|--:|--:|")
        for sessions in map(int, sys.argv[1:] or RUNS):
            with streamlit_run(script, options={"runner.postScriptGC": "false"}) as server:
                found = asyncio.run(measure(server, sessions))
            ratios = " | ".join(f"{found[mode] / found['off']:.3f}x" for mode in MODES[1:])
            print(f"| {sessions} | {found['off']:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
