"""Connects the store to a file that keeps its state across restarts, and disconnects it."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from fastserverstate._core import Store, on_event_loop, refuse_to_block
from fastserverstate._streamlit import Metrics, Server
from fastserverstate.codec import Codec
from fastserverstate.durable.engine import Durability, Engine, Status, StorageErrors
from fastserverstate.durable.errors import DurabilityError, FileInUseError, NotDurableError
from fastserverstate.durable.state_file import StateFile
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.metrics import DURABLE_NAMES, Figure, durable_figures

STOP_TIMEOUT = 5.0  # seconds that a server which stops waits for the disk

logger = logging.getLogger("fastserverstate")


class Connection:
    """Connects a store to its file, and disconnects it.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, server: Server, on_deadline: Callable[[], object]) -> None:
        self._store = store
        self._server = server
        self._on_deadline = on_deadline
        self._lock = threading.RLock()  # a finalizer may connect or disconnect at any point
        self.engine: Engine | None = None
        self._arguments: tuple[object, ...] = ()
        self._is_registered = False  # to be called at the exit
        self._abandoned: list[Engine] = []  # of parent processes: never closed
        self._metrics = Metrics(DURABLE_NAMES, self._figures)

    def connect(
        self,
        path: Path,
        *,
        secret: str | bytes | None,
        durability: Durability,
        show_when_durable: bool,
        required: bool,
        timeout: float,
    ) -> None:
        """See `fastserverstate.connect`."""
        arguments = (path, secret, durability, show_when_durable)
        with self._lock:
            if self.engine is not None:
                if arguments != self._arguments:
                    raise DurabilityError(
                        f"The state is already stored in {self.engine.path}, with other arguments. Call "
                        "fastserverstate.durable.disconnect() first."
                    )
                return
            if self._store.has_backend():
                raise DurabilityError(
                    "This server is connected to Redis, which keeps the state. Call "
                    "fastserverstate.cluster.disconnect() first."
                )
            codec = Codec.for_file(secret)  # raises ValueError, so before the file is opened
            try:
                engine = Engine(
                    self._store,
                    _open(path, timeout),
                    codec,
                    durability=durability,
                    show_when_durable=show_when_durable,
                    on_deadline=self._on_deadline,
                )
            except StorageErrors as error:
                if required:
                    raise
                logger.warning("The state is kept in memory only: %s", error)
                return
            try:
                engine.start()
            except BaseException:
                engine.close()
                raise
            self._arguments, self.engine = arguments, engine
            if not self._is_registered:  # once: Python keeps the place of an unregistered function
                atexit.register(self._end)
                self._is_registered = True
            _call_on_termination(self._end)
            self._server.publish(self._metrics)
            self._server.on_stop(self._server_stops)

    def disconnect(self) -> None:
        """Store what is left, close the file, and continue in memory.

        Does nothing if no file is connected. It is called when the interpreter exits.

        Thread-safety
            Safe from any thread.

        >>> from fastserverstate import durable
        >>> durable.disconnect()
        """
        self._disconnect(at_exit=False)

    def _end(self) -> None:
        self._disconnect(at_exit=True)

    def _disconnect(self, *, at_exit: bool) -> None:
        with self._lock:
            engine, self.engine = self.engine, None
            if engine is not None:
                engine.close(at_exit=at_exit)

    def status(self) -> Status | None:
        """Return how durable the state is, or None if no file is connected.

        Thread-safety
            Safe from any thread.

        >>> from fastserverstate import durable
        >>> durable.status() is None
        True
        """
        engine = self.engine
        return None if engine is None else engine.status()

    def flush(self, timeout: Duration = 10) -> None:
        """Wait until all changes made before this call are on disk. Does nothing if no file is connected.

        Thread-safety
            Safe from any thread.

        Raises
            ``NotDurableError`` if the changes cannot be stored now, ``TimeoutError`` if that takes longer than
            `timeout`: seconds, a ``timedelta``, or text such as ``"5s"``; ``WouldBlockError`` if it would block a
            thread that runs an event loop for more than 20 milliseconds.

        >>> from fastserverstate import durable
        >>> durable.flush()
        """
        seconds = seconds_of(timeout, "timeout")
        engine = self.engine
        if engine is not None and not engine.flush(seconds):
            if on_event_loop():
                refuse_to_block("Waiting for the disk")
            raise TimeoutError(f"The changes were not stored in {engine.path} within {seconds:g} seconds.")

    def _server_stops(self) -> None:
        """Store what is left. Called on an event loop, which may not wait for changes, so another thread does."""
        if self.engine is not None:
            thread = threading.Thread(target=self._flush_at_end, name="fastserverstate.flush")
            thread.start()
            thread.join()

    def _flush_at_end(self) -> None:
        try:
            self.flush(STOP_TIMEOUT)
        except (NotDurableError, TimeoutError) as error:
            logger.error("The server stops, and the last changes are not stored: %s", error)  # noqa: TRY400

    def reset_after_fork(self) -> None:
        """Forget the file: it belongs to the parent process."""
        if self.engine is not None:
            self.engine.abandon()
            self._abandoned.append(self.engine)
        self.engine, self._lock = None, threading.RLock()

    def _figures(self) -> list[Figure]:
        now = self.status()
        return [] if now is None else durable_figures(now)


def _open(path: Path, timeout: float) -> StateFile:
    """Open the file. Wait for the process that has it, which may be ending."""
    end = time.monotonic() + timeout
    while True:
        try:
            return StateFile.open(path)
        except FileInUseError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


def _call_on_termination(end: Callable[[], None]) -> None:
    """Have SIGTERM store what is left, where it would end the process without running any code.

    Streamlit handles the signal itself. Uvicorn does too, and then sends it once more, to the handler from before.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def terminate(_number: int, _frame: FrameType | None) -> None:
        end()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
