"""Processes are killed at random moments while they write, and what they leave is compared with what they reported."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from durable.processes import environment
from durable.writer import STREAMS, WRITERS
from harness.faults import times

TESTS = Path(__file__).parents[1]
KILLS = times(4, 100)  # of each kind
LONGEST_RUN = 0.5  # seconds until a process is killed
LIFE = 10  # kills until a new file begins

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


class Life:
    """Processes that use one file after each other, and what is known of their writes.

    Attributes
        ``returned``: number of the last write of each stream that has returned. ``flushed``: the same for writes that a
        `flush` has followed. ``versions``: of each key, the highest version that must have been stored.
    """

    def __init__(self, folder: Path, durability: str, show: str) -> None:
        self.path = folder / "state.db"
        self.folder = folder
        self.arguments = [str(self.path), durability, show]
        self.is_always = durability == "always"
        self.returned: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self.flushed: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self.total = 0
        self.versions: dict[str, int] = {}
        self.times: defaultdict[str, list[float]] = defaultdict(list)  # of the writes since the last restart
        self.last = 0.0  # time of the last report
        self.oldest_lost = 0.0
        self.figures: defaultdict[str, int] = defaultdict(int)

    def run_and_kill(self, seconds: float) -> None:
        """Run a process, and kill it so long after its imports; with 0, when its state is restored."""
        command = [sys.executable, "-m", "durable.writer", *self.arguments]
        env = environment()
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=TESTS, env=env) as process:
            assert process.stdout is not None
            timer = threading.Timer(seconds, process.kill)
            try:
                for line in process.stdout:
                    report = json.loads(line)
                    if "opening" in report:
                        if seconds:
                            timer.start()
                        continue
                    self.take(report)
                    if not seconds:
                        process.kill()
            finally:
                timer.cancel()
                process.kill()
            assert process.wait() == -9
        self.check_file()

    def take(self, report: dict[str, Any]) -> None:
        if "counts" in report:
            self.compare(report)
        elif "increments" in report:
            self.total = max(self.total, report["increments"])
            self.figures["returned"] += 1
        elif "flushed" in report:
            self.flushed[report["stream"]] = report["flushed"]
        else:
            stream = report["stream"]
            self.returned[stream] = report["number"]
            self.times[stream].append(report["at"])
            self.figures["returned"] += 1
            if self.is_always:
                self.flushed[stream] = report["number"]
                self.versions[stream] = report["version"]
        self.last = report["at"]

    def compare(self, found: dict[str, Any]) -> None:
        """Compare a process's restored state with the reports of the one before it."""
        assert found["set_aside"] == ""
        assert found["torn"] == {}
        for stream, number in found["counts"].items():
            assert self.flushed[stream] <= number <= self.returned[stream] + 1, stream
            lost = self.returned[stream] - number
            if lost > 0:
                self.figures["lost"] += lost
                self.oldest_lost = max(self.oldest_lost, self.last - self.times[stream][-lost])
            self.figures["unreported"] += lost < 0
        assert found["total"] <= self.total + WRITERS
        if self.is_always:
            assert found["total"] >= self.total
        self.figures["lost"] += max(0, self.total - found["total"])
        for stream in STREAMS:
            items = [int(key.rsplit(" ", 1)[1]) for key in found["keys"] if key.startswith(f"{stream} ")]
            assert items == sorted(items)
        for key, version in self.versions.items():
            assert found["versions"].get(key, sys.maxsize) > version
        self.returned, self.flushed = found["counts"], dict(found["counts"])
        self.total = found["total"]
        self.versions = {key: version - 1 for key, version in found["versions"].items()}
        self.times.clear()
        self.figures["restarts"] += 1

    def check_file(self) -> None:
        """Let SQLite check a copy: opening the file would change it."""
        with_copy = self.folder.with_name(self.folder.name + " copy")
        shutil.copytree(self.folder, with_copy)
        if (with_copy / "state.db").exists():
            with contextlib.closing(sqlite3.connect(with_copy / "state.db")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        shutil.rmtree(with_copy)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("durability", "show"),
    [("interval", ""), ("always", ""), ("always", "after_durable")],
    ids=["interval", "always", "after_durable"],
)
def test_kill_loses_nothing_that_was_promised(tmp_path: Path, durability: str, show: str) -> None:
    moments = random.Random()
    figures: defaultdict[str, int] = defaultdict(int)
    oldest_lost = 0.0
    for number in range(0, KILLS, LIFE):
        folder = tmp_path / f"life {number}"
        folder.mkdir(mode=0o700)
        life = Life(folder, durability, show)
        kills = min(LIFE, KILLS - number)
        for _ in range(kills):
            life.run_and_kill(moments.uniform(0.001, LONGEST_RUN))
        life.run_and_kill(0)
        oldest_lost = max(oldest_lost, life.oldest_lost)
        for name, value in life.figures.items():
            figures[name] += value
        figures["kills"] += kills
        shutil.rmtree(folder)
    if durability == "always":
        assert figures["lost"] == 0
    assert figures["restarts"]
    print(", ".join(f"{figures[name]:,} {name}" for name in sorted(figures)), f"by {oldest_lost:.3f} s at most")
