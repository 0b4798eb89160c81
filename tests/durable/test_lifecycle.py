"""A state file over the life of processes: forks, exits, and connections that follow each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from durable.processes import environment
from harness.faults import times
from harness.interpreter import run_python

import fastserverstate
from fastserverstate import durable, server_state
from fastserverstate.codec import Codec
from fastserverstate.durable.errors import DurabilityError
from fastserverstate.durable.state_file import read_only

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
FORKS = times(10, 300)
CYCLES = times(200, 3000)

IMPORTS = """
import atexit, multiprocessing, os, signal, sys, threading, time, warnings
from fastserverstate import atomic, connect, durable, server_state, transaction
warnings.simplefilter("ignore", DeprecationWarning)  # of forks in processes with threads

def in_child(check):
    pid = os.fork()
    if not pid:
        try:
            check()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def wait(pid):
    end = time.monotonic() + 60
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, status
            return
        if time.monotonic() > end:
            os.kill(pid, signal.SIGABRT)
            os.waitpid(pid, 0)
            raise SystemExit("the child hangs")
        time.sleep(0.001)

def write():
    while not ended.is_set():
        with transaction():
            atomic.increment("a")
            atomic.increment("b")

def start_threads():
    for _ in range(3):
        threads.append(threading.Thread(target=write))
        threads[-1].start()

ended, threads = threading.Event(), []
"""


def stored(path: Path) -> dict[str, Any]:
    codec = Codec.for_file(None)
    with read_only(path) as rows:
        return {row.key: codec.decode(row.key, row.data) for row in rows if row.data is not None}


@needs_fork
@pytest.mark.timeout(900)
@pytest.mark.parametrize("durability", ["interval", "always"])
def test_forked_children_write_in_memory_only(path: Path, durability: str) -> None:
    """The child may also have a file of its own."""
    run_python(
        IMPORTS,
        f"""
connect("sqlite:///{path}", durability="{durability}")

def child():
    assert durable.status() is None
    for number in range(100):
        server_state[f"child {{number}}"] = number
    durable.flush()
    durable.disconnect()
    connect("sqlite:///{path.parent}/child.db", durability="{durability}")
    server_state.mine = number
    durable.disconnect()

start_threads()
for _ in range({FORKS}):
    wait(in_child(child))
ended.set()
for thread in threads:
    thread.join()
durable.flush()
assert durable.status().set_aside is None
assert dict(server_state) == {{"a": server_state.a, "b": server_state.a}}
""",
        timeout=800,
    )
    found = stored(path)
    assert found == {"a": found["a"], "b": found["a"]}
    assert found["a"]
    assert stored(path.parent / "child.db")["mine"] == 99


@needs_fork
@pytest.mark.parametrize("start", ["multiprocessing", "exit"])
def test_forked_children_that_end_leave_the_file_alone(path: Path, start: str) -> None:
    """A child of os.fork that ends with sys.exit runs the functions of `atexit`."""
    run_python(
        IMPORTS,
        f"""
connect("sqlite:///{path}", durability="always")

def child():
    server_state["a"] = "of the child"

start_threads()
if "{start}" == "exit":
    for _ in range(10):
        pid = os.fork()
        if not pid:
            child()
            sys.exit(0)
        wait(pid)
else:
    fork = multiprocessing.get_context("fork")
    for _ in range(10):
        process = fork.Process(target=child)
        process.start()
        process.join(60)
        assert process.exitcode == 0
ended.set()
for thread in threads:
    thread.join()
assert server_state.a == server_state.b
""",
        timeout=120,
    )
    found = stored(path)
    assert found["a"] == found["b"] > 0


WRITER = (
    IMPORTS
    + """
path, durability, daemon, end = sys.argv[1:]
connect(f"sqlite:///{path}", durability=durability)

def run(number):
    written = 0
    while not ended.is_set():
        try:
            server_state[f"thread {number}"] = written + 1
        except durable.NotDurableError:
            return
        written += 1
        os.write(1, b"%d %d\\n" % (number, written))

for number in range(4):
    threading.Thread(target=run, args=(number,), daemon=daemon == "daemon").start()
sys.stdin.readline()
if daemon == "no daemon" and end != "terminate":
    ended.set()
if end == "exit":
    sys.exit()
if end == "exception":
    1 / 0
if end == "terminate":
    os.kill(os.getpid(), signal.SIGTERM)
"""
)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
@pytest.mark.parametrize("end", ["return", "exit", "exception", "terminate"])
@pytest.mark.parametrize("daemon", ["daemon", "no daemon"])
@pytest.mark.parametrize("durability", ["interval", "always"])
def test_exit_stores_what_threads_have_written(path: Path, durability: str, daemon: str, end: str) -> None:
    """With "interval", a thread that the exit does not wait for may write after the last commit."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), durability, daemon, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        written: dict[str, int] = {}
        before: dict[str, int] = {}
        for count, line in enumerate(process.stdout):
            number, value = line.split()
            written[f"thread {number}"] = int(value)
            if count == 20:
                before = dict(written)
                process.stdin.write("end\n")
                process.stdin.flush()
        assert process.wait() == {"exception": 1, "terminate": -signal.SIGTERM}.get(end, 0)
    waits = durability == "always" or (daemon == "no daemon" and end != "terminate")
    found = stored(path)
    assert set(found) == {f"thread {number}" for number in range(4)}
    for key, value in (written if waits else before).items():
        assert found[key] >= value
    assert not path.with_name("state.db-wal").exists()


def test_processes_in_sequence_have_one_state(path: Path) -> None:
    """Keys keep their order and versions rise, also those of keys that are deleted and set again."""
    versions = []
    for number in range(4):
        output = run_python(
            IMPORTS,
            f"""
from fastserverstate import _instances
connect("sqlite:///{path}")
assert list(server_state) == {[f"key {each}" for each in range(number)]}
server_state.pop("again", None)
server_state["again"] = {number}
version = _instances.store.version("again")
del server_state["again"]
server_state["key {number}"] = {number}
print(version, max(map(_instances.store.version, server_state)))
""",
        )
        versions.append([int(version) for version in output.split()])
    again, others = zip(*versions, strict=True)
    assert list(again) == sorted(set(again))
    assert list(others) == sorted(set(others))


@pytest.fixture
def connected(path: Path) -> Any:
    fastserverstate.connect(f"sqlite:///{path}")
    yield
    durable.disconnect()
    server_state.clear()


@pytest.mark.usefixtures("connected")
def test_connecting_twice_does_nothing(path: Path) -> None:
    engine = durable.connection.engine
    server_state.a = 1
    fastserverstate.connect(f"sqlite:///{path}")
    assert durable.connection.engine is engine
    with pytest.raises(DurabilityError, match="with other arguments"):
        fastserverstate.connect(f"sqlite:///{path}", durability="always")
    with pytest.raises(DurabilityError, match="with other arguments"):
        fastserverstate.connect(f"sqlite:///{path.parent}/other.db")
    assert durable.connection.engine is engine
    durable.flush()
    assert stored(path) == {"a": 1}


@pytest.mark.usefixtures("connected")
def test_state_goes_on_in_another_file(path: Path) -> None:
    other = path.with_name("other.db")
    server_state.update(a=1, b=1)
    durable.disconnect()
    server_state.a = 2
    fastserverstate.connect(f"sqlite:///{other}")
    server_state.b = 2
    durable.disconnect()
    assert stored(path) == {"a": 1, "b": 1}
    assert stored(other) == {"a": 2, "b": 2}
    server_state.clear()
    fastserverstate.connect(f"sqlite:///{path}")
    assert dict(server_state) == {"a": 1, "b": 1}


@pytest.mark.timeout(900)
def test_connections_leave_nothing_behind(path: Path) -> None:
    """No descriptors, threads or handlers, and less than 1 kB of memory for each of them."""
    output = run_python(
        IMPORTS,
        f"""
import gc, tracemalloc
from fastserverstate.durable.state_file import StateFile

open_file = StateFile.open.__func__
StateFile.open = classmethod(lambda cls, path, fresh=False: open_file(cls, path, sync=False, fresh=fresh))

def cycle(number):
    connect("sqlite:///{path}", durability=("interval", "always")[number % 2])
    server_state.a = number
    durable.disconnect()
    server_state.clear()

def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0

for number in range(20):
    cycle(number)
gc.collect()
before = descriptors(), threading.active_count(), atexit._ncallbacks()
tracemalloc.start()
first = tracemalloc.get_traced_memory()[0]
for number in range({CYCLES}):
    cycle(number)
gc.collect()
print((tracemalloc.get_traced_memory()[0] - first) / {CYCLES})
assert (descriptors(), threading.active_count(), atexit._ncallbacks()) == before
""",
        timeout=800,
    )
    assert float(output) < 1000
    print(f"{float(output):,.0f} bytes for each connection")
