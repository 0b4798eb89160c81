"""How browsers close their connections.

A browser that closes a tab, or leaves the page, says so with the code `GOING_AWAY`. A connection that is lost ends
with another code, or with none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

GOING_AWAY = 1001  # of RFC 6455

_CLOSING = "_fastserverstate_closing"

Listener = Callable[[int | None], None]


class _Closing:
    """The end of a connection under Starlette, whose clients forget the code."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._is_closed = False
        self._listener: Listener | None = None

    def close(self, code: int | None) -> None:
        self._code, self._is_closed = code, True
        if self._listener is not None:
            self.tell(self._listener)

    def tell(self, listener: Listener) -> None:
        if self._is_closed:
            listener(self._code)
        else:
            self._listener = listener


def watch_closing(client: Any) -> None:
    """Note the code with which the connection of a new client will be closed."""
    websocket: dict[str, Any] = getattr(getattr(client, "_websocket", None), "__dict__", {})
    receive = websocket.get("_receive")
    if receive is None or _CLOSING in client.__dict__:  # Tornado notes it
        return
    closing = client.__dict__[_CLOSING] = _Closing()

    async def receive_and_note() -> Any:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            closing.close(message.get("code"))
        return message

    websocket["_receive"] = receive_and_note


def when_closed(client: Any, listener: Listener) -> None:
    """Call the listener with the code, None if there was none: now or, if Streamlit learns it later, then."""
    closing: _Closing | None = getattr(client, _CLOSING, None)
    if closing is None:
        listener(getattr(client, "close_code", None))
    else:
        closing.tell(listener)
