"""The cost of state that survives a restart, compared with a dict's write and with other stores: make bench-durable

A round measures all stores one after the other, and medians of the rounds are printed. Every write sets one of 1,000
keys to a new number. The files are in the folder for temporary files, which `TMPDIR` chooses. Packages that are not
installed (`pip install --group bench`) have no row.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shelve
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import fastserverstate
from fastserverstate import durable, server_state
from fastserverstate.durable.state_file import Row, StateFile

ROUNDS = 5
SECONDS = 0.6  # of one measurement: three intervals
KEYS = [f"key {number}" for number in range(1000)]
THREADS = 100
OPEN_KEYS = 100_000

State = MutableMapping[str, Any]
Store = Callable[[Path], contextlib.AbstractContextManager[State]]


class Contestant(NamedTuple):
    name: str
    on_disk: str  # when a write is
    store: Store
    chunk: int = 1000  # writes between two looks at the clock


def rate(state: State, seconds: float = SECONDS, chunk: int = 1000) -> float:
    """Return how long a write takes, in seconds."""
    keys = KEYS[:chunk]
    number = 0
    began = now = time.perf_counter()
    while now < began + seconds:
        for key in keys:
            number += 1
            state[key] = number
        now = time.perf_counter()
    return (now - began) / number


def rate_of_threads(state: State, threads: int, seconds: float = 2.0) -> float:
    """Return how many writes a second the threads make together, each of a key of its own."""
    counts = [0] * threads
    start = threading.Barrier(threads + 1)
    end = threading.Event()

    def write(thread: int) -> None:
        start.wait()
        while not end.is_set():
            counts[thread] += 1
            state[f"thread {thread}"] = counts[thread]

    running = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    start.wait()
    began, before = time.perf_counter(), sum(counts)
    time.sleep(seconds)
    took, made = time.perf_counter() - began, sum(counts) - before
    end.set()
    for thread in running:
        thread.join()
    return made / took


@contextmanager
def plain(_: Path) -> Iterator[State]:
    yield {}


@contextmanager
def in_memory(_: Path) -> Iterator[State]:
    yield server_state
    server_state.clear()


def connected(durability: Literal["interval", "always"]) -> Store:
    @contextmanager
    def store(folder: Path) -> Iterator[State]:
        fastserverstate.connect(f"sqlite:///{folder / 'state.db'}", durability=durability)
        yield server_state
        durable.disconnect()
        server_state.clear()

    return store


@contextmanager
def one_commit_per_write(folder: Path) -> Iterator[State]:
    """The state file with a commit for each write: what `durability="always"` would cost without shared commits."""
    file = StateFile.open(folder / "state.db")

    class State(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            file.write([Row(key, b"i%d" % value, value, 1, None)], value)

    yield State()
    file.close()


@contextmanager
def disk_cache(folder: Path) -> Iterator[State]:
    from diskcache import Cache  # noqa: PLC0415

    with Cache(folder) as cache:
        yield cache


@contextmanager
def sqlite_dict(folder: Path) -> Iterator[State]:
    from sqlitedict import SqliteDict  # noqa: PLC0415

    with SqliteDict(folder / "state.db", autocommit=True) as state:
        yield state


@contextmanager
def shelf(folder: Path) -> Iterator[State]:
    with shelve.open(folder / "state") as state:
        yield state


@contextmanager
def synchronized_shelf(folder: Path) -> Iterator[State]:
    with shelve.open(folder / "state") as state:

        class State(dict[str, Any]):
            def __setitem__(self, key: str, value: Any) -> None:
                state[key] = value
                state.sync()

        yield State()


@contextmanager
def nicegui(folder: Path) -> Iterator[State]:
    """`app.storage.general` of NiceGUI. Without an event loop, each write stores the whole JSON file."""
    from nicegui.persistence.file_persistent_dict import FilePersistentDict  # noqa: PLC0415

    state = FilePersistentDict(folder / "storage-general.json", encoding="utf-8")
    dict.update(state, dict.fromkeys(KEYS, 0))
    yield state


def rate_of_nicegui(folder: Path) -> float:
    """Return how long a write in an event loop takes, in seconds, with the loop's turns, in which the file is written.

    Every handler of a user makes one write in this app.
    """
    from nicegui import core  # noqa: PLC0415
    from nicegui.persistence.file_persistent_dict import FilePersistentDict  # noqa: PLC0415

    async def write() -> float:
        core.loop = asyncio.get_running_loop()
        state = FilePersistentDict(folder / "storage-general.json", encoding="utf-8")
        state.update(dict.fromkeys(KEYS, 0))
        number = 0
        began = time.perf_counter()
        while time.perf_counter() < began + SECONDS:
            for key in KEYS[:50]:
                number += 1
                state[key] = number
                await asyncio.sleep(0)
        took = time.perf_counter() - began
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
        return took / number

    return asyncio.run(write())


CONTESTANTS = [
    Contestant("dict", "never", plain),
    Contestant("fastserverstate, in memory", "never", in_memory),
    Contestant('fastserverstate, `"interval"`', "after 0.2 s at most", connected("interval")),
    Contestant('fastserverstate, `"always"`', "when it returns", connected("always"), 20),
    Contestant("its file, one commit per write", "when it returns", one_commit_per_write, 20),
    Contestant("diskcache", "some time later (`synchronous=NORMAL`)", disk_cache, 20),
    Contestant("sqlitedict, `autocommit=True`", "some time later, on a thread", sqlite_dict, 20),
    Contestant("shelve", "when it is closed", shelf, 20),
    Contestant("shelve, with `sync()`", "when it returns, with some modules", synchronized_shelf, 20),
    Contestant("NiceGUI's JSON file, without a loop", "some time later (no `fsync`)", nicegui, 20),
]
NICEGUI = "NiceGUI's JSON file, in a loop"


def is_installed(contestant: Contestant) -> bool:
    needs = {disk_cache: "diskcache", sqlite_dict: "sqlitedict", nicegui: "nicegui"}.get(contestant.store)
    return needs is None or find_spec(needs) is not None


def one_thread() -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for contestant in filter(is_installed, CONTESTANTS):
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                state = stack.enter_context(contestant.store(folder))
                times.setdefault(contestant.name, []).append(rate(state, chunk=contestant.chunk))
        if find_spec("nicegui") is not None:
            with tempfile.TemporaryDirectory() as folder_name:
                times.setdefault(NICEGUI, []).append(rate_of_nicegui(Path(folder_name)))
    return times


def print_one_thread(times: dict[str, list[float]]) -> None:
    print("| one thread | a write | vs. dict | on disk |\n|---|--:|--:|---|")
    when = {contestant.name: contestant.on_disk for contestant in CONTESTANTS}
    for name, taken in times.items():
        ratio = statistics.median(one / other for one, other in zip(taken, times["dict"], strict=True))
        median = statistics.median(taken)
        shown = f"{median * 1e9:,.0f} ns" if median < 1e-6 else f"{median * 1e6:,.1f} µs"
        print(f"| {name} | {shown} | {ratio:,.1f}x | {when.get(name, 'some time later (no `fsync`)')} |")
    memory, interval = times["fastserverstate, in memory"], times['fastserverstate, `"interval"`']
    more = statistics.median(b - a for a, b in zip(memory, interval, strict=True))
    with tempfile.TemporaryDirectory() as folder, shelve.open(Path(folder) / "state") as state:
        print(f"\nshelve uses {type(state.dict).__module__} here.")
    print(f'`"interval"` adds {more * 1e9:,.0f} ns to a write (goal: 200 ns at most).\n')


def print_threads() -> None:
    """Alternate between a commit per write, one thread and many threads."""
    found: dict[str, list[float]] = {"alone": [], "one": [], "many": []}
    for _ in range(ROUNDS):
        for name, store, threads in (
            ("alone", one_commit_per_write, 1),
            ("one", connected("always"), 1),
            ("many", connected("always"), THREADS),
        ):
            with tempfile.TemporaryDirectory() as folder, store(Path(folder)) as state:
                found[name].append(rate_of_threads(state, threads))
    print('| `durability="always"` | writes a second | vs. one commit per write |\n|---|--:|--:|')
    for name, label in (
        ("alone", "one commit per write"),
        ("one", "1 thread"),
        ("many", f"{THREADS} threads"),
    ):
        ratio = statistics.median(one / other for one, other in zip(found[name], found["alone"], strict=True))
        print(f"| {label} | {statistics.median(found[name]):,.0f} | {ratio:,.1f}x |")
    print(f"\nGoal: 50x with {THREADS} threads.\n")


MEASURE_OPENING = """
import os, sys, time
from pathlib import Path
import fastserverstate

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before, began, used = resident(), time.perf_counter(), time.process_time()
fastserverstate.connect(f"sqlite:///{sys.argv[1]}")
took, used = time.perf_counter() - began, time.process_time() - used
assert len(fastserverstate.server_state) == int(sys.argv[2])
print(took, used, resident() - before)
"""


def print_opening() -> None:
    print(f"| {OPEN_KEYS:,} keys with values of | file | open | processor | memory | vs. file |")
    print("|---|--:|--:|--:|--:|--:|")
    for label, value in (("10 bytes", "x" * 8), ("100 bytes", "x" * 98), ("1,000 bytes", "x" * 997)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.db"
            with connected("interval")(Path(folder)):
                server_state.update({f"user {number}": value for number in range(OPEN_KEYS)})
            size = path.stat().st_size
            runs = [
                subprocess.run(
                    [sys.executable, "-c", MEASURE_OPENING, str(path), str(OPEN_KEYS)],
                    capture_output=True,
                    text=True,
                    check=True,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                ).stdout.split()
                for _ in range(3)
            ]
        took, used, memory = (statistics.median(map(float, column)) for column in zip(*runs, strict=True))
        print(
            f"| {label} | {size / 2**20:,.1f} MB | {took:.2f} s | {used:.2f} s | {memory / 2**20:,.1f} MB | "
            f"{memory / size:.1f}x |"
        )
    print("\nGoals: 1 s, and twice the file with values of 1,000 bytes.")


def main() -> None:
    print_one_thread(one_thread())
    print_threads()
    print_opening()


if __name__ == "__main__":
    main()
