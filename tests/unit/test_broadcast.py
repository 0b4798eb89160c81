"""Notices for all sessions: which are due, and where a browser has room for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import streamlit as st
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from fastserverstate import FastServerStateError, _instances, broadcast, transaction
from fastserverstate._core import Store, absent
from fastserverstate._streamlit import element_of, outbox
from fastserverstate._streamlit.names import CAN_PUSH
from fastserverstate._streamlit.outbox import Outbox
from fastserverstate.broadcasting import KEY, SECONDS, Broadcasts
from fastserverstate.expiry import Expirer, Expiry
from fastserverstate.listeners import Listeners
from fastserverstate.rerun import push
from fastserverstate.rerun.notices import Notices, Unseen
from fastserverstate.rerun.push import PushQueue
from fastserverstate.rerun.session import Readiness

TOAST = element_of(st.toast, ("hello",), {})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notices(clock: Clock) -> Notices:
    return Notices(clock)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    _instances.store.apply([(KEY, absent, False)])


# What is shown


@pytest.mark.parametrize(("function", "kind"), [(st.toast, "toast"), (st.balloons, "balloons"), (st.snow, "snow")])
def test_the_element_of_a_call(function: Callable[..., Any], kind: str) -> None:
    if kind != "toast" and not CAN_PUSH:
        with pytest.raises(FastServerStateError, match=rf"shows st.{kind} in browsers of Streamlit 1.44"):
            broadcast(function)
        return
    message = ForwardMsg()
    message.delta.new_element.ParseFromString(element_of(function, ("text",) if kind == "toast" else (), {}))
    assert message.delta.new_element.WhichOneof("type") == kind


@pytest.mark.parametrize("function", [st.write, st.sidebar.write, print, st.error])
def test_other_functions_raise_an_error(function: Any) -> None:
    with pytest.raises(FastServerStateError, match=r"broadcast shows st.toast, st.balloons and st.snow, .*@live.*emit"):
        broadcast(function, "text")
    assert _instances.store.version(KEY) == 0


def test_wrong_arguments_raise_the_error_of_the_function() -> None:
    with pytest.raises(st.errors.StreamlitAPIException):
        broadcast(st.toast, "")
    with pytest.raises(TypeError):
        broadcast(st.toast)  # type: ignore[call-arg]
    assert _instances.store.version(KEY) == 0


# Which notices are due


def test_a_session_shows_the_notices_since_it_began(notices: Notices) -> None:
    notices.add(b"before", 60)
    unseen = Unseen(notices)
    assert unseen.due() == []
    notices.add(b"one", 60)
    notices.add(b"two", 60)
    due = unseen.due()
    assert [notice.element for notice in due] == [b"one", b"two"]
    unseen.shown(due)
    assert unseen.due() == []


def test_a_notice_ends(notices: Notices, clock: Clock) -> None:
    unseen = Unseen(notices)
    notices.add(b"one", 60)
    clock.now += 61
    assert unseen.due() == []
    notices.add(b"two", 60)
    assert len(notices._kept) == 1


def test_a_notice_that_the_browser_has_removed_is_due_again(notices: Notices, clock: Clock) -> None:
    unseen = Unseen(notices)
    notices.add(b"one", 60)
    due = unseen.due()
    unseen.shown(due)
    unseen.removed(due)
    notices.add(b"two", 60)
    assert [notice.element for notice in unseen.due()] == [b"one", b"two"]
    clock.now += 61
    assert unseen.due() == []


class World:
    """Broadcasts of a store, with tasks that the test runs."""

    def __init__(self, store: Store, notices: Notices) -> None:
        self.tasks: list[Callable[[], None]] = []
        self.shown = 0
        self.now = 1_000_000_000_000
        self.expirer = Expirer(store)
        self.broadcasts = Broadcasts(
            store,
            Listeners(store),
            expire=Expiry(store, self.expirer).expire,
            workers=SimpleNamespace(submit=lambda task, _: self.tasks.append(task)),  # type: ignore[arg-type]
            notices=notices,
            element_of=element_of,
            show=self.show,
            now=lambda: self.now,
        )
        self.unseen = Unseen(notices)

    def show(self, before: int) -> None:
        assert before == 0
        self.shown += 1

    def work(self) -> None:
        while self.tasks:
            self.tasks.pop(0)()


@pytest.fixture
def world(store: Store, notices: Notices) -> Iterator[World]:
    world = World(store, notices)
    yield world
    world.expirer.close()


def test_a_server_shows_what_is_broadcast_from_its_first_session_on(world: World, store: Store) -> None:
    world.broadcasts.broadcast(st.toast, "before")
    world.now += 1
    world.broadcasts.started(None)
    world.broadcasts.started(None)
    world.broadcasts.broadcast(st.toast, "one")
    world.broadcasts.broadcast(st.toast, "two")
    world.work()
    assert world.shown == 1
    assert [b"one" in notice.element for notice in world.unseen.due()] == [True, False]
    assert SECONDS - 1 < (store.deadline(KEY) or 0) <= SECONDS


def test_a_discarded_transaction_broadcasts_nothing() -> None:
    def fail() -> None:
        with transaction():
            broadcast(st.toast, "never")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _instances.store.version(KEY) == 0


# The container of events, as the browser has it


def delta(*path: int, kind: str = "toast") -> ForwardMsg:
    message = ForwardMsg()
    message.metadata.delta_path[:] = [2, *path]
    if kind == "block":
        message.delta.add_block.vertical.SetInParent()
    else:
        getattr(message.delta.new_element, kind).SetInParent()
    return message


def began(*fragments: str, page: str = "p") -> ForwardMsg:
    message = ForwardMsg()
    message.new_session.page_script_hash = page
    if hasattr(message.new_session, "fragment_ids_this_run"):
        message.new_session.fragment_ids_this_run.extend(fragments)
    else:
        message.metadata.run.fragment_ids.extend(fragments)
    return message


def finished(status: Any = ForwardMsg.FINISHED_SUCCESSFULLY) -> ForwardMsg:
    message = ForwardMsg()
    message.script_finished = status
    return message


class Shown:
    """An outbox and the notices of its session."""

    def __init__(self, notices: Notices) -> None:
        self.notices = notices
        self.outbox = Outbox()
        self.outbox.unseen = Unseen(notices)
        self.again = 0
        self.outbox.show_again = self.show_again

    def show_again(self) -> None:
        self.again += 1

    def run(self, *messages: ForwardMsg) -> None:
        self.outbox.flushed([began(), *messages, finished()])

    def show(self) -> list[list[int]]:
        """Show a notice. Return the paths of its messages, which are a block and the elements in it."""
        self.notices.add(TOAST, 60)
        return self.show_due()

    def show_due(self) -> list[list[int]]:
        assert self.outbox.unseen is not None
        due = self.outbox.unseen.due()
        messages = [ForwardMsg.FromString(payload) for payload in self.outbox.payloads(due)]
        self.outbox.unseen.shown(due)
        assert messages[-1].delta.new_element.toast.body == "hello"
        return [list(message.metadata.delta_path) for message in messages]


@pytest.fixture
def shown(notices: Notices, monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setattr(outbox, "BROWSERS_KEEP_TOASTS", True)
    monkeypatch.setattr(outbox, "BROWSERS_CLEAR_TOASTS", False)
    return Shown(notices)


def test_a_notice_is_the_next_child(shown: Shown) -> None:
    assert shown.show()[0] == [2, 0]
    shown.run(delta(0), delta(1, kind="block"), delta(1, 0, kind="text"))
    assert shown.show()[0] == [2, 2]
    assert shown.show()[0] == [2, 3]


def test_successive_notices_in_one_place_have_other_paths(shown: Shown) -> None:
    first = shown.show()
    shown.run()
    second = shown.show()
    assert first[0] == second[0]
    assert first[-1] != second[-1]
    assert second[1:] == [[2, 0, index] for index in range(len(second) - 1)]


def test_a_run_without_events_empties_the_container(shown: Shown) -> None:
    shown.run(delta(0), delta(1))
    shown.run()
    assert shown.show()[0] == [2, 0]


@pytest.mark.parametrize("keeps", [False, True])
def test_which_children_remain_after_a_run(monkeypatch: pytest.MonkeyPatch, shown: Shown, keeps: bool) -> None:
    monkeypatch.setattr(outbox, "BROWSERS_KEEP_TOASTS", keeps)
    shown.run(delta(0), delta(1), delta(2, kind="block"))
    shown.run(delta(0))
    assert shown.show()[0] == [2, 2 if keeps else 1]


@pytest.mark.parametrize("status", [ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY, ForwardMsg.FINISHED_SUCCESSFULLY])
def test_a_run_of_a_fragment_leaves_all_children(shown: Shown, status: Any) -> None:
    """Also if it was stopped."""
    shown.run(delta(0), delta(1))
    shown.outbox.flushed([began("f"), finished(status)])
    assert shown.show()[0] == [2, 2]


def test_another_page_begins_without_children(shown: Shown) -> None:
    shown.run(delta(0), delta(1))
    shown.outbox.flushed([began(page="other"), delta(0), finished()])
    assert shown.show()[0] == [2, 1]


def test_children_from_before_are_not_counted(shown: Shown) -> None:
    """A browser accepts each index up to the number of children."""
    shown.outbox.flushed([delta(3)])
    assert shown.show()[0] == [2, 0]


def test_blocks_of_notices_are_bounded(shown: Shown) -> None:
    for _ in range(3 * outbox._MOST_BLOCKS):
        paths = shown.show()
        assert paths[0][1] <= outbox._MOST_BLOCKS
    assert paths[0] == paths[1]  # is emptied first


@pytest.mark.parametrize("overwrites", [False, True])
def test_a_toast_that_a_run_has_removed_is_shown_again(
    monkeypatch: pytest.MonkeyPatch, shown: Shown, clock: Clock, overwrites: bool
) -> None:
    monkeypatch.setattr(outbox, "BROWSERS_KEEP_TOASTS", False)
    shown.run()
    shown.show()
    shown.run(*([delta(0)] if overwrites else []))
    assert shown.again == 1
    assert shown.show_due()[0] == [2, 1 if overwrites else 0]
    clock.now += 5
    shown.run()
    assert shown.again == 1


def test_a_toast_that_a_browser_keeps_is_not_shown_again(shown: Shown) -> None:
    shown.run()
    shown.show()
    shown.run()
    assert shown.again == 0


# The queue that pushes them


@pytest.mark.parametrize("receives", [False, True])
def test_notices_are_shown_to_ready_sessions(notices: Notices, receives: bool) -> None:
    """One with a slow connection is tried again."""
    tried: list[int] = []

    def show(due: list[Any]) -> bool:
        tried.append(len(due))
        return receives or len(tried) > 1

    live: Any = SimpleNamespace(
        is_push_due=False,
        viewers=SimpleNamespace(outdated=list),
        unseen=Unseen(notices),
        adapter=SimpleNamespace(readiness=lambda: Readiness.READY, show=show),
        retry_after=lambda _: None,
    )

    async def push() -> None:
        queue = PushQueue(asyncio.get_running_loop(), lambda _: None)
        notices.add(TOAST, 60)
        queue.add(live)
        async with asyncio.timeout(20):
            while live.unseen.due():
                await asyncio.sleep(0)
        queue.add(live)

    asyncio.run(push())
    assert tried == ([1] if receives else [1, 1])


def test_an_end_of_a_run_that_is_not_reported(notices: Notices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "RUNNING_RETRY", 0.001)
    states = [Readiness.RUNNING, Readiness.RUNNING, Readiness.READY]
    shown: list[Any] = []
    live: Any = SimpleNamespace(
        is_push_due=False,
        viewers=SimpleNamespace(outdated=list),
        unseen=Unseen(notices),
        adapter=SimpleNamespace(readiness=lambda: states.pop(0), show=lambda due: shown.append(due) or True),
        retry_after=lambda _: None,
    )

    async def wait() -> None:
        queue = PushQueue(asyncio.get_running_loop(), lambda _: None)
        notices.add(TOAST, 60)
        queue.add(live)
        async with asyncio.timeout(20):
            while not shown:
                await asyncio.sleep(0.001)

    asyncio.run(wait())
    assert states == []


def test_threads_add_notices(notices: Notices) -> None:
    unseen = Unseen(notices)
    threads = [threading.Thread(target=notices.add, args=(b"", 60)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [notice.number for notice in unseen.due()] == list(range(1, 21))


def test_a_message_without_a_path_is_passed_over() -> None:
    """As that for an error outside of a script run."""
    message = ForwardMsg()
    message.delta.new_element.text.body = "error"
    Outbox().flushed([message])


def test_an_error_in_following_the_messages_does_not_reach_streamlit(caplog: pytest.LogCaptureFixture) -> None:
    outbox._tell(Outbox().flushed, [None])
    assert "could not be followed" in caplog.text
