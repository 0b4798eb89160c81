"""Spaces over several servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster.member import Member
from cluster.waiting import until
from unit.helpers import ThreadSet, enter, leave, locate_in_streamlit, locate_in_tests

from fastserverstate._core import Session
from fastserverstate.spaces import Space, Spaces


@pytest.fixture(autouse=True)
def _scopes_of_tests() -> Iterator[None]:
    locate_in_tests()
    yield
    leave()
    locate_in_streamlit()


def space(member: Member, name: str) -> Space:
    return Spaces(member.store, lambda: None).space(name)


def iterate(session: Session, room: Space) -> list[str]:
    """Have a run of the session depend on the names in the space, and on nothing else."""
    session.start_run()
    enter(session)
    names = list(room)
    leave()
    session.finish_run([None])
    return names


def test_iteration_follows_other_servers(members: tuple[Member, Member]) -> None:
    one, other = members
    here, there = space(one, "room/7"), space(other, "room/7")
    session = Session(other.store)
    assert iterate(session, there) == []
    space(one, "room/8").x = 1
    one.state["other"] = 1
    other.sync()
    assert not other.store.collect_stale()
    here.votes = 1
    until(other.store.collect_stale)
    assert iterate(session, there) == ["votes"]
    here.votes = 2
    other.sync()
    assert not other.store.collect_stale()
    del here.votes
    until(other.store.collect_stale)
    assert iterate(session, there) == []


def test_clear_is_one_change_on_all_servers(members: tuple[Member, Member]) -> None:
    one, other = members
    here, there = space(one, "room/7"), space(other, "room/7")
    here.update({f"n{number}": number for number in range(20)})
    other.sync()
    session = Session(other.store)
    assert len(iterate(session, there)) == 20
    sizes: list[int] = []
    other.store.on_stale(lambda: sizes.append(len(there)))
    here.clear()
    until(other.store.collect_stale)
    assert sizes == [0]
    one.sync()
    assert not here


def test_servers_that_clear_and_add_at_the_same_time(members: tuple[Member, Member]) -> None:
    rooms = [space(member, "room/7") for member in members]

    def clear(room: Space) -> None:
        for _ in range(20):
            room.clear()

    def add(room: Space) -> None:
        for number in range(40):
            room[f"n{number % 10}"] = number

    with ThreadSet() as threads:
        for room in rooms:
            threads.add(clear, room)
            threads.add(add, room)
    for member, room in zip(members, rooms, strict=True):
        member.sync()
        room.clear()
    for member, room in zip(members, rooms, strict=True):
        member.sync()
        assert not room
