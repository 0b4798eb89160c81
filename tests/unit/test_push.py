"""The queue that pushes renderings to sessions."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from fastserverstate.rerun.push import BATCH, PushQueue
from fastserverstate.rerun.session import Readiness


class Session:
    def __init__(self, region: Any, pushed: list[Any]) -> None:
        self.is_push_due = False
        self.viewers = SimpleNamespace(outdated=lambda: [viewer] if viewer.shown is not region.rendering else [])
        self.adapter = SimpleNamespace(readiness=lambda: Readiness.READY, push=lambda _: pushed.append(self) or True)
        self.unseen = SimpleNamespace(due=list)
        self.retry_after = lambda _: None
        viewer = SimpleNamespace(region=region, is_lost=False, shown=None, place=None, is_pushed=False)


def test_the_loop_serves_others_between_batches() -> None:
    sessions_at: list[int] = []
    pushed: list[Any] = []
    sent: list[int] = []
    rendering = SimpleNamespace(payloads_since=lambda _shown, _place: [b""])
    region: Any = SimpleNamespace(rendering=rendering, was_sent=lambda: sent.append(len(pushed)))
    sessions: list[Any] = [Session(region, pushed) for _ in range(3 * BATCH)]

    async def push() -> None:
        queue = PushQueue(asyncio.get_running_loop(), lambda _: None)
        queue.announce(region)
        queue.push(region, sessions)
        while not sent:
            sessions_at.append(len(pushed))
            await asyncio.sleep(0)

    asyncio.run(push())
    assert sessions_at[0] == BATCH
    assert {BATCH, 2 * BATCH} <= set(sessions_at)
    assert sent == [3 * BATCH]
    assert pushed == sessions


def test_a_region_without_sessions_was_sent() -> None:
    sent: list[None] = []
    region: Any = SimpleNamespace(was_sent=lambda: sent.append(None))

    async def push() -> None:
        queue = PushQueue(asyncio.get_running_loop(), lambda _: None)
        queue.announce(region)
        queue.push(region, [])

    asyncio.run(push())
    assert sent == [None]
