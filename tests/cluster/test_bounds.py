"""Attempts are limited in number and time, and errors say whether anything was written."""

from __future__ import annotations

import threading
import time

import pytest
from cluster.member import Member
from cluster.waiting import until
from unit.helpers import ThreadSet

from fastserverstate.cluster import log_follower
from fastserverstate.cluster.backend import Backend
from fastserverstate.cluster.client import Channel
from fastserverstate.cluster.errors import NotConnectedError, NotWrittenError, UnknownOutcomeError
from fastserverstate.errors import UnreadableValueError


def calls(engine, command="evalsha"):
    with engine.client() as client:
        return client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)


class Opaque:
    """A value that needs pickle."""


@pytest.fixture
def members_with_other_secrets(empty_engine):
    """Two servers with different secrets."""
    pair = Member(empty_engine.url), Member(empty_engine.url, secret="another secret of the tests")
    pair[0].state["k"] = Opaque
    pair[1].sync()
    yield pair
    for one in pair:
        one.close()


def test_setdefault_of_unreadable_value_is_refused(empty_engine, members_with_other_secrets):
    _, other = members_with_other_secrets
    before = calls(empty_engine)
    with pytest.raises(UnreadableValueError, match=r"server_state\['k'\] is already set.*cannot read.*same secret"):
        other.state.setdefault("k", 1)
    assert calls(empty_engine) - before < 20
    assert "k" not in other.state
    other.state["k"] = 2
    assert other.state.setdefault("k", 1) == 2


def test_deleting_unreadable_value_reports_deletion(members_with_other_secrets):
    one, other = members_with_other_secrets
    with pytest.raises(UnreadableValueError, match="It was deleted"):
        other.state.pop("k")
    one.sync()
    assert "k" not in one.state


def test_touch_gives_up_under_contention(empty_engine, peer, monkeypatch):
    one = peer(empty_engine.url, timeout=0.3)
    one.node.set("k", 1)
    attempts = []
    monkeypatch.setattr(one.node, "compare_and_set", lambda *arguments: attempts.append(arguments))
    with pytest.raises(NotWrittenError, match=r"server_state\['k'\] was changed by other servers.*server_state_lock"):
        one.node.touch("k")
    assert 2 <= len(attempts) < 200


def test_setdefault_gives_up_under_contention(empty_engine, peer, monkeypatch):
    one = peer(empty_engine.url, timeout=0.3)
    attempts = []
    monkeypatch.setattr(one.node, "_send", lambda _: attempts.append(1) or [b"OK", b"1-1", b"0", b"1-1", None, b"1-1"])
    with pytest.raises(NotWrittenError, match="'k'"):
        one.node.set_if_absent("k", 1)
    assert 2 <= len(attempts) < 200


def test_repeated_run_mismatch_times_out(empty_engine, peer, monkeypatch):
    one = peer(empty_engine.url)
    script, attempts = Channel.script, []

    def elsewhere(channel, operation, *arguments):
        if operation != b"write":
            return script(channel, operation, *arguments)
        attempts.append(operation)
        return [b"RUN"]

    monkeypatch.setattr(Channel, "script", elsewhere)
    monkeypatch.setattr(one.node.engine, "timeout", 0.3)
    with pytest.raises(NotConnectedError, match="Nothing was written"):
        one.node.set("k", 1)
    assert 2 <= len(attempts) < 100


@pytest.mark.parametrize("reply", [[b"WHAT"], [None], [b"OLD"]])
def test_unknown_reply_is_an_error(empty_engine, peer, monkeypatch, reply):
    one = peer(empty_engine.url)
    script = Channel.script
    monkeypatch.setattr(
        Channel, "script", lambda self, name, *rest: reply if name == b"write" else script(self, name, *rest)
    )
    with pytest.raises(UnknownOutcomeError, match="does not understand"):
        one.node.set("k", 1)


def test_failed_resync_backs_off(empty_engine, peer, monkeypatch):
    one = peer(empty_engine.url)
    attempts, delays = [], []

    class Stop:
        def is_set(self):
            return False

        def wait(self, seconds):
            delays.append(seconds)

    def fail():
        attempts.append(1)
        if len(attempts) % 2:
            raise log_follower._MissedError
        return len(attempts) >= 20

    one.node.follower.stop()
    one.node.follower.join()
    monkeypatch.setattr(one.node.follower, "_stopped", Stop())
    monkeypatch.setattr(one.node.follower, "_try_to_resynchronise", fail)
    one.node.follower._resynchronise()
    assert len(delays) == 19
    assert delays[-1] >= log_follower.LONGEST_DELAY / 2


def test_failing_connection_backs_off(empty_engine, peer, monkeypatch):
    """Even if each attempt succeeds in connecting."""
    one = peer(empty_engine.url)
    attempts = []

    def broken(*_):
        attempts.append(1)
        raise ValueError("malformed")

    monkeypatch.setattr(one.node.follower, "_read", broken)
    one.node.set("k", 1)  # wakes it
    until(lambda: attempts)
    time.sleep(2 * log_follower.LONGEST_DELAY)
    assert len(attempts) < 12
    assert one.node.status().errors >= len(attempts) - 1


# Locks


def test_lock_without_expiry_is_polled_slowly(empty_engine, peer):
    one = peer(empty_engine.url)
    with empty_engine.client() as client:
        epoch = client.hget("fss:{tests}:m", "epoch").decode()
        client.set("fss:{tests}:lk:k", f"{epoch}-1|another app")
    before = calls(empty_engine)
    assert not one.node.leases.acquire(["k"], 1.0)
    assert calls(empty_engine) - before < 20


def test_lock_timeout_covers_both_waits(empty_engine, monkeypatch):
    """The wait for the lock on the engine, and then for the lock of this server."""
    one = Member(empty_engine.url)
    timeouts = []

    def acquire(_self, _key, timeout):
        timeouts.append(timeout)
        time.sleep(timeout)
        return True

    try:
        with one.locks["k"], ThreadSet() as threads, monkeypatch.context() as patch:
            patch.setattr(Backend, "acquire", acquire)
            took = []

            def take():
                start = time.monotonic()
                took.append(one.locks["k"].acquire(timeout=3))
                took.append(time.monotonic() - start)

            threads.add(take)
            threads.go()
            until(lambda: len(took) == 2)
        assert took[0] is False
        assert took[1] < 5.5
        assert timeouts == [3]
    finally:
        one.close()


def test_lock_timeout_covers_wait_for_log(empty_engine, peer):
    one, other = peer(empty_engine.url), peer(empty_engine.url, timeout=120.0)
    decode, go = other.node.codec.decode, threading.Event()
    other.node.codec.decode = lambda *arguments: go.wait(60) and decode(*arguments)
    one.node.set("k", 1)
    start = time.monotonic()
    with pytest.raises(NotConnectedError, match=r"server_state\['k'\] that did not arrive within"):
        other.node.leases.acquire(["k"], 0.1)
    assert time.monotonic() - start < 30
    assert one.node.leases.acquire(["k"], 10)
    go.set()
    other.node.sync()


@pytest.mark.parametrize("count", [1, 4_500, 9_000])
def test_release_of_many_locks_with_waiter(empty_engine, peer, caplog, count):
    one, other = peer(empty_engine.url), peer(empty_engine.url)
    keys = [f"k{n}" for n in range(count)]
    one.node.leases.acquire(keys, None)
    one.node.commit(dict.fromkeys(keys, 1))
    with ThreadSet() as threads:
        threads.add(other.node.leases.acquire, keys[-1:], None)
        threads.go()
        until(lambda: other.node.replica._unlocks)
        one.node.leases.release(keys)
    assert "release" not in caplog.text
    assert one.node.leases.acquire(keys[:-1], 0)
    assert other.values == dict.fromkeys(keys, 1)


def test_uncertain_release_names_few_locks(empty_engine, peer, monkeypatch, caplog):
    one = peer(empty_engine.url)
    one.node.leases.acquire([f"k{n}" for n in range(100)], None)

    def unreachable(*_, **__):
        raise NotConnectedError("The engine is down.")

    monkeypatch.setattr(one.node.engine, "call", unreachable)
    one.node.leases.release([f"k{n}" for n in range(100)])
    (record,) = caplog.records
    assert "The Redis server may not have released" in record.getMessage()
    assert "95 more" in record.getMessage()
    assert len(record.getMessage()) < 500


# Outcomes in errors


def test_partial_script_failure_is_unknown_outcome(empty_engine, peer):
    one = peer(empty_engine.url)
    with empty_engine.client() as client:
        client.set("fss:{tests}:ttl", "of the wrong type")
        with pytest.raises(UnknownOutcomeError, match=r"a part was done: .*WRONGTYPE"):
            one.node.set("k", 1)
        assert client.hget("fss:{tests}:d", "k") == b"i1"


def test_script_failure_before_writes_is_not_written(empty_engine, peer):
    one = peer(empty_engine.url)
    one.node.set("k", 1)
    with empty_engine.client() as client:
        client.rename("fss:{tests}:d", "fss:{tests}:elsewhere")
        client.set("fss:{tests}:d", "of the wrong type")
        before = client.hgetall("fss:{tests}:m")
        with pytest.raises(NotWrittenError, match=r"nothing was written: .*WRONGTYPE"):
            one.node.set("k", 2)
        assert client.hgetall("fss:{tests}:m") == before


def test_refused_log_entry_is_not_written(own_engine, peer):
    """The user has every permission except appending to the log."""
    with own_engine.client() as client:
        client.acl_setuser("app", enabled=True, passwords=["+password"], keys=["*"], commands=["+@all", "-xadd"])
        peer(own_engine.url)
        one = peer(own_engine.url.replace("//", "//app:password@"))
        with pytest.raises(NotWrittenError, match="nothing was written"):
            one.node.set("k", 1)
        assert not client.exists("fss:{tests}:d")


def test_partially_failed_operation_is_not_repeated(empty_engine, peer):
    one = peer(empty_engine.url)
    one.node.set("n", 1)
    channel = one.node.engine.channel(2.0)
    change = b"S", b"n", b"i2", b"", b"", b"0"
    request = b"writer", 1, b"owner", b"ticket", b"0", *change
    with empty_engine.client() as client:
        client.set("fss:{tests}:ttl", "of the wrong type")
        first = channel.script(b"write", *request)
        assert first[0] == b"HALF"
        client.delete("fss:{tests}:ttl")
        assert channel.script(b"write", *request) == first
