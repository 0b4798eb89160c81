"""The apps of the documentation's guides do on a real server what the guides say."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit
from harness.samples import ROOT, app, samples
from harness.server import AppServer, streamlit_run, uvicorn_run
from harness.steps import with_tabs
from harness.tab import Tab
from streamlit.testing.v1 import AppTest

from fastserverstate import server_state

Start = Callable[[str], AppServer]


@pytest.fixture
def start(tmp_path: Path):
    """`with start(source) as server:` serves an app. Writing another source to the file reruns every tab."""

    def start(source: str):
        (tmp_path / "app.py").write_text(source)
        return streamlit_run(
            tmp_path / "app.py", options={"server.fileWatcherType": "poll", "server.runOnSave": "true"}
        )

    return start


def with_changes(source: str, *changes: tuple[str, str]) -> str:
    """The source with something else in some places."""
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


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

    with start(app("README.md", 1)) as server:
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


def test_counter_after_its_keys_were_deleted(start) -> None:
    source = (
        app("docs/guides/counter.md")
        + """
st.button("Delete all", on_click=server_state.clear)
"""
    )

    async def steps(one: Tab, two: Tab) -> None:
        await one.click("Delete all")
        for tab in (one, two):
            await tab.shows("You are one of 0 visitors.")
        await two.click("Vote for Tea")
        await one.until(metric("Tea", "1"))
        assert one.exceptions == two.exceptions == []

    with start(source) as server:
        with_tabs(server, 2, steps)


def test_chat() -> None:
    source = app("docs/guides/chat.md")
    try:
        one, two, elsewhere = (AppTest.from_string(source).run(timeout=60) for _ in range(3))
        elsewhere.text_input(key="room").set_value("Garden").run(timeout=60)
        one.chat_input(key="draft").set_value("Hello").run(timeout=60)
        said = [[message.text[0].value for message in tab.run(timeout=60).chat_message] for tab in (two, elsewhere)]
        assert said == [["Somebody: Hello"], []]
        del server_state["room Kitchen"]
        assert not one.run(timeout=60).chat_message
        two.chat_input(key="draft").set_value("Again").run(timeout=60)
        assert [message.text[0].value for message in one.run(timeout=60).chat_message] == ["Somebody: Again"]
        assert not one.exception
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


def test_dashboard_goes_on_after_a_failure(start, tmp_path: Path) -> None:
    """And after an edit that mends it: the older thread ends, and the older code with it."""
    source = app("docs/guides/dashboard.md")
    broken = with_changes(source, ("return random.random()", 'raise RuntimeError("no sensor")'))
    mended = with_changes(source, ("return random.random()", "return 0.25"))

    async def steps(one: Tab, two: Tab) -> None:
        for tab in (one, two):
            await tab.until(lambda tab: any("no sensor" in text for text in alerts(tab)))
        (tmp_path / "app.py").write_text(mended)
        for tab in (one, two):
            await tab.until(metric("Load", "25%"))
            await tab.until(lambda tab: not alerts(tab))

    with start(broken) as server:
        with_tabs(server, 2, steps)


def alerts(tab: Tab) -> list[str]:
    return [element.alert.body for kind, element, _ in tab._elements.values() if kind == "alert"]


async def submit_job(tab: Tab, number: int) -> None:
    await tab.click("Submit a job")
    await tab.until(lambda tab: any(f"Job {number}:" in text for text in tab.texts))


def test_jobs(start) -> None:
    async def steps(one: Tab, two: Tab) -> None:
        for number, tab in [(1, one), (2, two), (3, one)]:
            await submit_job(tab, number)
        for tab in (one, two):
            for number in (1, 2, 3):
                await tab.shows(f"Job {number}: 100 %")

    with start(app("docs/guides/jobs.md")) as server:
        with_tabs(server, 2, steps)


def test_jobs_that_fail_and_an_edit(start, tmp_path: Path) -> None:
    """More jobs fail than there are workers. Those that run after an edit are done by its code."""
    source = app("docs/guides/jobs.md")
    broken = with_changes(source, ("time.sleep(0.05)  # what takes long", 'raise RuntimeError("broken")'))
    mended = with_changes(source, ('f"{percent} %"', 'f"{percent} percent"'))

    async def steps(one: Tab, two: Tab) -> None:
        for number in (1, 2, 3):
            await submit_job(one, number)
            for tab in (one, two):
                await tab.shows(f"Job {number}: failed: broken")
        (tmp_path / "app.py").write_text(mended + '\nst.text("edited")\n')
        for tab in (one, two):
            await tab.shows("edited")
        for number, tab in enumerate((one, two, one), 4):
            await submit_job(tab, number)
        for tab in (one, two):
            for number in (4, 5, 6):
                await tab.shows(f"Job {number}: 100 percent")

    with start(broken) as server:
        with_tabs(server, 2, steps)


def test_jobs_whose_user_leaves(start) -> None:
    source = with_changes(
        app("docs/guides/jobs.md"),
        ("time.sleep(0.05)  # what takes long", 'wait_for("go")'),
        (
            "start_workers(Path",
            'st.button("Go", on_click=server_state.update, kwargs={"go": True})\nstart_workers(Path',
        ),
    )

    async def steps(one: Tab) -> None:
        async with Tab(server.websocket_url) as leaving:
            await leaving.until(lambda tab: tab.settled)
            await submit_job(leaving, 1)
        await one.until(lambda tab: "Job 1: waiting" in tab.texts)
        await one.click("Go")
        await one.shows("Job 1: 100 %")

    with start(source) as server:
        with_tabs(server, 1, steps)


def test_a_job_that_a_session_does_is_given_back(start) -> None:
    source = (
        with_changes(
            app("docs/guides/jobs.md", 1),
            ('st.text(f"Page {page}")', 'st.text(f"Page {page}"); wait_for("go")'),
            ("import compare_and_set,", "import compare_and_set, wait_for,"),
        )
        + """
st.button("Go", on_click=server_state.update, kwargs={"go": True})
"""
    )

    async def steps(one: Tab, two: Tab) -> None:
        async with Tab(server.websocket_url) as leaving:
            await leaving.until(lambda tab: tab.settled)
            await leaving.click("Review")
            for tab in (one, two):
                await tab.shows("The review is in progress.")
        for tab in (one, two):
            await tab.shows("The review is waiting.")
        await one.click("Review")
        await two.shows("The review is in progress.")
        await two.click("Review")  # it is claimed
        await two.until(lambda tab: tab.settled)
        assert "Page 0" not in two.texts
        await two.click("Go")
        for tab in (one, two):
            await tab.shows("The review is done.")

    with start(source) as server:
        with_tabs(server, 2, steps)


@pytest.mark.skipif(not hasattr(AppTest, "file_uploader"), reason="in this Streamlit release AppTest uploads no files")
def test_upload() -> None:
    """Two users upload, one of them removes the file, and what was shared stays."""
    document = ROOT / "docs/shared-widgets.md"
    (upload,) = (sample.text for sample in samples(document) if "file_uploader" in sample.text)
    source = "import streamlit as st\nfrom fastserverstate import *\n" + upload
    try:
        one, two = (AppTest.from_string(source).run(timeout=60) for _ in range(2))
        one.file_uploader[0].set_value(("a.txt", b"first", "text/plain"))
        one.run(timeout=60)
        two.file_uploader[0].set_value(("b.txt", b"second!", "text/plain"))
        two.run(timeout=60)
        one.file_uploader[0].set_value(None)
        for tab in (one.run(timeout=60), two.run(timeout=60)):
            assert not tab.exception
            assert [text.value for text in tab.text] == ["a.txt: 5 bytes", "b.txt: 7 bytes"]
    finally:
        server_state.clear()


def test_results_that_vanish_and_results_that_stay(start) -> None:
    document = ROOT / "docs/troubleshooting.md"
    vanishing, staying = (sample.text for sample in samples(document) if "Roll" in sample.text)

    async def vanishes(one: Tab) -> None:
        await one.click("Roll")
        await one.until(lambda tab: tab.settled and tab.finished == 3)
        assert metric("Rolls", "1")(one)
        assert alerts(one) == []

    async def stays(one: Tab, two: Tab) -> None:
        await one.click("Roll")
        await one.until(lambda tab: alerts(tab) == ["You are number 1"])
        await two.until(metric("Rolls", "1"))
        await two.click("Roll")
        for tab, number in ((one, 1), (two, 2)):
            await tab.until(metric("Rolls", "2"))
            await tab.until(lambda tab, number=number: tab.settled and alerts(tab) == [f"You are number {number}"])

    with start(vanishing) as server:
        with_tabs(server, 1, vanishes)
    with start(staying) as server:
        with_tabs(server, 2, stays)


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
            for body in (b"{}", b"[]", b"no JSON"):
                with pytest.raises(urllib.error.HTTPError, match="400"):
                    urllib.request.urlopen(f"{server.url}/hooks/events", body, timeout=30)
            for tab in (one, two):
                await tab.until(lambda tab: tab.settled and tab.texts == ["Rolled back", "Deployed"])

        with_tabs(server, 2, steps)
