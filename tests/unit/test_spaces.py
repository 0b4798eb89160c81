"""`space` and `user_state`: namespaces for the keys under a prefix."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from unit.helpers import ThreadSet, elsewhere, enter, leave

from fastserverstate import FastServerStateError, NotLoggedInError, _core
from fastserverstate.spaces import KEPT_SPACES, Space, Spaces

ANN = {"sub": "17", "iss": "https://accounts.example.com", "is_logged_in": True}


class User:
    """Who is logged in on this thread."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def set(self, user: Mapping[str, Any] | None) -> None:
        self._of_thread.user = user

    def get(self) -> Mapping[str, Any] | None:
        return getattr(self._of_thread, "user", None)


@pytest.fixture
def user() -> User:
    return User()


@pytest.fixture
def spaces(store: _core.Store, user: User) -> Spaces:
    return Spaces(store, user.get)


@pytest.fixture
def room(spaces: Spaces) -> Space:
    return spaces.space("room/7")


def run(session: _core.Session, script: Any) -> None:
    session.start_run()
    enter(session)
    script()
    leave()
    session.finish_run([None])


# The mapping


def test_keys_are_ordinary_keys(state, room):
    room["a"] = 1
    room.b = 2
    state["room/7/c"] = 3
    assert dict(state) == {"room/7/a": 1, "room/7/b": 2, "room/7/c": 3}
    assert (room.a, room["b"], room.get("c"), room.get("d"), room.get("d", 4)) == (1, 2, 3, None, 4)
    del room["a"], room.b
    assert dict(state) == {"room/7/c": 3}


def test_iteration_is_over_the_names_in_this_space(state, room):
    state.update({"x": 1, "room/77/x": 1, "room/7": 1, "room/7/b": 1, "room/7/a": 2, "room/7/sub/c": 3})
    assert list(room) == ["b", "a", "sub/c"]
    assert (len(room), len(room.keys()), bool(room)) == (3, 3, True)
    assert list(room.keys()) == ["b", "a", "sub/c"]
    assert list(room.values()) == [1, 2, 3]
    assert list(room.items()) == [("b", 1), ("a", 2), ("sub/c", 3)]
    assert room.to_dict() == dict(room) == {**room} == {"b": 1, "a": 2, "sub/c": 3}
    assert room == {"b": 1, "a": 2, "sub/c": 3}
    assert 2 in room.values()
    assert ("a", 2) in room.items()
    assert "a" in room
    assert "x" not in room
    assert 7 not in room
    assert repr(room) == "<space('room/7'): b, a, sub/c>"


def test_the_methods_of_a_dict(state, room):
    assert room.setdefault("a", 1) == 1
    assert room.setdefault("a", 2) == 1
    room.update(b=2, c=3)
    assert room.pop("a") == 1
    assert room.pop("a", 0) == 0
    assert room.popitem() == ("b", 2)
    room.update({"d": 4})
    assert room.to_dict() == {"c": 3, "d": 4}
    state["other"] = 5
    room.clear()
    assert dict(state) == {"other": 5}


@pytest.mark.parametrize("name", ["\xe9", "名", "\U0001f600", "", "/", "a/b", " ", "0", "__x__", "key", "lock", "get"])
def test_any_name_is_an_item(state, room, name):
    room[name] = 1
    assert room[name] == state[f"room/7/{name}"] == 1
    assert list(room) == [name]
    assert name in room
    assert room.pop(name) == 1
    assert not room


class Name(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise AssertionError("called")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("called")


def test_names_of_subclasses_of_str_count_as_their_text(state, room):
    name = Name("a")
    room[name] = 1
    assert (room[name], room.get(name), room.setdefault(name, 2), name in room) == (1, 1, 1, True)
    assert type(next(iter(state))) is str
    assert room.key(name) == "room/7/a"
    del room[name]
    assert room.pop(name, None) is None


def test_methods_win_in_attribute_access(room):
    room["keys"] = 1
    room["key"] = 2
    assert callable(room.keys)
    assert room.key("a") == "room/7/a"
    assert room["keys"] == 1
    with pytest.raises(AttributeError, match=r"'lock' is a method of space\('room/7'\)"):
        room.lock = 1
    with pytest.raises(AttributeError, match=r"Use space\('room/7'\)\['keys'\]"):
        del room.keys
    with pytest.raises(AttributeError):
        room.__other__  # noqa: B018


def test_missing_keys(room):
    with pytest.raises(KeyError, match=r"space\('room/7'\) has no key 'a'. Did you forget to initialize it\?"):
        room["a"]
    with pytest.raises(AttributeError, match=r"space\('room/7'\)\.setdefault\('a', \.\.\.\)") as caught:
        room.a  # noqa: B018
    assert caught.value.name == "a"
    assert caught.value.obj is room
    assert not hasattr(room, "a")
    for deletion, error in ((room.__delitem__, KeyError), (room.__delattr__, AttributeError), (room.pop, KeyError)):
        with pytest.raises(error, match=r"space\('room/7'\)\.pop\('a', None\)"):
            deletion("a")
    with pytest.raises(KeyError, match=r"space\('room/7'\) is empty"):
        room.popitem()
    with pytest.raises(TypeError, match="at most 2"):
        room.pop("a", 1, 2)


@pytest.mark.parametrize("key", [7, None, b"a", ("a", "b")])
def test_names_of_keys_are_text(room, key):
    for access in (room.__getitem__, room.__delitem__, room.get, room.setdefault, room.pop, room.key):
        with pytest.raises(TypeError, match="of type str"):
            access(key)
    with pytest.raises(TypeError, match="of type str"):
        room[key] = 1


def test_a_space_is_neither_called_nor_copied(room):
    with pytest.raises(TypeError, match=r"space\('room/7'\) is not called"):
        room("a")
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"space\('room/7'\) belongs to this process"):
            function(room)


def test_dir_has_names_and_methods(room):
    room.a = 1
    assert {"a", "get", "lock", "key"} <= set(dir(room))


@pytest.mark.parametrize("name", ["", "/", "a/", "/a", "//", "\0fss", "\0fss/online"])
def test_names_of_spaces(spaces, name):
    with pytest.raises(ValueError, match=r"has no valid name"):
        spaces.space(name)


@pytest.mark.parametrize("name", [7, None, b"room"])
def test_names_of_spaces_are_text(spaces, name):
    with pytest.raises(TypeError, match="The name of a space is a str"):
        spaces.space(name)


def test_a_space_inside_of_a_space(spaces, room):
    spaces.space("room/7/x").a = 1
    assert list(room) == ["x/a"]


def test_objects_are_kept_and_bounded(spaces, room):
    assert spaces.space(Name("room/7")) is room
    for number in range(2 * KEPT_SPACES):
        spaces.space(f"other/{number}")
    again = spaces.space("room/7")
    assert again is not room
    room.a = 1
    assert again == room


def test_more_names_than_are_remembered(state, room):
    for number in range(1000):
        room[f"n{number}"] = number
    assert [room[f"n{number}"] for number in range(1000)] == list(range(1000))
    assert len(state) == 1000


# Subscriptions


def test_iteration_depends_on_this_space_only(store, state, spaces, room):
    session = _core.Session(store)
    for count in (len, list, dict, lambda room: room.to_dict(), lambda room: room.items()):
        run(session, lambda count=count: list(count(room)) if count is not len else len(room))
        state["other"] = 1
        spaces.space("room/8").a = 1
        spaces.space("room/77").a = 1
        assert not store.collect_stale()
        room.a = 1
        assert [scope.session for scope in store.collect_stale()] == [session]
        spaces.space("room/8").clear()
        room.clear()


def test_reads_depend_on_their_key(store, room):
    session = _core.Session(store)
    for read in (lambda: room.get("a"), lambda: "a" in room, lambda: hasattr(room, "a")):
        run(session, read)
        room.b = 1
        assert not store.collect_stale()
        room.a = 1
        assert len(store.collect_stale()) == 1
        room.clear()


def test_clear_reruns_once_and_is_atomic(store, room):
    session = _core.Session(store)
    wakes: list[int] = []
    for number in range(10):
        room[f"n{number}"] = number
    run(session, lambda: [room.get(name) for name in room])
    store.on_stale(lambda: wakes.append(len(room)))
    room.clear()
    assert wakes == [0]
    assert len(store.collect_stale()) == 1
    store.on_stale(None)
    room.clear()


def test_clear_subscribes_to_nothing(store, room, session):
    room.update(a=1, b=2)
    room.clear()
    session.finish_run([None])
    leave()
    room.c = 1
    assert not store.collect_stale()


def test_clear_in_a_transaction(transaction, room):
    room.update(a=1, b=2)

    def fail() -> None:
        with transaction():
            room.c = 3
            room.clear()
            assert list(room) == []
            assert len(room) == 0
            room.d = 4
            assert list(room) == ["d"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert room.to_dict() == {"a": 1, "b": 2}
    with transaction():
        room.c = 3
        room.clear()
    assert not room


def test_clear_waits_for_locks_and_clears_what_was_added_meanwhile(room):
    room.update(a=1, b=2)
    with ThreadSet() as threads, room.lock["a"]:
        threads.add(room.clear)
        threads.go()
        room.c = 3
        assert room.a == 1
    assert not room


def test_other_threads_see_all_or_nothing(room):
    names = [f"n{number}" for number in range(20)]
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(len(room))

    def change(transaction: Any) -> None:
        for _ in range(200):
            with transaction():
                room.update(dict.fromkeys(names, 1))
            room.clear()
        done.set()

    with ThreadSet() as threads:
        threads.add(look)
        threads.add(look)
        threads.add(change, lambda: room._store.transaction((), None))
    assert seen <= {0, 20}


def test_threads_that_clear_and_write(room):
    """No deadlock, and nothing is left after the last clear."""

    def clear() -> None:
        for _ in range(200):
            room.clear()

    def write(start: int) -> None:
        for number in range(200):
            room[f"n{(start + number) % 20}"] = number

    with ThreadSet() as threads:
        threads.add(clear)
        threads.add(clear)
        threads.add(write, 0)
        threads.add(write, 10)
    room.clear()
    assert not room


# Functions that take keys


def test_locks(store, room):
    assert room.lock.a is room.lock["a"] is store.lock("room/7/a")
    with room.lock["a", "b"]:
        assert store.lock("room/7/b").locked()
        assert elsewhere(lambda: store.lock("room/7/a").acquire(blocking=False)) is False
    room.a = 1
    assert (list(room.lock), len(room.lock), "a" in room.lock, "b" in room.lock) == (["a"], 1, True, False)
    assert repr(room.lock) == "space('room/7').lock"


def test_misused_locks(room):
    with pytest.raises(AttributeError, match=r"Values belong in space\('room/7'\)\.a"):
        room.lock.a = 1
    with pytest.raises(TypeError, match=r"with space\('room/7'\)\.lock\['key'\]:"), room.lock:
        pass
    with pytest.raises(TypeError, match="of type str"):
        room.lock[7]
    with pytest.raises(TypeError, match=r"space\('room/7'\)\.lock belongs to this process"):
        pickle.dumps(room.lock)
    with pytest.raises(AttributeError):
        room.lock.__other__  # noqa: B018


def test_keys_for_other_functions(atomic, transaction, room, compare_and_set):
    atomic("room/7/a", lambda value: value + 1, default=1)
    assert atomic.increment(room.key("a")) == 3
    assert compare_and_set(room.key("a"), 3, 4)
    with transaction(room.key("a"), room.key("b")):
        room.a, room.b = 4, 5
    assert room.to_dict() == {"a": 4, "b": 5}


# The user's space


def test_the_user_is_looked_up_at_each_access(state, spaces, user):
    mine = spaces.user_state
    user.set(ANN)
    mine.theme = "dark"
    assert list(state) == ["user/https%3A%2F%2Faccounts.example.com%2317/theme"]
    assert mine.key("a") == "user/https%3A%2F%2Faccounts.example.com%2317/a"
    assert (mine.theme, mine["theme"], len(mine), list(mine)) == ("dark", "dark", 1, ["theme"])
    user.set({"email": "Bob/*[x]@example.com"})
    assert not mine
    assert mine.get("theme") is None
    mine.theme = "light"
    assert "user/bob%2F%2A%5Bx%5D@example.com/theme" in state
    assert repr(mine) == "<user_state: theme>"
    user.set(ANN)
    assert mine.theme == "dark"
    mine.clear()
    assert len(state) == 1


@pytest.mark.parametrize(
    "access",
    [
        lambda mine: mine.theme,
        lambda mine: mine["theme"],
        lambda mine: mine.get("theme"),
        lambda mine: mine.setdefault("theme", 1),
        lambda mine: mine.pop("theme", None),
        lambda mine: "theme" in mine,
        lambda mine: setattr(mine, "theme", 1),
        lambda mine: mine.update(theme=1),
        lambda mine: mine.key("theme"),
        lambda mine: mine.lock["theme"],
        list,
        len,
        bool,
        lambda mine: mine.to_dict(),
        lambda mine: mine.clear(),
    ],
)
def test_without_a_user(state, spaces, access):
    with pytest.raises(NotLoggedInError, match=r"st\.login\(\) .*space\(f'user/"):
        access(spaces.user_state)
    assert not state


def test_what_needs_no_user(spaces):
    assert repr(spaces.user_state) == "<user_state: no user is logged in>"
    assert "get" in dir(spaces.user_state)
    assert issubclass(NotLoggedInError, FastServerStateError)
    assert not isinstance(NotLoggedInError(), AttributeError)


def test_users_of_threads(spaces, user):
    user.set(ANN)
    spaces.user_state.a = 1
    with pytest.raises(NotLoggedInError):
        elsewhere(lambda: spaces.user_state.a)


def test_a_missing_key_of_the_user(spaces, user):
    user.set(ANN)
    with pytest.raises(AttributeError, match=r"user_state has no attribute 'theme'. Did you forget"):
        spaces.user_state.theme  # noqa: B018
