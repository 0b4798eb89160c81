"""The server of the process: metrics on its endpoint, and calls when it stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamlit.runtime import Runtime

from fastserverstate._streamlit.metrics import Metrics
from fastserverstate._streamlit.names import ATTRIBUTE


class Server:
    """The current server, or one that starts later.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._metrics: list[Metrics] = []
        self._stop_callbacks: list[Callable[[], object]] = []

    def publish(self, metrics: Metrics) -> None:
        """Publish metrics on the server's endpoint."""
        self._add(self._metrics, metrics)

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Call the function when the server begins to stop, on the thread of its event loop.

        Some servers end the process soon afterwards, without running what `atexit` has registered.
        """
        self._add(self._stop_callbacks, callback)

    def _add(self, known: list[Any], new: Any) -> None:
        if new not in known:
            known.append(new)
        if Runtime.exists():
            self.adopt()

    def adopt(self) -> None:
        """Connect to the server that runs."""
        runtime: Any = Runtime.instance()
        published = runtime.stats_mgr.__dict__.setdefault(ATTRIBUTE, [])
        for metrics in self._metrics:
            if metrics not in published:
                published.append(metrics)
                runtime.stats_mgr.register_provider(metrics)
        if self._stop_callbacks and ATTRIBUTE not in runtime.__dict__:
            runtime.__dict__[ATTRIBUTE] = True
            stop = runtime.stop

            def call_and_stop() -> None:
                for callback in self._stop_callbacks:
                    callback()
                stop()

            runtime.stop = call_and_stop
