"""Real browser tabs on a real server."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.server import AppServer, streamlit_run
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Streamlit renamed the attribute after 1.37.
IDLE_APP = '[data-testid="stApp"]:is([data-test-script-state="notRunning"], [data-teststate="notRunning"])'
PATIENCE = 15_000  # milliseconds for any condition


@pytest.fixture(scope="session")
def examples() -> Iterator[AppServer]:
    """The example app."""
    with streamlit_run(EXAMPLES / "app.py") as server:
        yield server


@pytest.fixture(scope="session")
def probe() -> Iterator[AppServer]:
    """The tests' own app."""
    with streamlit_run(HERE / "apps" / "probe.py") as server:
        yield server


# For one module only: while Playwright runs, other tests cannot call asyncio.run() in this thread.
@pytest.fixture(scope="module")
def visitors() -> Iterator[Callable[[int], BrowserContext]]:
    """`visitors(number)` returns one browser per number, which caches Streamlit's page for later tests."""
    if not os.access(CHROMIUM, os.X_OK):
        pytest.fail(
            f"The browser tests need Chromium, and there is none at {CHROMIUM}. "
            "Install it (apt-get install chromium) or set CHROMIUM to its path.",
            pytrace=False,
        )
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)

        @functools.cache
        def visitor(_: int) -> BrowserContext:
            context = browser.new_context(viewport={"width": 1100, "height": 850})
            context.set_default_timeout(PATIENCE)
            return context

        yield visitor
        browser.close()


@pytest.fixture
def open_tab(visitors: Callable[[int], BrowserContext]) -> Iterator[Callable[..., Page]]:
    """`open_tab(url, page)` opens a page of an app as another user. No tab may show an error."""
    tabs: list[Page] = []

    def open_tab(url: str, page: str | None = None) -> Page:
        tab = visitors(len(tabs)).new_page()
        tabs.append(tab)
        tab.goto(url)
        if page is not None:
            # Not by its URL: Streamlit 1.37 does not find it for the first session of a server.
            tab.get_by_test_id("stSidebarNav").get_by_text(page, exact=True).click()
            expect(tab.get_by_role("heading", name=page, exact=True)).to_be_visible()
        expect(tab.locator(IDLE_APP)).to_be_visible()
        return tab

    try:
        yield open_tab
        for tab in (tab for tab in tabs if not tab.is_closed()):
            expect(tab.get_by_test_id("stException")).to_have_count(0)
    finally:
        for tab in tabs:
            tab.close()
