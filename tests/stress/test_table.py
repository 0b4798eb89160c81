"""All operations concurrently: no value is torn, lost, popped twice or leaked."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import Counter

import pytest
from harness.scopes import enter
from stress.actor import Actor, Cast
from stress.helpers import Crew, Value, check

from fastserverstate import _core

MISSING = object()


@pytest.mark.parametrize("keys", [1, 8, 2_000], ids=["one key", "few keys", "many keys"])
@pytest.mark.parametrize("threads", [2, 4, 8])
def test_all_operations_concurrently(threads, keys):
    cast = Cast(keys)
    with Crew() as crew:
        for seed in range(threads):
            crew.repeat(Actor(cast, seed).act)
    cast.assert_leaves_nothing()


def test_moved_objects_are_neither_lost_nor_duplicated(world):
    """Threads move objects between keys, which constantly deletes and sets keys."""
    keys = [f"k{i}" for i in range(4)]
    goods = [object() for _ in range(6)]
    hands: list[list[object]] = [[], [], [], []]
    hands[0] += goods

    def carry(hand, seed):
        choose = random.Random(seed).choice
        enter(_core.Session(world.store))
        while not crew.over:
            taken = world.state.pop(choose(keys), MISSING)
            if taken is not MISSING:
                hand.append(taken)
            if hand and world.state.setdefault(choose(keys), hand[-1]) is hand[-1]:
                hand.pop()

    with Crew() as crew:
        for seed, hand in enumerate(hands):
            crew.add(carry, hand, seed)
    found = [*itertools.chain.from_iterable(hands), *world.state.values()]
    assert Counter(map(id, found)) == Counter(map(id, goods))


def test_readers_while_the_table_grows(world):
    """Readers find every key that was set, whatever the state of the table."""
    written = emptied = 0

    def grow():
        nonlocal written, emptied
        while not crew.over:
            for i in range(100_000):
                world.state[f"k{i}"] = i
                written = i + 1
                if crew.over:
                    break
            else:
                emptied += 1
                written = 0
                for i in range(100_000):
                    assert world.state.pop(f"k{i}") == i

    def read(seed):
        enter(session := _core.Session(world.store))
        choose = random.Random(seed).randrange
        while not crew.over:
            session.start_run()
            for _ in range(1_000):
                before, known = emptied, written
                if known:
                    key = f"k{choose(known)}"
                    found = (world.state.get(key, MISSING), key in world.state)
                    assert found == (int(key[1:]), True) or emptied != before
        session.close()

    with Crew() as crew:
        crew.add(grow)
        for seed in range(3):
            crew.add(read, seed)
    world.assert_at_rest()


def test_concurrent_growth(world):
    """All keys of each thread exist, whichever thread has grown the table."""

    def insert(thread):
        for i in range(25_000):
            world.state[f"{thread}:{i}"] = i
            assert world.state[f"{thread}:{i >> 1}"] == i >> 1
            if crew.over and i > 1_000:
                break
        counts[thread] = i + 1

    counts = [0] * 4
    with Crew() as crew:
        for thread in range(4):
            crew.add(insert, thread)
    world.assert_at_rest()
    assert len(world.state) == sum(counts)
    for thread, count in enumerate(counts):
        assert all(world.state[f"{thread}:{i}"] == i for i in range(count))


def test_finalizers_use_the_store(world):
    """Each value is finalized once, on the thread that replaced it, and uses the store there."""
    keys = [f"k{i}" for i in range(3)]
    made: list[list[int]] = []
    died: list[int] = []

    class Last(Value):
        __slots__ = ()

        def __del__(self):
            died.append(self.number)
            i = self.number
            world.state.get(keys[i % 3])
            world.state[keys[(i + 1) % 3]] = i
            world.state.pop(keys[(i + 2) % 3], None)
            len(world.state), world.store.keys(), world.store.collect_stale()
            world.locks[keys[i % 3]].locked()

    def write(thread):
        mine: list[int] = []
        made.append(mine)
        session = _core.Session(world.store)
        enter(session)
        for i in itertools.count():
            if crew.over:
                break
            session.start_run()
            mine.append(8 * i + thread)
            # A list is compared before it is replaced, which leaves time for other threads to replace it.
            world.state[keys[i % 3]] = [*range(100), Last(keys[i % 3], mine[-1])]
            world.state.get(keys[(i + thread) % 3])
            session.finish_run()
        session.close()

    with Crew() as crew:
        for thread in range(4):
            crew.add(write, thread)
    world.state.clear()
    assert Counter(died) == Counter(itertools.chain.from_iterable(made))
    world.state.clear()
    world.assert_empty()


def test_values_changed_during_comparison(world):
    """Threads change a container in place while an assignment compares it."""
    inner = {"list": [1, 2, 3], "dict": {i: [i] for i in range(8)}, "set": {1, 2}}
    world.state["k"] = inner

    def change(seed):
        choose = random.Random(seed)
        i = choose.randrange(16)
        inner["list"].append([i])
        del inner["list"][: choose.randrange(3)]
        inner["dict"][i] = [i]
        inner["dict"].pop(choose.randrange(16), None)
        inner["set"] ^= {i}
        inner[f"new{i}"] = {}
        inner.pop(f"new{choose.randrange(16)}", None)

    def assign():
        copied = MISSING
        while copied is MISSING:
            with contextlib.suppress(RuntimeError):  # changed size during iteration
                copied = {name: type(value)(value) for name, value in list(inner.items())}
        world.state["k"] = copied
        world.state["k"] = inner
        assert _core.same_value(copied, inner) in {True, False}

    with Crew() as crew:
        for seed in range(2):
            crew.repeat(change, seed)
        for _ in range(2):
            crew.repeat(assign)
    world.state["k"] = inner
    assert world.state["k"] is inner


def test_stores_are_created_and_destroyed():
    """The scope that a thread has cached for one store does not affect its next store."""
    newest = [Cast(3)]

    def use(seed):
        actor = Actor(newest[0], seed)
        for _ in range(50):
            actor.act()
        if seed == 0:
            newest[0] = Cast(3)

    with Crew() as crew:
        for seed in range(4):
            crew.repeat(use, seed)


def test_readers_see_no_intermediate_value(world):
    """Readers wait for the holder of the lock, so they see nothing between its writes."""
    world.state["k"] = Value("k", 0)

    def write(seed):
        choose = random.Random(seed)
        with world.locks["k"]:
            number = world.state["k"].number
            half = Value("k", number)
            half.check = None
            if choose.random() < 0.5:
                del world.state["k"]
            world.state["k"] = half
            time.sleep(0)  # releases the GIL
            assert world.state["k"] is half
            world.state["k"] = Value("k", number + 1)

    def read(seed):
        if seed:
            enter(session := _core.Session(world.store))
            session.start_run()
        check("k", world.state["k"])
        check("k", world.state.get("k"))
        check("k", world.state.k)
        check("k", world.store.peek("k"))
        assert "k" in world.state
        if seed:
            session.close()

    with Crew() as crew:
        for seed in range(2):
            crew.repeat(write, seed)
            crew.repeat(read, seed)
