"""Count the runs of a script in the script itself, which includes killed runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_runs: dict[str, list[int]] = {}


@contextmanager
def counted(group: str = "") -> Iterator[None]:
    """Count the start of a run, and its completion unless an exception ends it, as Streamlit does to stop a run."""
    with _lock:
        runs = _runs.setdefault(group, [0, 0])
        runs[0] += 1
    yield
    with _lock:
        runs[1] += 1


def snapshot() -> dict[str, tuple[int, int]]:
    """Return the runs started and completed, by group."""
    with _lock:
        return {group: (started, completed) for group, (started, completed) in _runs.items()}
