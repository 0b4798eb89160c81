"""A damaged or newer file is kept under another name, and a file of another application is left alone."""

from __future__ import annotations

import re
import sqlite3

import pytest

from fastserverstate.durable import state_file
from fastserverstate.durable.errors import DurabilityError
from fastserverstate.durable.state_file import Row, StateFile, read_only

ROWS = [Row(f"key {n}", b"m" + bytes(500), n, n, None) for n in range(1000)]


@pytest.fixture
def filled(path):
    """A closed file with some hundred pages."""
    file = StateFile.open(path, sync=False)
    file.write(ROWS, 1000)
    file.close()
    return path


def contents(folder):
    return {one.name: one.read_bytes() for one in folder.iterdir() if not one.name.endswith((".lock", "-shm"))}


def overwrite(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def damage_header(path):
    overwrite(path, 0, bytes(16))


def damage_pages(path):
    overwrite(path, 5 * 4096, b"\xa5" * 4096 * 20)


def cut(path):
    overwrite(path, 0, path.read_bytes())
    with path.open("r+b") as file:
        file.truncate(10 * 4096 + 100)


def cut_in_header(path):
    with path.open("r+b") as file:
        file.truncate(50)


def write_text(path):
    path.write_text("This is not a database.")


def drop_table(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE entries")
    connection.close()


def drop_clock(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta")
    connection.close()


DAMAGE = [damage_header, damage_pages, cut, cut_in_header, write_text, drop_table, drop_clock]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_file_is_set_aside(filled, opened, caplog, damage):
    damage(filled)
    before = filled.read_bytes()
    file = opened(filled)
    assert re.fullmatch(r"state\.db\.corrupt-\d{8}T\d{6}Z", file.set_aside.name)
    assert file.set_aside.read_bytes() == before
    assert list(file.rows()) == []
    assert file.clock == 0
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"{filled} is damaged" in record.getMessage()
    assert f"It is kept as {file.set_aside}, and a new file begins." in record.getMessage()
    file.write(ROWS, 1)
    file.close()
    again = opened(filled)
    assert again.set_aside is None
    assert list(again.rows()) == ROWS


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_reading_a_damaged_file_changes_nothing(filled, damage):
    damage(filled)
    before = contents(filled.parent)
    with pytest.raises(DurabilityError, match=f"^{re.escape(str(filled))} is damaged"), read_only(filled):
        pass
    assert contents(filled.parent) == before


def test_damage_that_only_reading_finds_is_told(filled, monkeypatch):
    """As if the disk failed between the check and the read."""
    monkeypatch.setattr(state_file, "_check_content", lambda *_: None)
    damage_pages(filled)
    with pytest.raises(DurabilityError, match="is damaged"), read_only(filled) as rows:
        list(rows)


def test_existing_name_is_never_replaced(filled, opened, monkeypatch):
    class Clock(state_file.datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(state_file.datetime, "datetime", Clock)
    names = []
    for text in ("one", "two", "three"):
        filled.write_text(text)
        file = opened(filled)
        names.append(file.set_aside.name)
        assert file.set_aside.read_text() == text
        file.close()
    name = "state.db.corrupt-20260102T030405Z"
    assert names == [name, f"{name}-2", f"{name}-3"]
    assert (filled.parent / name).read_text() == "one"


def crashed(path, opened):
    """Write rows that are in the WAL only, and return the contents of the files."""
    file = opened(path)
    file.write([Row("new", b"i1", 1001, 1001, None)], 1001)
    return contents(path.parent)


@pytest.mark.parametrize("size", [None, 0], ids=["missing", "empty"])
def test_wal_without_its_file_is_set_aside(path, opened, tmp_path, size):
    """SQLite would delete the WAL."""
    wal = crashed(path, opened)["state.db-wal"]
    other = tmp_path / "other.db"
    if size is not None:
        other.touch(0o600)
    other.with_name("other.db-wal").write_bytes(wal)
    file = opened(other)
    assert file.set_aside.with_name(f"{file.set_aside.name}-wal").read_bytes() == wal
    assert file.set_aside.exists() == (size is not None)


def test_wal_moves_with_its_file(filled, opened, tmp_path):
    other = tmp_path / "other.db"
    files = crashed(filled, opened)
    other.write_bytes(files["state.db"][:10])
    other.with_name("other.db-wal").write_bytes(files["state.db-wal"])
    file = opened(other)
    assert file.set_aside.read_bytes() == files["state.db"][:10]
    assert file.set_aside.with_name(f"{file.set_aside.name}-wal").read_bytes() == files["state.db-wal"]


def test_rows_in_the_wal_survive_a_crash(filled, opened, tmp_path):
    files = crashed(filled, opened)
    for name, data in files.items():
        (tmp_path / name.replace("state", "other")).write_bytes(data)
    file = opened(tmp_path / "other.db")
    assert file.set_aside is None
    assert [row.key for row in file.rows()][-1] == "new"
    assert file.clock == 1001


@pytest.mark.parametrize("in_wal", [False, True], ids=["in the file", "in the WAL"])
def test_newer_file_is_set_aside(filled, opened, tmp_path, caplog, in_wal):
    connection = sqlite3.connect(filled)
    connection.execute("PRAGMA user_version = 7")
    connection.commit()
    if in_wal:
        for name, data in contents(filled.parent).items():
            (tmp_path / name.replace("state", "other")).write_bytes(data)
    connection.close()
    path = tmp_path / "other.db" if in_wal else filled
    file = opened(path)
    assert re.fullmatch(rf"{path.name}\.newer-\d{{8}}T\d{{6}}Z", file.set_aside.name)
    assert list(file.rows()) == []
    assert "was written by a newer release of fastserverstate, in format 7" in caplog.text
    with pytest.raises(DurabilityError, match="format 7"), read_only(file.set_aside):
        pass
    kept = sqlite3.connect(file.set_aside)
    assert kept.execute("SELECT count(*) FROM entries").fetchone() == (1000,)
    kept.close()


def other_application(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
        connection.execute("INSERT INTO customers VALUES ('Ada')")
    connection.close()


def other_tables(path):
    other_application(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {state_file.APPLICATION_ID}")
    connection.close()


def more_tables(path):
    StateFile.open(path).close()
    other_application(path)


def other_application_that_crashed(path):
    """SQLite would move its WAL into the file."""
    source = path.with_name("source.db")
    connection = sqlite3.connect(source)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE customers (name TEXT)")
    for name, data in contents(path.parent).items():
        path.with_name(name.replace("source", "state")).write_bytes(data)
    connection.close()
    source.unlink()
    assert path.with_name("state.db-wal").stat().st_size


OTHERS = [other_application, other_application_that_crashed, other_tables, more_tables]


@pytest.mark.parametrize("make", OTHERS, ids=lambda make: make.__name__)
def test_file_of_another_application_is_refused(path, make):
    make(path)
    before = contents(path.parent)
    with pytest.raises(DurabilityError, match=r"database of another application. It was not changed"):
        StateFile.open(path)
    with pytest.raises(DurabilityError), read_only(path):
        pass
    assert contents(path.parent) == before
    assert not path.with_name("state.db.lock").exists()


@pytest.mark.parametrize("code", ["SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_READONLY"])
def test_failing_disk_is_not_damage(filled, monkeypatch, code):
    failure = sqlite3.OperationalError(code)
    failure.sqlite_errorcode = getattr(sqlite3, code)

    def fail(*_):
        raise failure

    monkeypatch.setattr(state_file, "_check_content", fail)
    before = contents(filled.parent)
    with pytest.raises(sqlite3.OperationalError) as caught:
        StateFile.open(filled)
    assert caught.value is failure
    assert contents(filled.parent) == before


# What format 1 looks like, for ever.
FORMAT_1 = """
PRAGMA application_id = 1718842214;
PRAGMA user_version = 1;
CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, version INTEGER NOT NULL,
    position INTEGER NOT NULL, deadline REAL, data BLOB NOT NULL);
CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('clock', 12);
INSERT INTO entries VALUES (1, X'6b', 12, 2, 1.5, X'6931');
INSERT INTO entries VALUES (2, X'EDA080', 11, 1, NULL, X'6932');
"""


def add_step(monkeypatch):
    """Let the next format have another column."""

    def add_column(connection):
        connection.execute("ALTER TABLE entries ADD COLUMN note TEXT NOT NULL DEFAULT 'migrated'")

    monkeypatch.setattr(state_file, "MIGRATIONS", [*state_file.MIGRATIONS, add_column])


@pytest.mark.parametrize("is_newer", [False, True], ids=["this release", "a later release"])
def test_file_of_format_1_opens(path, opened, monkeypatch, is_newer):
    connection = sqlite3.connect(path)
    connection.executescript(FORMAT_1)
    connection.close()
    if is_newer:
        add_step(monkeypatch)
    for _ in range(2):
        file = opened(path)
        assert file.set_aside is None
        assert list(file.rows()) == [Row("\ud800", b"i2", 11, 1, None), Row("k", b"i1", 12, 2, 1.5)]
        assert file.clock == 12
        file.write([Row("k", b"i1", 12, 2, 1.5)], 12)
        if is_newer:
            assert file._connection.execute("SELECT DISTINCT note FROM entries").fetchall() == [("migrated",)]
            assert file._connection.execute("PRAGMA user_version").fetchone() == (2,)
        file.close()


def test_failed_migration_changes_nothing(filled, opened, monkeypatch):
    def fail(connection):
        connection.execute("DELETE FROM entries")
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(state_file, "MIGRATIONS", [*state_file.MIGRATIONS, fail])
        with pytest.raises(OSError, match=r"^$"):
            StateFile.open(filled)
    file = opened(filled)
    assert list(file.rows()) == ROWS
    assert file._connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_crash_during_the_creation_leaves_an_usable_name(path, opened, monkeypatch):
    """The first bytes of the file have its application id from the first commit on."""

    def crash(*_, **__):
        files.update(contents(path.parent))
        raise OSError

    files = {}
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "_set_options", crash)
        with pytest.raises(OSError, match=r"^$"):
            StateFile.open(path)
    path.write_bytes(files["state.db"])
    assert opened(path).set_aside is None
