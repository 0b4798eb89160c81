"""Locks: mutual exclusion, fairness, and no wakeup lost in a handover."""

from __future__ import annotations

import random
import threading
import time

import pytest
from harness.scopes import enter, leave
from stress.helpers import DEADLINE, Crew

from fastserverstate import _core

WAYS = {
    "with": lambda lock, _: lock.__enter__(),
    "acquire": lambda lock, _: lock.acquire(),
    "timeout": lambda lock, random: lock.acquire(timeout=random.choice([0.0, 1e-6, 1e-4, 1e-3])),
    "non-blocking": lambda lock, _: lock.acquire(blocking=False),
}


@pytest.mark.parametrize("ways", [["with"], ["timeout"], [*WAYS]], ids=["waits", "gives up", "all"])
@pytest.mark.parametrize("threads", [2, 8])
def test_counter_is_exact(world, threads, ways):
    """The counter is deleted and set again under the lock. A plain list is the reference."""
    world.state["n"] = 0
    plain = [0]
    counts = [0] * threads

    def count(thread):
        chance = random.Random(thread)
        lock = world.locks["n"]
        while not crew.over:
            if not WAYS[chance.choice(ways)](lock, chance):
                continue
            assert lock.acquire(blocking=False)  # reentrant
            counts[thread] += 1
            before = plain[0]
            if chance.random() < 0.3:
                world.state["n"] = world.state.pop("n") + 1
            else:
                world.state["n"] += 1
            plain[0] = before + 1
            lock.release()
            assert world.locks["n"] is lock
            assert lock.locked()
            lock.release()

    with Crew() as crew:
        for thread in range(threads):
            crew.add(count, thread)
    assert world.state["n"] == plain[0] == sum(counts) > 0
    assert not world.locks["n"].locked()


def test_no_thread_starves(world):
    """Threads that immediately acquire the lock again do not starve others."""
    turns = [0] * 6

    def take(thread):
        while not crew.over or not turns[thread]:
            with world.locks["k"]:
                turns[thread] += 1
                time.sleep(0.0002)

    with Crew() as crew:
        for thread in range(len(turns)):
            crew.add(take, thread)
    assert not world.locks["k"].locked()


def test_condition_ping_pong(world):
    """`threading.Condition` releases the lock at any depth and acquires it again."""
    condition = threading.Condition(world.locks["ball"])
    world.state["ball"] = 0
    players = 3

    def play(player):
        while not crew.over:
            with condition, condition:
                assert condition.wait_for(lambda: world.state["ball"] % players == player or crew.over, DEADLINE)
                if not crew.over:
                    world.state["ball"] += 1
                condition.notify_all()
        with condition:
            condition.notify_all()

    with Crew() as crew:
        for player in range(players):
            crew.add(play, player)
    assert world.state["ball"] > 0
    assert not world.locks["ball"].locked()


def test_locks_of_keys_that_are_deleted_and_set_again(world):
    """A referenced lock remains the lock of its key, whatever happens to the key and the table."""
    keys = [f"k{i}" for i in range(4)]
    inside = dict.fromkeys(keys, 0)

    def lock(seed):
        chance = random.Random(seed)
        for i in range(1_000_000):
            key = chance.choice(keys)
            with world.locks[key] as taken:
                assert taken
                inside[key] += 1
                world.state[key] = i
                del world.state[key]
                time.sleep(0)
                assert inside[key] == 1
                inside[key] -= 1
            if crew.over:
                break

    def grow(seed):
        for i in range(2_000):
            world.state[f"{seed}:{i}"] = i
            world.locks[f"unset {seed}:{i}"]
        for i in range(2_000):
            del world.state[f"{seed}:{i}"]

    with Crew() as crew:
        for seed in range(4):
            crew.add(lock, seed)
        crew.repeat(grow, 4)
    world.assert_empty()


def test_sessions_closed_while_their_scripts_wait(world):
    """A scope dropped while its thread waits for a key's lock subscribes to nothing afterwards."""
    world.state["k"] = 0
    sessions = [_core.Session(world.store) for _ in range(4)]

    def read(at):
        session = sessions[at] = _core.Session(world.store)
        session.start_run()
        enter(session)
        world.state["k"]
        "k" in world.state  # noqa: B015
        session.close()
        leave()

    def close():
        for session in list(sessions):
            session.close()

    def hold():
        with world.locks["k"]:
            time.sleep(0)
            world.state["k"] += 1

    with Crew() as crew:
        for at in range(len(sessions)):
            crew.repeat(read, at)
        crew.repeat(close)
        crew.repeat(hold)
    world.store.collect_stale()
    world.state["k"] = -1
    assert world.store.collect_stale() == []
    assert world.store.statistics()["scopes"] == 0
