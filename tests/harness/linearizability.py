"""Whether what callers saw of a shared object can be explained by one order of their calls.

A *history* is a list of `Operation`s. It is *linearizable* if they can be put into one order in which nothing comes
after what began when it was over, and in which a sequential `Model` of the object gives every result that was seen.

The search is that of Wing and Gong: put an operation first that may be the first, see whether the model gives its
result, go on with the rest. As in Lowe's version, what is known to fail is not tried again: the same set of operations
that has led to the same state. As in Horn and Kroening's, keys that no operation connects are searched apart.
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
    """A call and what came of it.

    `start` and `end` are of one clock that all callers share. An operation with no end has an unknown outcome: its
    caller was cut off, so it may have taken effect at any time since the start, and may not have. Its result counts
    for nothing.
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
    """The object as it is when calls come one at a time. States are hashable, results comparable."""

    def initial(self, keys: Collection[str] | None) -> Hashable:
        """The state before the history; of these keys only, unless None."""

    def keys(self, call: str, arguments: tuple[Any, ...]) -> Collection[str] | None:
        """The keys that a call has to do with; None for all that there are."""

    def apply(self, state: Any, call: str, arguments: tuple[Any, ...]) -> tuple[Any, Hashable]:
        """What a call returns in a state, and the state after it."""


@dataclass(frozen=True)
class Violation:
    """Why a history is not linearizable: up to the return of one operation it was."""

    order: list[Operation]  # one that explains the history until then
    operation: Operation  # the one that returned what no order explains
    pending: list[Operation]  # that had begun and not returned, so that they might have helped
    expected: Any  # what the operation would have returned after `order`

    def __str__(self) -> str:
        def lines(operations: Iterable[Operation]) -> str:
            return textwrap.indent("\n".join(map(str, operations)) or "(nothing)", "    ")

        return (
            f"The history is not linearizable. This may have happened:\n{lines(self.order)}\n"
            f"and then no order explains the result of\n{lines([self.operation])}\n"
            f"which would have been {self.expected!r}, while these were pending:\n{lines(self.pending)}"
        )


def find_violation(history: Iterable[Operation], model: Model) -> Violation | None:
    """None if the history is linearizable."""
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
    """Make a call and take down what came of it: the result, or the type of an exception.

    The exceptions that are `lost` leave the caller in the dark about the outcome.
    """
    start = time.perf_counter_ns()  # the same for all threads and processes; at the same time means at once
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
    """The history by groups of keys that no operation connects. Each is linearizable if and only if the whole is."""
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
    """An order of the operations that explains all results, unknown outcomes left out where they need not have been."""
    operations = sorted(history, key=lambda operation: operation.start)
    ends = [_end(operation) for operation in operations]
    known = sum(1 << index for index, end in enumerate(ends) if end != math.inf)
    first: tuple[int, Hashable] = (0, model.initial(keys))
    seen = {first}  # which operations were put in order, as bits, and the state that they led to
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
    """Who may be the next: no other one of the rest was over before it began."""
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
    """Let the operations return one by one, until the history is no longer linearizable."""
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
