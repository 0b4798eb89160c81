"""Who is online, on a real server: joins, closed tabs, lost connections, pages, live regions, agents."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from pathlib import Path

import pytest
import streamlit
from harness.client import Client
from harness.server import AppServer, uvicorn_run
from harness.steps import Serve, with_clients
from runtime.conftest import PRELUDE

from fastserverstate._streamlit.names import CAN_PUSH
from fastserverstate.presence import GRACE

ROOM = """
        name = st.query_params.get("name")
        st.button("run")
        here = st.checkbox("here", value=True)
        st.session_state["runs"] = st.session_state.get("runs", 0) + 1
        if name and here:
            join("room", name=name, run=st.session_state["runs"] if st.checkbox("count") else 0)
        visitors = online("room")
        st.text(" ".join(["room", *sorted(visitor.name for visitor in visitors)]))
        st.text(" ".join(["me", *(visitor.name for visitor in visitors if visitor.is_me)]))
        st.text(f"runs {st.session_state['runs']}")
        st.text(f"counted {sum(visitor.run for visitor in visitors)}")
"""


def visitor(server: AppServer, name: str) -> Client:
    return Client(server.websocket_url, query=f"name={name}")


async def settle(*clients: Client) -> None:
    for client in clients:
        await client.until(lambda client: client.settled)


def test_sessions_see_who_comes_and_who_closes_the_tab(serve: Serve) -> None:
    server = serve(ROOM)

    async def steps() -> None:
        async with visitor(server, "") as watcher, visitor(server, "Ann") as ann:
            await watcher.shows("room Ann")
            await watcher.shows("me")
            await ann.shows("me Ann")
            async with visitor(server, "Bob") as bob:
                for client in (watcher, ann, bob):
                    await client.shows("room Ann Bob")
                closed = time.monotonic()
                await bob.close_tab()
                await watcher.shows("room Ann")
                assert time.monotonic() - closed < GRACE, "A closed tab has no grace."
            await ann.switch("here", on=False)
            await watcher.shows("room")
            await ann.shows("room")

    asyncio.run(steps())


def test_session_is_not_rerun_for_its_own_join(serve: Serve) -> None:
    server = serve(ROOM)

    async def steps() -> None:
        async with visitor(server, "Ann") as ann:
            await ann.shows("room Ann")
            await settle(ann)
            async with visitor(server, "Bob") as bob:
                await ann.shows("runs 2")
                await settle(ann, bob)
                for _ in range(3):
                    await ann.click("run")
                    await settle(ann, bob)
                assert "runs 5" in ann.texts
                assert "runs 1" in bob.texts, server.output

    asyncio.run(steps())


def test_change_of_a_field_updates_the_others(serve: Serve) -> None:
    server = serve(ROOM)

    async def steps() -> None:
        async with visitor(server, "Ann") as ann, visitor(server, "Bob") as bob:
            await ann.shows("room Ann Bob")
            await bob.switch("count", on=True)
            await settle(bob)
            await bob.click("run")
            await bob.until(lambda bob: bob.settled)
            counted = next(text for text in bob.texts if text.startswith("counted"))
            await ann.shows(counted)
            assert counted != "counted 0"

    asyncio.run(steps())


CIRCLES = {
    "fields": """
        join("room", seen=time.time_ns())
        st.text(f"{len(online('room'))} visitors")
    """,
    "fields in a transaction": """
        with transaction("key"):
            join("room", seen=time.time_ns())
        st.text(f"{len(online('room'))} visitors")
    """,
    "leaving": """
        visitors = online("room")
        st.text(f"{len(visitors)} visitors")
        if not visitors:
            join("room")
    """,
}


@pytest.mark.parametrize("circle", CIRCLES.values(), ids=CIRCLES)
def test_joins_that_differ_between_runs_cause_no_endless_reruns(serve: Serve, circle: str) -> None:
    server = serve('        st.button("run")\n' + circle)

    async def steps(*clients: Client) -> None:
        await settle(*clients)
        await clients[0].click("run")
        while "would never end" not in server.output:
            await asyncio.sleep(0.01)
        await settle(*clients)
        assert sum(client.started for client in clients) < 50

    with_clients(server, 2, steps)
    assert "join('room', ...) differs between runs" in server.output


def test_lost_connection_is_shown_after_the_grace_and_a_return_immediately(serve: Serve) -> None:
    server = serve(ROOM)

    async def steps() -> None:
        async with visitor(server, "") as watcher, visitor(server, "Ann") as ann:
            await watcher.shows("room Ann")
            runs = watcher.started
            for _ in range(3):
                await ann.reconnect()
                await ann.rerun()
                await settle(ann)
            assert watcher.started == runs, "A short loss is not shown."
            lost = time.monotonic()
            ann.lose_connection()
            await watcher.shows("room")
            assert time.monotonic() - lost >= GRACE
            await ann.reconnect()
            await watcher.shows("room Ann")

    asyncio.run(steps())


def test_script_that_calls_stop_leaves(serve: Serve) -> None:
    server = serve("""
        name = st.query_params.get("name")
        if st.checkbox("locked"):
            st.stop()
        if name:
            join("room", name=name)
        st.text(" ".join(["room", *(visitor.name for visitor in online("room"))]))
    """)

    async def steps() -> None:
        async with visitor(server, "") as watcher, visitor(server, "Ann") as ann:
            await watcher.shows("room Ann")
            await settle(watcher, ann)
            await ann.switch("locked", on=True)
            await watcher.shows("room")

    asyncio.run(steps())


def test_fragments_join_by_themselves(serve: Serve) -> None:
    server = serve("""
        @st.fragment
        def typing(name):
            if st.text_input("message"):
                join("typing", name=name)
        name = st.query_params.get("name")
        typing(name)
        st.button("run")
        st.text(" ".join(["typing", *(visitor.name for visitor in online("typing"))]))
    """)

    async def steps() -> None:
        async with visitor(server, "Ann") as ann, visitor(server, "Bob") as bob:
            await settle(ann, bob)
            await ann.enter("message", "Hel")
            await bob.shows("typing Ann")
            await ann.click("run")
            await settle(ann)
            assert "typing Ann" in bob.texts
            await ann.enter("message", "")
            await bob.shows("typing")

    asyncio.run(steps())


@pytest.mark.skipif(not CAN_PUSH, reason="browsers of this Streamlit release draw only what runs send")
def test_live_region_shows_who_is_online_without_runs(serve: Serve) -> None:
    server = serve("""
        @live
        def everybody():
            st.text(f"online {len(online())} me {sum(visitor.is_me for visitor in online())}")
        everybody()
    """)

    async def steps() -> None:
        async with Client(server.websocket_url) as first:
            await first.shows("online 1 me 0")
            async with Client(server.websocket_url) as second:
                await first.shows("online 2 me 0")
                await second.shows("online 2 me 0")
                await second.close_tab()
            await first.shows("online 1 me 0")
            assert first.started == 1

    asyncio.run(steps())


def test_pages_of_all_sessions(serve: Serve) -> None:
    """Also of those whose page does not use shared state."""
    server = serve(
        """
        def home():
            st.text("pages " + " ".join(sorted(visitor.page or "home" for visitor in online())))
        st.navigation([st.Page(home, title="Home"), st.Page("plain.py", title="Plain")]).run()
        """,
        plain='st.text("plain")',
    )

    async def steps() -> None:
        async with Client(server.websocket_url) as watcher:
            await watcher.shows("pages home")
            async with Client(server.websocket_url, page="plain") as other:
                await other.shows("plain")
                await watcher.shows("pages home plain")
            await watcher.shows("pages home")

    asyncio.run(steps())


@pytest.mark.skipif(not hasattr(streamlit, "App"), reason="this Streamlit release has no st.App")
def test_closed_tab_is_gone_from_an_app_under_uvicorn(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(PRELUDE + 'st.text(f"online {len(online())}")\n')
    (tmp_path / "service.py").write_text('import streamlit as st\napp = st.App("page.py")\n')

    async def steps(first: Client, second: Client) -> None:
        await first.shows("online 2")
        closed = time.monotonic()
        await second.close_tab()
        await first.shows("online 1")
        assert time.monotonic() - closed < GRACE

    with uvicorn_run(tmp_path) as server:
        with_clients(server, 2, steps)


@pytest.mark.skipif(not hasattr(streamlit, "App"), reason="this Streamlit release has no agent API")
def test_agents_are_marked(serve: Serve) -> None:
    server = serve(
        """
        st.text("agents " + " ".join(sorted(str(visitor.is_agent) for visitor in online())))
        """,
        options={"server.enableAgentApi": "true"},
    )

    async def steps(browser: Client) -> None:
        await browser.shows("agents False")
        request = urllib.request.Request(
            f"{server.url}/_stcore/agent/interact",
            data=json.dumps({}).encode(),
            headers={"Content-Type": "application/json"},
        )
        reply = await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=30).read())
        assert b"agents False True" in reply
        await browser.shows("agents False True")

    with_clients(server, 1, steps)


def test_joins_outside_of_runs_are_explained(serve: Serve) -> None:
    server = serve("""
        @st.cache_resource
        def by_thread():
            errors = []
            def call():
                try:
                    join("room")
                except Exception as error:
                    errors.append(error)
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            return errors, len(online("room"))
        st.text(by_thread())
        @computed
        def value():
            join("room")
        try:
            value()
        except FastServerStateError as error:
            st.text(f"computed: {error}")
    """)

    async def steps(client: Client) -> None:
        await client.until(lambda client: any("this thread runs no session's script" in text for text in client.texts))
        await client.until(lambda client: any("join('room') concerns one session" in text for text in client.texts))

    with_clients(server, 1, steps)


def test_events_to_a_group_reach_its_members_only(serve: Serve) -> None:
    server = serve("""
        name = st.query_params["name"]
        st.session_state.heard = st.session_state.get("heard", "") + "".join(events("news"))
        st.session_state.runs = st.session_state.get("runs", 0) + 1
        if st.checkbox("here", value=name != "Cleo"):
            join("room", name=name)
        st.button("all", on_click=emit, args=("news", "a"))
        st.button("room", on_click=emit, args=("news", "r"), kwargs={"to": "room"})
        st.text(f"heard {st.session_state.heard} in {st.session_state.runs}")
    """)

    async def steps() -> None:
        async with visitor(server, "Ann") as ann, visitor(server, "Bob") as bob, visitor(server, "Cleo") as cleo:
            await ann.shows("heard  in 1")
            await settle(ann, bob, cleo)
            await ann.click("room")
            await ann.until(lambda ann: any("heard r" in text for text in ann.texts))
            await bob.shows("heard r in 2")
            await cleo.click("all")
            await bob.shows("heard ra in 3")
            await settle(ann, bob, cleo)
            assert cleo.texts == ["heard a in 2"]
            await cleo.switch("here", on=True)
            await settle(cleo)
            await bob.switch("here", on=False)
            await settle(bob)
            await ann.click("room")
            await cleo.until(lambda cleo: any("heard ar" in text for text in cleo.texts))
            await settle(ann, bob, cleo)
            assert "heard ra in" in bob.texts[0]

    asyncio.run(steps())


def test_end_of_a_session_tells_its_fields(serve: Serve) -> None:
    server = serve("""
        import os

        @on_session_end
        def end(session):
            os.write(1, f"ended {dict(session.fields)}\\n".encode())

        join("room", name="Ann")
        join("list", row=3)
        if st.button("close"):
            from streamlit.runtime import Runtime
            from streamlit.runtime.scriptrunner import get_script_run_ctx
            me = get_script_run_ctx().session_id
            loop = Runtime.instance()._session_mgr.get_active_session_info(me).session._event_loop
            loop.call_soon_threadsafe(Runtime.instance().close_session, me)
        st.text("shown")
    """)

    async def steps(client: Client) -> None:
        await client.shows("shown")
        await client.until(lambda client: client.settled)
        await client.click("close")
        async with asyncio.timeout(20):
            while "ended {'name': 'Ann', 'row': 3}" not in server.output:
                await asyncio.sleep(0.01)

    with_clients(server, 1, steps)
