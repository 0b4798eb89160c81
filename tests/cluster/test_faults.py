"""Failures of networks and engines, with the numbers of the table in docs/scale.md."""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from contextlib import suppress

import pytest
import redis
from cluster.subject import Peer
from cluster.waiting import until
from cluster.worker import Worker
from harness.engine import engine
from harness.faults import times
from harness.proxy import Proxy
from redis.backoff import NoBackoff
from redis.retry import Retry
from unit.helpers import ThreadSet

from fastserverstate.cluster import locks
from fastserverstate.cluster.errors import (
    ClusterError,
    LockLostError,
    NotConnectedError,
    NotWrittenError,
    UnknownOutcomeError,
)
from fastserverstate.cluster.replica import version_text
from fastserverstate.codec import Codec

DATA, VERSIONS, LOG, META = (f"fss:{{tests}}:{name}" for name in ("d", "v", "log", "m"))


def contents(server):
    """Return the decoded data of the engine."""
    codec = Codec("tests", "a secret of the tests")
    with server.client() as client:
        return {key.decode(): codec.decode(key.decode(), data) for key, data in client.hgetall(DATA).items()}


def assert_converged(server, *peers):
    for peer in peers:
        until(lambda peer=peer: peer.values == contents(server))
        with server.client() as client:
            versions = {key.decode(): version.decode() for key, version in client.hgetall(VERSIONS).items()}
        assert {key: version_text(peer.node.replica.version(key)) for key in peer.values} == versions


# 1


@pytest.mark.failure(1)
def test_killed_connections(own_engine, peer, report):
    peers = [peer(own_engine.url) for _ in range(2)]
    each = times(400, 5_000)
    sums = []
    kills = 0
    with own_engine.client() as client, ThreadSet() as threads:
        working = [
            threads.add(lambda one=one: [sums.append(one.node.increment("n", 1, 0)) for _ in range(each)])
            for one in peers * 2
        ]
        threads.go()
        seen = None
        while any(thread.is_alive() for thread in working):
            if len(sums) != seen:  # let some operations succeed between two cuts
                seen = len(sums)
                kills += client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(0.02)
    assert sorted(sums) == list(range(1, 4 * each + 1))
    assert kills > 10
    assert_converged(own_engine, *peers)
    report(f"{kills} connections killed during {len(sums)} increments: 0 lost, 0 doubled")


# 2


@pytest.mark.failure(2)
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_engine_crash(peer, kind, report, fsync):
    kills = times(3, 30)
    with engine(kind=kind, fsync=fsync) as server:
        peers = [peer(server.url, timeout=20.0) for _ in range(2)]
        acknowledged = [[] for _ in range(4)]  # times, by number
        over = threading.Event()

        def write(at):
            done = acknowledged[at]
            while not over.is_set():
                peers[at % 2].node.set(f"k{at}", len(done) + 1)
                done.append(time.monotonic())

        written = lost = 0
        with ThreadSet() as threads:
            for at in range(4):
                threads.add(write, at)
            threads.go()
            for _ in range(kills):
                time.sleep(random.uniform(0.1, 0.4))
                server.kill()
                before = [list(done) for done in acknowledged]
                killed = time.monotonic()
                server.start()
                found = contents(server)
                for at, done in enumerate(before):
                    kept = found.get(f"k{at}", 0)
                    lost += max(0, len(done) - kept)
                    if fsync == "always":
                        assert kept >= len(done)
                    elif kept < len(done):
                        assert killed - done[kept] < 2.5
            over.set()
        written = sum(map(len, acknowledged))
        for one in peers:
            one.node.sync()
        assert_converged(server, *peers)
        assert written > 10 * kills
    report(f"{kills} kill -9 with appendfsync {fsync}: {lost} of {written} acknowledged writes lost, converged")


# 3


@pytest.mark.failure(3)
def test_lost_replies(own_engine, proxy, peer, report):
    """The engine has executed the operation, and receives it again."""
    rounds = times(15, 300)
    one, other = peer(proxy.url), peer(own_engine.url)
    node = one.node

    def losing(act):
        proxy.lose_replies(random.randint(1, 2))
        return act()

    total = 0
    for n in range(rounds):
        assert losing(lambda: node.increment("n", 1, 0)) == n + 1
        version = node.replica.version("c")
        assert losing(lambda version=version, n=n: node.compare_and_set("c", version, n))
        assert not losing(lambda version=version: node.compare_and_set("c", version, -1))
        losing(lambda n=n: node.commit({"a": n, "b": [n]}))
        assert losing(lambda: node.set_if_absent("x", 1)) is not None
        assert losing(lambda: node.delete("x")) == 1
        assert losing(lambda: node.leases.acquire(["l"], None))
        losing(lambda: node.increment("n2", 1, 0))
        losing(lambda: node.leases.release(["l"]))
        assert other.node.leases.acquire(["l"], 5)
        other.node.leases.release(["l"])
        total += 8
    other.node.sync()
    assert other.values == {"n": rounds, "c": rounds - 1, "a": rounds - 1, "b": [rounds - 1], "n2": rounds}
    with own_engine.client() as client:
        entries = int(client.hget(META, "seq"))
    assert proxy.lost >= total
    assert entries <= 6 * rounds + 2 * rounds + 2  # one for each write, and at most one for each release
    assert_converged(own_engine, one, other)
    report(f"{proxy.lost} replies lost after the operation was executed: no operation repeated")


@pytest.mark.failure(3)
def test_delayed_copy_of_refused_request(own_engine, peer):
    """The sender has continued with a new number."""
    one = peer(own_engine.url)
    channel = one.node.engine.channel(2.0)
    request = (b"writer", 1, b"owner", b"ticket", b"0", b"I", b"n", b"i1", b"0", b"", b"0")
    acquisition = (b"writer", 2, b"owner", 10_000, b"0", b"n")
    one.node.leases.acquire(["n"], None)
    assert channel.script(b"write", *request)[0] == b"LOCKED"
    one.node.leases.release(["n"])
    assert channel.script(b"write", *request)[0] == b"LOCKED"
    one.node.leases.acquire(["n"], None)
    assert channel.script(b"acquire", *acquisition)[0] == b"LOCKED"
    one.node.leases.release(["n"])
    assert channel.script(b"acquire", *acquisition)[0] == b"LOCKED"
    assert channel.script(b"write", *request)[0] == b"OLD"
    channel.close()
    one.node.sync()
    assert one.values == {}
    assert one.node.leases.acquire(["n"], 10.0)  # the other holder, which is gone, may have a turn


# 4


@pytest.mark.failure(4)
def test_engine_restarts_with_older_data(own_engine, peer, tmp_path, report):
    rounds = times(3, 30)
    one, other = peer(own_engine.url), peer(own_engine.url)
    folder = own_engine.folder / "appendonlydir"
    for n in range(rounds):
        for key in range(20):
            one.node.set(f"k{key}", (n, "old"))
        one.node.set("gone", n)
        copy = tmp_path / f"copy{n}"
        shutil.copytree(folder, copy)
        one.node.leases.acquire(["lock"], None)
        one.node.set("k0", (n, "new"))
        one.node.set("appeared", n)
        one.node.delete("gone")
        other.node.sync()
        stale = other.node.replica.version("k0")
        assert other.values["k0"] == (n, "new")
        own_engine.kill()
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        own_engine.start()
        assert not other.node.compare_and_set("k0", stale, "from the future")
        with pytest.raises(LockLostError):
            one.node.set("k1", "under an old lock")
        one.node.leases.release(["lock"])
        for peer_ in (one, other):
            peer_.node.sync()
            assert peer_.values["k0"] == (n, "old")
            assert peer_.values["gone"] == n
            assert peer_.values.get("appeared") != n
        other.node.set("k0", "after")
        one.node.sync()
        assert one.values["k0"] == "after"
        assert one.node.replica.version("k0") > stale
        assert_converged(own_engine, one, other)
    report(f"{rounds} returns to an older AOF: tables equal the engine, old CAS and tokens refused")


@pytest.mark.failure(4)
def test_restart_frees_locks(own_engine, peer):
    """The engine has stored the lock, but may have lost that another holder took it since."""
    one, other = peer(own_engine.url), peer(own_engine.url)
    one.node.leases.acquire(["k"], None)
    own_engine.restart()
    start = time.monotonic()
    assert other.node.leases.acquire(["k"], 5)
    assert time.monotonic() - start < 3
    other.node.set("k", "by the next")
    with pytest.raises(LockLostError):
        one.node.set("k", "by the last")
    other.node.leases.release(["k"])
    one.node.leases.release(["k"])
    one.node.set("k", "without a lock")
    assert_converged(own_engine, one, other)


# 5


def has_replicated(first, second):
    """Return True if the replica has all writes of the other. (WAIT covers only writes of its own connection.)"""
    with first.client() as one, second.client() as other:
        return other.info("replication")["master_repl_offset"] >= one.info("replication")["master_repl_offset"]


@pytest.mark.failure(5)
@pytest.mark.parametrize("lagging", [False, True], ids=["healthy", "lagging"])
def test_failover(kind, lagging, report):
    rounds = times(1, 20)
    converged = 0
    for _ in range(rounds):
        with (
            engine(kind=kind) as first,
            engine("--replicaof", f"127.0.0.1 {first.port}", kind=kind) as second,
            Proxy(first.port) as proxy,
        ):
            with second.client() as client:
                until(lambda client=client: client.info("replication")["master_link_status"] == "up")
            with Peer(proxy.url) as one, Peer(proxy.url) as other:
                sums = [one.node.increment("n", 1, 0) for _ in range(100)]
                until(lambda first=first, second=second: has_replicated(first, second))
                with second.client() as client:
                    if lagging:
                        client.replicaof("NO", "ONE")
                    sums += [one.node.increment("n", 1, 0) for _ in range(20)]
                    one.node.set("late", True)
                    if not lagging:
                        until(lambda first=first, second=second: has_replicated(first, second))
                    proxy.target = second.port
                    first.kill()
                    proxy.cut()
                    if not lagging:
                        client.replicaof("NO", "ONE")
                other.node.set("after", True)
                for one_ in (one, other):
                    one_.node.sync()
                assert one.values["n"] == (100 if lagging else 120)
                assert ("late" in one.values) != lagging
                assert one.node.increment("n", 1, 0) == one.values["n"]
                assert_converged(second, one, other)
                converged += 1
    report(f"{converged} failovers to a {'lagging' if lagging else 'healthy'} replica: converged on its data")


# 6


FAULTS = {
    "trimmed log": lambda _, client: client.xtrim(LOG, maxlen=0, approximate=False),
    "deleted log": lambda _, client: client.delete(LOG),
    "flushed data": lambda _, client: client.flushall(),
    "flushed scripts": lambda _, client: client.script_flush(),
    "restart": lambda server, _: server.restart(),
}


@pytest.mark.failure(6)
@pytest.mark.parametrize("what", FAULTS)
def test_engine_loses_data(own_engine, peer, what, report):
    rounds = times(3, 40)
    one, other = peer(own_engine.url), peer(own_engine.url)
    flushed = what == "flushed data"
    for n in range(rounds):
        one.node.set("k", n)
        one.node.set("large", "x" * 10_000)
        one.node.set("unseen", n)
        with own_engine.client() as client:
            FAULTS[what](own_engine, client)
        one.node.increment("n", 1, 0)
        one.node.delete("k")
        assert one.node.leases.acquire(["lock"], 5)
        one.node.leases.release(["lock"])
        for one_ in (one, other):
            one_.node.sync()
            assert one_.values == ({"n": 1} if flushed else {"n": n + 1, "unseen": n, "large": "x" * 10_000})
        assert_converged(own_engine, one, other)
    report(f"{rounds} times: converged")


@pytest.mark.failure(6)
def test_heartbeat_detects_flushed_engine(own_engine, peer):
    one = peer(own_engine.url)
    one.node.set("k", 1)
    with own_engine.client() as client:
        client.flushall()
    assert until(lambda: one.values == {}) < 5


@pytest.mark.failure(6)
def test_heartbeat_detects_change_missing_in_log(own_engine, peer):
    """As if the log was deleted before it was read."""
    one = peer(own_engine.url)
    one.node.set("k", 1)
    one.node.sync()
    with own_engine.client() as client, client.pipeline(transaction=True) as at_once:
        epoch = client.hget(META, "epoch").decode()
        at_once.hincrby(META, "seq", 1)
        at_once.hset(DATA, "k", b"i2")
        at_once.hset(VERSIONS, "k", f"{epoch}-{one.node.replica.cursor[1] + 1}")
        at_once.execute()
    assert until(lambda: one.values == {"k": 2}) < 5


@pytest.mark.failure(6)
def test_write_waits_while_engine_loads(own_engine, peer, report):
    one = peer(own_engine.url, timeout=30.0)
    with own_engine.client() as client:
        client.mset({f"another app {n}": n for n in range(2000)})
        client.bgrewriteaof()
        until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    own_engine.kill()
    own_engine._options += ["--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"]
    seen = []
    with ThreadSet() as threads:
        threads.add(lambda: one.node.set("k0", "while it loads"))
        threads.go()
        original = own_engine.wait_until_ready

        def look():
            with own_engine.client(retry=Retry(NoBackoff(), 0)) as client:
                for _ in range(2000):
                    try:
                        client.ping()
                        break
                    except redis.exceptions.BusyLoadingError:
                        seen.append(1)
                    except redis.ConnectionError:
                        pass
                    time.sleep(0.001)
            original()

        own_engine.wait_until_ready = look
        own_engine.start()
    assert seen
    assert_converged(own_engine, one)
    assert one.values["k0"] == "while it loads"
    report("a write waited until the engine had loaded its data")


# 7


@pytest.mark.failure(7)
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_black_hole(own_engine, proxy, peer, direction, report):
    one, other = peer(proxy.url, timeout=2.0), peer(own_engine.url)
    one.node.set("k", 1)
    noticed = []
    for n in range(times(1, 5)):
        setattr(proxy, direction, False)
        start = time.monotonic()
        with pytest.raises(UnknownOutcomeError, match="not known") as caught:
            one.node.set("k", ("unknown", n))
        assert time.monotonic() - start < 3
        assert caught.value.__cause__ is not None
        until(lambda: not one.node.status().connected, 6)
        noticed.append(time.monotonic() - start)
        assert "k" in one.values  # reads continue
        other.node.set("meanwhile", n)
        setattr(proxy, direction, True)
        proxy.cut()
        one.node.set("later", n)
        one.node.sync()
        assert one.values["meanwhile"] == n
        happened = one.values["k"] == ("unknown", n)
        assert happened or direction == "to_server"
        assert_converged(own_engine, one, other)
    report(f"noticed after {max(noticed):.1f} s at most; writes raise an unknown outcome at their timeout")


@pytest.mark.failure(7)
def test_engine_is_down(own_engine, peer):
    one = peer(own_engine.url, timeout=0.5)
    one.node.set("k", 1)
    own_engine.kill()
    until(lambda: not one.node.status().connected)
    start = time.monotonic()
    with pytest.raises(NotConnectedError, match="Nothing was written"):
        one.node.set("k", 2)
    with pytest.raises(NotConnectedError):
        one.node.leases.acquire(["k"], None)
    assert time.monotonic() - start < 2
    assert one.values == {"k": 1}
    own_engine.start()
    until(lambda: one.node.status().connected)
    one.node.set("k", 3)
    assert_converged(own_engine, one)


@pytest.mark.failure(7)
def test_engine_hangs(own_engine, peer):
    one = peer(own_engine.url, timeout=0.5)
    own_engine.signal(signal.SIGSTOP)
    with pytest.raises(ClusterError):
        one.node.set("k", 2)
    until(lambda: not one.node.status().connected, 6)
    own_engine.signal(signal.SIGCONT)
    until(lambda: one.node.status().connected)
    one.node.set("k", 3)
    one.node.sync()
    assert one.values["k"] == 3


# 8


@pytest.fixture
def worker():
    workers = []

    def start(url, **options):
        workers.append(Worker(url, **options))
        return workers[-1]

    yield start
    for one in workers:
        one.end()


@pytest.mark.failure(8)
def test_stopped_holder_loses_lock(own_engine, peer, worker, monkeypatch, report):
    monkeypatch.setattr(locks, "LIFETIME", 1.0)
    one = peer(own_engine.url)
    two = worker(own_engine.url)
    two.do("from fastserverstate.cluster import locks; locks.LIFETIME = 1.0")
    rounds = times(2, 20)
    for n in range(rounds):
        two.do("node.leases.acquire(['k'], None); node.set('k', 'by the holder')")
        assert not one.node.leases.acquire(["k"], 0)
        two.signal(signal.SIGSTOP)
        start = time.monotonic()
        assert one.node.leases.acquire(["k"], 10)
        assert time.monotonic() - start < 3
        one.node.set("k", ("by the next", n))
        one.node.leases.release(["k"])
        two.signal(signal.SIGCONT)
        refused = two.do(
            "from fastserverstate.cluster.errors import LockLostError\n"
            "try:\n    node.set('k', 'too late')\nexcept LockLostError:\n    result = True\n"
            "node.leases.release(['k'])"
        )
        assert refused
        one.node.sync()
        assert one.values["k"] == ("by the next", n)
    report(f"{rounds} holders stopped past the lifetime: other holders took the lock, late writes were refused")


@pytest.mark.failure(8)
def test_stopped_reader_resynchronises(own_engine, peer, worker):
    one = peer(own_engine.url)
    two = worker(own_engine.url)
    two.do("node.sync()")
    two.signal(signal.SIGSTOP)
    for _ in range(times(300, 30_000)):
        one.node.increment("n", 1, 0)
    with own_engine.client() as client:
        client.xtrim(LOG, maxlen=10, approximate=False)  # as after more writes than the log keeps
    two.signal(signal.SIGCONT)
    assert two.do("node.sync(); result = [peer.values, node.status().resyncs]") == [one.values, 2]


@pytest.mark.failure(8)
def test_read_modify_write_of_four_processes(own_engine, worker, report):
    each = times(25, 1_000)
    workers = [worker(own_engine.url) for _ in range(4)]
    for one in workers:
        one.ask(
            f"for _ in range({each}):\n"
            "    node.leases.acquire(['n'], None)\n"
            "    node.set('n', peer.values.get('n', 0) + 1)\n"
            "    node.leases.release(['n'])\n"
        )
    for one in workers:
        one.answer()
    assert {one.do("node.sync(); result = peer.values['n']") for one in workers} == {4 * each}
    report(f"{4 * each} locked read-modify-writes: none lost")


# 9, 10


@pytest.mark.failure(9)
def test_resync_during_writes(own_engine, proxy, peer, report):
    """Every thread reads its last write, in spite of deletions, large values and cut connections."""
    peers = [peer(proxy.url), peer(own_engine.url)]
    rounds = times(120, 5_000)
    resyncs = 0
    done = [0] * 4  # writes, by thread
    over = threading.Event()
    large = 1 << 20 if rounds > 1000 else 1 << 17

    def write(at):
        chance = random.Random(at)
        one = peers[at % 2]
        for n in range(rounds):
            key = f"own{at}"
            if chance.random() < 0.3:
                one.node.delete(key)
                assert key not in one.values
            value = n if chance.random() < 0.8 else (n, "x" * chance.choice([5_000, large if n % 50 == 0 else 9_000]))
            one.node.set(key, value)
            assert one.values[key] == value
            shared = f"shared{chance.randrange(3)}"
            if chance.random() < 0.2:
                one.node.delete(shared)
            else:
                one.node.set(shared, (at, n, "y" * chance.choice([1, 5_000])))
            done[at] = n + 1

    def cut():
        seen = None
        with own_engine.client() as client:
            while not over.wait(0.03):
                if sum(done[::2]) != seen:  # let some writes succeed between two cuts
                    seen = sum(done[::2])
                    client.xtrim(LOG, maxlen=0, approximate=False)
                    proxy.cut()

    with ThreadSet() as cutting:
        cutting.add(cut)
        cutting.go()
        try:
            with ThreadSet() as threads:
                working = [threads.add(write, at) for at in range(4)]
                threads.go()
                for thread in working:
                    thread.join(170 if rounds < 1000 else 3000)
        finally:
            over.set()
    for one in peers:
        one.node.sync()
        resyncs += one.node.status().resyncs
    assert_converged(own_engine, *peers)
    assert resyncs > 4
    report(f"{resyncs} resynchronizations during {8 * rounds} writes: own writes seen immediately, converged")


@pytest.mark.failure(9)
def test_resync_keeps_own_write(own_engine, peer):
    one, other = peer(own_engine.url), peer(own_engine.url)
    resynchronise, seen = one.node.replica.resynchronise, []

    def overtaken(*arguments):
        one.node.set("k", "newer")
        done = resynchronise(*arguments)
        seen.append((done, one.values["k"]))
        return done

    one.node.replica.resynchronise = overtaken
    other.node.commit({"k": "theirs"} | {f"k{n}": n for n in range(1500)})  # too many for the log
    until(lambda: seen)
    assert seen[0] == (True, "newer")
    assert_converged(own_engine, one, other)


@pytest.mark.failure(9)
def test_large_value_changes_before_fetch(own_engine, peer):
    one, other = peer(own_engine.url), peer(own_engine.url)
    script = other.node.follower._channel.script
    changed = []
    numbered = threading.Lock()  # so that "k" ends with the number of the change before it

    def change_first(operation, *arguments):
        if operation == b"catchup" and len(changed) < 3:
            with numbered:
                changed.append(1)
                one.node.commit({"k": "z" * 6000 + str(len(changed)), "with": len(changed)})
                if len(changed) == 2:
                    one.node.delete("k")
        return script(operation, *arguments)

    other.node.follower._channel.script = change_first
    torn = []
    apply = other.table.apply

    def watch(changes, origin):
        result = apply(changes, origin)
        if "k" in other.values and "with" in other.values and not other.values["k"].endswith(str(other.values["with"])):
            torn.append(dict(other.values))
        return result

    other.table.apply = watch
    for _ in range(3):
        for letter in "ab":
            with numbered:
                one.node.set("k", letter * 5000 + str(len(changed)))
        other.node.sync()
    assert len(changed) == 3
    assert not torn
    assert_converged(own_engine, one, other)


@pytest.mark.failure(9)
def test_late_reply_after_data_was_replaced(own_engine, peer):
    """A slow thread applies its write after the engine has lost it."""
    one, other = peer(own_engine.url), peer(own_engine.url)
    epoch = one.node.replica.cursor[0]
    wrote = one.node.replica.apply_write
    slow, go = threading.Event(), threading.Event()

    def late(*arguments):
        slow.set()
        go.wait(10)
        wrote(*arguments)

    with ThreadSet() as threads:
        threads.add(one.node.set, "k", "forgotten")
        one.node.replica.apply_write = late
        threads.go()
        slow.wait(10)
        with own_engine.client() as client:
            client.flushall()
        until(lambda: all(peer.values == {} and peer.node.replica.cursor[0] > epoch for peer in (one, other)))
        go.set()
    del one.node.replica.apply_write
    assert one.values == {}
    assert_converged(own_engine, one, other)


@pytest.mark.failure(10)
def test_large_values_and_integers_survive_lost_replies(proxy, own_engine, peer):
    one, other = peer(proxy.url), peer(own_engine.url)
    value = bytes(range(256)) * 4096
    one.node.increment("n", 2**62, 0)
    for n in range(times(3, 20)):
        proxy.lose_replies(1)
        one.node.set("k", (n, value))
        proxy.lose_replies(1)
        assert one.node.increment("n", 1, 0) == 2**62 + n + 1
    one.node.set("n", 10**30)
    other.node.sync()
    assert other.values == one.values == {"n": 10**30, "k": (n, value)}


# 12


@pytest.mark.failure(12)
def test_engine_memory_is_full(own_engine, peer):
    one, other = peer(own_engine.url), peer(own_engine.url)
    one.node.set("k", 1)
    other.node.sync()
    with own_engine.client() as client:
        client.config_set("maxmemory", "100kb")
        for act in (
            lambda: one.node.set("k", "x" * 1000),
            lambda: one.node.increment("n", 1, 0),
            lambda: one.node.leases.acquire(["k"], None),
        ):
            with pytest.raises(NotWrittenError, match="nothing was written"):
                act()
        assert one.values == other.values == {"k": 1}
        assert one.node.delete("k") == 1
        client.config_set("maxmemory", 0)
    one.node.set("k", 2)
    assert_converged(own_engine, one, other)


@pytest.mark.failure(12)
def test_eviction_policy_warning(own_engine, peer, caplog):
    peer(own_engine.url)
    assert "noeviction" not in caplog.text
    with own_engine.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    peer(own_engine.url)
    assert "maxmemory-policy allkeys-lru" in caplog.text


def test_close_ends_threads(own_engine):
    before = threading.active_count()
    with suppress(ClusterError), Peer(own_engine.url) as one:
        one.node.leases.acquire(["k"], None)
        start = time.monotonic()
    assert time.monotonic() - start < 2
    until(lambda: threading.active_count() <= before)
