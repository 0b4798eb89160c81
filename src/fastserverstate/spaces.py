"""`space` and `user_state`: namespaces for the keys that begin with a prefix."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Never, SupportsIndex, overload
from urllib.parse import quote

from fastserverstate._core import (
    HIDDEN,
    KeyLock,
    KeyLocks,
    SpaceNamespace,
    Store,
    current_part,
    label_of,
    reserve_in_spaces,
)
from fastserverstate.computed_values import Dependent
from fastserverstate.errors import NotLoggedInError
from fastserverstate.state import StateViews
from fastserverstate.users import user_key

KEPT_SPACES = 256  # the objects of so many spaces are kept for the next call
KEPT_USERS = 4096


class SpaceLocks(Mapping[str, KeyLock]):
    """The locks of a space: ``space("room/7").lock["votes"]``."""

    __slots__ = ("_space", "_store")
    _space: Space
    _store: Store

    def __init__(self, store: Store, space: Space) -> None:
        object.__setattr__(self, "_store", store)
        object.__setattr__(self, "_space", space)

    @overload
    def __getitem__(self, name: str) -> KeyLock: ...
    @overload
    def __getitem__(self, name: tuple[str, ...]) -> KeyLocks: ...
    def __getitem__(self, name: Any) -> Any:
        if type(name) is tuple and name:
            return KeyLocks(self._store, [self._space.key(one) for one in name])
        return self._store.lock(self._space.key(name))

    def __getattr__(self, name: str) -> KeyLock:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: object) -> None:
        label = label_of(self._space)
        raise AttributeError(f"{label}.lock has locks, which cannot be set. Values belong in {label}.{name} = ...")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._store.version(self._space.key(name)) > 0

    def __iter__(self) -> Iterator[str]:
        prefix = self._space.key("")
        return iter([key[len(prefix) :] for key in self._store.keys(prefix=prefix)])

    def __len__(self) -> int:
        return len(self._store.keys(prefix=self._space.key("")))

    def __repr__(self) -> str:
        return f"{label_of(self._space)}.lock"

    def __enter__(self) -> Never:
        raise TypeError(f"A space has a lock for each key. Name the key: with {self!r}['key']:")

    def __exit__(self, *exc: object) -> None: ...

    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        raise TypeError(f"{self!r} belongs to this process and cannot be pickled or copied.")


class Space(SpaceNamespace, StateViews):
    """The keys of shared state that begin with the name of a space and ``/``, by the rest of their names.

    It has the item and attribute access of `server_state` and the methods of a ``dict``, but iteration, ``len``, and
    methods such as ``items`` concern this space only: a script run that iterates over it is not rerun by other keys.
    `space` and `user_state` return it.

    ``lock["votes"]`` is the lock of a key, and ``lock["a", "b"]`` takes several. ``key("votes")`` is the whole key, for
    functions that take a key, such as ``atomic.increment(room.key("votes"))``. ``clear()`` deletes all keys of the
    space in one transaction. Keys that are named like a method are read as items: ``room["key"]``.

    Thread-safety
        As `server_state`: every operation is atomic, and iteration uses a snapshot of the keys.

    Raises
        ``TypeError`` for a name that is not a ``str``, ``KeyError`` for a missing item, ``AttributeError`` for
        a missing attribute.

    >>> from fastserverstate import Space, atomic, server_state, space
    >>> room: Space = space("room/7")
    >>> room.votes = 1
    >>> atomic.increment(room.key("votes"))
    2
    >>> with room.lock["votes"]:
    ...     room["votes"] += 1
    >>> server_state["room/7/votes"], list(room)
    (3, ['votes'])
    >>> room.clear()
    """

    __slots__ = ()

    @property
    def lock(self) -> SpaceLocks:
        return SpaceLocks(self._store, self)

    def __call__(self, *_args: object, **_options: object) -> Never:
        label = label_of(self)
        raise TypeError(f"{label} is not called. Use brackets: {label}['key'].")

    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        label = label_of(self)
        raise TypeError(
            f"{label} belongs to this process and cannot be pickled or copied. Pass the values that are needed, or "
            f"{label}.to_dict()."
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        return f"<{label_of(self)}: {', '.join(self)}>"


reserve_in_spaces(dir(Space))


class UserSpace(Space):
    """The space of the user who is logged in with ``st.login()``, looked up at each access.

    It has the API of a `Space`. All sessions of a user share it, also on other devices. A user is identified by
    the id that the identity provider gives or, without one, by the email address: a key is ``"user/<id>/theme"``.

    `@computed` and `@live` functions cannot use it, because their results are for all sessions. Background threads, and
    apps with a login of their own, use ``space(f"user/{name}")``.

    Thread-safety
        As `server_state`. The user is that of the script run that the thread takes part in.

    Raises
        `NotLoggedInError` if no user is logged in, or the thread takes part in no script run.

    >>> from fastserverstate import NotLoggedInError, user_state
    >>> try:
    ...     user_state.get("theme")
    ... except NotLoggedInError:
    ...     print("no user is logged in")
    no user is logged in
    """

    __slots__ = ()

    def __dir__(self) -> list[str]:
        try:
            return super().__dir__()
        except NotLoggedInError:
            return list(object.__dir__(self))

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except NotLoggedInError:
            return f"<{label_of(self)}: no user is logged in>"


class Spaces:
    """The spaces of a store.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, user_of_run: Callable[[], Mapping[str, Any] | None]) -> None:
        self._user_of_run = user_of_run
        self._find_or_make = functools.lru_cache(KEPT_SPACES)(functools.partial(_make_space, store))
        self.user_state = UserSpace(store, "user_state", None, self._prefix_of_user)

    def space(self, name: str) -> Space:
        """Return a namespace for the keys that begin with `name` and ``/``: the state of a room, a team or a user.

        ``space("room/7").votes`` is the key ``"room/7/votes"`` of `server_state`, so that everything that takes a key
        or a pattern works with it. Call it in every run: it costs less than a read.

        Thread-safety
            Safe from any thread.

        Raises
            ``TypeError`` if the name is not a ``str``, ``ValueError`` if it is empty, or begins or ends with ``/``.

        >>> from fastserverstate import configure, space
        >>> room = space("room/7")
        >>> room.topic = "Lunch"
        >>> room.to_dict()
        {'topic': 'Lunch'}
        >>> configure(room.key("*"), ttl="8h")
        >>> room.clear()
        """
        if type(name) is not str:
            name = _checked_name(name)
        return self._find_or_make(name)

    def _prefix_of_user(self) -> str:
        part = current_part()
        if part is not None and isinstance(part[0], Dependent):
            part[0].refuse("user_state")
        user = self._user_of_run()
        if user is None:
            raise NotLoggedInError(
                "user_state is the state of the user who is logged in, and no user is logged in here. Call st.login() "
                "first, and use user_state in the script: `if st.user.is_logged_in:`. A thread of your own, and an app "
                "with a login of its own, name the user: space(f'user/{name}')."
            )
        return _prefix_of_user(user_key(user))


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(
            f"The name of a space is a str, not {name!r} of type {type(name).__qualname__}. Make a str of it: "
            "space(f'room/{number}')."
        )
    return str.__str__(name)


def _make_space(store: Store, name: str) -> Space:
    label = f"space({name!r})"
    if not name or name != name.strip("/"):
        raise ValueError(
            f"{label} has no valid name. A name is not empty, and does not begin or end with '/': space('room/7')."
        )
    prefix = f"{name}/"
    if prefix.startswith(HIDDEN):
        raise ValueError(f"{label} has no valid name. Names do not begin with {HIDDEN[:-1]!r}.")
    return Space(store, label, prefix)


@functools.lru_cache(KEPT_USERS)
def _prefix_of_user(user: str) -> str:
    """Return the prefix of a user's keys, without the characters that have a meaning in patterns."""
    return f"user/{quote(user, safe='@')}/"
