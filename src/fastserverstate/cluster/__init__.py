"""Several servers that share one state, over Redis or Valkey. See docs/scale.md.

`fastserverstate.connect` makes this server one of them.
"""

from __future__ import annotations

import os

from fastserverstate._instances import bridge, store
from fastserverstate.cluster.errors import (
    ClusterError,
    LockLostError,
    NotConnectedError,
    NotWrittenError,
    UnknownOutcomeError,
    UnsharableValueError,
)
from fastserverstate.cluster.membership import Membership
from fastserverstate.cluster.node import Status
from fastserverstate.errors import UnreadableValueError
from fastserverstate.functions import name_publicly

__all__ = [
    "ClusterError",
    "LockLostError",
    "NotConnectedError",
    "NotWrittenError",
    "Status",
    "UnknownOutcomeError",
    "UnreadableValueError",
    "UnsharableValueError",
    "disconnect",
    "status",
    "sync",
]

membership = Membership(store, bridge.server.publish)
disconnect = membership.disconnect
status = membership.status
sync = membership.sync

name_publicly(__name__, Membership.disconnect)
name_publicly(__name__, Membership.status)
name_publicly(__name__, Membership.sync)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=membership.reset_after_fork)
