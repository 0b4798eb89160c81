"""The pages of sessions, as live regions need them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import streamlit

from fastserverstate._streamlit.bridge import Bridge
from fastserverstate._streamlit.exceptions import show_exception
from fastserverstate._streamlit.names import CAN_PUSH
from fastserverstate.definitions import Call
from fastserverstate.rerun.session import LiveSession

if CAN_PUSH:
    from fastserverstate._streamlit import rendering


class _InFragment(threading.local):
    is_live = False  # the fragment of a live function, which shows others that it calls


class StreamlitPages:
    """Adapts the pages of Streamlit to `live_regions.Pages`."""

    can_push = CAN_PUSH

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._in_fragment = _InFragment()

    def session_of_run(self) -> LiveSession | None:
        return None if self._in_fragment.is_live else self._bridge.session_of_run()

    def show_in_fragment(self, call: Call) -> None:
        @functools.wraps(call.function)
        def show() -> None:
            self._in_fragment.is_live = True
            try:
                call.function(*call.args, **call.kwargs)
            except Exception as error:  # is shown in its place, and the script goes on
                show_exception(error)
            finally:
                self._in_fragment.is_live = False

        # Streamlit 1.37 reruns a fragment with its first function, so other arguments need another fragment id.
        show.__qualname__ += call.fingerprint.hex()
        streamlit.fragment(show)()

    def open_place(self) -> Any:
        return rendering.open_place()

    def capture(self, function: Callable[[], Any], refuse: Callable[[str], NoReturn], previous: Any) -> Any:
        return rendering.capture(function, refuse, previous)

    def without_elements(self, function: Callable[[], Any], refuse: Callable[[str], NoReturn]) -> Any:
        return rendering.without_elements(function, refuse) if CAN_PUSH else function()
