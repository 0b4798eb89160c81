"""A session over Streamlit's WebSocket protocol that stores only the data of the benchmark."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Self

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect

OPEN_SECONDS = 60.0
OPENING_AT_ONCE = 16


class Session:
    """One open session.

    Attributes
        ``shown`` has the texts of the form "name value" on its page, ``since`` the ``time.monotonic()`` at which each
        got this value; ``updates`` counts such changes, ``updates_of`` those of each name, and ``finished`` the runs
        whose end the session has heard of.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.shown: dict[str, str] = {}
        self.since: dict[str, float] = {}
        self.updates = 0
        self.updates_of: Counter[str] = Counter()
        self.finished = 0
        self._buttons: dict[str, str] = {}
        self._socket = socket
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str, query: str = "") -> Self:
        """Connect, and wait until the first run ends."""
        socket = await connect(
            url,
            subprotocols=["streamlit", "PLACEHOLDER_AUTH_TOKEN"],  # type: ignore[list-item]
            compression=None,
            ping_interval=None,
            max_size=None,
            open_timeout=OPEN_SECONDS,
            proxy=None,
        )
        session = cls(socket)
        if not await session.rerun(query):
            raise TimeoutError(f"A session's first run did not end within {OPEN_SECONDS} s.")
        return session

    async def close(self) -> None:
        self._reader.cancel()
        await self._socket.close()

    async def rerun(self, query: str = "", seconds: float = OPEN_SECONDS) -> bool:
        """Rerun the script with this query string. Return False if it does not end in time."""
        before = self.finished
        await self._send(query)
        return await self.until(lambda: self.finished > before, seconds)

    async def click(self, label: str, query: str = "") -> float:
        """Click the button, and return the time."""
        now = time.monotonic()
        await self._send(query, WidgetState(id=self._buttons[label], trigger_value=True))
        return now

    async def shows(self, name: str, value: str, seconds: float) -> float | None:
        """Wait for the text. Return the time of its arrival, or None after the timeout."""
        in_time = await self.until(lambda: self.shown.get(name) == value, seconds)
        return self.since[name] if in_time else None

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if self._reader.done():
                        raise ConnectionError("The server has closed the session.") from self._reader.exception()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _send(self, query: str, *widgets: WidgetState) -> None:
        message = BackMsg()
        message.rerun_script.query_string = query
        message.rerun_script.widget_states.widgets.extend(widgets)
        await self._socket.send(message.SerializeToString())

    async def _read(self) -> None:
        try:
            async for data in self._socket:
                message = ForwardMsg.FromString(data)
                if message.HasField("delta"):
                    self._apply(message.delta.new_element)
                elif message.HasField("script_finished"):
                    self.finished += message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY
                else:
                    continue
                self._news.set()
        finally:
            self._news.set()

    def _apply(self, element: Element) -> None:
        if element.HasField("text"):
            name, _, value = element.text.body.partition(" ")
            if self.shown.get(name) != value:
                self.shown[name] = value
                self.since[name] = time.monotonic()
                self.updates += 1
                self.updates_of[name] += 1
        elif element.HasField("button"):
            self._buttons[element.button.label] = element.button.id


async def open_sessions(url: str, queries: Iterable[str]) -> list[Session]:
    """Open a session for each query string, some at a time."""
    places = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one(query: str) -> Session:
        async with places:
            return await Session.open(url, query)

    return await asyncio.gather(*map(open_one, queries))
