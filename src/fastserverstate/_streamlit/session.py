"""A session of Streamlit, as the rerun queue sees it."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Any

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import Runtime
from streamlit.runtime.app_session import AppSession, AppSessionState
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.session_manager import SessionClientDisconnectedError

from fastserverstate._core import Session
from fastserverstate._streamlit.names import CAN_PUSH
from fastserverstate._streamlit.outbox import is_being_flushed, outbox_of
from fastserverstate.rerun.notices import Notice
from fastserverstate.rerun.session import Readiness

_DIED = "_fastserverstate_died"  # monotonic time when the runner's thread was first found dead
DEATH_NOTICE = 0.5  # seconds

# Browsers that cannot be pushed to draw while they believe that a script runs: for so many seconds.
DRAWING = 0.1

# More messages than this go through the session's own queue, which makes room in the client's queue while it is sent.
MOST_PAYLOADS = 100


class AppSessionAdapter:
    """Adapts an AppSession to `rerun.session.SessionAdapter`, without keeping it alive."""

    def __init__(self, session: AppSession, manager: Any) -> None:
        self._session = weakref.ref(session, lambda _: self.on_gone())
        self.on_gone: Callable[[], None] = lambda: None
        self._manager = manager
        self.id = session.id
        self._loop: asyncio.AbstractEventLoop = session._event_loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def readiness(self) -> Readiness:
        session = self._session()
        if session is None or session._state is AppSessionState.SHUTDOWN_REQUESTED:
            return Readiness.GONE
        if not self._manager.is_active_session(self.id):
            return Readiness.AWAY
        if session._scriptrunner is not None and not _has_died(session._scriptrunner):
            return Readiness.RUNNING
        if len(session._browser_queue) or is_being_flushed(session):
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

    def push(self, payloads: list[bytes]) -> bool:
        session = self._session()
        info = None if session is None else self._manager.get_active_session_info(self.id)
        if session is None or info is None or not _is_receptive(info.client):
            return False
        if len(payloads) > MOST_PAYLOADS:
            for payload in payloads:
                session._enqueue_forward_msg(ForwardMsg.FromString(payload))
            return True
        try:
            for payload in payloads:
                info.client.write_forward_msg(_Serialized(payload))
        except SessionClientDisconnectedError:
            return True  # the browser comes back with a run, or never
        return True

    def show(self, notices: list[Notice]) -> bool:
        session = self._session()
        if session is None:
            return False
        info = self._manager.get_active_session_info(self.id)
        if info is None or not _is_receptive(info.client):
            return False
        payloads = outbox_of(session).payloads(notices)
        if not CAN_PUSH:
            payloads = [_status(session, True), *payloads]
            self._loop.call_later(DRAWING, self._end_drawing)
        return self.push(payloads)

    def _end_drawing(self) -> None:
        session = self._session()
        if session is not None and self.readiness() is Readiness.READY:  # else a run tells the browser when it ends
            self.push([_status(session, False)])

    def unsent(self) -> list[Any]:
        session = self._session()
        return [] if session is None else session._browser_queue._queue

    def raise_if_stopped(self) -> None:
        raise_if_stopped()

    def __str__(self) -> str:
        return self.id


def _status(session: AppSession, is_running: bool) -> bytes:
    message = ForwardMsg()
    message.session_status_changed.run_on_save = session._run_on_save
    message.session_status_changed.script_is_running = is_running
    payload: bytes = message.SerializeToString()
    return payload


class _Serialized:
    """A message for a client of Streamlit, serialized already."""

    hash = "set"  # releases such as 1.44 set it otherwise

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self._payload


def _is_receptive(client: Any) -> bool:
    """Whether the client has sent all messages that it was given."""
    queue = getattr(client, "_send_queue", None)
    if queue is not None:
        return bool(queue.empty())
    connection = getattr(client, "ws_connection", None)  # of Tornado, which older releases use
    stream = getattr(connection, "stream", None)
    return stream is None or not stream.writing()


def send_rest(session: AppSession) -> None:
    """Have the runtime send the messages that a disconnected session has left. It would wait for another one."""
    enqueued = session._message_enqueued_callback
    if len(session._browser_queue) and enqueued is not None:
        enqueued()


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


def is_agent(session: AppSession) -> bool:
    """Whether the session's client is one of Streamlit's agent API, and no browser."""
    info = Runtime.instance()._session_mgr.get_active_session_info(session.id) if Runtime.exists() else None
    return info is not None and type(info.client).__module__.startswith("streamlit.runtime.agent")


def page_of(session: AppSession, client_state: Any) -> str:
    """Return the path of the page that a client's state names, "" for the main page."""
    pages = session._pages_manager
    page_hash: str = client_state.page_script_hash
    if not page_hash:
        return str(client_state.page_name)
    page: Any = pages.get_pages().get(page_hash, {})
    if page_hash == pages.main_script_hash:
        return ""
    return str(page.get("url_pathname", page.get("page_name", "")))


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
