"""Start Streamlit apps in processes, as users do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

QUIET = {
    "server.address": "127.0.0.1",
    "server.headless": "true",
    "browser.gatherUsageStats": "false",
    "server.fileWatcherType": "none",
    "global.developmentMode": "false",
}


class AppServer:
    """A running server: its URL, process and output."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/_stcore/stream"

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """Return the user and system time of the process (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[AppServer]:
    """Run the command until the end of the block, which starts when the server on `port` is ready."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
            )
        server = AppServer(process, port, log)
        try:
            _wait_until_healthy(server)
            yield server
        finally:
            process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def streamlit_run(
    script: Path,
    *,
    options: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    python: str = sys.executable,
    port: int | None = None,
) -> Iterator[AppServer]:
    """Run `streamlit run script`, on a free port unless one is given."""
    port = port or free_port()
    flags = [f"--{name}={value}" for name, value in {**QUIET, "server.port": str(port), **(options or {})}.items()]
    with running([python, "-m", "streamlit", "run", str(script), *flags], port, env=env) as server:
        yield server


@contextlib.contextmanager
def uvicorn_run(folder: Path) -> Iterator[AppServer]:
    """Run `uvicorn service:app` in a folder, on a free port."""
    port = free_port()
    env = {f"STREAMLIT_{name.upper().replace('.', '_')}": value for name, value in QUIET.items()}
    env["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port)]
    with running(command, port, env=env, cwd=folder) as server:
        yield server


def _wait_until_healthy(server: AppServer, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"The server ended with {server.process.returncode}:\n{server.output}")
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(f"{server.url}/_stcore/health", timeout=5),
        ):
            return
        time.sleep(0.05)
    raise TimeoutError(f"The server was not ready after {seconds} s:\n{server.output}")
