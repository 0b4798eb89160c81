"""Connecting the state of the process to a file."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from harness.interpreter import run_python

import fastserverstate
from fastserverstate import durable, server_state
from fastserverstate.cluster import ClusterError
from fastserverstate.durable import engine
from fastserverstate.durable.state_file import Row, StateFile
from fastserverstate.errors import WouldBlockError


def test_connection_survives_hot_reload(path: Path) -> None:
    source = f"""
import sys, threading
import fastserverstate
from fastserverstate import durable

fastserverstate.connect("sqlite:///{path}")
fastserverstate.server_state["k"] = 1
before = durable.connection.engine
for name in list(sys.modules):
    if name.partition(".")[0] == "fastserverstate":
        del sys.modules[name]
import fastserverstate
from fastserverstate import durable

fastserverstate.connect("sqlite:///{path}")
assert durable.connection.engine is before
assert [thread.name for thread in threading.enumerate()].count("fastserverstate.durable") == 1
print(dict(fastserverstate.server_state))
"""
    assert run_python("", source) == "{'k': 1}\n"


@pytest.mark.parametrize("options", ["", ', durability="always"', ', durability="always", show="after_durable"'])
def test_edits_are_stored(path: Path, options: str) -> None:
    """Also those of which the process knows that they differ, without having compared the whole value."""
    rows = '{f"row {n}": {"id": n, "tags": ["a"]} for n in range(5000)}'
    source = f"""
import contextlib
from fastserverstate import atomic, connect, edit, server_state

connect("sqlite:///{path}"{options})
with edit("rows", default={{}}) as rows:
    rows.update({rows})
with edit("rows", "log", default=[]) as (rows, log):
    rows["row 7"]["tags"].append("b")
    log.append("row 7")
with contextlib.suppress(ZeroDivisionError), edit("rows") as rows:
    rows["row 8"]["id"] /= 0
atomic.update("progress", {{"job": 0.4}})
atomic.add("tags", "new")
"""
    assert run_python("", source) == ""
    source = f"""
from fastserverstate import connect, edit, server_state

connect("sqlite:///{path}")
with edit("rows") as rows:
    rows["row 9"]["tags"].clear()
expected = {rows}
expected["row 7"]["tags"].append("b")
expected["row 9"]["tags"].clear()
assert server_state["rows"] == expected
print(server_state["log"], server_state["progress"], server_state["tags"])
"""
    assert run_python("", source) == "['row 7'] {'job': 0.4} {'new'}\n"


def test_keys_expire_after_a_restart(path: Path) -> None:
    """Also without a line of configuration: the deadline comes from the file alone."""
    file = StateFile.open(path)
    now = time.time()
    file.write([Row("short", b"i1", 1, 1, now + 1), Row("long", b"i1", 2, 2, now + 3600)], 2)
    file.close()
    source = f"""
import threading
from fastserverstate import connect, on_change, server_state

expired = threading.Event()
on_change("short", lambda key, value, reason: reason == "expired" and expired.set())
connect("sqlite:///{path}")
assert expired.wait(20)
print(list(server_state))
"""
    assert run_python("", source) == "['long']\n"


def test_an_event_loop_does_not_wait_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.Engine, "flush", lambda _engine, _timeout: False)  # as after 20 ms
    fastserverstate.connect(f"sqlite:///{path}")
    try:
        with pytest.raises(TimeoutError, match=r"were not stored in .* within 10 seconds"):
            durable.flush()

        async def flush() -> None:
            durable.flush()

        with pytest.raises(WouldBlockError, match="Waiting for the disk"):
            asyncio.run(flush())
    finally:
        durable.disconnect()
        server_state.clear()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["state.db"], {}, "connect needs a URL that begins as sqlite:///state.db"),
        (["postgres://host"], {}, "connect needs a URL that begins as sqlite:///state.db"),
        (["sqlite://"], {}, "names no file. Write sqlite:///state.db"),
        (["sqlite:///:memory:"], {}, "names no file"),
        (["sqlite:///state.db"], {"durability": "sometimes"}, "durability is 'interval' or 'always', not 'sometimes'"),
        (["sqlite:///state.db"], {"show": "later"}, "show is 'after_durable' or None, not 'later'"),
        (["sqlite:///state.db"], {"show": "after_durable"}, "needs durability='always'"),
        (["sqlite:///state.db"], {"namespace": "shop"}, "namespace is for Redis"),
        (["sqlite:///state.db"], {"secret": "short"}, "16 bytes or more"),
        (["redis://host"], {"durability": "always"}, "durability and show are for files"),
    ],
)
def test_wrong_arguments_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], options: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(path.parent)
    with pytest.raises(ValueError, match=message):
        fastserverstate.connect(*arguments, **options)  # type: ignore[arg-type]
    assert durable.status() is None
    assert not Path("state.db").exists()


def test_one_engine_at_a_time(path: Path) -> None:
    fastserverstate.connect(f"sqlite:///{path}")
    try:
        with pytest.raises(
            ClusterError, match=r"The state is stored in a file\. Call fastserverstate.durable.disconnect"
        ):
            fastserverstate.connect("redis://127.0.0.1:1")
    finally:
        durable.disconnect()
        server_state.clear()


def test_the_app_can_start_without_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(100))  # of another application
    path.chmod(0o600)
    fastserverstate.connect(f"sqlite:///{path}", required=False)
    assert durable.status() is None
    assert "The state is kept in memory only" in caplog.text
