"""A thread that does anything to a store, at random, and checks what must hold in spite of the others."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from stress.helpers import Value, World, check, enter, leave, locate_in_stress

from fastserverstate import _core

PARTS = [None, "f", "g"]
MISSING = object()


class Cast(World):
    """A store with the keys and sessions that several actors share."""

    def __init__(self, keys: int, sessions: int = 3) -> None:
        super().__init__()
        self.keys = [f"k{i}" for i in range(keys)]
        self.sessions = [_core.Session(self.store) for _ in range(sessions)]
        self.replacing = threading.Lock()
        # Shared between the actors, who write each of them many times: their counts of references tell what leaks.
        self.values = {key: [Value(key, i) for i in range(3)] for key in self.keys}
        self._references = self.count_references()

    def count_references(self) -> list[int]:
        return [sys.getrefcount(value) for values in self.values.values() for value in values]

    def assert_leaves_nothing(self) -> None:
        leave()
        self.assert_at_rest()
        self.store.on_stale(None)
        self.store.collect_stale()
        for session in self.sessions:
            session.close()
        for key in self.keys:
            self.state.pop(key, None)
        self.assert_empty()
        assert self.count_references() == self._references


class Actor:
    def __init__(self, cast: Cast, seed: int) -> None:
        self.cast, self.store, self.state, self.locks = cast, cast.store, cast.state, cast.locks
        self.random = random.Random(seed)
        self.newest: dict[str, int] = {}

    def act(self) -> None:
        self.random.choice(OPERATIONS)(self, self.random.choice(self.cast.keys))

    def value(self, key: str) -> object:
        """One that is always another, or one that may be equal to what is there."""
        if self.random.random() < 0.5:
            return self.random.choice(self.cast.values[key])
        number = self.random.randrange(3)
        return (key, number, ~number)

    # Reads

    def item(self, key: str) -> None:
        with suppress(KeyError):
            check(key, self.state[key])

    def attribute(self, key: str) -> None:
        with suppress(AttributeError):
            check(key, getattr(self.state, key))

    def get(self, key: str) -> None:
        value = self.state.get(key, MISSING)
        if value is not MISSING:
            check(key, value)

    def peek(self, key: str) -> None:
        value = self.store.peek(key, MISSING)
        if value is not MISSING:
            check(key, value)

    def contains(self, key: str) -> None:
        assert (key in self.state) in {True, False}

    def version(self, key: str) -> None:
        version = self.store.version(key)
        assert version == 0 or version >= self.newest.get(key, 0)
        self.newest[key] = version or self.newest.get(key, 0)

    def number_of_keys(self, _key: str) -> None:
        assert 0 <= len(self.state) <= len(self.cast.keys)

    def iterate(self, _key: str) -> None:
        for names in (list(self.state), self.store.keys(), list(self.locks)):
            assert len(names) == len(set(names))
            assert set(names) <= self.cast.values.keys()

    def items(self, _key: str) -> None:
        for key, value in self.state.items():
            check(key, value)

    # Writes

    def assign(self, key: str) -> None:
        self.state[key] = self.value(key)

    def assign_attribute(self, key: str) -> None:
        setattr(self.state, key, self.value(key))

    def assign_muted(self, key: str) -> None:
        token = _core.rerun_suppression_depth.set(1)
        self.state[key] = self.value(key)
        _core.rerun_suppression_depth.reset(token)

    def update(self, _key: str) -> None:
        keys = self.random.sample(self.cast.keys, min(3, len(self.cast.keys)))
        self.state.update({key: self.value(key) for key in keys})

    def setdefault(self, key: str) -> None:
        check(key, self.state.setdefault(key, self.value(key)))

    def delete(self, key: str) -> None:
        with suppress(KeyError):
            del self.state[key]

    def delete_attribute(self, key: str) -> None:
        with suppress(AttributeError):
            delattr(self.state, key)

    def pop(self, key: str) -> None:
        value = self.state.pop(key, MISSING)
        if value is not MISSING:
            check(key, value)

    def popitem(self, _key: str) -> None:
        with suppress(KeyError):
            check(*self.state.popitem())

    def clear(self, _key: str) -> None:
        if self.random.random() < 0.1:
            self.state.clear()

    def touch(self, key: str) -> None:
        with suppress(KeyError):
            self.store.touch(key)

    # Locks. Who holds one uses no other key: two threads that did would wait for each other.

    def alone(self, key: str) -> None:
        """In the lock nobody else changes or takes away what is there."""
        mine = self.value(key)
        self.state[key] = mine
        version = self.store.version(key)
        assert self.state[key] is mine
        assert self.store.peek(key) is mine
        assert key in self.state
        assert self.state.setdefault(key, None) is mine
        assert self.locks[key].locked()
        assert self.store.version(key) == version
        assert self.state.pop(key) is mine
        assert key not in self.state
        assert self.state.setdefault(key, mine) is mine
        if self.random.random() < 0.5:
            del self.state[key]
            assert self.store.version(key) == 0

    def lock(self, key: str) -> None:
        with self.locks[key] as taken:
            assert taken
            self.alone(key)
            with self.locks[key]:
                self.alone(key)

    def lock_with_timeout(self, key: str) -> None:
        lock = self.locks[key]
        if lock.acquire(timeout=self.random.choice([0.0, 0.0001, 0.01])):
            self.alone(key)
            lock.release()

    def lock_without_waiting(self, key: str) -> None:
        lock = self.locks[key]
        if lock.acquire(blocking=False):
            self.alone(key)
            lock.release()
        assert not lock._is_owned()

    # Sessions. Several actors may run in one and the same part of one session, which is closed and replaced meanwhile.

    def session(self) -> _core.Session:
        return self.random.choice(self.cast.sessions)

    def enter(self, _key: str) -> None:
        enter(self.session(), self.random.choice(PARTS))

    def leave(self, _key: str) -> None:
        leave()

    def start_run(self, _key: str) -> None:
        self.session().start_run(self.random.choice([None, ["f"], ["f", "g"]]))

    def message_sent(self, _key: str) -> None:
        self.session().message_sent()

    def finish_run(self, key: str) -> None:
        def exists(_part: str) -> bool:
            self.get(key)
            return self.random.random() < 0.8

        self.session().finish_run(self.random.choice([(), {"f"}, {"f", "g"}]), self.random.choice([None, exists]))

    def run(self, key: str) -> None:
        """A whole run of a script."""
        session = self.session()
        session.start_run()
        enter(session)
        self.get(key)
        self.item(self.random.choice(self.cast.keys))
        session.message_sent()
        self.assign(key)
        self.contains(self.random.choice(self.cast.keys))
        session.finish_run()

    def ask(self, _key: str) -> None:
        session = self.session()
        assert set(session.stale_parts()) <= set(PARTS)
        assert set(session.take_overwritten()) <= set(PARTS)

    def mark_stale(self, _key: str) -> None:
        self.session().mark_stale(self.random.choice(PARTS))

    def drop_scope(self, _key: str) -> None:
        self.session().drop_scope(self.random.choice(PARTS))

    def close(self, _key: str) -> None:
        """Another session comes in its place; whoever is in the closed one goes on in it."""
        at = self.random.randrange(len(self.cast.sessions))
        with self.cast.replacing:
            old, self.cast.sessions[at] = self.cast.sessions[at], _core.Session(self.store)
        old.close()

    # The store

    def collect(self, _key: str) -> None:
        for scope in self.store.collect_stale():
            assert isinstance(scope.owner, _core.Session)

    def listen(self, _key: str) -> None:
        self.store.on_stale(self.random.choice([None, self.store.collect_stale, self.store.keys]))

    def configure(self, _key: str) -> None:
        self.store.set_rerun_writer(self.random.choice([0, 0, 1, 2]))

    def watch(self, _key: str) -> None:
        self.store.watch_members()

    def count(self, _key: str) -> None:
        statistics = self.store.statistics()
        assert 0 <= statistics["keys"] <= len(self.cast.keys)
        assert 0 <= statistics["scopes"] <= statistics["slots"]

    def locate(self, _key: str) -> None:
        if self.random.random() < 0.05:
            locate_in_stress()


READS = [Actor.item, Actor.attribute, Actor.get, Actor.peek, Actor.contains, Actor.version]
WRITES = [Actor.assign, Actor.assign_attribute, Actor.setdefault, Actor.delete, Actor.delete_attribute, Actor.pop]
OTHERS: list[Callable[[Actor, str], None]] = [
    *[Actor.number_of_keys, Actor.iterate, Actor.items],
    *[Actor.assign_muted, Actor.update, Actor.popitem, Actor.clear, Actor.touch],
    *[Actor.lock, Actor.lock_with_timeout, Actor.lock_without_waiting],
    *[Actor.start_run, Actor.message_sent, Actor.finish_run, Actor.run, Actor.ask],
    *[Actor.mark_stale, Actor.drop_scope, Actor.close],
    *[Actor.collect, Actor.listen, Actor.configure, Actor.watch, Actor.count, Actor.locate],
]
OPERATIONS = [*READS * 4, *WRITES * 2, *[Actor.enter, Actor.leave] * 2, *OTHERS]
