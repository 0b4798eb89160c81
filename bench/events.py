"""From an event to the toast: `broadcast`, compared with `emit` and a rerun of every session.

    python bench/events.py [--sessions 1 8 200] [--rounds 3] [--toasts 10]

The ways take turns in one run. A figure is the median of the toasts of all rounds. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness.client import Client
from harness.server import AppServer, streamlit_run
from viewers import viewers

APP = """
import time
import streamlit as st
from fastserverstate import broadcast, emit, events

def send(way, text):
    st.session_state.began = time.monotonic()
    emit("alerts", text) if way == "emit" else broadcast(st.toast, text)

if "sends" in st.query_params:
    number = st.session_state.number = st.session_state.get("number", 0) + 1
    for way in ("emit", "broadcast"):
        st.button(way, on_click=send, args=(way, f"<{way} {number}>"))
    st.text(f"sent {number - 1} {st.session_state.get('began')}")
else:
    for alert in events("alerts"):
        st.toast(alert)
st.text("<end>")
"""


async def send(client: Client, way: str, number: int) -> float:
    """Send the toast of this number. Return when that was."""
    await client.click(way)
    await client.until(lambda client: any(text.startswith(f"sent {number} ") for text in client.texts))
    return next(float(text.split()[2]) for text in client.texts if text.startswith(f"sent {number} "))


async def measure(server: AppServer, sessions: int, toasts: int) -> dict[str, list[tuple[float, float]]]:
    """Return for each way the times until the median session and the last one have received each toast."""
    found: dict[str, list[tuple[float, float]]] = {"broadcast": [], "emit": []}
    async with viewers() as watching, Client(server.websocket_url, query="sends=1") as client:
        await watching.open(server.websocket_url, sessions)
        for number in range(1, 2 * toasts + 1):
            way = ("broadcast", "emit")[number % 2]
            await client.until(lambda client: client.settled)
            await asyncio.sleep(0.3)
            await watching.watch(f"<{way} {number}>")
            began = await send(client, way, number)
            times = await watching.seen()
            assert len(times) == sessions
            found[way].append((statistics.median(times) - began, times[-1] - began))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 200])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--toasts", type=int, default=10)
    arguments = parser.parse_args()
    print("| sessions | broadcast, median / last | emit, median / last | emit / broadcast |\n|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "app.py"
        script.write_text(APP)
        for sessions in arguments.sessions:
            times: dict[str, list[tuple[float, float]]] = {"broadcast": [], "emit": []}
            for _ in range(arguments.rounds):
                with streamlit_run(script, options={"runner.postScriptGC": "false"}) as server:
                    for way, found in asyncio.run(measure(server, sessions, arguments.toasts)).items():
                        times[way] += found
            medians = {
                way: [statistics.median(column) * 1e3 for column in zip(*found, strict=True)]
                for way, found in times.items()
            }
            cells = [" / ".join(f"{value:.1f}" for value in medians[way]) + " ms" for way in ("broadcast", "emit")]
            ratio = medians["emit"][1] / medians["broadcast"][1]
            print(f"| {sessions} | {cells[0]} | {cells[1]} | {ratio:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
