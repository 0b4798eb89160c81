"""Sessions and their scopes: every change reaches its subscribers, and no others."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness.scopes import enter, leave
from stress.helpers import DEADLINE, Crew, World

from fastserverstate import _core

VALUES = [f"v{i}" for i in range(4)]
FLAGS = [f"flag{i}" for i in range(3)]
WRITERS = 2
FRAGMENTS = ["f", "g"]
LOOKS: list[Any] = [  # all ways to read
    lambda state: state["v0"],
    lambda state: state.v1,
    lambda state: state.get("v2"),
    lambda state: state.setdefault("v3", 0),
    lambda state: "flag0" in state,
    lambda state: state.get("flag1", None),
    lambda state: [*state],
    len,
]


class Reader(_core.Session):
    """A session that runs its stale parts, as a Streamlit session does."""

    def __init__(self, store: _core.Store) -> None:
        super().__init__(store)
        self.told = threading.Event()
        self.told.set()
        self.shown: dict[str | None, list[object]] = {}
        self.runs = 0


def look(world: World, session: Reader, part: str | None, chance: random.Random) -> list[object]:
    """Run the script or a fragment of a session: read everything in random order."""
    enter(session, part)
    shown: list[object] = [None] * len(LOOKS)
    for i in chance.sample(range(len(LOOKS)), len(LOOKS)):
        shown[i] = LOOKS[i](world.state)
    leave()
    return shown


def run_once(world: World, session: Reader, pool: ThreadPoolExecutor, chance: random.Random, *, writes: bool) -> None:
    """Run the stale parts, and a fragment in parallel with the script, as Streamlit's parallel fragments do."""
    stale = session.stale_fragment_ids() if session.shown else [None]
    running = [None, *FRAGMENTS] if None in stale else stale
    if not running:
        return  # an earlier run has already shown the change
    session.start_run()

    def write() -> None:
        enter(session, running[0])
        world.state[chance.choice(VALUES)] = ("own", chance.random())
        leave()

    if writes and chance.random() < 0.2:
        write()  # changes a value shown by parts outside of this run
    futures = {part: pool.submit(look, world, session, part, random.Random(chance.random())) for part in running[1:]}
    session.shown[running[0]] = look(world, session, running[0], chance)
    session.shown.update({part: future.result(DEADLINE) for part, future in futures.items()})
    if chance.random() < 0.5:
        session.message_sent()
        if writes:
            write()  # changes a value shown by this run
    session.finish_run(running)
    for part in session.take_overwritten():
        session.mark_stale(part)
        session.told.set()


class Idler(_core.Session):
    """A session that reads nothing. It is never stale, whichever session had its slots before."""


def idle(world: World) -> None:
    session = Idler(world.store)
    session.start_run()
    for part in (None, "f"):
        enter(session, part)
        assert session.scope(part).session is session
        world.store.peek("v0")
    assert session.stale_fragment_ids() == []
    session.finish_run({"f"})
    assert session.take_overwritten() == {}
    assert session.stale_fragment_ids() == []
    session.close()
    leave()


class Audience:
    """Sessions and writers. In the pauses between writes, every session must become current."""

    def __init__(self, world: World, crew: Crew) -> None:
        self.world, self.crew = world, crew
        self.readers = [Reader(world.store) for _ in range(3)]
        self.wakes = threading.Semaphore(0)
        self.pause = threading.Barrier(WRITERS + 1)
        self.writing = True
        self.ended = False
        world.store.on_stale(self.wakes.release)
        world.state.update(v0=0, v1=0, v2=0)

    def goes_on(self) -> bool:
        return not self.ended and not self.crew.failed

    def read(self, at: int) -> None:
        """Run the stale parts. Sometimes continue as a new session."""
        chance = random.Random(at)
        session = self.readers[at]
        with ThreadPoolExecutor(1) as pool:
            while self.goes_on():
                if session.told.wait(0.02):
                    session.told.clear()
                    run_once(self.world, session, pool, chance, writes=self.writing)
                if self.writing and chance.random() < 0.02:
                    session.close()
                    session = self.readers[at] = Reader(self.world.store)
        session.close()

    def write(self, seed: int) -> None:
        chance = random.Random(seed)
        state = self.world.state
        while not self.ended:
            for n in range(chance.randrange(20)):
                state[chance.choice(VALUES)] = (seed, n % 3)
                flag = chance.choice(FLAGS)
                if state.pop(flag, None) is None:
                    state[flag] = n
                if chance.random() < 0.1:
                    self.world.store.touch("v0")
            self.pause.wait(DEADLINE)
            self.pause.wait(DEADLINE)  # until all sessions are current

    def collect(self) -> None:
        while self.goes_on():
            if self.wakes.acquire(timeout=0.02):  # only after a wakeup
                for scope in self.world.store.collect_stale():
                    assert type(scope.session) is Reader
                    scope.session.told.set()

    def are_current(self) -> bool:
        current = [show(self.world.state) for show in LOOKS]
        return all(reader.shown == dict.fromkeys([None, *FRAGMENTS], current) for reader in self.readers)

    def settle(self) -> None:
        try:
            while not self.ended:
                self.writing = True
                self.pause.wait(DEADLINE)
                self.writing = False
                self.crew.wait_for(self.are_current, lambda: [reader.shown for reader in self.readers])
                self.ended = self.crew.over
                self.pause.wait(DEADLINE)
        except BaseException:
            self.pause.abort()
            raise


@pytest.mark.parametrize("collectors", [1, 2])
def test_all_sessions_are_current_after_each_pause(world, collectors):
    """Although sessions run only their stale parts."""
    with Crew() as crew:
        audience = Audience(world, crew)
        for at in range(len(audience.readers)):
            crew.add(audience.read, at)
        for seed in range(WRITERS):
            crew.add(audience.write, seed)
        for _ in range(collectors):
            crew.add(audience.collect)
        crew.add(audience.settle)
        crew.repeat(idle, world)
    world.state.clear()
    world.assert_empty()


def test_slots_are_reused_while_sessions_close(world):
    """Threads continue to read in closed sessions. This does not affect the next session in their slots."""
    keys = [f"k{i}" for i in range(70)]
    world.state.update(dict.fromkeys(keys, 0))
    sessions = [_core.Session(world.store) for _ in range(3)]

    def read(seed):
        chance = random.Random(seed)
        session = chance.choice(sessions)
        session.start_run()
        for part in (None, "f"):
            enter(session, part)
            for key in chance.sample(keys, 10):
                world.state[key]
                f"absent {key}" in world.state  # noqa: B015
                len(world.state)
        session.message_sent()
        session.finish_run({"f"})

    def reap(seed):
        at = seed % len(sessions)
        old, sessions[at] = sessions[at], _core.Session(world.store)
        old.drop_scope("f")
        old.close()
        assert old.scope(None) is None

    def write(seed):
        chance = random.Random(seed)
        key = chance.choice(keys)
        world.state[key] = chance.random()
        world.state[f"absent {key}"] = 1
        world.state.pop(f"absent {key}", None)

    def collect():
        for scope in world.store.collect_stale():
            assert type(scope.session) is not Idler

    with Crew() as crew:
        for seed in range(3):
            crew.repeat(read, seed)
            crew.repeat(reap, seed)
        crew.repeat(write, 3)
        crew.repeat(collect)
        crew.repeat(idle, world)
    for session in sessions:
        session.close()
    statistics = world.store.statistics()
    assert (statistics["scopes"], statistics["cells"]) == (0, len(keys)), statistics
    for key in keys:
        world.store.touch(key)
    assert world.store.collect_stale() == []


def test_each_stale_mark_is_collected_once(world):
    """By one of the collecting threads, and as often as the scope became stale."""
    rounds = 0
    ended = False
    sessions = [_core.Session(world.store) for _ in range(200)]
    collected: list[list[_core.Session]] = [[], [], []]

    def collect(at):
        while not ended and not crew.failed:
            collected[at] += [scope.session for scope in world.store.collect_stale()]

    def make_stale():
        nonlocal rounds, ended
        while not crew.over:
            world.state["k"] = rounds
            for session in sessions:
                session.start_run()
                enter(session)
                world.state.get("k")
            leave()
            before = rounds * len(sessions)
            rounds += 1
            world.state["k"] = -1
            crew.wait_for(lambda: sum(map(len, collected)) >= before + len(sessions))  # noqa: B023  (called only here)
        ended = True

    with Crew() as crew:
        crew.add(make_stale)
        for at in range(len(collected)):
            crew.add(collect, at)
    assert len([*collected[0], *collected[1], *collected[2]]) == rounds * len(sessions)
    assert all(session.stale_fragment_ids() == [None] for session in sessions)
