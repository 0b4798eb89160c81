"""Steps of tests with running apps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from harness.client import Client
from harness.server import AppServer

Serve = Callable[..., AppServer]


def with_clients(
    server: AppServer, count: int, steps: Callable[..., Awaitable[None]], kind: Callable[[str], Client] = Client
) -> None:
    """Open the sessions in sequence, each after the runs of the last one, and run the steps with them."""

    async def session() -> None:
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(count):
                client = await stack.enter_async_context(kind(server.websocket_url))
                await client.until(lambda client: client.settled)
                clients.append(client)
            await steps(*clients)

    asyncio.run(session())


# After `hold()`, a thread of the app holds the lock of "held" forever.
HOLD = """
        @st.cache_resource
        def hold():
            def run():
                server_state_lock["held"].acquire()
                taken.set()
                threading.Event().wait()
            taken = threading.Event()
            threading.Thread(target=run, daemon=True).start()
            taken.wait()
"""


# After "hold", the session's next run does not begin before it is stopped and another session clicks "open". "wait"
# returns once it is held.
HELD_START = """
        from streamlit.runtime.scriptrunner import ScriptRunner

        @st.cache_resource
        def hold_starts():
            def run_late(runner):
                if runner._session_state.filtered_state.get("held") and not events["held"].is_set():
                    events["held"].set()
                    assert events["open"].wait(20)
                    requests = runner._requests
                    while requests._state is not type(requests._state).STOP:
                        time.sleep(0.001)
                run(runner)

            events = {name: threading.Event() for name in ("held", "open")}
            run, ScriptRunner._run_script_thread = ScriptRunner._run_script_thread, run_late
            return events

        st.button("hold", on_click=lambda: st.session_state.update(held=True))
        st.button("wait", on_click=lambda: hold_starts()["held"].wait(20))
        st.button("open", on_click=lambda: hold_starts()["open"].set())
        st.text(f"held {st.session_state.get('held')}")
        hold_starts()
"""


# "fence" is shown by every session, which therefore reruns after all earlier changes. "settled" is shown only by the
# session that changes it, whose rerun is queued behind those that are due already.
FENCE = """
        if st.session_state.get("settles"):
            st.text(f"settled {server_state.get('settled', 0)}")
        if st.button("settle"):
            st.session_state["settles"] = True
            server_state["settled"] = server_state.get("settled", 0) + 1
        if st.session_state.get("settles"):
            st.text("settles from now on")
        st.text(f"fence {server_state.get('fence', 0)}")
        if st.button("fence"):
            server_state["fence"] = server_state.get("fence", 0) + 1
"""


def shown(client: Client, name: str) -> int:
    """Return the number after a name."""
    return max((int(text.split()[1]) for text in client.texts if text.startswith(f"{name} ")), default=0)


async def settle(client: Client) -> None:
    """Wait until all due reruns have started: the rerun of this session comes after them."""
    await client.until(lambda client: client.settled)
    if "settles from now on" not in client.texts:
        await client.click("settle")
        await client.shows("settles from now on")
        await client.until(lambda client: client.settled)
    number = shown(client, "settled")
    await client.click("settle")
    await client.shows(f"settled {max(number, 1) + 1}")


async def fence(first: Client, *others: Client) -> None:
    """Wait until every session shows a change that came after all earlier requests.

    This adds one run to the other sessions, and several to the first.
    """
    await settle(first)
    number = shown(first, "fence")
    await first.click("fence")
    for client in (first, *others):
        await client.shows(f"fence {number + 1}")
        await client.until(lambda client: client.settled)
