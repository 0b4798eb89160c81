"""What a session has sent to its browser, and how the browser shows more without a run.

A notice is an element in Streamlit's container of events, where toasts and dialogs are. It has to be the next child
there: a browser refuses an index beyond, and a lower one would replace a toast or dialog of the page. So the outbox
follows which children the browser has. It may count too few of them, if Streamlit has sent some before this package
was imported, and never too many.

The notice is in a block of its own, at an index that differs between successive ones: browsers that keep toasts
(`names.BROWSERS_KEEP_TOASTS`) take a toast at the path of one that is visible for the same.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.RootContainer_pb2 import RootContainer
from streamlit.runtime.app_session import AppSession

from fastserverstate._streamlit.names import ATTRIBUTE, BROWSERS_CLEAR_TOASTS, BROWSERS_KEEP_TOASTS
from fastserverstate.rerun.inbox import Inbox
from fastserverstate.rerun.notices import Notice, Unseen

logger = logging.getLogger("fastserverstate")

_OUTBOX = f"{ATTRIBUTE}_outbox"
_FLUSHED = f"{ATTRIBUTE}_flushed"  # the messages of the session that are being sent

# Indices that notices in one block take in turn, and the most blocks without a run of the whole script.
_INDICES = 7
_MOST_BLOCKS = 100

# Seconds that a browser shows a toast.
_VISIBLE = 4.0

_turns = itertools.count()


class _Child:
    """A child of the container of events."""

    def __init__(self, run: int, is_toast: bool = False, notice: Notice | None = None) -> None:
        self.run = run
        self.is_toast = is_toast
        self.notice = notice


class Outbox:
    """The messages of one session. Used on its event loop."""

    def __init__(self) -> None:
        self.inbox: Inbox | None = None
        self.unseen: Unseen | None = None
        self.show_again: Callable[[], None] = lambda: None
        """Called when the browser has removed notices too early."""
        self._children: list[_Child] = []
        self._replaced: list[_Child] = []  # by this run
        self._visible_until: dict[Notice, float] = {}
        self._run = 0
        self._is_fragment_run = False
        self._page = ""

    # What becomes of the messages

    def queued(self, message: object) -> None:
        if self.inbox is not None:
            self.inbox.queued(message)

    def flushed(self, messages: Collection[Any]) -> None:
        if self.inbox is not None:
            self.inbox.flushed()
        for message in messages:
            kind = message.WhichOneof("type")
            if kind == "delta":
                path = message.metadata.delta_path
                if len(path) > 1 and path[0] == RootContainer.EVENT:  # an error outside of a run has no path
                    self._set(path, message)
            elif kind == "new_session":
                self._begin(message)
            elif kind == "script_finished":
                self._end(message.script_finished)

    def cleared(self) -> None:
        if self.inbox is not None:
            self.inbox.cleared()

    # The container of events, as the browser has it

    def _set(self, path: Any, message: ForwardMsg) -> None:
        is_toast = len(path) == 2 and message.delta.new_element.WhichOneof("type") == "toast"
        child = _Child(self._run, is_toast)
        if path[1] < len(self._children):
            self._replaced.append(self._children[path[1]])
            self._children[path[1]] = child
        elif path[1] == len(self._children):
            self._children.append(child)

    def _begin(self, message: ForwardMsg) -> None:
        session = message.new_session
        run = session if hasattr(session, "fragment_ids_this_run") else message.metadata.run
        ids = getattr(run, "fragment_ids_this_run", None) or getattr(run, "fragment_ids", ())
        self._run += 1
        self._is_fragment_run = bool(ids)
        if BROWSERS_CLEAR_TOASTS:
            self._show_again(self._children)
        if session.page_script_hash != self._page:  # elements of the main script may stay, which are not counted then
            self._page = session.page_script_hash
            self._children = []

    def _end(self, status: Any) -> None:
        if status == ForwardMsg.FINISHED_SUCCESSFULLY and not self._is_fragment_run:
            is_used = any(child.run == self._run for child in self._children)  # else the container is emptied
            kept = [
                child
                for child in self._children
                if child.run == self._run or (is_used and child.is_toast and BROWSERS_KEEP_TOASTS)
            ]
            if not BROWSERS_KEEP_TOASTS:
                self._show_again([*self._replaced, *(child for child in self._children if child not in kept)])
            self._children, self._replaced = kept, []

    def _show_again(self, removed: Collection[_Child]) -> None:
        """Show the notices again that were not visible for long enough, at most once more than that."""
        if self.unseen is None:
            return
        now = self.unseen.now()
        self._visible_until = {notice: until for notice, until in self._visible_until.items() if until > now}
        early = [child.notice for child in removed if child.notice is not None and child.notice in self._visible_until]
        for child in removed:
            child.notice = None
        if early:
            self.unseen.removed(early)
            self.show_again()

    # Notices

    def payloads(self, notices: Collection[Notice]) -> list[bytes]:
        """Return the serialized messages that show the notices."""
        return [message.SerializeToString() for notice in notices for message in self._messages(notice)]

    def _messages(self, notice: Notice) -> Iterator[ForwardMsg]:
        assert self.unseen is not None
        number = next(_turns)
        ours = [index for index, child in enumerate(self._children) if child.notice is not None]
        at = len(self._children)
        if len(ours) >= _MOST_BLOCKS:
            at = ours[number % len(ours)]
            yield _element((at,))
        self._children[at : at + 1] = [_Child(self._run, notice=notice)]
        self._visible_until.setdefault(notice, self.unseen.now() + _VISIBLE)
        block = ForwardMsg()
        block.metadata.delta_path[:] = [RootContainer.EVENT, at]
        block.delta.add_block.vertical.SetInParent()
        block.delta.add_block.allow_empty = False
        yield block
        index = number % _INDICES
        for before in range(index):
            yield _element((at, before))
        yield _element((at, index), notice.element)


def _element(path: tuple[int, ...], element: bytes | None = None) -> ForwardMsg:
    message = ForwardMsg()
    message.metadata.delta_path[:] = [RootContainer.EVENT, *path]
    if element is None:
        message.delta.new_element.empty.SetInParent()
    else:
        message.delta.new_element.ParseFromString(element)
    return message


class _Flushed(list[Any]):
    """Messages that the runtime sends one by one. The session is being flushed until it has sent the last."""

    def __init__(self, messages: list[Any], session: AppSession) -> None:
        super().__init__(messages)
        self._session = session

    def __iter__(self) -> Iterator[Any]:
        self._session.__dict__[_FLUSHED] = self
        try:
            yield from super().__iter__()
        finally:
            if self._session.__dict__.get(_FLUSHED) is self:
                del self._session.__dict__[_FLUSHED]


def is_being_flushed(session: AppSession) -> bool:
    return _FLUSHED in session.__dict__


def outbox_of(session: AppSession) -> Outbox:
    """Return the session's outbox. The first call begins to follow its messages."""
    outbox: Outbox | None = session.__dict__.get(_OUTBOX)
    if outbox is None:
        outbox = session.__dict__.setdefault(_OUTBOX, Outbox())
        _follow(session, outbox)
    return outbox


def _tell(function: Callable[..., None], *args: Any) -> None:
    """Call a function that follows the messages. An error in it must not end Streamlit's event loop."""
    try:
        function(*args)
    except Exception:
        logger.exception("The messages of a session could not be followed.")


def _follow(session: AppSession, outbox: Outbox) -> None:
    session_ref = weakref.ref(session)

    def enqueue_forward_msg(message: Any) -> None:
        session = session_ref()
        if session is not None:
            _tell(outbox.queued, message)
            AppSession._enqueue_forward_msg(session, message)

    def flush_browser_queue() -> list[Any]:
        session = session_ref()
        messages = [] if session is None else AppSession.flush_browser_queue(session)
        _tell(outbox.flushed, messages)
        # Noted while the runtime sends them, so that pushed messages do not get between them.
        return messages if session is None or not messages else _Flushed(messages, session)

    def clear_queue(*args: Any, **kwargs: Any) -> None:
        session = session_ref()
        if session is not None:
            AppSession._clear_queue(session, *args, **kwargs)
            _tell(outbox.cleared)

    session.__dict__["_enqueue_forward_msg"] = enqueue_forward_msg
    session.__dict__["flush_browser_queue"] = flush_browser_queue
    session.__dict__["_clear_queue"] = clear_queue
