"""Who is online: `join`, `online` and `Visitor`.

Every server has one hidden key for each group that its sessions have joined. Its value has a row for each session.
Readers depend on the keys of all servers. A server that is killed cannot delete its keys, so each server also has a
key that expires unless it is in use: readers skip the rows of servers without one.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from fastserverstate._core import HIDDEN, Namespace, Store, reruns_are_suppressed, same_value
from fastserverstate.configuration import KeyOptions
from fastserverstate.drafts import ATOMS
from fastserverstate.errors import FastServerStateError
from fastserverstate.identity import Identity
from fastserverstate.listeners import Listeners
from fastserverstate.rerun.memberships import Memberships, prefix_of_group
from fastserverstate.rerun.session import LiveSession
from fastserverstate.sessions import OWNED_TTL, Current, SessionEvents, Source
from fastserverstate.users import user_key
from fastserverstate.workers import Workers

logger = logging.getLogger("fastserverstate")

# Seconds for which a session counts as online after its connection was lost. It may return.
GRACE = 3.0

# The least time between two changes of one session's fields that others see, in seconds.
INTERVAL = 0.03

# Seconds until an update that has failed is tried again, and until the rows of a killed server are deleted.
RETRY = 1.0
LEFTOVER = 10.0

MOST_MADE = 1000  # groups whose visitors are kept for the next reader

_SERVERS = f"{HIDDEN}servers/"
_ALL = ""  # stands for the group of all sessions
_TASK = "An update of who is online"  # names it in the log


class Row(NamedTuple):
    """A session in a group, as servers tell each other."""

    id: str
    since: float
    page: str
    user: Mapping[str, Any] | None
    is_agent: bool
    fields: Mapping[str, Any]


class Visitor:
    """A session that is online, or a person with several, as `online` returns them.

    Attributes
        ``id`` stands for the session, and for nothing else: it is not the id that Streamlit uses. ``since`` is the time
        at which it joined the group or, for `online` without a group, was connected, in UTC. ``page`` is the path of
        the page that it shows, ``""`` for the main page. ``user`` has the fields of ``st.user`` (without tokens) if a
        user is logged in, else it is None. ``is_me`` is True for the session that called `online`. ``is_agent`` is True
        for clients of Streamlit's agent API. ``fields`` are those given to `join`; each is also an attribute.

    >>> from datetime import datetime
    >>> from fastserverstate import Visitor
    >>> ann = Visitor("17", datetime(2026, 1, 1), fields={"name": "Ann"})
    >>> ann.name, ann.page, ann.is_me
    ('Ann', '', False)
    """

    __slots__ = ("fields", "id", "is_agent", "is_me", "page", "since", "user")

    def __init__(
        self,
        id: str,  # noqa: A002
        since: datetime,
        *,
        page: str = "",
        user: Mapping[str, Any] | None = None,
        is_me: bool = False,
        is_agent: bool = False,
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.id = id
        self.since = since
        self.page = page
        self.user = user
        self.is_me = is_me
        self.is_agent = is_agent
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        if name in Visitor.__slots__:  # while the object is made, as by copy
            raise AttributeError(name)
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(
                f"This visitor has no field {name!r}. join(..., {name}=...) gives it one; visitor.fields has all.",
                name=name,
                obj=self,
            ) from None

    def __repr__(self) -> str:
        fields = "".join(f", {name}={value!r}" for name, value in self.fields.items())
        return f"Visitor({self.id!r}{', is_me=True' if self.is_me else ''}{fields})"


_RESERVED = frozenset(Visitor.__slots__)


class Part(Protocol):
    """The part of a session's run that a thread takes."""

    @property
    def live(self) -> LiveSession: ...

    @property
    def fragment_id(self) -> str | None: ...


class _Membership(NamedTuple):
    since: float  # Unix time
    fields: Mapping[str, Any]
    changed_at: float  # on the clock of the presence


class _Visit:
    """A session of this server that has not ended."""

    def __init__(self, source: Source) -> None:
        self.id = secrets.token_hex(8)
        self.source = source
        self.since = time.time()
        self.page = ""
        self.groups: dict[str, _Membership] = {}
        self.is_away = False
        self.losses = 0  # how often its connection was lost

    def row(self, group: str) -> Row | None:
        member = self.groups.get(group)
        if self.is_away or member is None:
            return None
        return Row(self.id, member.since, self.page, self.source.user, self.source.is_agent, member.fields)


class _Group:
    """A group with sessions of this server."""

    def __init__(self, name: str, server: str) -> None:
        self.name = name
        self.key = prefix_of_group(name) + server
        self.members: dict[_Visit, None] = {}
        self.due: float | None = None  # when the next update is scheduled
        self.updating = threading.RLock()


class Presence(SessionEvents):
    """The sessions of this server and the groups that they have joined.

    Thread-safety
        Safe from any thread. What the adapter reports does not block the event loop.
    """

    def __init__(
        self,
        store: Store,
        listeners: Listeners,
        key_options: KeyOptions,
        *,
        current: Current,
        part_of_run: Callable[[], Part | None],
        is_evaluating: Callable[[], bool],
        has_ended: Callable[[str], bool],
        workers: Workers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._listeners = listeners
        self._key_options = key_options
        self._state = Namespace(store)
        self._current = current
        self._part_of_run = part_of_run
        self._is_evaluating = is_evaluating
        self._has_ended = has_ended
        self._workers = workers
        self._clock = clock
        # Called in the run of a session that is new in a group.
        self.on_join: Callable[[str], None] = lambda _group: None
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget the sessions, which belong to the parent process."""
        self._workers.reset_after_fork()
        self._lock = threading.RLock()  # a finalizer may use it at any point
        self._server = secrets.token_hex(8)
        self._visits: dict[str, _Visit] = {}
        self._groups: dict[str, _Group] = {}
        self._leftovers: set[str] = set()
        self._is_announced = False
        self._made: dict[str, tuple[Any, list[Visitor]]] = {}

    # What the adapter reports

    def started(self, source: Source) -> None:
        with self._lock:
            self._visit_of(source)

    def _visit_of(self, source: Source) -> _Visit:
        """Return the visit of a session, or make it. The lock is held."""
        visit = self._visits.get(source.id)
        if visit is None:
            visit = self._visits[source.id] = _Visit(source)
            visit.page = source.page()
            self._enter(visit, _ALL, {})
            self._changed(_ALL)
        return visit

    def paused(self, session_id: str) -> None:
        with self._lock:
            visit = self._visits.get(session_id)
            if visit is not None:
                visit.losses += 1
                self._submit(GRACE, functools.partial(self._lost, visit, visit.losses))

    def _lost(self, visit: _Visit, loss: int) -> None:
        """The session has not returned in time, unless it was connected since."""
        if visit.losses == loss:
            self._set_away(visit, True)

    def left(self, session_id: str) -> None:
        visit = self._visits.get(session_id)
        if visit is not None:
            self._set_away(visit, True)

    def resumed(self, session_id: str) -> None:
        visit = self._visits.get(session_id)
        if visit is not None:
            visit.losses += 1
            self._set_away(visit, False)

    def _set_away(self, visit: _Visit, is_away: bool) -> None:
        with self._lock:
            if visit.is_away != is_away:
                visit.is_away = is_away
                self._changed(*visit.groups)

    def requested(self, session_id: str, page: str) -> None:
        visit = self._visits.get(session_id)
        if visit is not None:
            self._turned_to(visit, page)

    def _turned_to(self, visit: _Visit, page: str) -> None:
        with self._lock:
            if visit.page != page:
                visit.page = page
                self._changed(*visit.groups)

    def ended(self, session_id: str) -> None:
        with self._lock:
            visit = self._visits.pop(session_id, None)
            if visit is not None:
                self._changed(*self._leave(visit, [*visit.groups]))

    # Groups. The lock is held.

    def _enter(self, visit: _Visit, name: str, fields: Mapping[str, Any]) -> None:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name, self._server)
            self._listeners.add(group.key, functools.partial(self._key_changed, group), _LISTENER)
        group.members[visit] = None
        known = visit.groups.get(name)
        since = visit.since if name == _ALL else time.time() if known is None else known.since
        visit.groups[name] = _Membership(since, fields, self._clock())

    def _leave(self, visit: _Visit, names: Collection[str]) -> list[str]:
        """Return those of the groups that the visit was in. They are to be updated."""
        left = [name for name in names if visit.groups.pop(name, None) is not None]
        for name in left:
            self._groups[name].members.pop(visit, None)
        return left

    # Updates

    def _changed(self, *names: str) -> None:
        """Have the keys of the groups updated soon, by a worker."""
        for name in names:
            with self._lock:
                group = self._groups[name]
                self._update_later(group, 0.0)

    def _update_later(self, group: _Group, seconds: float) -> None:
        """Have a worker update the group in so many seconds, or earlier. The lock is held."""
        due = self._clock() + seconds
        if group.due is not None and group.due <= due:
            return
        group.due = due
        try:
            self._submit(seconds, functools.partial(self._update_if_due, group))
        except RuntimeError as error:  # as many threads as the system allows, or the process ends
            group.due = None  # the next change tries it again
            logger.warning("Who is online is not updated, because a thread could not be started: %s", error)

    def _submit(self, seconds: float, task: Callable[[], None]) -> None:
        if seconds:
            self._workers.submit_later(seconds, task, _TASK)
        else:
            self._workers.submit(task, _TASK)

    def _update_if_due(self, group: _Group) -> None:
        if group.due is not None:  # else it was updated earlier
            self._update(group)

    def _update(self, group: _Group) -> None:
        """Write what the group is now. Called on a worker, or in the run that has joined."""
        with group.updating:  # so that the newest rows are written last
            with self._lock:
                group.due = None
                rows = tuple(row for visit in group.members if (row := visit.row(group.name)) is not None)
            try:
                if rows:
                    self._announce()
                    self._state[group.key] = tuple(map(tuple, rows))
                else:
                    self._state.pop(group.key, None)
            except BaseException as error:
                with self._lock:
                    self._update_later(group, RETRY)
                if not isinstance(error, OSError):  # of the connection to the Redis server
                    raise
                logger.warning("Who is online cannot be told to other servers, which is tried again: %s", error)
        with self._lock:
            if not group.members and group.due is None and self._groups.get(group.name) is group:
                del self._groups[group.name]
                self._listeners.discard(group.key, _LISTENER)

    def _key_changed(self, group: _Group, value: object) -> None:
        """Write the key again if others have deleted it, or the Redis server has lost its data."""
        if not isinstance(value, tuple) and group.members:
            self._changed(group.name)

    def _announce(self) -> None:
        """On several servers, tell the others that this one is alive."""
        if self._store.has_backend() and not self._is_announced:
            self._is_announced = True
            key = _SERVERS + self._server
            # A key that has a listener is in use and does not expire: only after this process was killed.
            self._listeners.add(key, functools.partial(self._announcement_changed, key), _LISTENER)
            self._key_options.lend(key, OWNED_TTL)
            self._say_alive(key)

    def _say_alive(self, key: str) -> None:
        try:
            self._state[key] = True
        except OSError:  # of the connection to the Redis server
            self._submit(RETRY, functools.partial(self._say_alive, key))

    def _announcement_changed(self, key: str, value: object) -> None:
        if value is not True:
            self._submit(0.0, functools.partial(self._say_alive, key))

    # For scripts

    def join(self, group: str, /, **fields: Any) -> None:
        """Join the group, for as long as runs of this session join it.

        Call it in each run, like everything that the page shows. When a run of the script or fragment that has joined
        ends without joining again, the session leaves the group. It also leaves when its browser tab is closed, and
        3 seconds after its connection was lost, and comes back with its connection.

        The fields are what others see of the session, such as ``name=st.session_state.name``. A run with other fields
        changes them, which updates the sessions that show the group, at most every 30 milliseconds for each session.

        In ``AppTest`` this does nothing.

        Parameters
            ``group``: any text, such as ``"room/7"``. ``fields``: any values; on several servers, only text, numbers,
            dates, bytes and containers of these. The names of the attributes of `Visitor` cannot be used.

        Thread-safety
            Safe from any thread that takes part in a script run.

        Raises
            ``TypeError`` if the group is not a ``str`` or a field cannot be sent, ``ValueError`` if the group is empty
            or a field has the name of an attribute, ``FastServerStateError`` if the thread runs no session's script, or
            the session has ended.

        >>> import streamlit as st
        >>> from fastserverstate import join, online
        >>> def show_room(room):
        ...     join(f"room/{room}", name=st.session_state.name)
        ...     st.write(", ".join(visitor.name for visitor in online(f"room/{room}")))
        """
        call = f"join({group!r})"
        _check_group(group, "join")
        taken = sorted(_RESERVED & fields.keys())
        if taken:
            raise ValueError(f"{call} cannot have a field {taken[0]!r}, which every visitor has. Use another name.")
        if self._is_evaluating():
            raise FastServerStateError(
                f"{call} concerns one session, and functions that @live or @computed decorates run once for all. Call "
                "it in the script."
            )
        if self._store.has_backend():
            _check_fields(call, fields)
        source, part = self._current(call), self._part_of_run()
        if source is None or part is None:  # in AppTest, or another run has replaced this one
            return
        live_ref = weakref.ref(part.live)
        memberships = part.live.follower(Memberships, lambda: Memberships(functools.partial(self._run_ended, live_ref)))
        if not memberships.join(group, part.fragment_id, memberships.run):
            return
        copies = _copy(fields)
        with self._lock:
            if source.id not in self._visits and self._has_ended(source.id):
                return
            visit = self._visit_of(source)
            self._turned_to(visit, source.page())
            known = visit.groups.get(group)
            changed_at = 0.0 if known is None else known.changed_at
            is_changed = known is None or not same_value(known.fields, fields)
            if is_changed:
                self._enter(visit, group, copies)
            joined = self._groups[group]
        if is_changed:
            is_due = known is None or part.live.is_rerun
            wait = 0.0 if is_due else changed_at + INTERVAL - self._clock()
            if wait <= 0 and not self._store.in_transaction() and not reruns_are_suppressed():
                self._update(joined)  # in this run, which need not be rerun for it then
            elif part.live.is_rerun:
                memberships.postpone(group)
            else:
                with self._lock:
                    self._update_later(joined, max(0.0, wait))
        if known is None:
            self.on_join(group)

    def _run_ended(
        self,
        live_ref: weakref.ref[LiveSession],
        memberships: Memberships,
        groups: Collection[str],
        postponed: Collection[str],
    ) -> None:
        """A run has ended without joining these groups again, and has changed some that others were not told of.

        A chain of reruns that change each other's groups ends only if the reruns themselves tell of the changes.
        """
        live = live_ref()
        if live is None:
            return
        with self._lock:
            visit = self._visits.get(live.id)
            left = set(groups) - memberships.groups()  # the next run may have joined meanwhile
            changed = {*postponed, *(() if visit is None else self._leave(visit, left))} & self._groups.keys()
            if not live.is_rerun or self._store.in_transaction() or reruns_are_suppressed():
                self._changed(*changed)
                return
            updated = [self._groups[name] for name in changed]
        for group in updated:
            try:
                self._update(group)
            except Exception:  # it is tried again
                logger.exception("%s has failed.", _TASK)

    def fields_of(self, session_id: str) -> Mapping[str, Any]:
        """Return the fields of a session in all its groups. Those of the group that it has joined last win."""
        with self._lock:
            visit = self._visits.get(session_id)
            members = () if visit is None else sorted(visit.groups.values(), key=lambda member: member.since)
            return MappingProxyType({name: value for member in members for name, value in member.fields.items()})

    def groups_of(self, live: LiveSession) -> Collection[str]:
        """Return the groups that a session has joined."""
        with self._lock:
            visit = self._visits.get(live.id)
            return () if visit is None else [name for name in visit.groups if name != _ALL]

    def online(self, group: str | None = None, *, by: Literal["session", "user"] = "session") -> list[Visitor]:
        """Return who is online: the sessions that have joined the group or, without one, all connected sessions.

        They are in the order in which they joined. Sessions count while their browser tab is open, and 3 seconds longer
        if their connection is lost. A script run, `live` region or computed value that calls this depends on it, and
        updates when a session comes, leaves or changes its fields. Inside `live`, it is rendered once for all sessions,
        and no visitor `is_me`.

        Parameters
            ``by``: with ``"user"``, several sessions of one logged-in user are one visitor, with the fields of the
            newest. Sessions without a user stay apart.

        Thread-safety
            Safe from any thread. Outside of script runs it depends on nothing.

        Raises
            ``TypeError`` if the group is not a ``str``, ``ValueError`` if it is empty, or `by` is another word.

        >>> from fastserverstate import online
        >>> online("room/7")
        []
        """
        if group is not None:
            _check_group(group, "online")
        if by not in {"session", "user"}:
            raise ValueError(f"online takes by='session' or by='user', not {by!r}.")
        name = _ALL if group is None else group
        found = {visitor.id: visitor for visitor in self._visitors(name)}
        mine = self._mine()
        row = None if mine is None else mine.row(name)  # which its last update may not have told yet
        if row is not None:
            found[row.id] = _visitor(row, is_me=True)
        visitors = sorted(found.values(), key=_by_age)
        return visitors if by == "session" else _folded(visitors)

    def _mine(self) -> _Visit | None:
        """Return the visit of the session that the calling thread runs; None for functions that run once for all."""
        part = None if self._is_evaluating() else self._part_of_run()
        return None if part is None else self._visits.get(part.live.id)

    def _visitors(self, name: str) -> list[Visitor]:
        """Return the visitors of all servers, as these have told of them last."""
        prefix = prefix_of_group(name)
        self._store.watch_members(prefix)
        if not self._store.has_backend():
            return list(self._visitors_at(prefix + self._server))
        found: list[Visitor] = []
        for key in self._store.keys(prefix=prefix):
            server = key.removeprefix(prefix)
            if server == self._server or _SERVERS + server in self._state:
                found.extend(self._visitors_at(key))
            else:
                self._delete_later(key, server)
        return found

    def _visitors_at(self, key: str) -> list[Visitor]:
        """Return the visitors of one server. They are made once, for all sessions that show them."""
        rows = self._state.get(key, ())
        known = self._made.get(key)
        if known is None or known[0] is not rows:
            known = rows, [_visitor(Row(*row)) for row in rows]
            if len(self._made) >= MOST_MADE:
                self._made.clear()
            self._made[key] = known
        return known[1]

    def _delete_later(self, key: str, server: str) -> None:
        """Delete a key of a server that was killed, unless that server turns out to be alive."""
        with self._lock:
            is_known = key in self._leftovers
            self._leftovers.add(key)
        if not is_known:
            self._submit(LEFTOVER, functools.partial(self._delete, key, server))

    def _delete(self, key: str, server: str) -> None:
        with self._lock:
            self._leftovers.discard(key)
        if _SERVERS + server not in self._state:
            self._state.pop(key, None)


def _check_group(group: object, function: str) -> None:
    if not isinstance(group, str):
        raise TypeError(
            f"{function} takes the name of a group, a str such as 'room/7', not {group!r} of type "
            f"{type(group).__qualname__}. Use str(...)."
        )
    if not group:
        raise ValueError(f"{function} needs the name of a group, which '' is not. online() returns all sessions.")


def _check_fields(call: str, fields: Mapping[str, Any]) -> None:
    """Refuse values that cannot be sent to other servers: the rows of all sessions in the group are sent together."""
    from fastserverstate.codec import Codec, UnencodableValueError  # noqa: PLC0415

    for name, value in fields.items():
        try:
            Codec("", None).encode(name, value)
        except UnencodableValueError:
            raise TypeError(
                f"The field {name!r} of {call} is of type {type(value).__qualname__}, or has an item, that cannot be "
                "sent to other servers. Use str, int, float, bool, None, bytes, datetime, and lists, tuples, sets or "
                "dicts of these."
            ) from None


def _copy(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with copies of what the script may change in place, so that its next join finds the changes.

    Objects that have no equal copy are shared.
    """
    copied = dict(fields)
    for name, value in fields.items():
        if type(value) not in ATOMS:
            with contextlib.suppress(Exception):  # of the object's own methods
                copy_of_value = copy.deepcopy(value)
                if same_value(value, copy_of_value):
                    copied[name] = copy_of_value
    return copied


def _visitor(row: Row, is_me: bool = False) -> Visitor:
    return Visitor(
        row.id,
        datetime.fromtimestamp(row.since, UTC),
        page=row.page,
        user=row.user,
        is_me=is_me,
        is_agent=row.is_agent,
        fields=row.fields,
    )


def _by_age(visitor: Visitor) -> tuple[datetime, str]:
    return visitor.since, visitor.id


def _folded(visitors: list[Visitor]) -> list[Visitor]:
    """Make one visitor of all with the same user. It has the place and time of the oldest."""
    found: dict[str, Visitor] = {}
    for visitor in visitors:
        if visitor.user is None:
            found[visitor.id] = visitor
            continue
        # The id must not tell the user's email address.
        person = hashlib.sha256(user_key(visitor.user).encode()).hexdigest()[:16]
        earlier = found.get(person, visitor)
        found[person] = Visitor(
            person,
            earlier.since,
            page=visitor.page,
            user=visitor.user,
            is_me=earlier.is_me or visitor.is_me,
            is_agent=earlier.is_agent and visitor.is_agent,
            fields=visitor.fields,
        )
    return list(found.values())


_LISTENER = Identity(Presence._key_changed)  # each key has one
