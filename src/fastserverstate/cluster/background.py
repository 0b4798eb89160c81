"""A thread that does the engine's work for threads that run event loops, in the order of their calls."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from fastserverstate._core import MAX_LOOP_WAIT, act_for, this_holder
from fastserverstate.cluster.client import LONGEST_TIMEOUT, patience
from fastserverstate.cluster.errors import ClusterError
from fastserverstate.cluster.signals import Event

logger = logging.getLogger("fastserverstate")


# While a background change is made: the writer, as a `replica.Table` names it.
writer_given: contextvars.ContextVar[tuple[object] | None] = contextvars.ContextVar(
    "fastserverstate.cluster.writer", default=None
)


class LateError(Exception):
    """The engine has not answered within the time that an event loop has."""


class BackgroundChange:
    """A call that is made in the name of the thread that has asked for it: with its locks and `no_rerun` blocks."""

    def __init__(self, what: str, work: Callable[[], Any], undo: Callable[[], object] | None, writer: object) -> None:
        self._what = what
        self._work = work
        self._undo = undo
        self._holder = this_holder()
        self._writer = writer
        self._context = contextvars.copy_context()
        self._end = time.monotonic() + LONGEST_TIMEOUT
        self._over = Event()
        self._fate: dict[str, bool] = {}  # "late": whether the caller had left before it was done
        self._result: Any = None
        self._error: BaseException | None = None

    def wait(self, seconds: float) -> Any:
        if not self._over.wait(seconds) and self._fate.setdefault("late", True):
            raise LateError
        if self._error is not None:
            raise self._error
        return self._result

    def is_over(self) -> bool:
        return self._over.is_set()

    def run(self) -> None:
        if self._undo is not None and "late" in self._fate:
            self._over.set()
            return
        try:
            self._result = self._context.run(act_for, self._holder, self._call)
        except BaseException as error:
            self._error = error
        if self._fate.setdefault("late", False):
            self._end_late()
        self._over.set()

    def _call(self) -> Any:
        patience.set(max(0.0, self._end - time.monotonic()))
        writer_given.set((self._writer,))
        return self._work()

    def _end_late(self) -> None:
        if self._undo is not None:
            if self._error is None and self._result:
                self._context.run(act_for, self._holder, self._undo)
        elif isinstance(self._error, ClusterError):
            logger.error("%s, which an event loop has left to a thread, has failed: %s", self._what, self._error)
        elif self._error is not None:
            logger.error("%s, which an event loop has left to a thread, has failed.", self._what, exc_info=self._error)

    def drop(self) -> None:
        self._error = ClusterError(f"{self._what} was not done, because this process has disconnected.")
        if self._fate.setdefault("late", False) and self._undo is None:
            logger.error("%s was left to a thread by an event loop, and not done before the disconnection.", self._what)
        self._over.set()


class BackgroundChanges:
    """The thread that does them, which is started when the first comes.

    Thread-safety
        Safe from any thread. It takes no lock, for a finalizer may use it at any point of any thread.
    """

    def __init__(self, writer: Callable[[], object]) -> None:
        self._writer = writer
        self._queue: queue.SimpleQueue[BackgroundChange | None] = queue.SimpleQueue()
        self._late: BackgroundChange | None = None  # the last one whose caller has not waited for its end
        self._closed = False
        self._unstarted = [self._new_thread()]

    def leave(self, what: str, work: Callable[[], Any], undo: Callable[[], object] | None = None) -> BackgroundChange:
        """Have `work` done. If it can be undone, and the caller waits no longer, it is undone or not begun."""
        change = BackgroundChange(what, work, undo, self._writer())
        self._queue.put(change)
        if self._unstarted:
            self._start()
        if self._closed:
            self._drop_all()
        return change

    def _start(self) -> None:
        with contextlib.suppress(IndexError):
            thread = self._unstarted.pop()
            try:
                thread.start()
            except RuntimeError as error:  # there are too many: the next call tries again
                self._unstarted.append(self._new_thread())
                logger.warning("What event loops leave to a thread is done later, for want of a thread: %s", error)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="fastserverstate.cluster.background", daemon=True)

    def do(self, what: str, work: Callable[[], Any], undo: Callable[[], object] | None = None) -> Any:
        """The same, and its result.

        Raises
            LateError if there is none yet.
        """
        behind = self._late is not None and not self._late.is_over()
        change = self.leave(what, work, undo)
        try:
            return change.wait(0 if behind else MAX_LOOP_WAIT)
        except LateError:
            self._late = change
            raise

    def _run(self) -> None:
        while (change := self._queue.get()) is not None and not self._closed:
            change.run()
        if change is not None:
            change.drop()
        self._drop_all()

    def _drop_all(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                change = self._queue.get_nowait()
                if change is not None:
                    change.drop()

    def close(self) -> None:
        self._closed = True
        self._queue.put(None)
