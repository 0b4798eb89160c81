"""A sequential model of the store, for the checker in ``harness/linearizability.py``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

State = tuple[tuple[str, Any], ...]  # keys and values, sorted by key
Steps = tuple[tuple[Any, ...], ...]  # calls in a block: names and arguments

# The functions that `atomic` calls, by printable names.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "double": lambda value: 2 * value,
    "negate": lambda value: -value,
    "fail": lambda value: value.no_such_attribute,
}


class StoreModel:
    """Values are numbers or, for `append`, tuples instead of lists."""

    def __init__(self, initial: Mapping[str, Any] | None = None) -> None:
        self._initial = dict(initial or {})

    def initial(self, keys: Collection[str] | None) -> State:
        return tuple(item for item in sorted(self._initial.items()) if keys is None or item[0] in keys)

    def keys(self, call: str, arguments: tuple[Any, ...]) -> Collection[str] | None:
        if call in {"len", "list"}:
            return None
        if call not in {"transaction", "locked"}:
            return {arguments[0]}
        declared, steps = arguments[:2]
        touched: set[str] = set(declared)
        for name, *rest in steps:
            keys = self.keys(name, tuple(rest))
            if keys is None:
                return None
            touched.update(keys)
        return touched

    def apply(self, state: State, call: str, arguments: tuple[Any, ...]) -> tuple[Any, State]:
        if call in {"transaction", "locked"}:
            return self._block(state, *arguments)
        values = dict(state)
        try:
            result = getattr(self, f"_{call}")(values, *arguments)
        except Exception as error:
            return type(error), state
        return result, tuple(sorted(values.items()))

    def _block(self, before: State, _keys: Any, steps: Steps, raises: bool = False) -> tuple[Any, State]:
        """Apply several calls atomically and return their results. A block that raises has no effect."""
        results = []
        state = before
        for name, *arguments in steps:
            result, state = self.apply(state, name, tuple(arguments))
            results.append(result)
        return tuple(results), before if raises else state

    def _item(self, values: dict[str, Any], key: str) -> Any:
        return values[key]

    def _get(self, values: dict[str, Any], key: str) -> Any:
        return values.get(key)

    def _contains(self, values: dict[str, Any], key: str) -> bool:
        return key in values

    def _len(self, values: dict[str, Any]) -> int:
        return len(values)

    def _list(self, values: dict[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(values))

    def _set(self, values: dict[str, Any], key: str, value: Any) -> None:
        values[key] = value

    def _del(self, values: dict[str, Any], key: str) -> None:
        del values[key]

    def _setdefault(self, values: dict[str, Any], key: str, value: Any) -> Any:
        return values.setdefault(key, value)

    def _pop(self, values: dict[str, Any], key: str) -> Any:
        return values.pop(key)

    def _touch(self, values: dict[str, Any], key: str) -> None:
        """Change no value."""

    def _compare_and_set(self, values: dict[str, Any], key: str, expected: Any, value: Any) -> bool:
        if key not in values or values[key] != expected:
            return False
        values[key] = value
        return True

    def _atomic(self, values: dict[str, Any], key: str, function: str) -> Any:
        values[key] = FUNCTIONS[function](values[key])
        return values[key]

    def _atomic_default(self, values: dict[str, Any], key: str, function: str, default: Any) -> Any:
        values[key] = FUNCTIONS[function](values.get(key, default))
        return values[key]

    def _increment(self, values: dict[str, Any], key: str, by: int) -> int:
        values[key] = values.get(key, 0) + by
        return values[key]

    def _append(self, values: dict[str, Any], key: str, item: Any, max_length: int) -> tuple[Any, ...]:
        values[key] = (*values.get(key, ()), item)[-max_length:]
        return values[key]

    def _move(self, values: dict[str, Any], source: str, target: str, amount: int) -> None:
        """Perform two reads and two writes, as one step of a block."""
        values[source], values[target] = values[source] - amount, values[target] + amount
