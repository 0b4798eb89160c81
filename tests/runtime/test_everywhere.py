"""Every way to run code that uses shared state."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import importlib
import inspect
import json
import logging
import math
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import types
import urllib.request
import weakref
from pathlib import Path
from typing import Any

import pytest
import streamlit
import streamlit.proto
from google.protobuf.message import Message
from harness.client import Client
from harness.server import streamlit_run, uvicorn_run
from harness.steps import with_clients
from streamlit import config
from streamlit.testing.v1 import AppTest

import fastserverstate
from fastserverstate import server_state
from fastserverstate._streamlit.names import NEEDED, NEWEST, missing_names

COUNTER = """
import streamlit as st
from fastserverstate import server_state
if st.button("plus"):
    server_state["n"] = server_state.get("n", 0) + 1
st.text(f"n {server_state.get('n', 0)}")
"""


@pytest.mark.skipif("server.enableAgentApi" not in config.get_config_options(), reason="needs Streamlit 1.67")
def test_agents_are_answered_while_a_key_changes_often(tmp_path: Path) -> None:
    """Agents are sessions without a browser. They wait until none of their runs is due."""
    script = tmp_path / "app.py"
    script.write_text(
        """
import threading, time
import streamlit as st
from fastserverstate import server_state, wait_for

@st.cache_resource
def write():
    def run():
        while True:
            server_state["hot"] = time.time()
    threading.Thread(target=run, daemon=True).start()

write()
st.text(f"hot {server_state.get('hot')}")
st.text(f"n {server_state.get('n', 0)}")
if st.button("plus"):
    server_state["n"] = server_state.get("n", 0) + 1
"""
    )

    def interact(**body: object) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{server.url}/_stcore/agent/interact",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.loads(response.read())
        assert answer["status"] == "ready"
        return answer

    def shown(answer: dict[str, Any]) -> list[str]:
        return [
            child["props"]["body"] for child in answer["tree"]["children"][0]["children"] if child["type"] == "text"
        ]

    with streamlit_run(script, options={"server.enableAgentApi": "true"}) as server:
        first, second = interact(), interact()
        plus = next(action["key"] for action in first["actions"] if action["label"] == "plus")
        for number in range(1, 4):
            interact(session_id=first["session_id"], trigger={"key": plus})
            assert f"n {number}" in shown(interact(session_id=second["session_id"]))
            assert f"n {number}" in shown(interact(session_id=first["session_id"]))


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def count_in_step(one: Client, two: Client) -> None:
    for i in (1, 2):
        await one.click("plus")
        await two.shows(f"n {i}")
        await one.shows(f"n {i}")


@pytest.mark.skipif(not hasattr(streamlit, "App"), reason="this Streamlit release has no st.App")
def test_uvicorn(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(COUNTER)
    (tmp_path / "service.py").write_text('import streamlit as st\napp = st.App("counter.py")\n')
    with uvicorn_run(tmp_path) as server:
        with_clients(server, 2, count_in_step)


def test_app_test() -> None:
    """In AppTest there is no server: state is shared, and no session is rerun."""
    try:
        one = AppTest.from_string(COUNTER).run(timeout=30)
        two = AppTest.from_string(COUNTER).run(timeout=30)
        one.button[0].click().run(timeout=30)
        assert one.text[0].value == "n 1"
        assert two.run(timeout=30).text[0].value == "n 1"
        assert not one.exception
    finally:
        server_state.clear()


def test_plain_python_and_threads() -> None:
    script = """
        import threading
        from fastserverstate import server_state, server_state_lock
        server_state["n"] = 0
        def count():
            for _ in range(1000):
                with server_state_lock["n"]:
                    server_state["n"] += 1
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(server_state.n)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("4000\n", "", 0)


def test_a_long_lived_thread_updates_every_session(serve) -> None:  # type: ignore[no-untyped-def]
    """The pattern of dashboards: a thread without a session, started once, writes for all sessions."""
    server = serve("""
        @st.cache_resource
        def feed():
            go = threading.Event()
            def work():
                for i in range(1, 6):
                    go.wait()
                    go.clear()
                    server_state["reading"] = i
            threading.Thread(target=work, daemon=True).start()
            return go
        go = feed()
        st.button("next", on_click=go.set)
        st.text(f"reading {server_state.get('reading', 0)}")
    """)

    async def steps(one: Client, two: Client) -> None:
        for i in range(1, 6):
            await one.click("next")
            await two.shows(f"reading {i}")
            await one.shows(f"reading {i}")

    with_clients(server, 2, steps)


def test_a_thread_with_a_script_context(serve) -> None:  # type: ignore[no-untyped-def]
    """A helper thread with the context of a run reads for that run. It may outlive the run."""
    server = serve("""
        from streamlit.runtime.scriptrunner import add_script_run_ctx
        def read(result):
            result.append(server_state.get("n", 0))
        result = []
        thread = add_script_run_ctx(threading.Thread(target=read, args=(result,)))
        if st.button("plus"):
            server_state["n"] = server_state.get("n", 0) + 1
        thread.start()
        thread.join()
        st.text(f"n {result[0]}")
    """)
    with_clients(server, 2, count_in_step)


def test_a_thread_that_writes_after_its_run(serve) -> None:  # type: ignore[no-untyped-def]
    """Its write reruns the session whose context it has, because that session shows the older value."""
    server = serve("""
        from streamlit.runtime.scriptrunner import add_script_run_ctx
        @st.cache_resource
        def gate():
            return threading.Event()
        def work():
            gate().wait(20)
            server_state["result"] = "done"
        if st.button("work"):
            add_script_run_ctx(threading.Thread(target=work)).start()
        st.button("finish", on_click=gate().set)
        st.text(f"result {server_state.get('result')}")
    """)

    async def steps(client: Client, other: Client) -> None:
        await client.click("work")
        await client.until(lambda client: client.finished == 2)
        await other.click("finish")
        await client.shows("result done")
        await other.shows("result done")

    with_clients(server, 2, steps)


@pytest.mark.parametrize("inside", [False, True], ids=["package installed", "package among the app's files"])
def test_hot_reload(tmp_path: Path, inside: bool) -> None:
    """State survives the reload of the app's modules, even if the package is in the same folder."""
    (tmp_path / "main.py").write_text(COUNTER + "import helper\nst.text(helper.TEXT)\n")
    helper = tmp_path / "helper.py"
    helper.write_text("TEXT = 'before'\n")
    environment = {}
    if inside:
        shutil.copytree(Path(fastserverstate.__file__).parent, tmp_path / "fastserverstate")
        environment["PYTHONPATH"] = str(tmp_path)
    options = {"server.fileWatcherType": "poll", "server.runOnSave": "true"}

    async def steps(one: Client, two: Client) -> None:
        await count_in_step(one, two)
        helper.write_text("TEXT = 'after the reload'\n")
        await one.shows("after the reload")
        await one.shows("n 2")
        await two.shows("after the reload")
        await one.click("plus")
        await two.shows("n 3")
        await one.shows("n 3")
        assert (one.exceptions, two.exceptions) == ([], [])

    with streamlit_run(tmp_path / "main.py", options=options, env=environment) as server:
        with_clients(server, 2, steps)


def test_uncompiled_checkout(tmp_path: Path) -> None:
    package = tmp_path / "fastserverstate"
    shutil.copytree(
        Path(fastserverstate.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    )
    done = python("import fastserverstate", PYTHONPATH=str(tmp_path))
    assert "ImportError: fastserverstate is not compiled." in done.stderr
    assert "pip install --editable ." in done.stderr


@pytest.mark.parametrize("name", ["_scriptrunner", "_on_scriptrunner_event", "_session_mgr", "SHUTDOWN"])
def test_streamlit_without_what_is_needed(name: str) -> None:
    """A release that lacks a private name causes an error of one sentence."""
    script = f"""
        import streamlit
        from fastserverstate._streamlit import names as adapter
        for names in adapter.NEEDED.values():
            if {name!r} in names:
                names.discard({name!r})
                names.add("renamed" + {name!r})
        try:
            adapter.check_streamlit()
        except ImportError as error:
            print(error)
    """
    done = python(script)
    assert f"the installed Streamlit {streamlit.__version__} lacks" in done.stdout
    assert f"renamed{name}" in done.stdout
    assert "supports Streamlit 1.37 to 1.67" in done.stdout


def test_streamlit_without_a_module_that_is_needed() -> None:
    done = python("""
        import sys, types, streamlit.runtime.app_session
        sys.modules["streamlit.runtime.app_session"] = types.ModuleType("streamlit.runtime.app_session")
        import fastserverstate
    """)
    assert "ImportError: fastserverstate supports Streamlit 1.37 to 1.67" in done.stderr
    assert "cannot import name 'AppSession'" in done.stderr


def test_no_private_name_is_missing() -> None:
    assert missing_names() == []


def names_of_messages() -> set[str]:
    """Return the fields of Streamlit's protobuf messages, which are its protocol."""
    names = set(dir(Message))
    for module in pkgutil.iter_modules(streamlit.proto.__path__):
        if module.name.endswith("_pb2"):
            descriptor = importlib.import_module(f"streamlit.proto.{module.name}").DESCRIPTOR
            messages = list(descriptor.message_types_by_name.values())
            for kind in descriptor.enum_types_by_name.values():
                names.update(value.name for value in kind.values)
            while messages:
                message = messages.pop()
                names.update(field.name for field in message.fields)
                names.update(value.name for kind in message.enum_types for value in kind.values)
                messages.extend(message.nested_types)
    return names


@pytest.mark.skipif(not streamlit.__version__.startswith(NEWEST), reason="older releases lack what is optional")
def test_every_name_of_streamlits_is_checked_at_import() -> None:
    """The adapter uses its own attributes, Python's, those of messages, and those that are listed as required."""
    package = Path(fastserverstate.__file__).parent
    used, own = set(), set()
    for path in [*package.rglob("*.py"), package / "_core.pyi"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                own.update(target.id for target in targets if isinstance(target, ast.Name))
            if isinstance(node, ast.Attribute):
                is_own = isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self"
                (own if is_own else used if path.parent.name == "_streamlit" else set()).add(node.attr)
    owners = (asyncio, contextlib, contextvars, dataclasses, functools, inspect, logging)
    owners += (math, pathlib, re, sys, threading, time, weakref)
    kinds = (type, str, dict, set, list)
    kinds += (types.CodeType, types.FrameType, types.FunctionType, types.TracebackType)
    python = {name for owner in owners for value in (owner, *vars(owner).values()) for name in dir(value)}
    python |= {name for kind in kinds for name in dir(kind)}
    modules = {"ParallelFragmentCoordinator", "SCRIPT_RUN_CONTEXT_ATTR_NAME", "SharedRunState", "StatsManager"}
    modules |= {"_create_scriptrunner", "check_widget_policies", "reset"}  # owners, which are checked by name
    needed = set().union(*NEEDED.values())
    optional = {"STOP", "stats_families", "writing"}  # the last is Tornado's
    assert sorted(used - own - python - names_of_messages() - modules - optional - needed) == []
