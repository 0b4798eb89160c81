"""Durations as Streamlit takes them for `ttl`: seconds, a ``timedelta``, or text such as ``"500ms"``."""

from __future__ import annotations

import math
from datetime import timedelta
from importlib import import_module
from numbers import Real
from typing import Any, overload

Duration = float | timedelta | str


@overload
def seconds_of(duration: Duration, what: str) -> float: ...
@overload
def seconds_of(duration: None, what: str) -> None: ...
@overload
def seconds_of(duration: Duration | None, what: str) -> float | None: ...
def seconds_of(duration: Duration | None, what: str) -> float | None:
    """The duration in seconds, None for none. `what` names it in a message."""
    if duration is None:
        return None
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        seconds = _seconds_of_text(duration, what)
    elif isinstance(duration, Real) and not isinstance(duration, bool):
        seconds = float(duration)
    else:
        raise TypeError(
            f"{what} is a number of seconds, a timedelta, or text such as '500ms', '1s', '2m' or '1h', not "
            f"{duration!r} of type {type(duration).__qualname__}."
        )
    if not seconds >= 0:
        raise ValueError(f"{what} is a duration from 0 up, not {duration!r}.")
    return seconds


def _seconds_of_text(text: str, what: str) -> float:
    pandas: Any = import_module("pandas")  # takes long, unless Streamlit has imported it
    try:
        float(text)
    except ValueError:
        pass
    else:
        raise ValueError(
            f"{what} cannot be {text!r}, which has no unit. Write '{text}s' for seconds, or the number itself."
        )
    try:
        seconds = float(pandas.Timedelta(text).total_seconds())
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError(
            f"{what} cannot be {text!r}. Write a number and its unit, such as '500ms', '1s', '2m', '1h' or '1 day'."
        )
    return seconds
