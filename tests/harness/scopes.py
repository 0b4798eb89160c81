"""Scripts without Streamlit: choose the session and fragment in which a thread runs."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

if find_spec("streamlit") is None:
    # The package imports Streamlit, which the sanitizers' interpreters may lack. The stress tests do not use it.
    package = ModuleType("fastserverstate")
    package.__path__ = list(find_spec("fastserverstate").submodule_search_locations)
    sys.modules["fastserverstate"] = package

from fastserverstate import _core

ATTRIBUTE = "_scope_of_test"


class Context(SimpleNamespace):
    """The script context of a thread. It supports weak references."""


def resolve(context: Any, part: str | None) -> tuple[_core.Session, _core.Scope | None, int]:
    """Find the session and scope of a context."""
    return context.session, context.session.scope(part), _core.RUN_CURRENT


def locate_in_tests() -> None:
    """Have the core use the scopes of `enter` and `leave`."""
    _core.locate_scopes(ATTRIBUTE, None, "part", resolve)


def enter(session: _core.Session, part: str | None = None, *, context: Any = None) -> None:
    """Run in a session, or one of its fragments, until `leave`. Creates a script context unless one is given."""
    setattr(threading.current_thread(), ATTRIBUTE, context or Context(session=session, part=part))


def leave() -> None:
    """Run in no session."""
    setattr(threading.current_thread(), ATTRIBUTE, None)
