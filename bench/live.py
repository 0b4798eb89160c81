"""A real Streamlit server in this process, and sessions whose script run stays open.

In `LiveServer.script_run` the calling thread has the context of such a run, so what it reads and writes is what
the session's script reads and writes: that is how the costs in a live, subscribed script run are measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.client import Client
from harness.server import QUIET, free_port
from streamlit import config
from streamlit.runtime.scriptrunner import add_script_run_ctx

MEETING = "_bench_meeting"

SCRIPT = f"""
import sys
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx
st.text("open")
if "met" not in st.session_state:
    st.session_state.met = True
    meeting = sys.modules["{MEETING}"]
    over = meeting.over
    meeting.context = get_script_run_ctx()
    meeting.arrived.set()
    over.wait()
"""


class LiveServer:
    """A server on a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "app.py"
        self._script.write_text(SCRIPT)
        self._port = free_port()
        self._stop = threading.Event()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="server")

    def start(self) -> None:
        for name, value in QUIET.items():
            config.set_option(name, {"true": True, "false": False}.get(value, value))
        config.set_option("server.port", self._port)
        self._thread.start()
        self._started.wait(30)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    async def _serve(self) -> None:
        from streamlit.web.server import Server  # noqa: PLC0415  (reads the configuration when imported)

        server = Server(str(self._script), False)
        await server.start()
        self._started.set()
        await asyncio.to_thread(self._stop.wait)
        server.stop()
        await server.stopped

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Block the server's event loop during the ``with`` block."""
        entered, over = threading.Event(), threading.Event()

        def wait() -> None:
            entered.set()
            over.wait(30)

        self._loop.call_soon_threadsafe(wait)
        try:
            if not entered.wait(30):
                raise TimeoutError("The event loop did not take the call.")
            yield
        finally:
            over.set()

    @contextlib.contextmanager
    def script_run(self) -> Iterator[None]:
        """Give the calling thread the context of a new session's run."""
        meeting: Any = ModuleType(MEETING)
        meeting.arrived, meeting.over = threading.Event(), threading.Event()
        sys.modules[MEETING] = meeting

        async def keep_open() -> None:
            async with Client(f"ws://127.0.0.1:{self._port}/_stcore/stream"):
                await asyncio.to_thread(meeting.over.wait)

        opened = asyncio.run_coroutine_threadsafe(keep_open(), self._loop)
        try:
            if not meeting.arrived.wait(30):
                raise TimeoutError("The session's script did not start.")
            thread = add_script_run_ctx(threading.current_thread(), meeting.context)
            yield
        finally:
            meeting.over.set()
            opened.result(30)
            vars(thread).pop(_context_name(thread))


@contextlib.contextmanager
def detached() -> Iterator[None]:
    """Remove the script context of the calling thread during the ``with`` block."""
    thread = threading.current_thread()
    name = _context_name(thread)
    context = vars(thread).pop(name)
    try:
        yield
    finally:
        setattr(thread, name, context)


def _context_name(thread: threading.Thread) -> str:
    return next(name for name, value in vars(thread).items() if type(value).__name__ == "ScriptRunContext")
