"""Many sessions that only watch, in a process of their own.

They parse no more of the protocol than frames: a message shows a text if the text is in its bytes. So hundreds of them
take little of the processor time that the server needs on the same machine.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import multiprocessing
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg

END = b"<end>"  # the text at the end of every page
AT_ONCE = 20
PATIENCE = 120.0

_MASK = b"\0\0\0\0"  # leaves the bytes as they are
_BINARY, _PING, _PONG = 0x82, 0x89, 0x8A


@dataclass(frozen=True)
class Traffic:
    size: int  # in bytes
    messages: int

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(self.size - before.size, self.messages - before.messages)


class Viewer(asyncio.Protocol):
    """One session."""

    text: ClassVar[bytes] = END
    seen: ClassVar[dict[Viewer, float]] = {}  # when those that have received the text did
    expected: ClassVar[int] = 0
    all_have_seen: ClassVar[asyncio.Event]

    def __init__(self, url: str, query: str) -> None:
        self._url = urlsplit(url)
        self._query = query
        self._rest = b""
        self._is_open = False
        self._transport: Any = None
        self.size = self.messages = 0
        self.shows_page = asyncio.Event()
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(
            f"GET {self._url.path} HTTP/1.1\r\nHost: {self._url.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: streamlit\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n".encode()
        )

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_lost = True

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        if not self._is_open:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            self._is_open = True
            message = BackMsg()
            message.rerun_script.query_string = self._query
            self._send(_BINARY, message.SerializeToString())
        if self.text in data and self not in self.seen:
            self.seen[self] = time.monotonic()
            if len(self.seen) >= self.expected:
                self.all_have_seen.set()
        if not self.shows_page.is_set() and END in data:
            self.shows_page.set()
        self._rest = data[self._take_frames(data) :]

    def _take_frames(self, data: bytes) -> int:
        """Count the complete frames and answer pings. Return where the incomplete frame begins."""
        start, size = 0, len(data)
        while start + 2 <= size:
            length, head = data[start + 1], start + 2
            if length > 125:
                head += 2 if length == 126 else 8
                if head > size:
                    break
                length = int.from_bytes(data[start + 2 : head], "big")
            end = head + length
            if end > size:
                break
            if data[start] == _PING:
                self._send(_PONG, data[head:end])
            else:
                self.messages += 1
                self.size += end - start
            start = end
        return start

    def _send(self, kind: int, data: bytes) -> None:
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        self._transport.write(bytes([kind]) + length + _MASK + data)


async def _serve(connection: Connection) -> None:
    Viewer.all_have_seen = asyncio.Event()
    viewers: list[Viewer] = []
    places = asyncio.Semaphore(AT_ONCE)

    async def open_one(url: str, query: str) -> None:
        async with places:
            host, port = urlsplit(url).netloc.split(":")
            _, viewer = await asyncio.get_running_loop().create_connection(lambda: Viewer(url, query), host, int(port))
            await asyncio.wait_for(viewer.shows_page.wait(), PATIENCE)
            viewers.append(viewer)

    while True:
        command, *arguments = await asyncio.to_thread(connection.recv)
        if command == "open":
            url, query, count = arguments
            await asyncio.gather(*(open_one(url, query) for _ in range(count)))
            connection.send(len(viewers))
        elif command == "watch":
            Viewer.text, Viewer.expected = arguments[0].encode(), len(viewers)
            Viewer.seen.clear()
            Viewer.all_have_seen.clear()
            connection.send(None)
        elif command == "seen":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(Viewer.all_have_seen.wait(), arguments[0])
            connection.send(sorted(Viewer.seen.values()))
        elif command == "traffic":
            connection.send(
                (Traffic(sum(v.size for v in viewers), sum(v.messages for v in viewers)), time.process_time())
            )
        else:
            return


def _main(connection: Connection) -> None:
    asyncio.run(_serve(connection))


class Viewers:
    """The sessions of the other process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.count = 0

    async def open(self, url: str, count: int, query: str = "") -> None:
        """Open more sessions, and wait until each shows its page."""
        self.count = await self._ask("open", url, query, count)

    async def watch(self, text: str) -> None:
        """From now on, note when each session receives the text."""
        await self._ask("watch", text)

    async def seen(self, seconds: float = PATIENCE) -> list[float]:
        """Wait until all have received the text. Return the times of those that have, on the monotonic clock."""
        times: list[float] = await self._ask("seen", seconds)
        return times

    async def traffic(self) -> tuple[Traffic, float]:
        """Return what all sessions have received so far, and the processor time of their process."""
        traffic: tuple[Traffic, float] = await self._ask("traffic")
        return traffic

    async def _ask(self, *command: object) -> Any:
        self._connection.send(command)
        return await asyncio.to_thread(self._connection.recv)


@contextlib.asynccontextmanager
async def viewers() -> AsyncIterator[Viewers]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield Viewers(here)
    finally:
        with contextlib.suppress(OSError):
            here.send(("close",))
        await asyncio.to_thread(process.join, 10)
        process.kill()
