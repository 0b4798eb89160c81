"""However a session's last run has ended, its visible values are updated, and reruns come to an end."""

from __future__ import annotations

import asyncio
import inspect
import re
import textwrap
from contextlib import AsyncExitStack
from urllib.parse import urlencode

import pytest
import streamlit
from harness.client import Client
from harness.steps import HELD_START, Serve, with_clients

HAS_KEYS = "key" in inspect.signature(streamlit.fragment).parameters

# How a run ends determines which parts of it were executed. Each part shows its number in several places.
APP = """
        import inspect

        keyed = "key" in inspect.signature(st.fragment).parameters

        def part(name):
            return st.fragment(key=name) if keyed else st.fragment

        def end(way):
            if way == "stops":
                st.stop()
            elif way == "fails":
                raise ValueError("meant")
            elif way == "reruns":
                st.rerun()
            elif way == "exits":
                raise SystemExit
            elif way == "reruns a fragment":
                st.rerun("f")
            elif way == "reruns fragments of which the first stops":
                st.session_state.first_stops = True
                st.rerun(["f", "g"])
            elif way == "waits":
                st.text("waits")
                while True:
                    time.sleep(0.01)
                    st.empty()

        def show(name):
            st.text(f"{name} {server_state.get('n', 0)}")

        def callback():
            end(st.session_state.way)

        @part("f")
        def f():
            if st.session_state.pop("first_stops", False):
                st.stop()
            show("f")
            if st.button("in f"):
                show("clicked")
                end(st.session_state.way)
            show("end of f")

        @part("g")
        def g():
            show("g")

        st.text_input("way", key="way")
        st.button("in a callback", on_click=callback)
        clicked = st.button("in the body")
        show("head")
        f()
        if clicked:
            end(st.session_state.way)
        g()
        show("tail")
        if st.button("plus"):
            atomic.increment("n")
"""

NAMES = ("head", "f", "end of f", "g", "tail")
PLACES = ("in a callback", "in the body", "in f")
WAYS = ["stops", "fails", "reruns", "exits", "stopped by the user", "replaced"]
WAYS += ["reruns a fragment", "reruns fragments of which the first stops"] if HAS_KEYS else []


def is_current(client: Client, number: int) -> bool:
    """Return whether the client shows any number, and shows no other number than this."""
    shown = [text.rpartition(" ") for text in client.texts if text.rpartition(" ")[2].isdigit()]
    return bool(shown) and all(int(value) == number for _, _, value in shown)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", WAYS)
def test_visible_values_are_updated(serve: Serve, place: str, way: str) -> None:
    async def steps(client: Client, other: Client) -> None:
        waits = way in {"stopped by the user", "replaced"}
        await client.enter("way", "waits" if waits else way)
        await client.until(lambda client: client.settled)
        finished = client.finished
        await client.click(place)
        if waits:
            await client.shows("waits")
            await (client.stop() if way == "stopped by the user" else client.rerun())
        if way != "exits":  # ends the thread, without a message to the browser
            await client.until(lambda client: client.finished > finished and client.settled)
        for number in range(1, 6 if way == "exits" else 3):  # such a script never ends
            await other.click("plus")
            await client.until(lambda client, number=number: is_current(client, number))
            await other.until(lambda client, number=number: is_current(client, number))

    with_clients(serve(APP), 2, steps)


def test_a_run_that_is_stopped_before_it_reads(serve: Serve) -> None:
    """It has executed nothing, so the visible values must still be updated."""
    server = serve(
        """
        @st.cache_resource
        def gate():
            opened = threading.Event()
            opened.set()
            return opened

        if st.query_params.get("writes"):
            if st.button("close the gate, and write"):
                gate().clear()
                server_state["n"] = 1
            if st.button("open the gate"):
                gate().set()
            st.stop()
        while not gate().wait(0.01):
            st.empty()
        st.text(f"n {server_state.get('n', 0)}")
        """
    )

    async def steps() -> None:
        async with Client(server.websocket_url) as client, Client(server.websocket_url, query="writes=1") as writer:
            await client.until(lambda client: client.settled)
            await writer.until(lambda client: client.settled)
            await writer.click("close the gate, and write")
            await client.until(lambda client: client.started == 2)
            await client.stop()
            await client.until(lambda client: client.finished == 2)
            await writer.click("open the gate")
            await client.shows("n 1")

    asyncio.run(steps())


def test_a_rerun_that_is_stopped_before_it_begins(serve: Serve) -> None:
    """It has shown nothing, so it is requested again. Nothing reports such a run except its runner's end."""
    server = serve(
        HELD_START
        + """
        st.button("plus", on_click=lambda: atomic.increment("n"))
        st.text(f"n {server_state.get('n', 0)}")
        """
    )

    async def steps(client: Client, other: Client) -> None:
        await client.click("hold")
        await client.shows("held True")
        await client.until(lambda client: client.settled)
        await other.click("plus")
        await other.shows("n 1")
        await other.click("wait")
        await other.until(lambda client: client.settled)
        await client.stop()
        await other.click("open")
        await client.shows("n 1")

    with_clients(server, 2, steps)


# Each run shows a value that another session, or another fragment, changes in each of its runs.
CIRCLES = {
    "three sessions": """
        st.text(f"shows {server_state.get(f'k{(me + 1) % 3}')}")
        server_state[f"k{me}"] = server_state.get(f"k{me}", 0) + 1
    """,
    "sessions with one key": """
        st.text(f"shows {server_state.get('k')}")
        server_state["k"] = server_state.get("k", 0) + 1
    """,
    "fragments of a session": """
        @st.fragment
        def part(mine, other):
            st.text(f"shows {server_state.get(other)}")
            server_state[mine] = server_state.get(mine, 0) + 1
        part(f"k{me}", f"l{me}")
        part(f"l{me}", f"k{me}")
    """,
    "fragments of sessions": """
        @st.fragment
        def part():
            st.text(f"shows {server_state.get(f'k{(me + 1) % 3}')}")
            server_state[f"k{me}"] = server_state.get(f"k{me}", 0) + 1
        part()
    """,
    "sessions that run twice": """
        st.text(f"shows {server_state.get(f'k{(me + 1) % 3}')}")
        server_state[f"k{me}"] = server_state.get(f"k{me}", 0) + 1
        st.session_state.twice = not st.session_state.get("twice", False)
        if st.session_state.twice:
            st.rerun()
    """,
    "transactions": """
        st.text(f"shows {server_state.get(f'k{(me + 1) % 3}')}")
        with transaction(f"k{me}"):
            server_state[f"k{me}"] = server_state.get(f"k{me}", 0) + 1
    """,
}


@pytest.mark.parametrize("circle", CIRCLES.values(), ids=CIRCLES)
def test_circles_of_reruns_end(serve: Serve, circle: str) -> None:
    """For any number of sessions and fragments. Later changes by others still reach all of them."""
    observer = """
        st.text(f"note {server_state.get('note', 0)}")
        if st.button("note"):
            server_state["note"] = server_state.get("note", 0) + 1
        me = int(st.query_params.get("me", -1))
        if me < 0:
            st.stop()
    """
    server = serve(textwrap.dedent(observer) + textwrap.dedent(circle))

    async def steps() -> None:
        async with AsyncExitStack() as stack:
            observer = await stack.enter_async_context(Client(server.websocket_url))
            await observer.until(lambda client: client.settled)
            clients = [await stack.enter_async_context(Client(server.websocket_url, query=f"me={i}")) for i in range(3)]
            for number in range(4):
                # A click or a new session restarts the circle: three runs for each part.
                await observer.click("note")
                for client in (observer, *clients):
                    await client.until(lambda client, text=f"note {number + 1}": text in client.texts)
            while "would never end" not in server.output:
                await asyncio.sleep(0.01)
            for number in (5, 6):  # all earlier requests are complete
                await observer.click("note")
                for client in (observer, *clients):
                    await client.until(lambda client, text=f"note {number}": text in client.texts)
            # Each of nine restarts allows three runs of six parts, and each run may be two.
            assert sum(client.started for client in clients) <= 9 * 3 * 6 * 2

    asyncio.run(steps())
    warning = next(line for line in server.output.splitlines() if "would never end" in line)
    assert re.search(r"server_state\['[kl]\d?'\] is changed at .*main\.py:\d+", warning)


@pytest.mark.parametrize("where", ["a thread", "a rerun"])
def test_reruns_without_a_circle_go_on(serve: Serve, where: str) -> None:
    """A rerun, or a thread that it has started, changes a key many times. Another session shows the last value."""
    server = serve(
        """
        from streamlit.runtime.scriptrunner import add_script_run_ctx

        def tick():
            for number in range(1, 11):
                server_state["tick"] = number
                wait_for("seen", lambda seen, number=number: seen == number)

        if where := st.query_params.get("ticks"):
            if server_state.get("go") and where == "a thread":
                thread = threading.Thread(target=tick)
                add_script_run_ctx(thread)
                thread.start()
            elif server_state.get("go"):
                tick()
            st.text("ticks")
        else:
            st.text(f"tick {server_state.get('tick', 0)}")
            server_state["seen"] = server_state.get("tick", 0)
            if st.button("go"):
                server_state["go"] = True
        """
    )

    async def steps() -> None:
        query = urlencode({"ticks": where})
        async with Client(server.websocket_url, query=query) as ticks, Client(server.websocket_url) as client:
            await ticks.until(lambda client: client.settled)
            await client.until(lambda client: client.settled)
            await client.click("go")
            await client.shows("tick 10")

    asyncio.run(steps())
    assert "would never end" not in server.output
