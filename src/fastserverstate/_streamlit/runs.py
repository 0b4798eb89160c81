"""The events and the ends of script runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from streamlit.runtime.scriptrunner import ScriptRunnerEvent, get_script_run_ctx

from fastserverstate._core import Session, wake_waiters
from fastserverstate._streamlit.names import ATTRIBUTE, parallel

# What ends the part that a thread has in a run. After a compile error there was none.
ENDS = (
    ScriptRunnerEvent.FRAGMENT_STOPPED_WITH_SUCCESS,
    ScriptRunnerEvent.SCRIPT_STOPPED_FOR_RERUN,
    ScriptRunnerEvent.SCRIPT_STOPPED_WITH_SUCCESS,
    ScriptRunnerEvent.SHUTDOWN,  # of a run that KeyboardInterrupt has ended
)

# What ends a run before the script has come to its end.
BREAKS = (ScriptRunnerEvent.SCRIPT_STOPPED_FOR_RERUN, ScriptRunnerEvent.SCRIPT_STOPPED_WITH_COMPILE_ERROR)


def was_stopped(runner: Any) -> bool:
    """Whether a run ends because it was asked to stop, as by the Stop button or by the end of its connection."""
    request = runner._requests._state
    return request is type(request).STOP


def executed() -> tuple[frozenset[str | None], bool]:
    """What the run in this thread has executed: fragments, and None for the script's body. Whether that was all."""
    context: Any = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return frozenset(), False
    ids = getattr(context, "shared", context).new_fragment_ids
    fragments = ids.snapshot() if hasattr(ids, "snapshot") else frozenset(ids)
    is_whole = context._has_script_started and not context.fragment_ids_this_run
    return fragments | {None} if is_whole else fragments, is_whole


def announce_stops(session: Session, runner: Any) -> None:
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


def watch_workers(end_part: Callable[[], None]) -> None:
    """Have threads that run a parallel fragment and wait look up when they are to stop. Once in a process.

    The script's thread has no part in the run while it waits for them: they may want what it holds.
    """
    coordinator: Any = parallel.ParallelFragmentCoordinator
    if ATTRIBUTE in coordinator.__dict__:
        return
    setattr(coordinator, ATTRIBUTE, True)
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
