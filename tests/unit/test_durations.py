"""Durations in the forms that Streamlit accepts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fastserverstate.durations import seconds_of


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (1.5, 1.5),
        (timedelta(minutes=1), 60.0),
        ("500ms", 0.5),
        ("1s", 1.0),
        ("1.5 s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1 day 1 minute", 86460.0),
    ],
)
def test_durations(duration, seconds):
    assert seconds_of(duration, "timeout") == seconds


@pytest.mark.parametrize("duration", ["", "soon", "1 parsec", "nat", "nan", "inf", "5", "1e3"])
def test_text_that_is_no_duration(duration):
    with pytest.raises(ValueError, match=f"timeout cannot be {duration!r}"):
        seconds_of(duration, "timeout")


@pytest.mark.parametrize("duration", [-1, "-1s", timedelta(seconds=-1), float("nan")])
def test_durations_below_zero(duration):
    with pytest.raises(ValueError, match="timeout is a duration from 0 up"):
        seconds_of(duration, "timeout")


@pytest.mark.parametrize("duration", [[], True, 1j, b"1s"])
def test_values_that_are_no_duration(duration):
    with pytest.raises(TypeError, match="timeout is a number of seconds, a timedelta, or text"):
        seconds_of(duration, "timeout")
