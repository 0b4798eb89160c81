"""Toasts to all sessions, in real browsers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from browser.conftest import HERE, IDLE_APP
from harness.server import AppServer, streamlit_run
from playwright.sync_api import Locator, Page, expect

from fastserverstate._streamlit.names import CAN_PUSH


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with streamlit_run(HERE / "apps" / "broadcast.py") as server:
        yield server


def toasts(tab: Page, text: str = "Hello") -> Locator:
    return tab.get_by_test_id("stToast").filter(has_text=text)


def click(tab: Page, label: str) -> None:
    tab.get_by_role("button", name=label, exact=True).click()


def idle(tab: Page) -> None:
    tab.locator(IDLE_APP).wait_for()


def test_a_toast_is_shown_in_all_sessions_without_a_run(server: AppServer, open_tab: Callable[..., Page]) -> None:
    ann, bob = open_tab(server.url), open_tab(server.url)
    expect(bob.get_by_text("run 1")).to_be_visible()
    click(ann, "Hello to all")
    expect(toasts(bob)).to_have_count(1)
    expect(toasts(ann)).to_have_count(1)
    click(ann, "Hello to all")  # the same text is shown again
    expect(toasts(bob)).to_have_count(2)
    expect(bob.get_by_text("run 1")).to_be_visible()
    expect(toasts(bob)).to_have_count(0)
    click(ann, "Hello to all")
    expect(toasts(bob)).to_have_count(1)


def test_toasts_of_the_page_and_of_all_do_not_disturb_each_other(
    server: AppServer, open_tab: Callable[..., Page]
) -> None:
    ann, bob = open_tab(server.url), open_tab(server.url)
    idle(bob)
    click(bob, "Own toast")
    expect(toasts(bob, "My own")).to_be_visible()
    click(ann, "Hello to all")
    expect(toasts(bob)).to_be_visible()
    expect(toasts(bob, "My own")).to_be_visible()
    click(bob, "Nothing")
    expect(bob.get_by_text("run 3")).to_be_visible()
    idle(bob)
    expect(toasts(bob)).to_have_count(1)  # a later run leaves it
    expect(toasts(bob)).to_have_count(0)
    click(ann, "Hello to all")
    expect(toasts(bob)).to_have_count(1)
    click(bob, "Own toast")
    expect(toasts(bob, "My own")).to_be_visible()
    expect(toasts(bob)).to_have_count(1)


def test_a_toast_leaves_a_dialog_open(server: AppServer, open_tab: Callable[..., Page]) -> None:
    ann, bob = open_tab(server.url), open_tab(server.url)
    idle(bob)
    click(bob, "Ask")
    bob.get_by_label("In the dialog").fill("typed")
    click(ann, "Hello to all")
    expect(toasts(bob)).to_have_count(1)
    expect(bob.get_by_label("In the dialog")).to_have_value("typed")


@pytest.mark.skipif(not CAN_PUSH, reason="browsers of this Streamlit release hide them")
def test_balloons_in_all_sessions(server: AppServer, open_tab: Callable[..., Page]) -> None:
    ann, bob = open_tab(server.url), open_tab(server.url)
    idle(bob)
    for _ in range(2):
        click(ann, "Balloons to all")
        expect(bob.get_by_test_id("stBalloons").locator("img").first).to_be_visible()
