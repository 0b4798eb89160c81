"""What the unit tests share: the scope a thread runs in, threads that report their errors, scripts of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fastserverstate import _core, _shared

needs_timer = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer signals")

ATTRIBUTE = "_scope_of_test"
DEADLINE = 20


class Context(SimpleNamespace):
    """The script context of a thread. Weak references to it can be made."""


def resolve(context: Any, part: str | None) -> tuple[_core.Session, _core.Scope | None, int]:
    """What a context of these tests is part of."""
    return context.session, context.session.scope(part), _core.RUN_CURRENT


def locate_in_tests() -> None:
    """Let `enter` and `leave` say which scope a thread runs in."""
    _core.locate_scopes(ATTRIBUTE, None, "part", resolve)


def locate_in_streamlit() -> None:
    _shared.Bridge(_shared.store, _shared.scheduler)


def enter(session: _core.Session, part: str | None = None, *, context: Any = None) -> None:
    """Run in a part of a session from here on: in a script context of its own unless one is given."""
    setattr(threading.current_thread(), ATTRIBUTE, context or Context(session=session, part=part))


def leave() -> None:
    setattr(threading.current_thread(), ATTRIBUTE, None)


def refuse(*_args: object) -> Any:
    """Stand in for a method that must not be called."""
    raise AssertionError("called")


class ThreadSet:
    """Threads that start together at the end of the ``with`` block, or at `go`, and raise their errors there."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._started = threading.Event()

    def add(self, function: Callable[..., object], *args: Any) -> threading.Thread:
        def run() -> None:
            self._started.wait()
            try:
                function(*args)
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def go(self) -> None:
        self._started.set()

    def __enter__(self) -> ThreadSet:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.go()
        for thread in self._threads:
            thread.join(DEADLINE)
        if self._errors:
            raise self._errors[0]
        assert not any(thread.is_alive() for thread in self._threads), "a thread hangs"


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a call on another thread."""
    results: list[Any] = []
    with ThreadSet() as threads:
        threads.add(lambda: results.append(function(*args)))
    return results[0]


def is_free(lock: Any) -> bool:
    """Whether another thread could take the lock."""

    def try_it() -> bool:
        taken = lock.acquire(blocking=False)
        if taken:
            lock.release()
        return bool(taken)

    return bool(elsewhere(try_it))


# The core by itself starts in a twentieth of the time that the package takes, which imports Streamlit.
_CORE = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("fastserverstate._core", {_core.__file__!r})
_core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_core)
"""
_PRELUDE = """
import faulthandler, gc, os, signal, threading, time, weakref

faulthandler.dump_traceback_later(100, exit=True)

class Context:
    def __init__(self, session, part=None):
        self.session, self.part = session, part

def resolve(context, part):
    return context.session, context.session.scope(part), _core.RUN_CURRENT

_core.locate_scopes("scope", None, "part", resolve)
store = _core.Store(reserved=dir(_core.Namespace))
state = _core.Namespace(store)

def enter(session, part=None):
    threading.current_thread().scope = Context(session, part)

def leave():
    threading.current_thread().scope = None
"""


def run_script(source: str, *, package: bool = False) -> str:
    """What a script prints that has a store and the scopes of `enter` and `leave`, in an interpreter of its own.

    It has to end well and to keep its error output empty.
    """
    core = "from fastserverstate import _core\n" if package else _CORE
    script = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", core + _PRELUDE + textwrap.dedent(source)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # of a test run: the tests' packages too
    )
    assert (script.returncode, script.stderr) == (0, ""), script.stderr
    return script.stdout


# For scripts: what a forked child does, and that it went well.
FORK = """
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
    assert os.waitpid(pid, 0)[1] == 0
"""
