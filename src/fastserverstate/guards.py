"""`guard`: which sessions may read and write which keys."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from fastserverstate._core import ACCESS_READ, ACCESS_WRITE, Node, Store, current_part, plain_key
from fastserverstate.errors import AccessDeniedError, FastServerStateError
from fastserverstate.functions import accepting, check_function, name_of, refuse_coroutine
from fastserverstate.identity import Identity
from fastserverstate.patterns import compiled, is_pattern, specificity

_NAMES = {ACCESS_READ: "read", ACCESS_WRITE: "write"}
KEPT_KEYS = 4096  # for so many keys the patterns that match are remembered


class _Function:
    """A function that says whether the session may."""

    def __init__(self, function: Callable[..., object], what: str) -> None:
        check_function(function, what)
        self.call, offered = accepting(function, what, (), {}, ("key",))
        self.takes_key = offered == 1
        self.name = name_of(function)
        self.what = what
        self.identity = Identity(function)

    def __call__(self, key: str) -> bool:
        found = self.call(key) if self.takes_key else self.call()
        refuse_coroutine(found, self.what)
        return bool(found)


class _Guard(NamedTuple):
    """What one call of `guard` has said."""

    functions: dict[int, _Function]  # by what they are for
    number: int
    for_all: int  # number of the last call for the pattern that no session has made


class _OfSession:
    """What a session's runs have said of guards, and what guards have said in its current run."""

    def __init__(self) -> None:
        self.guards: dict[str, _Guard] = {}
        self.run = -1
        self.verdicts: dict[tuple[object, ...], bool] = {}

    def verdicts_of(self, run: int) -> dict[tuple[object, ...], bool]:
        if self.run != run:
            self.run, self.verdicts = run, {}
        return self.verdicts


class _Asking(threading.local):
    def __init__(self) -> None:
        self.patterns: list[str] = []


class Guards:
    """The guards of a store's keys.

    Every run of a script may define the functions anew, with the variables of that run. So a session is asked by the
    functions of its own last call of `guard`, and by those of the newest call if it has made none.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._asking = _Asking()
        self._guards: dict[str, _Guard] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}  # the most specific one last
        self._number = 0  # of the last call
        self._find = functools.lru_cache(KEPT_KEYS)(self._find_guards)
        self._decide = self.decide  # one object, which the core keeps for ever

    def reset_after_fork(self) -> None:
        self._lock = threading.RLock()

    def guard(
        self,
        pattern: str,
        /,
        *,
        read: Callable[[], object] | Callable[[str], object] | None = None,
        write: Callable[[], object] | Callable[[str], object] | None = None,
    ) -> None:
        """Have functions say whether the session may read, and write, the keys that match a pattern, or one key.

        Each function is called without arguments, or with the key if it has a parameter for it. It is called in script
        runs, on their threads, when the run first reads or writes such a key. Its result counts until the script or
        fragment runs again; for a function that takes the key, the result counts for that key. If it is false, the
        access raises an `AccessDeniedError`, and nothing is read or written.

        Call it where the app starts, or in every run: another call for the same pattern replaces the functions, and
        without functions it removes the guard. As with `configure`, a single key wins over patterns, and among
        patterns the one with the most literal characters wins.

        This guards against mistakes in the app's own code. It is no sandbox: threads without a session and `on_change`
        callbacks are not asked, and code of the app can get around it. Names of keys are not secret either: iteration
        shows them. `@computed` and `@live` functions, whose results are for all sessions, cannot read keys with a
        `read` guard.

        Parameters
            ``read``: guards reads with brackets, attributes, ``get``, ``in``, ``items``, ``values``, `peek` and
            `wait_for`.

            ``write``: guards assignments, ``del``, `touch`, `force_rerun_bound_sessions` and `expire`.

            ``pop``, ``setdefault`` of a missing key, `edit`, `atomic`, ``atomic.increment``, ``atomic.append`` and the
            like, and `compare_and_set` need both.

        Thread-safety
            Safe from any thread.

        Raises
            ``TypeError`` if a function is not callable, is async, or requires other parameters, or the pattern is not
            a ``str``.

        >>> import streamlit as st
        >>> from fastserverstate import guard
        >>> def is_manager():
        ...     return st.session_state.get("role") == "manager"
        >>> guard("salary/*", read=is_manager, write=is_manager)
        >>> guard("salary/*")
        """
        pattern = plain_key(pattern)
        functions = {
            access: _Function(function, f"guard({pattern!r}, {_NAMES[access]}=...)")
            for access, function in ((ACCESS_READ, read), (ACCESS_WRITE, write))
            if function is not None
        }
        part = current_part()
        session = None if part is None or isinstance(part[0], Node) else part[0]
        with self._lock:
            self._number += 1
            before = self._guards.get(pattern)
            for_all = self._number if session is None else 0 if before is None else before.for_all
            guard = _Guard(functions, self._number, for_all)
            if session is not None:
                self._give(session, pattern, guard)
            is_news = set(functions) != (set() if before is None else set(before.functions))
            self._guards[pattern] = guard
            if is_news:
                self._set_patterns()
        if is_news:
            self._store.set_guard(self._decide)

    def _give(self, session: Any, pattern: str, guard: _Guard) -> None:
        """Have the session be asked by these functions. What others have said in its run is forgotten."""
        if session.access is None:
            session.access = _OfSession()
        given: _OfSession = session.access
        before = given.guards.get(pattern)
        given.guards[pattern] = guard
        for verdict in list(given.verdicts):
            if verdict[0] == pattern and not _is_same(before, guard):
                given.verdicts.pop(verdict, None)

    def _set_patterns(self) -> None:
        names = [pattern for pattern, guard in self._guards.items() if guard.functions and is_pattern(pattern)]
        self._patterns = {name: compiled(name) for name in sorted(names, key=specificity)}
        self._find = functools.lru_cache(KEPT_KEYS)(self._find_guards)

    def _find_guards(self, key: str) -> dict[int, str]:
        """Return the patterns whose functions decide about the key, by what they are for."""
        names = [pattern for pattern, found in self._patterns.items() if pattern != key and found.match(key)]
        return {
            access: name for name in (*names, key) if name in self._guards for access in self._guards[name].functions
        }

    def decide(self, key: str, access: int) -> bool:
        """Raise if the calling thread's run must not do this to the key. Return whether the key has a guard at all."""
        found = self._find(key)
        part = current_part() if found else None
        if part is None:
            return bool(found)
        for asked, pattern in found.items():
            if not access & asked:
                continue
            if isinstance(part[0], Node):
                if asked == ACCESS_READ:
                    raise AccessDeniedError(
                        f"{part[0]!r} has read server_state[{key!r}], which guard({pattern!r}, read=...) guards. Its "
                        "result is for all sessions, also for those that must not read the key. Read the key in the "
                        "script, and pass what may be shown as an argument."
                    )
                continue
            function = self._function_for(part[0], pattern, asked)
            if function is not None and not self._allows(part, pattern, asked, key, function):
                action = _NAMES[asked]
                raise AccessDeniedError(
                    f"This session must not {action} server_state[{key!r}]: guard({pattern!r}, {action}="
                    f"{function.name}) has refused it. Ask the same function before you {action} the key, or change "
                    "the guard."
                )
        return bool(found)

    def _function_for(self, session: Any, pattern: str, access: int) -> _Function | None:
        """Return what decides for the session; None if another thread has just removed it."""
        newest = self._guards[pattern]
        own = None if session.access is None else session.access.guards.get(pattern)
        guard = newest if own is None or own.number < newest.for_all or access not in own.functions else own
        return guard.functions.get(access)

    def _allows(
        self, part: tuple[Any, int, int, str | None], pattern: str, access: int, key: str, function: _Function
    ) -> bool:
        session, run, *where = part
        if session.access is None:
            session.access = _OfSession()
        verdicts: dict[tuple[object, ...], bool] = session.access.verdicts_of(run)
        name = (pattern, access, *where, key if function.takes_key else None)
        allowed = verdicts.get(name)
        if allowed is None:
            if pattern in self._asking.patterns:
                raise FastServerStateError(
                    f"{function.name} is a guard of {pattern!r} and has used server_state[{key!r}], which it guards "
                    "itself. Keep what it needs under another key."
                )
            self._asking.patterns.append(pattern)
            try:
                allowed = verdicts[name] = function(key)
            finally:
                self._asking.patterns.pop()
        return allowed


def _is_same(one: _Guard | None, other: _Guard) -> bool:
    if one is None or one.functions.keys() != other.functions.keys():
        return False
    return all(function.identity == other.functions[access].identity for access, function in one.functions.items())
