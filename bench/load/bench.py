"""One server under test: its sessions, its counters, its writer thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from harness.server import AppServer, free_port, streamlit_run

from load.client import Session, open_sessions

APPS = Path(__file__).parent / "apps"
LOOPBACK = {"server.address": "127.0.0.1"}
SETTLE_SECONDS = 20.0
SETTLE_PAUSE = 0.25


@dataclass(frozen=True)
class Package:
    """A package, and whether the apps show what is shared in a live region. Otherwise sessions rerun to show it."""

    name: str
    module: str
    is_live: bool = False


PACKAGES = {
    "old": Package("streamlit-server-state", "streamlit_server_state"),
    "new": Package("fastserverstate", "fastserverstate"),
    "live": Package("fastserverstate, @live", "fastserverstate", is_live=True),
}


@dataclass(frozen=True)
class Variant:
    """Settings of a server: Streamlit's options and the argument of `configure(gc=...)`."""

    title: str
    short: str
    options: dict[str, str]
    gc: str | None = None


VARIANTS = {
    "gc-off": Variant("runner.postScriptGC off", "GC off", {"runner.postScriptGC": "false"}),
    "defaults": Variant("Streamlit's defaults", "defaults", {}),
    "paced": Variant('Streamlit\'s defaults, fastserverstate with configure(gc="paced")', "paced", {}, gc="paced"),
}


@dataclass(frozen=True)
class Runs:
    started: int
    completed: int

    def __sub__(self, before: Runs) -> Runs:
        return Runs(self.started - before.started, self.completed - before.completed)

    @property
    def killed(self) -> int:
        return self.started - self.completed


@dataclass(frozen=True)
class Writes:
    """The writes of the writer thread. `ended` is False if it hangs in a write."""

    count: int
    last: float
    busy_seconds: float
    ended: bool


class Bench:
    """The server and its open sessions."""

    def __init__(self, server: AppServer, control_port: int) -> None:
        self.server = server
        self.sessions: list[Session] = []
        self._control = f"http://127.0.0.1:{control_port}"

    async def open(self, queries: Iterable[str]) -> list[Session]:
        opened = await open_sessions(self.server.websocket_url, queries)
        self.sessions += opened
        return opened

    async def runs(self) -> dict[str, Runs]:
        """Return the runs so far, by group."""
        return {group: Runs(*counts) for group, counts in (await self._ask("/runs")).items()}

    async def settled_runs(self) -> dict[str, Runs]:
        """Return the runs so far, when no more runs start or end."""
        deadline = time.monotonic() + SETTLE_SECONDS
        runs = await self.runs()
        while time.monotonic() < deadline:
            await asyncio.sleep(SETTLE_PAUSE)
            before, runs = runs, await self.runs()
            if runs == before:
                break
        return runs

    async def start_writer(self, key: str, interval: float, seconds: float) -> None:
        await self._ask("/write", key=key, interval=interval, seconds=seconds)

    async def writer_ended(self, seconds: float) -> Writes:
        """Wait until the writer thread ends, or for this many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            report = await self._ask("/writer")
            if report["ended"] or time.monotonic() > deadline:
                return Writes(report["writes"], report["last_write"], report["busy_seconds"], report["ended"])
            await asyncio.sleep(0.02)

    def errors(self) -> int:
        """Return the exceptions that the server has printed."""
        return len(re.findall(r"^Traceback \(most recent call last\)", self.server.output, re.MULTILINE))

    async def _ask(self, path: str, **arguments: Any) -> Any:
        def ask() -> Any:
            with urllib.request.urlopen(f"{self._control}{path}?{urlencode(arguments)}", timeout=60) as answer:
                return json.load(answer)

        return await asyncio.to_thread(ask)


@contextlib.asynccontextmanager
async def serving(app: str, package: Package, variant: Variant) -> AsyncIterator[Bench]:
    """Run the app with the package until the block ends."""
    control_port = free_port()
    env = {"FSS_PACKAGE": package.module, "FSS_CONTROL_PORT": str(control_port)}
    if package.module == "fastserverstate" and variant.gc is not None:
        env["FSS_GC"] = variant.gc
    if package.is_live:
        env["FSS_LIVE"] = "yes"
    starting = contextlib.ExitStack()
    server = await asyncio.to_thread(
        starting.enter_context, streamlit_run(APPS / app, options=LOOPBACK | variant.options, env=env)
    )
    bench = Bench(server, control_port)
    try:
        yield bench
    finally:
        await asyncio.gather(*(session.close() for session in bench.sessions), return_exceptions=True)
        await asyncio.to_thread(starting.close)
