"""`python examples/demo.py` and `demo_cluster.py`, as `make demo` and `make demo-cluster` run them."""

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
def test_demo_prints_its_url_and_ends_cleanly(ending: signal.Signals, open_tab: Callable[..., Page]) -> None:
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
    assert rest.endswith("Stopped.\n")
    assert str(DEMO) not in rest, "a traceback of the demo"  # some releases of Streamlit log tracebacks of their own
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals of this kind")
def test_ctrl_c_ends_make_demo(open_tab: Callable[..., Page]) -> None:
    """Press Ctrl-C in a terminal, which sends it to make and all its child processes."""
    port = free_port()
    terminal, other_end = os.openpty()
    installed = Path(sys.prefix) / ".installed"
    make = ["make", "--no-print-directory", f"--old-file={installed}", f"VENV={sys.prefix}", "demo"]
    with subprocess.Popen(
        # The first terminal that a new session opens becomes its controlling terminal.
        ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(other_end), *make],
        cwd=DEMO.parents[1],
        start_new_session=True,
        env={**os.environ, "PORT": str(port)},
    ) as process:
        try:
            said = read_until(terminal, "Ctrl-C")
            os.close(other_end)
            expect(open_tab(f"http://localhost:{port}").get_by_role("heading", name="Counter")).to_be_visible()

            os.write(terminal, b"\x03")

            said += read_until(terminal, None)
            process.wait(20)
        finally:
            process.terminate()
    os.close(terminal)
    assert "Stopped." in said
    # Some releases of Streamlit log tracebacks of their own.
    assert not re.search(r"demo\.py|KeyboardInterrupt|make:", said), said
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://localhost:{port}", timeout=5)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_demo_of_several_servers(ending: signal.Signals, open_tab: Callable[..., Page]) -> None:
    with subprocess.Popen(
        [sys.executable, str(DEMO.with_name("demo_cluster.py"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PORT": str(free_port())},
    ) as process:
        try:
            assert process.stdout is not None
            urls = [next(line for line in process.stdout if "http" in line).strip() for _ in range(2)]
            one, other = (open_tab(url) for url in urls)
            one.get_by_role("button", name="+1", exact=True).click()
            for tab in (one, other):
                expect(tab.get_by_test_id("stMetricValue")).to_have_text("1")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.killpg(process.pid, ending)  # as a terminal does it

            rest = process.stdout.read()
            assert process.wait(20) == 0
        finally:
            process.terminate()
    assert rest.endswith("Stopped.\n")
    assert "demo_cluster.py" not in rest, "a traceback"
    for url in urls:
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=5)
    assert len(children) == 3  # the servers and the Redis server
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def read_until(terminal: int, text: str | None) -> str:
    """Return the output of a terminal, up to a text or to the end."""
    said = b""
    while text is None or text.encode() not in said:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            assert text is None, said.decode()
            break
        said += data
    return said.decode()


def test_demo_says_that_its_port_is_taken(examples: AppServer) -> None:
    with demo(examples.port) as process:
        assert process.stdout is not None
        assert process.stdout.read() == f"Port {examples.port} is in use. Set PORT to another, or leave it out.\n"
        assert process.wait(20) == 1
