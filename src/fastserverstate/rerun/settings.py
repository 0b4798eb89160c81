"""What `configure` has set."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field


def has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def runnable_in_parallel() -> int:
    """How many script runs can make progress at the same time on this interpreter."""
    return 1 if has_gil() else os.cpu_count() or 1


@dataclass
class Settings:
    max_parallel_reruns: int = field(default_factory=runnable_in_parallel)
    min_rerun_interval: float = 0.0  # seconds between two reruns of a session that others have caused
