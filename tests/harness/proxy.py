"""A TCP proxy that injects network failures."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from types import TracebackType


class Proxy:
    """Forwards connections to a port of this machine.

    While `to_server` or `to_client` is false, data in this direction is dropped silently. The next `lose_replies`
    replies are dropped and their connections closed, after the server has executed the requests.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.to_server = self.to_client = True
        self.delay = 0.0
        self.lost = 0
        self._lose_replies = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: set[socket.socket] = set()
        self._closed = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def lose_replies(self, count: int) -> None:
        with self._lock:
            self._lose_replies = count

    def cut(self) -> None:
        """Close all connections."""
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.add(sock)
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        scripts = False  # True if the next reply is that of a script
        try:
            while True:
                for sock in select.select([client, server], [], [])[0]:
                    data = sock.recv(1 << 16)
                    if not data:
                        return
                    if self.delay:
                        time.sleep(self.delay)
                    if sock is client:
                        if b"EVAL" in data[:100]:
                            scripts = b"\r\nwrite\r\n" in data or b"\r\nacquire\r\n" in data or b"release\r\n" in data
                        if self.to_server:
                            server.sendall(data)
                    elif scripts and self._loses():
                        return
                    elif self.to_client:
                        client.sendall(data)
        except OSError:
            return
        finally:
            for sock in (client, server):
                self._sockets.discard(sock)
                sock.close()

    def _loses(self) -> bool:
        with self._lock:
            if self._lose_replies:
                self._lose_replies -= 1
                self.lost += 1
                return True
            return False
