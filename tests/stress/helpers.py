"""What the stress tests share: threads that start together, the scope a thread runs in, and values that show damage.

``FASTSERVERSTATE_STRESS_SECONDS`` says for how long each test goes on.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

if find_spec("streamlit") is None:
    # The sanitizers' interpreters need not have Streamlit, which the package imports. What is tested here does not.
    package = ModuleType("fastserverstate")
    package.__path__ = list(find_spec("fastserverstate").submodule_search_locations)
    sys.modules["fastserverstate"] = package

from fastserverstate import _core
from fastserverstate.lock import ServerStateLock
from fastserverstate.state import ServerState

SECONDS = float(os.environ.get("FASTSERVERSTATE_STRESS_SECONDS", "0.2"))
DEADLINE = 60  # a sanitizer's interpreter is some twenty times as slow
ATTRIBUTE = "_scope_of_stress"


class Context(SimpleNamespace):
    """The script context of a thread. Weak references to it can be made."""


def resolve(context: Any, part: str | None) -> tuple[_core.Session, _core.Scope | None, int]:
    """What a context of these tests is part of."""
    return context.session, context.session.scope(part), _core.RUN_CURRENT


def locate_in_stress() -> None:
    """Let `enter` and `leave` say which scope a thread runs in."""
    _core.locate_scopes(ATTRIBUTE, None, "part", resolve)


def enter(session: _core.Session, part: str | None = None) -> None:
    setattr(threading.current_thread(), ATTRIBUTE, Context(session=session, part=part))


def leave() -> None:
    setattr(threading.current_thread(), ATTRIBUTE, None)


class Crew:
    """Threads that start together at the end of the ``with`` block, end when it is `over`, and raise their errors."""

    def __init__(self) -> None:
        self.over = False
        self.failed = False
        self._work: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._errors: list[BaseException] = []
        self._ended = threading.Event()

    def add(self, work: Callable[..., object], *args: Any) -> None:
        """Have a thread do this once. What takes long has to look at `over`."""
        self._work.append((work, args))

    def repeat(self, work: Callable[..., object], *args: Any) -> None:
        """Have a thread do this again and again."""

        def go_on() -> None:
            while not self.over:
                work(*args)

        self.add(go_on)

    def wait_for(self, condition: Callable[[], bool], state: Callable[[], object] = lambda: "") -> None:
        """Wait until the condition holds. Gives up when another thread has failed, or after the deadline."""
        patience = time.monotonic() + SECONDS + DEADLINE
        while not condition():
            if self.failed or time.monotonic() > patience:
                raise TimeoutError(f"waited in vain: {state()}")
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
            raise TimeoutError("a thread hangs")


class Value:
    """Knows the key that it is written to, and itself: a mixed-up or torn one is found out."""

    __slots__ = ("check", "key", "number")

    def __init__(self, key: str, number: int) -> None:
        self.key, self.number, self.check = key, number, ~number

    def __add__(self, _step: int) -> Value:
        return Value(self.key, self.number + 1)


STEP = 1_000_000  # between the numbers that a key may have: below it they tell the key


def check(key: str, value: Any) -> None:
    """The value is whole and belongs to the key. Tuples of the same three are values as well, and numbers."""
    if type(value) is int:
        assert value % STEP == int(key[1:]), (key, value)
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
        """What its own numbers say is so, when nobody uses it."""
        keys = self.store.keys()
        statistics = self.store.statistics()
        assert len(keys) == len(set(keys)) == len(self.state) == statistics["keys"], (keys, statistics)
        assert statistics["cells"] >= statistics["keys"]
        for key in keys:
            assert self.store.version(key) > 0
            self.store.peek(key)

    def assert_empty(self) -> None:
        """Nothing is left when every session was closed and every key deleted."""
        self.assert_at_rest()
        statistics = self.store.statistics()
        assert (statistics["keys"], statistics["scopes"]) == (0, 0), statistics
        assert self.store.collect_stale() == []


@contextmanager
def many_switches() -> Iterator[None]:
    """Have the interpreter's lock, where there is one, change hands as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


_PRELUDE = f"""
import faulthandler, sys
faulthandler.dump_traceback_later({DEADLINE}, exit=True)
sys.path[:0] = {[str(Path(__file__).parents[1]), *sys.path]!r}
sys.modules["streamlit"] = None  # takes a second to import
import os, random, signal, threading, time
from stress.actor import Actor, Cast
from stress.helpers import *
from fastserverstate import _core
locate_in_stress()
sys.setswitchinterval(1e-6)
"""


def run_script(source: str) -> str:
    """What a script prints in an interpreter of its own. It has to end well, and to keep its error output empty."""
    script = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _PRELUDE + textwrap.dedent(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * DEADLINE,
    )
    assert (script.returncode, script.stderr) == (0, ""), script.stderr
    return script.stdout
