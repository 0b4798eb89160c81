"""Many sessions without a server."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from fastserverstate import _instances, server_state
from fastserverstate._core import RUN_CURRENT, locate_scopes
from fastserverstate.rerun.session import LiveSession

ATTRIBUTE = "_session_of_crowd"


class Context(SimpleNamespace):
    """The script context of a thread. It supports weak references."""


class Crowd:
    """Sessions that read what all others do. They become stale, but never rerun, because they have no event loop."""

    def __init__(self, size: int) -> None:
        # The core caches the scope of a context, so each session needs a context of its own.
        self._contexts = [
            Context(session=LiveSession(_instances.store, SimpleNamespace()), part=None) for _ in range(size)
        ]

    def read(self, key: str) -> None:
        """Have each session read a key in a new run, on this thread."""
        thread = threading.current_thread()
        locate_scopes(
            ATTRIBUTE, None, "part", lambda context, part: (context.session, context.session.scope(part), RUN_CURRENT)
        )
        for context in self._contexts:
            context.session.start_run()
            setattr(thread, ATTRIBUTE, context)
            server_state[key]
        delattr(thread, ATTRIBUTE)
        _instances.Bridge(_instances.store, _instances.scheduler)  # finds this thread's own scope again

    def leave(self) -> None:
        for context in self._contexts:
            context.session.close()
