"""Refuses to be imported by a subinterpreter, before that has loaded the core, which one interpreter can have."""

from importlib import import_module
from importlib.util import find_spec


def check() -> None:
    for name in ("_interpreters", "_xxsubinterpreters"):  # since Python 3.13, and before
        if find_spec(name) is not None:
            interpreters = import_module(name)
            if interpreters.get_current() != interpreters.get_main():
                raise ImportError(
                    "fastserverstate works in the main interpreter only, and this is a subinterpreter. Use threads, "
                    "which share its state, or processes."
                )
            return
