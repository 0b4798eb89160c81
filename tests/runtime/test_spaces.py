"""Spaces, the state of users, and guards on a real server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from harness.client import Client
from harness.server import AppServer
from harness.steps import FENCE, Serve, fence, shown

from fastserverstate._streamlit.names import CAN_PUSH

# Log the session in as the user of its address, as Streamlit does with a cookie.
LOGIN = """
        from streamlit.runtime.scriptrunner import get_script_run_ctx

        def log_in():
            name = st.query_params.get("user")
            if name:
                get_script_run_ctx().user_info.update(email=f"{name}@example.com", is_logged_in=True)

        log_in()
        st.session_state["n"] = st.session_state.get("n", 0) + 1
        st.text(f"run {st.session_state['n']}")
"""

ROOMS = (
    LOGIN
    + """
        room = space(f"room/{st.query_params.get('room')}")
        if st.button("add"):
            room[f"n{len(room)}"] = 1
        if st.button("add elsewhere"):
            server_state["elsewhere"] = time.monotonic()
        if st.button("clear"):
            room.clear()
        names = list(room)
        st.text(f"names {names} of {len(room)}")
"""
    + FENCE
)


async def connect(stack: AsyncExitStack, server: AppServer, query: str) -> Client:
    client = await stack.enter_async_context(Client(server.websocket_url, query=query))
    await client.until(lambda client: client.settled)
    return client


async def click(client: Client, label: str) -> None:
    await client.until(lambda client: client.settled)
    await client.click(label)
    await client.until(lambda client: client.settled)


def test_keys_of_other_spaces_rerun_no_session_that_iterates(serve: Serve) -> None:
    server = serve(ROOMS)

    async def steps() -> None:
        async with AsyncExitStack() as stack:
            one, same, other = [await connect(stack, server, f"room={name}") for name in (7, 7, 77)]
            for number in range(3):
                await click(one, "add")
                names = [f"n{each}" for each in range(number + 1)]
                await same.shows(f"names {names} of {len(names)}")
            await click(one, "add elsewhere")
            await fence(one, same, other)
            assert shown(same, "run") == 1 + 3 + 1
            assert shown(other, "run") == 1 + 1
            assert "names [] of 0" in other.texts
            await click(one, "clear")
            await same.shows("names [] of 0")
            await fence(one, same, other)
            assert shown(same, "run") == 5 + 1 + 1
            assert shown(other, "run") == 2 + 1

    asyncio.run(steps())


def test_sessions_of_a_user_share_state(serve: Serve) -> None:
    server = serve(
        LOGIN
        + """
        try:
            if st.button("dark"):
                user_state.theme = "dark"
            st.text(f"theme {user_state.get('theme')} {list(user_state)}")
        except NotLoggedInError:
            st.text("theme of no user")

        @computed
        def theme():
            return user_state.get("theme")

        try:
            theme()
        except FastServerStateError as error:
            st.text(f"computed {error}")

        @live
        def region():
            try:
                st.text(f"live {user_state.get('theme')}")
            except FastServerStateError as error:
                st.text(f"live {error}")

        if st.query_params.get("live"):
            region()
"""
        + FENCE
    )

    async def steps() -> None:
        async with AsyncExitStack() as stack:
            ann, same, bob, nobody = [
                await connect(stack, server, query) for query in ("user=ann", "user=ann", "user=bob", "")
            ]
            await click(ann, "dark")
            await same.shows("theme dark ['theme']")
            await fence(ann, same, bob, nobody)
            assert "theme None []" in bob.texts
            assert "theme of no user" in nobody.texts
            assert shown(bob, "run") == 2
            for client in (ann, nobody):
                assert any("It is evaluated once for all sessions" in text for text in client.texts), client.texts
            alive = await connect(stack, server, "user=ann&live=1")
            # Without pushes, a live function is a fragment of each session.
            found = "It is rendered once for all" if CAN_PUSH else "live dark"
            await alive.until(lambda client: any(found in text for text in client.texts))

    asyncio.run(steps())


def test_guards_ask_the_session(serve: Serve) -> None:
    server = serve(
        LOGIN
        + """
        def is_manager():
            st.session_state["asked"] = st.session_state.get("asked", 0) + 1
            return st.query_params.get("user") == "ann"

        guard("salary/*", read=is_manager, write=is_manager)

        def show(label, access):
            try:
                st.text(f"{label} {access()}")
            except AccessDeniedError as error:
                st.text(f"{label} refused: {error}")

        def set_salary():
            show("in the callback", lambda: server_state.update({"salary/bob": st.session_state["n"]}))

        st.button("raise", on_click=set_salary)
        show("read", lambda: server_state.get("salary/bob"))
        show("again", lambda: "salary/bob" in server_state)
        show("values", lambda: space("salary").to_dict())

        @computed
        def total():
            return server_state.get("salary/bob")

        show("computed", total)

        @st.fragment
        def part():
            show("fragment", lambda: server_state.get("salary/bob"))

        part()
        st.text(f"asked {st.session_state['asked']}")
"""
        + FENCE
    )

    async def steps() -> None:
        async with AsyncExitStack() as stack:
            ann, bob = [await connect(stack, server, f"user={name}") for name in ("ann", "bob")]
            await click(ann, "raise")
            await ann.shows("read 1")
            assert {"values {'bob': 1}", "again True", "fragment 1", "in the callback None"} <= set(ann.texts)
            await fence(ann, bob)
            assert shown(bob, "run") == 3, "of which one because the space has another name"
            await click(ann, "raise")
            await ann.until(lambda client: "read 1" not in client.texts)
            await fence(ann, bob)
            assert shown(bob, "run") == 4, "the session is subscribed to the value"
            await click(bob, "raise")
            for label in ("in the callback", "read", "again", "values", "fragment"):
                assert any(text.startswith(f"{label} refused: This session must not ") for text in bob.texts), label
            for client in (ann, bob):
                assert any(text.startswith("computed refused: total() has read") for text in client.texts)
            # In each run, the body and the fragment are asked. In the last one the callback is asked, too.
            assert shown(bob, "run") == 5
            assert shown(bob, "asked") == 5 * 2 + 1

    asyncio.run(steps())
