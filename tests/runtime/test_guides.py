"""The apps of the guides work on a real server as the guides say."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit
from harness.client import Client
from harness.samples import ROOT, app, samples
from harness.server import AppServer, streamlit_run, uvicorn_run
from harness.steps import with_clients
from streamlit.testing.v1 import AppTest

from fastserverstate import server_state

Start = Callable[[str], AppServer]


@pytest.fixture
def start(tmp_path: Path):
    """`with start(source) as server:` serves an app. Writing another source to the file reruns every session."""

    def start(source: str):
        (tmp_path / "app.py").write_text(source)
        return streamlit_run(
            tmp_path / "app.py", options={"server.fileWatcherType": "poll", "server.runOnSave": "true"}
        )

    return start


def with_changes(source: str, *changes: tuple[str, str]) -> str:
    """Return the source with some replacements."""
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


def metric(label: str, body: str) -> Callable[[Client], bool]:
    def shows(client: Client) -> bool:
        try:
            return bool(client.element(label)[0].body == body)
        except LookupError:
            return False

    return shows


@pytest.mark.parametrize("number", [0, 1, 2])
def test_quick_start(start, number: int) -> None:
    async def steps(one: Client, two: Client) -> None:
        for client, clicks in [(one, "1"), (two, "2")]:
            await client.click("Click")
            for each in (one, two):
                await each.until(metric("Clicks of everyone", clicks))

    with start(app("docs/quickstart.md", number)) as server:
        with_clients(server, 2, steps)


def test_readme(start) -> None:
    async def steps(one: Client, two: Client) -> None:
        await one.click("Click")
        await two.until(metric("Clicks of everyone", "1"))
        await two.until(lambda client: client.settled)
        assert two.finished - two.fragment_runs == 1, "the page was rerun"

    with start(app("README.md", 1)) as server:
        with_clients(server, 2, steps)


def test_which(start) -> None:
    async def steps(one: Client, two: Client) -> None:
        assert two.exceptions == []
        await one.click("Load again, for everyone")
        await two.until(lambda client: client.finished == 2)
        assert two.exceptions == []

    with start(app("docs/which.md")) as server:
        with_clients(server, 2, steps)


@pytest.mark.parametrize(("number", "runs"), [(0, 2), (1, 1)], ids=["setdefault", "in"])
def test_a_read_in_the_body_reruns_the_page(start, number: int, runs: int) -> None:
    found = [sample.text for sample in samples(ROOT / "docs/live.md") if "def count" in sample.text]
    click = 'st.button("Click", on_click=lambda: server_state.update(n=1))'

    async def steps(one: Client, two: Client) -> None:
        await one.click("Click")
        await two.until(metric("n", "1"))
        await two.until(lambda client: client.settled and client.finished - client.fragment_runs == runs)

    with start(f"{found[number]}\n{click}\n") as server:
        with_clients(server, 2, steps)


def test_counter(start) -> None:
    async def steps(one: Client, two: Client) -> None:
        for client in (one, two):
            await client.shows("You are one of 2 visitors.")
        for client, tea in [(one, "1"), (two, "2")]:
            await client.until(lambda client: client.settled)
            await client.click("Vote for Tea")
            for each in (one, two):
                await each.until(metric("Tea", tea))
                await each.until(metric("Coffee", "0"))

    with start(app("docs/guides/counter.md")) as server:
        with_clients(server, 2, steps)


def test_rate_limit(start) -> None:
    async def send(client: Client) -> list[str]:
        finished = client.finished
        await client.click("Send")
        await client.until(lambda client: client.settled and client.finished > finished)
        return client.texts

    async def steps(one: Client, two: Client) -> None:
        for _ in range(5):
            assert await send(one) == ["Sent."]
        assert await send(one) == await send(two) == ["Wait a minute."]
        while await send(two) != ["Sent."]:
            pass

    with start(with_changes(app("docs/guides/expiry.md", 0), ('after="1m"', 'after="8s"'))) as server:
        with_clients(server, 2, steps)


def test_counter_after_its_keys_were_deleted(start) -> None:
    source = (
        app("docs/guides/counter.md")
        + """
st.button("Delete all", on_click=server_state.clear)
"""
    )

    async def steps(one: Client, two: Client) -> None:
        await one.click("Delete all")
        for client in (one, two):
            await client.shows("You are one of 0 visitors.")
        await two.click("Vote for Tea")
        await one.until(metric("Tea", "1"))
        assert one.exceptions == two.exceptions == []

    with start(source) as server:
        with_clients(server, 2, steps)


def test_chat() -> None:
    source = app("docs/guides/chat.md")
    try:
        one, two, elsewhere = (AppTest.from_string(source).run(timeout=60) for _ in range(3))
        elsewhere.text_input(key="room").set_value("Garden").run(timeout=60)
        one.chat_input(key="draft").set_value("Hello").run(timeout=60)
        said = [[message.text[0].value for message in app.run(timeout=60).chat_message] for app in (two, elsewhere)]
        assert said == [["Somebody: Hello"], []]
        del server_state["room Kitchen"]
        assert not one.run(timeout=60).chat_message
        two.chat_input(key="draft").set_value("Again").run(timeout=60)
        assert [message.text[0].value for message in one.run(timeout=60).chat_message] == ["Somebody: Again"]
        assert not one.exception
    finally:
        server_state.clear()


def test_dashboard(start) -> None:
    def load(client: Client) -> str:
        try:
            return str(client.element("Load")[0].body)
        except LookupError:
            return ""

    async def steps(one: Client, two: Client) -> None:
        for client in (one, two):
            for _ in range(3):
                last = load(client)
                await client.until(lambda client, last=last: load(client) not in ("", "0%", last))
            assert client.finished - client.fragment_runs == 1, "whole pages were rerun"

    with start(app("docs/guides/dashboard.md")) as server:
        with_clients(server, 2, steps)


def test_dashboard_goes_on_after_a_failure(start, tmp_path: Path) -> None:
    """After an edit that fixes it, the older thread ends, and no longer runs the older code."""
    source = app("docs/guides/dashboard.md")
    broken = with_changes(source, ("return random.random()", 'raise RuntimeError("no sensor")'))
    mended = with_changes(source, ("return random.random()", "return 0.25"))

    async def steps(one: Client, two: Client) -> None:
        for client in (one, two):
            await client.until(lambda client: any("no sensor" in text for text in alerts(client)))
        (tmp_path / "app.py").write_text(mended)
        for client in (one, two):
            await client.until(metric("Load", "25%"))
            await client.until(lambda client: not alerts(client))

    with start(broken) as server:
        with_clients(server, 2, steps)


def alerts(client: Client) -> list[str]:
    return [element.alert.body for kind, element, _ in client._elements.values() if kind == "alert"]


async def submit_job(client: Client, number: int) -> None:
    await client.click("Submit a job")
    await client.until(lambda client: any(f"Job {number}:" in text for text in client.texts))


def test_jobs(start) -> None:
    async def steps(one: Client, two: Client) -> None:
        for number, client in [(1, one), (2, two), (3, one)]:
            await submit_job(client, number)
        for client in (one, two):
            for number in (1, 2, 3):
                await client.shows(f"Job {number}: 100 %")

    with start(app("docs/guides/jobs.md")) as server:
        with_clients(server, 2, steps)


def test_jobs_that_fail_and_an_edit(start, tmp_path: Path) -> None:
    """More jobs fail than there are workers. Jobs that start after an edit run its code."""
    source = app("docs/guides/jobs.md")
    broken = with_changes(source, ("time.sleep(0.05)  # what takes long", 'raise RuntimeError("broken")'))
    mended = with_changes(source, ('f"{percent} %"', 'f"{percent} percent"'))

    async def steps(one: Client, two: Client) -> None:
        for number in (1, 2, 3):
            await submit_job(one, number)
            for client in (one, two):
                await client.shows(f"Job {number}: failed: broken")
        (tmp_path / "app.py").write_text(mended + '\nst.text("edited")\n')
        for client in (one, two):
            await client.shows("edited")
        for number, client in enumerate((one, two, one), 4):
            await submit_job(client, number)
        for client in (one, two):
            for number in (4, 5, 6):
                await client.shows(f"Job {number}: 100 percent")

    with start(broken) as server:
        with_clients(server, 2, steps)


def test_jobs_whose_user_leaves(start) -> None:
    source = with_changes(
        app("docs/guides/jobs.md"),
        ("time.sleep(0.05)  # what takes long", 'wait_for("go")'),
        (
            "start_workers(Path",
            'st.button("Go", on_click=server_state.update, kwargs={"go": True})\nstart_workers(Path',
        ),
    )

    async def steps(one: Client) -> None:
        async with Client(server.websocket_url) as leaving:
            await leaving.until(lambda client: client.settled)
            await submit_job(leaving, 1)
        await one.until(lambda client: "Job 1: waiting" in client.texts)
        await one.click("Go")
        await one.shows("Job 1: 100 %")

    with start(source) as server:
        with_clients(server, 1, steps)


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

    async def steps(one: Client, two: Client) -> None:
        async with Client(server.websocket_url) as leaving:
            await leaving.until(lambda client: client.settled)
            await leaving.click("Review")
            for client in (one, two):
                await client.shows("The review is in progress.")
        for client in (one, two):
            await client.shows("The review is waiting.")
        await one.click("Review")
        await two.shows("The review is in progress.")
        await two.click("Review")  # it is claimed
        await two.until(lambda client: client.settled)
        assert "Page 0" not in two.texts
        await two.click("Go")
        for client in (one, two):
            await client.shows("The review is done.")

    with start(source) as server:
        with_clients(server, 2, steps)


@pytest.mark.skipif(not hasattr(AppTest, "file_uploader"), reason="in this Streamlit release AppTest uploads no files")
def test_upload() -> None:
    """Two users upload files. After one of them removes a file, its shared copy remains."""
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
        for app in (one.run(timeout=60), two.run(timeout=60)):
            assert not app.exception
            assert [text.value for text in app.text] == ["a.txt: 5 bytes", "b.txt: 7 bytes"]
    finally:
        server_state.clear()


def test_results_that_vanish_and_results_that_stay(start) -> None:
    document = ROOT / "docs/troubleshooting.md"
    vanishing, staying = (sample.text for sample in samples(document) if "Roll" in sample.text)

    async def vanishes(one: Client) -> None:
        await one.click("Roll")
        await one.until(lambda client: client.settled and client.finished == 3)
        assert metric("Rolls", "1")(one)
        assert alerts(one) == []

    async def stays(one: Client, two: Client) -> None:
        await one.click("Roll")
        await one.until(lambda client: alerts(client) == ["You are number 1"])
        await two.until(metric("Rolls", "1"))
        await two.click("Roll")
        for client, number in ((one, 1), (two, 2)):
            await client.until(metric("Rolls", "2"))
            expected = [f"You are number {number}"]
            await client.until(lambda client, expected=expected: client.settled and alerts(client) == expected)

    with start(vanishing) as server:
        with_clients(server, 1, vanishes)
    with start(staying) as server:
        with_clients(server, 2, stays)


@pytest.mark.skipif(not hasattr(streamlit, "App"), reason="this Streamlit release has no st.App")
def test_webhook(tmp_path: Path) -> None:
    for number, name in enumerate(["service.py", "app.py"]):
        (tmp_path / name).write_text(app("docs/guides/webhook.md", number))

    with uvicorn_run(tmp_path) as server:

        async def steps(one: Client, two: Client) -> None:
            for text in ("Deployed", "Rolled back"):
                body = json.dumps({"text": text}).encode()
                with urllib.request.urlopen(f"{server.url}/hooks/events", body, timeout=30) as answer:
                    assert json.load(answer) == {"received": True}
                for client in (one, two):
                    await client.shows(text)
            for body in (b"{}", b"[]", b"no JSON"):
                with pytest.raises(urllib.error.HTTPError, match="400"):
                    urllib.request.urlopen(f"{server.url}/hooks/events", body, timeout=30)
            for client in (one, two):
                await client.until(lambda client: client.settled and client.texts == ["Rolled back", "Deployed"])

        with_clients(server, 2, steps)


def test_a_room_and_a_guard(start) -> None:
    async def rooms(one: Client, two: Client) -> None:
        await one.click("Vote")
        await two.until(metric("Votes", "1"))
        await two.enter("Topic", "Lunch")
        await two.click("Set the topic")
        await one.shows("Lunch")
        await one.click("Start over")
        for client in (one, two):
            await client.shows("No topic yet")
            await client.until(metric("Votes", "0"))

    async def salaries(client: Client) -> None:
        await client.shows("Only managers see salaries.")

    with start(app("docs/guides/spaces.md")) as server:
        with_clients(server, 2, rooms)
    with start(app("docs/guides/spaces.md", 2)) as server:
        with_clients(server, 1, salaries)
