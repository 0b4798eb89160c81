"""Exceptions of functions that the package calls for an app."""

from __future__ import annotations

from pathlib import Path

from streamlit import error_util

_PACKAGE = str(Path(__file__).parents[1])


def show_exception(error: Exception) -> None:
    """Show and log an exception as that of a script. The traceback begins in the app, not in this package."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        traceback = traceback.tb_next
    if traceback is not None:
        error.__traceback__ = traceback
    error_util.handle_uncaught_app_exception(error)
