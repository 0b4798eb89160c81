"""Waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 20.0


def until(condition: Callable[[], object], seconds: float = DEADLINE) -> float:
    """Wait until the condition is true. Returns the seconds until then."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"The condition was not true within {seconds} seconds.")
        time.sleep(0.002)
    return time.monotonic() - start
