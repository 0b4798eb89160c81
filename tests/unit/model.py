"""A model of the store in plain Python: which scopes depend on which keys, and which writes make them stale.

No chains, bitsets or logs: each execution of a scope has two dictionaries that say which keys it depends on, by value
or by presence, and how many messages the session had sent when it first read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastserverstate._core import CAUSE_DEPTHS

ABSENT: Any = type("Absent", (), {"__repr__": lambda _self: "ABSENT"})()
MEMBERS = None  # in place of a key: the set of keys. A prefix, which ends in "/", is the set of the keys under it
STALE, NEVER, ALWAYS = range(3)


def same(old: object, new: object) -> bool:
    """Compare the values that the tests write: plain values by type and repr. Others always differ."""
    plain = (int, bool, float, str, tuple, type(None))
    return type(old) is type(new) and isinstance(old, plain) and repr(old) == repr(new)


def is_set(name: str | None) -> bool:
    """Return True for a name in place of a key: the set of keys, or of those under a prefix."""
    return name is MEMBERS or name.endswith("/")


def prefixes(key: str) -> list[str]:
    return [key[: at + 1] for at, character in enumerate(key) if character == "/"]


def cause_of_origin(origin: int) -> int:
    return (origin + 1) * CAUSE_DEPTHS - 1


@dataclass(eq=False)
class ModelExecution:
    values: dict[str | None, int] = field(default_factory=dict)
    presence: dict[str | None, int] = field(default_factory=dict)
    pending: bool = False
    echoed: bool = False  # pending for changes by a rerun
    subscribed: bool = False


# A scope, one of its executions, whether this has read only the presence, and the key.
Dependency = tuple["ModelScope", ModelExecution, bool, "str | None"]


@dataclass(eq=False)
class ModelScope:
    session: ModelSession
    part: str | None
    run: int
    last: ModelExecution = field(default_factory=ModelExecution)
    earlier: list[ModelExecution] = field(default_factory=list)
    stale: bool = False
    stale_before: bool = False
    echoed: bool = False
    cause: int = 0
    cause_before: int = 0
    overwritten: str | None = None

    @property
    def is_stale(self) -> bool:
        return self.stale or self.stale_before or self.echoed

    def begin(self) -> None:
        self.stale_before = self.is_stale or self.overwritten is not None
        self.stale, self.echoed, self.overwritten = False, False, None
        self.cause, self.cause_before = 0, max(self.cause, self.cause_before)
        if self.last.subscribed:
            self.earlier.append(self.last)
            self.last = ModelExecution()
        self.run = self.session.run

    def complete(self) -> None:
        if self.run != self.session.run:
            self.begin()
        self.earlier.clear()
        self.stale_before, self.cause_before = False, 0

    def add_cause(self, execution: ModelExecution, cause: int) -> None:
        if execution is self.last:
            self.cause = max(self.cause, cause)
        else:
            self.cause_before = max(self.cause_before, cause)


@dataclass(eq=False)
class ModelSession:
    store: ModelStore
    scopes: dict[str | None, ModelScope] = field(default_factory=dict)
    run: int = 0
    sent: int = 0
    running: bool = False
    closed: bool = False
    is_rerun: bool = False
    cause: int = 0

    def scope(self, part: str | None) -> ModelScope | None:
        if self.closed:
            return None
        scope = self.scopes.get(part)
        if scope is None:
            scope = self.scopes[part] = ModelScope(self, part, self.run)
            self.store.scopes.append(scope)
        elif scope.run != self.run:
            scope.begin()
        return scope

    def start_run(self, cause: int | None) -> None:
        self.run += 1
        self.running = True
        self.is_rerun = cause is not None
        self.cause = cause_of_origin(self.store.collections) if cause is None else cause

    def finish_run(self, complete: Collection[str | None], existing: Collection[str]) -> None:
        self.running = False
        for part, scope in list(self.scopes.items()):
            if part is not None and part not in existing:
                self.drop(part)
            elif part in complete:
                scope.complete()

    def drop(self, part: str | None) -> None:
        scope = self.scopes.pop(part, None)
        if scope is not None:
            self.store.scopes.remove(scope)

    def close(self) -> None:
        self.closed, self.running = True, False
        for part in list(self.scopes):
            self.drop(part)

    def mark_stale(self, part: str | None) -> None:
        if part in self.scopes:
            self.scopes[part].echoed = True
            self.scopes[part].add_cause(self.scopes[part].last, self.cause)

    def take_overwritten(self) -> dict[str | None, str]:
        found = {part: scope.overwritten for part, scope in self.scopes.items() if scope.overwritten is not None}
        for part in found:
            self.scopes[part].overwritten = None
        return found


class ModelStore:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}  # in order of appearance
        self.versions: dict[str, int] = {}
        self.clock = 0
        self.scopes: list[ModelScope] = []
        self.touched: set[str] = set()  # and not assigned since: their content may have changed
        self.owed: set[str] = set()  # appeared or vanished without a rerun of the sessions that depend on it
        self.policy = STALE
        self.told = False
        self.wakes = 0
        self.collections = 0

    # Reading

    def depend(self, scope: ModelScope | None, key: str | None, presence: bool = False) -> None:
        if scope is None or scope.stale or scope.last.pending:
            return
        read = scope.last.presence if presence else scope.last.values
        if key in read:
            return
        read[key] = scope.session.sent
        scope.last.subscribed = True
        for execution in scope.earlier:
            (execution.presence if presence else execution.values).pop(key, None)

    def read(self, scope: ModelScope | None, key: str) -> Any:
        self.depend(scope, key)
        return self.values.get(key, ABSENT)

    def contains(self, scope: ModelScope | None, key: str) -> bool:
        self.depend(scope, key, presence=True)
        return key in self.values

    # Changing

    def write(self, scope: ModelScope | None, key: str, value: Any, muted: bool) -> None:
        is_unknown = key in self.touched and isinstance(value, tuple)
        if key in self.values and same(self.values[key], value) and not is_unknown:
            self.values[key] = value
        else:
            self.commit(scope, key, value, muted)

    def setdefault(self, scope: ModelScope | None, key: str, value: Any, muted: bool) -> Any:
        if self.read(scope, key) is ABSENT:
            self.write(scope, key, value, muted)
        return self.values[key]

    def remove(self, scope: ModelScope | None, key: str, muted: bool) -> Any:
        old = self.values.get(key, ABSENT)
        if old is not ABSENT:
            self.commit(scope, key, ABSENT, muted)
        return old

    def pop(self, scope: ModelScope | None, key: str, muted: bool) -> Any:
        self.depend(scope, key, presence=True)
        return self.remove(scope, key, muted)

    def touch(self, scope: ModelScope | None, key: str, muted: bool) -> None:
        if key in self.values:
            self.commit(scope, key, self.values[key], muted)
            self.touched.add(key)
        elif not muted:
            self.notify(scope, self.dependent((False, key), (True, key)))

    def commit(self, scope: ModelScope | None, key: str, value: Any, muted: bool) -> None:
        self.clock += 1
        self.touched.discard(key)
        if (key in self.values) != (value is not ABSENT):
            self.owed.add(key)
        if value is ABSENT:
            del self.values[key]
            del self.versions[key]
        else:
            self.values[key] = value
            self.versions[key] = self.clock
        watched = key in self.owed
        sets = [(False, name) for name in (MEMBERS, *prefixes(key))]
        depends = self.dependent((False, key), *([(True, key), *sets] if watched else []))
        if muted:
            if not any(presence or is_set(name) for _, _, presence, name in depends):
                self.owed.discard(key)
            return
        self.notify(scope, depends)
        self.owed.discard(key)

    def dependent(self, *reads: tuple[bool, str | None]) -> list[Dependency]:
        return [
            (scope, execution, presence, name)
            for presence, name in reads
            for scope in self.scopes
            for execution in (scope.last, *scope.earlier)
            if name in (execution.presence if presence else execution.values)
        ]

    def notify(self, scope: ModelScope | None, depends: list[Dependency]) -> None:
        writer = None if scope is None or not scope.session.running else scope.session
        for dependency in depends:
            self.tell(*dependency, writer)
        if not self.told and any(execution.pending or execution.echoed for execution in self.executions()):
            self.told = True
            self.wakes += 1

    def tell(
        self,
        scope: ModelScope,
        execution: ModelExecution,
        presence: bool,
        key: str | None,
        writer: ModelSession | None,
    ) -> None:
        read = execution.presence if presence else execution.values
        if scope.session is not writer or execution is not scope.last:
            if writer is not None and writer.is_rerun:
                execution.echoed = True
                scope.add_cause(execution, writer.cause)
                return
            del read[key]
            execution.pending = True
            return
        shown = scope.run != writer.run or read[key] < writer.sent
        if self.policy == ALWAYS or (self.policy == STALE and shown):
            scope.overwritten = "(the set of keys)" if is_set(key) else key
        if scope.earlier:
            scope.stale_before = True
            scope.cause_before = max(scope.cause_before, writer.cause)

    def executions(self) -> Iterator[ModelExecution]:
        return (execution for scope in self.scopes for execution in (scope.last, *scope.earlier))

    def collect(self) -> list[ModelScope]:
        self.told = False
        self.collections += 1
        found = []
        for scope in self.scopes:
            executions = (scope.last, *scope.earlier)
            if any(execution.pending or execution.echoed for execution in executions):
                found.append(scope)
            for execution in executions:
                if execution.pending:
                    scope.add_cause(execution, cause_of_origin(self.collections))
            scope.stale = scope.stale or scope.last.pending
            scope.echoed = scope.echoed or (scope.last.echoed and not scope.last.pending)
            scope.stale_before = scope.stale_before or any(
                execution.pending or execution.echoed for execution in scope.earlier
            )
            for execution in executions:
                execution.pending = execution.echoed = False
        return found

    # Expected state

    def dependencies(self) -> Iterator[str]:
        for execution in self.executions():
            yield from (key for key in {*execution.values, *execution.presence} if not is_set(key))

    def statistics(self) -> dict[str, int]:
        return {
            "keys": len(self.values),
            "cells": len({*self.values, *self.dependencies()}),
            "scopes": len(self.scopes),
            "clock": self.clock,
        }
