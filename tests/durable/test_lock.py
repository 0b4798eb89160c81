"""A state file belongs to one process at a time."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest
from durable.processes import run_script, running

from fastserverstate.durable.errors import FileInUseError
from fastserverstate.durable.file_lock import FileLock
from fastserverstate.durable.state_file import Row, StateFile

HOLD = "file = StateFile.open(path); print('open', flush=True); sys.stdin.read()"


def test_second_open_in_one_process_is_refused(path, opened):
    file = opened(path)
    with pytest.raises(FileInUseError, match="already open in this process"):
        StateFile.open(path)
    file.write([Row("k", b"i1", 1, 1, None)], 1)
    file.close()
    file.close()
    assert [row.key for row in opened(path).rows()] == ["k"]


def test_second_process_is_told_who_has_the_file(path, opened):
    with running(HOLD, path) as holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(FileInUseError) as caught:
            StateFile.open(path)
        text = str(caught.value)
        assert f"process {holder.pid} on {socket.gethostname()}, since 20" in text
        assert f"({sys.executable} -c" in text
        assert "Redis" in text
        holder.stdin.close()
        holder.wait(30)
    opened(path)


def test_link_to_the_file_has_the_same_lock(path, opened, tmp_path):
    opened(path)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with pytest.raises(FileInUseError, match=str(path)):
        StateFile.open(link)


def test_lock_is_free_after_kill(path, opened):
    with running(HOLD, path) as holder:
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    opened(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_holder_that_has_not_written_its_name(path, opened, content):
    opened(path)
    path.with_name("state.db.lock").write_bytes(content)
    with pytest.raises(FileInUseError, match="in use by another process"):
        StateFile.open(path)


def test_lock_file_that_is_deleted_meanwhile_is_not_taken(path, monkeypatch):
    """Between opening and locking, the last holder deletes the lock file, and a third process creates another."""
    first = FileLock(path)
    real, places = os.open, []

    def race(place, flags, mode):
        descriptor = real(place, flags, mode)
        if not places:
            first.release()
        places.append(place)
        return descriptor

    monkeypatch.setattr(os, "open", race)
    second = FileLock(path)
    assert len(places) == 2
    assert second._is_in_place()
    second.release()
    assert not list(path.parent.iterdir())


CHILD_OUTLIVES = """
file = StateFile.open(path)
file.write([Row('k', b'i1', 1, 1, None)], 1)
if os.fork() == 0:
    file.abandon()
    file.close()
    print(os.getpid(), flush=True)
    sys.stdin.read()
    sys.exit()
signal.pause()
"""


def test_forked_child_does_not_keep_the_lock(path, opened):
    with running(CHILD_OUTLIVES, path) as parent:
        child = int(parent.stdout.readline())
        with pytest.raises(FileInUseError, match=f"process {parent.pid} "):
            StateFile.open(path)
        parent.kill()
        parent.wait(30)
        os.kill(child, 0)
        assert [row.key for row in opened(path).rows()] == ["k"]


def test_forked_child_that_ends_late_leaves_the_file(path, opened):
    """Its connection has the WAL of its parent, which the next process moves into the file and deletes."""
    with running(CHILD_OUTLIVES, path) as parent:
        parent.stdout.readline()
        parent.kill()
        parent.wait(30)
        rows = [Row(f"key {n}", bytes(500), n, n, None) for n in range(1000)]
        next_one = opened(path)
        next_one.write(rows, 1000)
        next_one.close()
        parent.stdin.close()
        assert parent.stdout.read() == ""  # until the child has ended
        again = opened(path)
        assert again.set_aside is None
        assert {row.key for row in again.rows()} == {"k", *(row.key for row in rows)}


FORK_IN_A_WRITE = """
import threading
inside, go_on = threading.Event(), threading.Event()
file = StateFile.open(path)
file._connection.create_function('pause', 0, lambda: [inside.set(), go_on.wait()] and None)
writer = threading.Thread(target=lambda: file._connection.execute('SELECT pause()').fetchone())
writer.start()
inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    file.abandon()
    sys.exit()
print(os.waitpid(child, 0)[1])
go_on.set()
writer.join()
file.close()
"""


def test_fork_during_a_write(path):
    """In the child, the locks of SQLite within the process are never released."""
    assert run_script(FORK_IN_A_WRITE, path) == "0\n"


PARENT_GOES_ON = """
file = StateFile.open(path)
file.write([Row('a', b'i1', 1, 1, None)], 1)
child = os.fork()
if child == 0:
    file.abandon()
    sys.exit()  # the interpreter releases all that it can
assert os.waitpid(child, 0)[1] == 0
child = os.fork()
if child == 0:  # without the locks of the parent, this would succeed
    os.execv(sys.executable, [sys.executable, "-c", '''
import sqlite3, sys
try:
    print(sqlite3.connect(sys.argv[1], timeout=0).execute("PRAGMA journal_mode = DELETE").fetchone())
except sqlite3.OperationalError as error:
    print(error)
''', path])
os.waitpid(child, 0)
file.write([Row('b', b'i2', 2, 2, None)], 2)
print([row.key for row in file.rows()], file._connection.execute('PRAGMA integrity_check').fetchone())
file.close()
"""


def test_forked_child_leaves_the_locks_of_sqlite(path):
    assert run_script(PARENT_GOES_ON, path) == "database is locked\n['a', 'b'] ('ok',)\n"
    assert [one.name for one in path.parent.iterdir()] == ["state.db"]
