"""Live regions, compared with fragments and with reruns of the whole page.

    python bench/live_regions.py [--sessions 200] [--rounds 3] [--crowd 2000] [clicks cost chat tokens crowd]

The ways take turns in one run, and the order alternates from round to round. A figure is the median of the rounds.
Prints Markdown tables. Linux only: processor time is read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness.client import Client
from harness.server import AppServer, streamlit_run
from viewers import Viewers, viewers

APP = """
import os, time
import streamlit as st
from fastserverstate import atomic, live, server_state

WAYS = {"page": lambda function: function, "fragment": st.fragment, "live": live}
query = st.query_params

def counter():
    st.text(f"<n {server_state.n}>")

def chat():
    for number, text in enumerate(server_state.messages):
        with st.chat_message("user"):
            st.markdown(f"<message {number}> {text}")

def answer():
    st.markdown(server_state.answer)

def up():
    atomic.increment("n")

def post():
    atomic.append("messages", "A message of some length, as people write them to each other. " * 2)

def write():
    for number in range(int(query["times"])):
        due = time.monotonic() + float(query["pause"])
        st.session_state.last = time.monotonic()
        if query["write"] == "n":
            up()
        elif query["write"] == "message":
            post()
        else:
            atomic("answer", lambda text: f"{text} token<{number}>")
        time.sleep(max(0, due - time.monotonic()))

@st.cache_resource
def begin():
    server_state.update(n=0, messages=[], answer="")

begin()
if "write" in query:
    write()
    st.text(f"last {st.session_state.last}")
elif query.get("show") == "clicks":
    st.session_state.clicks = st.session_state.get("clicks", 0) + st.button("click")
    st.text(f"clicks {st.session_state.clicks}")
else:
    st.button("up", on_click=up)
    st.button("post", on_click=post)
    show = {"counter": counter, "chat": chat, "answer": answer}[query.get("show", "counter")]
    WAYS[os.environ["WAY"]](show)()
st.text("<end>")
"""

SETTINGS = {"collector off": {"runner.postScriptGC": "false"}, "as installed": {"runner.postScriptGC": "true"}}
SETTLING = 0.3  # seconds after the last message of an update
CLICKS = 8
UPDATES = 100
MESSAGES = 100
CROWD_WRITES = 60
BYSTANDERS = 20
TOKENS = 200

Figures = dict[str, float]
T = TypeVar("T")


async def open_client(server: AppServer, query: str) -> Client:
    client = await Client(server.websocket_url, query=query).__aenter__()
    await client.until(lambda client: client.settled, 120)
    return client


async def write(server: AppServer, what: str, times: int, pause: float) -> float:
    """Have a session write. Return the time of its last write."""
    async with Client(server.websocket_url, query=f"write={what}&times={times}&pause={pause}") as client:
        await client.shows("<end>", 120 + times * pause)
        return next(float(text.removeprefix("last ")) for text in client.texts if text.startswith("last "))


async def clicks(server: AppServer, watching: Viewers, sessions: int) -> Figures:
    """From a click in one session until the others show its result."""
    await watching.open(server.websocket_url, sessions)
    client = await open_client(server, "")
    middle, last = [], []
    for number in range(1, CLICKS + 1):
        await asyncio.sleep(SETTLING)
        await watching.watch(f"<n {number}>")
        began = time.monotonic()
        await client.click("up")
        times = await watching.seen()
        middle.append(statistics.median(times) - began)
        last.append(times[-1] - began if len(times) == sessions else math.inf)
        await client.until(lambda client: client.settled)
    await client.__aexit__(None, None, None)
    return {"median session, ms": statistics.median(middle) * 1e3, "last session, ms": statistics.median(last) * 1e3}


async def updates(server: AppServer, watching: Viewers, sessions: int) -> tuple[float, int]:
    """Return the processor time of many updates, and how many messages they took."""
    await watching.open(server.websocket_url, sessions)
    await asyncio.sleep(1)
    before, _ = await watching.traffic()
    cpu = server.cpu_seconds()
    await watching.watch(f"<n {UPDATES}>")
    await write(server, "n", UPDATES, 0.05)
    await watching.seen()
    await asyncio.sleep(SETTLING)
    traffic = (await watching.traffic())[0] - before
    return server.cpu_seconds() - cpu, traffic.messages


async def chat(server: AppServer, watching: Viewers, sessions: int) -> Figures:
    """A conversation that grows from nothing, and one message more."""
    await watching.open(server.websocket_url, sessions, "show=chat")
    before, _ = await watching.traffic()
    await watching.watch(f"<message {MESSAGES - 1}>")
    last = await write(server, "message", MESSAGES, 0.05)
    times = await watching.seen()
    traffic = (await watching.traffic())[0] - before
    client = await open_client(server, "show=chat")
    await asyncio.sleep(1)
    before, _ = await watching.traffic()
    one_more = []
    for number in range(MESSAGES, MESSAGES + 3):
        await asyncio.sleep(SETTLING)
        await watching.watch(f"<message {number}>")
        began = time.monotonic()
        await client.click("post")
        one_more.append((await watching.seen())[-1] - began)
        await client.until(lambda client: client.settled, 120)
    more = (await watching.traffic())[0] - before
    await client.__aexit__(None, None, None)
    return {
        f"{MESSAGES} messages in {MESSAGES * 0.05:g} s: until all show the last, ms": (times[-1] - last) * 1e3,
        "one message more: until all show it, ms": statistics.median(one_more) * 1e3,
        "KB per viewer for one message more": more.size / sessions / len(one_more) / 1e3,
        "KB per viewer and message, of all": traffic.size / sessions / MESSAGES / 1e3,
    }


async def crowd(server: AppServer, watching: Viewers, sessions: int) -> Figures:
    """Many sessions show what changes ten times a second, while a user clicks on something else."""
    await watching.open(server.websocket_url, sessions)
    client = await open_client(server, "show=clicks")
    done = 0

    async def own_clicks() -> list[float]:
        nonlocal done
        times = []
        for _ in range(BYSTANDERS):
            await asyncio.sleep(0.13)
            done += 1
            began = time.monotonic()
            await client.click("click")
            await client.shows(f"clicks {done}", 120)
            times.append((time.monotonic() - began) * 1e3)
            await client.until(lambda client: client.settled, 120)
        return sorted(times)

    await asyncio.sleep(2)
    idle = await own_clicks()
    await watching.watch(f"<n {CROWD_WRITES}>")
    before, _ = await watching.traffic()
    cpu, began = server.cpu_seconds(), time.monotonic()
    writing = asyncio.create_task(write(server, "n", CROWD_WRITES, 0.1))
    await asyncio.sleep(0.5)
    busy = await own_clicks()
    last = await writing
    cpu, took = server.cpu_seconds() - cpu, time.monotonic() - began
    times = await watching.seen()
    traffic = (await watching.traffic())[0] - before
    await client.__aexit__(None, None, None)
    return {
        "sessions that show the last value": len(times),
        "until they all do, ms": (times[-1] - last) * 1e3 if times else math.inf,
        f"renderings that a session received, of {CROWD_WRITES}": traffic.messages / sessions,
        "share of a core": cpu / took,
        "an own click, idle, median, ms": statistics.median(idle),
        "an own click, during writes, median, ms": statistics.median(busy),
        "an own click, idle, slowest but one, ms": idle[-2],
        "an own click, during writes, slowest but one, ms": busy[-2],
    }


async def tokens(server: AppServer, watching: Viewers, sessions: int) -> Figures:
    """A text grows by twenty tokens a second."""
    await watching.open(server.websocket_url, sessions, "show=answer")
    await asyncio.sleep(1)
    before, _ = await watching.traffic()
    cpu, began = server.cpu_seconds(), time.monotonic()
    await watching.watch(f"token<{TOKENS - 1}>")
    last = await write(server, "token", TOKENS, 0.05)
    times = await watching.seen()
    cpu, took = server.cpu_seconds() - cpu, time.monotonic() - began
    traffic = (await watching.traffic())[0] - before
    return {
        "share of a core": cpu / took,
        "until all show the last token, ms": (times[-1] - last) * 1e3,
        f"renderings that a session received, of {TOKENS}": traffic.messages / sessions,
    }


Measure = Callable[[AppServer, Viewers, int], Awaitable[Figures]]


@dataclass(frozen=True)
class Bench:
    """Servers with one setting, each for one measurement."""

    folder: Path
    setting: str
    sessions: int
    rounds: int

    def run(self, way: str, measure: Callable[[AppServer, Viewers, int], Awaitable[T]], sessions: int) -> T:
        async def measured() -> T:
            async with viewers() as watching:
                return await measure(server, watching, sessions)

        script = self.folder / "app.py"
        script.write_text(APP)
        with streamlit_run(script, options=SETTINGS[self.setting], env={"WAY": way}) as server:
            found = asyncio.run(measured())
            if "Traceback" in server.output:
                print(server.output, file=sys.stderr)
            return found

    def compare(self, title: str, measure: Measure, *ways: str) -> None:
        """Print a table of the ways, the last of which is the one that others are compared with."""
        found: dict[str, list[Figures]] = {way: [] for way in ways}
        for number in range(self.rounds):
            for way in ways if number % 2 == 0 else reversed(ways):
                found[way].append(self.run(way, measure, self.sessions))
        compared = [f"{way} / {ways[-1]}" for way in ways[:-1]]
        print(f"\n| {title}, {self.setting} | {' | '.join([*ways, *compared])} |")
        print("|---|" + "--:|" * (2 * len(ways) - 1))
        for name in found[ways[0]][0]:
            figures = [statistics.median(round_[name] for round_ in found[way]) for way in ways]
            ratios = [f"{figure / figures[-1]:.1f}x" if figures[-1] else "" for figure in figures[:-1]]
            print(f"| {name} | {' | '.join([*(f'{figure:,.2f}' for figure in figures), *ratios])} |", flush=True)

    def show_cost(self) -> None:
        """Print the processor time per viewer and update, without that of the writes and renderings themselves."""
        found = []
        for _ in range(self.rounds):
            many, messages = self.run("live", updates, self.sessions)
            one, message = self.run("live", updates, 1)
            found.append((many - one) / (messages - message) * 1e6)
        rounds = ", ".join(f"{figure:.0f}" for figure in found)
        print(f"\n{self.setting}: {statistics.median(found):.0f} us of processor per viewer and update ({rounds})")


PARTS = ("clicks", "cost", "chat", "tokens", "crowd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", default=PARTS, help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--crowd", type=int, default=2000, help="sessions of that part")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    n, many = arguments.sessions, arguments.crowd
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS:
            bench = Bench(Path(folder), setting, n, arguments.rounds)
            if "clicks" in arguments.parts:
                bench.compare(f"a click, {n} sessions", clicks, "page", "fragment", "live")
            if "cost" in arguments.parts:
                bench.show_cost()
            if "chat" in arguments.parts:
                bench.compare(f"a chat, {n} sessions", chat, "page", "live")
            if "tokens" in arguments.parts:
                bench.compare(f"20 tokens a second, {n} sessions", tokens, "fragment", "live")
            if "crowd" in arguments.parts:
                crowded = Bench(Path(folder), setting, many, 1)
                crowded.compare(f"a write every 100 ms, {many:,} sessions", crowd, "fragment", "live")


if __name__ == "__main__":
    main()
