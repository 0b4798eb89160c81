"""`shared` widgets, in the tabs of two or three users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit
from harness.server import AppServer, streamlit_run
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

OpenTab = Callable[..., Page]


@pytest.fixture
def app() -> Iterator[AppServer]:
    """An app whose values no user has changed yet."""
    with streamlit_run(Path(__file__).parent / "apps" / "shared_widgets.py") as server:
        yield server


def runs(tab: Page) -> int:
    return int(tab.get_by_text("Runs: ").inner_text().removeprefix("Runs: "))


def click(tab: Page) -> None:
    """Click a button that has nothing to do with the shared widgets."""
    clicks = int(tab.get_by_text("Clicks: ").inner_text().removeprefix("Clicks: "))
    tab.get_by_role("button", name="Click").click()
    expect(tab.get_by_text(f"Clicks: {clicks + 1}", exact=True)).to_be_visible()


def has_values(tab: Page, values: str) -> None:
    expect(tab.get_by_text(f"Values: {values}", exact=True)).to_be_visible()


def choose(tab: Page, label: str, option: str) -> None:
    tab.get_by_test_id("stSelectbox" if label == "Select" else "stMultiSelect").get_by_role("combobox").click()
    tab.get_by_role("option", name=option).click()
    if label == "Several":  # its list stays open
        tab.keyboard.press("Escape")


# Some releases of Streamlit show the selection as text, others in an input box.
SELECTED = """([kind, option]) => {
    const element = document.querySelector(`[data-testid=${kind}]`);
    const boxes = [...element.querySelectorAll("input")].map(box => box.value);
    return [element.innerText, ...boxes].join().includes(option);
}"""


def test_every_widget_follows_and_each_tab_runs_once(app: AppServer, open_tab: OpenTab) -> None:
    ours, theirs, third = tabs = [open_tab(app.url) for _ in range(3)]

    def enter(tab: Page, label: str, text: str) -> None:
        tab.get_by_label(label, exact=True).fill(text)
        tab.get_by_label(label, exact=True).press("Enter")

    def check(tab: Page) -> None:
        tab.get_by_test_id("stCheckbox").get_by_text("Check").click()

    # No step sets back a recent update after changing another widget: the test may be faster than any user.
    steps: list[tuple[Callable[[], None], str]] = [
        (lambda: enter(ours, "Text", "Hello"), "['Hello', False, 10, 'Ant', []]"),
        (lambda: enter(theirs, "Text", "Hello you"), "['Hello you', False, 10, 'Ant', []]"),
        (lambda: check(ours), "['Hello you', True, 10, 'Ant', []]"),
        (lambda: check(third), "['Hello you', False, 10, 'Ant', []]"),
        (lambda: check(ours), "['Hello you', True, 10, 'Ant', []]"),
        (lambda: enter(theirs, "Number", "20"), "['Hello you', True, 20, 'Ant', []]"),
        (lambda: enter(ours, "Number", "30"), "['Hello you', True, 30, 'Ant', []]"),
        (lambda: choose(ours, "Select", "Cat"), "['Hello you', True, 30, 'Cat', []]"),
        (lambda: choose(theirs, "Select", "Bee"), "['Hello you', True, 30, 'Bee', []]"),
        (lambda: choose(ours, "Several", "Bee"), "['Hello you', True, 30, 'Bee', ['Bee']]"),
        (lambda: choose(theirs, "Several", "Cat"), "['Hello you', True, 30, 'Bee', ['Bee', 'Cat']]"),
    ]
    for act, values in steps:
        before = [runs(tab) for tab in tabs]
        act()
        for tab, number in zip(tabs, before, strict=True):
            has_values(tab, values)
            expect(tab.get_by_text(f"Runs: {number + 1}", exact=True)).to_be_visible()
    for tab in tabs:
        expect(tab.get_by_label("Text", exact=True)).to_have_value("Hello you")
        expect(tab.get_by_role("checkbox", name="Check")).to_be_checked()
        expect(tab.get_by_label("Number", exact=True)).to_have_value("30")
        tab.wait_for_function(SELECTED, arg=["stSelectbox", "Bee"])
        tab.wait_for_function(SELECTED, arg=["stMultiSelect", "Cat"])
        assert runs(tab) == len(steps) + 1


# The visible handle of a slider. Its element for assistive technology may have another size.
HANDLE = """element => {
    const box = () => element.getBoundingClientRect();
    while (box().width < 8 || box().width > 40) element = element.parentElement;
    return [box().x + box().width / 2, box().y + box().height / 2];
}"""


class Drag:
    """Drags a slider's handle."""

    def __init__(self, tab: Page, slider: Locator) -> None:
        self.tab = tab
        self.x, self.y = slider.evaluate(HANDLE)
        tab.mouse.move(self.x, self.y)
        tab.mouse.down()

    def move(self, by: int) -> None:
        self.x += by
        self.tab.mouse.move(self.x, self.y)

    def release(self) -> None:
        self.tab.mouse.up()


def slider(tab: Page, place: int) -> Locator:
    return tab.get_by_role("slider").nth(place)


def value(tab: Page, place: int) -> int:
    """Return the value that the slider shows after the last move of the mouse is drawn."""
    tab.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    return int(slider(tab, place).get_attribute("aria-valuetext") or "")


def settled(*tabs: Page) -> tuple[int, int]:
    """Return the values that all tabs show in the end."""
    for tab in tabs:
        # The runs that are due start before the requested one.
        click(tab)
    for tab in tabs:
        click(tab)
    tab = tabs[0]
    values = (value(tab, 0), value(tab, 1))
    for tab in tabs:
        has_values(tab, f"{values[0]} {values[1]}")
        for place in (0, 1):
            expect(slider(tab, place)).to_have_attribute("aria-valuetext", str(values[place]))
    return values


@pytest.fixture
def tabs(app: AppServer, open_tab: OpenTab) -> list[Page]:
    """Open three tabs with sliders that have sent their values. Otherwise, a repeated update would end a drag."""
    tabs = [open_tab(app.url, "Sliders") for _ in range(3)]
    settled(*tabs)
    return tabs


forgets_widgets = pytest.mark.skipif(
    streamlit.__version__.startswith("1.37."),
    reason="in the browser, Streamlit 1.37 loses widgets, and drags with them, when runs follow each other immediately",
)
sends_while_dragging = pytest.mark.skipif(
    streamlit.__version__.startswith("1.44."),
    reason="Streamlit 1.44 sends values during a drag; on a busy machine they are taken for old after a second",
)


@forgets_widgets
@sends_while_dragging
def test_two_people_drag_two_sliders(tabs: list[Page]) -> None:
    """Neither drag is lost, although each browser also sends the last value that it knows of the other slider."""
    ours, theirs, _ = tabs
    for direction in (1, -1, 1):
        drags = Drag(ours, slider(ours, 0)), Drag(theirs, slider(theirs, 1))
        for _ in range(30):
            drags[0].move(5 * direction)
            drags[1].move(-4 * direction)
        dragged = value(ours, 0), value(theirs, 1)
        for drag in drags:
            drag.release()
        expect(slider(theirs, 0)).to_have_attribute("aria-valuetext", str(dragged[0]))
        expect(slider(ours, 1)).to_have_attribute("aria-valuetext", str(dragged[1]))
        assert settled(*tabs) == dragged


@forgets_widgets
@sends_while_dragging
def test_two_people_drag_one_slider(tabs: list[Page]) -> None:
    """One of the two wins, and both tabs show the same value."""
    ours, theirs, _ = tabs
    for direction in (1, -1, 1):
        drags = Drag(ours, slider(ours, 0)), Drag(theirs, slider(theirs, 0))
        for _ in range(30):
            drags[0].move(4 * direction)
            drags[1].move(-3 * direction)
        for drag in drags:
            drag.release()
        settled(*tabs)
        # The next user who moves it wins.
        before = value(theirs, 0)
        drag = Drag(theirs, slider(theirs, 0))
        for _ in range(10):
            drag.move(5 if before < 50 else -5)
        drag.release()
        last = value(theirs, 0)
        assert last != before
        expect(slider(ours, 0)).to_have_attribute("aria-valuetext", str(last))
        assert settled(*tabs)[0] == last


def test_clicks_during_a_drag_do_not_move_the_slider(app: AppServer, open_tab: OpenTab) -> None:
    ours, theirs = tabs = [open_tab(app.url, "Sliders") for _ in range(2)]
    slider(ours, 0).focus()
    for number in range(15):
        ours.keyboard.press("ArrowRight")
        theirs.get_by_role("button", name="Click").click()
        for tab in tabs:
            has_values(tab, f"{51 + number} 50")
            expect(slider(tab, 0)).to_have_attribute("aria-valuetext", str(51 + number))
    assert settled(*tabs) == (65, 50)


def test_form(app: AppServer, open_tab: OpenTab) -> None:
    ours, theirs = tabs = [open_tab(app.url, "Form") for _ in range(2)]

    def save(tab: Page, name: str, member: bool) -> None:
        tab.get_by_label("Name").fill(name)
        box = tab.get_by_role("checkbox", name="Member")
        if box.is_checked() != member:
            tab.get_by_test_id("stCheckbox").get_by_text("Member").click()
        tab.get_by_role("button", name="Save").click()

    for tab, name, member in [(ours, "Ada", True), (theirs, "Bob", False), (ours, "Ada", True), (theirs, "", True)]:
        save(tab, name, member)
        for each in tabs:
            has_values(each, f"{name!r} {member}")
            expect(each.get_by_label("Name")).to_have_value(name)
        for each in tabs:
            click(each)
        for each in tabs:
            has_values(each, f"{name!r} {member}")
    # Input that is not submitted is not lost, although the form shows updates in between.
    ours.get_by_label("Name").fill("Mine")
    ours.get_by_label("Name").press("Tab")
    save(theirs, "Theirs", True)
    expect(ours.get_by_label("Name")).to_have_value("Theirs")
    ours.get_by_role("button", name="Save").click()
    for each in tabs:
        has_values(each, "'Mine' True")
        expect(each.get_by_label("Name")).to_have_value("Mine")


def test_fragment(app: AppServer, open_tab: OpenTab) -> None:
    ours, theirs = tabs = [open_tab(app.url, "Fragment") for _ in range(2)]
    before = [runs(tab) for tab in tabs]
    level = 50
    for mover, key, step in ((ours, "ArrowRight", 1), (theirs, "ArrowLeft", -1)):
        slider(mover, 0).focus()
        for _ in range(5):
            mover.keyboard.press(key)
            level += step
            for tab in tabs:
                has_values(tab, str(level))
                expect(slider(tab, 0)).to_have_attribute("aria-valuetext", str(level))
    assert [runs(tab) for tab in tabs] == before


def test_dialog(app: AppServer, open_tab: OpenTab) -> None:
    """It remains open in both tabs, whichever of the users changes its widgets."""
    ours, theirs = tabs = [open_tab(app.url, "Dialog") for _ in range(2)]
    for tab in tabs:
        tab.get_by_role("button", name="Open").click()
        has_values(tab, "'' 50")
    before = [runs(tab) for tab in tabs]
    for number, tab in enumerate((ours, theirs, ours)):
        tab.get_by_label("Words").fill(f"Hello {number}")
        tab.get_by_label("Words").press("Enter")
        for each in tabs:
            has_values(each, f"'Hello {number}' {50 + number}")
            expect(each.get_by_label("Words")).to_have_value(f"Hello {number}")
        slider(tab, 0).focus()
        tab.keyboard.press("ArrowRight")
        for each in tabs:
            has_values(each, f"'Hello {number}' {51 + number}")
            expect(slider(each, 0)).to_have_attribute("aria-valuetext", str(51 + number))
    assert [runs(tab) for tab in tabs] == before


def test_a_left_page_shows_the_current_value_again(app: AppServer, open_tab: OpenTab) -> None:
    ours, theirs = open_tab(app.url), open_tab(app.url)
    ours.get_by_test_id("stSidebarNav").get_by_text("Form", exact=True).click()
    expect(ours.get_by_role("heading", name="Form")).to_be_visible()
    theirs.get_by_label("Text", exact=True).fill("Meanwhile")
    theirs.get_by_label("Text", exact=True).press("Enter")
    has_values(theirs, "['Meanwhile', False, 10, 'Ant', []]")
    ours.get_by_test_id("stSidebarNav").get_by_text("Widgets", exact=True).click()
    has_values(ours, "['Meanwhile', False, 10, 'Ant', []]")
    expect(ours.get_by_label("Text", exact=True)).to_have_value("Meanwhile")


def test_unsent_text_stays_when_another_widget_changes(app: AppServer, open_tab: OpenTab) -> None:
    ours, theirs = open_tab(app.url), open_tab(app.url)
    box = ours.get_by_label("Text", exact=True)
    box.click()
    ours.keyboard.type("Half a")
    theirs.get_by_test_id("stCheckbox").get_by_text("Check").click()
    has_values(ours, "['', True, 10, 'Ant', []]")
    expect(box).to_have_value("Half a")
    ours.keyboard.type(" sentence")
    ours.keyboard.press("Enter")
    has_values(theirs, "['Half a sentence', True, 10, 'Ant', []]")


def test_a_table(app: AppServer, open_tab: OpenTab) -> None:
    """The example for st.data_editor in docs/shared-widgets.md."""
    ours, theirs = tabs = [open_tab(app.url, "Table") for _ in range(2)]

    def edit(tab: Page, row: int, text: str) -> None:
        # The cells are painted on a canvas. Click at an offset below the header row.
        canvas = tab.get_by_test_id("stDataFrame").locator("canvas").first
        box = canvas.bounding_box()
        assert box is not None
        tab.mouse.dblclick(box["x"] + 110, box["y"] + 35 * (row + 1) + 18)
        editor = tab.locator("#portal textarea, #portal input").first
        expect(editor).to_be_visible()
        editor.fill(text)
        editor.press("Enter")

    for tab, row, text, names in [
        (ours, 0, "Adele", "['Adele', 'Bob']"),
        (theirs, 1, "Bert", "['Adele', 'Bert']"),
        (theirs, 0, "Alice", "['Alice', 'Bert']"),
        (ours, 1, "Bea", "['Alice', 'Bea']"),
    ]:
        edit(tab, row, text)
        for each in tabs:
            has_values(each, f"{names} [36, 41]")
