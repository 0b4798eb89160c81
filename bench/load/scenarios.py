"""The scenarios. Each has a fresh server and returns named figures. Times are in seconds."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from load.bench import Bench, Runs
from load.client import Session

WRITE_INTERVAL = 0.01
Figures = dict[str, float | bool | None]


@dataclass(frozen=True)
class Size:
    """The size of a scenario. `patience` is the timeout of each wait."""

    sessions: int
    rounds: int = 0
    seconds: float = 0.0
    patience: float = 60.0


@dataclass(frozen=True)
class Scenario:
    title: str
    app: str
    measure: Callable[[Bench, Size, Callable[[str], None]], Awaitable[Figures]]
    size: Size
    quick: Size
    variants: tuple[str, ...] = ("gc-off",)


async def counter(bench: Bench, size: Size, say: Callable[[str], None]) -> Figures:
    """A click in one session, until every session shows the number."""
    sessions = await bench.open([""] * size.sessions)
    before = total(await bench.settled_runs())
    cpu = bench.server.cpu_seconds()
    delays: list[float] = []
    slowest: list[float] = []
    rounds = missing = 0
    deadline = time.monotonic() + size.patience
    while rounds < size.rounds and not missing and time.monotonic() < deadline:
        rounds += 1
        say(f"click {rounds} of {size.rounds}")
        clicked = await sessions[rounds * 7 % len(sessions)].click("add")
        shown = await asyncio.gather(*(session.shows("n", str(rounds), size.patience) for session in sessions))
        times = [at - clicked for at in shown if at is not None]
        missing = len(sessions) - len(times)
        delays += times
        slowest += [math.inf if missing else max(times)]
    cpu = bench.server.cpu_seconds() - cpu
    runs = total(await bench.settled_runs()) - before
    return {
        "median": percentile(delays, 50),
        "p95": percentile(delays, 95),
        "all": finite(statistics.median(slowest)),
        "converged": not missing,
        "sessions_missing": missing,
        **run_figures(runs, rounds),
        "cpu_seconds": cpu,
        "cpu_seconds_per_write": cpu / rounds,
    }


async def storm(bench: Bench, size: Size, say: Callable[[str], None]) -> Figures:
    """A thread writes 100 times a second; how long after its last write do all sessions show the value?"""
    sessions = await bench.open([""] * size.sessions)
    before = total(await bench.settled_runs())
    updates = [session.updates for session in sessions]
    cpu = bench.server.cpu_seconds()
    say("writing")
    began = time.monotonic()
    await bench.start_writer("n", WRITE_INTERVAL, size.seconds)
    writes = await bench.writer_ended(size.seconds + size.patience)
    took = time.monotonic() - began
    updates = [session.updates - count for session, count in zip(sessions, updates, strict=True)]
    say("waiting for the last value")
    shown = await asyncio.gather(*(session.shows("n", str(writes.count), size.patience) for session in sessions))
    cpu = bench.server.cpu_seconds() - cpu
    delays = [at - writes.last for at in shown if at is not None]
    converged = writes.ended and len(delays) == len(sessions)
    runs = total(await bench.settled_runs()) - before
    return {
        "median": percentile(delays, 50),
        "p95": percentile(delays, 95),
        "all": max(delays) if converged else None,
        "converged": converged,
        "sessions_missing": len(sessions) - len(delays),
        "updates_per_session_per_second": statistics.mean(updates) / took,
        "sessions_without_update": updates.count(0),
        "writes_per_second": writes.count / took,
        "seconds_per_write": writes.busy_seconds / max(writes.count, 1),
        **run_figures(runs, writes.count),
        "cpu_seconds": cpu,
    }


async def slow_reader(bench: Bench, size: Size, say: Callable[[str], None]) -> Figures:
    """A 100 ms script while a thread writes every 10 ms, and the same script alone."""
    (session,) = await bench.open([""])
    say("alone")
    alone = 0
    began = time.monotonic()
    while time.monotonic() < began + size.seconds:
        alone += await session.rerun(seconds=size.patience)
    alone_seconds = time.monotonic() - began

    say("during writes")
    before = total(await bench.settled_runs())
    finished, updates = session.finished, session.updates_of["n"]
    cpu = bench.server.cpu_seconds()
    began = time.monotonic()
    await bench.start_writer("n", WRITE_INTERVAL, size.seconds)
    writes = await bench.writer_ended(size.seconds + size.patience)
    during = total(await bench.runs()) - before
    finished, updates = session.finished - finished, session.updates_of["n"] - updates
    took = time.monotonic() - began
    shown = await session.shows("n", str(writes.count), size.patience)
    runs = total(await bench.settled_runs()) - before
    cpu = bench.server.cpu_seconds() - cpu
    return {
        "alone_per_second": alone / alone_seconds,
        "completed_per_second": during.completed / took,
        "received_per_second": finished / took,
        "updates_per_second": updates / took,
        "converged": shown is not None,
        "all": None if shown is None else shown - writes.last,
        **run_figures(runs, writes.count),
        "cpu_seconds": cpu,
    }


async def rooms(bench: Bench, size: Size, say: Callable[[str], None]) -> Figures:
    """Posts in some rooms, and the reruns of sessions in others. Every session has visited another room before."""
    count = size.sessions // 4
    sessions = await bench.open([f"room={(i + 1) % count}" for i in range(size.sessions)])
    queries = [f"room={i % count}" for i in range(size.sessions)]
    await asyncio.gather(*(session.rerun(query) for session, query in zip(sessions, queries, strict=True)))
    before = await bench.settled_runs()
    cpu = bench.server.cpu_seconds()
    posted = range(0, count, 5)
    delays: list[float] = []
    missing = writes = 0
    for round_ in range(1, size.rounds + 1):
        say(f"round {round_} of {size.rounds}")
        for room in posted:
            members = sessions[room::count]
            at = await random.choice(members).click("post", queries[room])
            shown = await asyncio.gather(
                *(session.shows(f"room{room}", str(round_), size.patience) for session in members)
            )
            writes += 1
            delays += [time - at for time in shown if time is not None]
            missing += shown.count(None)
    cpu = bench.server.cpu_seconds() - cpu
    runs = {room: after - before[room] for room, after in (await bench.settled_runs()).items()}
    outside = sum(counts.started for room, counts in runs.items() if int(room) not in posted)
    return {
        "median": percentile(delays, 50),
        "p95": percentile(delays, 95),
        "all": max(delays, default=None),
        "converged": not missing,
        "runs_outside": outside,
        "runs_outside_per_write": outside / writes,
        **run_figures(total(runs), writes),
        "cpu_seconds": cpu,
        "cpu_seconds_per_write": cpu / writes,
    }


async def click_under_storm(bench: Bench, size: Size, say: Callable[[str], None]) -> Figures:
    """Clicks of sessions that do not read the hot key, before and while all the others show what a thread writes.

    Every bystander clicks once, at a time that does not depend on the others.
    """
    bystanders = await bench.open(["role=bystander"] * size.rounds)
    await bench.open([""] * size.sessions)
    before = total(await bench.settled_runs())

    async def click(session: Session, after: float) -> float | None:
        await asyncio.sleep(after)
        count = int(session.shown["clicks"]) + 1
        clicked = await session.click("click", "role=bystander")
        shown = await session.shows("clicks", str(count), size.patience)
        return None if shown is None else shown - clicked

    async def clicks(seconds: float) -> tuple[list[float], int]:
        """Return the delays and the number of clicks without an answer."""
        pause = seconds / len(bystanders)
        delays = await asyncio.gather(*(click(session, i * pause) for i, session in enumerate(bystanders)))
        return [delay for delay in delays if delay is not None], delays.count(None)

    say("idle")
    calm, calm_missing = await clicks(size.seconds / 2)
    say("under the storm")
    cpu = bench.server.cpu_seconds()
    await bench.start_writer("n", WRITE_INTERVAL, size.seconds)
    busy, busy_missing = await clicks(size.seconds)
    writes = await bench.writer_ended(size.seconds + size.patience)
    cpu = bench.server.cpu_seconds() - cpu
    runs = total(await bench.settled_runs()) - before
    return {
        "idle_median": percentile(calm, 50),
        "idle_p95": percentile(calm, 95),
        "storm_median": percentile(busy, 50),
        "storm_p95": percentile(busy, 95),
        "storm_max": max(busy, default=None),
        "clicks": 2 * len(bystanders),
        "clicks_unanswered": calm_missing + busy_missing,
        **run_figures(runs, writes.count),
        "cpu_seconds": cpu,
    }


async def idle(bench: Bench, size: Size, say: Callable[[str], None]) -> Figures:
    """The cost of open sessions while nothing happens."""
    await bench.open([""] * size.sessions)
    before = total(await bench.settled_runs())
    say(f"waiting for {size.seconds:.0f} s")
    cpu = bench.server.cpu_seconds()
    began = time.monotonic()
    await asyncio.sleep(size.seconds)
    cpu = bench.server.cpu_seconds() - cpu
    took = time.monotonic() - began
    return {
        "cpu_seconds": cpu,
        "cpu_share": cpu / took,
        "resident_megabytes": bench.server.resident_bytes() / 1e6,
        **run_figures(total(await bench.runs()) - before, 0),
    }


def total(runs: dict[str, Runs]) -> Runs:
    return Runs(sum(group.started for group in runs.values()), sum(group.completed for group in runs.values()))


def run_figures(runs: Runs, writes: int) -> Figures:
    return {
        "writes": writes,
        "runs_started": runs.started,
        "runs_completed": runs.completed,
        "runs_killed": runs.killed,
        "runs_per_write": runs.started / writes if writes else None,
    }


def percentile(values: list[float], percent: float) -> float | None:
    """Return the nearest-rank percentile."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)] if values else None


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


SCENARIOS = {
    "counter": Scenario(
        "A click, until every session shows it",
        "counter.py",
        counter,
        Size(200, rounds=10, patience=40),
        Size(30, rounds=3, patience=8),
        variants=("gc-off", "defaults", "paced"),
    ),
    "storm": Scenario(
        "100 writes a second, until all show the last",
        "storm.py",
        storm,
        Size(200, seconds=4, patience=30),
        Size(20, seconds=1, patience=5),
    ),
    "slow-reader": Scenario(
        "A 100 ms script with a write every 10 ms",
        "slow_reader.py",
        slow_reader,
        Size(1, seconds=5, patience=10),
        Size(1, seconds=1, patience=2),
    ),
    "rooms": Scenario(
        "Runs outside of the room written to",
        "rooms.py",
        rooms,
        Size(200, rounds=5, patience=10),
        Size(40, rounds=2, patience=4),
    ),
    "click-under-storm": Scenario(
        "An unrelated click during a storm",
        "storm.py",
        click_under_storm,
        Size(200, rounds=60, seconds=6, patience=20),
        Size(20, rounds=10, seconds=1, patience=4),
    ),
    "idle": Scenario(
        "Open sessions while nothing happens",
        "counter.py",
        idle,
        Size(500, seconds=10),
        Size(30, seconds=1),
    ),
}
