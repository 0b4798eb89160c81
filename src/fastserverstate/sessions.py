"""Session hooks, and keys that belong to a session: `on_session_start`, `on_session_end`, `own`."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar

from fastserverstate._core import Namespace, Store, plain_key
from fastserverstate.configuration import KeyOptions
from fastserverstate.errors import FastServerStateError
from fastserverstate.functions import accepting, check_function, name_of, refuse_coroutine
from fastserverstate.identity import Identity
from fastserverstate.listeners import Listeners
from fastserverstate.updates import Atomic
from fastserverstate.workers import Workers

logger = logging.getLogger("fastserverstate")

MOST_ALIKE = 20  # hooks from one place in the code, which differ in what they close over

# An owned key expires this many seconds after its server was killed. Renewed four times as often.
OWNED_TTL = 8.0

# A script run that does not end although its session has ended keeps the hooks waiting this long, in seconds.
LAST_RUN = 10.0

# The exit of the process waits this many seconds for the hooks of sessions that have ended.
EXIT_WAIT = 5.0

# Sessions whose end is remembered: their last runs may not have ended.
MOST_ENDED = 1000

_Kind = Literal["start", "pause", "resume", "end"]
_Hook = TypeVar("_Hook", bound=Callable[..., object])
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class SessionInfo:
    """A session, as hooks get it.

    Attributes
        ``id`` is Streamlit's id of the session. ``since`` is the time at which it was first connected, in UTC. ``user``
        has the fields of ``st.user`` (without tokens) if a user is logged in, else it is None. ``session_state`` is a
        read-only copy of ``st.session_state`` in `on_session_end`, and ``fields`` has what the session has told about
        itself with `join`, in all its groups. Both are empty before that.

    >>> from fastserverstate import SessionInfo
    >>> sorted(SessionInfo.__dataclass_fields__)
    ['fields', 'id', 'session_state', 'since', 'user']
    """

    id: str
    since: datetime
    user: Mapping[str, Any] | None = None
    session_state: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, repr=False)
    fields: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


class Source(Protocol):
    """A session of Streamlit, as this module sees it. Does not keep the session alive, only its state."""

    @property
    def id(self) -> str: ...

    @property
    def user(self) -> Mapping[str, Any] | None: ...

    @property
    def is_agent(self) -> bool:
        """Whether it is a client of Streamlit's agent API."""

    def page(self) -> str:
        """Return the path of the page that it shows, "" for the main page."""

    def wait_for_last_run(self, seconds: float) -> None:
        """Wait until the session's script has ended, at most this long."""

    def session_state(self) -> dict[str, Any]:
        """Return a copy of ``st.session_state``."""


class SessionEvents:
    """Is told of sessions, on their event loop. Methods must not block. By default they do nothing."""

    def started(self, source: Source) -> None:
        """A session was connected, or found. Called again for sessions that are known."""

    def paused(self, session_id: str) -> None:
        """The connection of the session was lost, or closed by its browser. The session can be resumed."""

    def left(self, session_id: str) -> None:
        """The browser has said that the session's tab was closed, or shows another site. Follows `paused`."""

    def resumed(self, session_id: str) -> None:
        """The session is connected again."""

    def requested(self, session_id: str, page: str) -> None:
        """The browser has requested a run of this page."""

    def ended(self, session_id: str) -> None:
        """The session is closed, or cannot be resumed any more."""


# Returns the session whose script the calling thread runs; None if no server runs it, as in AppTest. It raises an
# error, in which the argument stands for the caller, if the thread runs no script or the session has ended.
Current = Callable[[str], Source | None]


class _Registered:
    def __init__(self, identity: Identity, call: Callable[[SessionInfo], object], name: str) -> None:
        self.identity = identity
        self.call = call
        self.name = name


class _Record:
    """A session that has not ended."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.info = SessionInfo(source.id, datetime.now(UTC), source.user)
        self.tasks: deque[Callable[[], None]] = deque()
        self.is_calling = False
        self.started: list[Identity] = []  # the start hooks that were called
        self.owned: set[str] = set()


class Sessions(SessionEvents):
    """The sessions of this process, their hooks and the keys that they own.

    A session's hooks are called on worker threads, one after the other.

    Thread-safety
        Safe from any thread. The event loop calls `started`, `paused`, `resumed` and `ended`, which do not block.
    """

    def __init__(
        self,
        store: Store,
        workers: Workers,
        listeners: Listeners,
        key_options: KeyOptions,
        current: Current,
    ) -> None:
        self._store = store
        self._workers = workers
        self._listeners = listeners
        self._key_options = key_options
        self._state = Namespace(store)
        self._atomic = Atomic(store)
        self._current = current
        # Returns what a session that ends has told about itself.
        self.fields_of: Callable[[str], Mapping[str, Any]] = lambda _session_id: _NOTHING
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget the sessions, which belong to the parent process. The hooks stay."""
        self._lock = threading.RLock()  # a finalizer may use it at any point
        self._all_done = threading.Condition(self._lock)
        self._due = 0  # tasks that were submitted and have not ended
        self._is_late = False  # the last task has no thread yet
        self._workers.reset_after_fork()
        self._records: dict[str, _Record] = {}
        self._owners: dict[str, _Record] = {}
        self._ended: dict[str, None] = {}  # the last sessions that have ended, oldest first
        if not hasattr(self, "_hooks"):
            self._hooks: dict[_Kind, list[_Registered]] = {"start": [], "pause": [], "resume": [], "end": []}

    # What the adapter reports

    def started(self, source: Source) -> None:
        with self._lock:
            self._ended.pop(source.id, None)
            self._record_of(source)

    def _record_of(self, source: Source) -> _Record:
        """Return the record of a session, or make it. The lock is held."""
        record = self._records.get(source.id)
        if record is None:
            record = self._records[source.id] = _Record(source)
            self._enqueue(record, partial(self._call_start_hooks, record))
        return record

    def paused(self, session_id: str) -> None:
        self._report(session_id, "pause")

    def resumed(self, session_id: str) -> None:
        self._report(session_id, "resume")

    def _report(self, session_id: str, kind: _Kind) -> None:
        with self._lock:
            record = self._records.get(session_id)
            if record is not None:
                self._enqueue(record, partial(self._call_hooks, kind, record.info))

    def ended(self, session_id: str) -> None:
        with self._lock:
            record = self._records.pop(session_id, None)
            if record is None:
                return
            self._ended[session_id] = None
            if len(self._ended) > MOST_ENDED:
                del self._ended[next(iter(self._ended))]
            owned = [key for key in record.owned if self._owners.get(key) is record]
            self._enqueue(record, partial(self._call_end_hooks, record, self.fields_of(session_id)))
        for key in owned:  # in tasks of their own: a key whose lock is held must not keep the others waiting
            self._submit(partial(self._delete_owned, record, key), f"The deletion of server_state[{key!r}]")

    def has_ended(self, session_id: str) -> bool:
        """Whether the session has ended, as far as that is remembered."""
        with self._lock:
            return session_id in self._ended

    # Calling hooks

    def _enqueue(self, record: _Record, task: Callable[[], None]) -> None:
        """Call the task after the earlier ones of the session. The lock is held."""
        record.tasks.append(task)
        if not record.is_calling:
            record.is_calling = True
            self._submit(partial(self._call_due, record), f"A hook of session {record.info.id}")
        elif self._is_late:
            self._submit(_do_nothing, "A hook")  # starts a thread for the tasks that had none

    def _call_due(self, record: _Record) -> None:
        while True:
            with self._lock:
                if not record.tasks:
                    record.is_calling = False
                    return
                task = record.tasks.popleft()
            task()

    def _submit(self, task: Callable[[], None], name: str) -> None:
        with self._lock:
            self._due += 1
        try:
            self._workers.submit(partial(self._do, task), name)
            self._is_late = False
        except RuntimeError as error:  # as many as the system allows, or the process ends
            self._is_late = True
            logger.warning("%s is late, because a thread could not be started: %s", name, error)

    def _do(self, task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            with self._lock:
                self._due -= 1
                self._all_done.notify_all()

    def _call_start_hooks(self, record: _Record) -> None:
        for hook in self._hooks["start"]:
            if hook.identity not in record.started:
                record.started.append(hook.identity)
                self._call(hook, "start", record.info)

    def _call_hooks(self, kind: _Kind, info: SessionInfo) -> None:
        for hook in self._hooks[kind]:
            self._call(hook, kind, info)

    def _call_end_hooks(self, record: _Record, fields: Mapping[str, Any]) -> None:
        if self._hooks["end"]:
            record.source.wait_for_last_run(LAST_RUN)
            try:
                state = record.source.session_state()
            except Exception:
                logger.exception(
                    "st.session_state of session %s could not be copied for on_session_end.", record.info.id
                )
                state = {}
            self._call_hooks("end", replace(record.info, session_state=MappingProxyType(state), fields=fields))

    @staticmethod
    def _call(hook: _Registered, kind: _Kind, info: SessionInfo) -> None:
        try:
            refuse_coroutine(hook.call(info), f"The hook {hook.name}")
        except BaseException:  # also what stops scripts: there is none to stop
            logger.exception("The hook %s of on_session_%s has failed for session %s.", hook.name, kind, info.id)

    def wait_until_done(self, seconds: float = EXIT_WAIT) -> bool:
        """Wait until all hooks that are due were called and owned keys were deleted, at most this long."""
        with self._lock:
            return self._all_done.wait_for(lambda: not self._due, seconds)

    # Registering hooks

    def _register(self, kind: _Kind, function: _Hook) -> _Hook:
        what = f"The function that on_session_{kind} gets"
        check_function(function, what)
        call, count = accepting(function, what, (), {}, ("session",))
        identity = Identity(function)
        hook = _Registered(identity, call if count else lambda _: call(), name_of(function))
        with self._lock:
            hooks = self._hooks[kind]
            is_new = all(known.identity != identity for known in hooks)
            changed = [*hooks, hook] if is_new else [hook if known.identity == identity else known for known in hooks]
            alike = [known for known in changed if known.identity.place == identity.place]
            if len(alike) > MOST_ALIKE:
                changed.remove(alike[0])
            self._hooks[kind] = changed  # a new list, because hooks may be called from the old one
            if kind == "start" and is_new:
                for record in self._records.values():
                    self._enqueue(record, partial(self._call_start_hooks, record))
        if is_new and len(alike) > MOST_ALIKE:
            logger.warning(
                "on_session_%s has registered %s more than %d times, each time with other values that it closes over, "
                "so the oldest is forgotten. Define the function where it closes over nothing that a run creates.",
                kind,
                hook.name,
                MOST_ALIKE,
            )
        return function

    def on_session_start(self, function: _Hook) -> _Hook:
        """Call the function for every session that starts: when a browser tab has connected.

        A decorator. It is also called, once, for each session that is open when you register it. It gets a
        `SessionInfo`, if it has a parameter. Sessions need not use shared state.

        A script may register the same function in every run: a function with the same file and name replaces the
        earlier one, in all sessions. Hooks stay registered until the process ends. ``AppTest`` calls none.

        Thread-safety
            Safe from any thread. Hooks are called on worker threads: those of one session one after the other, in the
            order of its events, and each once for each event. They take part in no script run, so their reads subscribe
            to nothing. Exceptions are logged, and affect neither the session nor other hooks. A slow hook delays only
            the other hooks of the same session.

        Raises
            ``TypeError`` if the function is not callable, is async or requires more parameters.

        >>> from fastserverstate import atomic, on_session_start
        >>> @on_session_start
        ... def count(session):
        ...     atomic.increment("visits")
        """
        return self._register("start", function)

    def on_session_end(self, function: _Hook) -> _Hook:
        """Call the function for every session that ends, with a copy of its ``st.session_state``.

        A decorator. It gets a `SessionInfo`, if it has a parameter, also with the fields of its `join`.

        A session ends when Streamlit discards it. Streamlit keeps a session whose browser tab was closed for 120
        seconds, because it cannot know whether the connection was lost and will return; after that, the session ends
        within a second. It ends earlier if more than 128 sessions are away, if its user logs out, or if the server
        stops. If a script run has not ended by then, the hook waits for it, at most 10 seconds. When the process exits,
        it waits for hooks for at most 5 seconds. A killed process calls none.

        Registration, threads and errors are as for `on_session_start`.

        Thread-safety
            Safe from any thread.

        >>> from fastserverstate import on_session_end
        >>> @on_session_end
        ... def save(session):
        ...     print(session.id, session.session_state.get("draft"))
        """
        return self._register("end", function)

    def on_session_pause(self, function: _Hook) -> _Hook:
        """Call the function for every session that has lost its connection: its browser tab was closed, or is offline.

        A decorator. The session is resumed (`on_session_resume`) or ends (`on_session_end`) later. The function gets a
        `SessionInfo`, if it has a parameter. Registration, threads and errors are as for `on_session_start`.

        Thread-safety
            Safe from any thread.

        >>> from fastserverstate import on_session_pause
        >>> @on_session_pause
        ... def note(session):
        ...     print(session.id, "is away")
        """
        return self._register("pause", function)

    def on_session_resume(self, function: _Hook) -> _Hook:
        """Call the function for every session that is connected again after a pause.

        A decorator. The function gets a `SessionInfo`, if it has a parameter. Registration, threads and errors are as
        for `on_session_start`.

        Thread-safety
            Safe from any thread.

        >>> from fastserverstate import on_session_resume
        >>> @on_session_resume
        ... def note(session):
        ...     print(session.id, "is back after", session.since)
        """
        return self._register("resume", function)

    # Owned keys

    def own(self, key: str) -> None:
        """Give the key to the calling session: the key is deleted when the session ends.

        The key need not be set yet. `on_session_end` tells when a session ends. The deletion is like any other:
        sessions that show the key are rerun, and its `on_change` callbacks are called. Until then the session owns
        every value of the key, also those that others assign. A key has one owner, the session that has called last.
        Owned keys are not stored in a state file.

        On several servers, the key is deleted by the server that the session was on. If that server is killed, the key
        expires within 10 seconds. Call this before you assign the key, and assign it on that server only: an assignment
        on another server makes it outlive a killed owner.

        In ``AppTest``, where sessions do not end, this does nothing.

        Thread-safety
            Safe from any thread that takes part in a script run.

        Raises
            ``TypeError`` if the key is not a ``str``, ``FastServerStateError`` if the thread runs no session's script,
            or the session has ended.

        >>> import streamlit as st
        >>> from fastserverstate import own, server_state
        >>> def show_cursor(user, row):
        ...     own(f"cursor/{user}")
        ...     server_state[f"cursor/{user}"] = row
        """
        key = plain_key(key)
        source = self._current(f"own({key!r})")
        if source is None:
            return
        with self._lock:
            if source.id in self._ended:
                raise session_has_ended(f"own({key!r})")
            record = self._record_of(source)
            earlier = self._owners.get(key)
            if earlier is record:
                return
            self._owners[key] = record
            record.owned.add(key)
            if earlier is not None:
                return
            # A key that has a listener is in use and does not expire: only after this process was killed.
            self._listeners.add(key, _stay, _STAY)
            self._key_options.lend(key, OWNED_TTL)
        if self._store.has_backend() and key in self._store.keys():  # noqa: SIM118
            self._atomic(key, lambda value: value)  # so that the Redis server knows of the deadline

    def _delete_owned(self, record: _Record, key: str) -> None:
        record.source.wait_for_last_run(LAST_RUN)  # which might set the key again
        try:
            if self._owners.get(key) is record:
                self._state.pop(key, None)
        finally:
            with self._lock:
                if self._owners.get(key) is record:  # else another session owns it by now
                    del self._owners[key]
                    self._listeners.discard(key, _STAY)
                    self._key_options.take_back(key)


def no_session(call: str) -> FastServerStateError:
    return FastServerStateError(
        f"{call} concerns the session that calls it, and this thread runs no session's script. Call it in the script "
        "or in a callback."
    )


def session_has_ended(call: str) -> FastServerStateError:
    return FastServerStateError(f"{call} was called in a session that has ended.")


def _do_nothing() -> None:
    """The task that only starts a thread."""


def _stay(value: object) -> None:
    """The listener of owned keys, which has nothing to do."""


_STAY = Identity(_stay)
