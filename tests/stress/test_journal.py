"""The journals: writers wait for batches that fail at times, values are restored and decoded, keys expire."""

from __future__ import annotations

import contextlib
import random
import threading

import pytest
from stress.helpers import DEADLINE, Crew, Value, check

from fastserverstate import _core
from fastserverstate.durable.errors import NotDurableError


class Engine:
    """A storage engine that sleeps until a key has changed, and fails at times."""

    def __init__(self, store: _core.Store, writers: int) -> None:
        self.store = store
        self.stored: dict[str, object] = {}
        self._writers = [None] * writers
        self._ended = False

    def run(self) -> None:
        fails = random.Random(0).random
        pending: dict[str, object] = {}
        while not self._ended:
            self.store.sleep_until_due(0.001 if pending else -1, not pending)
            epoch, _, changes = self.store.take_journal()
            pending.update((key, value) for key, value, *_ in changes)
            failed = fails() < 0.1
            if not failed:
                self.stored.update(pending)
                pending.clear()
            self.store.end_batch(epoch, f"batch {epoch} is too large" if failed else None)
        self.store.stop_journal()

    def end_writer(self) -> None:
        self._writers.pop()
        if not self._writers:
            self._ended = True
            self.store.close_journal()


@pytest.mark.parametrize("durability", [_core.JOURNAL_FIRST, _core.JOURNAL_SHOW_LATER])
def test_every_writer_is_told_of_its_batch(world, durability):
    """The engine takes no batch without a change. A writer that missed the end of its batch would wait for ever."""
    world.store.start_journal(durability)
    engine = Engine(world.store, writers := 3)
    turns = threading.Barrier(writers, timeout=DEADLINE)  # so that nothing else changes while one of them waits

    def write(key):
        number = 0
        with contextlib.suppress(threading.BrokenBarrierError):
            while not crew.over:
                number += 1
                with contextlib.suppress(NotDurableError):
                    world.state[key] = number
                    assert engine.stored[key] == number
                turns.wait()
        turns.abort()
        engine.end_writer()

    with Crew() as crew:
        crew.add(engine.run)
        for number in range(writers):
            crew.add(write, f"k{number}")
    world.assert_at_rest()


def test_restored_values_while_others_read_write_and_take_them(world):
    keys = [f"k{number}" for number in range(8)]
    store = world.store
    store.set_decoder(lambda key, data: Value(key, int(data)))
    store.start_journal(_core.JOURNAL_LATER)
    store.watch_changes()

    def restore():
        rows = [(key, b"%d" % number, number, number / 1_000 or None) for number, key in enumerate(keys)]
        while not crew.over:
            store.restore(rows, 0)
            store.expire_due()

    def use(seed):
        choose = random.Random(seed).choice
        while not crew.over:
            key = choose(keys)
            value = world.state.get(key)
            if value is not None:
                check(key, value)
            world.state[key] = Value(key, seed)
            world.state.pop(choose(keys), None)
            store.expire(choose(keys), 0.001)

    def take(which):
        while not crew.over:
            changes = store.take_journal()[2] if which else store.take_changes()
            for key, value, *_ in changes:
                if type(value) is Value:
                    check(key, value)

    with Crew() as crew:
        crew.add(restore)
        for seed in range(2):
            crew.add(use, seed)
        for which in range(2):
            crew.add(take, which)
    world.assert_at_rest()


def test_journals_that_open_together():
    """Both record, and one goes on when the other stops."""
    store = _core.Store()
    store.watch_changes()

    def begin_turn():
        nonlocal store
        store.stop_journal()
        _core.Namespace(store).key = 1
        assert [change[0] for change in store.take_changes()] == ["key"]
        store = _core.Store()

    turns = threading.Barrier(2, begin_turn, DEADLINE)

    def open_in_turns(open_journal):
        with contextlib.suppress(threading.BrokenBarrierError):  # the other thread has ended
            while not crew.over:
                turns.wait()
                open_journal()
        turns.abort()

    def watch_changes():
        store.watch_changes()  # of the newest store

    def start_journal():
        store.start_journal(_core.JOURNAL_LATER)

    with Crew() as crew:
        crew.add(open_in_turns, start_journal)
        crew.add(open_in_turns, watch_changes)
