"""Servers that share a namespace, without failures."""

from __future__ import annotations

import threading
import time

import pytest
from cluster.waiting import until
from unit.helpers import ThreadSet

from fastserverstate._core import holder_serial
from fastserverstate.cluster import locks
from fastserverstate.cluster.errors import LockLostError, NotWrittenError, UnsharableValueError
from fastserverstate.cluster.node import Write
from fastserverstate.cluster.replica import GONE, NEVER
from fastserverstate.codec import Codec, encode_key
from fastserverstate.errors import DeadlockError


@pytest.fixture
def pair(empty_engine, peer):
    return peer(empty_engine.url), peer(empty_engine.url)


def test_writes_propagate_in_order(pair):
    one, other = pair
    for n in range(300):
        one.node.set("n", n)
        assert one.values["n"] == n  # own writes are visible immediately
    other.node.sync()
    assert other.values == {"n": 299}
    one.node.delete("n")
    other.node.sync()
    assert other.values == {}


def test_writer_keeps_same_object(pair):
    one, other = pair
    value = {"a": [1, 2]}
    large = ["x" * 10_000]
    one.node.set("bytes", b"i1")
    one.node.set("value", value)
    one.node.set("large", large)
    other.node.sync()
    one.node.sync()
    assert one.values["value"] is value
    assert one.values["large"] is large
    assert one.values["bytes"] == b"i1"
    assert other.values == one.values


def test_equal_value_is_no_change(pair):
    one, other = pair
    one.node.set("k", "v")
    other.node.sync()
    applied = len(other.table.applied)
    one.node.set("k", "v")
    other.node.set("k", "v")
    one.node.sync()
    assert len(other.table.applied) == applied
    assert one.node.replica.version("k") == other.node.replica.version("k")


def test_equal_value_is_applied_before_log_arrives(pair):
    """Before the log arrives."""
    one, other = pair
    other.node.set("k", 1)
    other.node.sync()
    one.node.set("k", 2)
    other.node.set("k", 2)
    assert other.values["k"] == 2


def test_reassignment_after_change_in_place(pair):
    one, other = pair
    value = [1]
    one.node.set("k", value)
    value.append(2)
    one.node.set("k", value)
    other.node.sync()
    assert other.values["k"] == [1, 2]
    value.append(3)
    one.node.touch("k")
    other.node.sync()
    assert other.values["k"] == [1, 2, 3]
    assert one.values["k"] is value


def test_touch_keeps_newer_value(pair):
    one, other = pair
    one.node.set("k", 1)
    other.node.sync()
    with ThreadSet() as threads:
        for peer, by in ((one, 1), (other, 1)):
            threads.add(lambda peer=peer, by=by: [peer.node.increment("k", by, 0) for _ in range(100)])
            threads.add(lambda peer=peer: [peer.node.touch("k") for _ in range(50)])
    one.node.sync()
    assert one.values["k"] == 201


def test_touch_of_missing_key_notifies_all(pair):
    one, other = pair
    one.node.touch("missing")
    one.node.sync()
    other.node.sync()
    assert [sum("missing" in keys for keys in each.table.applied) for each in pair] == [1, 1], one.table.applied
    one.node.commit({"missing": GONE, "k": 1}, touched={"missing"})
    other.node.sync()
    assert sorted(other.table.applied[-1]) == ["k", "missing"]
    assert "missing" not in one.values
    assert "missing" not in other.values


def test_touch_of_key_set_elsewhere_keeps_value(pair):
    """The value has not arrived yet when the touch is sent."""
    one, other = pair
    one.node.set("k", 1)
    other.node._send([Write(b"A", "k", GONE)])
    one.node.sync()
    assert one.values["k"] == other.values["k"] == 1


def test_set_if_absent_and_delete_return_old_value(pair):
    one, other = pair
    assert one.node.set_if_absent("k", 1) is GONE
    assert other.node.set_if_absent("k", 2) == 1
    assert other.values["k"] == 1
    one.node.set("k", "newer")
    assert other.node.delete("k") == "newer"
    assert one.node.delete("k") is GONE
    one.node.sync()
    assert one.values == other.values == {}


def test_compare_and_set_by_version(pair):
    one, other = pair
    assert one.node.compare_and_set("k", NEVER, 1)
    assert not other.node.compare_and_set("k", NEVER, 2)
    version = other.node.replica.version("k")
    assert other.values["k"] == 1
    assert other.node.compare_and_set("k", version, 2)
    assert not one.node.compare_and_set("k", version, 3)
    assert one.values["k"] == 2


@pytest.mark.failure(10)
@pytest.mark.parametrize(
    ("start", "by"), [(0, 1), (2**53, 1), (-(2**53), -3), (2**62, 2**61), (10**14, 10**14), (-5, 5), (7, -(2**62))]
)
def test_sums_are_exact(pair, start, by):
    one, other = pair
    assert one.node.increment("n", start, 0) == start
    assert other.node.increment("n", by, 0) == start + by
    other.node.sync()
    assert other.values["n"] == start + by


@pytest.mark.failure(10)
def test_sums_beyond_64_bits_are_refused(pair):
    one, _ = pair
    one.node.set("n", 2**63 - 1)
    assert one.node.increment("n", 1, 0) is None
    assert one.node.increment("n", 2**70, 0) is None
    one.node.set("n", 2**80)
    assert one.node.increment("n", 1, 0) is None
    one.node.set("n", "text")
    assert one.node.increment("n", 1, 0) is None
    assert one.values["n"] == "text"


def test_concurrent_increments(pair):
    sums = []
    with ThreadSet() as threads:
        for peer in pair * 3:
            threads.add(lambda peer=peer: sums.extend(peer.node.increment("n", 1, 0) for _ in range(200)))
    assert sorted(sums) == list(range(1, 1201))
    for peer in pair:
        peer.node.sync()
        assert peer.values == {"n": 1200}


@pytest.mark.failure(10)
def test_large_values_are_fetched(pair):
    one, other = pair
    for size in (4000, 5000, 1 << 20):
        one.node.set("k", bytes(size))
        other.node.sync()
        assert other.values["k"] == bytes(size)
    one.node.set("k", 1)
    other.node.sync()
    assert other.values["k"] == 1


def test_commit_is_atomic(pair):
    """Even with large values, whose content is not in the log."""
    one, other = pair
    torn = []
    looks = []
    over = threading.Event()

    def watch():
        while not over.is_set():
            values = other.values
            if values and len({value[0] for value in values.values()}) > 1:
                torn.append(values)
            looks.append(1)

    with ThreadSet() as threads:
        threads.add(watch)
        threads.go()
        until(lambda: looks)
        for n in range(150):
            large = n % 3
            one.node.commit({"a": (n, "x" * (6000 if large == 1 else 1)), "b": (n, "y" * (6000 if large == 2 else 1))})
        other.node.sync()
        over.set()
    assert not torn
    assert len(looks) > 100
    assert other.values["a"][0] == 149


def test_commit_exceeding_log_entry(pair):
    one, other = pair
    resyncs = other.node.status().resyncs
    one.node.commit({f"k{n}": n for n in range(5000)})
    other.node.sync()
    assert len(other.values) == 5000
    until(lambda: other.node.status().resyncs == resyncs + 1)
    one.node.commit({f"k{n}": GONE for n in range(5000)})
    other.node.sync()
    assert other.values == {}


def test_batch_notifies_each_key_once(own_engine, peer):
    one, other = peer(own_engine.url), peer(own_engine.url)
    other.node.sync()
    block = threading.Event()
    apply = other.table.apply

    def slow(*arguments):
        block.wait(10)
        return apply(*arguments)

    other.table.apply = slow
    for n in range(500):
        one.node.set(f"k{n % 2}", n)
    other.table.applied.clear()
    block.set()
    other.node.sync()
    assert other.values == {"k0": 498, "k1": 499}
    assert sum(map(len, other.table.applied)) < 20


def test_quiet_writes_propagate(pair):
    one, other = pair
    quiet = []
    apply = other.table.apply
    other.table.apply = lambda changes, origin: (
        quiet.extend((key, is_quiet) for key, _, is_quiet in changes) or apply(changes, origin)
    )
    one.table.quiet = True
    one.node.set("k", 1)
    one.table.quiet = False
    other.node.sync()
    one.node.set("k", 2)
    other.node.sync()
    one.node.commit({"k": 3, "l": 3}, (), {"l"})
    other.node.sync()
    assert quiet == [("k", True), ("k", False), ("k", False), ("l", True)]


def test_origin_of_own_writes(pair):
    """In whichever order the reply and the log arrive."""
    one, other = pair
    for n in range(200):
        one.node.set("k", n)
        one.node.increment("n", 1, 0)
    one.node.sync()
    other.node.sync()
    assert set(one.table.origins[1:]) == {threading.get_ident()}
    assert set(other.table.origins) == {None}


def test_change_of_locked_key_is_applied_later(pair):
    """As after a lost lock: its holder sees no change, and no change is lost."""
    one, other = pair
    other.table.held_by_others.add("k")
    one.node.set("k", 1)
    one.node.set("l", 1)
    other.node.sync()
    assert other.values == {"l": 1}
    one.node.set("k", 2)
    other.node.sync()
    other.table.held_by_others.clear()
    other.node.replica.apply_held(["k"])
    assert other.values == {"k": 2, "l": 1}


def test_initial_keys_are_shared(empty_engine, peer):
    one = peer(empty_engine.url, initial={"a": 1, "b": 1})
    other = peer(empty_engine.url, initial={"b": 2, "c": 2})
    one.node.sync()
    assert one.values == other.values == {"a": 1, "b": 1, "c": 2}


def test_keys_expire(pair, empty_engine):
    one, other = pair
    for key in ("k", "stays"):
        one.node.set(key, 1)
        assert one.node.expire(key, 3600)
    one.node.set("stays", 2)
    other.node.sync()
    assert other.values == {"k": 1, "stays": 2}
    with empty_engine.client() as client:
        left = client.zscore("fss:{tests}:ttl", "k") / 1000 - time.time()
        assert 3000 < left < 3601
        assert client.zcard("fss:{tests}:ttl") == 1
        client.zadd("fss:{tests}:ttl", {"k": 0})  # an hour later
    until(lambda: other.values == one.values == {"stays": 2})


def test_namespaces_are_isolated(empty_engine, peer):
    names = ["app", "app2", "a.b", "a-b"]
    peers = [peer(empty_engine.url, namespace=name) for name in names]
    crafted = ["}:m", "fss:{app}:d", "{app}", ":", "", "\n", "lk:k", "*", "a|b", "\0", "é\ud800"]
    for one in peers:
        for key in crafted:
            one.node.set(key, one.node.namespace)
        assert one.node.leases.acquire(crafted, 0)
    for one in peers:
        one.node.sync()
        assert one.values == dict.fromkeys(crafted, one.node.namespace)
    with empty_engine.client() as client:
        assert {key.split(b"}")[0] for key in client.scan_iter()} == {b"fss:{%b" % name.encode() for name in names}


@pytest.mark.parametrize("name", ["", "a}b", "a:b", "a b", "{", "é", "x" * 101, "a\n"])
def test_invalid_namespace(own_engine, name):
    from cluster.subject import Peer  # noqa: PLC0415

    with pytest.raises(ValueError, match="namespace"):
        Peer(own_engine.url, namespace=name)


# Locks


def test_lock_excludes_and_holder_sees_newest_value(pair):
    one, other = pair
    assert one.node.leases.acquire(["k"], None)
    assert not other.node.leases.acquire(["k"], 0)
    assert not other.node.leases.acquire(["k"], 0.05)
    one.node.set("k", "by the holder")
    one.node.leases.release(["k"])
    assert other.node.leases.acquire(["k"], None)
    assert other.values["k"] == "by the holder"


def test_holder_sees_earlier_writes(pair):
    """Even if the log is slow."""
    one, other = pair
    apply, go, seen = other.table.apply, threading.Event(), []
    other.table.apply = lambda *arguments: go.wait(10) and apply(*arguments)
    one.node.set("k", 1)

    def look():
        other.node.leases.acquire(["k"], None)
        seen.append(other.values.get("k"))

    with ThreadSet() as threads:
        threads.add(look)
        threads.go()
        until(lambda: not one.node.leases.acquire(["k"], 0) or one.node.leases.release(["k"]))
        assert not seen
        go.set()
    assert seen == [1]


def test_holder_sees_earlier_deletions(pair):
    """The log has not even delivered the write before the deletion."""
    one, other = pair
    apply, go, seen = other.table.apply, threading.Event(), []
    other.table.apply = lambda *arguments: go.wait(10) and apply(*arguments)
    one.node.set("k", 1)
    one.node.delete("k")
    one.node.sync()

    def look():
        other.node.leases.acquire(["k"], None)
        seen.append(other.node.replica.cursor)

    with ThreadSet() as threads:
        threads.add(look)
        threads.go()
        until(lambda: not one.node.leases.acquire(["k"], 0) or one.node.leases.release(["k"]))
        assert not seen
        go.set()
    assert seen[0] >= one.node.replica.cursor


def test_release_wakes_waiter(pair, monkeypatch):
    monkeypatch.setattr(locks, "RETRY", locks.LIFETIME)
    one, other = pair
    took = []
    for _ in range(20):
        one.node.leases.acquire(["k"], None)
        with ThreadSet() as threads:
            threads.add(lambda: other.node.leases.acquire(["k"], None) and other.node.leases.release(["k"]))
            threads.go()
            until(lambda: other.node.replica._unlocks)
            start = time.monotonic()
            one.node.leases.release(["k"])
        took.append(time.monotonic() - start)
    assert max(took) < locks.RETRY / 2


class Contender:
    """A holder that makes one attempt at a time."""

    def __init__(self, peer, name):
        self.engine, self.name, self.tokens = peer.node.engine, name, {}

    def acquire(self, *keys):
        """Try to take the locks. Returns None, or the most ms until another holder releases one."""
        names = [encode_key(key) for key in keys]
        reply = self.engine.call(b"acquire", self.name, 10_000, b"1", *names, numbered=True)
        if reply[0] == b"LOCKED":
            return int(reply[2])
        self.tokens |= dict.fromkeys(keys, reply[1])
        return None

    def release(self, key):
        self.engine.call(b"release", self.name, encode_key(key), self.tokens.pop(key))

    def write(self, key, value):
        """Return True unless the lock of another holder prevents the write."""
        change = b"S", encode_key(key), value, b"", b"", b"0"
        return self.engine.call(b"write", self.name, b"ticket", b"0", *change, numbered=True)[0] != b"LOCKED"

    def leave(self, *keys):
        self.engine.call(b"leave", self.name, *map(encode_key, keys))

    def pass_over(self, key):
        """Take the lock repeatedly, until another holder has a turn. Returns the ms until the turn expires."""
        while True:
            self.release(key)
            left = self.acquire(key)
            if left is not None:
                return left


@pytest.fixture
def contenders(pair, empty_engine):
    """The holder of the lock of "k", and two waiters that waited long enough for a turn, the first a little longer."""
    holder, first, second = Contender(pair[0], "holder"), Contender(pair[1], "first"), Contender(pair[1], "second")
    with empty_engine.client() as client:

        def now():
            whole, millionths = client.time()
            return whole + millionths / 1e6

        def pass_time(seconds):
            end = now() + seconds
            until(lambda: now() > end)

        assert holder.acquire("k") is None
        assert first.acquire("k") is not None
        pass_time(0.002)
        assert second.acquire("k") is not None
        pass_time(0.102)
    return holder, first, second


def test_longest_waiter_goes_next(contenders):
    holder, first, second = contenders
    left = holder.pass_over("k")
    assert left > locks.RETRY * 1000
    assert second.acquire("k") <= left
    assert not second.write("k", b"i1")
    assert first.acquire("k") is None
    first.pass_over("k")  # a turn for the second
    assert second.acquire("k") is None


def test_turn_of_write_ends(contenders):
    holder, first, second = contenders
    holder.pass_over("k")
    assert first.write("k", b"i1")
    assert second.write("k", b"i2")
    assert holder.acquire("k") is None


def test_turn_of_former_waiter_ends(contenders):
    holder, first, second = contenders
    second.leave("k")
    holder.pass_over("k")
    assert second.acquire("k") is not None
    first.leave("another", "k")
    assert holder.acquire("k") is None


def test_unused_turn_expires(contenders, pair):
    holder, _, second = contenders
    holder.pass_over("k")
    until(lambda: holder.acquire("k") is None)
    assert second.acquire("k") is not None
    with pytest.raises(LockLostError):  # a turn is no lock
        pair[0].node.leases._not_lost(
            pair[0].node.engine.call(b"write", "first", b"ticket", b"1", encode_key("k"), b"1-0", numbered=True)
        )


@pytest.mark.parametrize(
    "act",
    [
        lambda node: node.leases.acquire(["k"], None),
        lambda node: node.leases.acquire(["k", "l"], None),
        lambda node: node.set("k", 1),
        lambda node: node.commit({"l": 1, "k": 1}),
    ],
    ids=["lock", "locks", "write", "commit"],
)
def test_slow_server_is_not_starved(own_engine, proxy, peer, act):
    """Before a release is reported to it, others have the lock again."""
    near, far = peer(own_engine.url), peer(proxy.url)
    rounds, acted, done = dict.fromkeys("kl", 0), threading.Event(), threading.Event()

    def lock_repeatedly(key):
        while not done.is_set():
            near.node.leases.acquire([key], None)
            done.wait(0.03)
            near.node.leases.release([key])
            rounds[key] += 1

    def act_from_afar():
        act(far.node)
        acted.set()
        far.node.leases.release(["k", "l"])

    proxy.delay = 0.005
    with ThreadSet() as threads:
        threads.add(lock_repeatedly, "k")
        threads.add(lock_repeatedly, "l")
        threads.go()
        until(lambda: all(rounds.values()))
        with ThreadSet() as waiting:
            waiting.add(act_from_afar)
            waiting.go()
            in_time = acted.wait(5)
            done.set()
    assert in_time


def test_writes_of_other_servers_wait_for_lock(pair):
    one, other = pair
    one.node.set("k", 1)
    for act in (
        lambda: other.node.set("k", 5),
        lambda: other.node.increment("k", 5, 0),
        lambda: other.node.delete("k"),
        lambda: other.node.commit({"k": 5, "l": 5}),
    ):
        one.node.leases.acquire(["k"], None)
        with ThreadSet() as threads:
            threads.add(act)
            threads.go()
            until(lambda: other.node.replica._unlocks)
            one.node.set("k", "before")
            one.node.set("k", 7)
            one.node.leases.release(["k"])
        one.node.sync()
        assert one.values.get("k") in {5, 12, None}


def test_read_modify_write_under_locks(pair):
    def work(peer):
        for _ in range(40):
            peer.node.leases.acquire(["a", "b"], None)
            values = peer.values
            peer.node.set("a", values.get("a", 0) - 1)
            peer.node.set("b", values.get("b", 0) + 1)
            peer.node.leases.release(["a", "b"])

    with ThreadSet() as threads:
        for peer in pair * 2:
            threads.add(work, peer)
    pair[0].node.sync()
    assert pair[0].values == {"a": -160, "b": 160}


def test_deadlock_of_two_servers(pair):
    one, other = pair
    one.node.leases.acquire(["a"], None)
    errors = []

    def wait_for_a():
        other.node.leases.acquire(["b"], None)
        try:
            other.node.leases.acquire(["a"], None)
        except DeadlockError as error:
            errors.append(str(error))
        other.node.leases.release(["b", "a"])

    with ThreadSet() as threads:
        threads.add(wait_for_a)
        threads.go()
        until(lambda: other.node.replica._unlocks)
        try:
            one.node.set("b", 1)  # a write waits as well
        except DeadlockError as error:
            errors.append(str(error))
        one.node.leases.release(["a"])
    assert len(errors) == 1
    assert "'a'" in errors[0]
    assert "'b'" in errors[0]


@pytest.mark.failure(8)
def test_unrenewed_lock_is_lost(pair, monkeypatch):
    monkeypatch.setattr(locks, "LIFETIME", 0.2)
    one, other = pair
    one.node.leases._unstarted.clear()  # locks are not renewed
    one.node.set("k", 1)
    one.node.leases.acquire(["k"], None)
    assert other.node.leases.acquire(["k"], None)
    other.node.set("k", 2)
    for act in (
        lambda: one.node.set("k", 3),
        lambda: one.node.set("another", 3),
        lambda: one.node.increment("k", 1, 0),
    ):
        with pytest.raises(LockLostError, match="'k'"):
            act()
    one.node.leases.release(["k"])  # does not release the lock of the other
    assert not one.node.leases.acquire(["k"], 0)
    other.node.leases.release(["k"])
    one.node.set("k", 4)
    other.node.sync()
    assert other.values["k"] == 4


def test_renewed_lock_is_kept(pair, monkeypatch):
    monkeypatch.setattr(locks, "LIFETIME", 1.0)
    one, other = pair
    one.node.leases.acquire(["k"], None)
    assert not other.node.leases.acquire(["k"], 2.0)
    one.node.set("k", 1)


def test_tokens_grow(pair):
    tokens = []
    for _ in range(5):
        for peer in pair:
            peer.node.leases.acquire(["k"], None)
            tokens.append(peer.node.leases._tokens(holder_serial())["k"])
            peer.node.leases.release(["k"])
    numbers = [tuple(map(int, token.split(b"-"))) for token in tokens]
    assert numbers == sorted(set(numbers))


# Refused values


@pytest.mark.failure(11)
def test_unsharable_value_is_not_written(empty_engine, peer):
    one = peer(empty_engine.url, secret=None)
    with pytest.raises(UnsharableValueError, match=r"'k'.*object"):
        one.node.set("k", object())
    assert one.values == {}


@pytest.mark.failure(11)
def test_tampered_value_is_not_loaded(pair, empty_engine, caplog):
    one, other = pair
    one.node.set("k", {1, 2}.__class__)  # a type: needs pickle
    other.node.sync()
    with empty_engine.client() as client:
        data = bytearray(client.hget("fss:{tests}:d", "k"))
        data[-3] ^= 1
        client.hset("fss:{tests}:d", "k", bytes(data))
        client.hset("fss:{tests}:d", "moved", Codec("tests", "a secret of the tests").encode("k", str))
        client.hset("fss:{tests}:v", mapping={"k": "1-1", "moved": "1-2"})
        client.hincrby("fss:{tests}:m", "epoch", 1)  # makes all nodes resynchronise
    until(lambda: other.node.status().unreadable >= 2)
    assert "k" not in other.values
    assert "moved" not in other.values
    assert "'moved'" in caplog.text
    one.node.set("k", 1)
    other.node.sync()
    assert other.values["k"] == 1
    assert encode_key("k") == b"k"


def test_wrong_password_does_not_leak(own_engine):
    from fastserverstate.cluster.client import Engine  # noqa: PLC0415

    with own_engine.client() as client:
        client.config_set("requirepass", "right password")
    engine = Engine(f"redis://:wrong-password@127.0.0.1:{own_engine.port}", "tests", 10, lambda: None)
    with pytest.raises(NotWrittenError) as caught:
        engine.call(b"state")
    assert "wrong-password" not in str(caught.value) + repr(engine)
