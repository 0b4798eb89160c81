"""Helpers of the unit tests: scopes, threads that report their errors, scripts in a process of their own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from harness.interpreter import run_python
from harness.scopes import ATTRIBUTE, Context, enter, leave, locate_in_tests, resolve

from fastserverstate import _core, _instances

__all__ = [
    "ATTRIBUTE",
    "DEADLINE",
    "FORK",
    "NO_POST_SCRIPT_GC",
    "Context",
    "ThreadSet",
    "elsewhere",
    "enter",
    "is_free",
    "leave",
    "locate_in_streamlit",
    "locate_in_tests",
    "needs_timer",
    "refuse",
    "resolve",
    "run_script",
]

needs_timer = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer signals")

NO_POST_SCRIPT_GC: Any = SimpleNamespace(is_on=lambda: False)
DEADLINE = 20


def locate_in_streamlit() -> None:
    """Have the core use the scopes of Streamlit's scripts again."""
    _instances.Bridge(_instances.store, _instances.scheduler)


def refuse(*_args: object) -> Any:
    """Replace a method that must not be called."""
    raise AssertionError("called")


class ThreadSet:
    """Threads that start together: at `go`, or at the end of the ``with`` block, which joins them.

    The end of the block raises the first error of a thread.
    """

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
        assert not any(thread.is_alive() for thread in self._threads), "a thread is blocked"


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """Call the function on another thread and return its result."""
    results: list[Any] = []
    with ThreadSet() as threads:
        threads.add(lambda: results.append(function(*args)))
    return results[0]


def is_free(lock: Any) -> bool:
    """Return whether another thread can acquire the lock."""

    def try_it() -> bool:
        acquired = lock.acquire(blocking=False)
        if acquired:
            lock.release()
        return bool(acquired)

    return bool(elsewhere(try_it))


# Importing the core alone takes a twentieth of the time of the package, which imports Streamlit.
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
    """Run a script, with a store and the scopes of `enter` and `leave`, in an interpreter of its own.

    Returns its output. It must exit with 0 and print no errors.
    """
    core = "from fastserverstate import _core\n" if package else _CORE
    return run_python(core + _PRELUDE, source, "-W", "error")


# For scripts: run a check in a forked child, which must exit with 0.
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
