"""Two servers and one Redis server: changes on one show on the other, also after a restart of Redis."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.engine import Engine, engine
from harness.faults import times
from harness.server import AppServer, streamlit_run
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

APP = Path(__file__).parent / "apps" / "shared.py"
RESTARTS = times(3, 30)


@pytest.fixture(params=["redis", "valkey"])
def shared_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with engine(kind=request.param) as server:
        yield server


@pytest.fixture
def servers(shared_engine: Engine) -> Iterator[list[AppServer]]:
    env = {
        "FASTSERVERSTATE_URL": shared_engine.url,
        "FASTSERVERSTATE_NAMESPACE": "browser-test",
        "FASTSERVERSTATE_SECRET": "a secret of the tests",
    }
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(streamlit_run(APP, env=env)) for _ in range(2)]


def clicks(tab: Page) -> int:
    return int(tab.get_by_text(re.compile(r"^Body: \d+$")).inner_text().split()[1])


def click(tab: Page, label: str) -> None:
    tab.get_by_role("button", name=label, exact=True).click()


@pytest.mark.failure(13)
@pytest.mark.timeout(900)
def test_click_on_one_server_shows_on_the_other(
    servers: list[AppServer], open_tab: Callable[..., Page], shared_engine: Engine
) -> None:
    tabs = [open_tab(server.url) for server in servers for _ in range(2)]
    for tab in tabs:
        expect(tab.get_by_text("Namespace: browser-test")).to_be_visible()
    count, lines = clicks(tabs[0]), 0
    for round_ in range(RESTARTS):
        for tab in (tabs[0], tabs[-1]):
            click(tab, "Click")
            count += 1
            for each in tabs:
                expect(each.get_by_text(f"Body: {count}", exact=True)).to_be_visible()
            click(tab, "Write")
            lines += 1
            for each in tabs:
                expect(each.get_by_text(f"Fragment: {lines} lines, the last is {lines}", exact=True)).to_be_visible()
        shared_engine.kill()
        if round_ % 2:
            click(tabs[1], "Click")  # while there is no Redis server: the click waits, and then takes effect
            count += 1
        shared_engine.start()
        for each in tabs:
            expect(each.get_by_text(f"Body: {count}", exact=True)).to_be_visible()
