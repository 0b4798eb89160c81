"""The names of Streamlit that this package uses, and the releases that have them."""

from __future__ import annotations

import sys
from typing import Any

import streamlit
from streamlit import config

OLDEST = "1.37"
NEWEST = "1.67"


def unsupported(lacks: str) -> ImportError:
    following = f"1.{int(NEWEST.partition('.')[2]) + 1}"
    return ImportError(
        f"fastserverstate supports Streamlit {OLDEST} to {NEWEST}; the installed Streamlit {streamlit.__version__} "
        f'lacks {lacks}. Install a supported release: pip install "streamlit>={OLDEST},<{following}"'
    )


try:
    from streamlit import error_util
    from streamlit.cursor import RunningCursor
    from streamlit.delta_generator import DeltaGenerator
    from streamlit.elements.lib import policies
    from streamlit.runtime import Runtime, forward_msg_queue, stats
    from streamlit.runtime.app_session import AppSession, AppSessionState
    from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
    from streamlit.runtime.fragment import MemoryFragmentStorage
    from streamlit.runtime.media_file_manager import MediaFileManager
    from streamlit.runtime.pages_manager import PagesManager
    from streamlit.runtime.scriptrunner import ScriptRunContext, ScriptRunner, ScriptRunnerEvent, get_script_run_ctx
    from streamlit.runtime.session_manager import ActiveSessionInfo, SessionClient, SessionInfo
    from streamlit.runtime.state import SafeSessionState
    from streamlit.runtime.state.common import WidgetMetadata
    from streamlit.runtime.state.session_state import STREAMLIT_INTERNAL_KEY_PREFIX, SessionState, WStates
    from streamlit.runtime.websocket_session_manager import WebsocketSessionManager

    _context_module = sys.modules[get_script_run_ctx.__module__]
    CONTEXT_ATTRIBUTE: str = _context_module.SCRIPT_RUN_CONTEXT_ATTR_NAME
except (ImportError, AttributeError) as error:
    raise unsupported(f"a name ({error})") from error

# Begins the keys of st.session_state that Streamlit does not show to apps.
INTERNAL_KEY_PREFIX = STREAMLIT_INTERNAL_KEY_PREFIX

ATTRIBUTE = "_fastserverstate"  # the attribute in which objects of Streamlit keep ours

# Streamlit 1.53 introduced families of metrics. Before that, all metrics were sizes of caches.
HAS_METRIC_FAMILIES = not hasattr(stats, "CacheStatsProvider")

# Up to Streamlit 1.43, browsers buffer the messages of a run, and may lose widgets if the next run follows immediately.
BROWSERS_FORGET = tuple(map(int, streamlit.__version__.split(".")[:2])) < (1, 44)

# Browsers of these releases draw elements that were not sent by a run.
CAN_PUSH = not BROWSERS_FORGET

# Up to Streamlit 1.44, browsers remove all toasts when a run begins. Later ones remove those that the last run of the
# whole script has not sent again. Since some release after 1.58, they show each for its time.
BROWSERS_CLEAR_TOASTS = tuple(map(int, streamlit.__version__.split(".")[:2])) < (1, 45)
BROWSERS_KEEP_TOASTS = hasattr(forward_msg_queue, "_is_toast_delta")

# Streamlit 1.58 introduced parallel fragments, which run on pool threads.
parallel: Any = sys.modules.get("streamlit.runtime.parallel_coordinator")

# Streamlit 1.58 moved the current fragment from the script context to a context variable, for parallel fragments.
thread_state = getattr(_context_module, "_thread_state", None)
FragmentState: Any = getattr(_context_module, "FragmentThreadState", None)

# The containers of the ``with`` blocks that the thread is in.
dg_stack: Any = getattr(sys.modules.get("streamlit.delta_generator_singletons"), "context_dg_stack", None)
_ThreadSafeSet: Any = getattr(
    sys.modules.get("streamlit.runtime.scriptrunner_utils.thread_safe_set"), "ThreadSafeSet", None
)

# It also moved the record of a run's widgets to an object of its own.
_RunRecord: Any = getattr(_context_module, "SharedRunState", ScriptRunContext.reset)


def current_fragment_id(context: Any) -> str | None:
    """Return the id of the fragment that the calling thread runs, None for the script's body."""
    found: str | None = context.current_fragment_id if thread_state is None else thread_state.get().fragment_id
    return found


NEEDED: dict[Any, set[str]] = {
    AppSession: {
        "_browser_queue",
        "_clear_queue",
        "_client_state",
        "_enqueue_forward_msg",
        "_event_loop",
        "_fragment_storage",
        "_message_enqueued_callback",
        "_on_scriptrunner_event",
        "_pages_manager",
        "_run_on_save",
        "_scriptrunner",
        "_session_state",
        "_state",
        "_user_info",
        "flush_browser_queue",
        "request_rerun",
    },
    AppSession._create_scriptrunner: {"_on_scriptrunner_event", "on_event"},
    AppSessionState: {"SHUTDOWN_REQUESTED"},
    ActiveSessionInfo: {"client", "session"},
    SessionInfo: {"session"},
    SessionClient: {"write_forward_msg"},
    RunningCursor: {"index", "parent_path", "root_container"},
    DeltaGenerator: {"_cursor"},
    error_util: {"handle_uncaught_app_exception"},
    MediaFileManager: {"clear_session_refs", "remove_orphaned_files"},
    config: {"get_option", "set_option"},
    streamlit: {"_main", "session_state"},
    policies.check_widget_policies: {"check_session_state_rules"},
    ForwardMsgQueue: {"__len__", "_queue"},
    PagesManager: {"get_pages", "main_script_hash"},
    MemoryFragmentStorage: {"contains"},
    Runtime: {"_session_mgr", "exists", "get_client", "instance", "media_file_mgr", "stats_mgr", "stop"},
    ScriptRunContext: {
        "_enqueue",
        "_has_script_started",
        "fragment_ids_this_run",
        "main_script_path",
        "session_id",
        "session_state",
        *(["current_fragment_id"] if thread_state is None else []),
    },
    _RunRecord: {"new_fragment_ids", "widget_ids_this_run", "widget_user_keys_this_run"},
    **({} if _ThreadSafeSet is None else {_ThreadSafeSet: {"_data", "_lock", "snapshot"}}),
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
        "filtered_state",
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
        "list_active_sessions",
        "list_sessions",
    },
    **(
        {}
        if parallel is None
        else {
            parallel: {"_scoped_ctx_attach"},
            parallel.ParallelFragmentCoordinator: {"_stop_event", "drain", "join", "request_rerun", "request_stop"},
        }
    ),
}


def missing_names() -> list[str]:
    """Return the names that this package uses and the installed Streamlit lacks."""
    missing = []
    for owner, names in NEEDED.items():
        # The names of a function's code include the attributes that it uses.
        function = vars(owner).get("__init__") if isinstance(owner, type) else owner
        known = {*dir(owner), *getattr(getattr(function, "__code__", None), "co_names", ())}
        known.update(getattr(owner, "__dataclass_fields__", ()))
        missing += [f"{getattr(owner, '__qualname__', owner.__name__)}.{name}" for name in sorted(names - known)]
    return missing


def check_streamlit() -> None:
    """Raise ``ImportError`` if the installed Streamlit is not supported."""
    missing = missing_names()
    if missing:
        raise unsupported(", ".join(missing))
