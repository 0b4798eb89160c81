"""Keys that expire on several servers: the engine has the deadlines, and any server has it delete what is due."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from cluster.member import Member
from cluster.subject import SECRET
from cluster.waiting import until
from harness.scopes import enter, leave, locate_in_tests

from fastserverstate import _core
from fastserverstate.cluster import log_follower
from fastserverstate.configuration import KeyOptions
from fastserverstate.expiry import Expirer, Expiry

LATE = 1.0  # seconds that a busy machine may need


def expire(member, key, after):
    Expiry(member.store, SimpleNamespace(start=lambda: None)).expire(key, after=after)


def gone_after(members, key):
    """Return the seconds until no member has the key."""
    return until(lambda: not any(key in member.store.keys() for member in members))  # noqa: SIM118


def configure(members, key, **options):
    for member in members:
        KeyOptions(member.store).set(key, **options)


def test_key_expires_on_all_servers(members):
    one, other = members
    heard = []
    for member in members:
        member.on_change("k", lambda _key, _value, reason: heard.append(reason))
    one.state["k"] = 1
    began = time.monotonic()
    expire(one, "k", 0.3)
    other.sync()
    assert gone_after(members, "k") < 0.3 + LATE
    assert time.monotonic() - began > 0.29
    until(lambda: heard.count("expired") == 2)
    assert heard.count("deleted") == 0
    assert [member.store.removals() for member in members] == [(1, 0), (1, 0)]
    with pytest.raises(KeyError):
        expire(other, "k", 1)


def test_servers_are_told_of_an_earlier_deadline(members):
    one, other = members
    one.state.update(late=1, early=1, earlier=1)
    expire(one, "late", 3600)
    other.sync()
    expire(other, "early", 0.4)
    expire(one, "earlier", 0.1)
    assert gone_after(members, "earlier") < 0.1 + LATE
    assert gone_after(members, "early") < 0.4 + LATE
    other.sync()
    assert list(other.state) == ["late"]


def test_one_deletion_although_all_servers_ask_for_it(members, empty_engine):
    one, _ = members
    for number in range(50):
        one.state[f"k{number}"] = number
        expire(one, f"k{number}", 0.2)
    until(lambda: not one.state)
    with empty_engine.client() as client:
        deleted = [
            name
            for _, fields in client.xrange("fss:{tests}:log")
            for name, value in fields.items()
            if value == b"expired"
        ]
    assert len(deleted) == len(set(deleted)) == 50


def test_writes_of_any_server_begin_the_ttl_again(members):
    one, other = members
    configure(members, "rate/*", ttl=1.5)
    end = time.monotonic() + 3
    one.state["rate/1"] = 1
    while time.monotonic() < end:
        other.sync()
        other.state["rate/1"] = 1  # an equal value
        one.atomic.increment("rate/2")
        one.sync()
        time.sleep(0.05)
        assert "rate/1" in one.state
        assert "rate/2" in one.state
    assert gone_after(members, "rate/1") < 1.5 + LATE
    assert gone_after(members, "rate/2") < 1.5 + LATE


def test_what_keeps_a_deadline_and_what_ends_it(members, empty_engine):
    one, other = members
    keys = ["increment", "change", "touch", "transact", "assign", "assign equal", "delete", "cancel", "staged"]
    for key in keys:
        one.state[key] = 1
        if key != "staged":
            expire(one, key, 3600)
    other.sync()
    other.atomic.increment("increment")
    other.atomic("change", lambda value: value + 1)
    other.store.touch("touch")
    with other.transaction():
        other.atomic.increment("transact")
        other.state["new"] = 1
        expire(other, "new", 3600)
        expire(other, "staged", 3600)
    other.state["assign"] = 2
    other.state["assign equal"] = 1
    del other.state["delete"]
    expire(other, "cancel", None)
    with empty_engine.client() as client:
        left = {key.decode() for key in client.zrange("fss:{tests}:ttl", 0, -1)}
    assert left == {"increment", "change", "touch", "transact", "new", "staged"}


def test_locked_key_expires_when_the_lock_is_released(members):
    one, other = members
    one.state["k"] = 1
    with other.locks["k"]:
        assert other.store.expire("k", 0.1)
        time.sleep(0.3)  # the deadline passes
        other.adapter.node.engine.call(b"reap")
        assert other.state["k"] == 1
    assert gone_after(members, "k") < LATE


def test_clocks_of_servers_are_not_compared(members, monkeypatch):
    one, other = members
    one.state["k"] = 1
    expire(one, "k", 1.5)
    jumped = SimpleNamespace(monotonic=lambda: time.monotonic() + 100_000, time=lambda: time.time() + 1e6)
    monkeypatch.setattr(log_follower, "time", jumped)
    _core.advance_clock(100_000)
    begin = time.monotonic()
    other.state["other"] = 1  # makes the followers look
    other.sync()
    other.store.expire_due()
    one.store.expire_due()
    assert gone_after(members, "k") + (time.monotonic() - begin) > 1
    assert time.monotonic() - begin < 1.5 + LATE


DYING = """
import sys, time
from cluster.member import Member
member = Member(sys.argv[1])
member.state["k"] = 1
member.store.expire("k", 1.0)
print("set", flush=True)
time.sleep(100)
"""


def test_server_that_dies_does_not_stop_expiry(empty_engine):
    paths = os.pathsep.join(path for path in sys.path if path)
    dying = subprocess.Popen(
        [sys.executable, "-c", DYING, empty_engine.url],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        assert dying.stdout is not None
        assert dying.stdout.readline() == b"set\n"
        survivor = Member(empty_engine.url)
        assert "k" in survivor.state
    finally:
        dying.send_signal(signal.SIGKILL)
        dying.communicate()
    assert gone_after([survivor], "k") < 1 + LATE
    survivor.close()


def test_deadlines_survive_a_restart_of_the_engine(own_engine):
    member = Member(own_engine.url)
    member.state.update(early=1, late=1)
    expire(member, "early", 0.5)
    expire(member, "late", 3600)
    own_engine.restart()
    until(lambda: "early" not in member.store.keys())  # noqa: SIM118
    member.sync()
    assert list(member.state) == ["late"]
    member.close()


def test_deadlines_from_before_the_connection(empty_engine):
    member = Member.__new__(Member)
    store = _core.Store()
    _core.Namespace(store)["k"] = 1
    store.set_deadline("k", 0.5)
    from fastserverstate.cluster.backend import ClusterAdapter  # noqa: PLC0415

    adapter = ClusterAdapter(store, empty_engine.url, namespace="tests", secret=SECRET, timeout=10.0)
    assert adapter.open(10)
    member.store = store
    assert gone_after([member], "k") < 0.5 + LATE
    adapter.close()


def test_ttl_begins_again_after_the_disconnection(empty_engine):
    member = Member(empty_engine.url)
    configure([member], "rate/*", ttl=3600)
    member.state.update({"rate/1": 1, "k": 1})
    expire(member, "k", 3600)
    assert member.store.expire_due() is None
    member.close()
    assert member.store.deadline("rate/1") == pytest.approx(3600, abs=10)
    assert member.store.deadline("k") is None


def test_key_that_one_server_uses_does_not_become_idle(members):
    locate_in_tests()
    one, other = members
    expirers = [Expirer(member.store) for member in members]
    configure(members, "room/*", idle_ttl=0.6)
    one.state["room/1"] = 1
    other.sync()
    session = _core.Session(other.store)
    session.start_run()
    enter(session)
    assert other.state["room/1"] == 1
    leave()
    session.finish_run()
    for expirer in expirers:
        expirer.start()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert "room/1" in one.store.keys()  # noqa: SIM118
        time.sleep(0.01)
    session.close()
    assert gone_after(members, "room/1") < 0.6 * 1.25 + LATE
    for expirer in expirers:
        expirer.close()
