"""A chat goes on where it was after its server was killed: pages show again whatever they had shown."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.faults import times
from harness.server import free_port, streamlit_run
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

APP = Path(__file__).parent / "apps" / "chat.py"
KILLS = times(3, 20)
DEADLINE = 60
LATEST_KILL = 0.3  # seconds after a message was sent

# Notes each text that a page shows, however briefly. It is lost if the page is loaded again.
WATCH = """() => {
    window.seen = new Set();
    const look = () => document.querySelectorAll('[data-testid="stText"]').forEach(
        (element) => /^\\d+: /.test(element.textContent) && window.seen.add(element.textContent));
    new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
    look();
}"""


def send(page: Page, message: str) -> None:
    box = page.get_by_test_id("stChatInputTextArea")
    box.fill(message)
    box.press("Enter")


def line(page: Page, text: str) -> Locator:
    return page.get_by_text(re.compile(rf"^\d+: {text}$"))


def send_when_connected(page: Page, texts: Iterator[int]) -> str:
    """Send messages until one of them shows: pages lose those that users send while they connect again."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        text = f"message {next(texts)}"
        send(page, text)
        with contextlib.suppress(AssertionError):
            expect(line(page, text)).to_be_visible(timeout=2000)
            return text
    raise TimeoutError("The page does not connect again.")


def shown(page: Page) -> list[str]:
    return page.get_by_test_id("stText").all_inner_texts()


@pytest.mark.timeout(900)
def test_chat_survives_kills_of_its_server(tmp_path: Path, open_tab: Callable[..., Page]) -> None:
    tmp_path.chmod(0o700)
    port = free_port()
    pages: list[Page] = []
    texts = iter(range(1_000_000))
    moments = random.Random()
    seen: set[str] = set()
    for kill in range(KILLS + 1):
        with streamlit_run(APP, env={"STATE_FILE": str(tmp_path / "state.db")}, port=port) as server:
            if not pages:
                pages = [open_tab(server.url), open_tab(server.url)]
                for page in pages:
                    page.evaluate(WATCH)
            for text in [send_when_connected(page, texts) for page in pages]:
                for page in pages:
                    expect(line(page, text)).to_be_visible()
            assert shown(pages[0]) == shown(pages[1])
            assert seen <= set(shown(pages[0]))
            if kill == KILLS:
                break
            for page in pages * 2:
                send(page, f"message {next(texts)}")
            time.sleep(moments.uniform(0, LATEST_KILL))  # any moment will do
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            for page in pages:
                seen.update(page.evaluate("[...window.seen]"))
    assert len(seen) >= 2 * KILLS
