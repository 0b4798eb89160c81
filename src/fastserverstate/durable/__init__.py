"""State that survives restarts, in a file. See docs/guides/restart.md.

`fastserverstate.connect` connects the state to its file.
"""

from __future__ import annotations

import os

from fastserverstate._instances import bridge, expirer, store
from fastserverstate.durable.connection import Connection
from fastserverstate.durable.engine import Status
from fastserverstate.durable.errors import DurabilityError, FileInUseError, NotDurableError, UnsafeFileError
from fastserverstate.functions import name_publicly

__all__ = [
    "DurabilityError",
    "FileInUseError",
    "NotDurableError",
    "Status",
    "UnsafeFileError",
    "disconnect",
    "flush",
    "status",
]

connection = Connection(store, bridge.server, expirer.start)
disconnect = connection.disconnect
flush = connection.flush
status = connection.status

name_publicly(__name__, Connection.disconnect)
name_publicly(__name__, Connection.flush)
name_publicly(__name__, Connection.status)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=connection.reset_after_fork)
