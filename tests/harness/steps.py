"""Steps of tests with running apps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from harness.server import AppServer
from harness.tab import Tab

Serve = Callable[..., AppServer]


def with_tabs(
    server: AppServer, count: int, steps: Callable[..., Awaitable[None]], kind: Callable[[str], Tab] = Tab
) -> None:
    """Open the tabs in sequence, each after the runs of the last one, and run the steps with them."""

    async def session() -> None:
        async with AsyncExitStack() as stack:
            tabs = []
            for _ in range(count):
                tab = await stack.enter_async_context(kind(server.websocket_url))
                await tab.until(lambda tab: tab.settled)
                tabs.append(tab)
            await steps(*tabs)

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


def shown(tab: Tab, name: str) -> int:
    """Return the number after a name."""
    return max((int(text.split()[1]) for text in tab.texts if text.startswith(f"{name} ")), default=0)


async def settle(tab: Tab) -> None:
    """Wait until all due reruns have started: the rerun of this tab comes after them."""
    await tab.until(lambda tab: tab.settled)
    if "settles from now on" not in tab.texts:
        await tab.click("settle")
        await tab.shows("settles from now on")
        await tab.until(lambda tab: tab.settled)
    number = shown(tab, "settled")
    await tab.click("settle")
    await tab.shows(f"settled {max(number, 1) + 1}")


async def fence(first: Tab, *others: Tab) -> None:
    """Wait until every tab shows a change that came after all earlier requests.

    This adds one run to the other tabs, and several to the first.
    """
    await settle(first)
    number = shown(first, "fence")
    await first.click("fence")
    for tab in (first, *others):
        await tab.shows(f"fence {number + 1}")
        await tab.until(lambda tab: tab.settled)
