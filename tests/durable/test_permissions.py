"""Only the owner of a state file and root may be able to write to it."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from types import SimpleNamespace

import pytest
from durable.processes import NOBODY

from fastserverstate.durable import permissions
from fastserverstate.durable.errors import DurabilityError, UnsafeFileError
from fastserverstate.durable.state_file import Row, StateFile, read_only

ME = os.geteuid()


def user(name, uid, gid):
    return SimpleNamespace(pw_name=name, pw_uid=uid, pw_gid=gid)


@pytest.fixture
def group(monkeypatch):
    """`group(members, users)` sets the members of every group, and the users of the system."""

    def set_members(members, users):
        monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name="staff", gr_mem=members))
        monkeypatch.setattr(pwd, "getpwall", lambda: users)

    return set_members


@pytest.fixture
def filled(path):
    file = StateFile.open(path, sync=False)
    file.write([Row("k", b"i1", 1, 1, None)], 1)
    file.close()
    return path


def give_away(place, monkeypatch):
    """Let the file or folder belong to another user."""
    if ME == 0:
        os.chown(place, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: ME + 1)


@pytest.mark.parametrize("place", ["state.db", "."])
@pytest.mark.parametrize(("mode", "who"), [(0o722, "All users"), (0o720, "The users of the group staff")])
def test_other_users_may_not_write(filled, group, place, mode, who):
    group(["ada"], [user("me", ME, 1), user("ada", ME + 1, 1)])
    target = (filled.parent / place).resolve()
    target.chmod(mode)
    for use in (StateFile.open, lambda path: read_only(path).__enter__()):
        with pytest.raises(UnsafeFileError) as caught:
            use(filled)
        assert str(caught.value).startswith(f"{who} can write to {target}.")
        way_out = "o-w" if mode & stat.S_IWOTH else "g-w"
        assert str(caught.value).endswith(f"Take the permission away: chmod {way_out} {target}")
        assert isinstance(caught.value, DurabilityError)
    target.chmod(mode & 0o755)
    StateFile.open(filled).close()


@pytest.mark.parametrize("name", ["state.db-wal", "state.db-shm", "state.db-journal", "state.db.lock"])
def test_companions_are_checked(path, name):
    companion = path.with_name(name)
    companion.touch()
    companion.chmod(0o602)
    with pytest.raises(UnsafeFileError, match=f"chmod o-w {companion}"):
        StateFile.open(path)
    companion.unlink()
    companion.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        StateFile.open(path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("members", "users", "is_private"),
    [
        ([], [user("me", ME, 7)], True),
        (["me"], [user("me", ME, 8)], True),
        (["me", "root"], [user("me", ME, 7), user("root", 0, 0)], True),
        ([], [user("me", ME, 8)], False),
        (["ada"], [user("me", ME, 7), user("ada", ME + 1, 9)], False),
        ([], [user("me", ME, 7), user("ada", ME + 1, 7)], False),
        (["me", "unknown"], [user("me", ME, 7)], False),
    ],
    ids=["primary", "listed", "with root", "no members", "listed other", "primary of other", "unknown member"],
)
def test_private_group_may_write(filled, group, members, users, is_private):
    group(members, users)
    os.chown(filled, -1, os.getegid())
    filled.chmod(0o660)
    filled.parent.chmod(0o770)
    assert permissions._is_private_group(7) == is_private
    if not is_private:
        with pytest.raises(UnsafeFileError, match="group"):
            StateFile.open(filled)
        return
    monkey = [user(one.pw_name, one.pw_uid, os.getegid() if one.pw_gid == 7 else one.pw_gid) for one in users]
    group(members, monkey)
    StateFile.open(filled).close()


def test_access_list_can_let_others_write(filled, group, monkeypatch):
    group([], [user("me", ME, os.getegid())])
    os.chown(filled, -1, os.getegid())
    lists = {}
    monkeypatch.setattr(os, "listxattr", lambda place: lists.get(place, []), raising=False)
    monkeypatch.setattr(permissions.sys, "platform", "linux")
    lists[filled] = ["system.posix_acl_access"]
    StateFile.open(filled).close()  # its mask lets no other user write
    filled.chmod(0o660)
    with pytest.raises(UnsafeFileError, match=f"setfacl -b {filled}"):
        StateFile.open(filled)
    lists.clear()
    StateFile.open(filled).close()


def test_file_system_without_access_lists(filled, group, monkeypatch):
    group([], [user("me", ME, os.getegid())])
    os.chown(filled, -1, os.getegid())
    filled.chmod(0o660)
    monkeypatch.setattr(permissions.sys, "platform", "linux")
    for code in (errno.ENOTSUP, errno.EIO):

        def fail(_, code=code):
            raise OSError(code, "message")

        monkeypatch.setattr(os, "listxattr", fail, raising=False)
        if code == errno.ENOTSUP:
            StateFile.open(filled).close()
        else:
            with pytest.raises(OSError, match="message"):
                StateFile.open(filled)


def test_group_without_a_name_is_foreign():
    assert not permissions._is_private_group(2**31 - 5)


@pytest.mark.parametrize("place", ["state.db", "."])
def test_file_and_folder_of_another_user_are_refused(filled, monkeypatch, place):
    target = (filled.parent / place).resolve()
    give_away(target, monkeypatch)
    with pytest.raises(UnsafeFileError, match=rf"belongs to user .*chown {os.geteuid()} "):
        StateFile.open(filled)


def test_sticky_folder_is_fine_for_own_files(filled):
    filled.parent.chmod(0o1777)
    StateFile.open(filled).close()


def test_file_of_another_user_in_a_sticky_folder(filled, monkeypatch):
    filled.parent.chmod(0o1777)
    give_away(filled, monkeypatch)
    with pytest.raises(UnsafeFileError, match="belongs to"):
        StateFile.open(filled)


def test_link_is_followed(filled, tmp_path, opened):
    folder = tmp_path / "links"
    folder.mkdir()
    link = folder / "link.db"
    link.symlink_to("../state.db")
    file = opened(link)
    assert file.path == filled.resolve()
    assert [row.key for row in file.rows()] == ["k"]
    assert list(folder.iterdir()) == [link]


@pytest.mark.usefixtures("filled")
def test_link_in_a_folder_where_others_write_is_refused(tmp_path):
    """They could replace the link."""
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "link.db").symlink_to("../state.db")
    (tmp_path / "second.db").symlink_to("links/link.db")
    folder.chmod(0o777)
    with pytest.raises(UnsafeFileError, match=f"chmod o-w {folder}"):
        StateFile.open(tmp_path / "second.db")


def test_link_to_itself(tmp_path):
    (tmp_path / "a.db").symlink_to("b.db")
    (tmp_path / "b.db").symlink_to("a.db")
    with pytest.raises(OSError, match="too many symbolic links"):
        StateFile.open(tmp_path / "a.db")


def test_dangling_link_creates_its_target(tmp_path, opened):
    (tmp_path / "link.db").symlink_to("target.db")
    assert opened(tmp_path / "link.db").path == (tmp_path / "target.db").resolve()


def test_second_name_is_refused(filled):
    os.link(filled, filled.with_name("other.db"))
    with pytest.raises(UnsafeFileError, match=r"2 names \(hard links\)"):
        StateFile.open(filled)


def test_folder_instead_of_file(path):
    path.mkdir()
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        StateFile.open(path)
