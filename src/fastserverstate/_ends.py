"""The end of waits that belong to no script run: with the process, or with the event loop that they were made for.

A process joins the threads that are no daemons before it exits, and those of all executors; an event loop joins those
of its default executor before it closes. One of them that waits for a change would keep it from that for ever.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import thread as pools  # registers what joins its threads: ours has to run before

from fastserverstate import _core

_other_waits: dict[int, int] = {}  # that the core does not know of: thread -> when it began
_last = threading.local()


def _pool() -> pools.ThreadPoolExecutor | None:
    """The executor that the calling thread belongs to."""
    arguments = getattr(threading.current_thread(), "_args", None)
    reference = arguments[0] if arguments else None
    executor = reference() if isinstance(reference, weakref.ref) else None
    return executor if isinstance(executor, pools.ThreadPoolExecutor) else None


def _is_in_pool() -> bool:
    return _pool() is not None


def raise_if_over() -> None:
    """Raise RuntimeError if a wait of the calling thread has to end."""
    executor = _pool()
    if executor is not None and executor._shutdown and _is_of_closing_loop(executor):
        raise RuntimeError("This wait has ended, because the event loop whose executor it was made on closes.")
    if _core.process_is_ending() and _all_are_waiting():
        raise RuntimeError("This wait has ended, because the process ends: all threads that it waits for are waiting.")


def _is_of_closing_loop(executor: pools.ThreadPoolExecutor) -> bool:
    """Whether an event loop is joining the executor, which it does on a thread of this name.

    Executors are shut down by ``with`` blocks too, while their threads go on and end each other's waits.
    """
    joining = [thread for thread in threading.enumerate() if thread.name.endswith("(_do_shutdown)")]
    loops = [getattr(getattr(thread, "_target", None), "__self__", None) for thread in joining]
    # A loop that does not tell of its executor, as one of another library, may be the one.
    return any(getattr(loop, "_default_executor", executor) is executor for loop in loops)


def _all_are_waiting() -> bool:
    """Whether all threads that the process waits for are waiting themselves, now and at the last look."""
    waits = _core.waits() | set(_other_waits.copy().items())
    waiting = {thread for thread, _ in waits} | {threading.main_thread().ident}
    running = [thread for thread in threading.enumerate() if not thread.daemon and thread.ident not in waiting]
    before, _last.waits = getattr(_last, "waits", None), None if running else waits
    return not running and before is not None and waits <= before


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Around a wait that the core does not know of, which calls `raise_if_over` now and then."""
    me = threading.get_ident()
    _other_waits[me] = time.monotonic_ns()
    try:
        yield
    finally:
        _other_waits.pop(me, None)


def watch() -> None:
    """Have waits look for their end. Once in a process."""
    _core.on_ends(_is_in_pool, raise_if_over)
    with contextlib.suppress(RuntimeError):  # the process ends already
        threading._register_atexit(_core.end_process)  # type: ignore[attr-defined]


def before_exit(callback: Callable[[], object]) -> None:
    """Call the function when the process begins to exit, before it ends any waits."""
    with contextlib.suppress(RuntimeError):  # the process ends already
        threading._register_atexit(callback)  # type: ignore[attr-defined]
