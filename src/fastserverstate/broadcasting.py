"""`broadcast`: show a toast in every open session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec

from fastserverstate._core import HIDDEN, Store
from fastserverstate.event_log import Log, Logs
from fastserverstate.identity import Identity
from fastserverstate.listeners import Listeners
from fastserverstate.rerun.inbox import Cursor
from fastserverstate.rerun.notices import Notices
from fastserverstate.sessions import SessionEvents, Source
from fastserverstate.workers import Workers

KEY = HIDDEN + "broadcast"
KEEP = 100
SECONDS = 60.0  # that a notice waits for sessions that are away

P = ParamSpec("P")


class Broadcasts(SessionEvents):
    """The notices for all sessions of all servers that share a store.

    Thread-safety
        Safe from any thread.
    """

    def __init__(
        self,
        store: Store,
        listeners: Listeners,
        *,
        expire: Callable[..., None],
        workers: Workers,
        notices: Notices,
        element_of: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], bytes],
        show: Callable[[int], None],
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._listeners = listeners
        self._workers = workers
        self._notices = notices
        self._element_of = element_of
        self._show = show
        self._now = now
        self._logs = Logs(store, expire, now)
        self._identity = Identity(self._changed)
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._cursor = Cursor(None, 0)
        self._since: int | None = None  # when it began to listen

    def broadcast(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Show a toast in every open session, without running its script: ``broadcast(st.toast, "text", icon=...)``.

        The function is ``st.toast``, ``st.balloons`` or ``st.snow``, and its arguments follow it. It is called once,
        and the element is sent to the browsers of all sessions, on all servers that share the state, also of sessions
        that do not use shared state. A session whose script runs shows it after that run, also the one that calls
        this. A session that is away shows it if it returns within a minute. A session that opens later does not show
        it.

        A toast stays for its time when a run of the session begins or ends; up to some release after Streamlit 1.58,
        whose browsers remove it then, it is shown again. Inside a transaction, this happens when the transaction
        ends. In ``AppTest``, nothing is shown.

        To show anything else to all sessions, use `live`. To run code in each session, use `emit`.

        Thread-safety
            Safe from any thread.

        Raises
            ``FastServerStateError`` for another function and, before Streamlit 1.44, for all but ``st.toast``;
            ``DeadlockError`` if the wait for the lock would never end; and what the function raises for wrong
            arguments.

        >>> import streamlit as st
        >>> from fastserverstate import broadcast
        >>> broadcast(st.toast, "Deploy at noon", icon="🚀")
        """
        element = self._element_of(function, args, kwargs)
        self._logs.append(KEY, element, int(SECONDS * 1e9), KEEP)

    # Showing

    def listen(self) -> None:
        """Show notices in the sessions of this process from now on. Does nothing if it does so."""
        with self._lock:
            if self._since is not None:
                return
            self._since = self._now()
        self._listeners.add(KEY, self._changed, self._identity)

    def _changed(self, _value: object) -> None:
        self._workers.submit(self._collect, "A broadcast")

    def _collect(self) -> None:
        log: Log | None = self._store.peek(KEY, None)
        with self._lock:
            if self._since is None:
                return
            items = [item for item in self._cursor.unread(KEY, log, self._now()) if self._cursor.take(item)]
            before = self._notices.last
            elements = [item.event[3] for item in items if item.event[1] >= self._since]
            for element in elements:
                self._notices.add(element, SECONDS)
        if elements:
            self._show(before)

    # What `Lifecycle` reports

    def started(self, source: Source) -> None:  # noqa: ARG002
        """A session has started: this process is a server."""
        self.listen()
