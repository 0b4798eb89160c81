"""The scope to which a read belongs, for every kind of scope in Streamlit."""

from __future__ import annotations

import inspect

import pytest
import streamlit as st
from harness.client import Client
from harness.steps import FENCE, Serve, fence, with_clients
from streamlit.runtime.fragment import MemoryFragmentStorage

# Every scope counts its own executions in its session, and shows the count.
COUNTING = """
        def count(region):
            counts = st.session_state.setdefault("counts", {})
            counts[region] = counts.get(region, 0) + 1
            st.text(f"{region} ran {counts[region]}")
        def plus(key):
            if st.button(f"plus {key}"):
                server_state[key] = server_state.get(key, 0) + 1
"""

WRITER = """
        if st.query_params.get("role") == "writer":
            for key in ("body", "outer", "inner"):
                plus(key)
            st.stop()
"""


def nested(decorator: str = "st.fragment") -> str:
    return (
        COUNTING
        + WRITER
        + f"""
        count("the body")
        st.text(f"body {{server_state.get('body', 0)}}")
        @{decorator}
        def outer():
            count("the outer")
            st.text(f"outer {{server_state.get('outer', 0)}}")
            inner()
        @st.fragment
        def inner():
            count("the inner")
            st.text(f"inner {{server_state.get('inner', 0)}}")
        outer()
        """
    )


@pytest.mark.parametrize("decorator", ["st.fragment", "st.fragment(parallel=True)"])
def test_nested_fragments(serve: Serve, decorator: str) -> None:
    if "parallel" in decorator and "parallel" not in inspect.signature(st.fragment).parameters:
        pytest.skip("this Streamlit release has no parallel fragments")
    server = serve(nested(decorator))

    async def steps(client: Client) -> None:
        async with Client(server.websocket_url, query="role=writer") as writer:
            await writer.until(lambda client: client.settled)
            ran = {"body": 1, "outer": 1, "inner": 1}
            for turn in (1, 2):
                for key, affected in (("inner", ["inner"]), ("outer", ["outer", "inner"]), ("body", list(ran))):
                    await writer.click(f"plus {key}")
                    await client.shows(f"{key} {turn}")
                    for each in (client, writer):  # Streamlit may lose a click that interrupts the writer's last run
                        await each.until(lambda client: client.settled)
                    for region in affected:
                        ran[region] += 1
                    for region, runs in ran.items():
                        assert f"the {region} ran {runs}" in client.texts

    with_clients(server, 1, steps)


@pytest.mark.skipif(
    not hasattr(MemoryFragmentStorage, "clear_stale_descendants"),
    reason="this Streamlit release keeps such a fragment until the next full run",
)
def test_a_nested_fragment_that_was_left_out_costs_nothing(serve: Serve) -> None:
    server = serve(
        COUNTING
        + """
        if st.query_params.get("role") == "writer":
            plus("inner")
        """
        + FENCE
        + """
        @st.fragment
        def outer():
            if not st.button("leave out"):
                inner()
        @st.fragment
        def inner():
            st.text(f"inner {server_state.get('inner', 0)}")
        if st.query_params.get("role") != "writer":
            outer()
        """
    )

    async def steps(client: Client) -> None:
        async with Client(server.websocket_url, query="role=writer") as writer:
            await writer.until(lambda client: client.settled)
            await client.click("leave out")
            await client.until(lambda client: client.fragment_runs == 1)
            await writer.click("plus inner")
            await fence(writer, client)
            assert (client.started, client.fragment_runs) == (3, 1)

    with_clients(server, 1, steps)


def test_a_nested_fragment_that_no_longer_reads_depends_on_nothing(serve: Serve) -> None:
    server = serve(
        """
        if st.query_params.get("role") == "writer" and st.button("write"):
            server_state["k"] = time.time()
        """
        + FENCE
        + """
        @st.fragment
        def outer():
            st.session_state.quiet = st.button("be quiet")
            inner()
        @st.fragment
        def inner():
            st.text("quiet" if st.session_state.quiet else f"k {server_state.get('k')}")
        if st.query_params.get("role") != "writer":
            outer()
        """
    )

    async def steps(client: Client) -> None:
        async with Client(server.websocket_url, query="role=writer") as writer:
            await writer.until(lambda client: client.settled)
            await client.click("be quiet")
            await client.shows("quiet")
            await client.until(lambda client: client.settled)
            await writer.click("write")
            await fence(writer, client)
            assert (client.started, client.fragment_runs) == (3, 1)

    with_clients(server, 1, steps)


def test_run_every(serve: Serve) -> None:
    """A fragment on a timer follows writes between its ticks as well."""
    server = serve(
        COUNTING
        + """
        count("the body")
        if st.query_params.get("role") == "writer":
            plus("ticking")
        @st.fragment(run_every=3600)
        def ticking():
            st.text(f"ticking {server_state.get('ticking', 0)}")
        ticking()
        """
    )

    async def steps(client: Client) -> None:
        async with Client(server.websocket_url, query="role=writer") as writer:
            await writer.until(lambda client: client.settled)
            for i in (1, 2, 3):
                await writer.click("plus ticking")
                await client.shows(f"ticking {i}")
            assert "the body ran 1" in client.texts

    with_clients(server, 1, steps)


def test_a_dialog_is_rerun_alone(serve: Serve) -> None:
    """A full rerun would close the dialog."""
    server = serve(
        COUNTING
        + """
        count("the body")
        if st.query_params.get("role") == "writer":
            plus("inside")
        @st.dialog("Details")
        def details():
            name = st.text_input("name")
            st.text(f"inside {server_state.get('inside', 0)} {name or 'unnamed'}")
        if st.button("open"):
            details()
        """
    )

    async def steps(client: Client) -> None:
        async with Client(server.websocket_url, query="role=writer") as writer:
            await writer.until(lambda client: client.settled)
            await client.click("open")
            await client.shows("inside 0 unnamed")
            await client.enter("name", "Ada")
            await client.shows("inside 0 Ada")
            for i in (1, 2):
                await writer.click("plus inside")
                await client.shows(f"inside {i} Ada")
            assert "the body ran 2" in client.texts

    with_clients(server, 1, steps)


def test_a_callback_in_a_fragment_belongs_to_the_fragment(serve: Serve) -> None:
    """It reads and writes a key that the body does not show, so the body does not rerun."""
    server = serve(
        COUNTING
        + """
        count("the body")
        def add():
            server_state["n"] = server_state.get("n", 0) + 1
        @st.fragment
        def part():
            st.button("add", on_click=add)
            st.text(f"n {server_state.get('n', 0)}")
        part()
        """
    )

    async def steps(client: Client, other: Client) -> None:
        for i in (1, 2, 3):
            await client.click("add")
            await client.shows(f"n {i}")
            await other.shows(f"n {i}")
            for each in (client, other):
                assert "the body ran 1" in each.texts

    with_clients(server, 2, steps)


def test_pages_folder(serve: Serve) -> None:
    """Multipage apps with a pages folder: a session on another page is rerun for the keys that this page reads."""
    server = serve(
        """
        st.text("main")
        if st.button("plus"):
            server_state["n"] = server_state.get("n", 0) + 1
        if st.button("go"):
            st.switch_page("pages/second.py")
        """,
        **{"pages/second": "st.text(f\"second {server_state.get('n', 0)}\")"},
    )

    async def steps(client: Client, writer: Client) -> None:
        await client.click("go")
        await client.shows("second 0")
        for i in (1, 2):
            await writer.click("plus")
            await client.shows(f"second {i}")
        assert client.texts == ["second 2"]

    with_clients(server, 2, steps)
