"""A node over a table that is a dict: the protocol without the core."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from fastserverstate.cluster.node import Node
from fastserverstate.cluster.replica import EXPIRED, GONE

SECRET = "a secret of the tests"


class DictTable:
    """Records the changes that are applied: `applied` has a list of keys for each call."""

    def __init__(self, initial: dict[str, Any] | None = None) -> None:
        self.values: dict[str, Any] = dict(initial or {})
        self.applied: list[list[str]] = []
        self.origins: list[object] = []
        self.held_by_others: set[str] = set()
        self.quiet = False
        self.lifetimes: dict[str, tuple[float, float]] = {}

    def origin(self) -> object:
        return threading.get_ident()

    def is_quiet(self) -> bool:
        return self.quiet

    def keys(self) -> Collection[str]:
        return list(self.values)

    def peek(self, key: str) -> Any:
        return self.values.get(key, GONE)

    def apply(
        self, changes: Sequence[tuple[str, Any, bool]], origin: object
    ) -> tuple[Collection[str], Callable[[Collection[str]], object]]:
        held = {key for key, *_ in changes if key in self.held_by_others}
        values = dict(self.values)
        for key, value, _ in changes:
            if key in held:
                continue
            if value is GONE or value is EXPIRED:
                values.pop(key, None)
            else:
                values[key] = value
        self.values = values
        self.applied.append([key for key, *_ in changes if key not in held])
        self.origins.append(origin)
        return held, lambda _: None

    def lifetime(self, key: str) -> tuple[float, float]:
        return self.lifetimes.get(key, (0.0, 0.0))

    def deadline(self, key: str) -> float | None:  # noqa: ARG002
        return None

    def locked(self, keys: Collection[str]) -> set[str]:
        return self.held_by_others.intersection(keys)

    def flush(self, keys: Collection[str]) -> None:
        pass

    def same(self, old: Any, new: Any) -> bool:
        return type(old) is type(new) and old == new


class Peer:
    """A connected node and its table."""

    def __init__(self, url: str, namespace: str = "tests", **options: Any) -> None:
        self.table = DictTable(options.pop("initial", None))
        self.node = Node(self.table, url, **{"namespace": namespace, "secret": SECRET, "timeout": 10.0, **options})
        assert self.node.start(10), self.node.follower.last_error

    @property
    def values(self) -> dict[str, Any]:
        return self.table.values

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.node.close()
