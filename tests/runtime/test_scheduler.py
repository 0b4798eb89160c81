"""The scheduler with sessions that only note what is asked of them."""

from __future__ import annotations

import asyncio

from fastserverstate._core import Store
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.session import LiveSession, Readiness
from fastserverstate.rerun.settings import Settings


class Link:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.requests: list[str | None] = []

    def readiness(self) -> Readiness:
        return Readiness.READY

    def has_fragment(self, fragment: str) -> bool:
        return fragment != "gone"

    def request_rerun(self, fragment: str | None) -> None:
        self.requests.append(fragment)


def test_resumed_loop_after_another_server_in_the_same_process() -> None:
    """A wake-up that died with a closed event loop does not silence the next server."""
    store = Store()
    scheduler = Scheduler(store, Settings())

    def stale_session(loop: asyncio.AbstractEventLoop) -> tuple[LiveSession, Link]:
        link = Link(loop)
        live = LiveSession(store, link)
        scheduler.adopt(live)
        live.run_started(object(), None)
        live.scope(None)
        live.finish_run()
        return live, link

    first = asyncio.new_event_loop()
    stale_session(first)
    scheduler._wake()  # into a loop that never runs it
    first.close()

    second = asyncio.new_event_loop()
    live, link = stale_session(second)
    live.mark_stale(None)
    scheduler.returned(live)
    second.run_until_complete(asyncio.sleep(0))
    second.close()
    assert link.requests == [None]
