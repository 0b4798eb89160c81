"""Sessions that show live regions leave nothing behind: 2,000 of them come, are pushed to, and go."""

from __future__ import annotations

import sys

import pytest
from unit.helpers import run_script

SESSIONS = """
import asyncio, sys
from types import SimpleNamespace
from fastserverstate.computed_values import Computing, Evaluator
from fastserverstate.configuration import Settings
from fastserverstate.live_regions import MOST_RENDERINGS, LiveRegions
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.session import LiveSession, Readiness

SESSIONS = 2_000

class Adapter:
    def __init__(self):
        self.loop, self.state, self.pushed = loop, Readiness.READY, 0

    def readiness(self):
        return self.state

    def has_fragment(self, fragment):
        return True

    def request_rerun(self, fragment):
        raise AssertionError("No session is to be rerun.")

    def push(self, payloads):
        self.pushed += len(payloads)
        return True

class Rendering:
    def __init__(self, text):
        self.text = text

    def __eq__(self, other):
        return isinstance(other, Rendering) and self.text == other.text

    def show(self, place):
        pass

    def payloads_since(self, shown, place):
        return [self.text]

class Pages:
    can_push = True

    def session_of_run(self):
        return current[0]

    def open_place(self):
        return SimpleNamespace(fragment_id=current[1])

    def capture(self, function, refuse, previous):
        text.clear()
        function()
        return Rendering(text[0])

class Workers:
    def submit(self, task, name):
        tasks.append(task)

    def submit_later(self, seconds, task, name):
        tasks.append(task)

text, tasks, current = [], [], (None, None)
loop = asyncio.new_event_loop()
evaluator = Evaluator(store, Workers())
computed = Computing(store, evaluator, lambda function, refuse: function()).computed
scheduler = Scheduler(store, Settings(), SimpleNamespace(is_on=lambda: False), evaluator.collected)
state["n"] = 0

@computed
def half():
    return state["n"] // 2

@LiveRegions(store, evaluator, Pages(), scheduler.push).live
def board(name):
    half()
    text.append(f"{name} {state['n']}")

def work():
    while True:  # the queue rests while it pushes to many
        loop.run_until_complete(asyncio.sleep(0))
        if tasks:
            tasks.pop(0)()
        elif all(not queue.pushes._queue for queue in scheduler._queues.values()):
            break
    loop.run_until_complete(asyncio.sleep(0))

def run(live, names):
    global current
    live.run_started(live)
    live.adapter.state = Readiness.RUNNING
    for part in (None, "f"):
        current = live, part
        enter(live, part)
        for name in names:
            board(name)
    leave()
    current = None, None
    complete = {None, "f"}
    live.run_finished(complete, complete.__contains__)
    live.runner_ended = True
    live.adapter.state = Readiness.READY
    scheduler.run_ended(live)

def write(lives, pushed):
    state["n"] += 1
    work()
    assert {live.adapter.pushed for live in lives} == pushed, {live.adapter.pushed for live in lives}

def round(i):
    lives = []
    for number in range(SESSIONS):
        live = LiveSession(store, Adapter())
        lives.append(live)
        scheduler.adopt(live)
        run(live, ("everybody", f"round {i}", f"game {number % 20}"))
    work()
    assert viewers() == 6 * SESSIONS
    write(lives, {6})
    for live in lives[::2]:
        run(live, ("everybody",))  # no longer shows the others
    work()
    assert viewers() == 4 * SESSIONS
    write(lives, {6 + 2, 6 + 6})
    for live in lives:
        live.adapter.state = Readiness.AWAY
    write(lives, {6 + 2, 6 + 6})
    refs = [weakref.ref(live) for live in lives]
    while lives:
        scheduler.retire(lives.pop())
    del live
    work()
    gc.collect()
    assert not any(ref() for ref in refs)

def viewers():
    return sum(len(region.viewers) for region in board._nodes)

def measure():
    gc.collect()
    assert viewers() == 0
    assert not evaluator.is_observed(half.node((), {})) and not board.is_observed()
    figures = store.statistics()
    del figures["clock"]
    with open("/proc/self/statm") as statm:
        memory = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(list(board._nodes)), figures, sys.getallocatedblocks(), memory
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_thousand_viewers_leave_nothing() -> None:
    run_script(
        SESSIONS
        + """
for i in range(3):
    round(i)
regions, before, blocks, memory = measure()
for i in range(3, 8):
    round(i)
more_regions, after, more_blocks, more_memory = measure()
assert more_regions == regions + 5  # one for each round; they are bounded
assert after["scopes"] <= before["scopes"] + 5 and after["cells"] <= before["cells"] + 5, (before, after)
assert after["slots"] < 1_000, after  # slots are reused, many at a time
assert more_blocks - blocks < 2_000, (blocks, more_blocks)
assert more_memory - memory < 4_000_000, (memory, more_memory)
""",
        package=True,
    )


def test_renderings_that_no_session_shows_are_bounded() -> None:
    run_script(
        SESSIONS
        + """
SESSIONS = 4
for i in range(MOST_RENDERINGS + 50):
    round(i)
assert len(list(board._nodes)) <= MOST_RENDERINGS
assert store.statistics()["cells"] <= 2 * MOST_RENDERINGS, store.statistics()
assert viewers() == 0
""",
        package=True,
    )
