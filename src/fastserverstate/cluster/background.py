"""A thread that calls the engine for threads that run event loops, in the order of their calls."""

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
from fastserverstate.cluster.client import LONGEST_TIMEOUT, timeout_override
from fastserverstate.cluster.errors import ClusterError
from fastserverstate.cluster.signals import Event

logger = logging.getLogger("fastserverstate")


# During a background change: the `origin` of the thread that requested it.
acting_writer: contextvars.ContextVar[tuple[object] | None] = contextvars.ContextVar(
    "fastserverstate.cluster.writer", default=None
)


class LateError(Exception):
    """The engine did not reply within the time that an event loop can wait."""


class BackgroundChange:
    """A call on behalf of the thread that requested it: with its locks and `no_rerun` blocks."""

    def __init__(self, what: str, work: Callable[[], Any], undo: Callable[[], object] | None, writer: object) -> None:
        self._what = what
        self._work = work
        self._undo = undo
        self._holder = this_holder()
        self._writer = writer
        self._context = contextvars.copy_context()
        self._end = time.monotonic() + LONGEST_TIMEOUT
        self._over = Event()
        self._fate: dict[str, bool] = {}  # "late": True if the caller stopped waiting before the end
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
        timeout_override.set(max(0.0, self._end - time.monotonic()))
        acting_writer.set((self._writer,))
        return self._work()

    def _end_late(self) -> None:
        if self._undo is not None:
            if self._error is None and self._result:
                self._context.run(act_for, self._holder, self._undo)
        elif isinstance(self._error, ClusterError):
            logger.error("%s, called on an event loop, failed in the background: %s", self._what, self._error)
        elif self._error is not None:
            logger.error("%s, called on an event loop, failed in the background.", self._what, exc_info=self._error)

    def drop(self) -> None:
        self._error = ClusterError(f"{self._what} was not done, because this process has disconnected.")
        if self._fate.setdefault("late", False) and self._undo is None:
            logger.error("%s, called on an event loop, was not done before the disconnection.", self._what)
        self._over.set()


class BackgroundChanges:
    """The thread that makes background changes. The first change starts it.

    Thread-safety
        Safe from any thread. It takes no lock, because a finalizer may use it at any point of any thread.
    """

    def __init__(self, writer: Callable[[], object]) -> None:
        self._writer = writer
        self._queue: queue.SimpleQueue[BackgroundChange | None] = queue.SimpleQueue()
        self._late: BackgroundChange | None = None  # the last one whose caller stopped waiting
        self._closed = False
        self._unstarted = [self._new_thread()]

    def submit(self, what: str, work: Callable[[], Any], undo: Callable[[], object] | None = None) -> BackgroundChange:
        """Queue `work`. If the caller stops waiting, work that has an `undo` is undone or not started."""
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
            except RuntimeError as error:  # too many threads: the next call tries again
                self._unstarted.append(self._new_thread())
                logger.warning("Calls on event loops are delayed, because a thread could not be started: %s", error)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="fastserverstate.cluster.background", daemon=True)

    def do(self, what: str, work: Callable[[], Any], undo: Callable[[], object] | None = None) -> Any:
        """Queue `work` and return its result.

        Raises
            LateError if there is no result in time.
        """
        behind = self._late is not None and not self._late.is_over()
        change = self.submit(what, work, undo)
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
