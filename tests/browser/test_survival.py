"""Text, choices, open elements and clicks of a user survive the reruns that another user's writes cause."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit
from harness.server import AppServer, streamlit_run
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

APP = Path(__file__).parent / "apps" / "survival.py"
loses_clicks = pytest.mark.skipif(
    streamlit.__version__.startswith(("1.37.", "1.38.")),
    reason="Streamlit 1.37 loses clicks that break off the run of an st.navigation page, and 1.39 no longer does",
)
in_body_and_fragment = pytest.mark.parametrize("scope", ["body", "fragment"])


@pytest.fixture(scope="module")
def survival() -> Iterator[AppServer]:
    with streamlit_run(APP) as server:
        yield server


class Visitors:
    """Our tab, which shows a section of the app, and the tab of another user who writes."""

    def __init__(self, open_tab: Callable[..., Page], url: str, section: str, scope: str) -> None:
        self.ours = open_tab(f"{url}/?show={section}&scope={scope}")
        self.theirs = open_tab(f"{url}/?show=writer")

    def line(self, received: str, writes: int | None = None) -> Locator:
        """Return our tab's line with the number of writes and the values that the server has received from us."""
        number = r"\d+" if writes is None else writes
        return self.ours.get_by_text(re.compile(f"^Write {number}: {re.escape(received)}$"))

    def writes(self, tab: Page) -> int:
        return int(tab.get_by_text(re.compile(r"^Write \d+: ")).inner_text().split()[1].rstrip(":"))

    def write(self, received: str, times: int = 3) -> int:
        """Let the other user write. After each write, a rerun shows us the new value and our values on the server."""
        writes = self.writes(self.theirs)
        for _ in range(times):
            self.theirs.get_by_role("button", name="Write", exact=True).click()
            writes += 1
            expect(self.line(received, writes)).to_be_visible()
        expect(self.theirs.get_by_text(f"Write {writes}: ")).to_be_visible()  # looked up the next time
        return writes

    def click(self, button: str) -> None:
        self.ours.get_by_role("button", name=button, exact=True).click()


@pytest.fixture
def visit(survival: AppServer, open_tab: Callable[..., Page]) -> Callable[..., Visitors]:
    return lambda section, scope="body": Visitors(open_tab, survival.url, section, scope)


@in_body_and_fragment
@pytest.mark.parametrize(("label", "send"), [("Line", "Enter"), ("Lines", "Control+Enter")])
def test_unsent_text_and_focus(visit: Callable[..., Visitors], scope: str, label: str, send: str) -> None:
    visitors = visit("text", scope)
    box = visitors.ours.get_by_label(label, exact=True)
    box.click()
    visitors.ours.keyboard.type("Half")

    visitors.write("nothing")

    expect(box).to_have_value("Half")
    expect(box).to_be_focused()
    visitors.ours.keyboard.type(" a word")
    visitors.ours.keyboard.press(send)
    expect(visitors.line("Half a word")).to_be_visible()


@in_body_and_fragment
def test_unsaved_edits_of_a_form(visit: Callable[..., Visitors], scope: str) -> None:
    visitors = visit("form", scope)
    name, age = visitors.ours.get_by_label("Name", exact=True), visitors.ours.get_by_label("Age", exact=True)
    name.fill("Ann")
    age.fill("42")

    visitors.write("'' is 0")

    expect(name).to_have_value("Ann")
    expect(age).to_have_value("42")
    expect(age).to_be_focused()
    visitors.click("Send")
    expect(visitors.line("'Ann' is 42")).to_be_visible()
    visitors.write("'Ann' is 42")


@in_body_and_fragment
def test_uploaded_file(visit: Callable[..., Visitors], scope: str) -> None:
    visitors = visit("upload", scope)
    visitors.ours.locator("input[type=file]").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Keep me"}
    )
    expect(visitors.line("notes.txt with 'Keep me'")).to_be_visible()

    visitors.write("notes.txt with 'Keep me'", times=5)

    expect(visitors.ours.get_by_test_id("stFileUploader").get_by_text("notes.txt", exact=True)).to_be_visible()


@in_body_and_fragment
def test_choices(visit: Callable[..., Visitors], scope: str) -> None:
    visitors = visit("choices", scope)
    colour, level, agreed = (
        visitors.ours.get_by_role("combobox"),
        visitors.ours.get_by_role("slider"),
        visitors.ours.get_by_role("checkbox"),
    )
    colour.click()
    visitors.ours.get_by_role("option", name="green").click()
    expect(visitors.line("green, 0, False")).to_be_visible()
    level.press("ArrowRight")
    expect(visitors.line("green, 1, False")).to_be_visible()
    visitors.ours.get_by_text("Agreed", exact=True).click()
    expect(visitors.line("green, 1, True")).to_be_visible()

    visitors.write("green, 1, True")

    shown = visitors.ours.get_by_test_id("stSelectbox").locator("[value=green], :text-is('green')")
    expect(shown.first).to_be_visible()  # text, or the value of an input in new releases
    expect(level).to_have_attribute("aria-valuetext", "1")
    expect(agreed).to_be_checked()


@in_body_and_fragment
def test_opened_expander_and_tab(visit: Callable[..., Visitors], scope: str) -> None:
    visitors = visit("opened", scope)
    visitors.ours.get_by_text("More", exact=True).click()
    visitors.ours.get_by_role("tab", name="Right").click()
    expect(visitors.ours.get_by_text("On the right at write ")).to_be_visible()

    writes = visitors.write("opened by the user")

    expect(visitors.ours.get_by_text(f"In the expander at write {writes}", exact=True)).to_be_visible()
    expect(visitors.ours.get_by_text(f"On the right at write {writes}", exact=True)).to_be_visible()


@in_body_and_fragment
def test_click_is_not_replayed(visit: Callable[..., Visitors], scope: str) -> None:
    visitors = visit("buttons", scope)
    visitors.click("Callback")
    expect(visitors.line("Callback 1, Result 0")).to_be_visible()
    visitors.write("Callback 1, Result 0", times=5)
    visitors.click("Result")
    expect(visitors.line("Callback 1, Result 1")).to_be_visible()
    visitors.write("Callback 1, Result 1", times=5)


@loses_clicks
@in_body_and_fragment
def test_click_is_not_lost_while_others_write_all_the_time(open_tab: Callable[..., Page], scope: str) -> None:
    with streamlit_run(APP) as server:  # a server of its own: if this fails, the writes continue
        click_while_others_write_all_the_time(Visitors(open_tab, server.url, "buttons", scope))


def click_while_others_write_all_the_time(visitors: Visitors) -> None:
    visitors.theirs.get_by_role("button", name="Start writing").click()
    for clicks in range(1, 6):
        for button, received in [
            ("Callback", f"Callback {clicks}, Result {clicks - 1}"),
            ("Result", f"Callback {clicks}, Result {clicks}"),
        ]:
            visitors.click(button)
            expect(visitors.line(received)).to_be_visible()
            writes = visitors.writes(visitors.ours)
            # No user clicks here until it shows the next write.
            expect(visitors.line(received, writes)).to_have_count(0)
    visitors.theirs.get_by_role("button", name="Stop writing").click()
    expect(visitors.theirs.get_by_text(": at rest")).to_be_visible()
    visitors.write("Callback 5, Result 5")


@in_body_and_fragment
@pytest.mark.parametrize("which", ["same", "latest"])
def test_download(visit: Callable[..., Visitors], scope: str, which: str) -> None:
    visitors = visit("download", scope)
    for _ in range(2):
        content = {"latest": f"As of write {visitors.write('ready')}", "same": "Always the same"}[which]
        with visitors.ours.expect_download() as download:
            visitors.click(f"Download the {which}")
        assert download.value.suggested_filename == f"{which}.txt"
        assert download.value.path().read_text() == content


def test_open_dialog(visit: Callable[..., Visitors]) -> None:
    visitors = visit("dialog")
    visitors.click("Open")
    dialog = visitors.ours.get_by_role("dialog")
    box = dialog.get_by_label("Line", exact=True)
    box.click()
    visitors.ours.keyboard.type("Half")

    visitors.write("nothing")

    expect(dialog).to_be_visible()
    expect(box).to_have_value("Half")
    expect(box).to_be_focused()
    visitors.ours.keyboard.type(" a word")
    visitors.ours.keyboard.press("Enter")
    expect(visitors.line("Half a word")).to_be_visible()
    visitors.write("Half a word")
    expect(dialog).to_be_visible()


@in_body_and_fragment
def test_query_parameters(visit: Callable[..., Visitors], scope: str) -> None:
    visitors = visit("address&who=me", scope)
    visitors.write("{'who': 'me'}")
    visitors.click("Choose")
    expect(visitors.line("{'who': 'me', 'chosen': 'this one'}")).to_be_visible()

    visitors.write("{'who': 'me', 'chosen': 'this one'}")

    expect(visitors.ours).to_have_url(re.compile(r"who=me.*chosen=this(\+|%20)one"))


def test_current_page(visit: Callable[..., Visitors]) -> None:
    visitors = visit("address")
    visitors.ours.get_by_test_id("stSidebarNav").get_by_text("Second", exact=True).click()
    expect(visitors.ours.get_by_role("heading", name="Second", exact=True)).to_be_visible()
    visitors.write("{}")
    visitors.click("Choose")
    expect(visitors.line("{'chosen': 'this one'}")).to_be_visible()

    visitors.write("{'chosen': 'this one'}")

    expect(visitors.ours.get_by_role("heading", name="Second", exact=True)).to_be_visible()
    expect(visitors.ours).to_have_url(re.compile(r"/second\?chosen=this(\+|%20)one"))
