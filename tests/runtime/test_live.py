"""Live regions on a real server: what they show, what is sent for it, and that no script runs.

Before Streamlit 1.44, a live region is a fragment of each session. Such releases run the tests of what is shown. The
tests of what is sent, and of how often the function is called, are skipped.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import streamlit as st
from harness.client import Client
from harness.server import uvicorn_run
from harness.steps import Serve, shown, with_clients
from streamlit.testing.v1 import AppTest

from fastserverstate._streamlit.names import CAN_PUSH

# Streamlit 1.46 allowed blocks such as expanders inside of each other.
NESTS = tuple(map(int, st.__version__.split(".")[:2])) >= (1, 46)

pushes = pytest.mark.skipif(not CAN_PUSH, reason="before Streamlit 1.44, a live region is a fragment of each session")

BOARD = """
        @st.cache_resource
        def calls():
            return []

        @live
        def board(name="board"):
            calls().append(name)
            n = server_state.get("n", 0)
            st.text(f"{name} {n}")
            for i in range(n % 3):
                st.text(f"item {i}")

        st.button("plus", on_click=lambda: atomic.increment("n"))
        st.button("report")
        st.text(f"calls {len(calls())}")
"""

PLACES = {
    "body": "board()",
    "column": "with st.columns(2)[1]:\n    board()",
    "tab": "with st.tabs(['a', 'b'])[1]:\n    board()",
    "sidebar": "with st.sidebar:\n    board()",
    "expander": "with st.expander('more'):\n    board()",
    "container": "with st.container():\n    st.text('above')\n    board()",
    "empty": "with st.empty():\n    board()",
    "placeholder": "place = st.empty()\nplace.text('old')\nwith place.container():\n    board()",
    "fragment": "@st.fragment\ndef part():\n    board()\npart()",
    "nested fragment": ("@st.fragment\ndef inner():\n    board()\n@st.fragment\ndef outer():\n    inner()\nouter()"),
    "loop": "for name in 'ab':\n    st.text('above')\nboard()",
    "navigation": "st.navigation([st.Page(board_page, title='1', default=True), st.Page(other_page, title='2')]).run()",
    "dialog": "@st.dialog('A dialog')\ndef window():\n    board()\nif st.button('open'):\n    window()",
}


def items(client: Client) -> list[str]:
    return [text for text in client.texts if text.startswith("item ")]


async def shows_board(client: Client, n: int, name: str = "board") -> None:
    """Wait until the page shows this rendering of the board, and nothing of another one."""
    await client.until(
        lambda client: (
            f"{name} {n}" in client.texts
            and items(client) == [f"item {i}" for i in range(n % 3)]
            and sum(text.startswith(f"{name} ") for text in client.texts) == 1
        )
    )


@pytest.mark.parametrize("place", PLACES)
def test_places(serve: Serve, place: str) -> None:
    pages = """
        def board_page():
            board()
        def other_page():
            st.text("other")
    """
    server = serve(
        textwrap.dedent(BOARD) + textwrap.dedent(pages) + PLACES[place] + "\nst.text('below')\nst.button('rerun')\n"
    )

    async def steps(reader: Client, writer: Client) -> None:
        if place == "dialog":
            await reader.click("open")
        await shows_board(reader, 0)
        await reader.until(lambda client: client.settled)
        runs = reader.started
        for n in range(1, 6):
            await writer.click("plus")
            await shows_board(reader, n)
            if place != "dialog":
                await shows_board(writer, n)
            assert "below" in reader.texts
        if CAN_PUSH:
            assert reader.started == runs
        await reader.until(lambda client: client.settled)
        await reader.click("rerun")
        if place != "dialog":
            await shows_board(reader, 5)
        assert reader.exceptions == writer.exceptions == []

    with_clients(server, 2, steps)


def test_pages_of_a_multipage_app(serve: Serve) -> None:
    """The function is in a module that the pages share."""
    boards = """
        @live
        def board():
            st.text(f"board {server_state.get('n', 0)}")
    """
    page = "from boards import board\nboard()\nst.button('plus', on_click=lambda: atomic.increment('n'))\n"
    server = serve(page, boards=boards, **{"pages/other": f"{page}st.text('other page')\n"})

    async def steps() -> None:
        async with Client(server.websocket_url) as main, Client(server.websocket_url, page="other") as other:
            await main.shows("board 0")
            await other.shows("other page")
            for client in (main, other):
                await client.until(lambda client: client.settled)
            runs = other.started
            for n in range(1, 4):
                await main.click("plus")
                await other.shows(f"board {n}")
                await main.shows(f"board {n}")
            assert other.started == runs or not CAN_PUSH

    asyncio.run(steps())


@pushes
def test_equal_arguments_share_one_rendering(serve: Serve) -> None:
    server = serve(
        BOARD
        + """
        board()
        with st.columns(2)[0]:
            board(name="board")
        board("other")
        """
    )

    async def steps(*clients: Client) -> None:
        await clients[0].click("report")
        await clients[0].shows("calls 2")  # "board" and "other"
        for n in range(1, 4):
            await clients[0].click("plus")
            for client in clients:
                await client.until(
                    lambda client, n=n: client.texts.count(f"board {n}") == 2 and f"other {n}" in client.texts
                )
        await clients[0].click("report")
        await clients[0].shows("calls 8")
        async with Client(server.websocket_url) as late:  # it is given the newest rendering
            await late.shows("calls 8")
            await late.until(lambda client: client.texts.count("board 3") == 2 and "other 3" in client.texts)
            await clients[0].click("report")
            await clients[0].until(lambda client: client.settled)
            assert "calls 8" in clients[0].texts

    with_clients(server, 4, steps)


@pushes
def test_only_what_differs_is_sent(serve: Serve) -> None:
    """A change that does not change what is shown sends nothing."""
    server = serve("""
        @live
        def board():
            for i in range(10):
                st.text(f"line {i}")
            with st.columns(2)[1]:
                st.text(f"half {server_state.get('n', 0) // 2}")
            st.text("last")
        st.button("plus", on_click=lambda: atomic.increment("n"))
        board()
    """)

    async def steps(reader: Client, writer: Client) -> None:
        await reader.shows("half 0")
        deltas, runs = reader.deltas, reader.started
        for half in range(1, 6):
            for _ in range(2):
                await writer.click("plus")
                await writer.until(lambda client: client.settled)
            await reader.shows(f"half {half}")
            assert reader.deltas == deltas + half
        assert reader.started == runs

    with_clients(server, 2, steps)


def shape_of(rng: random.Random, depth: int = 3) -> list[object]:
    """Make up a list of texts and of blocks with such lists in them."""
    return [
        shape_of(rng, depth - 1) if depth and rng.random() < 0.4 else rng.randrange(100)
        for _ in range(rng.randrange(5))
    ]


def texts_of(shape: list[object]) -> list[str]:
    return [text for part in shape for text in (texts_of(part) if isinstance(part, list) else [f"part {part}"])]


def test_what_grows_shrinks_and_becomes_something_else(serve: Serve) -> None:
    rng = random.Random(16)
    shapes = [shape_of(rng) for _ in range(40)]
    server = serve(
        f"shapes, nests = {shapes!r}, {NESTS}\n"
        + textwrap.dedent("""
        def show(shape, deep=False):
            for part in shape:
                if not isinstance(part, list):
                    st.text(f"part {part}")
                    continue
                kind = len(part) % 4 if nests or not deep else 0
                with (
                    st.container() if kind == 0
                    else st.expander("more") if kind == 1
                    else st.columns(2)[1] if kind == 2
                    else st.empty().container()
                ):
                    show(part, deep=True)

        @live
        def board():
            st.text(f"number {server_state.get('n', 0)}")
            show(shapes[server_state.get("n", 0) % len(shapes)])
            st.text("last")

        st.button("plus", on_click=lambda: atomic.increment("n"))
        st.text("above")
        board()
        st.text("below")
    """)
    )

    async def steps(reader: Client, writer: Client) -> None:
        for n, shape in enumerate(shapes[1:], 1):
            await writer.click("plus")
            expected = ["above", f"number {n}", *texts_of(shape), "last", "below"]
            for client in (reader, writer):
                await client.until(lambda client, expected=expected: client.texts == expected)

    with_clients(server, 2, steps)


def test_a_block_that_changes_together_with_many_elements(serve: Serve) -> None:
    server = serve("""
        @live
        def board():
            n = server_state.get("n", 0)
            for i in range(200):
                st.text(f"number {n + i}")
            with st.expander(f"more {n}"):
                for i in range(5 - n):
                    st.text(f"inside {i}")
            with st.container(border=n % 2 == 0):
                for i in range(5 - n):
                    st.text(f"there {i}")
        st.button("plus", on_click=lambda: atomic.increment("n"))
        board()
    """)

    async def steps(reader: Client, writer: Client) -> None:
        for n in range(1, 5):
            await writer.click("plus")
            expected = [f"number {n + i}" for i in range(200)]
            expected += [f"{name} {i}" for name in ("inside", "there") for i in range(5 - n)]
            for client in (reader, writer):
                await client.until(lambda client, expected=expected: client.texts == expected)

    with_clients(server, 2, steps)


GATE = """
        @st.cache_resource
        def gate():
            return {name: threading.Event() for name in ("arrived", "open")}
        gate()
"""


def test_a_run_in_progress(serve: Serve) -> None:
    """Nothing is written into it, because its layout may differ. It ends up with the newest rendering."""
    server = serve(
        GATE
        + BOARD
        + """
        slow = st.button("slow")
        if slow:
            st.text("above")
        board()
        if slow:
            gate()["arrived"].set()
            assert gate()["open"].wait(20)
        if st.button("open"):
            gate()["open"].set()
        st.text("slow run" if slow else "quick run")
        """
    )

    async def steps(slow: Client, writer: Client, reader: Client) -> None:
        await slow.click("slow")
        await slow.shows("above")
        for n in (1, 2, 3):
            await writer.click("plus")
            await shows_board(reader, n)
        assert "board 0" in slow.texts
        await writer.click("open")
        await slow.shows("slow run")
        await shows_board(slow, 3)
        assert slow.texts.index("above") < slow.texts.index("board 3")
        await writer.click("plus")
        await shows_board(slow, 4)
        assert "slow run" in slow.texts or not CAN_PUSH

    with_clients(server, 3, steps)


def test_a_region_that_is_no_longer_shown(serve: Serve) -> None:
    server = serve(BOARD + "        if st.toggle('on', value=True):\n            board()\n        st.text('below')\n")

    async def steps(client: Client, other: Client) -> None:
        await client.switch("on", on=False)
        await client.until(lambda client: "board 0" not in client.texts and client.settled)
        deltas = client.deltas
        for n in (1, 2):
            await other.click("plus")
            await shows_board(other, n)
        assert client.deltas == deltas or not CAN_PUSH
        assert [text for text in client.texts if "board" in text or "item" in text] == []
        await client.switch("on", on=True)
        await shows_board(client, 2)
        await other.click("plus")
        await shows_board(client, 3)

    with_clients(server, 2, steps)


WAYS = {
    "reruns": "if pressed and st.session_state.runs % 2: st.rerun()",
    "stops": "if pressed: st.stop()",
    "raises": "if pressed: raise ValueError('on purpose')",
    "waits": "if pressed:\n    st.text('waits')\n    wait_for('never', timeout=30)",
    "shows more": "if pressed: st.text('more')",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["button", "clicks", "stop"])
def test_interrupted_runs(serve: Serve, way: str, end: str) -> None:
    """However a run ends, the page shows the newest rendering afterwards, where the last run has shown the region."""
    server = serve(
        textwrap.dedent(BOARD)
        + textwrap.dedent("""
            st.session_state.runs = st.session_state.get("runs", 0) + 1
            pressed = st.button("press")
        """)
        # An old fragment stays where it was, if the run that moves it is interrupted.
        + (f"for _ in range(st.session_state.runs % 3 if {CAN_PUSH} else 1):\n    st.text('above')\nboard()\n")
        + WAYS[way]
        + "\nst.text('below')\n"
    )

    async def steps(client: Client, other: Client) -> None:
        n = 0
        for _ in range(3):
            for _ in range(1 if end == "button" else 5):
                await client.click("press")
                await other.click("plus")
                n += 1
                await shows_board(other, n)
            if end == "stop" or (end == "button" and way == "waits"):
                await client.stop()
            elif way == "waits":
                await client.click("report")
            await shows_board(client, n)
            await other.click("plus")
            n += 1
            await shows_board(client, n)
            await shows_board(other, n)

    with_clients(server, 2, steps)


@pytest.mark.parametrize("place", ["body", "fragment", "nested fragment"])
def test_a_returning_session(serve: Serve, place: str) -> None:
    """It is brought up to date, however often it returns, and whether or not it has received the last message."""
    server = serve(textwrap.dedent(BOARD) + PLACES[place] + "\nst.text('below')\n")

    async def steps(client: Client, other: Client) -> None:
        for n in range(3, 31, 3):
            session_id = client.session_id
            for i in (2, 1):
                await other.click("plus")
                await shows_board(other, n - i)
            reconnecting = asyncio.create_task(client.reconnect())
            await other.click("plus")
            await shows_board(other, n)
            await reconnecting
            await shows_board(client, n)
            assert client.session_id == session_id

    with_clients(server, 2, steps)


@pushes
def test_a_slow_client(serve: Serve) -> None:
    """It stays connected, and gets the newest rendering once it reads again. The others do not wait for it."""
    server = serve("""
        @st.cache_resource
        def rendered():
            return [threading.Event() for _ in range(51)]

        @live
        def board():
            n = server_state.get("n", 0)
            st.text(f"n {n}")
            st.code(f"{n} " * 200_000)
            rendered()[n].set()

        def write():
            for n in range(1, 50):
                server_state["n"] = n
                assert rendered()[n].wait(20)

        st.button("start", on_click=lambda: threading.Thread(target=write).start())
        st.button("plus", on_click=lambda: atomic.increment("n"))
        board()
    """)

    async def steps(slow: Client, writer: Client) -> None:
        runs, deltas = slow.started, slow.deltas
        slow.pause()
        await writer.click("start")
        await writer.shows("n 49")
        slow.resume()
        await slow.shows("n 49")
        assert slow.deltas - deltas < 80  # of two for each rendering
        assert slow.started == runs
        await writer.click("plus")
        await slow.shows("n 50")

    with_clients(server, 2, steps)


def test_own_writes(serve: Serve) -> None:
    server = serve(
        BOARD
        + """
        if st.button("before"):
            atomic.increment("n")
        board()
        if st.button("after"):
            atomic.increment("n")
        @st.fragment
        def part():
            if st.button("part"):
                atomic.increment("n")
        part()
        """
    )

    async def steps(client: Client) -> None:
        for n, label in enumerate(("plus", "before", "after", "part") * 3, 1):
            await client.click(label)
            await shows_board(client, n)
            await client.until(lambda client: client.settled)

    with_clients(server, 1, steps)


def test_a_dialog_that_is_closed(serve: Serve) -> None:
    server = serve(textwrap.dedent(BOARD) + PLACES["dialog"] + "\nst.button('close')\n")

    async def steps(client: Client, other: Client) -> None:
        n = 0
        for _ in range(3):
            await client.click("open")
            await shows_board(client, n)
            await other.click("plus")
            n += 1
            await shows_board(client, n)
            await client.click("close")
            await client.until(lambda client, n=n: f"board {n}" not in client.texts and client.settled)
            await other.click("plus")
            n += 1
            await other.until(lambda client: client.settled)
        assert not items(client)

    with_clients(server, 2, steps)


@pytest.mark.skipif("parallel" not in inspect.signature(st.fragment).parameters, reason="needs Streamlit 1.58")
def test_parallel_fragments(serve: Serve) -> None:
    server = serve(
        BOARD
        + """
        @st.fragment(parallel=True)
        def part(name):
            st.text(f"above {name}")
            board(name)
        for name in "abcd":
            part(name)
        """
    )

    async def steps(client: Client, other: Client) -> None:
        runs = client.started
        for n in range(1, 6):
            await other.click("plus")
            for each in (client, other):
                await each.until(
                    lambda client, n=n: (
                        all(f"{name} {n}" in client.texts for name in "abcd") and len(items(client)) == 4 * (n % 3)
                    )
                )
        assert client.started == runs

    with_clients(server, 2, steps)


def test_exceptions(serve: Serve) -> None:
    """They are shown to every session, logged once, and gone with the next good rendering."""
    # What is logged about a fragment names files of this package, which `serve` refuses.
    options = {} if CAN_PUSH else {"logger.level": "critical"}
    server = serve(
        """
        @live
        def board():
            n = server_state.get("n", 0)
            st.text(f"n {n}")
            if n % 3:
                raise ValueError("on " + "purpose")
            st.text("good")
        st.button("plus", on_click=lambda: atomic.increment("n"))
        board()
        st.text("below")
        """,
        options=options,
    )

    async def steps(*clients: Client) -> None:
        for n in range(1, 7):
            await clients[0].click("plus")
            for client in clients:
                await client.shows(f"n {n}")
                await client.until(
                    lambda client, n=n: client.exceptions == (["ValueError: on purpose"] if n % 3 else [])
                )
                assert ("good" in client.texts) == (n % 3 == 0)
                assert "below" in client.texts
        if CAN_PUSH:
            assert server.output.count("on purpose") == 2  # 1 and 2 show the same one, as do 4 and 5

    with_clients(server, 3, steps)


@pushes
def test_a_function_that_hangs(serve: Serve) -> None:
    """It delays neither other regions nor other sessions, and the log names it."""
    server = serve("""
        from fastserverstate import workers

        @st.cache_resource
        def gate():
            workers.LONG_TASK, workers.HANGING_TASK = 0.05, 0.5
            return threading.Event()

        @live
        def hangs(i):
            hanging = server_state.get("hanging")
            if hanging:
                gate().wait(60)
            st.text(f"region {i}: {hanging}")

        @live
        def board():
            st.text(f"n {server_state.get('n', 0)}")

        gate()
        st.button("plus", on_click=lambda: atomic.increment("n"))
        st.button("hang", on_click=lambda: server_state.update(hanging=True))
        st.button("return", on_click=lambda: gate().set())
        if not st.query_params.get("writes"):  # whose runs would render the regions themselves
            for i in range(workers.MOST_THREADS + 2):
                hangs(i)
            board()
        st.text("ready")
    """)

    async def steps(client: Client) -> None:
        async with Client(server.websocket_url, query="writes=yes") as writer:
            await writer.shows("ready")
            await writer.until(lambda client: client.settled)
            await writer.click("hang")
            await writer.until(lambda client: client.settled)
            n = 0
            while "The live region hangs(0) has been running for" not in server.output:
                n += 1
                await writer.click("plus")
                await client.shows(f"n {n}")
                assert "region 0: None" in client.texts
            await writer.click("return")
            await client.shows("region 0: True")
            await client.until(lambda client: "region 3: True" in client.texts)
            await client.until(lambda client: not any("None" in text for text in client.texts))

    with_clients(server, 1, steps)


@pushes
def test_a_first_rendering_that_hangs(serve: Serve) -> None:
    """Only the session that shows it waits."""
    server = serve("""
        @st.cache_resource
        def gate():
            return threading.Event()

        @live
        def hangs():
            gate().wait(60)
            st.text(f"returned with {server_state.get('n', 0)}")

        @live
        def board():
            st.text(f"n {server_state.get('n', 0)}")

        st.button("plus", on_click=lambda: atomic.increment("n"))
        st.button("return", on_click=lambda: gate().set())
        board()
        if st.button("hang"):
            st.text("waits")
            hangs()
    """)

    async def steps(client: Client, other: Client, third: Client) -> None:
        await client.click("hang")
        await client.shows("waits")
        for n in range(1, 4):
            await other.click("plus")
            await other.shows(f"n {n}")
            await third.shows(f"n {n}")
        await other.click("return")
        await client.shows("returned with 3")
        await client.shows("n 3")

    with_clients(server, 3, steps)


@pushes
def test_every(serve: Serve) -> None:
    """The function is called at most that often, and shows the last value in the end."""
    server = serve("""
        @st.cache_resource
        def times():
            return []

        @live(every="100ms")
        def board():
            times().append(time.monotonic())
            st.text(f"n {server_state.get('n', 0)}")

        @live(every=60)
        def seldom():
            times().append(0)
            st.text(f"seldom {server_state.get('n', 0)}")

        def write():
            began = time.monotonic()
            for n in range(1, 301):
                server_state["n"] = n
                time.sleep(0.002)
            ended = time.monotonic()
            calls = sum(began <= t <= ended for t in times())
            # Calls are noted a little later, so some from before the beginning may count.
            server_state["report"] = f"rare {calls <= (ended - began) / 0.1 + 3} calls {calls}"

        if st.button("start"):
            threading.Thread(target=write).start()
        board()
        seldom()
        st.text(f"{server_state.get('report')} seldom {times().count(0)}")
    """)

    async def steps(client: Client, other: Client) -> None:
        await client.click("start")
        for each in (client, other):
            await each.shows("n 300")
        assert "seldom 0" in other.texts
        await client.until(lambda client: client.settled and "calls" in client.texts[-1])
        words = client.texts[-1].split()
        assert words[1] == "True"
        assert int(words[3]) > 3
        assert words[5] == "1"  # neither for changes nor for runs

    with_clients(server, 2, steps)


def test_writes_while_the_function_runs(serve: Serve) -> None:
    server = serve(
        GATE
        + """
        events = gate()

        @live
        def board():
            n = server_state.get("n", 0)
            if n == 1:
                events["arrived"].set()
                events["open"].wait(20)
            st.text(f"n {n}")
            st.text(f"again {server_state.get('n', 0)}")

        def race():
            def write():
                server_state["n"] = 1
                assert events["arrived"].wait(20)
                server_state["n"] = 2
                events["open"].set()
            threading.Thread(target=write).start()

        st.button("race", on_click=race)
        board()
        """
    )

    async def steps(client: Client, other: Client) -> None:
        await other.click("race")
        for each in (client, other):
            await each.until(lambda client: {"n 2", "again 2"} <= {*client.texts})

    with_clients(server, 2, steps)


def test_a_function_that_shows_a_computed_value(serve: Serve) -> None:
    server = serve("""
        @st.cache_resource
        def calls():
            return []

        @computed
        def half():
            return server_state.get("n", 0) // 2

        @live
        def board():
            calls().append(1)
            st.text(f"half {half()}")

        st.button("plus", on_click=lambda: atomic.increment("n"))
        board()
        st.text(f"calls {len(calls())}")
    """)

    async def steps(client: Client, other: Client) -> None:
        for half in (1, 2, 3):
            for _ in range(2):
                await client.click("plus")
                await client.until(lambda client: client.settled)
            await client.shows(f"half {half}")
            await other.shows(f"half {half}")
        async with Client(server.websocket_url) as late:
            await late.until(lambda client: client.settled)
            assert shown(late, "calls") == 4 or not CAN_PUSH

    with_clients(server, 2, steps)


def test_live_inside_live(serve: Serve) -> None:
    """The inner function is a part of the outer one's rendering."""
    server = serve(
        BOARD
        + """
        @live
        def outer():
            with st.container():
                board()
            st.text(f"outer {server_state.get('n', 0)}")
        outer()
        """
    )

    async def steps(client: Client, other: Client) -> None:
        for n in range(1, 4):
            await client.click("plus")
            for each in (client, other):
                await shows_board(each, n)
                await each.shows(f"outer {n}")

    with_clients(server, 2, steps)


SCRIPT = """
import streamlit as st
from fastserverstate import atomic, live, server_state

@live
def board(name):
    st.text(f"{name} {server_state.get('n', 0)}")

if st.button("plus"):
    atomic.increment("n")
board("n")
"""


@pytest.mark.skipif(not hasattr(st, "App"), reason="needs st.App")
def test_uvicorn(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(SCRIPT)
    (tmp_path / "service.py").write_text("import streamlit as st\napp = st.App('main.py')\n")

    async def steps(client: Client, other: Client) -> None:
        runs = other.started
        for n in (1, 2, 3):
            await client.click("plus")
            await other.shows(f"n {n}")
            await client.shows(f"n {n}")
        assert other.started == runs

    with uvicorn_run(tmp_path) as server:
        with_clients(server, 2, steps)


def test_app_test() -> None:
    """It calls the function."""
    app = AppTest.from_string(SCRIPT.replace("'n'", "'live in AppTest'").replace('("n")', '("live in AppTest")')).run()
    assert app.text[0].value == "live in AppTest 0"
    app.button[0].click().run()
    assert app.text[0].value == "live in AppTest 1"
    assert not app.exception


def test_plain_python(tmp_path: Path) -> None:
    """It calls the function."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            from fastserverstate import live, server_state

            @live
            def board(name):
                print(name, server_state.get("n", 0))

            board("n")
            server_state["n"] = 1
            board(name="n")
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["n 0", "n 1"]
