"""Operations that are interrupted by code that uses the same store.

The interpreter runs it in collections, finalizers, trace functions, callbacks and signal handlers.
"""

from __future__ import annotations

import textwrap

import pytest
from unit.helpers import needs_timer, run_script

# `act` interrupts other operations wherever the interpreter can run foreign code. It writes and deletes the same key
# and others, takes the same locks, and runs a session of its own.
DRIVER = """
import random

choose = random.Random(7)
acting, acts, last_act = False, 0, None
theirs = {}          # the keys that only `act` writes
working_on = None    # the key that is being used
lock, other_lock = store.lock("k"), store.lock("other")
actor, worker, watcher = (_core.Session(store) for _ in range(3))
actor.start_run()

def act(*_):
    global acting, acts
    if acting:
        return
    acting = True
    thread = threading.current_thread()
    context = getattr(thread, "scope", None)
    enter(actor)
    try:
        acts += 1
        state["k"] = ("act", acts)
        assert state["k"] == state.k == state.get("k") == ("act", acts)
        with lock, other_lock, lock:
            state["count of acts"] = state.get("count of acts", 0) + 1
        key = f"theirs{acts % 50}"
        if acts % 3:
            state[key] = theirs[key] = acts
        else:
            assert state.pop(key, None) == theirs.pop(key, None)
        if acts % 4 == 0:
            del state["k"]
        if acts % 5 == 0 and working_on is not None:
            state.pop(working_on, None)
        if acts % 7 == 0:
            actor.finish_run()
            actor.start_run()
            visitor = _core.Session(store)
            enter(visitor)
            state.get("k"), "absent" in state, len(state)
            visitor.close()
        if acts % 20 == 0:
            for i in range(400):
                state[f"grow{i}"] = i
            for i in range(400):
                del state[f"grow{i}"]
        if acts % 23 == 0:
            assert len(list(state)) == len(state) == store.statistics()["keys"]
    finally:
        thread.scope = context
        acting = False

def collect_garbage_often():
    # Without the GIL, collections also depend on the number of live objects, unless the second threshold is 0.
    gc.set_threshold(1, *([] if getattr(sys, "_is_gil_enabled", lambda: True)() else [0]))

def interrupted():
    return acts != acts_before

def work(i):
    # Use a key of our own and the shared one. Only an `act` in between may have removed them.
    global working_on, acts_before
    if i % 3 == 0:
        worker.finish_run()
        worker.start_run()
    key = working_on = f"ours{i % 70}"
    acts_before = acts
    garbage = []
    garbage.append(garbage)
    state[key] = i
    assert key in state or interrupted()
    assert state.get(key) == i or (interrupted() and state.get(key) is None)
    assert state.pop(key, None) == i or interrupted()
    state[key] = [i]
    working_on = None
    if state.get(key) == [i]:
        ours[key] = [i]
    else:
        assert interrupted()
        ours.pop(key, None)
    acts_before = acts
    state["k"] = ("work", i)
    found = state.get("k", ("act",))
    assert found == ("work", i) or (interrupted() and found[0] == "act"), found
    with lock:
        assert lock._is_owned()
        state["count of works"] = state.get("count of works", 0) + 1
    assert not lock._is_owned()
    with other_lock:
        state.get(f"absent{i}"), f"absent {i}" in state

def watch():
    # The watcher's value is current, or the watcher is stale; and it is stale only after a change.
    global acting, seen
    acting = True
    told, current = watcher in [scope.session for scope in store.collect_stale()], store.peek("k")
    acting = False
    if seen is not None:
        found, undisturbed = seen
        assert told or current is found, (current, found)
        assert not (told and undisturbed) or current is not found or current is None, current
    acts_before = acts
    watcher.start_run()
    enter(watcher)
    found = state.get("k")
    watcher.finish_run()
    leave()
    seen = found, acts == acts_before

def drive(works, enough):
    # Stop when `act` has run often enough.
    for i in range(works):
        enter(worker)
        work(i)
        leave()
        if i % 10 == 0:
            watch()
        if acts >= enough and i > 500:
            break
    assert acts >= enough, acts
    return i + 1

def finish(works):
    # `act` is no longer called.
    assert state["count of works"] == works
    assert state["count of acts"] == acts
    shared = {key: state.get(key) for key in ("k", "count of works", "count of acts") if key in state}
    assert {key: state[key] for key in state} == {**theirs, **ours, **shared}
    assert store.statistics()["keys"] == len(state) == len(list(state))
    assert not lock.locked() and not other_lock.locked()
    for session in (actor, worker, watcher):
        session.close()
    for key in list(state):
        del state[key]
    statistics = store.statistics()
    assert statistics["keys"] == statistics["scopes"] == 0, statistics
    assert statistics["cells"] <= 2, statistics

ours, seen = {}, None
"""
INTERRUPTIONS = {
    "garbage collection": """
        gc.callbacks.append(act)
        collect_garbage_often()
        works = drive(20_000, 5)
        gc.callbacks.clear()
        gc.set_threshold(0)
    """,
    "finalizers of garbage": """
        class Garbage:
            def __init__(self): self.me = self
            def __del__(self):
                if not done:
                    act()
                    Garbage()
        done = False
        collect_garbage_often()
        Garbage()
        works = drive(20_000, 5)
        done = True
        gc.set_threshold(0)
    """,
    "profile": "sys.setprofile(act); works = drive(700, 1_000); sys.setprofile(None)",
    "trace": "sys.settrace(lambda *_: act() or act); works = drive(700, 1_000); sys.settrace(None)",
    "wake": "store.on_stale(act); works = drive(3_000, 100); store.on_stale(None)",
    "resolve": """
        _core.locate_scopes("scope", None, "part", lambda context, part: act() or resolve(context, part))
        works = drive(3_000, 500)
        _core.locate_scopes("scope", None, "part", resolve)
    """,
    "fragment id of the context": """
        Context.part = property(lambda self: act(), lambda self, part: None)
        works = drive(3_000, 1_000)
        del Context.part
        leave()
        Context.part = None
    """,
    "signal": """
        signal.signal(signal.SIGALRM, act)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        works = drive(10**9, 1_500)
        signal.setitimer(signal.ITIMER_REAL, 0)
    """,
}


@pytest.mark.parametrize(
    "interruption", [pytest.param(name, marks=needs_timer if name == "signal" else ()) for name in INTERRUPTIONS]
)
def test_interrupted_operations(interruption):
    run_script(DRIVER + textwrap.dedent(INTERRUPTIONS[interruption]) + "\nfinish(works)\n")
