"""When sessions start, pause, resume and end.

Streamlit's session manager connects, disconnects and closes sessions. Its class is patched, since a manager may be
created later. A disconnected session is stored for a while and can be resumed. Streamlit discards it silently, when it
next uses the storage: so a timer on the event loop looks whether the stored sessions are still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

from streamlit.runtime import Runtime
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.websocket_session_manager import WebsocketSessionManager

from fastserverstate._streamlit.connections import GOING_AWAY, watch_closing, when_closed
from fastserverstate._streamlit.names import ATTRIBUTE
from fastserverstate._streamlit.session import find_session, is_agent, listen_to_requests, page_of, raise_if_stopped
from fastserverstate._streamlit.users import user_of
from fastserverstate.sessions import SessionEvents, Source, no_session, session_has_ended

logger = logging.getLogger("fastserverstate")

# Seconds between two looks for discarded sessions. There are none while no session is stored.
LOOK = 0.5


class SessionSource:
    """Adapts an AppSession to `sessions.Source`."""

    def __init__(self, session: AppSession) -> None:
        self.id = session.id
        self.user = user_of(session)
        self.is_agent = is_agent(session)
        self._session = weakref.ref(session)
        self._state = session._session_state

    def page(self) -> str:
        session = self._session()
        return "" if session is None else page_of(session, session._client_state)

    def wait_for_last_run(self, seconds: float) -> None:
        session = self._session()
        runner = None if session is None else session._scriptrunner
        del session
        thread = None if runner is None else runner._script_thread
        if thread is not None:
            thread.join(seconds)

    def session_state(self) -> dict[str, Any]:
        return self._state.filtered_state


class Lifecycle:
    """Tells listeners of all sessions of the process.

    Thread-safety
        `current` is safe from any thread. `watch` is called once. Everything else happens on the event loop.
    """

    def __init__(self) -> None:
        self._listeners: list[SessionEvents] = []

    def tell(self, listener: SessionEvents) -> None:
        """Tell a listener from now on."""
        self._listeners.append(listener)

    def _tell(self, event: str, *args: Any) -> None:
        for listener in self._listeners:
            try:
                getattr(listener, event)(*args)
            except Exception:
                logger.exception("A session has %s, and that could not be processed.", event)

    def watch(self) -> None:
        """Watch the sessions of the server that runs, or of one that starts later."""
        manager = getattr(Runtime.instance(), "_session_mgr", None) if Runtime.exists() else None
        self._patch(WebsocketSessionManager if manager is None else type(manager))
        active = [] if manager is None else manager.list_active_sessions()
        if active:  # the stored ones may be listed on the event loop only
            active[0].session._event_loop.call_soon_threadsafe(self._find, manager)

    def current(self, call: str) -> Source | None:
        """See `sessions.Current`."""
        context: Any = get_script_run_ctx(suppress_warning=True)
        if context is None:
            raise no_session(call)
        session = find_session(context.session_id)
        if session is not None:
            return SessionSource(session)
        if Runtime.exists() and getattr(Runtime.instance(), "_session_mgr", None) is not None:
            raise_if_stopped()  # Streamlit stops the runs of sessions that are not connected
            raise session_has_ended(call)
        return None

    def listed(self, manager: Any) -> list[Any]:
        """Return the sessions of a manager, also those that are away. Called on the event loop."""
        found = self._away(manager).listed()
        return manager.list_active_sessions() if found is None else found

    def _patch(self, manager_class: Any) -> None:
        connect, disconnect, close = (
            getattr(manager_class, name) for name in ("connect_session", "disconnect_session", "close_session")
        )

        @functools.wraps(connect)
        def connect_session(manager: Any, *args: Any, **kwargs: Any) -> str:
            session_id: str = connect(manager, *args, **kwargs)
            try:
                self._connected(manager, session_id)
            except Exception:  # must not reach Streamlit, which has connected it
                logger.exception("A session has connected, and that could not be processed.")
            return session_id

        @functools.wraps(disconnect)
        def disconnect_session(manager: Any, session_id: str) -> None:
            was_active = manager.is_active_session(session_id)
            info = manager.get_active_session_info(session_id)
            try:
                disconnect(manager, session_id)
            finally:
                if was_active and not manager.is_active_session(session_id):
                    self._away(manager).add(session_id)
                    if info is not None:
                        when_closed(info.client, functools.partial(self._closed, manager, session_id))

        @functools.wraps(close)
        def close_session(manager: Any, session_id: str) -> None:
            try:
                close(manager, session_id)
            finally:
                if not manager.is_active_session(session_id):
                    self._away(manager).ids.discard(session_id)
                    self._tell("ended", session_id)

        manager_class.connect_session = connect_session
        manager_class.disconnect_session = disconnect_session
        manager_class.close_session = close_session

    def _closed(self, manager: Any, session_id: str, code: int | None) -> None:
        """The connection that the session had was closed, with this code."""
        if code == GOING_AWAY and session_id in self._away(manager).ids:
            self._tell("left", session_id)

    def _connected(self, manager: Any, session_id: str) -> None:
        away = self._away(manager)
        info = manager.get_active_session_info(session_id)
        watch_closing(info.client)
        if session_id in away.ids:
            away.ids.discard(session_id)
            self._tell("resumed", session_id)
        else:
            self._started(info.session)

    def _find(self, manager: Any) -> None:
        """Find the sessions that were connected before `watch`."""
        away = self._away(manager)
        for info in away.listed() or ():
            self._started(info.session)
            if not manager.is_active_session(info.session.id):
                away.add(info.session.id)

    def _started(self, session: AppSession) -> None:
        self._tell("started", SessionSource(session))
        session_ref = weakref.ref(session)

        def requested(client_state: Any) -> None:
            session = session_ref()
            if session is None or client_state is None:  # the page stays
                return
            try:
                page = page_of(session, client_state)
            except Exception:  # must not keep the session from its run
                logger.exception("The page that a session has requested could not be found.")
            else:
                self._tell("requested", session.id, page)

        listen_to_requests(session, requested)

    def _away(self, manager: Any) -> _Away:
        away: _Away = manager.__dict__.setdefault(ATTRIBUTE, None) or _Away(manager, self._tell)
        manager.__dict__[ATTRIBUTE] = away
        return away


class _Away:
    """The sessions of a manager that are disconnected and can be resumed. Used on the event loop."""

    def __init__(self, manager: Any, tell: Callable[[str, str], None]) -> None:
        self._manager = weakref.ref(manager)
        self._tell = tell
        self.ids: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, session_id: str) -> None:
        """A session was disconnected. Streamlit may have discarded it, or another one to make room."""
        self.ids.add(session_id)
        known = self._known()
        if known is None or session_id in known:
            self._tell("paused", session_id)
        self._end(known)
        self._watch()

    def listed(self) -> list[Any] | None:
        manager = self._manager()
        with contextlib.suppress(KeyError):  # a session expires while Streamlit lists them: look again later
            return [] if manager is None else list(manager.list_sessions())
        return None

    def _known(self) -> set[str] | None:
        listed = self.listed()
        return None if listed is None else {info.session.id for info in listed}

    def _end(self, known: set[str] | None) -> None:
        if known is not None:
            for session_id in sorted(self.ids - known):
                self.ids.discard(session_id)
                self._tell("ended", session_id)

    def _watch(self) -> None:
        if self.ids and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        self._end(self._known())
        self._watch()
