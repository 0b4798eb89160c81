"""A disk that is full, fails, hangs or is gone: the app goes on, nothing is promised wrongly, and all is stored later.

`disk.c` makes calls of the system fail for the process that has the file.
"""

from __future__ import annotations

import errno
import mmap
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from durable.app import running
from harness.faults import times

DEADLINE = 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc are those of Linux")


class Disk:
    """Controls the library in a process. See `struct control` in disk.c."""

    FIELDS = ("countdown", "failures", "error", "holds", "held", "calls", "failed")

    def __init__(self, library: Path, path: Path, control: Path) -> None:
        self.path = path
        control.write_bytes(bytes(8 * len(self.FIELDS)))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.env = {"LD_PRELOAD": str(library), "DISK_FOLDER": str(path.parent), "DISK_CONTROL": str(control)}

    def __getitem__(self, name: str) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * self.FIELDS.index(name))[0])

    def __setitem__(self, name: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * self.FIELDS.index(name), value)

    def fail(self, number: int, error: int, failures: int = -1) -> None:
        """Have the n-th call from now fail, and those after it."""
        self["failed"] = 0
        self["error"], self["failures"] = error, failures
        self["countdown"] = number

    def heal(self) -> None:
        self["countdown"] = 0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is needed to make calls of the system fail")
    path = tmp_path_factory.mktemp("library") / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", path, source, "-ldl"], check=True)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state" / "state.db"


@pytest.fixture
def disk(library: Path, path: Path, tmp_path: Path) -> Disk:
    return Disk(library, path, tmp_path / "control")


WRITES = """
import threading
from fastserverstate.durable import NotDurableError

def write(stream, number):
    with transaction():
        server_state[f"{stream} left"] = number
        server_state[f"{stream} right"] = f"{number} " * 5000
    if number % 3:
        server_state[f"{stream} {number % 5}"] = number
    else:
        server_state.pop(f"{stream} {number % 5}", None)

def run(stream, first):
    for number in range(first, first + 3):
        tried[stream] = number
        try:
            write(stream, number)
        except NotDurableError as error:
            refused.append(str(error))
        else:
            durable_up_to[stream] = number

def write_all(first):
    refused.clear()
    threads = [threading.Thread(target=run, args=(stream, first)) for stream in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

def is_flushed():
    try:
        durable.flush(20)
    except NotDurableError:
        return False
    return True

tried, durable_up_to, refused = {}, {}, []
"""
COUNT = times(12, 60)
STEP = 3  # batches have hundreds of calls, and some have a checkpoint


@pytest.mark.parametrize("failures", [1, -1], ids=["once", "for a while"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("durability", ["interval", "always"])
def test_failing_write_is_not_promised_and_stored_later(
    tmp_path: Path, disk: Disk, durability: str, error: str, failures: int
) -> None:
    path = disk.path
    with running(path, durability, **disk.env) as app:
        app.do(WRITES)
        app.do("write_all(1); durable.flush()")
        failed = refused = 0
        for number in range(1, COUNT + 1):
            disk.fail(number * STEP, getattr(errno, error), failures)
            app.do(f"write_all({number * 3 + 1})")
            if durability == "always":
                promised = app.do("result = durable_up_to")
                refused += len(app.do("result = refused"))
            else:
                promised = app.do("result = tried") if app.do("result = is_flushed()") else {}
            tried = app.do("result = tried")
            found = app.stored(tmp_path)
            for stream in "abc":
                assert promised.get(stream, 0) <= found[f"{stream} left"] <= tried[stream]
                assert found[f"{stream} right"] == f"{found[f'{stream} left']} " * 5000
            assert app.do("result = [server_state[f'{stream} left'] for stream in 'abc']") == list(tried.values())
            status = app.do("status = durable.status(); result = [status.error, status.pending, status.oldest_pending]")
            if failures == -1 and disk["failed"]:
                failed += status[0] is not None
            disk.heal()
            assert app.do("result = is_flushed()")
            assert app.do("status = durable.status(); result = [status.error, status.pending]") == [None, 0]
            memory = app.do("result = dict(server_state)")
            assert app.stored(tmp_path) == memory
        if failures == -1:
            assert failed
            assert refused or durability == "interval"
        messages = app.do("result = messages")
        assert all("cannot be stored" in message for message in messages[::2])
        assert all("on disk" in message for message in messages[1::2])
        assert app.do("result = durable.status().failures") >= len(messages) / 2 > 0
        assert app.do("result = durable.status().set_aside is None")
    with running(path, durability) as app:
        assert app.do("result = dict(server_state)") == memory


def test_read_only_file_system_is_told_and_stored_later(path: Path, tmp_path: Path, disk: Disk) -> None:
    with running(path, "interval", **disk.env) as app:
        app.do("server_state.a = 1; durable.flush()")
        disk.fail(1, errno.EROFS)
        app.do(WRITES + "server_state.a = 2")
        assert app.do("result = is_flushed()") is False
        assert app.do("result = durable.status().error") is not None
        assert app.do("result = server_state.a") == 2
        assert app.stored(tmp_path) == {"a": 1}
        disk.heal()
        app.do("durable.flush()")
        assert app.stored(tmp_path) == {"a": 2}


def test_threads_do_not_wait_for_a_slow_disk(path: Path, disk: Disk) -> None:
    """The disk takes no write until the test allows it, and threads write meanwhile."""
    with running(path, "interval", **disk.env) as app:
        app.do("server_state.a = 0; durable.flush()")
        disk["holds"] = 1
        app.do("server_state.a = 1")
        wait_until_held(disk)
        for number in range(2, 100):
            app.do(f"server_state.a = {number}; server_state['k {number}'] = 1; atomic.increment('a', by=0)")
        assert app.do("result = [server_state.a, len(server_state)]") == [99, 99]
        assert app.do("result = durable.status().pending") >= 99
        with pytest.raises(AssertionError, match="TimeoutError"):
            app.do("durable.flush(0.01)")
        disk["holds"] = 0
        app.do("durable.flush()")
        assert app.do("result = durable.status().pending") == 0


def test_threads_that_wait_for_a_slow_disk_can_read(path: Path, disk: Disk) -> None:
    with running(path, "always", **disk.env) as app:
        app.do("server_state.a = 0")
        disk["holds"] = 1
        app.do(
            "import threading; thread = threading.Thread(target=server_state.__setitem__, args=('a', 1)); "
            "thread.start()"
        )
        wait_until_held(disk)
        assert app.do("result = [server_state.a, thread.is_alive()]") == [1, True]
        disk["holds"] = 0
        app.do("thread.join(20)")
        assert app.do("result = thread.is_alive()") is False


def wait_until_held(disk: Disk) -> None:
    end = time.monotonic() + DEADLINE
    while not disk["held"]:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("what", ["file", "all files", "folder", "replaced"])
def test_lost_file_is_written_again(path: Path, tmp_path: Path, what: str) -> None:
    with running(path, "always") as app:
        app.do("server_state.update(a=1, b=2)")
        lose(path, what)
        app.do(WRITES)
        app.do("""
try:
    server_state.c = 3
except NotDurableError as error:
    refused.append(str(error))
result = len(refused)
""")
        if what == "folder":
            assert app.do("result = len(refused)") == 1
            path.parent.mkdir(mode=0o700)
            app.do("durable.flush(20)")
        assert app.do("result = server_state.a") == 1
        assert app.stored(tmp_path) == {"a": 1, "b": 2, "c": 3}
        assert any("was deleted, replaced or damaged" in each for each in app.do("result = messages"))
    with running(path, "always") as app:
        assert app.do("result = dict(server_state)") == {"a": 1, "b": 2, "c": 3}


def lose(path: Path, what: str) -> None:
    if what == "file":
        path.unlink()
    elif what == "all files":
        for each in list(path.parent.iterdir()):
            each.unlink()
    elif what == "folder":
        shutil.rmtree(path.parent)
    else:
        path.rename(path.with_name("moved.db"))
        path.write_bytes(b"")
        path.chmod(0o600)
