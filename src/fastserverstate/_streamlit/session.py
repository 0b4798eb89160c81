"""A session of Streamlit, as the rerun queue sees it."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Any

from streamlit.runtime import Runtime
from streamlit.runtime.app_session import AppSession, AppSessionState
from streamlit.runtime.scriptrunner import get_script_run_ctx

from fastserverstate._core import Session
from fastserverstate.rerun.session import Readiness

_DIED = "_fastserverstate_died"  # monotonic time when the runner's thread was first found dead
DEATH_NOTICE = 0.5  # seconds


class AppSessionAdapter:
    """Adapts an AppSession to `rerun.session.SessionAdapter`, without keeping it alive."""

    def __init__(self, session: AppSession, manager: Any) -> None:
        self._session = weakref.ref(session, lambda _: self.on_gone())
        self.on_gone: Callable[[], None] = lambda: None
        self._manager = manager
        self._id = session.id
        self._loop: asyncio.AbstractEventLoop = session._event_loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def readiness(self) -> Readiness:
        session = self._session()
        if session is None or session._state is AppSessionState.SHUTDOWN_REQUESTED:
            return Readiness.GONE
        if not self._manager.is_active_session(self._id):
            return Readiness.AWAY
        if session._scriptrunner is not None and not _has_died(session._scriptrunner):
            return Readiness.RUNNING
        if len(session._browser_queue):
            return Readiness.SENDING
        return Readiness.READY

    def has_fragment(self, fragment: str) -> bool:
        session = self._session()
        return session is not None and session._fragment_storage.contains(fragment)

    def request_rerun(self, fragment: str | None) -> None:
        session = self._session()
        if session is None:
            return
        # Without widget states, the session keeps its own. The copy has the page and the query string.
        state = type(session._client_state)()
        state.CopyFrom(session._client_state)
        if fragment is not None:
            state.fragment_id = fragment
        AppSession.request_rerun(session, state)  # not the session's attribute, which counts requests of users

    def raise_if_stopped(self) -> None:
        raise_if_stopped()

    def __str__(self) -> str:
        return self._id


def _has_died(runner: Any) -> bool:
    """Whether SystemExit has ended the runner's thread, which older releases do not report."""
    if runner._script_thread is None or runner._script_thread.is_alive():
        return False
    # After any other end, AppSession is about to be told, and to store the page and the query string.
    now = time.monotonic()
    died: float = runner.__dict__.setdefault(_DIED, now)
    return now - died > DEATH_NOTICE


def raise_if_stopped() -> None:
    """Raise the exception that ends the calling thread's run, if that run has to end."""
    context: Any = get_script_run_ctx(suppress_warning=True)
    if context is not None:
        context._enqueue.__self__._maybe_handle_execution_control_request()


class UnknownSession(Session):
    """A runner without an AppSession, as in AppTest. It is never rerun, but its waits can be ended."""

    def raise_if_stopped(self) -> None:
        raise_if_stopped()

    def __repr__(self) -> str:
        return "a session without a server"


def find_session(session_id: str) -> AppSession | None:
    if not Runtime.exists():
        return None
    manager = getattr(Runtime.instance(), "_session_mgr", None)  # AppTest has a runtime without one
    info = None if manager is None else manager.get_active_session_info(session_id)
    session = None if info is None else info.session
    return session if isinstance(session, AppSession) else None


def listen_to_requests(session: AppSession, listen: Callable[[Any], None]) -> None:
    """Call a function with the client's state before every rerun of the session that this package did not request."""
    session_ref = weakref.ref(session)
    request: Callable[[Any], None] | None = session.__dict__.get("request_rerun")

    def request_rerun(client_state: Any) -> None:
        listen(client_state)
        session = session_ref()
        if request is not None:
            request(client_state)
        elif session is not None:
            AppSession.request_rerun(session, client_state)

    session.__dict__["request_rerun"] = request_rerun
