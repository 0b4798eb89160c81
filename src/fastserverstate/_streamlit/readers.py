"""The sessions that read events: those of a server, and those of AppTest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from streamlit.runtime.scriptrunner import get_script_run_ctx

from fastserverstate._streamlit.bridge import Bridge
from fastserverstate._streamlit.names import INTERNAL_KEY_PREFIX, current_fragment_id
from fastserverstate._streamlit.session import UnknownSession, raise_if_stopped
from fastserverstate._streamlit.users import user_of_run
from fastserverstate.rerun.inbox import Inbox
from fastserverstate.rerun.session import LiveSession

# AppTest keeps the session's state from run to run, and nothing else. It lists no internal keys.
_KEY = f"{INTERNAL_KEY_PREFIX}_FASTSERVERSTATE_INBOX"

GroupsOf = Callable[[LiveSession], Collection[str]]


@dataclass(frozen=True)
class StreamlitReader:
    """Adapts a session to `events.Reader`."""

    inbox: Inbox
    fragment: str | None
    run: int | None
    user: Mapping[str, Any] | None
    groups: Collection[str]

    def raise_if_stopped(self) -> None:
        raise_if_stopped()


class StreamlitReaders:
    """Finds the session that reads.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, bridge: Bridge, groups_of: GroupsOf = lambda _: ()) -> None:
        self._bridge = bridge
        self.groups_of = groups_of

    def current(self) -> StreamlitReader | None:
        """Return the session whose script run the calling thread takes part in, None if it takes part in no run."""
        context: Any = get_script_run_ctx(suppress_warning=True)
        if context is None or not hasattr(context._enqueue, "__self__"):
            return None
        fragment = current_fragment_id(context)
        found = self._bridge.resolve(context, fragment)
        session, scope, _ = found or (None, None, None)
        if isinstance(session, LiveSession):
            if fragment is None and context.fragment_ids_this_run:
                fragment = context.fragment_ids_this_run[0]  # a thread of the app, as in `Bridge.resolve`
            run = session.inbox.runs
            is_current = scope is not None and session.is_run_by(context._enqueue.__self__)
            return StreamlitReader(
                session.inbox, fragment, run if is_current else None, user_of_run(), self.groups_of(session)
            )
        if isinstance(session, UnknownSession):
            state = context.session_state
            try:
                inbox: Inbox = state[_KEY]
            except KeyError:
                inbox = state[_KEY] = Inbox()
            return StreamlitReader(inbox, fragment, inbox.runs, user_of_run(), ())
        return None
