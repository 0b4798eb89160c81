"""A thread that performs random operations on a store and checks invariants that hold despite other threads."""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from harness.scopes import enter, leave, locate_in_tests
from stress.helpers import STEP, Value, World, check

from fastserverstate import _core
from fastserverstate.change import content_fingerprint
from fastserverstate.listeners import Listeners
from fastserverstate.spaces import Spaces
from fastserverstate.suppression import NoRerun
from fastserverstate.updates import Atomic, BeginTransaction, KeyOperations
from fastserverstate.waiting import Waiting

PARTS = [None, "f", "g"]
MISSING = object()
HASH_FUNCS = {"stress.helpers.Value": lambda value: value.number % 2}


def name_of_key(number: int) -> str:
    return f"{'' if number % 2 == 0 else 'odd/' if number % 4 == 3 else 'odd/one/'}k{number}"


def is_no_guard(_key: str, _access: int) -> bool:
    return False


class DiscardError(Exception):
    """Raised to discard a transaction."""


def do_elsewhere(function: Callable[..., object], *args: object) -> None:
    """Call the function on a new thread that ends afterwards."""
    errors = []

    def run() -> None:
        try:
            function(*args)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def refused(end: Callable[..., object]) -> None:
    """Assert that the exit of a block raises RuntimeError."""
    try:
        end(None, None, None)
    except RuntimeError:
        return
    raise AssertionError("The exit did not raise.")


class Cast(World):
    """A store, and the keys and sessions that several actors share."""

    def __init__(self, keys: int, sessions: int = 3) -> None:
        super().__init__()
        self.keys = [name_of_key(i) for i in range(keys)]
        self.sessions = [_core.Session(self.store) for _ in range(sessions)]
        self.replacing = threading.Lock()
        self.atomic, self.on_change = Atomic(self.store), Listeners(self.store).on_change
        self.compare_and_set, self.wait_for = (
            KeyOperations(self.store).compare_and_set,
            Waiting(self.store, Listeners(self.store)).wait_for,
        )
        self.transaction = BeginTransaction(self.store)
        self.spaces = Spaces(self.store, lambda: None)
        # All actors write these many times. Their reference counts reveal leaks.
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
        """Return a unique value, one that may equal the stored one, or a number that can be incremented."""
        number = self.random.randrange(3)
        return self.random.choice(
            [self.cast.values[key][number], (key, number, ~number), int(key.rpartition("k")[2]) + number * STEP]
        )

    def several(self) -> list[str]:
        return self.random.sample(self.cast.keys, min(3, len(self.cast.keys)))

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

    def space(self, key: str) -> None:
        """Read in the space of the odd keys, which contains that of some of them."""
        space = self.cast.spaces.space(self.random.choice(["odd", "odd/one"]))
        prefix = space.key("")
        for names in (list(space), list(space.keys()), list(space.lock)):
            assert len(names) == len(set(names))
            assert {f"{prefix}{name}" for name in names} <= self.cast.values.keys()
        assert 0 <= len(space) <= len(self.cast.keys)
        if key.startswith(prefix):
            value = space.get(key.removeprefix(prefix), MISSING)
            if value is not MISSING:
                check(key, value)

    # Writes

    def clear_space(self, _key: str) -> None:
        self.cast.spaces.space("odd/one").clear()

    def guard(self, _key: str) -> None:
        """Have all keys looked up again."""
        self.store.set_guard(is_no_guard)

    def assign(self, key: str) -> None:
        self.state[key] = self.value(key)

    def assign_attribute(self, key: str) -> None:
        setattr(self.state, key, self.value(key))

    def assign_muted(self, key: str) -> None:
        with NoRerun():
            self.state[key] = self.value(key)

    def update(self, _key: str) -> None:
        self.state.update({key: self.value(key) for key in self.several()})

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

    # Changes that depend on the stored value

    def increment(self, key: str) -> None:
        with suppress(TypeError):  # the value may be a tuple
            check(key, self.cast.atomic.increment(key, STEP, default=int(key.rpartition("k")[2])))

    def change(self, key: str) -> None:
        def another(old: object) -> object:
            check(key, old)
            assert self.locks[key].locked()
            return self.value(key)

        check(key, self.cast.atomic(key, another, default=self.value(key)))

    def compare_and_set(self, key: str) -> None:
        assert self.cast.compare_and_set(key, self.value(key), self.value(key)) in {True, False}

    def transact(self, _key: str) -> None:
        """All writes become visible, or none."""
        keys = self.several()
        written = {key: self.value(key) for key in keys}
        with self.locks[tuple(keys)]:
            expected = {key: self.store.peek(key, MISSING) for key in keys}
            with suppress(DiscardError), self.cast.transaction(*keys):
                self.state.update(written)
                with suppress(DiscardError), self.cast.transaction():
                    assert self.state.pop(keys[0]) is written[keys[0]]
                    assert keys[0] not in self.state
                    raise DiscardError
                assert all(self.state[key] is written[key] for key in keys)
                if self.random.random() < 0.5:
                    raise DiscardError
                expected = written
            assert all(self.store.peek(key, MISSING) is expected[key] for key in keys)

    # Locks. A holder uses no other key, since two such threads could deadlock.

    def alone(self, key: str) -> None:
        """No other thread changes or deletes the value while the lock is held."""
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

    def lock_several(self, _key: str) -> None:
        keys = self.several()
        with self.locks[tuple(keys)]:
            for key in keys:
                self.alone(key)

    def forget_to_release(self, key: str) -> None:
        self.locks[key].acquire()
        self.locks[key].acquire()
        self.alone(key)
        assert self.store.end_holder()[0] == [key]
        assert not self.locks[key]._is_owned()

    # Leftovers. If a lock outlived its holder, all other actors would wait forever.

    def leave_transaction_open(self, key: str) -> None:
        self.cast.transaction(key).__enter__()
        self.state[key] = self.value(key)
        assert self.store.end_holder() == ([key], [key])
        assert not self.locks[key]._is_owned()

    def end_thread(self, key: str) -> None:
        """End while holding a lock, in a transaction with writes, and with pending callbacks."""

        def leave_all() -> None:
            enter(self.session())
            self.locks[key].acquire()
            self.assign(key)
            self.cast.transaction(key).__enter__()
            self.assign(key)
            NoRerun().__enter__()

        do_elsewhere(leave_all)

    def end_transaction_elsewhere(self, key: str) -> None:
        block = self.cast.transaction(key)
        block.__enter__()
        self.state[key] = self.value(key)
        do_elsewhere(refused, block.__exit__)
        assert not self.locks[key]._is_owned()

    def end_transactions_out_of_order(self, key: str) -> None:
        outer, inner = self.cast.transaction(key), self.cast.transaction()
        outer.__enter__()
        inner.__enter__()
        self.state[key] = self.value(key)
        refused(outer.__exit__)
        refused(inner.__exit__)
        assert not self.locks[key]._is_owned()

    def end_muting_elsewhere(self, _key: str) -> None:
        with NoRerun():
            do_elsewhere(refused, NoRerun().__exit__)
        assert not _core.reruns_are_suppressed()

    def fabricate(self, key: str) -> None:
        """Locks and transactions cannot be created, copied or unpickled in other ways."""
        for thing in (self.locks[key], self.locks[key, key], self.cast.transaction(key)):
            for make in (type(thing).__new__, copy.copy, copy.deepcopy):
                with suppress(TypeError):
                    make(type(thing) if make == type(thing).__new__ else thing)
                    raise AssertionError(f"{thing!r} was made")

    # Waits and listeners

    def wait_for(self, key: str) -> None:
        with suppress(TimeoutError):
            timeout = self.random.choice([0.0, 0.0001, 0.002])
            check(key, self.cast.wait_for(key, lambda _: self.random.random() < 0.5, timeout=timeout))

    def wait_for_change(self, key: str) -> None:
        version = self.store.version(key)
        if self.store.wait_for_change(key, version, self.random.choice([0.0, 0.0001, 0.002])):
            changed = self.store.version(key)
            assert changed == 0 or changed > version

    def listen_for_changes(self, key: str) -> None:
        """Listen for a while. The callback may do anything, because its caller holds no lock."""
        subscription = self.cast.on_change(key, self.get, args=(self.random.choice(self.cast.keys),))
        self.assign(key)
        self.delete(key)
        subscription.remove()

    # Sessions. Several actors may run in the same fragment of a session, which is closed and replaced meanwhile.

    def session(self) -> _core.Session:
        return self.random.choice(self.cast.sessions)

    def enter(self, _key: str) -> None:
        enter(self.session(), self.random.choice(PARTS))

    def leave(self, _key: str) -> None:
        leave()

    def start_run(self, _key: str) -> None:
        self.session().start_run()

    def message_sent(self, _key: str) -> None:
        self.session().message_sent()

    def finish_run(self, key: str) -> None:
        def exists(_part: str) -> bool:
            self.get(key)
            return self.random.random() < 0.8

        self.session().finish_run(
            self.random.choice([(), {None}, {"f"}, {None, "f", "g"}]), self.random.choice([None, exists])
        )

    def run(self, key: str) -> None:
        """Perform a complete script run."""
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
        assert set(session.stale_fragment_ids()) <= set(PARTS)
        assert set(session.take_overwritten()) <= set(PARTS)

    def mark_stale(self, _key: str) -> None:
        self.session().mark_stale(self.random.choice(PARTS))

    def stop_waiting(self, _key: str) -> None:
        self.session().stop_waiting()

    def drop_scope(self, _key: str) -> None:
        self.session().drop_scope(self.random.choice(PARTS))

    def close(self, _key: str) -> None:
        """Replace a session. Threads in the closed session continue to run in it."""
        at = self.random.randrange(len(self.cast.sessions))
        with self.cast.replacing:
            old, self.cast.sessions[at] = self.cast.sessions[at], _core.Session(self.store)
        old.close()

    # The store

    def collect(self, _key: str) -> None:
        for scope in self.store.collect_stale():
            assert isinstance(scope.session, _core.Session)

    def listen(self, _key: str) -> None:
        self.store.on_stale(self.random.choice([None, self.store.collect_stale, self.store.keys]))

    def configure(self, _key: str) -> None:
        self.store.set_rerun_writer(self.random.choice([0, 0, 1, 2]))
        self.store.note_reads(self.random.choice([True, False]))

    def look(self, key: str) -> None:
        reads, _ = self.store.take_reads()
        for read, _ in [*reads, (key, "")]:
            self.store.changed_in_place(read, 0.001)

    def set_options(self, key: str) -> None:
        policies = [_core.COMPARE_CONTENT, _core.COMPARE_EQUALITY, _core.COMPARE_IDENTITY, _core.COMPARE_ALWAYS]
        policy = self.random.choice(policies)
        functions = HASH_FUNCS if policy == _core.COMPARE_CONTENT else None
        interval = self.random.choice([0.0, 0.0, 0.001])
        ttl, idle_ttl = (self.random.choice([0.0, 0.0, 0.002]) for _ in range(2))
        self.store.set_options(lambda _: (policy, functions, interval, (ttl, idle_ttl, self.random.random() < 0.5)))
        self.store.resolve(key)

    def release_throttled(self, _key: str) -> None:
        self.store.release_throttled()

    def expire(self, key: str) -> None:
        seconds = self.random.choice([None, 0.0, 0.002])
        self.store.expire(key, seconds)
        self.store.deadline(key)

    def expire_due(self, _key: str) -> None:
        left = self.store.expire_due()
        assert left is None or left >= 0

    def evict(self, key: str) -> None:
        self.store.remove_because(key, self.store.version(key), _core.evicted)

    def fingerprint(self, key: str) -> None:
        value = self.value(key)
        assert content_fingerprint(value) == content_fingerprint(value)

    def apply(self, key: str) -> None:
        """Apply a write of another server."""
        value = self.random.choice([self.value(key), _core.absent])
        left, due, _old = self.store.apply([(key, value, self.random.random() < 0.5)], self.store.writer())
        assert set(left) | set(due) <= {key}
        self.store.flush(due)

    def watch(self, _key: str) -> None:
        self.store.watch_members(self.random.choice([None, "odd/", "odd/one/", f"none {self.random.random()}/"]))

    def count(self, _key: str) -> None:
        statistics = self.store.statistics()
        assert 0 <= statistics["keys"] <= len(self.cast.keys)
        assert 0 <= statistics["scopes"] <= statistics["slots"]

    def locate(self, _key: str) -> None:
        if self.random.random() < 0.05:
            locate_in_tests()


READS = [Actor.item, Actor.attribute, Actor.get, Actor.peek, Actor.contains, Actor.version]
WRITES = [Actor.assign, Actor.assign_attribute, Actor.setdefault, Actor.delete, Actor.delete_attribute, Actor.pop]
OTHERS: list[Callable[[Actor, str], None]] = [
    *[Actor.number_of_keys, Actor.iterate, Actor.items, Actor.space, Actor.clear_space, Actor.guard],
    *[Actor.assign_muted, Actor.update, Actor.popitem, Actor.clear, Actor.touch],
    *[Actor.increment, Actor.change, Actor.compare_and_set, Actor.transact],
    *[Actor.lock, Actor.lock_with_timeout, Actor.lock_without_waiting, Actor.lock_several, Actor.forget_to_release],
    *[Actor.leave_transaction_open, Actor.end_thread, Actor.end_transaction_elsewhere],
    *[Actor.end_transactions_out_of_order, Actor.end_muting_elsewhere, Actor.fabricate],
    *[Actor.wait_for, Actor.wait_for_change, Actor.listen_for_changes, Actor.stop_waiting],
    *[Actor.start_run, Actor.message_sent, Actor.finish_run, Actor.run, Actor.ask],
    *[Actor.mark_stale, Actor.drop_scope, Actor.close],
    *[Actor.collect, Actor.listen, Actor.configure, Actor.watch, Actor.count, Actor.locate],
    *[Actor.set_options, Actor.look, Actor.release_throttled, Actor.fingerprint, Actor.apply],
    *[Actor.expire, Actor.expire_due, Actor.expire_due, Actor.evict],
]
OPERATIONS = [*READS * 4, *WRITES * 2, *[Actor.enter, Actor.leave] * 2, *OTHERS]
