"""The errors of state that is kept in a file."""

from __future__ import annotations

from fastserverstate.errors import FastServerStateError


class DurabilityError(FastServerStateError):
    """Base class of the errors of state that is kept in a file."""


class FileInUseError(DurabilityError):
    """Another process, or this one, has opened the state file. The message names it."""


class UnsafeFileError(DurabilityError, PermissionError):
    """Other users can write to the state file or its folder. The message names the way out."""


class NotDurableError(DurabilityError):
    """With ``durability="always"``: the write took effect in memory, but could not be stored yet. It is retried."""
