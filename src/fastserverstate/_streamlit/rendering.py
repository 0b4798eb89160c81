"""Renders a function once, for all sessions that show it.

A function that runs in `capture` has a script context of its own. The messages of its elements go to a *rendering*,
with delta paths that begin at the function's own container. `Place.message` copies one for a session, where that
container is at another path.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import streamlit
from streamlit.cursor import RunningCursor
from streamlit.delta_generator import DeltaGenerator
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import Runtime
from streamlit.runtime.runtime_util import serialize_forward_msg
from streamlit.runtime.scriptrunner import (
    RerunException,
    StopException,
    enqueue_message,
    get_script_run_ctx,
)

from fastserverstate._streamlit.contexts import Refuse, new_context, set_main_script, thread_has
from fastserverstate._streamlit.exceptions import show_exception
from fastserverstate._streamlit.names import (
    ATTRIBUTE,
    FragmentState,
    current_fragment_id,
    dg_stack,
    thread_state,
)

# The root container of a rendering. Elements with another one are in a container from outside of the function.
_ROOT = 1_000_000

_SESSION = "fastserverstate live "  # begins the session ids under which renderings register their media files
_serials = itertools.count(1)

# Session ids of renderings that were freed. Finalizers may run at any point, so they release no media files.
_freed: deque[str] = deque()

Path = tuple[int, ...]


def watch_clients() -> None:
    """Refuse the request headers of a session to functions that run without one."""
    runtime = Runtime.instance()
    get_client = runtime.get_client
    if ATTRIBUTE in get_client.__dict__:
        return

    def refuse_or_get(session_id: str) -> Any:
        context: Any = get_script_run_ctx(suppress_warning=True)
        if context is not None and context.session_id == session_id and session_id.startswith(_SESSION):
            context.__dict__[ATTRIBUTE]("st.context")
        return get_client(session_id)

    refuse_or_get.__dict__[ATTRIBUTE] = True
    runtime.__dict__["get_client"] = refuse_or_get


def _run_in(context: Any, function: Callable[[], Any], cursor: RunningCursor) -> Any:
    """Call the function with another script context, in a container whose elements begin at the cursor."""
    main = streamlit._main
    container = DeltaGenerator(root_container=_ROOT, cursor=cursor, parent=main)

    def run() -> Any:
        if thread_state is not None:
            thread_state.set(FragmentState())
        dg_stack.set((main, container))
        with thread_has(context):
            return function()

    return contextvars.copy_context().run(run)


def without_elements(function: Callable[[], Any], refuse: Refuse) -> Any:
    """Call a function that must not create elements or use the session."""

    def enqueue(_message: ForwardMsg) -> None:
        refuse("an element")

    if not Runtime.exists():
        return function()  # in plain Python, elements do nothing
    watch_clients()
    context = new_context(enqueue, refuse, _SESSION)
    return _run_in(context, function, RunningCursor(root_container=_ROOT))


class _Node:
    """An element or block of a rendering, with the children of the block by their index."""

    def __init__(self, message: ForwardMsg) -> None:
        self.message = message
        self.content = b""
        self.children: dict[int, _Node] = {}

    @property
    def is_block(self) -> bool:
        return self.message.delta.HasField("add_block")

    @property
    def kind(self) -> tuple[str, str | None] | None:
        """Which block it is. A block takes over the elements in an earlier one of the same kind."""
        return ("block", self.message.delta.add_block.WhichOneof("type")) if self.is_block else None


_EMPTY = ForwardMsg()
_EMPTY.delta.new_element.empty.SetInParent()


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where a session shows a rendering: the path of its container, and what the messages of its run have in common.

    Sessions share the objects, by which their messages are found: comparing fields for each of them would take longer.
    """

    path: Path
    script_hash: str
    fragment_id: str | None

    def message(self, path: Path, element: ForwardMsg) -> ForwardMsg:
        message = ForwardMsg()
        message.hash = element.hash
        message.delta.CopyFrom(element.delta)
        message.metadata.delta_path[:] = [*self.path, *path]
        message.metadata.active_script_hash = self.script_hash
        if self.fragment_id:
            message.delta.fragment_id = self.fragment_id
        _set_element_id(message)
        return message


def _set_element_id(message: ForwardMsg) -> None:
    """Replace the ids that Streamlit derives from the delta path: browsers find a part of the page by them."""
    element = message.delta.new_element
    kind = element.WhichOneof("type")
    element_id = "-".join(map(str, message.metadata.delta_path))
    if kind == "graphviz_chart":
        element.graphviz_chart.element_id = element_id
    elif kind in ("table", "arrow_table"):
        table: Any = getattr(element, kind)
        styler = getattr(table, "arrow_data", table).styler
        if styler.uuid:
            styler.styles = styler.styles.replace(styler.uuid, element_id)
            styler.uuid = element_id


_place_at = functools.lru_cache(10_000)(Place)


class Rendering:
    """What a function has rendered. Equal if it shows the same.

    Its media files are registered under a session id of its own, until the rendering is freed.
    """

    def __init__(self, root: _Node, session_id: str, error: Exception | None, error_message: ForwardMsg | None) -> None:
        self.number = next(_serials)
        self.error = error
        self.error_message = error_message
        self._root = root
        self._content = tuple((path, node.content) for path, node in _all_below((), root))
        self._payloads: dict[tuple[int, Place], list[bytes]] = {}
        weakref.finalize(self, _freed.append, session_id).atexit = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rendering) and self._content == other._content

    __hash__ = None  # type: ignore[assignment]

    def show(self, place: Place) -> None:
        """Send the whole rendering in the calling thread's run."""
        for path, node in _all_below((), self._root):
            enqueue_message(place.message(path, node.message))

    def payloads_since(self, shown: Rendering, place: Place) -> list[bytes]:
        """Return the serialized messages that turn another rendering, which a browser shows at a place, into this one.

        Most sessions show it at the same place, and share the bytes.
        """
        payloads = self._payloads.get((shown.number, place))
        if payloads is None:
            messages = _differences((), shown._root, self._root)
            payloads = [serialize_forward_msg(place.message(path, element)) for path, element in messages]
            self._payloads[shown.number, place] = payloads
        return payloads


def _all_below(path: Path, node: _Node) -> Iterator[tuple[Path, _Node]]:
    for index, child in sorted(node.children.items()):
        yield (*path, index), child
        yield from _all_below((*path, index), child)


def _differences(path: Path, old: _Node | None, new: _Node | None) -> Iterator[tuple[Path, ForwardMsg]]:
    """The elements to send to a browser that shows the old node at the path, so that it shows the new one."""
    if new is None:
        yield path, _EMPTY
        return
    if old is None or old.content != new.content:
        yield path, new.message
        if not new.is_block or old is None or old.kind != new.kind:  # else the browser keeps the old children
            old = None
    for index in sorted({*new.children, *(old.children if old else ())}):
        yield from _differences((*path, index), old.children.get(index) if old else None, new.children.get(index))


class _Capture:
    """Collects the messages of a function's elements."""

    def __init__(self, refuse: Refuse) -> None:
        self.root = _Node(_EMPTY)
        self.last: ForwardMsg | None = None
        self._refuse = refuse

    def enqueue(self, message: ForwardMsg) -> None:
        if message.WhichOneof("type") != "delta":
            self._refuse(f"what sends {message.WhichOneof('type')} to the browser")
        root, *path = message.metadata.delta_path
        if root != _ROOT:
            self._refuse("the sidebar, a toast, a dialog, or a container from outside of the function")
        kind = message.delta.WhichOneof("type")
        if kind == "new_transient":
            return  # such as a spinner, which is only shown while the function runs
        if kind not in ("new_element", "add_block"):
            self._refuse("add_rows")
        if kind == "add_block" and message.delta.add_block.WhichOneof("type") == "form":
            self._refuse("a form")
        self.add(path, message)

    def add(self, path: list[int], message: ForwardMsg) -> None:
        parent = self.root
        for index in path[:-1]:
            parent = parent.children.setdefault(index, _Node(_EMPTY))
        node = _Node(message)
        node.content = message.delta.SerializeToString(deterministic=True)
        before = parent.children.get(path[-1])
        if before is not None and node.is_block and before.kind == node.kind:
            node.children = before.children  # as in the browser
        parent.children[path[-1]] = node
        self.last = message


def capture(function: Callable[[], Any], refuse: Refuse, previous: Rendering | None) -> Rendering:
    """Render the function. `previous` is its last rendering; an exception that is shown in it is not logged again."""
    release_media()
    watch_clients()
    session_id = f"{_SESSION}{next(_serials)}"
    captured = _Capture(refuse)
    context = new_context(captured.enqueue, refuse, session_id)
    cursor = RunningCursor(root_container=_ROOT)
    failed: list[Exception] = []

    def run() -> None:
        try:
            _run_without_stop(function, refuse)
        except Exception as error:
            failed.append(error)
            if previous is not None and previous.error_message is not None and repr(previous.error) == repr(error):
                captured.add([cursor.index], previous.error_message)
            else:
                show_exception(error)

    _run_in(context, run, cursor)
    error = failed[0] if failed else None
    return Rendering(captured.root, session_id, error, captured.last if failed else None)


def _run_without_stop(function: Callable[[], Any], refuse: Refuse) -> None:
    try:
        function()
    except StopException:
        refuse("st.stop")
    except RerunException:
        refuse("st.rerun")


def open_place() -> Place:
    """Create a container in the calling thread's run. Return its place."""
    cursor: Any = streamlit.container()._cursor
    context: Any = get_script_run_ctx()
    set_main_script(context.main_script_path)
    state = context if thread_state is None else thread_state.get()
    return _place_at(
        (cursor.root_container, *cursor.parent_path), state.active_script_hash, current_fragment_id(context)
    )


def release_media() -> None:
    """Release the media files of renderings that were freed."""
    if not _freed or not Runtime.exists():
        return
    files = Runtime.instance().media_file_mgr
    with contextlib.suppress(IndexError):
        while True:
            files.clear_session_refs(_freed.popleft())
    files.remove_orphaned_files()
