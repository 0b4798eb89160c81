"""The measured operations, and what they are compared with: mostly their equivalents with a dict and an RLock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastserverstate import State, atomic, computed, server_state, server_state_lock, space

UNROLLED = 100


@dataclass(frozen=True)
class Row:
    ours: str
    plain: str
    at_most: float  # the target, as a multiple of the cost of `plain`
    older: str = ""  # the row of streamlit-server-state to compare with, if it has none of its own
    operations: int = 1
    is_dict: bool = True  # whether `plain` is an operation of a dict, and not of this package


INCREMENT = 'with locks["k"]: state["k"] += 1'
PLAIN_INCREMENT = 'with rlock: d["k"] += 1'

# The session is subscribed to "k", and no session to "unread". Nothing writes "still", so `total("still")`, a computed
# value, remains current.
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
    "computed value, compared with an item read": Row('total("still")', 'state["still"]', 3.0, is_dict=False),
    "item read in a space, compared with one elsewhere": Row('room["still"]', 'state["still"]', 1.5, is_dict=False),
    "attribute read in a space, compared with one elsewhere": Row("room.still", "state.still", 1.5, is_dict=False),
    "typed attribute read, compared with one elsewhere": Row("typed.still", "state.still", 1.5, is_dict=False),
}


def unrolled(statement: str, *, times: int = UNROLLED, repeated: int = 1, **names: Any) -> Callable[[], None]:
    """Return a function that repeats the statement `times` times, all of it in a loop."""
    body = f"        {statement}\n" * times
    exec(compile(f"def run():\n    for _ in range({repeated}):\n{body}", "<benchmark>", "exec"), names)
    run: Callable[[], None] = names["run"]
    return run


def unrolled_ours(statement: str, *, times: int = UNROLLED, repeated: int = 1) -> Callable[[], None]:
    """`unrolled`, with the names of this package."""
    return unrolled(
        statement,
        times=times,
        repeated=repeated,
        state=server_state,
        locks=server_state_lock,
        atomic=atomic,
        total=total,
        room=space("room"),
        typed=Typed(),
    )


def unrolled_plain(row: Row, *, times: int = UNROLLED, repeated: int = 1) -> Callable[[], None]:
    """What the row is compared with."""
    if not row.is_dict:
        return unrolled_ours(row.plain, times=times, repeated=repeated)
    return unrolled(row.plain, times=times, repeated=repeated, d={"k": 1, "unread": 1}, rlock=threading.RLock())


class Typed(State):
    still: int = 0


@computed
def total(key: str) -> int:
    value: int = server_state[key]
    return value
