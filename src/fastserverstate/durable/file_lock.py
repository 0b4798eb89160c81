"""A lock file, which tells other processes who has opened the state file.

The system releases the lock when the process dies. A forked child shares it until it closes its copy of the descriptor.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

from fastserverstate.durable.errors import FileInUseError
from fastserverstate.durable.permissions import check_file

_LONGEST_COMMAND = 200
_LOCKED_BYTE = 2**30  # on Windows, other processes cannot read locked bytes, so the lock is beyond the content


class FileLock:
    """The lock of a state file, held from the creation of the object until `release`.

    Thread-safety
        For one thread at a time.
    """

    def __init__(self, state_file: Path) -> None:
        self._path = state_file.with_name(f"{state_file.name}.lock")
        while True:
            check_file(self._path)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self._path, flags, 0o600)
            try:
                self._lock(state_file)
                if self._is_in_place():
                    self._write()
                    return
            except BaseException:
                os.close(self._descriptor)
                raise
            os.close(self._descriptor)  # the last holder has deleted the file in between

    def _lock(self, state_file: Path) -> None:
        if not _try_lock(self._descriptor):
            raise _in_use(state_file, self._read())

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def _write(self) -> None:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(shlex.join(sys.orig_argv).split())[:_LONGEST_COMMAND],
        }
        os.truncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, json.dumps(holder).encode())

    def _read(self) -> dict[str, Any]:
        """Return what the holder has written; nothing if it has only begun to."""
        try:
            holder = json.loads(os.read(self._descriptor, 10_000))
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def release(self) -> None:
        if sys.platform != "win32":  # where an open file cannot be deleted
            with contextlib.suppress(FileNotFoundError):
                if self._is_in_place():
                    self._path.unlink()
        os.close(self._descriptor)

    def abandon(self) -> None:
        """In a forked child: leave the lock to the parent process."""
        os.close(self._descriptor)


def _in_use(state_file: Path, holder: dict[str, Any]) -> FileInUseError:
    if holder.get("pid") == os.getpid() and holder.get("host") == socket.gethostname():
        return FileInUseError(f"{state_file} is already open in this process, since {holder.get('since')}.")
    who = "another process"
    if {"pid", "host", "since", "command"} <= holder.keys():
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']} ({holder['command']})"
    return FileInUseError(
        f"{state_file} is in use by {who}. A state file belongs to one process. To share state between processes, use "
        'Redis: connect("redis://...").'
    )


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
