"""The measured operations, and their equivalents with a dict and an RLock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

UNROLLED = 100


@dataclass(frozen=True)
class Row:
    ours: str
    plain: str
    at_most: float  # the target, as a multiple of the cost of `plain`
    older: str = ""  # the row of streamlit-server-state to compare with, if it has none of its own
    operations: int = 1


INCREMENT = 'with locks["k"]: state["k"] += 1'
PLAIN_INCREMENT = 'with rlock: d["k"] += 1'

# The session is subscribed to "k", and no session to "unread".
ROWS = {
    "item read, subscribed": Row('state["k"]', 'd["k"]', 2.0),
    # An attribute read is compared with an item read, the cheapest equivalent.
    "attribute read, subscribed": Row("state.k", 'd["k"]', 2.5),
    "membership, subscribed": Row('"k" in state', '"k" in d', 2.5),
    "write, no subscriber": Row(
        'state["unread"] = 1; state["unread"] = 2', 'd["unread"] = 1; d["unread"] = 2', 3.0, operations=2
    ),
    "locked increment": Row(INCREMENT, PLAIN_INCREMENT, 1.2),
    "atomic increment": Row('atomic.increment("k")', PLAIN_INCREMENT, 0.8, "locked increment"),
}


def unrolled(statement: str, *, times: int = UNROLLED, repeated: int = 1, **names: Any) -> Callable[[], None]:
    """Return a function that repeats the statement `times` times, all of it in a loop."""
    body = f"        {statement}\n" * times
    exec(compile(f"def run():\n    for _ in range({repeated}):\n{body}", "<benchmark>", "exec"), names)
    run: Callable[[], None] = names["run"]
    return run


def unrolled_plain(statement: str, *, times: int = UNROLLED, repeated: int = 1) -> Callable[[], None]:
    return unrolled(statement, times=times, repeated=repeated, d={"k": 1, "unread": 1}, rlock=threading.RLock())
