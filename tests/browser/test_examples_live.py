"""The samples of docs/live.md, open in the tabs of two or three users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.samples import ROOT, samples
from harness.server import AppServer, streamlit_run
from playwright.sync_api import Page, expect

from fastserverstate._streamlit.names import CAN_PUSH

pytestmark = pytest.mark.browser

OpenTab = Callable[..., Page]


@pytest.fixture
def served(tmp_path: Path):
    """`with served(text) as server:` serves the sample with this text, and some lines after it."""

    @contextmanager
    def served(text: str, *more: str) -> Iterator[AppServer]:
        (sample,) = (each.text for each in samples(ROOT / "docs" / "live.md") if text in each.text)
        (tmp_path / "app.py").write_text("\n".join([sample, *more]))
        with streamlit_run(tmp_path / "app.py") as server:
            yield server

    return served


def test_scoreboard(served, open_tab: OpenTab) -> None:
    with served("def scoreboard", 'st.text_input("Your notes")') as server:
        ours, theirs = open_tab(server.url), open_tab(server.url)
        expect(theirs.get_by_role("heading", name="Go", exact=True)).to_be_visible()
        theirs.get_by_label("Your notes").fill("half a note")
        for points in range(1, 4):
            ours.get_by_role("button", name="Ann wins at chess").click()
            for tab in (ours, theirs):
                expect(tab.get_by_test_id("stMetricValue")).to_have_text([str(points)])
        expect(theirs.get_by_label("Your notes")).to_have_value("half a note")


def test_tokens(served, open_tab: OpenTab) -> None:
    """The answer grows in every session, and a session that comes later shows all of it."""
    with served("def tokens") as server:
        ours, theirs = open_tab(server.url), open_tab(server.url)
        question = " ".join(f"word{number}" for number in range(60))
        ours.get_by_placeholder("Ask the model").fill(question)
        ours.get_by_placeholder("Ask the model").press("Enter")
        for tab in (ours, theirs):
            expect(tab.get_by_test_id("stChatMessage")).to_contain_text("word3")
        assert "word59" not in theirs.get_by_test_id("stChatMessage").inner_text(), "it has not grown"
        for tab in (ours, theirs, open_tab(server.url)):
            expect(tab.get_by_test_id("stChatMessage")).to_contain_text(f"You have asked: {question}")


@pytest.mark.skipif(not CAN_PUSH, reason="browsers of this release draw no elements outside of a run")
def test_no_other_session_reruns(served, open_tab: OpenTab) -> None:
    with served("def scoreboard", "import time", 'st.text(f"Run at {time.time()}")') as server:
        ours, theirs = open_tab(server.url), open_tab(server.url)
        before = theirs.get_by_text("Run at").inner_text()
        ours.get_by_role("button", name="Ann wins at chess").click()
        expect(theirs.get_by_test_id("stMetricValue")).to_have_text(["1"])
        assert theirs.get_by_text("Run at").inner_text() == before
        ours.get_by_role("button", name="Ann wins at chess").click()
        expect(theirs.get_by_test_id("stMetricValue")).to_have_text(["2"])
        assert theirs.get_by_text("Run at").inner_text() == before


def test_the_traceback_of_an_exception_begins_in_the_function(served, visitors) -> None:
    failing = '    if server_state.get("scores/Chess"):\n        raise ValueError("no such piece")'
    failing = f"@live\ndef fails() -> None:\n{failing}\nfails()"
    with served("def scoreboard", *failing.splitlines()) as server:
        ours, theirs = visitors(0).new_page(), visitors(1).new_page()
        for tab in (ours, theirs):
            tab.goto(server.url)
            expect(tab.get_by_role("heading", name="Go", exact=True)).to_be_visible()
        ours.get_by_role("button", name="Ann wins at chess").click()
        for tab in (ours, theirs):
            expect(tab.get_by_test_id("stException")).to_contain_text("ValueError: no such piece")
            expect(tab.get_by_test_id("stException")).to_contain_text("in fails")
            expect(tab.get_by_test_id("stException")).not_to_contain_text("_run_without_stop")
            tab.close()
