"""What the cluster layer raises. Each says whether the write in question happened."""

from __future__ import annotations

from collections.abc import Sequence

from fastserverstate.errors import FastServerStateError


class ClusterError(FastServerStateError):
    """Base class of what can go wrong between this server and the others."""


class NotConnectedError(ClusterError, ConnectionError):
    """There is no connection to the engine. Nothing was written."""


class NotWrittenError(ClusterError):
    """The write did not happen."""


class UnknownOutcomeError(ClusterError, TimeoutError):
    """It is not known whether the write happened: the engine was reached, and did not answer in time.

    If it did happen, all servers show it as soon as they reach the engine again.
    """


class LockLostError(NotWrittenError):
    """The engine has given the lock to somebody else, or lost it. The write under it did not happen."""


class UnsharableValueError(NotWrittenError, TypeError):
    """The value cannot be sent to other servers. The write did not happen."""


class UnreadableValueError(ClusterError, ValueError):
    """A value that another server has sent cannot be read here."""


class CircleError(ClusterError):
    """Owners of locks wait for each other. Nothing was written."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"Waiting for the lock of {keys[0]!r} would never end.")
        self.keys = tuple(keys)
