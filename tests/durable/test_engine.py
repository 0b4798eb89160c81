"""The engine of state files goes on, whatever fails, and says so."""

from __future__ import annotations

import itertools
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastserverstate
from fastserverstate import _core, durable, server_state
from fastserverstate.codec import Codec, UnencodableValueError
from fastserverstate.durable import engine as engine_module
from fastserverstate.durable.engine import Durability, Engine
from fastserverstate.durable.errors import NotDurableError
from fastserverstate.durable.state_file import StateFile, read_only
from fastserverstate.state import ServerState

LOGGER = "fastserverstate"


class Subject:
    """A store with an engine, whose writes return when they are durable."""

    def __init__(self, path: Path, codec: Codec | None = None, **options: Any) -> None:
        self.path = path
        self.store = _core.Store(reserved=dir(ServerState))
        self.state = ServerState(self.store)
        self.codec = codec or Codec.for_file(None)
        self.file = StateFile.open(path, sync=False)
        options = {"durability": "always", "show_when_durable": False, **options}
        self.engine = Engine(self.store, self.file, self.codec, **options)
        self.engine.start()

    def stored(self) -> dict[str, Any]:
        with read_only(self.path) as rows:
            return {row.key: self.codec.decode(row.key, row.data) for row in rows if row.data is not None}


@pytest.fixture
def subject(path: Path) -> Iterator[Callable[..., Subject]]:
    subjects: list[Subject] = []

    def make(*arguments: Any, **options: Any) -> Subject:
        subjects.append(Subject(path, *arguments, **options))
        return subjects[-1]

    yield make
    for each in subjects:
        each.engine.close()


@contextmanager
def failing_file(subject: Subject, error: Exception) -> Iterator[None]:
    def fail(*_: object) -> None:
        raise error

    subject.engine._file.write = fail
    yield
    del subject.engine._file.write


class Broken(Codec):
    """A codec that fails as no codec should."""

    def encode(self, key: str, value: Any) -> bytes:
        if value == "broken":
            raise ZeroDivisionError("broken")
        if value == "unencodable":
            raise UnencodableValueError(key, "by intention")
        return super().encode(key, value)


def test_value_whose_encoding_fails_stays_in_memory(
    subject: Callable[..., Subject], caplog: pytest.LogCaptureFixture
) -> None:
    it = subject(Broken("", None, in_file=True))
    it.state.update(a=1, b=1)
    it.state.a = "broken"
    it.state.b = 2
    assert it.stored() == {"b": 2}
    assert it.engine.status().unencodable == {"a"}
    assert "server_state['a'] is kept in memory only" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("value", ["broken", "unencodable"])
@pytest.mark.parametrize("end", ["set", "delete"])
def test_status_tells_of_unencodable_values_until_they_are_gone(
    subject: Callable[..., Subject], value: str, end: str
) -> None:
    it = subject(Broken("", None, in_file=True))
    it.state.a = value
    assert it.engine.status().unencodable == {"a"}
    if end == "set":
        it.state.a = 1
    else:
        del it.state.a
    assert it.engine.status().unencodable == frozenset()


def test_value_that_is_too_large_stays_in_memory(
    subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "LARGEST", 1000)
    it = subject()
    it.state.update(a="x" * 2000, b=1)
    assert it.stored() == {"b": 1}
    assert "it takes 2,004 bytes, and SQLite stores 1,000" in caplog.text
    assert it.engine.status().error is None


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError("disk I/O error"),
        sqlite3.DataError("string or blob too big"),
        OSError("no space"),
        MemoryError(),
        OverflowError("BLOB longer than INT_MAX bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_engine_goes_on_after_any_error(
    subject: Callable[..., Subject], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    it = subject()
    with failing_file(it, error):
        with pytest.raises(NotDurableError, match=type(error).__name__):
            it.state.a = 1
        status = it.engine.status()
        assert status.error is not None
        assert status.error.startswith(type(error).__name__)
        assert status.pending == 1
    it.state.b = 1
    assert it.stored() == {"a": 1, "b": 1}
    assert it.engine.status().error is None
    assert it.engine.status().set_aside is None
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "cannot be stored" in messages[0]
    assert "again" in messages[1]


def test_pending_changes_have_an_age(subject: Callable[..., Subject]) -> None:
    now = [0.0]
    it = subject(clock=lambda: now[0])
    it.state.a = 1
    now[0] = 1000.0
    assert it.engine.status().oldest_pending == 0
    with failing_file(it, OSError("no space")):
        with pytest.raises(NotDurableError):
            it.state.a = 2
        now[0] = 1005.0
        assert it.engine.status().oldest_pending == 5
    it.state.b = 1
    assert it.engine.status().oldest_pending == 0


def test_changes_that_are_never_stored_are_told(
    subject: Callable[..., Subject], caplog: pytest.LogCaptureFixture
) -> None:
    it = subject(durability="interval")
    with failing_file(it, OSError("no space")):
        it.state.update(a=1, b=2)
        it.engine.close()
    assert "2 changed keys are not stored" in caplog.text
    assert "no space" in caplog.text


@pytest.mark.parametrize("deletes", ["file", "folder"])
def test_file_that_was_deleted_meanwhile_is_back_at_the_end(
    tmp_path: Path, deletes: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    it = Subject(folder / "state.db")
    it.state.a = 1
    if deletes == "file":
        it.path.unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
    it.engine.close()
    assert it.stored() == {"a": 1}
    assert "was deleted" in caplog.text


def test_folder_that_is_gone_at_the_end_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    it = Subject(folder / "state.db")
    it.state.a = 1
    shutil.rmtree(folder)
    it.engine.close()
    assert caplog.records[-1].levelno == logging.ERROR
    assert "cannot be stored" in caplog.text


def test_file_that_cannot_be_read_is_released(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class UnreadableError(OSError):
        pass

    def rows(_: StateFile) -> Iterator[object]:
        raise UnreadableError
        yield

    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "rows", rows)
        with pytest.raises(UnreadableError):
            fastserverstate.connect(f"sqlite:///{path}", timeout=0)
    assert durable.status() is None
    fastserverstate.connect(f"sqlite:///{path}", timeout=0)
    try:
        server_state["a"] = 1
        durable.flush()
    finally:
        durable.disconnect()
        server_state.clear()


@pytest.mark.parametrize("durability", ["interval", "always"])
def test_jumps_of_the_wall_clock_delay_and_lose_nothing(
    subject: Callable[..., Subject], durability: Durability
) -> None:
    """Only the deadlines of keys are wall-clock times."""
    jumps = itertools.cycle([1.8e9, 0.0, 4e9, 1.8e9 - 3600, -1.0])
    it = subject(durability=durability, wall_clock=lambda: next(jumps))
    for number in range(6):
        it.state.update({"a": number, f"key {number % 3}": number})
        it.state.pop(f"key {(number + 1) % 3}", None)
        end = time.monotonic() + 20
        while it.engine.status().pending:  # no thread waits for a batch
            assert time.monotonic() < end
        assert it.stored() == dict(it.state)
    with read_only(it.path) as rows:
        assert {row.deadline for row in rows} == {None}
