"""Histories of several processes are linearizable, even with failures."""

from __future__ import annotations

import base64
import pickle
import random
import threading
import time
from contextlib import suppress

import pytest
import redis
from cluster.worker import Worker
from harness.faults import times
from harness.linearizability import find_violation
from linearizability.model import StoreModel

PROCESSES = 4
KEYS = ("a", "b", "c")

SETUP = """
import base64, pickle, sys
from cluster.member import Member
from fastserverstate.cluster.errors import LockLostError, NotConnectedError, NotWrittenError, UnknownOutcomeError
from fastserverstate.errors import DeadlockError
from harness.faults import times
from harness.linearizability import timed

sys.setswitchinterval(1e-5)
peer.node.close()
member = Member({url!r}, timeout=30.0)

def play(name, scripts):
    import threading
    histories = [[] for _ in scripts]
    def work(at):
        for call, *arguments in scripts[at]:
            histories[at].append(timed((name, at), call, tuple(arguments), member.perform, (UnknownOutcomeError,)))
    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(scripts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    none = (DeadlockError, LockLostError, NotConnectedError, NotWrittenError)
    kept = [one for history in histories for one in history if one.result not in none]
    return base64.b64encode(pickle.dumps(kept)).decode()
"""


def call(chance, keys):
    key, value = chance.choice(keys), chance.randrange(3)
    one, other = chance.sample(keys, 2)
    block = ((one, other), (("get", one), ("set", one, value), ("increment", other, 1), ("get", other)))
    return chance.choice(
        [
            ("get", key),
            ("get", key),
            ("contains", key),
            ("set", key, value),
            ("set", key, value),
            ("del", key),
            ("increment", key, 1),
            ("increment", key, 1),
            ("compare_and_set", key, value, 5),
            ("atomic_default", key, "double", 1),
            ("touch", key),
            ("transaction", *block, chance.random() < 0.3),
            ("locked", (one, other), (("get", one), ("set", other, value), ("get", other))),
        ]
    )


def inject_faults(server, proxy, over, counts):
    chance = random.Random(1)
    with server.client() as client:
        while not over.wait(chance.uniform(0.02, 0.2)):
            what = chance.choice([*["cut", "lose", "kill", "trim"] * 5, "restart"])
            counts[what] = counts.get(what, 0) + 1
            with suppress(redis.RedisError):
                if what == "cut":
                    proxy.cut()
                elif what == "lose":
                    proxy.lose_replies(2)
                elif what == "kill":
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                elif what == "trim":
                    client.xtrim("fss:{tests}:log", maxlen=0, approximate=False)
                else:
                    server.restart()


@pytest.mark.failure(14)
@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
@pytest.mark.timeout(900)
def test_process_histories_are_linearizable(own_engine, proxy, report, faults):
    histories = times(12, 250)
    workers = [Worker(proxy.url) for _ in range(PROCESSES)]
    over = threading.Event()
    counts: dict[str, int] = {}
    operations = unknown = 0
    injecting = threading.Thread(target=inject_faults, args=(own_engine, proxy, over, counts))
    try:
        for worker in workers:
            worker.do(SETUP.format(url=proxy.url))
        if faults:
            injecting.start()
        for seed in range(histories):
            chance = random.Random(seed)
            keys = [f"{key}{seed}" for key in KEYS]
            for at, worker in enumerate(workers):
                scripts = [[call(chance, keys) for _ in range(6)] for _ in range(2 if at == 0 else 1)]
                worker.ask(f"result = play({at}, {scripts!r})")
            history = [operation for worker in workers for operation in pickle.loads(base64.b64decode(worker.answer()))]
            operations += len(history)
            unknown += sum(operation.end is None for operation in history)
            violation = find_violation(history, StoreModel())
            assert violation is None, f"{seed}: {violation}"
    finally:
        over.set()
        if faults:
            injecting.join()
        for worker in workers:
            worker.end()
    assert operations > histories * 20
    what = f"{operations} operations of {PROCESSES} processes, {unknown} of unknown outcome"
    report(f"{what}, faults {counts}: linearizable")


def test_checker_rejects_stale_reads(own_engine):
    """A check of the test above: without `sync`, the checker finds old values."""
    workers = [Worker(own_engine.url) for _ in range(2)]
    try:
        for worker in workers:
            worker.do(SETUP.format(url=own_engine.url))
        workers[1].do("member._get = lambda key: member.state.get(key)")
        found = False
        end = time.monotonic() + 30
        seed = 0
        while not found and time.monotonic() < end:
            seed += 1
            workers[0].ask(f"result = play(0, {[[('increment', f'n{seed}', 1)] * 50]!r})")
            workers[1].ask(f"result = play(1, {[[('get', f'n{seed}')] * 300]!r})")
            history = [one for worker in workers for one in pickle.loads(base64.b64decode(worker.answer()))]
            found = find_violation(history, StoreModel()) is not None
        assert found
    finally:
        for worker in workers:
            worker.end()
