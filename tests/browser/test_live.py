"""What users see of live regions.

Before Streamlit 1.44, a live region is a fragment of each session. Such releases run the same tests, except those of
what only pushes do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.proxy import Proxy
from harness.server import AppServer, streamlit_run
from playwright.sync_api import Page, expect

from fastserverstate._streamlit.names import CAN_PUSH

pytestmark = pytest.mark.browser

APP = Path(__file__).parent / "apps" / "live.py"
PLACES = ["Column", "Tab", "Expanded", "Sidebar", "Body"]
if CAN_PUSH:  # Streamlit 1.37 does not remove what a fragment in a fragment has stopped to show
    PLACES.append("Fragment")
pushes = pytest.mark.skipif(not CAN_PUSH, reason="before Streamlit 1.44, a live region is a fragment of each session")


@pytest.fixture
def app() -> Iterator[AppServer]:
    with streamlit_run(APP) as server:
        yield server


@pytest.fixture
def open_two(app: AppServer, open_tab: Callable[..., Page]) -> Callable[[str], tuple[Page, Page]]:
    """`open_two(section)` opens the tabs of two users. The second one writes."""
    return lambda section: (open_tab(f"{app.url}/?show={section}"), open_tab(f"{app.url}/?show={section}"))


def write(tab: Page) -> None:
    tab.get_by_role("button", name="Write", exact=True).click()


def see(tab: Page, text: str) -> None:
    expect(tab.get_by_text(text, exact=True)).to_be_visible()


def test_places(open_two: Callable[[str], tuple[Page, Page]]) -> None:
    """Regions are updated everywhere on the page. No script runs, and text that was not sent and the focus stay."""
    ours, theirs = open_two("page")
    notes = ours.get_by_label("Notes")
    notes.click()
    ours.keyboard.type("Half a")
    body = ours.get_by_text("Runs: 1", exact=True).element_handle()

    for n in range(1, 9):
        write(theirs)
        for tab in (ours, theirs):
            for name in PLACES:
                see(tab, f"{name}: {n}")
                expect(tab.get_by_text(re.compile(f"^{name} item"))).to_have_count(n % 4)
                expect(tab.get_by_text(re.compile(f"^{name} code"))).to_have_count(n % 4 // 2)

    expect(notes).to_have_value("Half a")
    expect(notes).to_be_focused()
    assert body.is_visible(), "The text outside of the regions was made anew."
    see(ours, "Runs: 1")
    ours.keyboard.type(" sentence")
    ours.keyboard.press("Enter")
    see(ours, "Runs: 2")
    expect(notes).to_have_value("Half a sentence")
    see(ours, "Body: 8")


def test_elements(open_two: Callable[[str], tuple[Page, Page]]) -> None:
    ours, theirs = open_two("elements")
    seen: set[str] = set()
    for n in range(1, 5):
        write(theirs)
        for tab in (ours, theirs):
            see(tab, f"End {n}")
            expect(tab.get_by_text(f"Markdown {n}")).to_be_visible()
            expect(tab.get_by_test_id("stMetricValue")).to_have_text(f"{n} points")
            expect(tab.get_by_test_id("stTable").get_by_text(re.compile("^cell "))).to_have_count(n + 1)
            expect(tab.get_by_test_id("stDataFrame").locator("canvas").first).to_be_visible()
            expect(
                tab.get_by_test_id("stVegaLiteChart").or_(tab.get_by_test_id("stArrowVegaLiteChart"))
            ).to_be_visible()
            expect(tab.get_by_test_id("stGraphVizChart").locator("text")).to_have_text(f"node {n}")
            expect(tab.get_by_text(f"HTML {n}")).to_be_visible()
            expect(tab.frame_locator("iframe").get_by_text(f"Component {n}")).to_be_visible()
            expect(tab.get_by_test_id("stChatMessage")).to_have_count(n % 3)
            for i in range(n % 3):
                see(tab, f"Message {i} of {n}")
            for i in range(2):
                see(tab, f"Column {i} of {n}")
            see(tab, f"Tab 0 of {n}")
            tab.get_by_role("tab", name="Second").click()
            see(tab, f"Tab 1 of {n}")
            tab.get_by_role("tab", name="First").click()
            see(tab, f"Expanded {n}")
            see(tab, f"Expander {n}")
            see(tab, f"Status {n}")
            see(tab, f"Progress {n}")
            expect(tab.locator("video")).to_have_attribute("src", f"https://example.com/{n}.mp4")
            for selector in ("img", "audio"):
                tab.wait_for_function(
                    "selector => (e => e.naturalWidth > 0 || e.readyState > 0)(document.querySelector(selector))",
                    arg=f'[data-testid="stMain"] {selector}, [data-testid="stAppViewContainer"] {selector}',
                )
        seen.add(ours.locator("audio").get_attribute("src") or "")
    assert len(seen) == 4
    see(ours, "Runs: 1")


def test_blocks_that_change(open_two: Callable[[str], tuple[Page, Page]]) -> None:
    """Nothing stays of a block that becomes smaller, another block, or an element."""
    ours, theirs = open_two("blocks")
    for n in range(1, 11):
        write(theirs)
        for tab in (ours, theirs):
            see(tab, f"Blocks {n}")
            expect(tab.get_by_text("Nothing", exact=True)).to_have_count(int(n % 3 == 0))
            expect(tab.get_by_text("One", exact=True)).to_have_count(int(n % 3 != 0))
            expect(tab.get_by_text("Two", exact=True)).to_have_count(int(n % 3 == 1))
            expect(tab.get_by_text("Open", exact=True)).to_have_count(int(n % 3 == 2))
            expect(tab.get_by_text(re.compile("^Framed "))).to_have_count(5 - n % 5)
            expect(tab.get_by_text(re.compile(f"^Line .*, {n}$"))).to_have_count(150)
    see(ours, "Runs: 1")


def test_charts_of_two_regions(open_two: Callable[[str], tuple[Page, Page]]) -> None:
    """Each is drawn where it belongs, as are those of one region that is shown twice."""
    ours, theirs = open_two("charts")
    for n in range(1, 4):
        write(theirs)
        for tab in (ours, theirs):
            drawn = tab.get_by_test_id("stGraphVizChart").locator("text")
            expect(drawn).to_have_text([f"left {n}", f"right {n}", f"right {n}"])


def test_media_files(app: AppServer, open_tab: Callable[..., Page]) -> None:
    """The newest rendering's file exists without the session that came first, too. Older files are released."""

    def picture(tab: Page, n: int) -> str:
        see(tab, f"Picture {n}")
        image = tab.locator('[data-testid="stImage"] img, [data-testid="stImageContainer"] img').first
        tab.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
        return str(image.evaluate("image => image.src"))

    url = f"{app.url}/?show=picture"
    first, ours, theirs = open_tab(url), open_tab(url), open_tab(url)
    seen = [picture(tab, 0) for tab in (first, ours)]
    for n in range(1, 31):
        write(theirs)
        see(theirs, f"Picture {n}")
    seen += [picture(tab, 30) for tab in (first, ours, theirs)]
    first.goto("about:blank")
    write(theirs)
    newest = picture(ours, 31)
    assert newest == picture(theirs, 31)
    assert newest not in seen
    theirs.reload()
    assert picture(theirs, 31) == newest
    assert ours.request.get(newest).status == 200

    for n in range(32, 40):
        write(theirs)
        old = picture(theirs, n)
    for n in range(40, 70):
        if all(ours.request.get(url).status == 404 for url in (seen[0], old)):
            break
        write(theirs)
        see(theirs, f"Picture {n}")
    else:
        pytest.fail(f"Old files were not released: {[ours.request.get(url).status for url in (*seen, old)]}")
    see(ours, "Runs: 1")


@pushes
def test_a_dialog_that_was_closed_stays_closed(open_two: Callable[[str], tuple[Page, Page]]) -> None:
    ours, theirs = open_two("dialog")
    n = 0
    for _ in range(2):
        ours.get_by_role("button", name="Open", exact=True).click()
        see(ours, f"Window: {n}")
        for _ in range(2):
            write(theirs)
            n += 1
            see(ours, f"Window: {n}")
        ours.keyboard.press("Escape")
        expect(ours.get_by_role("dialog")).to_have_count(0)
        for _ in range(2):
            write(theirs)
            n += 1
            see(ours, f"Behind: {n}")
        expect(ours.get_by_role("dialog")).to_have_count(0)
        expect(ours.get_by_text(re.compile("^Behind item"))).to_have_count(n % 4)


def test_a_network_that_fails(app: AppServer, open_tab: Callable[..., Page]) -> None:
    """Once the browser is connected again, it shows the newest rendering, although the last one was lost on its way."""
    with Proxy(app.port) as network:
        ours = open_tab(f"http://127.0.0.1:{network.port}/?show=page")
        theirs = open_tab(f"{app.url}/?show=page")
        for n in range(3, 13, 3):
            write(theirs)
            see(ours, f"Body: {n - 2}")
            network.to_client = False
            write(theirs)
            see(theirs, f"Body: {n - 1}")
            network.to_client = True  # the browser may connect again immediately
            network.cut()
            write(theirs)
            see(theirs, f"Body: {n}")
            for name in PLACES:
                see(ours, f"{name}: {n}")
                expect(ours.get_by_text(re.compile(f"^{name} item"))).to_have_count(n % 4)
        ours.get_by_label("Notes").fill("still there")
        ours.keyboard.press("Enter")
        expect(ours.get_by_label("Notes")).to_have_value("still there")
        see(ours, "Body: 12")
