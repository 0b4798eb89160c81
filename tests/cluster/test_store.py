"""The API of apps with several servers."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from contextlib import suppress

import pytest
from cluster.member import Member
from cluster.waiting import until
from unit.helpers import ThreadSet, enter, leave, locate_in_streamlit, locate_in_tests, run_script

from fastserverstate import no_rerun
from fastserverstate._core import Session
from fastserverstate.cluster.backend import Backend
from fastserverstate.cluster.errors import ClusterError, UnsharableValueError
from fastserverstate.edits import Edit
from fastserverstate.errors import DeadlockError
from fastserverstate.expiry import Expirer, Expiry
from fastserverstate.limits import Limits


@pytest.fixture
def member():
    members = []

    def connect(url, **options):
        members.append(Member(url, **options))
        return members[-1]

    yield connect
    for one in members:
        one.close()


@pytest.fixture
def pair(empty_engine, member):
    return member(empty_engine.url), member(empty_engine.url)


def test_mapping(pair):
    one, other = pair
    one.state["item"] = 1
    one.state.attribute = [1]
    one.state.update(a=1, b=2)
    assert dict(one.state) == {"item": 1, "attribute": [1], "a": 1, "b": 2}
    other.sync()
    assert dict(other.state) == dict(one.state)
    del other.state["item"]
    del other.state.attribute
    assert other.state.pop("a") == 1
    assert other.state.pop("a", "default") == "default"
    with pytest.raises(KeyError):
        del other.state["a"]
    assert other.state.setdefault("b", 5) == 2
    assert other.state.setdefault("c", 5) == 5
    one.sync()
    assert dict(one.state) == {"b": 2, "c": 5}
    one.state.clear()
    assert len(one.state) == 0


def test_values_by_reference_within_server(pair):
    one, _ = pair
    value = [1]
    one.state["k"] = value
    one.sync()
    assert one.state["k"] is value
    assert one.state.setdefault("k", 5) is value
    assert one.state.pop("k") is value


def test_atomic_operations(pair):
    one, other = pair
    with ThreadSet() as threads:
        for peer in pair * 2:
            threads.add(lambda peer=peer: [peer.atomic.increment("n") for _ in range(50)])
            threads.add(lambda peer=peer: [peer.atomic("m", lambda m: m + 1, default=0) for _ in range(15)])
            threads.add(lambda peer=peer: [peer.atomic.append("log", 1) for _ in range(15)])
    assert one.atomic.increment("n", 0.5) == 200.5
    assert other.atomic.increment("n", 2**80) == 200.5 + 2**80
    assert other.atomic.increment("big", 2**80, default=1) == 2**80 + 1
    other.sync()
    assert other.state["m"] == 60
    assert other.state["log"] == [1] * 60
    assert other.compare_and_set("m", 60, 1)
    assert not one.compare_and_set("m", 60, 2)


def test_edits_on_several_servers(pair):
    one, _ = pair
    one.state["jobs"] = {"row": {"n": 0, "by": []}}
    gate = threading.Barrier(4)

    def work(peer, name):
        edit = Edit(peer.store).edit
        gate.wait(20)
        for _ in range(15):
            with edit("jobs", "log", default=[]) as (jobs, log):
                jobs["row"]["n"] += 1
                jobs["row"]["by"].append(name)
                log.append(jobs["row"]["n"])

    with ThreadSet() as threads:
        for name, peer in enumerate(pair * 2):
            threads.add(work, peer, name)
    for peer in pair:
        peer.sync()
        assert peer.state["jobs"]["row"]["n"] == 60
        assert sorted(peer.state["jobs"]["row"]["by"]) == sorted([*range(4)] * 15)
        assert peer.state["log"] == list(range(1, 61))
        assert [type(one) for one in (peer.state["jobs"], peer.state["jobs"]["row"], peer.state["log"])] == [
            dict,
            dict,
            list,
        ]


def test_unchanged_and_discarded_edits_are_not_sent(pair):
    one, other = pair
    one.state["k"] = {"list": [1]}
    other.sync()
    version, value = other.store.version("k"), other.state["k"]
    edit = Edit(other.store).edit
    with edit("k") as draft:
        draft["list"].append(draft["list"].pop())
    with suppress(ZeroDivisionError), edit("k") as draft:
        draft["list"].append(1 / 0)
    other.sync()
    assert (other.store.version("k"), other.state["k"]) == (version, value)
    with edit("k") as draft:
        draft["list"].append(2)
    assert value == {"list": [1]}
    one.sync()
    assert one.state["k"] == {"list": [1, 2]}


def test_limiter_counts_for_all_servers(pair):
    allowed = []

    def work(peer):
        api = Limits(peer.store, Expiry(peer.store, Expirer(peer.store)).expire).limiter("api", 10, per=60)
        allowed.extend(api.allow() for _ in range(10))

    with ThreadSet() as threads:
        for peer in pair * 2:
            threads.add(work, peer)
    assert allowed.count(True) == 10
    assert len(allowed) == 40


def test_changes_of_containers_on_several_servers(pair):
    one, _ = pair
    one.state["queue"] = list(range(60))
    popped, added, allowed = [], [], []

    def work(peer):
        while (item := peer.atomic.pop_first("queue", default=None)) is not None:
            popped.append(item)
            added.append(peer.atomic.add("tags", item % 7))
            peer.atomic.maximum("record", item)
            allowed.append(
                peer.atomic("hits", lambda n: min(n + 1, 20), default=0, returning=lambda old, new: new > old)
            )
        peer.atomic.update("done", {peer.store.version("queue"): True})

    with ThreadSet() as threads:
        for peer in pair * 2:
            threads.add(work, peer)
    assert sorted(popped) == list(range(60))
    assert (sum(added), sum(allowed)) == (7, 20)
    for peer in pair:
        peer.sync()
        assert (peer.state["tags"], peer.state["record"], peer.state["hits"]) == (set(range(7)), 59, 20)


def test_transactions_are_atomic(pair):
    one, other = pair
    one.state.update(a=100, b=0)
    over = threading.Event()
    sums = []

    def look():
        while not over.is_set():
            with other.transaction("a", "b"):
                sums.append(other.state["a"] + other.state["b"])

    with ThreadSet() as threads:
        threads.add(look)
        threads.go()
        for n in range(30):
            with suppress(ZeroDivisionError), one.transaction("a", "b"):
                one.state["a"] -= 1
                one.state["b"] += 1
                assert one.state["a"] + one.state["b"] == 100
                n // (n % 3)  # discards every third
        until(lambda: len(sums) > 5)
        over.set()
    assert set(sums) == {100}
    other.sync()
    assert other.state["b"] == 20


def test_transaction_releases_all_locks(own_engine):
    """Each key is locked twice: when it is declared, and when it is written."""
    member = Member(own_engine.url)
    try:
        with member.transaction("a", "b"):
            member.state.update(a=1, b=2, c=3)
        with own_engine.client() as client:
            assert client.keys("*lk:*") == []
    finally:
        member.close()


def test_unsharable_transaction_is_discarded(empty_engine, member):
    one = member(empty_engine.url, secret=None)
    one.state["a"] = 1
    with pytest.raises(UnsharableValueError, match="'b'"), one.transaction("a", "b"):
        one.state.update(a=2, b=object())
    assert dict(one.state) == {"a": 1}
    with pytest.raises(UnsharableValueError, match="'a'"):
        one.state["a"] = object()
    assert not one.locks["a"].locked()
    one.state["a"] = 3
    assert one.state["a"] == 3


def test_locks(pair):
    one, other = pair
    with one.locks["k"]:
        with one.locks["k"]:  # again
            pass
        assert not other.locks["k"].acquire(blocking=False)
        assert not other.locks["l", "k"].acquire(timeout=0.05)
        assert other.locks["l"].acquire(blocking=False)
        other.locks["l"].release()
    assert other.locks["k"].acquire(timeout=5)
    other.locks["k"].release()
    with pytest.raises(RuntimeError, match="un-acquired"):
        other.locks["k"].release()


def test_interrupted_acquire_releases_lock(pair, monkeypatch):
    """As by Ctrl-C in the last step, which applies changes of other servers."""
    one, other = pair

    def interrupted(*_):
        raise KeyboardInterrupt

    for lock in (one.locks["k"], one.locks["j", "k"]):
        with monkeypatch.context() as patch:
            patch.setattr(Backend, "entered", interrupted)
            with pytest.raises(KeyboardInterrupt):
                lock.acquire()
            assert not lock.locked()
        for peer in pair:
            assert peer.locks["k"].acquire(timeout=5)
            peer.locks["k"].release()
    other.state["k"] = 1
    assert other.state["k"] == 1


def test_locked_read_modify_write_of_servers_and_threads(pair):
    def work(peer):
        for _ in range(15):
            with peer.locks["a", "b"]:
                peer.state["a"] = peer.state.get("a", 0) + 1
                peer.state["b"] = peer.state.get("b", 0) - 1

    with ThreadSet() as threads:
        for peer in pair * 3:
            threads.add(work, peer)
    for peer in pair:
        peer.sync()
        assert dict(peer.state) == {"a": 90, "b": -90}


def test_reads_do_not_wait_for_another_server(pair):
    one, other = pair
    other.state["k"] = 1
    one.sync()
    with other.locks["k"]:
        other.state["k"] = 2
        waiting = threading.Thread(target=lambda: one.locks["k"].acquire() and one.locks["k"].release())
        waiting.start()
        until(lambda: one.adapter.node.replica._unlocks)
        start = time.monotonic()
        one.state["k"]
        assert time.monotonic() - start < 1
    waiting.join(10)
    assert one.state["k"] == 2


def test_deadlock_between_servers(pair):
    one, other = pair
    errors = []
    gate = threading.Barrier(2)

    def take(peer, first, second):
        try:
            with peer.locks[first]:
                gate.wait(10)
                with peer.locks[second]:
                    pass
        except DeadlockError as error:
            errors.append(error)

    with ThreadSet() as threads:
        threads.add(take, one, "a", "b")
        threads.add(take, other, "b", "a")
    assert len(errors) == 1
    for peer in pair:
        with peer.locks["a", "b"]:
            pass


def test_wait_for_and_on_change(pair):
    one, other = pair
    heard = []
    other.on_change("k", lambda: heard.append((other.store.peek("k"), threading.current_thread().name)))
    with ThreadSet() as threads:
        threads.add(lambda: other.wait_for("k", lambda value: value == 3, timeout=10))
        threads.go()
        for value in (1, 2, 3):
            one.state["k"] = value
    until(lambda: heard and heard[-1][0] == 3)
    assert {name for _, name in heard} == {"fastserverstate.on_change"}
    other.state["k"] = 4
    assert heard[-1] == (4, threading.current_thread().name)


def test_slow_listener_does_not_delay_reads(pair):
    one, other = pair
    go = threading.Event()
    other.on_change("k", lambda: go.wait(10) and other.state.update(answer=other.store.peek("k")))
    one.state["k"] = 1
    one.state["l"] = 1
    assert other.wait_for("l", timeout=5) == 1
    go.set()
    assert one.wait_for("answer", timeout=5) == 1


class Screen(Session):
    """A session whose script has read a key."""

    def __init__(self, member, key):
        super().__init__(member.store)
        self._store = member.store
        self.start_run()
        enter(self)
        member.state.get(key)
        leave()
        self.finish_run()

    def is_stale(self):
        self._store.collect_stale()
        return bool(self.stale_fragment_ids())


@pytest.fixture
def screens():
    locate_in_tests()
    yield Screen
    leave()
    locate_in_streamlit()


def test_dependents_on_all_servers_become_stale(pair, screens):
    one, other = pair
    one.state["k"] = 1
    other.sync()
    here, there = screens(one, "k"), screens(other, "k")
    with no_rerun:
        one.state["k"] = 2
    other.sync()
    assert other.state["k"] == 2
    assert not here.is_stale()
    assert not there.is_stale()
    one.state["k"] = 3
    other.sync()
    assert here.is_stale()
    assert there.is_stale()
    again = screens(other, "k")
    other.state["k"] = 3  # the same
    one.state["k"] = 3
    other.sync()
    assert not again.is_stale()
    one.store.touch("k")
    other.sync()
    assert again.is_stale()


def test_writer_is_not_stale_for_its_own_write(pair, screens):
    """In whichever order the reply and the log arrive."""
    one, other = pair
    one.state["k"] = 0
    for n in range(1, 60):
        session = Session(one.store)
        session.start_run()
        enter(session)
        one.state["k"] = one.state["k"] + n
        one.atomic.increment("n")
        leave()
        one.sync()
        session.finish_run()
        one.store.collect_stale()
        assert not session.stale_fragment_ids()
        assert not session.take_overwritten()
    assert screens(other, "k") is not None


def test_old_values_are_released_without_lock(pair):
    """A finalizer writes on the thread that has applied the new value."""
    one, other = pair

    class Value:
        def __del__(self):
            other.state["died"] = True

    value = Value()
    gone = weakref.ref(value)
    other.store.apply([("k", value, False)])
    del value
    other.adapter.node.replica._versions["k"] = (1, 1)
    one.state["k"] = 2
    other.sync()
    until(lambda: gc.collect() is None or gone() is None)
    assert one.wait_for("died", timeout=5) is True


def test_late_join(own_engine, member):
    own_engine.kill()
    one = member(own_engine.url, required=False)
    assert not one.adapter.has_joined()
    one.state["alone"] = 1
    with one.locks["k"]:
        one.state["k"] = 1
    own_engine.start()
    until(lambda: one.adapter.node.status().connected)
    other = member(own_engine.url)
    assert dict(other.state) == {"alone": 1, "k": 1}
    other.state["k"] = 2
    one.sync()
    assert one.state["k"] == 2


def test_outage(own_engine, member):
    one = member(own_engine.url, timeout=0.5)
    one.state["k"] = 1
    own_engine.kill()
    assert one.state["k"] == 1
    for act in (
        lambda: one.state.update(k=2),
        lambda: one.atomic.increment("k"),
        one.locks["k"].acquire,
        lambda: one.state.pop("k"),
    ):
        with pytest.raises(ClusterError):
            act()
    with pytest.raises(ClusterError), one.transaction("k"):
        pass
    assert one.state["k"] == 1
    own_engine.start()
    until(lambda: one.adapter.node.status().connected)
    one.state["k"] = 2
    assert one.state["k"] == 2
    assert not one.locks["k"].locked()


FORK = """
    import fastserverstate
    from fastserverstate import cluster, server_state, server_state_lock

    fastserverstate.connect({url!r}, namespace="tests")
    server_state["k"] = 1
    child = os.fork()
    if not child:
        assert cluster.status() is None
        assert dict(server_state) == {{}}
        with server_state_lock["k"]:
            server_state["k"] = "of the child"
        fastserverstate.connect({url!r}, namespace="tests")
        assert server_state["k"] == 1
        server_state["joined"] = True
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    server_state["k"] = 2
    cluster.sync()
    print(dict(server_state))
    cluster.disconnect()
"""


def test_forked_process_can_join(empty_engine):
    assert run_script(FORK.format(url=empty_engine.url), package=True) == "{'k': 2, 'joined': True}\n"


def test_next_holder_sees_changes_after_lost_lock(own_engine, member):
    """The thread that lost the lock still held it in its process, so changes of other servers were held back."""
    one, other = member(own_engine.url), member(own_engine.url)
    one.state["k"] = 0
    held, go, results = threading.Event(), threading.Event(), []

    def hold():
        with one.locks["k"]:
            held.set()
            go.wait(20)

    with ThreadSet() as threads, own_engine.client() as client:
        threads.add(hold)
        threads.go()
        held.wait(20)
        own_engine.restart()
        other.state["k"] = 1
        until(lambda: one.adapter.node.replica._held)
        threads.add(lambda: results.append(one.atomic("k", lambda value: value * 2, default=0)))
        until(lambda: client.get("fss:{tests}:lk:k").split(b"-")[0] == client.hget("fss:{tests}:m", "epoch"))
        go.set()
    assert results == [2]
    other.sync()
    assert other.state["k"] == 2


def test_disconnected_store_continues(pair):
    one, other = pair
    one.state["k"] = 1
    one.close()
    one.state["k"] = 2
    other.state["k"] = 3
    assert one.state["k"] == 2
    with one.locks["k"], one.transaction("k"):
        one.state["k"] = 4
    assert one.state["k"] == 4


def test_import_loads_no_optional_dependency():
    loaded = "import fastserverstate; print({'redis', 'msgpack', 'fastserverstate.cluster'} & set(sys.modules))"
    assert run_script(f"import sys; {loaded}", package=True) == "set()\n"
