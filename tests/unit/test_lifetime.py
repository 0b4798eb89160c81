"""Replaced values are freed, memory use is constant, and the interpreter ends without output.

Each test has an interpreter of its own, because a failure may end the process.
"""

from __future__ import annotations

import sys

import pytest
from unit.helpers import run_script

REPLACEMENTS = {
    "assign": "state['k'] = 0",
    "attribute": "state.k = 0",
    "delete": "del state['k']",
    "pop": "state.pop('k')",
    "pop of several": "state.pop('k'); state['k'] = 1",
    "store": "del state, store, old_lock",
}


@pytest.mark.parametrize("replace", REPLACEMENTS.values(), ids=REPLACEMENTS)
@pytest.mark.parametrize("subscribed", [False, True], ids=["unread", "read"])
def test_replaced_value_is_freed_immediately(replace, subscribed):
    run_script(
        f"""
        class Value: pass
        gc.disable()
        old_lock = store.lock("other")
        state["k"] = Value()
        if {subscribed}:
            session = _core.Session(store)
            session.start_run()
            enter(session)
            state["k"], state.k, state.get("k"), state.setdefault("k", 1), "k" in state, store.peek("k")
            session.finish_run()
        dead = weakref.ref(state["k"])
        assert dead() is not None
        if "store" in {replace!r} and {subscribed}:
            session.close()
            leave()
            del session
            state.get("k")
        {replace}
        assert dead() is None, gc.get_referrers(dead())
        """
    )


def test_equal_value_takes_the_place_of_the_old_one():
    """The writer continues with the object that it has just assigned, and the store must not keep the equal one."""
    run_script(
        """
        old, new = [1, 2], [1, 2]
        state["k"] = old
        held = sys.getrefcount(old)
        version = store.version("k")
        state["k"] = new
        assert store.version("k") == version
        assert state["k"] is new
        assert sys.getrefcount(old) == held - 1
        """
    )


RE_ENTRIES = {
    "read": "state.get('k')",
    "read another": "state.get('other'); 'other' in state; list(state)",
    "write": "state['k'] = 'from __del__'",
    "write another": "state['other'] = 1",
    "delete": "state.pop('k', None)",
    "delete and write": "state.pop('k', None); state['k'] = 'from __del__'",
    "touch": "'k' in state and store.touch('k')",
    "setdefault": "state.setdefault('k', 'from __del__')",
    "grow": "[state.__setitem__(f'new{i}', i) for i in range(500)]",
    "lock": "store.lock('k').acquire(); store.lock('k').release()",
    "sessions": "s = _core.Session(store); s.start_run(); s.scope(None); s.close(); store.collect_stale()",
    "collect": "gc.collect()",
}


@pytest.mark.parametrize("re_entry", RE_ENTRIES.values(), ids=RE_ENTRIES)
def test_finalizer_that_uses_the_store(re_entry):
    run_script(
        f"""
        class Value:
            def __del__(self):
                global calls
                calls += 1
                {re_entry}

        calls = 0
        session = _core.Session(store)
        for change in [
            lambda: state.__setitem__("k", 1),
            lambda: state.__setitem__("k", Value()),
            lambda: state.__delitem__("k"),
            lambda: state.pop("k"),
            lambda: [state.__setitem__(f"grow{{i}}", i) for i in range(300)],
        ]:
            for _ in range(50):
                state["k"] = Value()
                session.start_run()
                enter(session)
                "k" in state, state.get("k"), len(state)
                change()
                session.finish_run()
                leave()
                store.collect_stale()
                state.pop("k", None)
        assert calls >= 250, calls
        session.close()
        for key in list(state):
            state.pop(key, None)
        if {"Value()" not in re_entry}:
            statistics = store.statistics()
            assert statistics["keys"] == len(list(state)) and statistics["scopes"] == 0, statistics
        """
    )


@pytest.mark.parametrize("re_entry", RE_ENTRIES.values(), ids=RE_ENTRIES)
def test_finalizer_run_by_the_garbage_collector(re_entry):
    """A collection may start at any allocation of the core."""
    run_script(
        f"""
        class Garbage:
            def __init__(self):
                self.me = self

            def __del__(self):
                gc.set_threshold(0)
                {re_entry.replace("gc.collect()", "gc.get_count()")}
                gc.set_threshold(1)

        session = _core.Session(store)
        gc.set_threshold(1)
        for i in range(1500):
            Garbage()
            session.start_run()
            enter(session, "f" if i % 3 else None)
            Garbage()
            state[f"key{{i}}"] = i
            Garbage()
            state["k"] = [i]
            state.get("k"), f"missing{{i}}" in state, len(state)
            Garbage()
            state.pop(f"key{{i - 9}}", None)
            store.keys()
            Garbage()
            session.finish_run({{"f"}} if i % 3 else {{None}})
            store.collect_stale()
            session.take_overwritten()
        gc.set_threshold(0)
        session.close()
        leave()
        for key in list(state):
            del state[key]
        statistics = store.statistics()
        assert statistics["keys"] == statistics["scopes"] == 0, statistics
        """
    )


SHARED = {
    "a thread's": ("threading.current_thread()", "get('k')"),
    "a value's": ("shared", "put('k', shared)"),
}


@pytest.mark.parametrize(("owner", "use"), SHARED.values(), ids=SHARED)
def test_attributes_that_a_finalizer_asks_for_too(owner, use):
    """A garbage collection may start while the `__dict__` is created, and must not create it twice."""
    run_script(
        f"""
        class Garbage:
            def __init__(self):
                self.me = self

            def __del__(self):
                if gc.get_threshold()[0]:
                    {use}

        class Shared:
            def __init__(self):
                self.one, self.two = [1], 2

        def work(allocations):
            dicts = [{{}} for _ in range(100)]  # so that the next one is allocated
            gc.collect()
            Garbage()
            gc.set_threshold(allocations)
            {use}
            gc.set_threshold(0)
            assert {owner}.__dict__
            return dicts

        get, put = state.get, state.__setitem__
        gc.collect()
        gc.set_threshold(0)
        for i in range(400):
            shared = Shared()
            thread = threading.Thread(target=work, args=(i % 40 + 1,))
            thread.start()
            thread.join()
            del thread
            gc.collect()
        """
    )


ROUND = """
idle = [_core.Session(store) for _ in range(2_000)]  # in the low slots: sets of the others take 256 bytes
assert all(session.scope(None) for session in idle)

def round(i):
    global session
    sessions = [_core.Session(store) for _ in range(6)]
    for session in sessions:
        session.start_run()
        for part in (None, "f"):
            enter(session, part)
            state.get("hot"), state.get(f"k{i}"), f"absent{i}" in state, len(state)
    leave()
    state[f"k{i}"] = [i]
    state["hot"] = i
    store.lock(f"lock{i}")
    store.collect_stale()
    enter(session)
    state.pop(f"k{i}")
    session.finish_run({"f"})
    for session in sessions:
        session.close()
    state.get("hot")
    leave()
"""
WAITED = """
def round(i):
    lock = store.lock("k")
    for _ in range(10):
        with lock, lock:
            thread_lock.acquire(blocking=False)
    assert not held.acquire(blocking=False)
    assert not held.acquire(timeout=0.000001)

thread_lock, held = store.lock("t"), store.lock("held")
ready, done = threading.Event(), threading.Event()
threading.Thread(target=lambda: (held.acquire(), ready.set(), done.wait()), daemon=True).start()
ready.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("script", "rounds"), [(ROUND, 30_000), (WAITED, 30_000)], ids=["sessions", "locks"])
def test_memory_stays_flat(script, rounds):
    """Each round of sessions creates 12 scopes, with sets of subscribers that outgrow their struct."""
    run_script(
        script
        + f"""
def measure():
    gc.collect()
    with open("/proc/self/statm") as statm:  # what getrusage says starts with the parent's size
        return sys.getallocatedblocks(), int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

for i in range({rounds // 5}):
    round(i)
blocks, memory = measure()
for i in range({rounds // 5}, {rounds}):
    round(i)
more_blocks, more_memory = measure()
assert more_blocks - blocks < 2_000, (blocks, more_blocks)
assert more_memory - memory < 2_000_000, (memory, more_memory)
assert store.statistics()["cells"] < 1_000 and store.statistics()["slots"] <= 4_096
"""
    )


def test_caches_of_ended_threads_are_freed():
    run_script(
        """
        class Session(_core.Session): pass

        def script():
            session = Session(store)
            session.start_run()
            enter(session)
            state.get("k")
            session.close()
            sessions.append(weakref.ref(session))

        sessions = []
        for _ in range(50):
            thread = threading.Thread(target=script)
            thread.start()
            thread.join()
        del thread
        gc.collect()
        assert not any(session() for session in sessions)
        """
    )


@pytest.mark.parametrize("package", [False, True], ids=["core", "package"])
def test_interpreter_ends_in_silence(package):
    """With threads that wait, hold locks and write, and with values that are finalized too late."""
    run_script(
        """
        class Late:
            def __del__(self):
                state.get("k")
                state["late"] = 1
                state.pop("k", None)

        state["late value"] = Late()
        forever, running = threading.Event(), threading.Semaphore(0)

        def hold():
            with store.lock("held"):
                running.release()
                forever.wait()

        def wait(use):
            running.release()
            use()

        def write():
            session = _core.Session(store)
            enter(session)
            running.release()
            while True:
                session.start_run()
                state["n"] = state.get("n", 0) + 1
                state.pop("n", None)
                with store.lock("n"):
                    state.setdefault("late value", Late())
                session.finish_run()

        threading.Thread(target=hold, daemon=True).start()
        running.acquire()
        uses = [store.lock("held").acquire, lambda: state["held"], lambda: state.__setitem__("held", 1)]
        for target, args in [(write, ())] * 3 + [(wait, (use,)) for use in uses]:
            threading.Thread(target=target, args=args, daemon=True).start()
            running.acquire()
        """,
        package=package,
    )
