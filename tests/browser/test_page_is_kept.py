"""Another user's write changes neither unsent text, nor the focus, nor the page around a fragment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.server import AppServer
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

WRITES = 20


def number_after(tab: Page, label: str) -> int:
    """Return the number in a text such as 'Writes: 3'."""
    return int(tab.get_by_text(f"{label}: ").inner_text().rpartition(" ")[2])


def write_often(tab: Page) -> int:
    """Click "Write" many times, each after the previous write. Return the total number of writes."""
    writes = number_after(tab, "Writes")
    for _ in range(WRITES):
        tab.get_by_role("button", name="Write").click()
        writes += 1
        expect(tab.get_by_text(f"Writes: {writes}", exact=True)).to_be_visible()
    return writes


def test_unsent_text_and_focus_stay_while_others_write(probe: AppServer, open_tab: Callable[..., Page]) -> None:
    ours, theirs = open_tab(probe.url), open_tab(probe.url)
    notes = ours.get_by_label("Notes")
    notes.click()
    ours.keyboard.type("Half a")

    writes = write_often(theirs)

    expect(ours.get_by_text(f"Writes: {writes}", exact=True)).to_be_visible()
    expect(notes).to_have_value("Half a")
    expect(notes).to_be_focused()
    expect(ours.get_by_text("Notes received: ''")).to_be_visible()
    ours.keyboard.type(" sentence")
    ours.keyboard.press("Enter")
    expect(ours.get_by_text("Notes received: 'Half a sentence'")).to_be_visible()


def test_fragment_alone_is_rerun(probe: AppServer, open_tab: Callable[..., Page]) -> None:
    ours, theirs = open_tab(probe.url, "Fragment"), open_tab(probe.url, "Fragment")
    body_runs, fragment_runs = number_after(ours, "Body runs"), number_after(ours, "Fragment runs")
    body = ours.get_by_text("Body runs: ").element_handle()

    writes = write_often(theirs)

    expect(ours.get_by_text(f"Writes: {writes}", exact=True)).to_be_visible()
    assert number_after(ours, "Body runs") == body_runs
    assert number_after(ours, "Fragment runs") > fragment_runs
    assert body.is_visible(), "The text outside of the fragment was made anew."
    # No run was in progress either: the next run is the requested one.
    ours.get_by_role("button", name="Rerun the page").click()
    expect(ours.get_by_text(f"Body runs: {body_runs + 1}", exact=True)).to_be_visible()
