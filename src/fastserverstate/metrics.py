"""Metrics of this process for Streamlit's endpoint, /_stcore/metrics, in the terms of OpenMetrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fastserverstate.cluster.node import Status
    from fastserverstate.durable.engine import Status as DurableStatus

_Kind = Literal["gauge", "counter"]


@dataclass(frozen=True)
class Figure:
    """One metric. The name of a metric with a unit ends with the unit."""

    name: str
    kind: _Kind
    help: str
    value: float
    unit: str = ""
    labels: dict[str, str] = field(default_factory=dict)


# Name (after the group's prefix), kind, unit and help.
_Rows = tuple[tuple[str, _Kind, str, str], ...]

_CLUSTER: _Rows = (
    ("connected", "gauge", "", "Whether this server is connected to Redis or Valkey."),
    ("age_seconds", "gauge", "seconds", "Time since this server was last known to be up to date."),
    ("cursor_epoch", "gauge", "", "Epoch of the last change that was applied."),
    ("cursor_seq", "gauge", "", "Sequence number, within its epoch, of the last change that was applied."),
    ("lag", "gauge", "", "Known changes that were not applied yet."),
    ("held", "gauge", "", "Keys whose newest change waits until a lock on this server is released."),
    ("resyncs", "counter", "", "How often this server compared all versions with those of Redis or Valkey."),
    ("outages", "counter", "", "How often the connection was lost."),
    ("sent_bytes", "counter", "bytes", "Bytes of values that this server has sent."),
    ("received_bytes", "counter", "bytes", "Bytes of values that this server has received."),
    ("errors", "counter", "", "Connection failures, and operations that were given up."),
    ("unreadable", "counter", "", "Values that could not be decoded."),
    ("malformed", "counter", "", "Malformed entries that were skipped."),
)
_CLUSTER_PREFIX = "fastserverstate_cluster_"

_REMOVED: _Rows = (
    ("expired_keys", "counter", "", "Keys that were deleted at their deadline."),
    ("evicted_keys", "counter", "", "Keys that were deleted to make room."),
)
_REMOVED_PREFIX = "fastserverstate_"

_DURABLE: _Rows = (
    ("failing", "gauge", "", "Whether the last commit has failed."),
    ("pending", "gauge", "", "Keys whose newest change is not stored yet."),
    ("pending_seconds", "gauge", "seconds", "Time since the last commit while keys are pending, 0 otherwise."),
    ("commits", "counter", "", "Batches of changes that were stored."),
    ("failures", "counter", "", "Commits that have failed."),
    ("stored", "counter", "", "Changes of keys that were stored."),
    ("unencodable", "gauge", "", "Keys whose values cannot be stored."),
)
_DURABLE_PREFIX = "fastserverstate_durable_"

CLUSTER_NAMES = tuple(_CLUSTER_PREFIX + name for name, *_ in _CLUSTER)
REMOVED_NAMES = tuple(_REMOVED_PREFIX + name for name, *_ in _REMOVED)
DURABLE_NAMES = tuple(_DURABLE_PREFIX + name for name, *_ in _DURABLE)


def _figures(prefix: str, rows: _Rows, values: dict[str, float], labels: dict[str, str]) -> list[Figure]:
    return [Figure(prefix + name, kind, text, float(values[name]), unit, labels) for name, kind, unit, text in rows]


def removed_figures(expired: int, evicted: int) -> list[Figure]:
    return _figures(_REMOVED_PREFIX, _REMOVED, {"expired_keys": expired, "evicted_keys": evicted}, {})


def durable_figures(status: DurableStatus) -> list[Figure]:
    values = {
        "failing": status.error is not None,
        "pending": status.pending,
        "pending_seconds": status.oldest_pending,
        "commits": status.commits,
        "failures": status.failures,
        "stored": status.stored,
        "unencodable": len(status.unencodable),
    }
    return _figures(_DURABLE_PREFIX, _DURABLE, values, {"file": status.path.name})


def cluster_figures(status: Status) -> list[Figure]:
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
    return _figures(_CLUSTER_PREFIX, _CLUSTER, values, {"namespace": status.namespace})
