"""Script contexts in which this package calls functions, outside of the runs of sessions."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.scriptrunner import ScriptRunContext

from fastserverstate._streamlit.names import ATTRIBUTE, CONTEXT_ATTRIBUTE

Refuse = Callable[[str], NoReturn]


class Forbidden:
    """Stands for a part of the script context that a function must not use."""

    def __init__(self, refuse: Refuse, what: str) -> None:
        self.__dict__.update(_refuse=refuse, _what=what)

    def __getattr__(self, name: str) -> Any:
        self._refuse(self._what)

    def __setattr__(self, name: str, value: object) -> None:
        self._refuse(self._what)

    def __getitem__(self, key: object) -> Any:
        self._refuse(self._what)

    def __setitem__(self, key: object, value: object) -> None:
        self._refuse(self._what)

    def __delitem__(self, key: object) -> None:
        self._refuse(self._what)

    def __contains__(self, key: object) -> Any:
        return self._refuse(self._what)

    def __len__(self) -> Any:
        return self._refuse(self._what)

    def __iter__(self) -> Any:
        return self._refuse(self._what)


class _Pages(Forbidden):
    """The pages of the app, without what differs between sessions."""

    main_script_hash = current_page_script_hash = ""

    def get_active_script_hash(self) -> str:
        return ""

    @property
    def main_script_parent(self) -> pathlib.Path:
        return pathlib.Path(_main_script).parent


_main_script = ""  # path of the app's script, once a run has opened a place


def set_main_script(path: str) -> None:
    """Set the path of the app's script."""
    global _main_script  # noqa: PLW0603
    _main_script = path


# What stands in an error message for the fields of a script context.
_FORBIDDEN = {
    "session_state": "a widget, st.session_state or st.query_params",
    "context_info": "st.context",
    "user_info": "st.user",
    "script_requests": "st.rerun, st.stop or a page of the app",
    "fragment_storage": "a fragment or dialog",
    "uploaded_file_mgr": "an uploaded file",
}


def new_context(enqueue: Callable[[ForwardMsg], None], refuse: Refuse, session_id: str) -> Any:
    context: Any = ScriptRunContext.__new__(ScriptRunContext)
    for field in dataclasses.fields(ScriptRunContext):
        value: Any = None
        if field.name in _FORBIDDEN:
            value = Forbidden(refuse, _FORBIDDEN[field.name])
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        context.__dict__[field.name] = value
    context.__dict__.update(
        session_id=session_id,
        _enqueue=enqueue,
        query_string="",
        pages_manager=_Pages(refuse, _FORBIDDEN["script_requests"]),
        main_script_path=_main_script,
        _has_script_started=True,
    )
    context.__dict__[ATTRIBUTE] = refuse
    return context


@contextlib.contextmanager
def thread_has(context: Any) -> Iterator[None]:
    """Have the calling thread run in this script context."""
    attributes = threading.current_thread().__dict__
    before = attributes.get(CONTEXT_ATTRIBUTE)
    attributes[CONTEXT_ATTRIBUTE] = context
    try:
        yield
    finally:
        if before is None:
            del attributes[CONTEXT_ATTRIBUTE]
        else:
            attributes[CONTEXT_ATTRIBUTE] = before
