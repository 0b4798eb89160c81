"""This server's membership in the group of servers that share one state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from fastserverstate._core import Store
from fastserverstate._streamlit import Metrics
from fastserverstate.cluster.backend import Link
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
        self.link: Link | None = None
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

        `import_timeout`, if given, limits the time for connecting during an import. A required link then stays open
        after a failure: every run of a script tries the failed import again, and is told immediately how the link is.
        """
        arguments = (url, namespace, secret, timeout)
        if self.link is not None and arguments == self._arguments:
            if required and import_timeout is not None and not self.link.has_joined():
                raise self.link.unreachable(import_timeout)
            return
        with self._lock:
            if self.link is not None:
                if arguments != self._arguments:
                    raise ClusterError(
                        f"This server is connected to {self.link.node.engine.address} with other arguments. Call "
                        "fastserverstate.cluster.disconnect() first."
                    )
                return
            if self._is_opening:
                raise ClusterError("A finalizer has called connect() while connect() was at work. It has done nothing.")
            self._is_opening = True
            patience = timeout if import_timeout is None else import_timeout
            joined = False
            try:
                link = Link(self._store, url, namespace=namespace, secret=secret, timeout=timeout)
                try:
                    joined = link.open(patience)
                finally:
                    if not joined and required and import_timeout is None:
                        link.close()
            finally:
                self._is_opening = False
            if joined or not required or import_timeout is not None:
                self._arguments, self.link = arguments, link
                self._publish(self._metrics)
        if not joined and required:
            raise link.unreachable(patience)
        if not joined:
            logger.warning("%s This server works by itself until it can be reached.", link.unreachable(patience))

    def disconnect(self) -> None:
        """Leave the other servers and go on alone, with the values that this server has.

        Does nothing if this server is not connected.

        Thread-safety
            Safe from any thread. Locks that are held are free for the other servers within 10 seconds.

        >>> from fastserverstate import cluster
        >>> cluster.disconnect()
        """
        with self._lock:
            link, self.link = self.link, None
            if link is not None:
                link.close()

    def status(self) -> Status | None:
        """Return what this server knows of its connection, without asking; None if ``connect`` was not called.

        Thread-safety
            Safe from any thread.

        >>> from fastserverstate import cluster
        >>> cluster.status() is None
        True
        """
        link = self.link
        return None if link is None else link.node.status()

    def sync(self) -> None:
        """Wait until this server has all writes that any server made before this call.

        A read after it is linearizable. Does nothing if this server is not connected.

        Thread-safety
            Safe from any thread.

        Raises
            ``NotConnectedError`` if the Redis or Valkey server is not reached in time.

        >>> from fastserverstate import cluster
        >>> cluster.sync()
        """
        link = self.link
        if link is not None:
            link.sync()

    def reset_after_fork(self) -> None:
        """Forget the connection: it belongs to the parent process."""
        self.link, self._lock, self._is_opening = None, threading.RLock(), False

    def _figures(self) -> list[Figure]:
        now = self.status()
        return [] if now is None else cluster_figures(now)
