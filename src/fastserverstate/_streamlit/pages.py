"""The pages of sessions, as live regions need them."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any, NoReturn

import streamlit

from fastserverstate._streamlit.bridge import Bridge
from fastserverstate._streamlit.names import CAN_PUSH
from fastserverstate.definitions import Call
from fastserverstate.rerun.session import LiveSession

_is_in_live_fragment = contextvars.ContextVar("fastserverstate live fragment", default=False)

if CAN_PUSH:
    from fastserverstate._streamlit import rendering


class StreamlitPages:
    """Adapts the pages of Streamlit to `live.Pages`."""

    can_push = CAN_PUSH

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def session_of_run(self) -> LiveSession | None:
        return self._bridge.session_of_run()

    def show_in_fragment(self, call: Call) -> None:
        if _is_in_live_fragment.get():  # a rerun of a fragment leaves what the fragments in it have shown before
            call.function(*call.args, **call.kwargs)
            return

        @functools.wraps(call.function)
        def show() -> None:
            token = _is_in_live_fragment.set(True)
            try:
                call.function(*call.args, **call.kwargs)
            finally:
                _is_in_live_fragment.reset(token)

        # Streamlit 1.37 reruns a fragment with its first function, so other arguments need another fragment id.
        show.__qualname__ += call.fingerprint.hex()
        streamlit.fragment(show)()

    def open_place(self) -> Any:
        return rendering.open_place()

    def capture(self, function: Callable[[], Any], refuse: Callable[[str], NoReturn], previous: Any) -> Any:
        return rendering.capture(function, refuse, previous)

    def without_elements(self, function: Callable[[], Any], refuse: Callable[[str], NoReturn]) -> Any:
        return rendering.without_elements(function, refuse) if CAN_PUSH else function()
