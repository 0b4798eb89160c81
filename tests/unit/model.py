"""The store in plain Python, as the tests understand it: who depends on what, and who is made stale by whom.

No chains, bitsets or logs: a scope has two dictionaries that say which keys it depends on, by value or by presence,
and how many messages the session had sent when it first read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

ABSENT: Any = type("Absent", (), {"__repr__": lambda _self: "ABSENT"})()
MEMBERS = None  # in the place of a key: the set of keys
STALE, NEVER, ALWAYS = range(3)


def same(old: object, new: object) -> bool:
    """Enough for the values that the tests write: plain ones are told by type and repr, others always differ."""
    plain = (int, bool, float, str, tuple, type(None))
    return type(old) is type(new) and isinstance(old, plain) and repr(old) == repr(new)


@dataclass(eq=False)
class ModelScope:
    session: ModelSession
    part: str | None
    run: int
    values: dict[str | None, int] = field(default_factory=dict)
    presence: dict[str | None, int] = field(default_factory=dict)
    pending: bool = False
    stale: bool = False
    overwritten: str | None = None

    def forget(self) -> None:
        self.values.clear()
        self.presence.clear()
        self.pending = self.stale = False
        self.overwritten = None


@dataclass(eq=False)
class ModelSession:
    store: ModelStore
    scopes: dict[str | None, ModelScope] = field(default_factory=dict)
    run: int = 0
    sent: int = 0
    running: bool = False
    closed: bool = False

    def scope(self, part: str | None) -> ModelScope | None:
        if self.closed:
            return None
        scope = self.scopes.get(part)
        if scope is None:
            scope = self.scopes[part] = ModelScope(self, part, self.run)
            self.store.scopes.append(scope)
        elif part is not None and scope.run != self.run:
            scope.forget()
            scope.run = self.run
        return scope

    def start_run(self, parts: Collection[str] | None) -> None:
        self.run += 1
        self.running = True
        for scope in self.scopes.values():
            if parts is None or scope.part in parts:
                scope.forget()
                scope.run = self.run

    def finish_run(self, executed: Collection[str], existing: Collection[str]) -> None:
        self.running = False
        for part, scope in list(self.scopes.items()):
            if part is None:
                continue
            if part not in existing:
                self.drop(part)
            elif part in executed and scope.run != self.run:
                scope.forget()

    def drop(self, part: str | None) -> None:
        scope = self.scopes.pop(part, None)
        if scope is not None:
            self.store.scopes.remove(scope)

    def close(self) -> None:
        self.closed, self.running = True, False
        for part in list(self.scopes):
            self.drop(part)

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
        self.owed: set[str] = set()  # appeared or vanished unseen by those who watch for it
        self.policy = STALE
        self.told = False
        self.wakes = 0

    # Reading

    def depend(self, scope: ModelScope | None, key: str | None, presence: bool = False) -> None:
        if scope is not None and not scope.stale and not scope.pending:
            (scope.presence if presence else scope.values).setdefault(key, scope.session.sent)

    def read(self, scope: ModelScope | None, key: str) -> Any:
        self.depend(scope, key)
        return self.values.get(key, ABSENT)

    def contains(self, scope: ModelScope | None, key: str) -> bool:
        self.depend(scope, key, presence=True)
        return key in self.values

    # Changing

    def write(self, scope: ModelScope | None, key: str, value: Any, muted: bool) -> None:
        if key in self.values and same(self.values[key], value):
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
        self.commit(scope, key, self.values[key], muted)

    def commit(self, scope: ModelScope | None, key: str, value: Any, muted: bool) -> None:
        self.clock += 1
        if (key in self.values) != (value is not ABSENT):
            self.owed.add(key)
        if value is ABSENT:
            del self.values[key]
            del self.versions[key]
        else:
            self.values[key] = value
            self.versions[key] = self.clock
        readers = [other for other in self.scopes if key in other.values]
        watchers = [other for other in self.scopes if key in other.presence] if key in self.owed else []
        counters = [other for other in self.scopes if MEMBERS in other.values] if key in self.owed else []
        if muted:
            if not watchers and not counters:
                self.owed.discard(key)
            return
        writer = None if scope is None or not scope.session.running else scope.session
        for other in readers:
            self.tell(other, other.values, key, writer)
        for other in watchers:
            self.tell(other, other.presence, key, writer)
        for other in counters:
            self.tell(other, other.values, MEMBERS, writer)
        self.owed.discard(key)
        if not self.told and any(other.pending for other in self.scopes):
            self.told = True
            self.wakes += 1

    def tell(self, scope: ModelScope, log: dict[str | None, int], key: str | None, writer: ModelSession | None) -> None:
        if scope.session is not writer:
            del log[key]
            scope.pending = True
            return
        shown = scope.run != writer.run or log[key] < writer.sent
        if self.policy == ALWAYS or (self.policy == STALE and shown):
            scope.overwritten = "(the set of keys)" if key is MEMBERS else key

    def collect(self) -> list[ModelScope]:
        self.told = False
        found = [scope for scope in self.scopes if scope.pending]
        for scope in found:
            scope.pending, scope.stale = False, True
        return found

    # What must be there

    def dependencies(self) -> Iterator[str]:
        for scope in self.scopes:
            yield from (key for key in {*scope.values, *scope.presence} if key is not MEMBERS)

    def statistics(self) -> dict[str, int]:
        return {
            "keys": len(self.values),
            "cells": len({*self.values, *self.dependencies()}),
            "scopes": len(self.scopes),
            "clock": self.clock,
        }
