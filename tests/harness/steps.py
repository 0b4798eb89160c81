"""What tests of running apps are written with."""

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
    """Open the tabs one after the other, each settled, and run the steps with them."""

    async def session() -> None:
        async with AsyncExitStack() as stack:
            tabs = []
            for _ in range(count):
                tab = await stack.enter_async_context(kind(server.websocket_url))
                await tab.until(lambda tab: tab.settled)
                tabs.append(tab)
            await steps(*tabs)

    asyncio.run(session())


# After `hold()`, a thread of the app holds the lock of "held" for ever.
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


# A key that every app below shows, to make all tabs rerun once after whatever happened before; and one that is shown
# only to the session that changes it, whose rerun for it waits behind those that are due already.
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
    """The number behind a name."""
    return max((int(text.split()[1]) for text in tab.texts if text.startswith(f"{name} ")), default=0)


async def settle(tab: Tab) -> None:
    """Return when the reruns that are due have started: this tab's own rerun comes after them."""
    await tab.until(lambda tab: tab.settled)
    if "settles from now on" not in tab.texts:
        await tab.click("settle")
        await tab.shows("settles from now on")
        await tab.until(lambda tab: tab.settled)
    number = shown(tab, "settled")
    await tab.click("settle")
    await tab.shows(f"settled {max(number, 1) + 1}")


async def fence(first: Tab, *others: Tab) -> None:
    """Return when every tab has seen something that came after all that was asked for so far.

    The other tabs have one more run then; the first one has more.
    """
    await settle(first)
    number = shown(first, "fence")
    await first.click("fence")
    for tab in (first, *others):
        await tab.shows(f"fence {number + 1}")
        await tab.until(lambda tab: tab.settled)
