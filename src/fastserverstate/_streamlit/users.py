"""Who is logged in: the fields of ``st.user``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import get_script_run_ctx

# What older releases have in st.user if no user is logged in.
_UNKNOWN_USER = "test@example.com"
_NOT_CLAIMS = {"is_logged_in", "tokens"}


def _user(info: Mapping[str, Any]) -> Mapping[str, Any] | None:
    claims = {name: value for name, value in info.items() if name not in _NOT_CLAIMS and value is not None}
    if not claims or claims == {"email": _UNKNOWN_USER} or not info.get("is_logged_in", True):
        return None
    return {name: value for name, value in info.items() if name != "tokens"}


def user_of(session: AppSession) -> Mapping[str, Any] | None:
    """Return the fields of ``st.user``, without tokens; None if no user is logged in."""
    return _user(session._user_info)


def user_of_run() -> Mapping[str, Any] | None:
    """Return the fields of ``st.user`` of the script run that the calling thread takes part in, without tokens.

    None if the thread runs no script, or no user is logged in.
    """
    context: Any = get_script_run_ctx(suppress_warning=True)
    return None if context is None else _user(context.user_info)
