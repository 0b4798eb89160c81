"""A session of Streamlit, as the rerun queue sees it."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import Runtime
from streamlit.runtime.app_session import AppSession, AppSessionState
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.session_manager import SessionClientDisconnectedError

from fastserverstate._core import Session
from fastserverstate.rerun.session import Readiness

_DIED = "_fastserverstate_died"  # monotonic time when the runner's thread was first found dead
DEATH_NOTICE = 0.5  # seconds

_FLUSHED = "_fastserverstate_flushed"  # the messages of the session that are being sent

# More messages than this go through the session's own queue, which makes room in the client's queue while it is sent.
MOST_PAYLOADS = 100


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
        if len(session._browser_queue) or _is_being_flushed(session):
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
        info = None if session is None else self._manager.get_active_session_info(self._id)
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

    def unsent(self) -> list[Any]:
        session = self._session()
        return [] if session is None else session._browser_queue._queue

    def raise_if_stopped(self) -> None:
        raise_if_stopped()

    def __str__(self) -> str:
        return self._id


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


class _Flushed(list[Any]):
    """Messages that the runtime sends one by one. The session is being flushed until it has sent the last."""

    def __init__(self, messages: list[Any], session: AppSession) -> None:
        super().__init__(messages)
        self._session = session

    def __iter__(self) -> Iterator[Any]:
        self._session.__dict__[_FLUSHED] = self
        try:
            yield from super().__iter__()
        finally:
            if self._session.__dict__.get(_FLUSHED) is self:
                del self._session.__dict__[_FLUSHED]


def _is_being_flushed(session: AppSession) -> bool:
    return _FLUSHED in session.__dict__


class QueueObserver(Protocol):
    """Is told what happens to the messages of a session, on the event loop."""

    def queued(self, message: object) -> None: ...

    def flushed(self) -> None:
        """All messages are being sent."""

    def cleared(self) -> None:
        """Messages were discarded that a run has left."""


def watch_queue(session: AppSession, observer: QueueObserver) -> None:
    """Note while the runtime sends the session's messages, so that pushed ones do not get between them."""
    session_ref = weakref.ref(session)

    def enqueue_forward_msg(message: Any) -> None:
        session = session_ref()
        if session is not None:
            observer.queued(message)
            AppSession._enqueue_forward_msg(session, message)

    def flush_browser_queue() -> list[Any]:
        session = session_ref()
        messages = [] if session is None else AppSession.flush_browser_queue(session)
        observer.flushed()
        return messages if session is None or not messages else _Flushed(messages, session)

    def clear_queue(*args: Any, **kwargs: Any) -> None:
        session = session_ref()
        if session is not None:
            AppSession._clear_queue(session, *args, **kwargs)
            observer.cleared()

    session.__dict__["_enqueue_forward_msg"] = enqueue_forward_msg
    session.__dict__["flush_browser_queue"] = flush_browser_queue
    session.__dict__["_clear_queue"] = clear_queue


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
