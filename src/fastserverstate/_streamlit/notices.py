"""The element that a call of ``st.toast``, ``st.balloons`` or ``st.snow`` makes."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import streamlit
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from fastserverstate._streamlit.contexts import new_context, thread_has
from fastserverstate._streamlit.names import CAN_PUSH, FragmentState, thread_state
from fastserverstate.errors import FastServerStateError
from fastserverstate.functions import name_of

_NAMES = ("toast", "balloons", "snow")


def element_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Call one of the functions. Return its element, serialized."""
    if not any(function == getattr(streamlit, name) for name in _NAMES):
        raise FastServerStateError(
            f"broadcast shows st.toast, st.balloons and st.snow, and not {name_of(function)}. To show anything else to "
            "all sessions, write it to shared state and show it in a function with @live, or emit an event."
        )
    if function != streamlit.toast and not CAN_PUSH:
        raise FastServerStateError(
            f"broadcast shows st.{function.__name__} in browsers of Streamlit 1.44 and newer, and this is Streamlit "
            f"{streamlit.__version__}. Use st.toast."
        )
    elements: list[bytes] = []

    def enqueue(message: ForwardMsg) -> None:
        if message.delta.WhichOneof("type") == "new_element":
            elements.append(message.delta.new_element.SerializeToString())

    def refuse(what: str) -> Any:
        raise FastServerStateError(f"broadcast cannot use {what}.")

    def call() -> None:
        if thread_state is not None:
            thread_state.set(FragmentState())
        with thread_has(new_context(enqueue, refuse, "fastserverstate broadcast")):
            function(*args, **kwargs)

    contextvars.Context().run(call)  # outside of the containers that the caller is in
    return elements[-1]
