"""Sessions that leave, reconnect and change pages, and user input that a rerun must not change."""

from __future__ import annotations

import asyncio

from harness.client import Client
from harness.steps import FENCE, Serve, fence, with_clients

COUNTS = """
        import gc
        from fastserverstate._instances import store
        if st.button("collect"):
            gc.collect()
        st.text(f"scopes {store.statistics()['scopes']}")
"""


def test_a_session_that_comes_back_shows_current_values(serve: Serve) -> None:
    """It does not run while it has no connection, and is refreshed when its connection is back."""
    server = serve(
        """
        @st.cache_resource
        def runs():
            return {}
        mine = st.session_state.setdefault("name", f"session {len(runs())}")
        runs()[mine] = runs().get(mine, 0) + 1
        if st.button("write"):
            server_state["k"] = server_state.get("k", 0) + 1
        st.text(f"k {server_state.get('k')}")
        if st.button("report"):
            st.text(f"runs {runs()}")
        """
        + FENCE
    )

    async def steps(writer: Client) -> None:
        async with Client(server.websocket_url) as client:
            await client.shows("k None")
            await client.until(lambda client: client.finished == 1)
            session = client.session_id
        for i in (1, 2, 3):
            await writer.click("write")
            await writer.shows(f"k {i}")
        await fence(writer)
        await writer.click("report")
        await writer.until(lambda client: any("'session 1': 1" in text for text in client.texts))
        async with Client(server.websocket_url, resume=session) as client:
            await client.shows("k 3")
            assert client.session_id == session

    with_clients(server, 1, steps)


def test_closed_sessions_depend_on_nothing(serve: Serve) -> None:
    """Defect 6. Streamlit's garbage collection frees a closed session together with ours."""
    server = serve("st.text(f\"k {server_state.get('k')}\")\n" + COUNTS.replace("\n        ", "\n"))

    async def steps(client: Client) -> None:
        for _ in range(130):  # Streamlit keeps 128 disconnected sessions
            async with Client(server.websocket_url) as other:
                await other.until(lambda client: client.finished == 1)
        # Streamlit drops sessions above its limit when others connect, and a garbage collection frees them.
        for _ in range(20):
            runs = client.finished
            await client.click("collect")
            await client.until(lambda client, n=runs: client.finished > n)
            scopes = next(int(text.split()[1]) for text in client.texts if text.startswith("scopes"))
            if scopes <= 129:
                break
        assert scopes <= 129

    with_clients(server, 1, steps)


def test_a_left_page_depends_on_nothing(serve: Serve) -> None:
    """Defect 6: a user who has left a chat room is not rerun for its messages."""
    server = serve(
        """
        room = st.text_input("room")
        if room:
            st.text(f"{room} {server_state.get(room)}")
        target = st.text_input("write to")
        if st.button("write"):
            server_state[target] = time.time()
        """
        + FENCE
    )

    async def steps(client: Client, writer: Client) -> None:
        await client.enter("room", "one")
        await client.shows("one None")
        await client.enter("room", "two")
        await client.shows("two None")
        await client.until(lambda client: client.settled)
        await writer.enter("write to", "one")
        await writer.until(lambda client: client.finished == 2)
        runs = client.started
        await writer.click("write")
        await fence(writer, client)
        assert client.started == runs + 1

    with_clients(server, 2, steps)


def test_a_page_without_shared_state_is_left_alone(serve: Serve) -> None:
    """The first page reads the key, the second does not: sessions on the second page are not rerun."""
    server = serve(
        """
        page = st.navigation([st.Page("first.py", default=True), st.Page("second.py")])
        page.run()
        """,
        first="""
            st.text(f"k {server_state.get('k', 0)}")
            if st.button("write"):
                server_state["k"] = server_state.get("k", 0) + 1
            if st.button("leave"):
                st.switch_page("second.py")
        """,
        second="""
            st.text("second")
            st.button("again")
        """,
    )

    async def steps(client: Client, writer: Client) -> None:
        await client.click("leave")
        await client.shows("second")
        await client.until(lambda client: client.settled)
        runs = client.started
        for i in (1, 2, 3):
            await writer.click("write")
            await writer.shows(f"k {i}")
        await client.click("again")
        await client.until(lambda client: client.finished > runs)
        assert client.started == runs + 1
        assert "second" in client.texts

    with_clients(server, 2, steps)


def test_the_page_that_a_session_is_on_is_rerun(serve: Serve) -> None:
    server = serve(
        """
        st.navigation([st.Page("first.py", default=True), st.Page("second.py")]).run()
        """,
        first="""
            st.text("first")
            if st.button("write"):
                server_state["k"] = server_state.get("k", 0) + 1
            if st.button("leave"):
                st.switch_page("second.py")
        """,
        second="""
            st.text(f"second {server_state.get('k', 0)}")
        """,
    )

    async def steps(client: Client, writer: Client) -> None:
        await client.click("leave")
        await client.shows("second 0")
        for i in (1, 2, 3):
            await writer.click("write")
            await client.shows(f"second {i}")
        assert client.texts == ["second 3"]

    with_clients(server, 2, steps)


def test_widgets_query_and_triggers_survive(serve: Serve) -> None:
    """A rerun that another session causes keeps what the user entered and replays no click."""
    server = serve("""
        name = st.text_input("name")
        if st.button("once"):
            st.session_state["clicks"] = st.session_state.get("clicks", 0) + 1
        if st.button("write"):
            server_state["k"] = server_state.get("k", 0) + 1
        st.text(f"k {server_state.get('k', 0)}")
        st.text(f"name {name}")
        st.text(f"clicks {st.session_state.get('clicks', 0)}")
        st.text(f"query {st.query_params.to_dict()}")
    """)

    async def steps(writer: Client) -> None:
        async with Client(server.websocket_url, query="room=7") as client:
            await client.until(lambda client: client.finished == 1)
            await client.enter("name", "Ada")
            await client.shows("name Ada")
            await client.click("once")
            await client.shows("clicks 1")
            for other in (client, writer):
                await other.until(lambda other: other.settled)
            for i in (1, 2, 3):
                await writer.click("write")
                await client.shows(f"k {i}")
            assert client.texts == ["k 3", "name Ada", "clicks 1", "query {'room': '7'}"]

    with_clients(server, 1, steps)


def test_a_fragment_that_is_gone_is_not_rerun(serve: Serve) -> None:
    server = serve(
        """
        if not st.checkbox("hide"):
            @st.fragment
            def part():
                st.text(f"k {server_state.get('k')}")
            part()
        if st.button("toggle"):
            st.session_state["hidden"] = True
        if not st.session_state.get("hidden"):
            @st.fragment
            def other():
                st.text(f"other {server_state.get('other')}")
            other()
        if st.button("write"):
            server_state["other"] = time.time()
        """
        + FENCE
    )

    async def steps(client: Client, writer: Client) -> None:
        await client.click("toggle")
        await client.until(lambda client: client.finished == 2 and "other None" not in client.texts)
        await writer.click("write")
        await fence(writer, client)
        assert (client.started, client.fragment_runs) == (3, 0)

    with_clients(server, 2, steps)


def test_requests_are_made_on_the_event_loop_only(serve: Serve) -> None:
    server = serve("""
        from streamlit.runtime.app_session import AppSession
        @st.cache_resource
        def callers():
            names = set()
            original = AppSession.request_rerun
            def request_rerun(self, client_state):
                names.add(threading.current_thread().name)
                original(self, client_state)
            AppSession.request_rerun = request_rerun
            return names
        callers()
        def write():
            for i in range(50):
                server_state["k"] = i
        if st.button("write"):
            threads = [threading.Thread(target=write, name="writer") for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        st.text(f"k {server_state.get('k')}")
        st.text(f"callers {sorted(callers())}")
    """)

    async def steps(*clients: Client) -> None:
        for _ in range(3):
            runs = [client.finished for client in clients]
            await clients[0].click("write")
            await asyncio.gather(
                *(
                    client.until(lambda client, n=n: client.finished > n)
                    for client, n in zip(clients, runs, strict=True)
                )
            )
        await clients[0].shows("callers ['MainThread']")

    with_clients(server, 3, steps)
