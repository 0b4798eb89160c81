"""A server's standing as figures of Streamlit's metrics endpoint, /_stcore/metrics."""

from __future__ import annotations

from typing import Literal

from fastserverstate.cluster.node import Status
from fastserverstate.stats import Figure

_Kind = Literal["gauge", "counter"]

# Name (after the common prefix), kind, unit and help. Counters end with their unit, too.
_FIGURES: tuple[tuple[str, _Kind, str, str], ...] = (
    ("connected", "gauge", "", "Whether this server is connected to the engine."),
    ("age_seconds", "gauge", "seconds", "Time since this server last knew to be up to date."),
    ("cursor_epoch", "gauge", "", "Epoch of the last change that was brought in."),
    ("cursor_seq", "gauge", "", "Number, in its epoch, of the last change that was brought in."),
    ("lag", "gauge", "", "Changes that the engine is known to have beyond the cursor."),
    ("held", "gauge", "", "Keys whose newest change waits for a lock of this server."),
    ("resyncs", "counter", "", "How often all versions were compared with the engine's."),
    ("outages", "counter", "", "How often the connection was lost."),
    ("sent_bytes", "counter", "bytes", "Values sent to the engine."),
    ("received_bytes", "counter", "bytes", "Values of others that were brought in."),
    ("errors", "counter", "", "Failures of the connection, and operations that were given up."),
    ("unreadable", "counter", "", "Values that could not be decoded."),
    ("malformed", "counter", "", "What else on the engine is not of this package's making, and was skipped."),
)
_PREFIX = "fastserverstate_cluster_"

NAMES = tuple(_PREFIX + name for name, *_ in _FIGURES)


def figures(status: Status) -> list[Figure]:
    epoch, _, seq = status.cursor.partition("-")
    values = {
        "connected": status.connected,
        "age_seconds": status.age,
        "cursor_epoch": int(epoch),
        "cursor_seq": int(seq),
        "lag": status.lag,
        "held": status.held,
        "resyncs": status.resyncs,
        "outages": status.outages,
        "sent_bytes": status.bytes_sent,
        "received_bytes": status.bytes_received,
        "errors": status.errors,
        "unreadable": status.unreadable,
        "malformed": status.malformed,
    }
    labels = {"namespace": status.namespace}
    return [
        Figure(_PREFIX + name, kind, text, float(values[name]), unit, labels) for name, kind, unit, text in _FIGURES
    ]
