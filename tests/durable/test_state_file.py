"""Rows are stored exactly, in transactions that are on the disk or leave nothing."""

from __future__ import annotations

import sqlite3
import stat
import tempfile
import time
from pathlib import Path

import pytest
from durable.processes import run_unprivileged
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastserverstate.durable.errors import DurabilityError
from fastserverstate.durable.state_file import Row, StateFile, read_only

INT64 = st.integers(0, 2**63 - 1)
KEYS = st.one_of(st.sampled_from(["a", "b", "", "\0", "\ud800", "ä"]), st.text(st.characters(), max_size=5))


def stored(key: str, data: bytes | None = b"i1", version: int = 1, position: int = 1) -> Row:
    return Row(key, data, version, position, None)


class StateFileMachine(RuleBasedStateMachine):
    """Compares a file with a dict through batches, and opens it again in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state.db"
        self.file = StateFile.open(self.path, sync=False)
        self.model: dict[str, Row] = {}
        self.clock = 0

    @rule(
        batch=st.dictionaries(
            KEYS,
            st.tuples(st.none() | st.binary(max_size=5000), INT64, INT64, st.none() | st.floats(0, 2**40)),
            max_size=5,
        ),
        clock=INT64,
    )
    def write(self, batch: dict[str, tuple], clock: int) -> None:
        rows = [Row(key, *values) for key, values in batch.items()]
        self.file.write(rows, clock)
        self.clock = max(self.clock, clock)
        for row in rows:
            self.model[row.key] = row
            if row.data is None:
                del self.model[row.key]

    @rule()
    def open_again(self) -> None:
        self.file.close()
        self.file = StateFile.open(self.path, sync=False)

    @invariant()
    def has_the_rows(self) -> None:
        rows = list(self.file.rows())
        assert {row.key: row for row in rows} == self.model
        assert [row.position for row in rows] == sorted(row.position for row in rows)
        assert self.file.clock == self.clock

    def teardown(self) -> None:
        self.file.close()
        assert [one.name for one in self.path.parent.iterdir()] == ["state.db"]
        self.folder.cleanup()


TestStateFile = StateFileMachine.TestCase
TestStateFile.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


def test_new_file_is_private(path, opened):
    file = opened(path)
    file.write([stored("k")], 1)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes == dict.fromkeys(["state.db", "state.db-wal", "state.db-shm", "state.db.lock"], 0o600)


def test_full_disk_stores_nothing_of_a_batch(path, opened):
    file = opened(path)
    file.write([stored("a", b"before"), stored("b")], 1)
    file._connection.execute("PRAGMA max_page_count = 10")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        file.write([stored("a", b"after"), stored("b", None), stored("large", bytes(100_000))], 2)
    assert [(row.key, row.data) for row in file.rows()] == [("a", b"before"), ("b", b"i1")]
    assert file.clock == 1
    file._connection.execute("PRAGMA max_page_count = 100000")
    file.write([stored("large", bytes(100_000))], 3)
    file.close()
    assert [row.key for row in opened(path).rows()] == ["a", "b", "large"]


def test_value_that_sqlite_refuses_stores_nothing(path, opened):
    file = opened(path)
    with pytest.raises(sqlite3.Error):
        file.write([stored("a"), Row("b", b"i1", 1, None, None)], 1)
    file.write([stored("c")], 2)
    assert [row.key for row in file.rows()] == ["c"]


@pytest.mark.parametrize("sync", [True, False])
def test_writes_are_synchronized(path, opened, sync):
    level = opened(path, sync=sync)._connection.execute("PRAGMA synchronous").fetchone()[0]
    assert level == (2 if sync else 1)


def test_file_that_is_deleted_moved_or_replaced_is_not_in_place(path, opened):
    file = opened(path)
    assert file.is_in_place()
    moved = path.with_name("moved.db")
    path.rename(moved)
    assert not file.is_in_place()
    path.touch(0o600)
    assert not file.is_in_place()
    path.unlink()
    moved.rename(path)
    assert file.is_in_place()
    file.close()
    with pytest.raises(FileNotFoundError):
        StateFile.open(path.parent / "no folder" / "state.db")


def test_file_in_a_folder_that_is_gone_is_not_in_place(tmp_path, opened):
    folder = tmp_path / "folder"
    folder.mkdir()
    file = opened(folder / "state.db")
    folder.rename(tmp_path / "other")
    assert not file.is_in_place()
    folder.touch()
    assert not file.is_in_place()
    folder.unlink()
    (tmp_path / "other").rename(folder)


READ_ONLY = """
try:
    StateFile.open(path)
except PermissionError as error:
    print(type(error).__name__, error.filename)
"""


@pytest.mark.parametrize(("of", "named"), [("state.db", "state.db"), ("", "state.db.lock")], ids=["file", "folder"])
def test_missing_permission_is_not_damage(of, named):
    with tempfile.TemporaryDirectory() as folder:  # whose parents every user can enter
        path = Path(folder) / "state.db"
        run_unprivileged(
            "file = StateFile.open(path); file.write([Row('k', b'i1', 1, 1, None)], 1); file.close()", path
        )
        place = path.parent / of
        mode = place.stat().st_mode
        place.chmod(0o500)
        assert run_unprivileged(READ_ONLY, path) == f"PermissionError {path.parent / named}\n"
        place.chmod(mode)
        assert [one.name for one in path.parent.iterdir()] == ["state.db"]


def test_rows_can_be_read_while_the_file_is_open(path, opened):
    file = opened(path)
    file.write([stored("k", b"old")], 1)
    with read_only(path) as rows:
        file.write([stored("k", b"new")], 2)
        assert [row.data for row in rows] == [b"old"]
    with read_only(path) as rows:
        assert [row.data for row in rows] == [b"new"]
    file.close()
    before = path.read_bytes()
    with read_only(path) as rows:
        assert [row.data for row in rows] == [b"new"]
    assert path.read_bytes() == before


def test_read_only_creates_no_file(path):
    with pytest.raises(FileNotFoundError), read_only(path):
        pass
    assert not list(path.parent.iterdir())
    path.touch(0o600)
    with pytest.raises(DurabilityError, match="is empty"), read_only(path):
        pass


def test_hundred_thousand_keys_open_fast(path, opened):
    """Well under a second here; the limit allows for a busy machine."""
    file = opened(path)
    file.write([stored(f"user/{n * 7919 % 100_000}/profile", bytes(100), n, n) for n in range(100_000)], 100_000)
    file.close()
    start = time.perf_counter()
    positions = [row.position for row in opened(path).rows()]
    assert time.perf_counter() - start < 5
    assert positions == list(range(100_000))


def test_damaged_key_is_skipped_and_kept(path, opened, caplog):
    file = opened(path)
    file.write([stored("a"), stored("b")], 1)
    file._connection.execute("UPDATE entries SET key = ? WHERE key = ?", (b"\xff", b"a"))
    assert [row.key for row in file.rows()] == ["b"]
    assert "1 keys of the state file are damaged" in caplog.text
    assert file._connection.execute("SELECT count(*) FROM entries").fetchone() == (2,)


def test_file_in_a_folder_without_permission_can_be_read():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        run_unprivileged(
            "file = StateFile.open(path); file.write([Row('k', b'i1', 1, 1, None)], 1); file.close()", path
        )
        path.chmod(0o400)
        path.parent.chmod(0o500)
        reading = "with read_only(path) as rows: print([row.key for row in rows])"
        assert run_unprivileged(reading, path) == "['k']\n"
        path.parent.chmod(0o700)
        assert [one.name for one in path.parent.iterdir()] == ["state.db"]
