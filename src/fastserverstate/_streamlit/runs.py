"""The events and the ends of script runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from streamlit.runtime.scriptrunner import ScriptRunnerEvent, get_script_run_ctx

from fastserverstate._core import Session, wake_waiters
from fastserverstate._streamlit.names import ATTRIBUTE, parallel

# Events that end a thread's part in a run. After a compile error the thread had none.
ENDS = (
    ScriptRunnerEvent.FRAGMENT_STOPPED_WITH_SUCCESS,
    ScriptRunnerEvent.SCRIPT_STOPPED_FOR_RERUN,
    ScriptRunnerEvent.SCRIPT_STOPPED_WITH_SUCCESS,
    ScriptRunnerEvent.SHUTDOWN,  # after KeyboardInterrupt
)

# Events that end a run before the script has completed.
BREAKS = (ScriptRunnerEvent.SCRIPT_STOPPED_FOR_RERUN, ScriptRunnerEvent.SCRIPT_STOPPED_WITH_COMPILE_ERROR)


_TOLD_TO_STOP = "_fastserverstate_told_to_stop"


def was_stopped(runner: Any) -> bool:
    """Whether a run ends because it was told to stop: by the Stop button, or because its connection was closed.

    A script that calls st.stop() is at its end there.
    """
    told: bool = runner.__dict__.get(_TOLD_TO_STOP, False)
    return told


def is_rerun_requested(runner: Any) -> bool:
    """Whether another run of the runner is requested already. To be called as a run begins, before its script does."""
    return bool(runner._requests._state.name == "RERUN")


def executed() -> tuple[frozenset[str | None], bool]:
    """Return the fragments that this thread's run executed (None for the body), and whether it ran the whole script."""
    context: Any = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return frozenset(), False
    ids = getattr(context, "shared", context).new_fragment_ids
    fragments = ids.snapshot() if hasattr(ids, "snapshot") else frozenset(ids)
    is_whole = context._has_script_started and not context.fragment_ids_this_run
    return fragments | {None} if is_whole else fragments, is_whole


def announce_stops(session: Session, runner: Any) -> None:
    """Wake the session's waiting threads when the user interacts with the page or closes it."""
    if _TOLD_TO_STOP in runner.__dict__:
        return
    runner.__dict__[_TOLD_TO_STOP] = False
    session_ref = weakref.ref(session)

    def announcing(name: str) -> Callable[..., Any]:
        request = getattr(runner, name)

        def announce(*args: Any, **kwargs: Any) -> Any:
            if name == "request_stop":
                runner.__dict__[_TOLD_TO_STOP] = True
            result = request(*args, **kwargs)
            session = session_ref()
            if session is not None:
                session.stop_waiting()
            return result

        return announce

    for name in ("request_stop", "request_rerun"):
        runner.__dict__[name] = announcing(name)


def watch_workers(end_part: Callable[[], None]) -> None:
    """Wake waiting threads of parallel fragments when they have to stop. Called once per process.

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
