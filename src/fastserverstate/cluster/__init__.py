"""Several servers, one state: over Redis or Valkey. See docs/scale.md.

`fastserverstate.connect` makes this server one of them.
"""

from __future__ import annotations

import logging
import os
import threading

from fastserverstate._instances import bridge, store
from fastserverstate._streamlit import Metrics
from fastserverstate.cluster.backend import Link
from fastserverstate.cluster.errors import (
    ClusterError,
    LockLostError,
    NotConnectedError,
    NotWrittenError,
    UnknownOutcomeError,
    UnreadableValueError,
    UnsharableValueError,
)
from fastserverstate.cluster.node import Status
from fastserverstate.metrics import CLUSTER_NAMES, Figure, cluster_figures

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

logger = logging.getLogger("fastserverstate")

_lock = threading.RLock()  # a finalizer may connect or disconnect at any point
_link: Link | None = None
_is_opening = False
_arguments: tuple[object, ...] = ()


def open_link(
    url: str,
    *,
    namespace: str,
    secret: str | bytes | None,
    required: bool,
    timeout: float,
    import_timeout: float | None = None,
) -> None:
    """See `fastserverstate.connect`.

    With an `import_timeout` that is the time for connecting, and a link that is required stays when it has failed: an
    import that has failed is tried again by every run of a script, which is told at once how the link stands then.
    """
    global _link, _is_opening, _arguments  # noqa: PLW0603
    arguments = (url, namespace, secret, timeout)
    if _link is not None and arguments == _arguments:
        if required and import_timeout is not None and not _link.has_joined():
            raise _link.unreachable(import_timeout)
        return
    with _lock:
        if _link is not None:
            if arguments != _arguments:
                raise ClusterError(
                    f"This server is connected to {_link.node.engine.address} with other arguments. Call "
                    "fastserverstate.cluster.disconnect() first."
                )
            return
        if _is_opening:
            raise ClusterError("A finalizer has called connect() while connect() was at work. It has done nothing.")
        _is_opening = True
        patience = timeout if import_timeout is None else import_timeout
        joined = False
        try:
            link = Link(store, url, namespace=namespace, secret=secret, timeout=timeout)
            try:
                joined = link.open(patience)
            finally:
                if not joined and required and import_timeout is None:
                    link.close()
        finally:
            _is_opening = False
        if joined or not required or import_timeout is not None:
            _arguments, _link = arguments, link
            bridge.publish(_metrics)
    if not joined and required:
        raise link.unreachable(patience)
    if not joined:
        logger.warning("%s This server works by itself until it can be reached.", link.unreachable(patience))


def disconnect() -> None:
    """Go on alone, with what this server has. Harmless if it is not connected.

    Thread-safety
        Safe from any thread. Locks that are held then are free for the other servers within 10 seconds.

    >>> from fastserverstate import cluster
    >>> cluster.disconnect()
    """
    global _link
    with _lock:
        link, _link = _link, None
        if link is not None:
            link.close()


def status() -> Status | None:
    """How this server stands to the engine, as far as it knows without asking; None if ``connect`` was not called.

    Thread-safety
        Safe from any thread.

    >>> from fastserverstate import cluster
    >>> cluster.status() is None
    True
    """
    link = _link
    return None if link is None else link.node.status()


def _figures() -> list[Figure]:
    now = status()
    return [] if now is None else cluster_figures(now)


_metrics = Metrics(CLUSTER_NAMES, _figures)


def sync() -> None:
    """Wait until this server has all that was written anywhere before this call.

    A read after it is linearizable. Harmless if ``connect`` was not called.

    Thread-safety
        Safe from any thread.

    Raises
        ``NotConnectedError`` if the engine is not reached in time.

    >>> from fastserverstate import cluster
    >>> cluster.sync()
    """
    link = _link
    if link is not None:
        link.sync()


def _forget() -> None:
    """In a forked process, which has no connection and an empty store."""
    global _link, _lock, _is_opening
    _link, _lock, _is_opening = None, threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
