"""The example app, open in the tabs of two or three people."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from harness.server import AppServer
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser


def unique(text: str) -> str:
    """The server keeps what earlier tests have written."""
    return f"{text} {uuid4().hex[:8]}"


def chat_box(tab: Page) -> Locator:
    return tab.get_by_placeholder("Say something")


def say(tab: Page, text: str) -> None:
    chat_box(tab).fill(text)
    chat_box(tab).press("Enter")


def said(tab: Page, text: str) -> Locator:
    return tab.get_by_test_id("stChatMessage").filter(has_text=text)


def enter_room(tab: Page, room: str) -> None:
    tab.get_by_text(room, exact=True).click()
    expect(tab.get_by_role("radio", name=room)).to_be_checked()


def slider_shows(tab: Page, value: int) -> None:
    """The handle and the text below it."""
    expect(tab.get_by_role("slider")).to_have_attribute("aria-valuetext", str(value))
    expect(tab.get_by_text(f"Everyone sees {value} %")).to_be_visible()


def test_counter_is_in_step(examples: AppServer, open_tab: Callable[[str], Page]) -> None:
    ours, theirs = open_tab(examples.url), open_tab(examples.url)
    ours.get_by_role("button", name="Reset").click()
    count = 0
    for tab, button, step in [(ours, "+1", 1), (theirs, "+1", 1), (theirs, "+1", 1), (ours, "-1", -1)]:
        tab.get_by_role("button", name=button).click()
        count += step
        for page in (ours, theirs):
            expect(page.get_by_test_id("stMetricValue")).to_have_text(str(count))


def test_no_click_on_the_counter_is_lost(examples: AppServer, open_tab: Callable[[str], Page]) -> None:
    ours, theirs = open_tab(examples.url), open_tab(examples.url)
    ours.get_by_role("button", name="Reset").click()
    for page in (ours, theirs):
        expect(page.get_by_test_id("stMetricValue")).to_have_text("0")
    for _ in range(10):
        for page in (ours, theirs):
            page.get_by_role("button", name="+1").click()
    for page in (ours, theirs):
        expect(page.get_by_test_id("stMetricValue")).to_have_text("20")


def test_chat_message_leaves_what_others_are_typing(examples: AppServer, open_tab: Callable[[str], Page]) -> None:
    url = f"{examples.url}/chat"
    ours, theirs = open_tab(url), open_tab(url)
    draft, message = unique("Half a"), unique("Hello")
    chat_box(ours).click()
    ours.keyboard.type(draft)

    say(theirs, message)

    for tab in (ours, theirs):
        expect(said(tab, message)).to_have_count(1)
    expect(chat_box(ours)).to_have_value(draft)
    expect(chat_box(ours)).to_be_focused()
    ours.keyboard.type(" sentence")
    ours.keyboard.press("Enter")
    for tab in (ours, theirs):
        expect(said(tab, f"{draft} sentence")).to_have_count(1)
    expect(chat_box(ours)).to_have_value("")


def test_message_reaches_its_room_only(examples: AppServer, open_tab: Callable[[str], Page]) -> None:
    url = f"{examples.url}/rooms"
    ours, theirs, elsewhere = open_tab(url), open_tab(url), open_tab(url)
    for tab in (ours, theirs):
        enter_room(tab, "Kitchen")
    enter_room(elsewhere, "Garden")
    for_the_kitchen, for_the_garden = unique("Tea is ready"), unique("It rains")

    say(ours, for_the_kitchen)
    for tab in (ours, theirs):
        expect(said(tab, for_the_kitchen)).to_have_count(1)
    enter_room(ours, "Garden")
    say(ours, for_the_garden)
    for tab in (ours, elsewhere):
        expect(said(tab, for_the_garden)).to_have_count(1)

    for tab in (ours, elsewhere):
        expect(said(tab, for_the_kitchen)).to_have_count(0)
    expect(said(theirs, for_the_garden)).to_have_count(0)
    expect(said(theirs, for_the_kitchen)).to_have_count(1)


def test_new_room_opens_for_all_and_moves_nobody(examples: AppServer, open_tab: Callable[[str], Page]) -> None:
    url = f"{examples.url}/rooms"
    ours, theirs = open_tab(url), open_tab(url)
    enter_room(theirs, "Garden")
    room, message = unique("Cellar"), unique("It is dark")

    ours.get_by_label("Open a new room").fill(room)
    ours.get_by_label("Open a new room").press("Enter")

    expect(ours.get_by_role("radio", name=room)).to_be_checked()
    expect(theirs.get_by_text(room, exact=True)).to_be_visible()
    expect(theirs.get_by_role("radio", name="Garden")).to_be_checked()
    enter_room(theirs, room)
    say(theirs, message)
    expect(said(ours, message)).to_have_count(1)


# Whether a handle goes straight to where it settles: notes every value that it takes and when it last moved.
WATCH_SLIDER = """() => {
    window.values = [];
    const note = () => {
        const value = Number(document.querySelector('[aria-valuetext]').getAttribute('aria-valuetext'));
        if (value !== window.values.at(-1)) {
            window.values.push(value);
            window.movedAt = performance.now();
        }
    };
    note();
    new MutationObserver(note).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""
SLIDER_RESTS = "() => performance.now() - window.movedAt > 1000"


def test_slider_moves_both_ways_and_settles(examples: AppServer, open_tab: Callable[[str], Page]) -> None:
    url = f"{examples.url}/slider"
    ours, theirs = open_tab(url), open_tab(url)
    ours.get_by_role("slider").press("Home")
    for tab in (ours, theirs):
        slider_shows(tab, 0)

    for mover, key, presses, target in [(ours, "ArrowRight", 30, 30), (theirs, "ArrowLeft", 12, 18)]:
        for tab in (ours, theirs):
            tab.evaluate(WATCH_SLIDER)
        mover.get_by_role("slider").focus()
        for _ in range(presses):
            mover.keyboard.press(key, delay=20)
        for tab in (ours, theirs):
            slider_shows(tab, target)
            tab.wait_for_function(SLIDER_RESTS)
            values = tab.evaluate("window.values")
            assert values == sorted(values, reverse=key == "ArrowLeft")
            assert values[-1] == target
