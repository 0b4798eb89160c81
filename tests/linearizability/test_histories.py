"""Histories of concurrent calls of the store are linearizable."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness.linearizability import find_violation
from linearizability.model import StoreModel
from linearizability.subject import Subject, Team

pytestmark = pytest.mark.usefixtures("many_switches")

INITIAL = {"a": 1, "b": 2}  # "c" is not set
KEYS = ("a", "b", "c")
HISTORIES = 400

Choice = random.Random


def plain(chance: Choice) -> tuple[Any, ...]:
    key, value = chance.choice(KEYS), chance.randrange(3)
    name = chance.choice(["item", "get", "contains", "set", "set", "del", "setdefault", "pop"])
    return (name, key, value) if name in {"set", "setdefault"} else (name, key)


def single(chance: Choice) -> tuple[Any, ...]:
    key, value = chance.choice(KEYS), chance.randrange(3)
    return chance.choice(
        [
            ("touch", key),
            ("compare_and_set", key, value, chance.randrange(3)),
            ("atomic", key, chance.choice(["double", "negate", "fail"])),
            ("atomic_default", key, "double", 1),
            ("increment", key, chance.randrange(3)),
            *[plain(chance)] * 4,
        ]
    )


def whole(chance: Choice) -> tuple[Any, ...]:
    return chance.choice([("len",), ("list",), single(chance), single(chance)])


def log(chance: Choice) -> tuple[Any, ...]:
    key = chance.choice("xy")
    return chance.choice(
        [("append", key, chance.randrange(100), 3), ("append", key, chance.randrange(100), 3), ("get", key)]
    )


def transaction(chance: Choice, declared: tuple[str, ...] | None = None, writable: tuple[str, ...] = KEYS) -> Any:
    """Read only declared or written keys. Reads of other keys return the last committed value, which may be newer."""
    keys = tuple(chance.sample(KEYS, chance.randrange(1, 4))) if declared is None else declared
    steps = []
    readable = set(keys)
    for _ in range(chance.randrange(1, 4)):
        key = chance.choice([*keys, *writable])
        if key not in readable:
            steps.append(("set", key, chance.randrange(3)))
            readable.add(key)
            continue
        other = chance.choice(sorted(readable))
        steps.append(
            chance.choice(
                [
                    ("get", key),
                    ("contains", key),
                    ("set", key, chance.randrange(3)),
                    ("del", key),
                    ("pop", key),
                    ("setdefault", key, 5),
                    ("touch", key),
                    ("increment", key, 1),
                    ("atomic", key, chance.choice(["double", "fail"])),
                    ("compare_and_set", key, chance.randrange(3), 2),
                    ("move", key, other, 1),
                    ("transaction", (key,), (("increment", key, 10), ("del", other)), chance.random() < 0.5),
                ]
            )
        )
    return ("transaction", keys, tuple(steps), chance.random() < 0.3)


def transactions(chance: Choice) -> tuple[Any, ...]:
    chosen = tuple(chance.sample(KEYS, chance.randrange(1, 4)))
    return chance.choice([transaction(chance, chosen, chosen), transaction(chance, chosen, chosen), whole(chance)])


def undeclared(chance: Choice) -> tuple[Any, ...]:
    """Acquire locks in any order. Deadlocks are detected, and the calls that they end have no effect."""
    return chance.choice([transaction(chance), transaction(chance, ()), whole(chance)])


def locked(chance: Choice) -> tuple[Any, ...]:
    """Work under several locks is atomic for readers of single keys."""
    one, other = chance.sample(KEYS, 2)
    steps = (("move", one, other, 1), ("get", one), ("set", other, chance.randrange(3)))
    return chance.choice(
        [
            ("locked", (one, other), steps),
            ("locked", (one, other), steps[::-1]),
            transaction(chance, (one, other), (one, other)),
            single(chance),
        ]
    )


def play(mix: Callable[[Choice], tuple[Any, ...]], seeds: range, subjects: Callable[[], Subject] = Subject) -> int:
    """Raise AssertionError for the first history that is not linearizable. Returns the number of operations."""
    operations = 0
    with Team(6) as team:
        for seed in seeds:
            chance = random.Random(seed)
            scripts = [[mix(chance) for _ in range(chance.randrange(3, 7))] for _ in range(chance.randrange(3, 7))]
            subject = subjects()
            subject.state.update(INITIAL)
            history = team.play(subject, scripts)
            operations += len(history)
            violation = find_violation(history, StoreModel(INITIAL))
            assert violation is None, f"{mix.__name__}, {seed}: {violation}"
            assert not any(subject.locks[key].locked() for key in KEYS)
    return operations


@pytest.mark.parametrize("mix", [plain, single, whole, log, transactions, undeclared, locked])
def test_histories_are_linearizable(mix):
    assert play(mix, range(HISTORIES)) > HISTORIES * 9


# ----------------------------------------------------------------------- wrong stores, which must be detected


class LosesUpdates(Subject):
    def _increment(self, key, by):
        value = self.state.get(key, 0)
        time.sleep(0)
        self.state[key] = value + by
        return value + by


class ComparesAndThenSets(Subject):
    def _compare_and_set(self, key, expected, value):
        if self.state.get(key) != expected:
            return False
        time.sleep(0)
        self.state[key] = value
        return True


class TearsTransactions(Subject):
    def _transaction(self, *arguments):
        return self._steps(arguments[1])


class DoesNotExclude(Subject):
    def _locked(self, *arguments):
        return self._steps(arguments[1])


def counters(chance: Choice) -> tuple[Any, ...]:
    return chance.choice([("increment", "a", 1), ("get", "a")])


def races(chance: Choice) -> tuple[Any, ...]:
    return chance.choice([("compare_and_set", "a", 1, 2), ("set", "a", 1), ("get", "a")])


def transfers(chance: Choice) -> tuple[Any, ...]:
    call = chance.choice(["transaction", "locked"])
    return (call, ("a", "b"), (("move", "a", "b", chance.randrange(9)), ("get", "a"), ("get", "b")))


@pytest.mark.parametrize(
    ("subjects", "mix"),
    [
        (LosesUpdates, counters),
        (ComparesAndThenSets, races),
        (TearsTransactions, transfers),
        (DoesNotExclude, transfers),
    ],
)
def test_wrong_stores_are_detected(subjects, mix):
    """They are correct as long as calls do not overlap."""
    with pytest.raises(AssertionError, match="not linearizable"):
        play(mix, range(500), subjects)
    play(mix, range(10))


def test_calls_overlap():
    """Otherwise, the histories would show little."""
    overlaps = total = 0
    with Team(4) as team:
        for seed in range(50):
            chance = random.Random(seed)
            history = team.play(Subject(), [[transactions(chance) for _ in range(5)] for _ in range(4)])
            total += len(history)
            overlaps += sum(
                any(other.thread != one.thread and other.start < one.end and one.start < other.end for other in history)
                for one in history
            )
    assert overlaps > total / 4
