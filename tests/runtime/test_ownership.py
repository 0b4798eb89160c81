"""Locks and transactions of a run end with its thread's part in it, whatever the session does meanwhile."""

from __future__ import annotations

import contextlib
import inspect
import threading
from types import SimpleNamespace

import pytest
import streamlit
from harness.client import Client
from harness.steps import HOLD, Serve, with_clients
from streamlit.testing.v1 import AppTest

from fastserverstate import server_state_lock
from fastserverstate._streamlit import bridge as module
from fastserverstate._streamlit.names import ATTRIBUTE

parallel_fragments = pytest.mark.skipif(
    "parallel" not in inspect.signature(streamlit.fragment).parameters, reason="needs parallel fragments"
)

HOLDING = """
        step = st.text_input("step")
        if step == "lock":
            server_state_lock["k"].acquire()
        elif step == "locks":
            server_state_lock["a", "k"].acquire()
        elif step == "transaction":
            transaction("k").__enter__()
            server_state["k"] = "torn"
        if step in {"lock", "locks", "transaction"}:
            st.text(f"holds {step}")
            while True:  # until a click takes the place of this run
                time.sleep(0.01)
                st.empty()
        with server_state_lock["k"]:
            st.text(f"{step or 'start'}: k is {server_state.get('k')}")
"""


@pytest.mark.parametrize("what", ["lock", "locks", "transaction"])
def test_locks_of_a_replaced_run_are_released(serve: Serve, what: str) -> None:
    server = serve(HOLDING)

    async def steps(client: Client) -> None:
        await client.enter("step", what)
        await client.shows(f"holds {what}")
        await client.enter("step", "next")
        await client.shows("next: k is None")
        async with Client(server.websocket_url) as visitor:
            await visitor.shows("start: k is None")

    with_clients(server, 1, steps)
    assert "has ended" in server.output
    assert ("transaction(...)" if what == "transaction" else "server_state_lock['k']") in server.output


LATE = (
    HOLD
    + """
        @st.cache_resource
        def replaced():
            return {name: threading.Event() for name in OPERATIONS}

        OPERATIONS = {
            "lock": lambda: server_state_lock["held"].acquire(),
            "read": lambda: server_state.held,
            "write": lambda: server_state.update(held=1),
            "transaction": lambda: transaction("held").__enter__(),
            "wait_for": lambda: wait_for("never"),
        }
        hold()
        verb, _, name = st.text_input("step").partition(" ")
        if verb == "late":
            st.text(f"{name} runs")
            replaced()[name].wait()  # in which a run cannot be stopped
            OPERATIONS[name]()
        elif verb == "look":
            for event in replaced().values():
                event.set()
            runners = [thread for thread in threading.enumerate() if thread.name == "ScriptRunner.scriptThread"]
            st.text(f"look {name}: {len(runners)} runs")
"""
)


@pytest.mark.parametrize("name", ["lock", "read", "write", "transaction", "wait_for"])
def test_run_that_waits_after_it_was_replaced_ends(serve: Serve, name: str) -> None:
    async def steps(client: Client) -> None:
        await client.enter("step", f"late {name}")
        await client.shows(f"{name} runs")
        for number in range(1000):
            await client.enter("step", f"look {number}")
            look = f"look {number}:"
            await client.until(lambda client, look=look: any(text.startswith(look) for text in client.texts))
            if f"look {number}: 1 runs" in client.texts:
                return
        raise AssertionError(client.texts)

    with_clients(serve(LATE), 1, steps)


PARALLEL = """
        @st.fragment(parallel=True)
        def leave(key):
            server_state_lock[key].acquire()
            transaction(key + " too").__enter__()
            server_state[key + " too"] = "torn"
            st.text(f"left {key}")

        step = st.text_input("step")
        if step == "leave":
            leave("a")
            leave("b")
        elif step == "look":
            with server_state_lock["a", "b", "a too", "b too"]:
                st.text(f"all free {dict(server_state)}")
"""


@parallel_fragments
def test_locks_of_a_parallel_fragment_are_released(serve: Serve) -> None:
    server = serve(PARALLEL)

    async def steps(client: Client) -> None:
        await client.enter("step", "leave")
        await client.shows("left a")
        await client.shows("left b")
        await client.enter("step", "look")
        await client.shows("all free {}")

    with_clients(server, 1, steps)
    for key in ("a", "b"):
        assert f"server_state_lock['{key}'], which was released" in server.output
        assert f"discarded: server_state['{key} too']" in server.output


WAITING_FRAGMENT = (
    HOLD
    + """
        @st.fragment(parallel=True)
        def wait():
            st.text("waits")
            server_state["held"]

        hold()
        step = st.text_input("step")
        if step == "wait":
            wait()
        st.text(f"step {step}")
"""
)


@parallel_fragments
def test_parallel_fragment_that_waits_does_not_keep_the_session(serve: Serve) -> None:
    async def steps(client: Client) -> None:
        await client.enter("step", "wait")
        await client.shows("waits")
        await client.enter("step", "next")
        await client.shows("step next")
        await client.until(lambda client: client.settled)

    with_clients(serve(WAITING_FRAGMENT), 1, steps)


BODY_HOLDS = """
        @st.fragment(parallel=True)
        def read():
            st.text(f"n {server_state.get('n', 0)}")

        server_state_lock["n"].acquire()
        st.text("body")
        read()
"""


@parallel_fragments
def test_parallel_fragment_gets_the_locks_that_the_body_has_left(serve: Serve) -> None:
    """The script's thread waits for the fragment, and would hold the lock forever."""
    server = serve(BODY_HOLDS)

    async def steps(client: Client) -> None:
        await client.shows("n 0")
        await client.until(lambda client: client.settled)

    with_clients(server, 1, steps)
    assert "server_state_lock['n'], which was released" in server.output


BOTH_AT_ONCE = """
        @st.cache_resource
        def steps():
            return {"read": threading.Event(), "written": threading.Event()}

        @st.fragment(parallel=True)
        def read():
            n = server_state.get("n", 0)
            steps()["read"].set()
            steps()["written"].wait()
            st.text(f"read {n}")

        @st.fragment(parallel=True)
        def write():
            steps()["read"].wait()
            server_state["n"] = 1
            steps()["written"].set()

        read()
        write()
"""


@parallel_fragments
def test_write_of_one_parallel_fragment_reruns_the_other(serve: Serve) -> None:
    """It reads before that write, and shows the value after it."""

    async def steps(client: Client) -> None:
        await client.shows("read 1")

    with_clients(serve(BOTH_AT_ONCE), 1, steps)


@pytest.mark.parametrize(
    "operation", ["wait_for('never')", "server_state['held']", "server_state_lock['held'].acquire()"]
)
def test_apptest_times_out_in_a_wait(operation: str) -> None:
    at = AppTest.from_string(f"from fastserverstate import *\nimport streamlit as st\nst.text('runs')\n{operation}")
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with server_state_lock["held"]:
            holds.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(30)
    with pytest.raises(RuntimeError, match="timed out"):
        at.run(timeout=1)
    done.set()
    holder.join()
    with server_state_lock["held"]:  # the stopped script does not hold it
        pass


def test_threads_that_are_first_at_the_same_time_make_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parallel fragments of a session that has not used shared state before."""
    bridge = module.Bridge.__new__(module.Bridge)
    bridge._hooking = threading.RLock()
    session = SimpleNamespace()
    together = threading.Barrier(2)
    hooked = []

    def hook(_: object) -> object:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.5)
        hooked.append(object())
        session.__dict__[ATTRIBUTE] = hooked[-1]
        return hooked[-1]

    monkeypatch.setattr(bridge, "_hook", hook)
    monkeypatch.setattr(module, "find_session", lambda _: session)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(bridge._session_of(SimpleNamespace(session_id="id"))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hooked) == 1
    assert found == hooked * 2
