"""State that all tabs of a Streamlit app share, kept in step.

>>> from fastserverstate import server_state, server_state_lock
>>> with server_state_lock["count"]:
...     server_state["count"] = server_state.get("count", 0) + 1
>>> server_state.count
1
>>> del server_state.count
"""

from importlib.util import find_spec

from fastserverstate import _interpreter, _reload

_interpreter.check()
_reload.restore()

if find_spec("fastserverstate._core") is None:
    raise ImportError("fastserverstate is not compiled. In a checkout, compile it with: pip install --editable .")

from fastserverstate._connect import connect, connect_by_environment
from fastserverstate._shared import (
    atomic,
    compare_and_set,
    configure,
    force_rerun_bound_sessions,
    no_rerun,
    on_change,
    peek,
    server_state,
    server_state_lock,
    shared,
    touch,
    transaction,
    wait_for,
    wait_for_async,
)
from fastserverstate.errors import DeadlockError, FastServerStateError, RerunSuppressedError, WouldBlockError

_reload.keep()
connect_by_environment()

__all__ = [
    "DeadlockError",
    "FastServerStateError",
    "RerunSuppressedError",
    "WouldBlockError",
    "atomic",
    "compare_and_set",
    "configure",
    "connect",
    "force_rerun_bound_sessions",
    "no_rerun",
    "on_change",
    "peek",
    "server_state",
    "server_state_lock",
    "shared",
    "touch",
    "transaction",
    "wait_for",
    "wait_for_async",
]
