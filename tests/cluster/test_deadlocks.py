"""Deadlocks between threads of one process and of several."""

from __future__ import annotations

import threading

import pytest
from cluster.member import Member
from cluster.waiting import until
from unit.helpers import ThreadSet

from fastserverstate._core import holder_serial
from fastserverstate.cluster import locks
from fastserverstate.cluster.errors import NotConnectedError
from fastserverstate.errors import DeadlockError

WAITS = "fss:{tests}:w"


def read(member, key):
    member.state.get(key)


def take(member, key):
    with member.locks[key]:
        pass


def write(member, key):
    member.state[key] = 1


def deadlocks(engine, waits):
    """Start threads that each hold a lock and then wait, one after the other. Returns the texts of their errors."""
    errors, held = [], threading.Barrier(len(waits))

    def run(member, own, act, key, turn):
        try:
            with member.locks[own]:
                held.wait(20)
                turn.wait(20)
                act(member, key)
        except DeadlockError as error:
            errors.append(str(error))

    with ThreadSet() as threads, engine.client() as client:
        turns = [threading.Event() for _ in waits]
        for wait, turn in zip(waits, turns, strict=True):
            threads.add(run, *wait, turn)
        threads.go()
        for n, turn in enumerate(turns, 1):
            turn.set()
            if n < len(turns):
                until(lambda n=n: client.hlen(WAITS) == n)
    return errors


@pytest.mark.parametrize("act", [take, write], ids=["lock", "write"])
@pytest.mark.parametrize("read_first", [True, False])
def test_deadlock_through_read(empty_engine, members, act, read_first):
    one, _ = members
    waits = [(one, "a", read, "b"), (one, "b", act, "a")]
    (error,) = deadlocks(empty_engine, waits if read_first else waits[::-1])
    assert "'a'" in error
    assert "'b'" in error


def test_deadlock_of_reads(empty_engine, members):
    one, _ = members
    assert len(deadlocks(empty_engine, [(one, "a", read, "b"), (one, "b", read, "a")])) == 1


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("step", [1, -1])
def test_deadlock_through_read_and_two_servers(empty_engine, members, first, step):
    one, other = members
    waits = [(one, "a", read, "b"), (one, "b", take, "c"), (other, "c", take, "a")]
    ordered = [waits[(first + step * n) % 3] for n in range(3)]
    (error,) = deadlocks(empty_engine, ordered)
    assert all(f"'{key}'" in error for key in "abc")


def test_chain_is_no_deadlock(empty_engine, members):
    one, other = members
    done, errors = threading.Event(), []

    def hold():
        with other.locks["c"]:
            done.wait(20)

    def run(member, own, act, key):
        try:
            with member.locks[own]:
                held.wait(20)
                act(member, key)
        except DeadlockError as error:
            errors.append(error)

    held = threading.Barrier(2)
    with ThreadSet() as threads, empty_engine.client() as client:
        threads.add(hold)
        threads.go()
        until(lambda: client.exists("fss:{tests}:lk:c"))
        threads.add(run, one, "a", read, "b")
        threads.add(run, one, "b", take, "c")
        until(lambda: client.hlen(WAITS) == 2)
        since = client.hgetall(WAITS)
        until(lambda: set(since.values()).isdisjoint(client.hgetall(WAITS).values()))  # both have tried again
        done.set()
    assert not errors
    with empty_engine.client() as client:
        assert client.hlen(WAITS) == 0


def test_ended_wait_is_no_deadlock(empty_engine, members, monkeypatch):
    """Even if its end was not reported to the engine, and the lock was released and taken again."""
    one, _ = members
    monkeypatch.setattr(locks.Leases, "waited", lambda _: None)
    first_has_a, second_has_b, has_read, retaken, again = (threading.Event() for _ in range(5))
    errors = []

    def first():
        with one.locks["a"]:
            first_has_a.set()
            second_has_b.wait(20)
            one.state.get("b")
            has_read.set()
            again.wait(20)

    def second(client):
        first_has_a.wait(20)
        with one.locks["b"]:
            second_has_b.set()
            until(lambda: client.hlen(WAITS))
        has_read.wait(20)
        assert client.hlen(WAITS)
        with one.locks["b"]:
            retaken.set()
            try:
                with one.locks["a"]:
                    pass
            except DeadlockError as error:
                errors.append(error)

    with empty_engine.client() as client, ThreadSet() as threads:
        threads.add(first)
        threads.add(second, client)
        threads.go()
        retaken.wait(20)
        until(lambda: errors or client.hlen(WAITS) == 2)
        again.set()
    assert not errors


def test_wait_with_timeout_is_no_deadlock(members):
    one, other = members
    held, got, errors = threading.Barrier(2), [], []

    def first():
        with one.locks["a"]:
            held.wait(20)
            got.append(one.locks["b"].acquire(timeout=0.5))

    def second():
        try:
            with other.locks["b"]:
                held.wait(20)
                with other.locks["a"]:
                    pass
        except DeadlockError as error:
            errors.append(error)

    with ThreadSet() as threads:
        threads.add(first)
        threads.add(second)
    assert got == [False]
    assert not errors


def test_deadlock_through_lost_lock(own_engine):
    """The holder in this process and the one on the engine differ."""
    one = Member(own_engine.url)
    held, lost, has_a, errors = threading.Event(), threading.Event(), threading.Event(), []

    def first():
        with one.locks["k"]:
            held.set()
            has_a.wait(20)
            try:
                with one.locks["a"]:
                    pass
            except DeadlockError as error:
                errors.append(error)

    def second():
        lost.wait(20)
        with one.locks["a"]:
            has_a.set()
            try:
                with one.locks["k"]:
                    pass
            except DeadlockError as error:
                errors.append(error)

    try:
        with ThreadSet() as threads:
            threads.add(first)
            threads.add(second)
            threads.go()
            held.wait(20)
            own_engine.restart()
            until(lambda: one.adapter.node.status().connected and one.adapter.node.follower.resyncs > 1)
            lost.set()
        assert len(errors) == 1
    finally:
        one.close()


# Holders


def test_reused_thread_ident_holds_no_locks(empty_engine, peer):
    one = peer(empty_engine.url)
    leases = one.node.leases
    dead, found = {}, []  # the key and the serial, by ident
    alive = threading.Barrier(20)

    def take(key):
        assert leases.acquire([key], None)
        dead[threading.get_ident()] = key, holder_serial()
        alive.wait(20)

    def look():
        if threading.get_ident() in dead:
            key, serial = dead[threading.get_ident()]
            found.append((key, serial, leases.acquire([key], 0), leases.claims()))

    with ThreadSet() as threads:
        for n in range(20):
            threads.add(take, f"k{n}")

    def again():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return found

    until(again)
    key, serial, *rest = found[0]
    assert rest == [False, [b"0"]]
    leases.release([key], serial)  # like the core when a holder ends
    assert leases.acquire([key], 0)


def test_released_lock_is_not_renewed(empty_engine, peer, monkeypatch):
    """Even if the release does not reach the engine, or is for another holder."""
    monkeypatch.setattr(locks, "LIFETIME", 0.6)
    one, other = peer(empty_engine.url), peer(empty_engine.url)
    serials = []

    def take():
        serials.append(holder_serial())
        one.node.leases.acquire(["k"], None)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    call = one.node.engine.call

    def unreachable(operation, *arguments, **options):
        if operation == b"release":
            raise NotConnectedError
        return call(operation, *arguments, **options)

    monkeypatch.setattr(one.node.engine, "call", unreachable)
    one.node.leases.release(["k"], serials[0])
    assert other.node.leases.acquire(["k"], 20)
