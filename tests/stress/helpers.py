"""Helpers of the stress tests: threads that start together, and values that reveal corruption.

``FASTSERVERSTATE_STRESS_SECONDS`` is the duration of each test.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from harness.interpreter import run_python

from fastserverstate import _core
from fastserverstate.lock import ServerStateLock
from fastserverstate.state import ServerState

SECONDS = float(os.environ.get("FASTSERVERSTATE_STRESS_SECONDS", "0.2"))
DEADLINE = 60  # seconds; interpreters with a sanitizer are some twenty times slower


class Crew:
    """Threads that start together at the end of the ``with`` block and must end when `over` is true.

    The block joins them and raises the first error of a thread.
    """

    def __init__(self) -> None:
        self.over = False
        self.failed = False
        self._work: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._errors: list[BaseException] = []
        self._ended = threading.Event()

    def add(self, work: Callable[..., object], *args: Any) -> None:
        """Do this once, on a thread. Long-running work must check `over`."""
        self._work.append((work, args))

    def repeat(self, work: Callable[..., object], *args: Any) -> None:
        """Do this repeatedly, on a thread."""

        def go_on() -> None:
            while not self.over:
                work(*args)

        self.add(go_on)

    def wait_for(self, condition: Callable[[], bool], state: Callable[[], object] = lambda: "") -> None:
        """Wait until the condition is true. Raises TimeoutError if another thread has failed, or after the deadline."""
        patience = time.monotonic() + SECONDS + DEADLINE
        while not condition():
            if self.failed or time.monotonic() > patience:
                raise TimeoutError(f"The condition never became true: {state()}")
            time.sleep(0.001)

    def _run(self, gate: threading.Barrier, work: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            gate.wait(DEADLINE)
            work(*args)
        except BaseException as error:
            self._errors.append(error)
            self.failed = True
            self._ended.set()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        if kind is not None:
            return
        gate = threading.Barrier(len(self._work) + 1)
        threads = [threading.Thread(target=self._run, args=(gate, *work), daemon=True) for work in self._work]
        for thread in threads:
            thread.start()
        gate.wait(DEADLINE)
        self._ended.wait(SECONDS)
        self.over = True
        for thread in threads:
            thread.join(0.1 if self._errors else DEADLINE)
        if self._errors:
            raise self._errors[0]
        if any(thread.is_alive() for thread in threads):
            faulthandler.dump_traceback()
            raise TimeoutError("a thread is blocked")


class Value:
    """Contains its key and a check number, which reveal mixed-up and torn values."""

    __slots__ = ("check", "key", "number")

    def __init__(self, key: str, number: int) -> None:
        self.key, self.number, self.check = key, number, ~number

    def __add__(self, _step: int) -> Value:
        return Value(self.key, self.number + 1)


STEP = 1_000_000  # numbers are multiples of it, plus the number of the key


def check(key: str, value: Any) -> None:
    """Assert that a value is intact and belongs to the key: a `Value`, a tuple of its three fields, or a number."""
    if type(value) is int:
        assert value % STEP == int(key.rpartition("k")[2]), (key, value)
        return
    written, number, negated = value if type(value) is tuple else (value.key, value.number, value.check)
    assert (written, ~negated) == (key, number), (key, written, number, negated)


class World:
    """A store, its namespace and its locks."""

    def __init__(self) -> None:
        self.store = _core.Store(reserved=dir(ServerState))
        self.state = ServerState(self.store)
        self.locks = ServerStateLock(self.store)

    def assert_at_rest(self) -> None:
        """Assert that the statistics are correct. No other thread may use the store meanwhile."""
        keys = self.store.keys()
        statistics = self.store.statistics()
        assert len(keys) == len(set(keys)) == len(self.state) == statistics["keys"], (keys, statistics)
        assert statistics["cells"] >= statistics["keys"]
        for key in keys:
            assert self.store.version(key) > 0
            self.store.peek(key)

    def assert_empty(self) -> None:
        """Assert that nothing is left after all sessions were closed and all keys deleted."""
        self.assert_at_rest()
        statistics = self.store.statistics()
        assert (statistics["keys"], statistics["scopes"]) == (0, 0), statistics
        assert self.store.collect_stale() == []


_PRELUDE = f"""
import faulthandler, sys
faulthandler.dump_traceback_later({DEADLINE}, exit=True)
sys.modules["streamlit"] = None  # its import takes a second
import os, random, signal, threading, time
from stress.actor import Actor, Cast
from harness.scopes import *
from stress.helpers import *
from fastserverstate import _core
locate_in_tests()
sys.setswitchinterval(1e-6)
"""


def run_script(source: str) -> str:
    """Run a script in an interpreter of its own and return its output. It must exit with 0 and print no errors."""
    return run_python(_PRELUDE, source, timeout=2 * DEADLINE)
