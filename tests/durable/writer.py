"""A process that writes from several threads until it is killed, and reports each write that has returned.

Each thread is a *stream* of numbered writes. Write n of a stream depends on nothing but n, so the state after n writes
is known: see `state_after`. The reports are lines of JSON on the standard output.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

WRITERS = 2  # threads of each kind
ACCOUNTS = 5
LONGEST_LIST = 300
FLUSHES = 20  # writes of a stream between two calls of `flush`

State = dict[str, Any]


def transfer(number: int) -> tuple[str, str, int]:
    """Return what a transfer moves: from, to, and how much."""
    source = number % ACCOUNTS
    target = (source + 1 + number // ACCOUNTS % (ACCOUNTS - 1)) % ACCOUNTS
    return f"account {source}", f"account {target}", number % 99 + 1


def blob(number: int) -> str:
    return f"{number} " * (1 + number * 7919 % 20_000)


def state_after(counts: dict[str, int]) -> State:
    """Return the state after so many writes of each stream."""
    state: State = {}
    for stream, number in counts.items():
        kind = stream.split()[0]
        if not number:
            continue
        if kind == "item":
            state.update({f"{stream} {item}": item for item in range(number // 2, (number + 1) // 2 + 1)})
        elif kind == "blob":
            state[stream] = blob(number)
        elif kind == "list":
            state[stream] = list(range(number - number % LONGEST_LIST, number + 1))
        else:
            state[stream] = number
        if kind == "transfer":
            for each in range(1, number + 1):
                source, target, amount = transfer(each)
                state[source] = state.get(source, 0) - amount
                state[target] = state.get(target, 0) + amount
    return state


def count(stream: str, state: State) -> int:
    """Return the number of writes of a stream that a state has."""
    kind = stream.split(maxsplit=1)[0]
    if kind == "item":
        items = [item for key, item in state.items() if key.startswith(stream)]
        return 2 * max(items) - (len(items) - 1) if items else 0
    value = state.get(stream)
    if value is None:
        return 0
    if kind == "blob":
        return int(value.split(" ", 1)[0])
    return int(value[-1] if kind == "list" else value)


STREAMS = [f"{kind} {writer}" for kind in ("single", "blob", "list", "item", "transfer") for writer in range(WRITERS)]


def report(**line: Any) -> None:
    """Write a line immediately: other threads report, too, and the process may be killed at any point."""
    os.write(1, json.dumps({"at": time.monotonic(), **line}).encode() + b"\n")


def main() -> None:
    path, durability, show = sys.argv[1:4]
    from fastserverstate import _instances, atomic, connect, durable, server_state, transaction  # noqa: PLC0415

    report(opening=True)
    connect(f"sqlite:///{path}", durability=durability, show=show or None)  # type: ignore[arg-type]
    restored = dict(server_state)
    counts = {stream: count(stream, restored) for stream in STREAMS}
    total = restored.pop("counter", 0)
    expected = state_after(counts)
    different = {key for key in restored.keys() | expected.keys() if restored.get(key) != expected.get(key)}
    status = durable.status()
    assert status is not None
    report(
        counts=counts,
        total=total,
        torn={key: [restored.get(key), expected.get(key)] for key in different},
        keys=list(restored),
        versions={key: _instances.store.version(key) for key in restored},
        set_aside=str(status.set_aside or ""),
    )

    def single(stream: str, number: int) -> None:
        server_state[stream] = number

    def write_blob(stream: str, number: int) -> None:
        server_state[stream] = blob(number)

    def extend(stream: str, number: int) -> None:
        atomic(stream, lambda items: [*items, number] if number % LONGEST_LIST else [number], default=[0])

    def item(stream: str, number: int) -> None:
        """Odd writes add an item, even ones delete the item before it."""
        last = (number + 1) // 2
        if number == 1:
            with transaction():
                server_state.update({f"{stream} 0": 0, f"{stream} 1": 1})
        elif number % 2:
            server_state[f"{stream} {last}"] = last
        else:
            del server_state[f"{stream} {last - 1}"]

    def move(stream: str, number: int) -> None:
        source, target, amount = transfer(number)
        with transaction(source, target):
            server_state[source] = server_state.get(source, 0) - amount
            server_state[target] = server_state.get(target, 0) + amount
            server_state[stream] = number

    writes: dict[str, Callable[[str, int], None]] = {
        "single": single,
        "blob": write_blob,
        "list": extend,
        "item": item,
        "transfer": move,
    }

    def run(stream: str) -> None:
        write = writes[stream.split(maxsplit=1)[0]]
        for number in range(counts[stream] + 1, sys.maxsize):
            write(stream, number)
            report(stream=stream, number=number, version=_instances.store.version(stream))
            if number % FLUSHES == 0:
                durable.flush(60)
                report(stream=stream, flushed=number)

    def increment() -> None:
        while True:
            report(increments=atomic.increment("counter"))

    threads = [threading.Thread(target=run, args=(stream,)) for stream in STREAMS]
    threads += [threading.Thread(target=increment) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
