"""Waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 20.0


def until(condition: Callable[[], object], seconds: float = DEADLINE) -> float:
    """Wait until the condition is true. Returns how long that took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"It was not so after {seconds} seconds.")
        time.sleep(0.002)
    return time.monotonic() - start
