"""Locks, transactions and waits in stopped scripts: no thread hangs, no lock stays held, no write is partial."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from harness.client import Client
from harness.steps import FENCE, HOLD, Serve, fence, settle, shown, with_clients
from streamlit.runtime.scriptrunner import ScriptRunner

WAITING = (
    HOLD
    + """
        OPERATIONS = {
            "lock": lambda: server_state_lock["held"].acquire(),
            "several locks": lambda: server_state_lock["free", "held"].acquire(),
            "patient lock": lambda: server_state_lock["held"].acquire(timeout=1000),
            "read": lambda: server_state.held,
            "in": lambda: "held" in server_state,
            "write": lambda: server_state.update(held=1),
            "delete": lambda: server_state.pop("held", None),
            "increment": lambda: atomic.increment("held"),
            "atomic": lambda: atomic("held", int, default=0),
            "declared": lambda: transaction("free", "held").__enter__(),
            "undeclared": lambda: in_transaction(),
            "edit": lambda: edit("free", "held", default={}).__enter__(),
            "write in an edit": lambda: in_edit(),
            "wait_for": lambda: wait_for("never"),
            "patient wait_for": lambda: wait_for("never", timeout=1000),
        }

        def in_transaction():
            with transaction("free"):
                server_state["free"] = 1
                server_state["held"] = 1

        def in_edit():
            with edit("free", default={}) as draft:
                draft["n"] = 1
                server_state["held"] = 1

        hold()
        name = st.text_input("operation")
        if name in OPERATIONS:
            st.text(f"waits for {name}")
            try:
                OPERATIONS[name]()
            except Exception as error:
                st.text(f"error {error!r}")
            st.text("got through")
        else:
            st.text(f"{name} done, free is free: {server_state_lock['free'].acquire(blocking=False)}")
            server_state_lock["free"].release()
            runners = [thread for thread in threading.enumerate() if thread.name == "ScriptRunner.scriptThread"]
            st.text(f"runners {len(runners)}")
            st.text(f"free {server_state.get('free')}")
"""
)
OPERATIONS = [line.split('"')[1] for line in WAITING.splitlines() if line.strip().startswith('"')]


def test_waiting_run_ends_when_the_user_interacts(serve: Serve) -> None:
    async def steps(client: Client) -> None:
        for name in OPERATIONS:
            await client.enter("operation", name)
            await client.shows(f"waits for {name}")
            assert "got through" not in client.texts
        await client.enter("operation", "nothing")
        await client.shows("nothing done, free is free: True")
        assert "free None" in client.texts  # the writes of the transaction were discarded

    with_clients(serve(WAITING), 1, steps)


def test_waiting_run_ends_when_its_session_is_closed(serve: Serve) -> None:
    server = serve(WAITING)

    async def steps(judge: Client) -> None:
        for name in OPERATIONS:
            async with Client(server.websocket_url) as client:
                await client.until(lambda client: client.settled)
                await client.enter("operation", name)
                await client.shows(f"waits for {name}")
        for number in range(1000):
            await judge.enter("operation", f"look {number}")
            await judge.shows(f"look {number} done, free is free: True")
            if "runners 1" in judge.texts:
                break
        assert "runners 1" in judge.texts

    with_clients(server, 1, steps)


LEAVING = """
        def throw(error):
            raise error

        ENDS = {
            "stop": st.stop,
            "rerun": st.rerun,
            "error": lambda: 1 / 0,
            "exit": lambda: throw(SystemExit),
            "interrupt": lambda: throw(KeyboardInterrupt),
            "forget": lambda: None,
        }
        end = st.text_input("end")
        if end in ENDS and not st.session_state.get(end):
            st.session_state[end] = True
            server_state_lock["k"].acquire()
            with server_state_lock["a", "b"]:
                server_state["k"] = end
                ENDS[end]()
        elif end:
            wait_for("k")
            with server_state_lock["k"], server_state_lock["a", "b"]:
                st.text(f"{server_state['k']} has ended")
"""


# Older releases of Streamlit do not report the end of such a run, so that only `with` releases the lock.
SAYS_ALWAYS = "finally" in inspect.getsource(ScriptRunner._run_script_thread)


@pytest.mark.parametrize("end", ["stop", "rerun", "error", "forget", *(["exit", "interrupt"] if SAYS_ALWAYS else [])])
def test_lock_that_a_run_has_left_is_released(serve: Serve, end: str) -> None:
    server = serve(LEAVING)

    async def steps(client: Client, other: Client) -> None:
        await client.enter("end", end)
        await other.enter("end", "look")
        await other.shows(f"{end} has ended")

    with_clients(server, 2, steps)
    assert "has ended while it held server_state_lock['k'], which was released" in server.output


INTERRUPTED = f"""
{LEAVING[: LEAVING.index("        if end in ENDS")]}
        if end in ENDS and not st.session_state.get(end):
            st.session_state[end] = True
            with server_state_lock["k"], server_state_lock["a", "b"]:
                server_state["began"] = True
                with transaction("c"), edit("draft", default=[]) as draft:
                    server_state["c"] = server_state["not named"] = 1
                    draft.append(1)
                    ENDS[end]()
        elif end:
            wait_for("began")
            with server_state_lock["k"], server_state_lock["a", "b"], transaction("c", "not named", "draft"):
                st.text(f"{{list(server_state)}} is set")
"""


@pytest.mark.parametrize("end", ["stop", "rerun", "error", "exit", "interrupt"])
def test_run_that_is_interrupted_in_locks_a_transaction_and_an_edit_leaves_nothing(serve: Serve, end: str) -> None:
    server = serve(INTERRUPTED)

    async def steps(client: Client, other: Client) -> None:
        await client.enter("end", end)
        await other.enter("end", "look")
        await other.shows("['began'] is set")

    with_clients(server, 2, steps)
    assert "has ended while it held" not in server.output


LEFT_OPEN = """
        end = st.text_input("end")
        if end in ("stop", "rerun") and not st.session_state.get(end):
            st.session_state[end] = True
            transaction("c").__enter__()
            server_state["c"] = 1
            st.stop() if end == "stop" else st.rerun()
        elif end:
            server_state[end] = True
            st.text(f"{sorted(server_state)} is set")
"""


@pytest.mark.parametrize("end", ["stop", "rerun"])
def test_transaction_that_a_run_has_left_open_is_discarded(serve: Serve, end: str) -> None:
    """The next run on the thread is not in the transaction."""

    async def steps(client: Client, other: Client) -> None:
        runs = client.finished
        await client.enter("end", end)
        await client.until(lambda client: client.finished > runs and client.settled)
        await client.enter("end", "next")
        await client.until(lambda client: any("next" in text for text in client.texts))
        await other.enter("end", "look")
        await other.until(lambda client: any("look" in text for text in client.texts))
        assert any("'next'" in text for text in other.texts)
        assert not any("'c'" in text for text in other.texts)

    with_clients(serve(LEFT_OPEN), 2, steps)


TRANSFERS = """
        st.button("move")
        server_state.setdefault("left", 50)
        server_state.setdefault("right", 50)
        for _ in range(20):
            with transaction("left", "right"):
                server_state["left"] -= 1
                st.text("in between")  # here a run is stopped when another one was asked for
                time.sleep(0.002)
                server_state["right"] += 1
        server_state["runs"] = peek("runs", 0) + 1
"""


def test_sum_is_kept_by_runs_that_are_interrupted(serve: Serve) -> None:
    source = f"""
        if st.query_params.get("role") == "judge":
{FENCE}
            with transaction("left", "right"):
                st.text(f"sum {{server_state.get('left', 50) + server_state.get('right', 50)}}")
            st.stop()
{TRANSFERS}
"""
    server = serve(source.replace(FENCE, FENCE.replace("\n        ", "\n            ")))

    async def steps(judge: Client) -> None:
        async def click(client: Client) -> None:
            async with client:
                await client.until(lambda client: client.started > 0)
                for _ in range(40):
                    started = client.started
                    await client.rerun()
                    await client.until(lambda client, n=started: client.started > n)

        clients = [Client(server.websocket_url) for _ in range(3)]
        clicking = asyncio.gather(*map(click, clients))
        while not clicking.done():
            await fence(judge)
            assert shown(judge, "sum") == 100
        await clicking
        assert sum(client.started for client in clients) >= 120

    async def with_judge() -> None:
        async with Client(server.websocket_url, query="role=judge") as judge:
            await settle(judge)
            await steps(judge)

    asyncio.run(with_judge())


DEADLOCK = """
        first, _, second = st.text_input("order").partition(" ")
        if second and not st.session_state.get("done"):
            st.session_state["done"] = True
            try:
                with server_state_lock[first]:
                    atomic.increment("holding")
                    wait_for("holding", lambda number: number == 2)
                    with server_state_lock[second]:
                        st.text("got both")
            except DeadlockError as error:
                st.text(f"deadlock {error}")
"""


def test_deadlock_of_two_sessions_is_an_error_in_one(serve: Serve) -> None:
    async def steps(one: Client, other: Client) -> None:
        await one.enter("order", "a b")
        await other.enter("order", "b a")
        for client in (one, other):
            await client.until(lambda client: bool(client.texts))
        messages = [text for text in one.texts + other.texts if text.startswith("deadlock ")]
        assert len(messages) == 1
        for client in (one, other):
            assert f"of session {client.session_id}" in messages[0]
        assert ("got both" in one.texts) != ("got both" in other.texts)

    with_clients(serve(DEADLOCK), 2, steps)
