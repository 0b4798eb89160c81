"""The memory of the store, in addition to the keys and values themselves.

Measured in bytes requested from Python's allocators, which the core uses for all its memory. A *pair* is a key
that a scope has read. The sets of subscribers hold the pairs; a run that goes on may remember its own besides.
"""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Any

import pytest
from unit.helpers import run_script

PRELUDE = """
import json, tracemalloc

def traced():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]

def sessions(count):
    # Each with a run that has read nothing yet.
    made = [_core.Session(store) for _ in range(count)]
    for session in made:
        session.start_run()
        session.scope(None)
    return made

def read(session, keys, finish=True):
    session.start_run()
    enter(session)
    for key in keys:
        get(key)
    leave()
    if finish:
        session.finish_run()

get = state.get
warm = _core.Session(store)
read(warm, ["absent"])
warm.close()
"""


def measure(source: str) -> dict[str, Any]:
    measured: dict[str, Any] = json.loads(run_script(PRELUDE + textwrap.dedent(source)))
    print(measured)  # pytest -rP shows it
    return measured


@pytest.mark.parametrize("subscribers", range(5))
def test_bytes_of_a_key(subscribers):
    measured = measure(
        f"""
        keys, values = [f"key{{i}}" for i in range(100_000)], [[] for _ in range(100_000)]
        readers = sessions({subscribers})
        tracemalloc.start()
        before = traced()
        for key, value in zip(keys, values):
            state[key] = value
        stored = traced() - before
        for reader in readers:
            read(reader, keys)
        print(json.dumps({{"stored": stored / 100_000, "read": (traced() - before) / 100_000}}))
        """
    )
    assert measured["stored"] <= 160, measured
    assert measured["read"] <= 160, measured


def test_bytes_of_a_key_just_after_growth():
    """The table is never much larger than its content."""
    measured = measure(
        """
        keys, value = [f"key{i}" for i in range(300_000)], []
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        worst = peak = 0
        for i, key in enumerate(keys, 1):
            state[key] = value
            if i >= 10_000 and i % 50 == 0:
                now, most = tracemalloc.get_traced_memory()
                worst = max(worst, (now - before) / i)
                peak = max(peak, (most - before) / i)
        print(json.dumps({"worst": worst, "while growing": peak}))
        """
    )
    assert measured["worst"] <= 200, measured
    assert measured["while growing"] <= 240, measured


def test_bytes_of_a_pair_while_the_run_goes_on():
    measured = measure(
        """
        keys = [f"key{i}" for i in range(100_000)]
        for key in keys:
            state[key] = 0
        reader, = sessions(1)
        tracemalloc.start()
        before = traced()
        read(reader, keys, finish=False)
        running = traced() - before
        reader.finish_run()
        print(json.dumps({"running": running / 100_000, "at rest": (traced() - before) / 100_000}))
        """
    )
    assert measured["running"] <= 16, measured
    assert measured["at rest"] <= 0.1, measured


def test_many_keys_of_one_session_each():
    """100,000 keys, each read by one of 10,000 sessions: with keys, values, sessions and all."""
    measured = measure(
        """
        tracemalloc.start()
        before = traced()
        for i in range(100_000):
            state[f"key{i}"] = i
        stored = traced() - before
        readers = sessions(10_000)
        opened = traced() - before
        for i, reader in enumerate(readers):
            read(reader, [f"key{j}" for j in range(10 * i, 10 * i + 10)])
        all_in_all = traced() - before
        assert store.statistics()["scopes"] == 10_000
        print(json.dumps({
            "stored": stored / 1e6,
            "a session": (opened - stored) / 10_000,
            "a pair": (all_in_all - opened) / 100_000,
            "all in all": all_in_all / 1e6,
        }))
        """
    )
    assert measured["all in all"] <= 40, measured


def test_few_keys_of_many_scopes():
    """1,000 keys, each read by 10,000 scopes: all memory for ten million pairs."""
    measured = measure(
        """
        keys = [f"key{i}" for i in range(1_000)]
        for key in keys:
            state[key] = 0
        readers = sessions(10_000)
        tracemalloc.start()
        before = traced()
        for reader in readers:
            read(reader, keys)
        pairs = traced() - before
        state["key5"] = 1
        assert len(store.collect_stale()) == 10_000
        print(json.dumps({"pairs": pairs / 1e6}))
        """
    )
    assert measured["pairs"] <= 4, measured


def test_bytes_of_a_session():
    measured = measure(
        """
        tracemalloc.start()
        before = traced()
        made = sessions(10_000)
        opened = traced() - before
        for session in made:
            session.close()
        del made, session
        print(json.dumps({"open": opened / 10_000, "closed": (traced() - before) / 10_000}))
        """
    )
    assert measured["open"] <= 1_000, measured
    assert measured["closed"] <= 64, measured  # the slots, for the next ones


# A million rounds each, without leaks.
ROUNDS = {
    "keys": """
        def batch(i):
            for j in range(1_000):
                state[f"{i}:{j}"] = i
            for j in range(1_000):
                del state[f"{i}:{j}"]
        batches = 1_000
    """,
    "keys in great numbers": """
        def batch(i):
            for j in range(100_000):
                state[f"{i}:{j}"] = i
            for j in range(100_000):
                del state[f"{i}:{j}"]
        batches = 10
    """,
    "one key": """
        def batch(i):
            for j in range(10_000):
                state["k"] = [j]
                del state["k"]
        batches = 100
    """,
    "misses": """
        def batch(i):
            read(reader, (f"{i}:{j}" for j in range(1_000)))
        batches = 1_000
        reader = _core.Session(store)
    """,
    "keys that were read": """
        def batch(i):
            keys = [f"{i}:{j}" for j in range(1_000)]
            for key in keys:
                state[key] = i
            read(reader, keys)
            for key in keys:
                del state[key]
            store.collect_stale()
        batches = 1_000
        reader = _core.Session(store)
    """,
    "locks": """
        def batch(i):
            for j in range(1_000):
                with lock(f"{i}:{j}"):
                    pass
        batches = 1_000
        lock = store.lock
    """,
    "sessions": """
        def batch(i):
            made = sessions(100)
            for session in made:
                read(session, keys)
            if i % 10 == 0:
                state["hot"] = i
                state.pop(f"key{i % 7}", None)
                store.collect_stale()
            for session in made:
                session.close()
        batches = 1_000
        keys = ["hot", "absent", *[f"key{i}" for i in range(8)]]
        for key in keys[2:]:
            state[key] = 0
    """,
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
def test_no_growth_in_a_million_rounds(rounds):
    """100,000 of sessions, with ten keys each."""
    measured = measure(
        textwrap.dedent(rounds)
        + textwrap.dedent(
            """
            def resident():
                with open("/proc/self/statm") as statm:
                    return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

            at_start = resident()
            for i in range(batches // 5):
                batch(i)
            before = resident()
            for i in range(batches // 5, batches * 4 // 5):
                batch(i)
            grown = resident() - before
            tracemalloc.start()
            batch(batches * 4 // 5)
            before = traced()
            for i in range(batches * 4 // 5 + 1, batches):
                batch(i)
            print(json.dumps({"at first": resident() - at_start, "grown": grown, "traced": traced() - before}))
            """
        )
    )
    assert measured["traced"] < 1_000_000, measured  # reads of missing keys in two runs
    assert measured["grown"] < 4_000_000, measured
    assert measured["at first"] < 60_000_000, measured  # 100,000 keys need 30 MB
