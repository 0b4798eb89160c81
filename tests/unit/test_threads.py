"""Many threads in one table and at one lock: nothing is lost, nothing happens twice, no thread waits forever."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter

import pytest
from unit.helpers import DEADLINE, ThreadSet, enter, run_script

from fastserverstate import _core

pytestmark = pytest.mark.usefixtures("many_switches")

THREADS = 8


# ------------------------------------------------------------------------------------------------------------ the table


def test_counter_under_its_lock_is_exact(state, locks):
    state["n"] = 0

    def count():
        for _ in range(1_000):
            with locks["n"]:
                state["n"] += 1

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(count)
    assert state["n"] == THREADS * 1_000


def test_different_keys_do_not_disturb_each_other(store, state):
    def fill(thread):
        for i in range(1_000):
            state[f"{thread}:{i}"] = (thread, i)
            if i % 2:
                del state[f"{thread}:{i}"]

    with ThreadSet() as threads:
        for thread in range(THREADS):
            threads.add(fill, thread)
    keys = list(state)
    assert len(keys) == len(set(keys)) == len(state) == store.statistics()["cells"] == THREADS * 500
    for thread in range(THREADS):
        assert [key for key in keys if key.startswith(f"{thread}:")] == [f"{thread}:{i}" for i in range(0, 1_000, 2)]
        assert all(state[f"{thread}:{i}"] == (thread, i) for i in range(0, 1_000, 2))


def test_readers_while_the_table_grows_and_shrinks(state):
    state.update({f"fixed{i}": i for i in range(50)})
    writing = threading.Semaphore(0)

    def write(thread):
        for _ in range(2):
            for i in range(1_500):
                state[f"{thread}:{i}"] = i
            for i in range(1_500):
                assert state.pop(f"{thread}:{i}") == i
        writing.release()

    def read():
        ended = 0
        while ended < 2:
            ended += writing.acquire(blocking=False)
            keys = list(state)
            assert keys[:50] == [f"fixed{i}" for i in range(50)]
            assert len(keys) == len(set(keys))
            for key in keys[::20]:
                assert state.get(key, -1) in {-1, int(key.rpartition(":")[2].removeprefix("fixed"))}
        writing.release(2)

    with ThreadSet() as threads:
        for thread in range(2):
            threads.add(write, thread)
        threads.add(read)
    assert len(state) == 50


@pytest.mark.parametrize("waiting", [False, True], ids=["free", "waiting for the lock"])
def test_setdefault_has_one_winner(state, locks, waiting):
    got = [[] for _ in range(20 if waiting else 200)]
    arrived = threading.Barrier(THREADS + 1)

    def race():
        for i, values in enumerate(got):
            arrived.wait(DEADLINE)
            mine = object()
            values.append((state.setdefault(f"k{i}", mine), mine))

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(race)
        threads.go()
        for i in range(len(got)):
            if waiting:
                with locks[f"k{i}"]:
                    arrived.wait(DEADLINE)
                    time.sleep(0.005)  # then the lock is handed from waiter to waiter, each between read and write
            else:
                arrived.wait(DEADLINE)
    for i, values in enumerate(got):
        assert len(values) == THREADS
        assert {id(value) for value, _ in values} == {id(state[f"k{i}"])}
        assert sum(value is mine for value, mine in values) == 1


@pytest.mark.parametrize("take", ["pop", "popitem"])
def test_only_one_thread_gets_a_value(state, take):
    keys = [f"k{i}" for i in range(2_000 if take == "pop" else 300)]
    state.update({key: key for key in keys})
    got = Counter()

    def pop():
        mine = [value for key in keys if (value := state.pop(key, None)) is not None]
        got.update(mine)

    def popitem():
        mine = []
        with contextlib.suppress(KeyError):
            while len(mine) <= len(keys):
                mine.append(state.popitem()[0])
        got.update(mine)

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(pop if take == "pop" else popitem)
    assert got == Counter(keys)
    assert not state


def test_no_change_is_lost_on_a_reader(store, state):
    """Every reader runs again until it has read the last value, and only when it is stale."""
    last = 2_000
    state["n"] = 0
    stale = {}
    wakes = threading.Semaphore(0)
    store.on_stale(wakes.release)
    reading = threading.Barrier(5)

    def read():
        session = _core.Session(store)
        stale[session] = threading.Semaphore(0)
        enter(session)
        seen = -1
        reading.wait(DEADLINE)
        while seen != last:
            session.start_run()
            assert state["n"] >= seen
            seen = state["n"]
            session.finish_run()
            assert seen == last or stale[session].acquire(timeout=DEADLINE), f"not told after {seen}"
        session.close()

    def collect():
        while state["n"] != last or store.statistics()["scopes"]:
            wakes.acquire(timeout=0.01)
            for scope in store.collect_stale():
                stale[scope.session].release()

    with ThreadSet() as threads:
        for _ in range(4):
            threads.add(read)
        threads.add(collect)
        threads.go()
        reading.wait(DEADLINE)
        for n in range(1, last + 1):
            state["n"] = n


def test_sessions_come_and_go_under_writes(store, state):
    state.update({f"k{i}": 0 for i in range(70)})
    living = threading.Semaphore(0)

    def live():
        for _ in range(60):
            session = _core.Session(store)
            session.start_run()
            for part in (None, "f"):
                enter(session, part)
                for i in range(70):
                    state[f"k{i}"]
                    f"absent{i}" in state  # noqa: B015
            session.finish_run({"f"})
            session.close()
            state.get("k0")
        living.release()

    def write():
        ended = n = 0
        while ended < 6:
            ended += living.acquire(blocking=False)
            n += 1
            state[f"k{n % 70}"] = n
            state[f"absent{n % 70}"] = n
            del state[f"absent{n % 70}"]
            if n % 7 == 0:
                store.collect_stale()

    with ThreadSet() as threads:
        for _ in range(6):
            threads.add(live)
        threads.add(write)
    store.collect_stale()
    statistics = store.statistics()
    assert (statistics["scopes"], statistics["cells"]) == (0, 70)


# ------------------------------------------------------------------------------------------------------------- the lock


@pytest.fixture
def lock(locks):
    return locks["k"]


class Holder:
    """Another thread that holds a lock in the ``with`` block."""

    def __init__(self, lock):
        self._lock = lock
        self._threads = ThreadSet()
        self._holding, self.let_go = threading.Event(), threading.Event()

    def _hold(self):
        with self._lock:
            self._holding.set()
            self.let_go.wait(DEADLINE)

    def __enter__(self):
        self._threads.add(self._hold)
        self._threads.go()
        assert self._holding.wait(DEADLINE)
        return self

    def __exit__(self, *exc):
        self.let_go.set()
        self._threads.__exit__(*exc)


def test_lock_excludes(lock):
    inside = []
    most = [0]

    def work():
        for i in range(300):
            if not lock.acquire(timeout=DEADLINE if i % 2 else -1):
                raise TimeoutError
            with lock:
                inside.append(i)
                most[0] = max(most[0], len(inside))
                time.sleep(0)  # releases the GIL
                inside.pop()
            lock.release()

    with ThreadSet() as threads:
        for _ in range(THREADS):
            threads.add(work)
    assert most == [1]
    assert not lock.locked()


def test_lock_is_one_while_the_table_grows(state, locks):
    state["n"] = 0
    seen = set()

    def count(thread):
        for i in range(300):
            with locks["n"] as taken:
                assert taken
                seen.add(id(locks["n"]))
                n = state["n"]
                state[f"{thread}:{i}"] = 0
                del state["n"]
                state["n"] = n + 1

    with ThreadSet() as threads:
        for thread in range(THREADS):
            threads.add(count, thread)
    assert state["n"] == THREADS * 300
    assert len(seen) == 1


def test_release_by_another_thread(lock):
    with Holder(lock), pytest.raises(RuntimeError, match="un-acquired"):
        lock.release()
    assert not lock.locked()


@pytest.mark.parametrize("timeout", [0.0, 0.001, 0.2])
def test_timeout(lock, timeout):
    with Holder(lock):
        started = time.monotonic()
        assert lock.acquire(timeout=timeout) is False
        assert timeout <= time.monotonic() - started < timeout + 1
        assert lock.acquire(blocking=False) is False
    assert lock.acquire(timeout=timeout) is True
    lock.release()


def test_waiter_that_gave_up_does_not_swallow_the_lock(lock):
    taken = []

    def give_up():
        for _ in range(200):
            if lock.acquire(timeout=0.0002):
                lock.release()

    def insist():
        for _ in range(200):
            taken.append(lock.acquire(timeout=DEADLINE))
            lock.release()

    with ThreadSet() as threads:
        for _ in range(3):
            threads.add(give_up)
            threads.add(insist)
    assert taken == [True] * 600
    assert not lock.locked()


def test_waiter_is_not_starved(lock):
    sys.setswitchinterval(5)  # the releasing thread takes the lock again before another thread has the GIL
    stop, entered, turns, passed_over = threading.Event(), threading.Event(), [0], []

    def greedy():
        while not stop.is_set():
            with lock:
                turns[0] += 1
                entered.set()
                time.sleep(0.0005)  # running

    with ThreadSet() as threads:
        threads.add(greedy)
        threads.go()
        try:
            for _ in range(30):
                entered.clear()
                assert entered.wait(DEADLINE)
                before = turns[0]
                assert lock.acquire(timeout=DEADLINE)
                passed_over.append(turns[0] - before)
                lock.release()
        finally:
            stop.set()
    assert max(passed_over) < 100  # handed over after 2 ms, or four turns


READS = {
    "item": lambda s, _: s["k"],
    "attribute": lambda s, _: s.k,
    "get": lambda s, _: s.get("k"),
    "setdefault": lambda s, _: s.setdefault("k", "mine"),
    "pop": lambda s, _: s.pop("k"),
    "peek": lambda _, store: store.peek("k"),
    "in": lambda s, _: "done" if "k" in s else "absent",
}
WRITES = {
    "item": lambda s: s.__setitem__("k", "mine"),
    "attribute": lambda s: setattr(s, "k", "mine"),
    "delete": lambda s: s.__delitem__("k"),
    "delete attribute": lambda s: delattr(s, "k"),
    "pop": lambda s: s.pop("k"),
    "update": lambda s: s.update(k="mine"),
    "equal value": lambda s: s.__setitem__("k", "half"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
@pytest.mark.parametrize("in_session", [True, False], ids=["session", "thread"])
def test_reads_wait_for_the_holder(store, state, lock, *, read, present, in_session):
    seen = []
    about_to = threading.Event()

    def other():
        if in_session:
            session = _core.Session(store)
            session.start_run()
            enter(session)
        about_to.set()
        seen.append(read(state, store))

    with ThreadSet() as threads:
        thread = threads.add(other)
        with lock:
            if present:
                state["k"] = "half"
            threads.go()
            assert about_to.wait(DEADLINE)
            thread.join(0.02)
            assert thread.is_alive()
            assert seen == []
            state["k"] = "done"
    assert seen == ["done"]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writes_wait_for_the_holder(state, lock, write):
    about_to = threading.Event()
    state["k"] = "before"

    def other():
        about_to.set()
        write(state)

    with ThreadSet() as threads:
        thread = threads.add(other)
        with lock:
            threads.go()
            assert about_to.wait(DEADLINE)
            thread.join(0.02)
            assert thread.is_alive()
            assert state["k"] == "before"
            state["k"] = "mine too"
            assert state["k"] == "mine too"
    assert state.get("k") != "mine too"


def test_other_keys_do_not_wait(state, locks):
    state.update(a=1, b=2)
    with Holder(locks["a"]):
        state["b"] += 1
        assert list(state) == ["a", "b"]
        assert len(state) == 2
        assert locks["b"].acquire(blocking=False)
        locks["b"].release()


WAITS = ["lock.acquire()", "lock.acquire(timeout=60)", "state['k']", "state['k'] = 2", "'k' in state", "del state['k']"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer signals")
@pytest.mark.parametrize("use", WAITS)
def test_signal_reaches_a_waiting_main_thread(use):
    """The first signal's handler returns, and the wait continues. The second one's raises, and the lock is intact."""
    output = run_script(
        f"""
        lock = store.lock("k")
        state["k"] = 1
        holding, let_go = threading.Event(), threading.Event()

        def hold():
            with lock:
                holding.set()
                let_go.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        holding.wait()

        def handle(*_):
            signals.append(1)
            if len(signals) == 2:
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise KeyboardInterrupt

        signals = []
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
        try:
            {use}
        except KeyboardInterrupt:
            print("interrupted", lock._is_owned(), lock.locked())
            let_go.set()
            print(lock.acquire(timeout=20), state["k"])
            lock.release()
        let_go.set()
        holder.join()
        """
    )
    assert output == "interrupted False True\nTrue 1\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer signals")
def test_waiter_that_is_interrupted_passes_the_lock_on():
    """It is handed the lock while its signal handler runs, and the handler raises."""
    output = run_script(
        """
        lock = store.lock("k")
        holding, let_go = threading.Event(), threading.Event()

        def hold():
            with lock:
                holding.set()
                let_go.wait()

        def handle(*_):
            signal.setitimer(signal.ITIMER_REAL, 0)
            if not heirs:
                heirs.append(threading.Thread(target=lambda: print(lock.acquire(timeout=20))))
                heirs[0].start()
                signal.raise_signal(signal.SIGINT)
            elif holder.is_alive():
                let_go.set()
                holder.join()
                raise KeyboardInterrupt

        heirs = []
        holder = threading.Thread(target=hold)
        holder.start()
        holding.wait()
        signal.signal(signal.SIGALRM, handle)
        signal.signal(signal.SIGINT, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        try:
            lock.acquire()
        except KeyboardInterrupt:
            assert not lock._is_owned()
            heirs[0].join()
        """
    )
    assert output == "True\n"
