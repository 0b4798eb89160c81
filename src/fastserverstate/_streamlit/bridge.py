"""Connects the store and the rerun queue to Streamlit.

    read or write in a script thread ──► Bridge.resolve: which session and fragment is this?
    events of AppSession's runners   ──► start of a run, messages, end of a run
    events of the runner itself      ──► end of its thread's part in a run
    rerun queue                      ──► AppSession.request_rerun, on the session's event loop

A session is hooked when its script first uses shared state. From then on, an instance attribute replaces
`AppSession._on_scriptrunner_event`, to which Streamlit connects every new runner, so runs that do not use shared state
are followed too. The runner of the current run was connected before, so it is connected again.

The next run of a session may begin before the run that it replaces has ended. So the locks and transactions of a thread
do not end with the run of its session, but with the events of the thread's own runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from streamlit.runtime import Runtime
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import ScriptRunnerEvent, get_script_run_ctx

from fastserverstate._core import (
    RUN_APP_THREAD,
    RUN_CURRENT,
    RUN_REPLACED,
    RUN_STARTING,
    Scope,
    Session,
    Store,
    locate_scopes,
    on_leftovers,
)
from fastserverstate._streamlit.leftovers import warn_elsewhere, warn_of_leftovers
from fastserverstate._streamlit.lifecycle import Lifecycle
from fastserverstate._streamlit.names import ATTRIBUTE, CONTEXT_ATTRIBUTE, current_fragment_id, parallel, thread_state
from fastserverstate._streamlit.outbox import outbox_of
from fastserverstate._streamlit.runs import (
    BREAKS,
    ENDS,
    announce_stops,
    executed,
    is_rerun_requested,
    was_stopped,
    watch_workers,
)
from fastserverstate._streamlit.server import Server
from fastserverstate._streamlit.session import (
    AppSessionAdapter,
    UnknownSession,
    find_session,
    listen_to_requests,
    send_rest,
)
from fastserverstate._streamlit.widgets import watch_widgets
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.session import LiveSession
from fastserverstate.sessions import SessionEvents, Source


class PartOfRun(NamedTuple):
    live: LiveSession
    fragment_id: str | None


class Bridge(SessionEvents):
    """Connects a store and a scheduler to the Streamlit server of this process."""

    def __init__(self, store: Store, scheduler: Scheduler) -> None:
        self._store = store
        self._scheduler = scheduler
        self.server = Server()
        self.lifecycle = Lifecycle()
        self.lifecycle.tell(self)
        self._hooking = threading.RLock()
        self._hooked: dict[str, LiveSession] = {}  # by the id of the session
        on_leftovers(warn_elsewhere)
        watch_widgets()
        if parallel is not None:
            watch_workers(self._end_part)
            self._end_parts_of_workers()
        locate_scopes(
            CONTEXT_ATTRIBUTE,
            thread_state,
            "current_fragment_id" if thread_state is None else "fragment_id",
            self.resolve,
        )

    def resolve(self, context: Any, fragment: str | None) -> tuple[Session, Scope | None, int] | None:
        """Return the session, scope and kind of run that the calling thread takes part in.

        Called at a thread's first access in a run of a scope.
        """
        runner = context._enqueue.__self__
        live = context.__dict__.get(ATTRIBUTE)
        if live is None:
            live = context.__dict__[ATTRIBUTE] = self._session_of(context)
        if ATTRIBUTE not in runner.__dict__:
            self._follow(live, runner)
        if not isinstance(live, LiveSession) or not live.is_run_by(runner):
            return live, None, RUN_REPLACED
        if not context._has_script_started:
            # A callback. It does not show its reads, and the script may end before it has begun.
            return live, live.untracked_scope(), RUN_STARTING
        # Only Streamlit's pool threads inherit the context of a fragment. Threads of the app do not.
        is_of_run = threading.current_thread() is runner._script_thread or (
            thread_state is not None and fragment is not None
        )
        if fragment is None and context.fragment_ids_this_run:
            fragment = context.fragment_ids_this_run[0]  # a thread of the app
        return live, live.scope(fragment), RUN_CURRENT if is_of_run else RUN_APP_THREAD

    def part_of_run(self) -> PartOfRun | None:
        """Return the part of a session's current run that the calling thread takes, if a server runs it."""
        context: Any = get_script_run_ctx(suppress_warning=True)
        if context is None or not hasattr(context._enqueue, "__self__"):
            return None
        fragment_id = current_fragment_id(context)
        session, scope, _ = self.resolve(context, fragment_id) or (None, None, None)
        return PartOfRun(session, fragment_id) if isinstance(session, LiveSession) and scope is not None else None

    def session_of_run(self) -> LiveSession | None:
        """Return the session whose current run the calling thread takes part in, if a server runs it."""
        part = self.part_of_run()
        return None if part is None else part.live

    def _session_of(self, context: Any) -> Session:
        with self._hooking:  # parallel fragments may get here at the same time
            session = find_session(context.session_id)
            if session is None:
                return UnknownSession(self._store)
            live: LiveSession = session.__dict__.get(ATTRIBUTE) or self._hook(session)
            return live

    def _follow(self, session: Session, runner: Any) -> None:
        """End the thread's part in a run together with the run, and its waits when the run has to stop."""
        with self._hooking:
            if ATTRIBUTE in runner.__dict__:
                return
            runner.__dict__[ATTRIBUTE] = True

        def observe(sender: Any, event: ScriptRunnerEvent, **_details: Any) -> None:  # noqa: ARG001
            if event in ENDS:
                self._end_part()

        runner.on_event.connect(observe, weak=False)
        announce_stops(session, runner)

    def _end_part(self) -> None:
        """The calling thread's part in a run has ended."""
        self._scheduler.in_place.look()
        warn_of_leftovers(f"A run of {self._name_of_session()}", *self._store.end_holder())

    @staticmethod
    def _name_of_session() -> str:
        context: Any = get_script_run_ctx(suppress_warning=True)
        return "a session" if context is None else f"session {context.session_id}"

    def _end_parts_of_workers(self) -> None:
        """End a pool thread's part in a run with the parallel fragment that it runs."""
        attach = getattr(parallel._scoped_ctx_attach, ATTRIBUTE, parallel._scoped_ctx_attach)

        @contextlib.contextmanager
        def attach_and_end(context: Any) -> Iterator[None]:
            with attach(context):
                try:
                    yield
                finally:
                    self._end_part()

        setattr(attach_and_end, ATTRIBUTE, attach)
        parallel._scoped_ctx_attach = attach_and_end

    def _hook(self, session: AppSession) -> LiveSession:
        self.server.adopt()
        adapter = AppSessionAdapter(session, Runtime.instance()._session_mgr)
        live = LiveSession(self._store, adapter, self._scheduler.notices)
        adapter.on_gone = lambda: self._scheduler.retire(live)
        self._hooked[session.id] = live
        session_ref = weakref.ref(session)

        def on_scriptrunner_event(sender: Any, event: ScriptRunnerEvent, **details: Any) -> None:
            session = session_ref()
            if session is not None:
                if event is ScriptRunnerEvent.ENQUEUE_FORWARD_MSG and live.is_run_by(sender):
                    live.inbox.message_sent(details["forward_msg"])  # before the event loop gets it
                AppSession._on_scriptrunner_event(session, sender, event, **details)
                self._observe(live, session, sender, event)

        self._scheduler.adopt(live)
        runner = session._scriptrunner
        if runner is not None:
            live.run_started(runner)
            runner.on_event.connect(on_scriptrunner_event, weak=False)
            runner.on_event.disconnect(session._on_scriptrunner_event)
        session.__dict__["_on_scriptrunner_event"] = on_scriptrunner_event
        session.__dict__[ATTRIBUTE] = live
        listen_to_requests(session, lambda _: live.user_asked())
        outbox = outbox_of(session)
        outbox.inbox, outbox.unseen = live.inbox, live.unseen
        outbox.show_again = lambda: self._scheduler.show_notices(live)
        return live

    def _observe(
        self,
        live: LiveSession,
        session: AppSession | None,
        sender: Any,
        event: ScriptRunnerEvent,
    ) -> None:
        """Follow the runs of a session. Usually called on the runner's thread."""
        if event is ScriptRunnerEvent.ENQUEUE_FORWARD_MSG:
            if live.is_run_by(sender):
                live.message_sent()
        elif event is ScriptRunnerEvent.SCRIPT_STARTED:
            # For a message that it cannot read, Streamlit reports a run without a runner.
            if session is not None and sender is not None and sender is session._scriptrunner:
                announce_stops(live, sender)
                live.run_started(sender, is_asked_again=is_rerun_requested(sender))
        elif not live.is_run_by(sender):
            if event is ScriptRunnerEvent.SHUTDOWN and session is not None and sender is session._scriptrunner:
                self._scheduler.run_ended(live)  # it was told to stop before its first run
        elif event is ScriptRunnerEvent.SHUTDOWN:
            if session is not None:  # SystemExit and KeyboardInterrupt end a run without another event
                live.run_finished((), session._fragment_storage.contains)
            live.runner_ended = True
            self._scheduler.run_ended(live)
        elif session is not None:
            self._finish_run(live, session, sender, event)

    @staticmethod
    def _finish_run(live: LiveSession, session: AppSession, runner: Any, event: ScriptRunnerEvent) -> None:
        """Replace the subscriptions of the fragments that completed. The others are still on the screen."""
        contains = session._fragment_storage.contains
        if event in BREAKS or was_stopped(runner):
            live.run_finished((), contains, stopped=was_stopped(runner))
        else:
            complete, is_whole = executed()
            # Browsers remove elements that a whole run of the script has not sent again.
            live.run_finished(complete, complete.__contains__ if is_whole else contains)

    # What `Lifecycle` reports

    def started(self, source: Source) -> None:
        """A session that uses shared state is hooked by its first access, and others by the first notice."""
        session = find_session(source.id)
        if session is not None:
            outbox_of(session)

    def show_notices(self, before: int) -> None:
        """Show the notices that were added after this one in all sessions of the process. Called on any thread."""
        manager = getattr(Runtime.instance(), "_session_mgr", None) if Runtime.exists() else None
        active = [] if manager is None else manager.list_active_sessions()
        for loop in {info.session._event_loop for info in active}:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._show_notices, manager, loop, before)

    def _show_notices(self, manager: Any, loop: asyncio.AbstractEventLoop, before: int) -> None:
        for info in self.lifecycle.listed(manager):
            session = info.session
            if session._event_loop is loop:
                with self._hooking:
                    live = session.__dict__.get(ATTRIBUTE)
                    if live is None:
                        live = self._hook(session)
                        live.unseen.since(before)
                self._scheduler.show_notices(live)

    def resumed(self, session_id: str) -> None:
        """Show the session what it has missed."""
        session = find_session(session_id)
        live = None if session is None else session.__dict__.get(ATTRIBUTE)
        if session is not None and live is not None:
            send_rest(session)
            self._scheduler.returned(live)

    def ended(self, session_id: str) -> None:
        """Forget the session. It may stay in memory until a garbage collection."""
        live = self._hooked.pop(session_id, None)
        if live is not None:
            self._scheduler.retire(live)
