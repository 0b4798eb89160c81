"""The apps of the documentation's guides do on a real server what the guides say."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit
from harness.samples import app
from harness.server import AppServer, streamlit_run, uvicorn_run
from harness.steps import with_tabs
from harness.tab import Tab
from streamlit.testing.v1 import AppTest

from fastserverstate import server_state

Start = Callable[[str], AppServer]


@pytest.fixture
def start(tmp_path: Path):
    """`with start(source) as server:` serves an app."""

    def start(source: str):
        (tmp_path / "app.py").write_text(source)
        return streamlit_run(tmp_path / "app.py")

    return start


def metric(label: str, body: str) -> Callable[[Tab], bool]:
    def shows(tab: Tab) -> bool:
        try:
            return bool(tab.element(label)[0].body == body)
        except LookupError:
            return False

    return shows


@pytest.mark.parametrize("number", [0, 1])
def test_quick_start(start, number: int) -> None:
    async def steps(one: Tab, two: Tab) -> None:
        for tab, clicks in [(one, "1"), (two, "2")]:
            await tab.click("Click")
            for each in (one, two):
                await each.until(metric("Clicks of everyone", clicks))

    with start(app("docs/quickstart.md", number)) as server:
        with_tabs(server, 2, steps)


def test_readme(start) -> None:
    async def steps(one: Tab, two: Tab) -> None:
        await one.click("Click")
        await two.until(metric("Clicks of everyone", "1"))
        await two.until(lambda tab: tab.settled)
        assert (two.started, two.fragment_runs) == (2, 1), "the page is built once, and the fragment once more"

    with start(app("README.md")) as server:
        with_tabs(server, 2, steps)


def test_which(start) -> None:
    async def steps(one: Tab, two: Tab) -> None:
        assert two.exceptions == []
        await one.click("Load again, for everyone")
        await two.until(lambda tab: tab.finished == 2)
        assert two.exceptions == []

    with start(app("docs/which.md")) as server:
        with_tabs(server, 2, steps)


def test_counter(start) -> None:
    async def steps(one: Tab, two: Tab) -> None:
        for tab in (one, two):
            await tab.shows("You are one of 2 visitors.")
        for tab, tea in [(one, "1"), (two, "2")]:
            await tab.until(lambda tab: tab.settled)
            await tab.click("Vote for Tea")
            for each in (one, two):
                await each.until(metric("Tea", tea))
                await each.until(metric("Coffee", "0"))

    with start(app("docs/guides/counter.md")) as server:
        with_tabs(server, 2, steps)


def test_chat() -> None:
    source = app("docs/guides/chat.md")
    try:
        one, two, elsewhere = (AppTest.from_string(source).run(timeout=60) for _ in range(3))
        elsewhere.text_input(key="room").set_value("Garden").run(timeout=60)
        one.chat_input(key="draft").set_value("Hello").run(timeout=60)
        said = [[message.text[0].value for message in tab.run(timeout=60).chat_message] for tab in (two, elsewhere)]
        assert said == [["Somebody: Hello"], []]
    finally:
        server_state.clear()


def test_dashboard(start) -> None:
    async def steps(one: Tab, two: Tab) -> None:
        for tab in (one, two):
            await tab.until(lambda tab: tab.fragment_runs >= 3)
            assert tab.finished - tab.fragment_runs == 1, "whole pages were rerun"
            assert not metric("Load", "0%")(tab)

    with start(app("docs/guides/dashboard.md")) as server:
        with_tabs(server, 2, steps)


def test_jobs(start) -> None:
    async def steps(one: Tab, two: Tab) -> None:
        for number, tab in [(1, one), (2, two), (3, one)]:
            await tab.click("Submit a job")
            await tab.until(lambda tab, number=number: any(f"Job {number}:" in text for text in tab.texts))
        for tab in (one, two):
            for number in (1, 2, 3):
                await tab.shows(f"Job {number}: 100 %")

    with start(app("docs/guides/jobs.md")) as server:
        with_tabs(server, 2, steps)


@pytest.mark.skipif(not hasattr(streamlit, "App"), reason="this Streamlit release has no st.App")
def test_webhook(tmp_path: Path) -> None:
    for number, name in enumerate(["service.py", "app.py"]):
        (tmp_path / name).write_text(app("docs/guides/webhook.md", number))

    with uvicorn_run(tmp_path) as server:

        async def steps(one: Tab, two: Tab) -> None:
            for text in ("Deployed", "Rolled back"):
                body = json.dumps({"text": text}).encode()
                with urllib.request.urlopen(f"{server.url}/hooks/events", body, timeout=30) as answer:
                    assert json.load(answer) == {"received": True}
                for tab in (one, two):
                    await tab.shows(text)

        with_tabs(server, 2, steps)
