"""What tests of running apps are written with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from harness.server import AppServer
from harness.tab import Tab

Serve = Callable[..., AppServer]


def with_tabs(server: AppServer, count: int, steps: Callable[..., Awaitable[None]]) -> None:
    """Open the tabs one after the other, each settled, and run the steps with them."""

    async def session() -> None:
        async with AsyncExitStack() as stack:
            tabs = []
            for _ in range(count):
                tab = await stack.enter_async_context(Tab(server.websocket_url))
                await tab.until(lambda tab: tab.settled)
                tabs.append(tab)
            await steps(*tabs)

    asyncio.run(session())


# A key that every app below shows, to make all tabs rerun once after whatever happened before.
FENCE = """
        st.text(f"fence {server_state.get('fence', 0)}")
        if st.button("fence"):
            server_state["fence"] = server_state.get("fence", 0) + 1
"""


async def fence(first: Tab, *others: Tab) -> None:
    """Return when every tab has seen something that came after all that was asked for so far."""
    shown = max(int(text.split()[1]) for text in first.texts if text.startswith("fence "))
    await first.click("fence")
    for tab in (first, *others):
        await tab.shows(f"fence {shown + 1}")
        await tab.until(lambda tab: tab.settled)
