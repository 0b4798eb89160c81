"""Apps written in the tests, served by a real Streamlit server."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.server import AppServer, streamlit_run

PRELUDE = """
import threading, time
import streamlit as st
from fastserverstate import *

"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., AppServer]]:
    """`serve(source, other_file=source, ...)` starts a server for the app until the test ends."""
    with contextlib.ExitStack() as stack:

        def start(
            source: str, *, options: dict[str, str] | None = None, raises: bool = False, **files: str
        ) -> AppServer:
            folder = tmp_path / "app"
            folder.mkdir()
            for name, text in {"main": source, **files}.items():
                (folder / f"{name}.py").write_text(PRELUDE + textwrap.dedent(text))
            server = stack.enter_context(streamlit_run(folder / "main.py", options=options))
            stack.callback(check_output, server, raises)
            return server

        def check_output(server: AppServer, raises: bool) -> None:
            assert ("Traceback" in server.output) == raises, server.output

        yield start
