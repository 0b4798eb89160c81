"""Real-time state that all sessions of a Streamlit app share.

>>> from fastserverstate import server_state, server_state_lock
>>> with server_state_lock["count"]:
...     server_state["count"] = server_state.get("count", 0) + 1
>>> server_state.count
1
>>> del server_state.count
"""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastserverstate import _interpreter, _reload

_interpreter.check()
_reload.restore()

if find_spec("fastserverstate._core") is None:
    raise ImportError("fastserverstate is not compiled. In a checkout, compile it with: pip install --editable .")

from fastserverstate import _connect
from fastserverstate._connect import connect
from fastserverstate._core import KeyLock, KeyLocks
from fastserverstate._instances import (
    atomic,
    broadcast,
    compare_and_set,
    computed,
    configure,
    edit,
    emit,
    events,
    expire,
    force_rerun_bound_sessions,
    guard,
    join,
    limiter,
    live,
    no_rerun,
    on_change,
    on_session_end,
    on_session_pause,
    on_session_resume,
    on_session_start,
    once,
    online,
    own,
    peek,
    server_state,
    server_state_lock,
    shared,
    space,
    touch,
    transaction,
    user_state,
    wait_for,
    wait_for_async,
)
from fastserverstate.computed_values import Computed
from fastserverstate.errors import (
    AccessDeniedError,
    DeadlockError,
    FastServerStateError,
    NotLoggedInError,
    RerunSuppressedError,
    UnreadableValueError,
    WouldBlockError,
)
from fastserverstate.events import Events
from fastserverstate.limits import Limiter
from fastserverstate.listeners import Subscription
from fastserverstate.live_regions import Live
from fastserverstate.presence import Visitor
from fastserverstate.sessions import SessionInfo
from fastserverstate.shared_widgets import WidgetArguments
from fastserverstate.spaces import Space
from fastserverstate.typed_state import State

if TYPE_CHECKING:
    from fastserverstate import cluster as cluster
    from fastserverstate import durable as durable

    __version__: str

_reload.keep()
_connect.connect_by_environment()


def __getattr__(name: str) -> Any:
    """Import on first use what few apps need."""
    if name in {"cluster", "durable"}:
        return importlib.import_module(f"fastserverstate.{name}")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("fastserverstate")
    raise AttributeError(f"module 'fastserverstate' has no attribute {name!r}")


__all__ = [
    "AccessDeniedError",
    "Computed",
    "DeadlockError",
    "Events",
    "FastServerStateError",
    "KeyLock",
    "KeyLocks",
    "Limiter",
    "Live",
    "NotLoggedInError",
    "RerunSuppressedError",
    "SessionInfo",
    "Space",
    "State",
    "Subscription",
    "UnreadableValueError",
    "Visitor",
    "WidgetArguments",
    "WouldBlockError",
    "atomic",
    "broadcast",
    "compare_and_set",
    "computed",
    "configure",
    "connect",
    "edit",
    "emit",
    "events",
    "expire",
    "force_rerun_bound_sessions",
    "guard",
    "join",
    "limiter",
    "live",
    "no_rerun",
    "on_change",
    "on_session_end",
    "on_session_pause",
    "on_session_resume",
    "on_session_start",
    "once",
    "online",
    "own",
    "peek",
    "server_state",
    "server_state_lock",
    "shared",
    "space",
    "touch",
    "transaction",
    "user_state",
    "wait_for",
    "wait_for_async",
]
