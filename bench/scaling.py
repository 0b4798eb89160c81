"""How reads and writes scale with threads, compared with a dict with an RLock and a plain dict: python bench/scaling.py

Each of two threads does the same number of operations as one does alone. What is timed alternates between everything
that is compared, and medians are printed. A round counts only if two threads that share nothing ran nearly twice as
fast as one before and after it: else other programs had the processors.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import product
from types import SimpleNamespace
from typing import Any

import fastserverstate
from fastserverstate import _core, _instances

ROUNDS = 15
LIMIT = 300  # seconds in all
SECONDS = 0.05  # of one thread
FREE = 1.85  # the speed-up of two threads on two idle processors
UNROLLED = 50


class Context(SimpleNamespace):
    """The script context of a thread. It supports weak references."""


PART: ContextVar[SimpleNamespace] = ContextVar("bench_part")

Run = Callable[[int], None]

OPERATIONS = {
    "read": "state[key]",
    "write": "state[key] = 1; state[key] = 2",
    "locked increment": "with lock: state[key] += 1",
}
LOCKED = {
    "read": "with lock: state[key]",
    "write": "\n        ".join(["with lock: state[key] = 1", "with lock: state[key] = 2"]),
    "locked increment": OPERATIONS["locked increment"],
}


class Plain:
    """A dict, with one lock for all keys or without locks."""

    def __init__(self, operations: dict[str, str]) -> None:
        self.state: dict[str, Any] = {}
        self.operations = operations
        self._lock = threading.RLock()

    def lock(self, _key: str) -> Any:
        return self._lock

    @contextmanager
    def script_run(self) -> Any:
        yield


class Ours:
    """The process's `server_state`, with each thread in a script run of its own session."""

    def __init__(self) -> None:
        _core.locate_scopes(
            "scaling_context",
            PART,
            "part",
            lambda context, part: (context.session, context.session.scope(part), _core.RUN_CURRENT),
        )
        self._store = _instances.store
        self.state = fastserverstate.server_state
        self.lock = self._store.lock
        self.operations = OPERATIONS

    @contextmanager
    def script_run(self) -> Any:
        session = _core.Session(self._store)
        session.start_run()
        thread: Any = threading.current_thread()
        thread.scaling_context = Context(session=session)
        token = PART.set(SimpleNamespace(part=None))
        yield
        PART.reset(token)
        session.close()


def compiled(statement: str, implementation: Any, key: str) -> Run:
    """Return a function that executes the statement `UNROLLED` times its argument."""
    body = "\n        ".join([statement.replace("key", repr(key))] * UNROLLED)
    names: dict[str, Any] = {"given_state": implementation.state, "given_lock": implementation.lock(key)}
    head = "def run(times):\n    state, lock = given_state, given_lock\n    for _ in range(times):\n        "
    exec(head + body, names)
    run: Run = names["run"]
    return run


def seconds(implementation: Any, runs: list[Run], times: int) -> float:
    """Return the time from the common start of the threads to the end of the last one."""
    gate = threading.Barrier(len(runs))
    spans: list[tuple[float, float]] = []

    def work(run: Run) -> None:
        with implementation.script_run():
            run(1)
            gate.wait()
            started = time.perf_counter()
            run(times)
            spans.append((started, time.perf_counter()))

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


class Case:
    """One operation of one implementation, by one thread and by two."""

    def __init__(self, operation: str, keys: list[str], name: str, implementation: Any) -> None:
        self.title = (operation, "one key" if len(set(keys)) == 1 else "different keys", name)
        for key in keys:
            implementation.state[key] = 0
        self._implementation = implementation
        self._runs = [compiled(implementation.operations[operation], implementation, key) for key in keys]
        self._writes = 2 if operation == "write" else 1
        self._times = 1
        while (spent := seconds(implementation, self._runs[:1], self._times)) < SECONDS / 4:
            self._times *= 2
        self._times = max(1, int(self._times * SECONDS / spent))
        self.alone: list[float] = []
        self.together: list[float] = []

    def measure(self) -> None:
        """Return millions of operations per second."""
        done = self._times * UNROLLED * self._writes / 1e6
        self.alone.append(done / seconds(self._implementation, self._runs[:1], self._times))
        self.together.append(done * len(self._runs) / seconds(self._implementation, self._runs, self._times))

    def forget(self) -> None:
        """Remove the last round."""
        self.alone.pop()
        self.together.pop()


def machine_is_free() -> bool:
    """Return whether two processors are idle now."""

    def count(times: int) -> None:
        for _ in range(times):
            pass

    alone, together = (seconds(Plain({}), [count] * threads, 500_000) for threads in (1, 2))
    return 2 * alone / together > FREE


def main() -> None:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    implementations = {"fastserverstate": Ours(), "dict and RLock": Plain(LOCKED), "dict": Plain(OPERATIONS)}
    cases = [
        Case(operation, keys, name, implementation)
        for operation, keys, (name, implementation) in product(
            OPERATIONS, (["a", "b"], ["hot", "hot"]), implementations.items()
        )
        if not (operation == "locked increment" and name == "dict")
    ]
    until = time.monotonic() + LIMIT
    while time.monotonic() < until and any(len(case.alone) < ROUNDS for case in cases):
        for case in cases:
            if len(case.alone) < ROUNDS and machine_is_free():
                case.measure()
                if not machine_is_free():
                    case.forget()
    print(f"Python {sys.version.split()[0]}, {'with' if gil else 'without'} the GIL; millions of operations a second")
    print()
    print("| operation | keys | implementation | 1 thread | 2 threads | compared with 1 | rounds |")
    print("|---|---|---|--:|--:|--:|--:|")
    for case in cases:
        if not case.alone:
            print(f"| {' | '.join(case.title)} | | | | 0 |")
            continue
        alone, together = statistics.median(case.alone), statistics.median(case.together)
        gain = statistics.median(b / a for a, b in zip(case.alone, case.together, strict=True))
        print(f"| {' | '.join(case.title)} | {alone:.1f} | {together:.1f} | {gain:.2f}x | {len(case.alone)} |")


if __name__ == "__main__":
    main()
