"""Serves the benchmark's requests over HTTP, on a port of its own: returns counters and executes commands."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import meter
from writer import Writer

_lock = threading.Lock()
_server: HTTPServer | None = None
_writer: Writer | None = None


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        arguments = {name: values[-1] for name, values in parse_qs(url.query).items()}
        body = json.dumps(_answer(url.path, arguments)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the name is http.server's
        pass


def _answer(path: str, arguments: dict[str, str]) -> Any:
    global _writer  # noqa: PLW0603
    if path == "/runs":
        return meter.snapshot()
    if path == "/write":
        _writer = Writer(arguments["key"], float(arguments["interval"]), float(arguments["seconds"]))
        _writer.start()
    return _writer.report() if _writer else None


def start() -> None:
    """Listen on the port `FSS_CONTROL_PORT`. Every run calls this, but only the first call has an effect."""
    global _server  # noqa: PLW0603
    with _lock:
        if _server is None:
            _server = HTTPServer(("127.0.0.1", int(os.environ["FSS_CONTROL_PORT"])), _Handler)
            threading.Thread(target=_server.serve_forever, daemon=True).start()
