"""`python examples/demo.py`, as `make demo` runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.server import AppServer, free_port
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@contextmanager
def demo(port: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(DEMO)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PORT": str(port)},
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_demo_says_where_it_is_and_ends_cleanly(ending: signal.Signals, open_tab: Callable[..., Page]) -> None:
    port = free_port()
    with demo(port) as process:
        assert process.stdout is not None
        announcement = next(line for line in process.stdout if "http" in line)
        url = re.findall(r"http://\S+", announcement)[0]
        assert url == f"http://localhost:{port}"
        expect(open_tab(url).get_by_role("heading", name="Counter")).to_be_visible()

        process.send_signal(ending)

        rest = process.stdout.read()  # until the last process that prints has ended
        assert process.wait(20) == 0
    assert "Open it in two tabs" in rest
    assert str(DEMO) not in rest, "a traceback of the demo"  # some releases of Streamlit log tracebacks of their own
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def test_demo_says_that_its_port_is_taken(examples: AppServer) -> None:
    with demo(examples.port) as process:
        assert process.stdout is not None
        assert process.stdout.read() == f"Port {examples.port} is in use. Set PORT to another, or leave it out.\n"
        assert process.wait(20) == 1
