"""Streamlit's side: the only file that knows its private names.

    read or write in a script thread ──► Bridge.resolve: which session and fragment is this?
    AppSession's runner events       ──► start of a run, messages, end of a run
    the runner's own events          ──► end of the part that its thread has in a run
    scheduler                        ──► AppSession.request_rerun, on the session's event loop

A session is hooked when its script first touches shared state. Its later runners are followed by an instance attribute
that takes the place of `AppSession._on_scriptrunner_event`, which every runner is connected to: so runs that no longer
touch shared state are seen as well. The runner of the run that is going on then already is connected, and gets a
receiver of its own.

A session's next run may begin while the one that it replaces is still on its way out. So what a thread holds does not
end with "the" run of its session, but with the events of its own runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import streamlit
from streamlit import config

from fastserverstate._core import (
    RUN_BESIDE,
    RUN_CURRENT,
    RUN_REPLACED,
    RUN_STARTING,
    Scope,
    Session,
    Store,
    locate_scopes,
    on_leftovers,
    wake_waiters,
)
from fastserverstate.errors import FastServerStateError
from fastserverstate.metrics import Figure
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.session import LiveSession, Readiness

if TYPE_CHECKING:
    from fastserverstate.shared_widgets import Refusals

logger = logging.getLogger("fastserverstate")

OLDEST = "1.37"
NEWEST = "1.67"


def unsupported(lacks: str) -> ImportError:
    following = f"1.{int(NEWEST.partition('.')[2]) + 1}"
    return ImportError(
        f"fastserverstate supports Streamlit {OLDEST} to {NEWEST}; the installed Streamlit {streamlit.__version__} "
        f'lacks {lacks}. Install a supported release: pip install "streamlit>={OLDEST},<{following}"'
    )


try:
    from streamlit.delta_generator import DeltaGenerator
    from streamlit.elements.form import is_in_form  # type: ignore[attr-defined]
    from streamlit.elements.lib import policies
    from streamlit.runtime import Runtime, stats
    from streamlit.runtime.app_session import AppSession, AppSessionState
    from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
    from streamlit.runtime.fragment import MemoryFragmentStorage
    from streamlit.runtime.scriptrunner import ScriptRunContext, ScriptRunner, ScriptRunnerEvent, get_script_run_ctx
    from streamlit.runtime.session_manager import ActiveSessionInfo, SessionInfo
    from streamlit.runtime.state import SafeSessionState
    from streamlit.runtime.state.common import WidgetMetadata
    from streamlit.runtime.state.session_state import STREAMLIT_INTERNAL_KEY_PREFIX, SessionState, WStates
    from streamlit.runtime.websocket_session_manager import WebsocketSessionManager

    from fastserverstate._offers import Offer, element_being_registered

    _context_module = sys.modules[get_script_run_ctx.__module__]
    _CONTEXT_ATTRIBUTE: str = _context_module.SCRIPT_RUN_CONTEXT_ATTR_NAME
except (ImportError, AttributeError) as error:
    raise unsupported(f"a name ({error})") from error

_ATTRIBUTE = "_fastserverstate"  # of AppSession and ScriptRunContext: the LiveSession
_DIED = "_fastserverstate_died"  # when its thread was first found to have ended, on the monotonic clock
DEATH_NOTICE = 0.5  # seconds

_NOTHING: Any = object()
_UNREADABLE = type("unreadable", (), {})()  # in place of what a browser has sent

# Kinds of values that Streamlit takes back at the end of a run.
_TRIGGERS = {"trigger_value", "string_trigger_value", "json_trigger_value", "chat_input_value"}

# Streamlit 1.53 gave metrics families of their own. Before, all of them were sizes of caches.
_HAS_FAMILIES = not hasattr(stats, "CacheStatsProvider")

# Up to Streamlit 1.43, browsers buffer what a run sends, and may lose widgets if the next run comes at once.
_BROWSERS_FORGET = tuple(map(int, streamlit.__version__.split(".")[:2])) < (1, 44)

# Streamlit 1.58 has parallel fragments, which run on threads of a pool.
_parallel: Any = sys.modules.get("streamlit.runtime.parallel_coordinator")

# Streamlit 1.58 moved the current fragment from the context to a context variable, for parallel fragments.
_thread_state = getattr(_context_module, "_thread_state", None)
_thread_safe_set: Any = getattr(
    sys.modules.get("streamlit.runtime.scriptrunner_utils.thread_safe_set"), "ThreadSafeSet", None
)

# It also moved what a run has made to an object of its own.
_RunRecord: Any = getattr(_context_module, "SharedRunState", ScriptRunContext.reset)

_NEEDED: dict[Any, set[str]] = {
    AppSession: {
        "_browser_queue",
        "_client_state",
        "_event_loop",
        "_fragment_storage",
        "_on_scriptrunner_event",
        "_scriptrunner",
        "_state",
        "request_rerun",
    },
    AppSession._create_scriptrunner: {"_on_scriptrunner_event", "on_event"},
    AppSessionState: {"SHUTDOWN_REQUESTED"},
    ActiveSessionInfo: {"session"},
    SessionInfo: {"session"},
    config: {"get_option", "set_option"},
    streamlit: {"_main", "session_state"},
    policies.check_widget_policies: {"check_session_state_rules"},
    ForwardMsgQueue: {"__len__"},
    MemoryFragmentStorage: {"contains"},
    Runtime: {"_session_mgr", "exists", "instance", "stats_mgr"},
    ScriptRunContext: {
        "_enqueue",
        "_has_script_started",
        "fragment_ids_this_run",
        "session_id",
        "session_state",
        *(["current_fragment_id"] if _thread_state is None else []),
    },
    _RunRecord: {"new_fragment_ids", "widget_ids_this_run", "widget_user_keys_this_run"},
    **({} if _thread_safe_set is None else {_thread_safe_set: {"_data", "_lock", "snapshot"}}),
    SafeSessionState.register_widget: {"_state"},
    stats.StatsManager: {"get_stats", "register_provider"},
    ScriptRunner: {
        "_maybe_handle_execution_control_request",
        "_requests",
        "_script_thread",
        "on_event",
        "request_rerun",
        "request_stop",
    },
    ScriptRunnerEvent: {
        "ENQUEUE_FORWARD_MSG",
        "FRAGMENT_STOPPED_WITH_SUCCESS",
        "SCRIPT_STARTED",
        "SCRIPT_STOPPED_FOR_RERUN",
        "SCRIPT_STOPPED_WITH_COMPILE_ERROR",
        "SCRIPT_STOPPED_WITH_SUCCESS",
        "SHUTDOWN",
    },
    SessionState: {
        "_get_widget_id",
        "_getitem",
        "_new_session_state",
        "_new_widget_state",
        "_old_state",
        "_widget_changed",
        "is_new_state_value",
        "register_widget",
        "set_widgets_from_proto",
    },
    WidgetMetadata: {"deserializer", "fragment_id", "value_type"},
    WStates: {"get_serialized", "set_from_value", "set_widget_from_proto", "widget_metadata"},
    WebsocketSessionManager: {
        "close_session",
        "connect_session",
        "disconnect_session",
        "get_active_session_info",
        "is_active_session",
        "list_sessions",
    },
    **(
        {}
        if _parallel is None
        else {
            _parallel: {"_scoped_ctx_attach"},
            _parallel.ParallelFragmentCoordinator: {"_stop_event", "drain", "join", "request_rerun", "request_stop"},
        }
    ),
}


def missing_names() -> list[str]:
    """What the installed Streamlit lacks of the names that this file uses."""
    missing = []
    for owner, names in _NEEDED.items():
        # Attributes that a function sets or uses are among the names of its code.
        function = vars(owner).get("__init__") if isinstance(owner, type) else owner
        known = {*dir(owner), *getattr(getattr(function, "__code__", None), "co_names", ())}
        known.update(getattr(owner, "__dataclass_fields__", ()))
        missing += [f"{getattr(owner, '__qualname__', owner.__name__)}.{name}" for name in sorted(names - known)]
    return missing


def check_streamlit() -> None:
    missing = missing_names()
    if missing:
        raise unsupported(", ".join(missing))


class AppSessionLink:
    """An AppSession as a `rerun.session.SessionLink`. Does not keep it alive."""

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
        # Without widget states the session keeps those that it has; page and query string come with the copy.
        state = type(session._client_state)()
        state.CopyFrom(session._client_state)
        if fragment is not None:
            state.fragment_id = fragment
        AppSession.request_rerun(session, state)  # which the session's own attribute takes for a user's

    def raise_if_stopped(self) -> None:
        _raise_if_stopped()

    def __str__(self) -> str:
        return self._id


def _has_died(runner: Any) -> bool:
    """Whether SystemExit has ended a runner's thread. Older releases do not tell of that."""
    if runner._script_thread is None or runner._script_thread.is_alive():
        return False
    # After any other end, AppSession is about to hear of it, and to note the page and the query string.
    now = time.monotonic()
    died: float = runner.__dict__.setdefault(_DIED, now)
    return now - died > DEATH_NOTICE


def _was_stopped(runner: Any) -> bool:
    """Whether a run ends because it was asked to stop, as by the Stop button or by the end of its connection."""
    request = runner._requests._state
    return request is type(request).STOP


def _raise_if_stopped() -> None:
    """Raise what ends the run that the calling thread is in, if it is to end."""
    context: Any = get_script_run_ctx(suppress_warning=True)
    if context is not None:
        context._enqueue.__self__._maybe_handle_execution_control_request()


class UnknownSession(Session):
    """The runs of a runner that no AppSession has, as AppTest's. Nothing reruns them, but their waits can be ended."""

    def raise_if_stopped(self) -> None:
        _raise_if_stopped()

    def __repr__(self) -> str:
        return "a session without a server"


# What ends the part that a thread has in a run. After a compile error there was none.
_ENDS = (
    ScriptRunnerEvent.FRAGMENT_STOPPED_WITH_SUCCESS,
    ScriptRunnerEvent.SCRIPT_STOPPED_FOR_RERUN,
    ScriptRunnerEvent.SCRIPT_STOPPED_WITH_SUCCESS,
    ScriptRunnerEvent.SHUTDOWN,  # of a run that KeyboardInterrupt has ended
)

# What ends a run before the script has come to its end.
_BREAKS = (ScriptRunnerEvent.SCRIPT_STOPPED_FOR_RERUN, ScriptRunnerEvent.SCRIPT_STOPPED_WITH_COMPILE_ERROR)


def _announce_stops(session: Session, runner: Any) -> None:
    """Have threads of the session that wait look up when the user clicks again or closes the page."""
    session_ref = weakref.ref(session)

    def announcing(name: str) -> Callable[..., Any]:
        request = getattr(runner, name)

        def announce(*args: Any, **kwargs: Any) -> Any:
            result = request(*args, **kwargs)
            session = session_ref()
            if session is not None:
                session.stop_waiting()
            return result

        return announce

    for name in ("request_stop", "request_rerun"):
        runner.__dict__[name] = announcing(name)


def _watch_workers(end_part: Callable[[], None]) -> None:
    """Have threads that run a parallel fragment and wait look up when they are to stop. Once in a process.

    The script's thread has no part in the run while it waits for them: they may want what it holds.
    """
    coordinator: Any = _parallel.ParallelFragmentCoordinator
    if _ATTRIBUTE in coordinator.__dict__:
        return
    setattr(coordinator, _ATTRIBUTE, True)
    request_stop, request_rerun, drain = coordinator.request_stop, coordinator.request_rerun, coordinator.drain
    join = coordinator.join

    def request_stop_and_wake(self: Any) -> None:
        request_stop(self)
        wake_waiters()

    def request_rerun_and_wake(self: Any, exc: Any) -> None:
        request_rerun(self, exc)
        wake_waiters()

    def wake_and_drain(self: Any) -> None:
        self._stop_event.set()
        wake_waiters()
        drain(self)  # waits for them

    def end_part_and_join(self: Any) -> None:
        end_part()
        join(self)

    coordinator.join = end_part_and_join
    coordinator.request_stop = request_stop_and_wake
    coordinator.request_rerun = request_rerun_and_wake
    coordinator.drain = wake_and_drain


class Metric:
    """A figure as a `streamlit.runtime.stats.Stat`."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self.family_name = figure.name
        self.type = figure.kind
        self.unit = figure.unit
        self.help = figure.help

    def to_metric_str(self) -> str:
        figure = self._figure
        labels = ",".join(f'{name}="{value}"' for name, value in figure.labels.items())
        line = f"{figure.name}{'_total' * (figure.kind == 'counter')}{{{labels}}} {figure.value}"
        if _HAS_FAMILIES:
            return line
        unit = [f"# UNIT {figure.name} {figure.unit}"] if figure.unit else []
        return "\n".join([f"# TYPE {figure.name} {figure.kind}", *unit, f"# HELP {figure.name} {figure.help}", line])

    def marshall_metric_proto(self, metric: Any) -> None:
        if not _HAS_FAMILIES:
            return  # it would be added to the sizes of caches
        for name, value in self._figure.labels.items():
            metric.labels.add(name=name, value=value)
        point = metric.metric_points.add()
        (point.gauge_value if self.type == "gauge" else point.counter_value).double_value = self._figure.value


class Metrics:
    """Figures among those of Streamlit's metrics endpoint, as a provider of its `StatsManager`."""

    def __init__(self, names: Sequence[str], collect: Callable[[], Iterable[Figure]]) -> None:
        self.stats_families = names
        self._collect = collect

    def get_stats(self, family_names: Collection[str] | None = None) -> Any:
        found = [Metric(figure) for figure in self._collect() if not family_names or figure.name in family_names]
        return {metric.family_name: [metric] for metric in found} if _HAS_FAMILIES else found


class Bridge:
    """Connects a store and a scheduler to the Streamlit server of this process."""

    def __init__(self, store: Store, scheduler: Scheduler) -> None:
        self._store = store
        self._scheduler = scheduler
        self._metrics: Metrics | None = None
        self._hooking = threading.RLock()
        self._hooked: dict[str, LiveSession] = {}  # by the id of the session
        on_leftovers(_warn_elsewhere)
        _watch_widgets()
        if _parallel is not None:
            _watch_workers(self._end_part)
            self._end_parts_of_workers()
        locate_scopes(
            _CONTEXT_ATTRIBUTE,
            _thread_state,
            "current_fragment_id" if _thread_state is None else "fragment_id",
            self.resolve,
        )

    def resolve(self, context: Any, fragment: str | None) -> tuple[Session, Scope | None, int] | None:
        """What the calling thread, with this script context and fragment id, is part of.

        Called at a thread's first access in a run of a scope.
        """
        runner = context._enqueue.__self__
        live = context.__dict__.get(_ATTRIBUTE)
        if live is None:
            live = context.__dict__[_ATTRIBUTE] = self._session_of(context)
        if _ATTRIBUTE not in runner.__dict__:
            self._follow(live, runner)
        if not isinstance(live, LiveSession) or not live.is_run_by(runner):
            return live, None, RUN_REPLACED
        if not context._has_script_started:
            # A callback. What it reads is not shown by itself, and the script may be given up before it has begun.
            return live, live.bystander(), RUN_STARTING
        # The contexts of fragments are inherited by the threads of a pool, and by no thread of the app's own.
        is_of_run = threading.current_thread() is runner._script_thread or (
            _thread_state is not None and fragment is not None
        )
        if fragment is None and context.fragment_ids_this_run:
            fragment = context.fragment_ids_this_run[0]  # a thread of the app's own
        return live, live.scope(fragment), RUN_CURRENT if is_of_run else RUN_BESIDE

    def _session_of(self, context: Any) -> Session:
        with self._hooking:  # parallel fragments may be first at the same time
            session = _find_session(context.session_id)
            if session is None:
                return UnknownSession(self._store)
            live: LiveSession = session.__dict__.get(_ATTRIBUTE) or self._hook(session)
            return live

    def _follow(self, session: Session, runner: Any) -> None:
        """End the part of a runner's thread when its run does, and its waits when they are to end."""
        with self._hooking:
            if _ATTRIBUTE in runner.__dict__:
                return
            runner.__dict__[_ATTRIBUTE] = True

        def observe(sender: Any, event: ScriptRunnerEvent, **_details: Any) -> None:  # noqa: ARG001
            if event in _ENDS:
                self._end_part()

        runner.on_event.connect(observe, weak=False)
        _announce_stops(session, runner)

    def _end_part(self) -> None:
        """The calling thread's part in a run is over."""
        self._scheduler.in_place.look()
        _warn_of_leftovers(f"A run of {self._name_of_session()}", *self._store.end_holder())

    @staticmethod
    def _name_of_session() -> str:
        context: Any = get_script_run_ctx(suppress_warning=True)
        return "a session" if context is None else f"session {context.session_id}"

    def _end_parts_of_workers(self) -> None:
        """A thread of a pool takes part in a run while it runs a parallel fragment."""
        attach = getattr(_parallel._scoped_ctx_attach, _ATTRIBUTE, _parallel._scoped_ctx_attach)

        @contextlib.contextmanager
        def attach_and_end(context: Any) -> Iterator[None]:
            with attach(context):
                try:
                    yield
                finally:
                    self._end_part()

        setattr(attach_and_end, _ATTRIBUTE, attach)
        _parallel._scoped_ctx_attach = attach_and_end

    def publish(self, metrics: Metrics) -> None:
        """Show figures on the metrics endpoint, of a server that is there or that will be."""
        self._metrics = metrics
        if Runtime.exists():
            self._register_metrics()

    def _register_metrics(self) -> None:
        known = Runtime.instance().stats_mgr.__dict__
        if self._metrics is not None and _ATTRIBUTE not in known:
            known[_ATTRIBUTE] = self._metrics
            Runtime.instance().stats_mgr.register_provider(self._metrics)

    def _hook(self, session: AppSession) -> LiveSession:
        self._register_metrics()
        manager = Runtime.instance()._session_mgr
        link = AppSessionLink(session, manager)
        live = LiveSession(self._store, link)
        link.on_gone = lambda: self._scheduler.retire(live)
        self._hooked[session.id] = live
        session_ref = weakref.ref(session)

        def observe(sender: Any, event: ScriptRunnerEvent, **_details: Any) -> None:
            self._observe(live, session_ref(), sender, event)

        def on_scriptrunner_event(sender: Any, event: ScriptRunnerEvent, **details: Any) -> None:
            session = session_ref()
            if session is not None:
                AppSession._on_scriptrunner_event(session, sender, event, **details)
                self._observe(live, session, sender, event)

        self._scheduler.adopt(live)
        runner = session._scriptrunner
        if runner is not None:
            live.run_started(runner)
            runner.on_event.connect(observe, weak=False)
        session.__dict__["_on_scriptrunner_event"] = on_scriptrunner_event
        session.__dict__[_ATTRIBUTE] = live
        _listen_to_requests(session, lambda _: live.user_asked())
        self._watch_connections(manager)
        return live

    def _observe(
        self,
        live: LiveSession,
        session: AppSession | None,
        sender: Any,
        event: ScriptRunnerEvent,
    ) -> None:
        """Follow the runs of a session. On the runner's thread, mostly."""
        if event is ScriptRunnerEvent.ENQUEUE_FORWARD_MSG:
            if live.is_run_by(sender):
                live.message_sent()
        elif event is ScriptRunnerEvent.SCRIPT_STARTED:
            # A message that cannot be read counts as a run of no runner.
            if session is not None and sender is not None and sender is session._scriptrunner:
                live.run_started(sender)
        elif not live.is_run_by(sender):
            pass
        elif event is ScriptRunnerEvent.SHUTDOWN:
            if session is not None:  # SystemExit and KeyboardInterrupt end a run without another event
                live.run_finished((), session._fragment_storage.contains)
            live.runner_ended = True
            self._scheduler.run_ended(live)
        elif session is not None:
            self._finish_run(live, session, sender, event)

    @staticmethod
    def _finish_run(live: LiveSession, session: AppSession, runner: Any, event: ScriptRunnerEvent) -> None:
        """What has run to its end takes the place of what was on the screen; all else stays there."""
        contains = session._fragment_storage.contains
        if event in _BREAKS or _was_stopped(runner):
            live.run_finished((), contains)
        else:
            complete, is_whole = _executed()
            # Browsers remove what such a run of the whole script has not shown again.
            live.run_finished(complete, complete.__contains__ if is_whole else contains)

    def _watch_connections(self, manager: Any) -> None:
        """Refresh sessions that come back after their connection was lost, and forget those that cannot come back."""
        if _ATTRIBUTE in manager.__dict__:
            return
        connect = manager.connect_session

        def connect_and_refresh(*args: Any, **kwargs: Any) -> str:
            session_id: str = connect(*args, **kwargs)
            live = manager.get_active_session_info(session_id).session.__dict__.get(_ATTRIBUTE)
            if live is not None:
                self._scheduler.returned(live)
            return session_id

        def forgetting(end: Callable[..., None]) -> Callable[..., None]:
            def end_and_forget(*args: Any, **kwargs: Any) -> None:
                end(*args, **kwargs)
                self._forget_departed(manager)

            return end_and_forget

        manager.connect_session = connect_and_refresh
        manager.disconnect_session = forgetting(manager.disconnect_session)
        manager.close_session = forgetting(manager.close_session)
        manager.__dict__[_ATTRIBUTE] = True

    def _forget_departed(self, manager: Any) -> None:
        """A session that Streamlit does not know any more may stay in memory until the garbage collector runs."""
        with contextlib.suppress(KeyError):  # one that expires while Streamlit lists them: the next event finds it
            known = {info.session.id for info in manager.list_sessions()}
            for session_id in list(self._hooked):
                if session_id not in known:
                    self._scheduler.retire(self._hooked.pop(session_id))


class StreamlitWidgets:
    """The keyed widgets of one session, as a `shared.SessionWidgets`."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self._refusals: dict[str, Refusals] = {}  # of all shared widgets that there ever were
        self._offers: dict[str, Offer] = {}
        self._unmade: set[str] = set()
        self._in_the_making: set[str] = set()
        self._receive: Callable[[dict[str, Any]], None] = lambda _: None
        self._show: Callable[[str, Any], None] = lambda *_: None
        self.timed: Any = None  # what the browser has sent last by a timer
        self._received: Any = None  # what it has sent for this run, or for one before
        self.shared: Any = None  # what `fastserverstate.shared_widgets` knows of them

    def __reduce__(self) -> Any:
        """It is kept in the session state, which may be configured to allow only what can be pickled."""
        return object, ()

    def report(self, receive: Callable[[dict[str, Any]], None], shows: Callable[[str, Any], None]) -> None:
        self._receive, self._show = receive, shows

    def received(self, states: Any) -> None:
        """Streamlit has taken over the values that the browser has sent for a run."""
        self._received = states
        sent = {widget.id for widget in states.widgets}
        if sent:  # a run that no browser has asked for has none
            keys = [key for key in self._offers if self._state._get_widget_id(key) in sent]
            values = {key: self._read(key) for key in keys}
            self._receive({key: value for key, value in values.items() if value is not _NOTHING})

    def _read(self, key: str) -> Any:
        """A value that the browser has sent."""
        try:
            return self._state[key]
        except KeyError:
            return _NOTHING
        except Exception:  # in Streamlit's code, which trusts browsers
            return _UNREADABLE

    def offers(self, key: str, value: Any) -> bool:
        return self._offers[key].includes(value)

    def can_show(self, key: str, value: Any) -> bool:
        return self._offers[key].can_show(value)

    @property
    def browser_forgets(self) -> bool:
        return _BROWSERS_FORGET

    def value(self, key: str, default: Any) -> Any:
        return streamlit.session_state.get(key, default)

    def value_before(self, key: str, default: Any) -> Any:
        return self._state._old_state.get(self._state._get_widget_id(key), default)

    def own_value(self, key: str, default: Any) -> Any:
        context: Any = get_script_run_ctx(suppress_warning=True)
        metadata = self._state._new_widget_state.widget_metadata.get(self._state._get_widget_id(key))
        if metadata is None or context is None or _find_session(context.session_id) is None:
            return default  # AppTest has no browser, and always hears
        # Older releases of Streamlit give the widget's id too.
        takes_id = len(inspect.signature(metadata.deserializer).parameters) > 1
        return metadata.deserializer(None, metadata.id) if takes_id else metadata.deserializer(None)

    def discard(self, key: str) -> None:
        del self._state._new_widget_state[self._state._get_widget_id(key)]

    def may_be_cause(self, key: str, shared: Collection[str]) -> bool:
        state, context = self._state, get_script_run_ctx(suppress_warning=True)
        if self._received is self.timed:
            return False
        known = {state._get_widget_id(key) for key in shared}
        if any(_has_changed(state, other) for other in state._new_widget_state if other not in known):
            return False
        asked: Any = () if context is None else context.fragment_ids_this_run
        metadata = state._new_widget_state.widget_metadata.get(state._get_widget_id(key))
        return not asked or (metadata is not None and metadata.fragment_id in asked)

    def is_assigned(self, key: str) -> bool:
        return bool(self._state.is_new_state_value(key))

    def assign(self, key: str, value: Any) -> None:
        streamlit.session_state[key] = value

    def is_in_form(self) -> bool:
        return bool(is_in_form(streamlit._main))

    def is_made(self, key: str) -> bool:
        run: Any = get_script_run_ctx(suppress_warning=True)
        return run is not None and key in getattr(run, "shared", run).widget_user_keys_this_run

    def expect(self, key: str, refusals: Refusals) -> None:
        self._refusals[key] = refusals
        self._unmade.add(key)

    def expects(self, key: object) -> bool:
        return isinstance(key, str) and key in self._unmade

    def made(self, key: str, assignable: bool) -> bool:
        """A widget with the key is about to be made. Whether it was expected."""
        if key in self._refusals and self.is_made(key):
            raise self._refusals[key].second_widget
        if key not in self._unmade:
            return False
        if not assignable:
            raise self._refusals[key].user_sets
        self._unmade.discard(key)
        return True

    def registered(self, key: str, metadata: WidgetMetadata[Any]) -> None:
        """Streamlit registers a widget with the key, shared or not."""
        if key not in self._refusals:
            return
        if metadata.value_type in _TRIGGERS:
            raise self._refusals[key].user_sets
        self._offers[key] = Offer(metadata, element_being_registered(metadata.id))
        state = self._state
        before = state._get_widget_id(key)
        is_new = before != metadata.id and key not in state._new_session_state
        if is_new and key in self._in_the_making:
            # Other arguments have made another widget of it, which would begin with a value of its own.
            with contextlib.suppress(KeyError):
                state._new_session_state[key] = state._getitem(before, key)

    def make(self, key: str, widget: Callable[[], Any]) -> Any:
        """Make a widget that is expected. One that raises an error is given what it had before, or nothing at all."""
        run: Any = get_script_run_ctx(suppress_warning=True)
        run = getattr(run, "shared", run)
        given = self.value(key, _NOTHING)
        ways_out = iter([] if key in run.widget_user_keys_this_run else [self._unassign, self._forget])
        self._in_the_making.add(key)
        while True:
            try:
                made = widget()
                break
            except FastServerStateError:
                raise
            except Exception:  # the widget's own errors are raised again by the last try
                if not any(way_out(key) for way_out in ways_out):
                    raise
                _take_back(run, key)
                self._unmade.add(key)
        self._in_the_making.discard(key)
        if key in self._unmade:
            self._unmade.discard(key)
            raise self._refusals[key].no_value
        if given is not _NOTHING:
            self._show(key, given)
        return made

    def _unassign(self, key: str) -> bool:
        return self._state._new_session_state.pop(key, _NOTHING) is not _NOTHING

    def _forget(self, key: str) -> bool:
        is_known = key in self._state
        if is_known:
            del self._state[key]
        return is_known


def _has_changed(state: SessionState, widget: str) -> bool:
    try:
        return state._widget_changed(widget)
    except Exception:  # Streamlit raises it again when it looks for callbacks, and shows it to this one user
        return True


def _take_back(run: Any, key: str) -> None:
    """A widget with the key that could not be made may be made again in this run. Streamlit has no way to say so."""
    for names in (run.widget_ids_this_run, run.widget_user_keys_this_run):
        with getattr(names, "_lock", contextlib.nullcontext()):
            known = getattr(names, "_data", names)
            known -= {name for name in known if name == key or name.split("-", 2)[2:] == [key]}


# Where a session state keeps its `StreamlitWidgets`. Names that begin so are not shown to the app.
_WIDGETS_KEY = f"{STREAMLIT_INTERNAL_KEY_PREFIX}_FASTSERVERSTATE"


def _widgets_of(state: Any) -> StreamlitWidgets | None:
    widgets: StreamlitWidgets | None = state._new_session_state.get(_WIDGETS_KEY) or state._old_state.get(_WIDGETS_KEY)
    return widgets


def _known_widgets_of_run() -> StreamlitWidgets | None:
    context: Any = get_script_run_ctx(suppress_warning=True)
    return None if context is None else _widgets_of(context.session_state._state)


def widgets_of_run() -> StreamlitWidgets | None:
    """The widgets of the session whose script is running."""
    context: Any = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return None
    widgets = _widgets_of(context.session_state._state)
    if widgets is None:
        widgets = streamlit.session_state[_WIDGETS_KEY] = StreamlitWidgets(context.session_state._state)
        session = _find_session(context.session_id)
        if session is not None:
            _watch_timers(session, widgets)
    return widgets


def _watch_timers(session: AppSession, widgets: StreamlitWidgets) -> None:
    """Tell what a browser sends by the timer of a fragment from what it sends because of its user."""

    def listen(client_state: Any) -> None:
        if getattr(client_state, "is_auto_rerun", False):  # Streamlit 1.37 does not say so
            widgets.timed = client_state.widget_states

    _listen_to_requests(session, listen)


def _listen_to_requests(session: AppSession, listen: Callable[[Any], None]) -> None:
    """Have a function called before every rerun of the session that is not one of ours, with the client's state."""
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


def _watch_widgets() -> None:
    """Have Streamlit say when it receives values, and when it makes a keyed widget. Once in a process.

    On the functions: the objects have no room for it. And before the first call of `shared`, for Python looks up
    ``st.slider`` before it calls `shared` in ``st.slider(**shared("k"))``.
    """
    set_widgets, register = SessionState.set_widgets_from_proto, SessionState.register_widget
    check = policies.check_session_state_rules
    if _ATTRIBUTE in check.__dict__:
        return

    def set_widgets_and_report(self: Any, states: Any) -> None:
        set_widgets(self, states)
        widgets = _widgets_of(self)
        if widgets is not None:
            widgets.received(states)

    def check_and_report(default_value: Any, key: str | None, writes_allowed: bool = True) -> None:
        widgets = _known_widgets_of_run()
        if widgets is not None and key is not None and widgets.made(key, writes_allowed):
            default_value = None  # or there would be a warning that the widget has two values to begin with
        check(default_value, key, writes_allowed)

    def register_and_report(self: Any, metadata: Any, user_key: str | None) -> Any:
        widgets = _widgets_of(self)
        if widgets is not None and user_key is not None:
            widgets.registered(user_key, metadata)
        return register(self, metadata, user_key)

    check_and_report.__dict__[_ATTRIBUTE] = True
    SessionState.set_widgets_from_proto = set_widgets_and_report  # type: ignore[assignment, method-assign]
    SessionState.register_widget = register_and_report  # type: ignore[method-assign]
    policies.check_session_state_rules = check_and_report
    for name, function in inspect.getmembers(DeltaGenerator, inspect.isfunction):
        if "key" in inspect.signature(function).parameters and not name.startswith("_"):
            setattr(DeltaGenerator, name, _made_by(function))
            command: Any = getattr(streamlit, name, None)  # of the main part of the page
            if getattr(command, "__func__", None) is function:
                setattr(streamlit, name, getattr(command.__self__, name))


def _made_by(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def make(*args: Any, **kwargs: Any) -> Any:
        widgets = _known_widgets_of_run() if kwargs.get("key") else None
        if widgets is None or not widgets.expects(kwargs["key"]):
            return function(*args, **kwargs)
        return widgets.make(kwargs["key"], lambda: function(*args, **kwargs))

    return make


class PostScriptGC:
    """Streamlit's option to collect garbage after every run."""

    _OPTION = "runner.postScriptGC"

    def __init__(self) -> None:
        self._as_the_user_had_it: bool | None = None

    def is_on(self) -> bool:
        return bool(config.get_option(self._OPTION))

    def switch_off(self) -> None:
        self._as_the_user_had_it = self.is_on()
        config.set_option(self._OPTION, False)

    def restore(self) -> None:
        config.set_option(self._OPTION, self._as_the_user_had_it)


def _find_session(session_id: str) -> AppSession | None:
    if not Runtime.exists():
        return None
    manager = getattr(Runtime.instance(), "_session_mgr", None)  # AppTest has a runtime without one
    info = None if manager is None else manager.get_active_session_info(session_id)
    session = None if info is None else info.session
    return session if isinstance(session, AppSession) else None


def _executed() -> tuple[frozenset[str | None], bool]:
    """What the run in this thread has executed: fragments, and None for the script's body. Whether that was all."""
    context: Any = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return frozenset(), False
    ids = getattr(context, "shared", context).new_fragment_ids
    fragments = ids.snapshot() if hasattr(ids, "snapshot") else frozenset(ids)
    is_whole = context._has_script_started and not context.fragment_ids_this_run
    return fragments | {None} if is_whole else fragments, is_whole


def _warn_elsewhere(keys: Sequence[str], written: Sequence[str]) -> None:
    """Of a thread that ends. Logging there would bring it back, as a thread that never ends."""
    thread = threading.Thread(target=_warn_of_leftovers, args=("A thread", keys, written), daemon=True)
    with contextlib.suppress(RuntimeError):  # there are too many threads, or the interpreter ends
        thread.start()


def _warn_of_leftovers(owner: str, keys: Sequence[str], written: Sequence[str]) -> None:
    """What was interrupted between `acquire` and `release` would keep all other sessions waiting."""
    for key in keys:
        if key not in written:
            logger.warning(
                "%s has ended while it held server_state_lock[%r], which was released. Use: with "
                "server_state_lock[%r]:",
                owner,
                key,
                key,
            )
    if written:
        logger.warning(
            "%s has ended inside of a transaction, and what that had written was discarded: %s. Use: with "
            "transaction(...):",
            owner,
            ", ".join(f"server_state[{key!r}]" for key in written),
        )
