"""Apps written in the tests, served by a real Streamlit server."""

from __future__ import annotations

import contextlib
import re
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

        def start(source: str, *, options: dict[str, str] | None = None, **files: str) -> AppServer:
            folder = tmp_path / "app"
            folder.mkdir()
            for name, text in {"main": source, **files}.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / f"{name}.py").write_text(PRELUDE + textwrap.dedent(text))
            server = stack.enter_context(streamlit_run(folder / "main.py", options=options))
            stack.callback(check_output, server)
            return server

        def check_output(server: AppServer) -> None:
            # Streamlit itself logs a traceback now and then when a connection ends.
            assert not re.search(r'File ".*[/\\]fastserverstate[/\\]', server.output), server.output

        yield start
