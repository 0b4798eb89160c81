"""Connects this server to the servers that share one state, and disconnects it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from fastserverstate._core import Store
from fastserverstate._streamlit import Metrics
from fastserverstate.cluster.backend import ClusterAdapter
from fastserverstate.cluster.errors import ClusterError
from fastserverstate.cluster.node import Status
from fastserverstate.metrics import CLUSTER_NAMES, Figure, cluster_figures

logger = logging.getLogger("fastserverstate")


class Membership:
    """Connects a store to the other servers, and disconnects it.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, publish: Callable[[Metrics], None]) -> None:
        self._store = store
        self._publish = publish
        self._lock = threading.RLock()  # a finalizer may connect or disconnect at any point
        self.adapter: ClusterAdapter | None = None
        self._is_opening = False
        self._arguments: tuple[object, ...] = ()
        self._metrics = Metrics(CLUSTER_NAMES, self._figures)

    def connect(
        self,
        url: str,
        *,
        namespace: str,
        secret: str | bytes | None,
        required: bool,
        timeout: float,
        import_timeout: float | None = None,
    ) -> None:
        """See `fastserverstate.connect`.

        `import_timeout`, if given, limits the time for connecting during an import. A required adapter then stays open
        after a failure: every run of a script tries the failed import again, and fails immediately until it is joined.
        """
        arguments = (url, namespace, secret, timeout)
        if self.adapter is not None and arguments == self._arguments:
            if required and import_timeout is not None and not self.adapter.has_joined():
                raise self.adapter.unreachable(import_timeout)
            return
        with self._lock:
            if self.adapter is not None:
                if arguments != self._arguments:
                    raise ClusterError(
                        f"This server is connected to {self.adapter.node.engine.address} with other arguments. Call "
                        "fastserverstate.cluster.disconnect() first."
                    )
                return
            if self._store.has_journal():
                raise ClusterError(
                    "The state is stored in a file. Call fastserverstate.durable.disconnect() before connecting to "
                    "Redis. To take the file's keys along: python -m fastserverstate move."
                )
            if self._is_opening:
                raise ClusterError("A finalizer called connect() during connect(). The inner call did nothing.")
            self._is_opening = True
            seconds = timeout if import_timeout is None else import_timeout
            joined = False
            try:
                adapter = ClusterAdapter(self._store, url, namespace=namespace, secret=secret, timeout=timeout)
                try:
                    joined = adapter.open(seconds)
                finally:
                    if not joined and required and import_timeout is None:
                        adapter.close()
            finally:
                self._is_opening = False
            if joined or not required or import_timeout is not None:
                self._arguments, self.adapter = arguments, adapter
                self._publish(self._metrics)
        if not joined and required:
            raise adapter.unreachable(seconds)
        if not joined:
            logger.warning("%s This server works by itself until it can be reached.", adapter.unreachable(seconds))

    def disconnect(self) -> None:
        """Disconnect from the other servers and continue alone, with the values that this server has.

        Does nothing if this server is not connected.

        Thread-safety
            Safe from any thread. Locks of this server become free for the other servers within 10 seconds.

        >>> from fastserverstate import cluster
        >>> cluster.disconnect()
        """
        with self._lock:
            adapter, self.adapter = self.adapter, None
            if adapter is not None:
                adapter.close()

    def status(self) -> Status | None:
        """Return the state of this server's connection, or None if it is not connected. Sends no request.

        Thread-safety
            Safe from any thread.

        >>> from fastserverstate import cluster
        >>> cluster.status() is None
        True
        """
        adapter = self.adapter
        return None if adapter is None else adapter.node.status()

    def sync(self) -> None:
        """Wait until this server has all writes that any server made before this call.

        Reads after this call are linearizable. Does nothing if this server is not connected.

        Thread-safety
            Safe from any thread.

        Raises
            ``NotConnectedError`` if the Redis server is not reached in time.

        >>> from fastserverstate import cluster
        >>> cluster.sync()
        """
        adapter = self.adapter
        if adapter is not None:
            adapter.sync()

    def reset_after_fork(self) -> None:
        """Forget the connection: it belongs to the parent process."""
        self.adapter, self._lock, self._is_opening = None, threading.RLock(), False

    def _figures(self) -> list[Figure]:
        now = self.status()
        return [] if now is None else cluster_figures(now)
