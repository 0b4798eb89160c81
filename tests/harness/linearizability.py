"""Check whether concurrent calls of a shared object are linearizable.

A *history* is a list of `Operation`s. It is *linearizable* if one order of them exists in which each operation comes
before those that started after its end, and in which a sequential `Model` of the object gives all results.

The search is by Wing and Gong: choose an operation that may be the first, compare its result with the model, continue
with the rest. With Lowe's improvement, no set of operations that led to the same state is tried twice. With Horn and
Kroening's, keys that no operation connects are searched separately.
"""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Operation:
    """A call and its result.

    `start` and `end` are times of one clock. An operation without an end has an unknown outcome because its caller was
    disconnected: it may have taken effect at any time since its start, or not at all. Its result is ignored.
    """

    thread: Hashable
    call: str
    arguments: tuple[Any, ...]
    result: Any
    start: float
    end: float | None

    def __str__(self) -> str:
        result = "?" if self.end is None else repr(self.result)
        return f"[{self.start}, {self.end}] {self.thread}: {self.call}{self.arguments!r} -> {result}"


class Model(Protocol):
    """A sequential model of the object. States are hashable, results comparable."""

    def initial(self, keys: Collection[str] | None) -> Hashable:
        """Return the state before the history, of the given keys or, with None, of all."""

    def keys(self, call: str, arguments: tuple[Any, ...]) -> Collection[str] | None:
        """Return the keys that a call uses, or None for all keys."""

    def apply(self, state: Any, call: str, arguments: tuple[Any, ...]) -> tuple[Any, Hashable]:
        """Return the result of a call in a state, and the state after it."""


@dataclass(frozen=True)
class Violation:
    """Why a history is not linearizable: the first operation whose result no order explains."""

    order: list[Operation]  # explains the history before it
    operation: Operation  # its result is not explained by any order
    pending: list[Operation]  # started but not returned by then
    expected: Any  # its result after `order`

    def __str__(self) -> str:
        def lines(operations: Iterable[Operation]) -> str:
            return textwrap.indent("\n".join(map(str, operations)) or "(nothing)", "    ")

        return (
            f"The history is not linearizable. A possible order:\n{lines(self.order)}\n"
            f"after which no order explains the result of\n{lines([self.operation])}\n"
            f"The expected result is {self.expected!r}. Pending operations:\n{lines(self.pending)}"
        )


def find_violation(history: Iterable[Operation], model: Model) -> Violation | None:
    """Return the violation, or None if the history is linearizable."""
    for keys, part in _parts(list(history), model):
        if _linearize(part, model, keys) is None:
            return _explain(part, model, keys)
    return None


def assert_linearizable(history: Iterable[Operation], model: Model) -> None:
    violation = find_violation(history, model)
    if violation is not None:
        raise AssertionError(str(violation))


def timed(
    thread: Hashable,
    call: str,
    arguments: tuple[Any, ...],
    perform: Callable[[str, tuple[Any, ...]], Any],
    lost: tuple[type[Exception], ...] = (),
) -> Operation:
    """Perform a call and record its result, or the type of its exception.

    The outcome of calls that raise one of the exceptions in `lost` is unknown.
    """
    start = time.perf_counter_ns()  # one clock for all threads and processes; operations at equal times overlap
    end: int | None
    try:
        result = perform(call, arguments)
    except Exception as error:
        end = None if isinstance(error, lost) else time.perf_counter_ns()
        result = type(error)
    else:
        end = time.perf_counter_ns()
    return Operation(thread, call, arguments, result, start, end)


def _parts(history: list[Operation], model: Model) -> list[tuple[Collection[str] | None, list[Operation]]]:
    """Split the history by unconnected groups of keys. The history is linearizable if and only if all parts are."""
    group_of: dict[str, list[str]] = {}
    touched = [model.keys(operation.call, operation.arguments) for operation in history]
    for keys in touched:
        if keys is None:
            return [(None, history)]
        merged: list[str] = []
        for key in keys:
            group = group_of.get(key, [key])
            if group is not merged:
                merged += group
                for member in group:
                    group_of[member] = merged
    parts: dict[int, tuple[Collection[str], list[Operation]]] = {}
    for operation, keys in zip(history, touched, strict=True):
        group = group_of[next(iter(keys))] if keys else []
        parts.setdefault(id(group) if keys else 0, (group, []))[1].append(operation)
    return list(parts.values())


def _linearize(history: list[Operation], model: Model, keys: Collection[str] | None) -> list[Operation] | None:
    """Find an order that explains all results. Operations with unknown outcomes may be left out."""
    operations = sorted(history, key=lambda operation: operation.start)
    ends = [_end(operation) for operation in operations]
    known = sum(1 << index for index, end in enumerate(ends) if end != math.inf)
    first: tuple[int, Hashable] = (0, model.initial(keys))
    seen = {first}  # the operations in the order so far, as bits, and the resulting state
    stack: list[tuple[tuple[int, Hashable], Any]] = [(first, None)]
    while stack:
        (done, state), order = stack.pop()
        if done & known == known:
            found = []
            while order is not None:
                index, order = order
                found.append(operations[index])
            return found[::-1]
        for index in sorted(_next(operations, ends, done), key=ends.__getitem__, reverse=True):
            operation = operations[index]
            result, after = model.apply(state, operation.call, operation.arguments)
            node = (done | 1 << index, after)
            if (operation.end is None or result == operation.result) and node not in seen:
                seen.add(node)
                stack.append((node, (index, order)))
    return None


def _next(operations: list[Operation], ends: list[float], done: int) -> list[int]:
    """Find the operations that may be next: none of the rest ended before their start."""
    found = []
    earliest_end = math.inf
    for index, operation in enumerate(operations):
        if operation.start > earliest_end:
            break
        if not done >> index & 1:
            found.append(index)
            earliest_end = min(earliest_end, ends[index])
    return found


def _explain(history: list[Operation], model: Model, keys: Collection[str] | None) -> Violation:
    """Add operations in the order of their ends until the history is no longer linearizable."""
    order: list[Operation] = []
    returned: list[Operation] = []
    for culprit in sorted((operation for operation in history if operation.end is not None), key=_end):
        begun = [operation for operation in history if operation.start <= _end(culprit)]
        returned.append(culprit)
        pending = [replace(operation, end=None) for operation in begun if operation not in returned]
        longer = _linearize(returned + pending, model, keys)
        if longer is None:
            break
        order = longer
    state, expected = model.initial(keys), None
    for operation in [*order, culprit]:
        result, state = model.apply(state, operation.call, operation.arguments)
        if (operation.thread, operation.start) == (culprit.thread, culprit.start):
            expected = result
            break
    return Violation(order, culprit, [operation for operation in pending if operation not in order], expected)


def _end(operation: Operation) -> float:
    return math.inf if operation.end is None else operation.end
