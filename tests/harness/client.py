"""A client of one Streamlit session: it speaks the WebSocket protocol of the browser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

DEADLINE = 30.0


class Client:
    """Stores the elements that a browser would show, and sends its messages.

    Attributes
        ``started`` and ``finished`` count the runs reported to the client, ``deltas`` the elements and blocks that it
        was sent; ``session_id`` can resume the session.
    """

    def __init__(self, url: str, *, resume: str | None = None, page: str = "", query: str = "") -> None:
        self._url = url
        self._resume = resume
        self._page = page
        self._page_script_hash = ""
        self._query = query
        self._elements: dict[tuple[int, ...], tuple[str, Any, str]] = {}
        self._widgets: dict[str, WidgetState] = {}
        self._blocks: dict[tuple[int, ...], str] = {}
        self._before: set[tuple[int, ...]] = set()
        self._fragments: set[str] = set()
        self._waits: dict[asyncio.Future[None], Callable[[Client], bool]] = {}
        self._reads = asyncio.Event()
        self._reads.set()
        self._broken: BaseException | None = None
        self.session_id = ""
        self.started = 0
        self.finished = 0
        self.fragment_runs = 0
        self.settled = False  # no run is requested or reported as running
        self._started_at_request = 0
        self.deltas = 0

    async def __aenter__(self) -> Self:
        protocols = ["streamlit", "PLACEHOLDER_AUTH_TOKEN", *([self._resume] if self._resume else [])]
        self._socket = await websockets.connect(
            self._url,
            subprotocols=protocols,
            max_size=None,
            open_timeout=DEADLINE,
            ping_interval=None,  # a client that reads nothing would not see the server's answers
        )
        self._reader = asyncio.create_task(self._read())
        if self._resume is None:
            await self.rerun()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The closing handshake follows the data that the server has sent, so the reader must still run.
        await self._socket.close()
        self._reader.cancel()

    # Elements

    @property
    def texts(self) -> list[str]:
        """Return the text elements from top to bottom."""
        return [
            element.markdown.body if kind == "markdown" else element.text.body
            for _, (kind, element, _) in sorted(self._elements.items())
            if kind in ("markdown", "text")
        ]

    @property
    def exceptions(self) -> list[str]:
        return [
            f"{element.exception.type}: {element.exception.message}"
            for kind, element, _ in self._elements.values()
            if kind == "exception"
        ]

    def element(self, label: str) -> tuple[Any, str]:
        """Find the widget with this label, and the id of its fragment."""
        for kind, element, fragment in self._elements.values():
            widget = getattr(element, kind)
            if getattr(widget, "label", None) == label:
                return widget, fragment
        raise LookupError(f"No widget {label!r} among {sorted(kind for kind, _, _ in self._elements.values())}")

    async def until(self, condition: Callable[[Client], bool], seconds: float = DEADLINE) -> None:
        """Wait until the condition is true. It is checked after every message, so no short-lived state is missed."""
        if self._broken is not None:
            raise self._broken
        if condition(self):
            return
        wait = asyncio.get_running_loop().create_future()
        self._waits[wait] = condition
        try:
            async with asyncio.timeout(seconds):
                await wait
        except TimeoutError:
            raise TimeoutError(
                f"After {seconds} s the page shows {self.texts} {self.exceptions}; {self.started} runs started, "
                f"{self.finished} finished."
            ) from None
        finally:
            del self._waits[wait]

    async def shows(self, text: str, seconds: float = DEADLINE) -> None:
        await self.until(lambda client: text in client.texts, seconds)

    # Actions of the user

    async def click(self, label: str) -> None:
        widget, fragment = self.element(label)
        await self.rerun(WidgetState(id=widget.id, trigger_value=True), fragment)

    async def switch(self, label: str, *, on: bool) -> None:
        widget, fragment = self.element(label)
        self._widgets[widget.id] = WidgetState(id=widget.id, bool_value=on)
        await self.rerun(fragment=fragment)

    async def enter(self, label: str, text: str) -> None:
        widget, fragment = self.element(label)
        self._widgets[widget.id] = WidgetState(id=widget.id, string_value=text)
        await self.rerun(fragment=fragment)

    async def stop(self) -> None:
        """Press the Stop button."""
        await self._socket.send(BackMsg(stop_script=True).SerializeToString())

    def pause(self) -> None:
        """Read nothing more from the connection."""
        self._reads.clear()

    def resume(self) -> None:
        self._reads.set()

    async def reconnect(self) -> None:
        """Connect to the session again, as a browser that has lost its connection. It still shows what it did."""
        await self._socket.close()
        self._reader.cancel()
        self._resume = self.session_id
        await self.__aenter__()

    async def close_tab(self) -> None:
        """Close the connection with the code that browsers use when a tab is closed."""
        await self._socket.close(1001)

    def lose_connection(self) -> None:
        """End the connection without a word, as a process that is killed."""
        self._socket.transport.abort()

    async def rerun(self, trigger: WidgetState | None = None, fragment: str = "", *, by_timer: bool = False) -> None:
        message = BackMsg()
        if by_timer:
            message.rerun_script.is_auto_rerun = True
        if self._page_script_hash:
            message.rerun_script.page_script_hash = self._page_script_hash
        else:
            message.rerun_script.page_name = self._page
        message.rerun_script.query_string = self._query
        message.rerun_script.fragment_id = fragment
        message.rerun_script.widget_states.widgets.extend(
            [*self._widgets.values(), *([trigger] if trigger is not None else [])]
        )
        self.settled = False
        self._started_at_request = self.started
        await self._socket.send(message.SerializeToString())

    # Messages of the server

    async def _read(self) -> None:
        try:
            async for data in self._socket:
                message = ForwardMsg()
                message.ParseFromString(data)
                self._apply(message)
                self._check_waits()
                await self._reads.wait()
        except Exception as error:
            self._broken = error
            for wait in self._waits:
                if not wait.done():
                    wait.set_exception(error)

    def _check_waits(self) -> None:
        for wait, condition in self._waits.items():
            if wait.done():
                continue
            try:
                if condition(self):
                    wait.set_result(None)
            except Exception as error:
                wait.set_exception(error)

    def _apply(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        self.deltas += kind == "delta"
        if kind == "new_session":
            self.started += 1
            self.settled = False
            self._page_script_hash = message.new_session.page_script_hash
            self.session_id = message.new_session.initialize.session_id
            # Streamlit 1.6x moved the fragment ids of a run from the message to its metadata.
            run = message.new_session if hasattr(message.new_session, "fragment_ids_this_run") else message.metadata.run
            self._fragments = set(getattr(run, "fragment_ids_this_run", None) or getattr(run, "fragment_ids", ()))
            self._before = set(self._elements)
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            path = tuple(message.metadata.delta_path)
            element = message.delta.new_element
            self._remove(path)
            self._elements[path] = (element.WhichOneof("type"), element, message.delta.fragment_id)
            self._before.discard(path)
        elif kind == "delta" and message.delta.WhichOneof("type") == "add_block":
            path = tuple(message.metadata.delta_path)
            block = message.delta.add_block.WhichOneof("type") or ""
            if self._blocks.get(path) != block:  # another block of the same kind keeps the elements in it
                self._remove(path)
                self._blocks[path] = block
        elif kind == "script_finished":
            self.finished += 1
            # A run that began before the last request, or that was given up for another one, is followed by a run.
            is_followed = message.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN
            self.settled = self.started > self._started_at_request and not is_followed
            self.fragment_runs += message.script_finished == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY
            if not is_followed:
                for path in self._before & self._elements.keys():
                    if not self._fragments or self._elements[path][2] in self._fragments:
                        del self._elements[path]

    def _remove(self, path: tuple[int, ...]) -> None:
        """Remove what is at the path and below it."""
        for nodes in (self._elements, self._blocks):
            for other in [other for other in nodes if other[: len(path)] == path]:
                del nodes[other]
