"""The errors of the cluster layer. Each says whether the write happened."""

from __future__ import annotations

from fastserverstate.errors import FastServerStateError


class ClusterError(FastServerStateError):
    """Base class of the errors of a state that several servers share."""


class NotConnectedError(ClusterError, ConnectionError):
    """There is no connection to the Redis server. Nothing was written."""


class NotWrittenError(ClusterError):
    """The write did not happen."""


class UnknownOutcomeError(ClusterError, TimeoutError):
    """It is not known whether the write happened: the Redis server did not reply in time, or failed midway.

    If the write happened, all servers show it as soon as they reach the Redis server again.
    """


class LockLostError(NotWrittenError):
    """The lock expired, and another holder may have it. The write under the lock did not happen."""


class UnsharableValueError(NotWrittenError, TypeError):
    """The value cannot be sent to other servers. The write did not happen."""
