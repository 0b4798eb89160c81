"""Which users can write to a state file: only its owner and root may.

A state file can hold pickles, so a user who can change it can run code as the user who loads it.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
import sys
from pathlib import Path

from fastserverstate.durable.errors import UnsafeFileError

_MOST_LINKS = 40


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return the path without symbolic links. Raises UnsafeFileError if other users can redirect it.

    The folder of every link to the file is checked, too: a user who can write there can replace the link.
    """
    place = Path(os.path.abspath(path))
    for _ in range(_MOST_LINKS):
        _check_folder(place.parent)
        if not place.is_symlink():
            return Path(os.path.realpath(place.parent)) / place.name
        _check_owner(place, place.lstat())
        place = Path(os.path.abspath(place.parent / place.readlink()))
    raise OSError(f"{path} leads through too many symbolic links.")


def check_file(place: Path) -> None:
    """Raise UnsafeFileError if users other than the owner and root can write to the file. It may be missing."""
    try:
        found = place.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFileError(f"{place} is not a regular file, so it cannot be part of a state file.")
    if sys.platform == "win32":
        return
    _check_owner(place, found)
    if found.st_nlink > 1:
        raise UnsafeFileError(
            f"{place} has {found.st_nlink} names (hard links), so two processes could open it at once. Make a copy and "
            "use that."
        )
    _check_mode(place, found)


def _check_folder(folder: Path) -> None:
    found = folder.stat()
    if sys.platform == "win32":
        return
    _check_owner(folder, found)
    if not found.st_mode & stat.S_ISVTX:  # in a sticky folder, users cannot replace the files of others
        _check_mode(folder, found)


def _check_owner(place: Path, found: os.stat_result) -> None:
    if sys.platform == "win32" or found.st_uid in {os.geteuid(), 0}:
        return
    raise UnsafeFileError(
        f"{place} belongs to {_user_name(found.st_uid)}, but this process runs as {_user_name(os.geteuid())}. A user "
        "who can change a state file can run code in the process that loads it. Use a file in a folder of your own, or "
        f"change the owner: chown {os.geteuid()} {shlex.quote(str(place))}"
    )


def _check_mode(place: Path, found: os.stat_result) -> None:
    if found.st_mode & stat.S_IWOTH:
        who, way_out = "All users", "o-w"
    elif found.st_mode & stat.S_IWGRP and _has_access_list(place):  # whose mask the bits of the group are
        raise UnsafeFileError(
            f"The access control list of {place} can let other users write. A user who can change a state file can run "
            f"code in the process that loads it. Remove the list: setfacl -b {shlex.quote(str(place))}"
        )
    elif found.st_mode & stat.S_IWGRP and not _is_private_group(found.st_gid):
        who, way_out = f"The users of the group {_group_name(found.st_gid)}", "g-w"
    else:
        return
    raise UnsafeFileError(
        f"{who} can write to {place}. A user who can change a state file can run code in the process that loads it. "
        f"Take the permission away: chmod {way_out} {shlex.quote(str(place))}"
    )


def _has_access_list(place: Path) -> bool:
    if sys.platform != "linux":
        return False
    try:
        return "system.posix_acl_access" in os.listxattr(place)
    except OSError as error:
        if error.errno == errno.ENOTSUP:  # by the file system
            return False
        raise


def _is_private_group(gid: int) -> bool:
    """Return True if the group has members, and all are the user of this process or root.

    Many systems give each user a group of their own, and a umask that lets the group write. A group without any member
    counts as foreign: programs that set their group id use such groups.
    """
    if sys.platform == "win32":
        return True
    import grp  # noqa: PLC0415
    import pwd  # noqa: PLC0415

    try:
        names = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return False
    users = pwd.getpwall()
    members = {user.pw_uid for user in users if user.pw_gid == gid or user.pw_name in names}
    known = {user.pw_name for user in users}
    return names <= known and bool(members) and members <= {os.geteuid(), 0}


def _user_name(uid: int) -> str:
    if sys.platform == "win32":
        return str(uid)
    import pwd  # noqa: PLC0415

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _group_name(gid: int) -> str:
    if sys.platform == "win32":
        return str(gid)
    import grp  # noqa: PLC0415

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
