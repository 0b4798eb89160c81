"""What the cluster layer raises. Each says whether the write in question happened."""

from __future__ import annotations

from fastserverstate.errors import FastServerStateError


class ClusterError(FastServerStateError):
    """Base class of what can go wrong between this server and the others."""


class NotConnectedError(ClusterError, ConnectionError):
    """There is no connection to the engine. Nothing was written."""


class NotWrittenError(ClusterError):
    """The write did not happen."""


class UnknownOutcomeError(ClusterError, TimeoutError):
    """It is not known whether the write happened: the engine was reached, and did not answer in time, or failed midway.

    If it did happen, all servers show it as soon as they reach the engine again.
    """


class LockLostError(NotWrittenError):
    """The lock expired and may belong to another holder. The write under it did not happen."""


class UnsharableValueError(NotWrittenError, TypeError):
    """The value cannot be sent to other servers. The write did not happen."""


class UnreadableValueError(ClusterError, ValueError):
    """A value that another server has sent cannot be read here."""
