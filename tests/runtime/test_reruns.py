"""The rerun invariants, on a real server. Apps show what they did, and the clients wait for that.

To see that something does *not* happen, a test has something else happen after it: what is counted up to there is all
that there was.
"""

from __future__ import annotations

import asyncio
import textwrap

import pytest
from harness.client import Client
from harness.steps import FENCE, Serve, fence, settle, with_clients


def test_convergence(serve: Serve) -> None:
    """Every session ends up with the last of many values that a thread and the sessions write at the same time."""
    server = serve("""
        def write():
            for i in range(300):
                server_state["from_thread"] = i
                time.sleep(0.001)
        if st.button("start"):
            threading.Thread(target=write).start()
        st.session_state.setdefault("mine", 0)
        if st.button("plus"):
            with server_state_lock["n"]:
                server_state["n"] = server_state.get("n", 0) + 1
            st.session_state.mine += 1
        st.text(f"mine {st.session_state.mine}")
        st.text(f"thread {server_state.get('from_thread')}")
        st.text(f"n {server_state.get('n', 0)}")
    """)

    async def steps(*clients: Client) -> None:
        await clients[0].click("start")
        await clients[0].until(lambda client: "thread None" not in client.texts and client.settled)
        for i in range(1, 5):
            await asyncio.gather(*(client.click("plus") for client in clients))
            await asyncio.gather(*(client.shows(f"mine {i}") for client in clients))
        for client in clients:
            await client.shows("thread 299")
            await client.shows(f"n {4 * len(clients)}")

    with_clients(server, 4, steps)


def test_script_that_calls_stop_is_rerun_once_for_a_change(serve: Serve) -> None:
    """What it has read up to there is what it shows."""
    server = serve("""
        st.session_state.runs = st.session_state.get("runs", 0) + 1
        if st.button("plus"):
            server_state["n"] = server_state.get("n", 0) + 1
        st.text(f"n {server_state.get('n', 0)} in run {st.session_state.runs}")
        st.stop()
    """)

    async def steps(writer: Client, other: Client) -> None:
        for n in range(1, 5):
            await writer.click("plus")
            await other.shows(f"n {n} in run {n + 1}")
            for client in (writer, other):
                await client.until(lambda client: client.settled)

    with_clients(server, 2, steps)
    assert "never completed" not in server.output


def test_no_needless_rerun(serve: Serve) -> None:
    """A run shows a value that changes before the run reads it, and needs no rerun."""
    server = serve(
        """
        @st.cache_resource
        def gates():
            return threading.Event(), threading.Event()
        arrived, go_on = gates()
        if st.button("slow"):
            arrived.set()
            assert go_on.wait(20)
        if st.button("write"):
            assert arrived.wait(20)
            server_state["k"] = "new"
            go_on.set()
        else:
            st.text(f"k {server_state.get('k')}")
        """
        + FENCE
    )

    async def steps(slow: Client, writer: Client) -> None:
        runs = slow.started
        await slow.click("slow")
        await writer.click("write")
        await slow.shows("k new")
        await slow.until(lambda client: client.settled)
        await fence(writer, slow)
        assert slow.started == runs + 2  # the click and the fence

    with_clients(server, 2, steps)


def test_a_run_in_progress_is_not_stopped(serve: Serve) -> None:
    """Every run of a slow script completes although the value changes constantly. The last run shows the last value."""
    server = serve("""
        @st.cache_resource
        def runs():
            return {"started": 0, "completed": 0}
        counts = runs()
        def write():
            while counts["completed"] < 6:
                server_state["k"] = server_state.get("k", 0) + 1
                time.sleep(0.005)
            server_state["k"] = "last"
        counts["started"] += 1
        if st.button("start"):
            threading.Thread(target=write).start()
        k = server_state.get("k")
        for i in range(10):
            time.sleep(0.005)
            st.text(f"part {i}")
        st.text(f"k {k}")
        counts["completed"] += 1
        st.text(f"lost {counts['started'] - counts['completed']}")
    """)

    async def steps(client: Client) -> None:
        await client.click("start")
        await client.shows("k last")
        await client.shows("lost 0")
        assert client.started > 6

    with_clients(server, 1, steps)


def test_clicks_are_served_while_others_write(serve: Serve) -> None:
    server = serve("""
        def write():
            while not server_state.get("stop"):
                server_state["k"] = time.time()
                time.sleep(0.003)
        if st.button("start"):
            threading.Thread(target=write).start()
        if st.button("stop"):
            server_state["stop"] = True
        if st.button("count"):
            for i in range(5):
                st.text(f"work {i}")
                time.sleep(0.002)
            server_state["clicks"] = server_state.get("clicks", 0) + 1
        st.text(f"clicks {server_state.get('clicks', 0)}")
        st.text(f"k {server_state.get('k')}")
    """)

    async def steps(client: Client, other: Client) -> None:
        await other.click("start")
        for i in range(1, 21):
            await client.click("count")
            await client.shows(f"clicks {i}")
        await other.click("stop")

    with_clients(server, 2, steps)


def test_writes_are_coalesced(serve: Serve) -> None:
    """A burst of writes within one run costs each other session one rerun."""
    server = serve("""
        if st.button("burst"):
            for i in range(100):
                server_state["k"] = i
        st.text(f"k {server_state.get('k')}")
    """)

    async def steps(reader: Client, writer: Client) -> None:
        await writer.click("burst")
        await reader.shows("k 99")
        assert reader.started <= 3  # opened, the first of the burst, the last of the burst

    with_clients(server, 2, steps)


def test_only_the_fragment_that_read_is_rerun(serve: Serve) -> None:
    server = serve("""
        @st.cache_resource
        def bodies():
            return {"runs": 0}
        bodies()["runs"] += 1
        st.text(f"body {bodies()['runs']}")

        @st.fragment
        def counter(name):
            st.text(f"{name} {server_state.get(name, 0)}")
            if st.button(f"plus {name}"):
                server_state[name] = server_state.get(name, 0) + 1
        left, right = st.columns(2)
        with left:
            counter("a")
        with right:
            counter("b")
    """)

    async def steps(one: Client, two: Client) -> None:
        bodies = [text for client in (one, two) for text in client.texts if text.startswith("body")]
        for i in (1, 2):
            await one.click("plus a")
            await two.shows(f"a {i}")
            await two.click("plus b")
            await one.shows(f"b {i}")
            await one.shows(f"a {i}")
        assert [text for client in (one, two) for text in client.texts if text.startswith("body")] == bodies
        assert (one.exceptions, two.exceptions) == ([], [])

    with_clients(server, 2, steps)


def test_several_stale_fragments_are_all_rerun(serve: Serve) -> None:
    server = serve("""
        @st.fragment
        def part(name):
            st.text(f"{name} {server_state.get('k', 0)}")
        for name in "abcd":
            with st.container():
                part(name)
        if st.button("plus"):
            server_state["k"] = server_state.get("k", 0) + 1
    """)

    async def steps(reader: Client, writer: Client) -> None:
        await writer.click("plus")
        for client in (reader, writer):
            for name in "abcd":
                await client.shows(f"{name} 1")
        assert reader.started == 1 + 4
        assert reader.fragment_runs == 4

    with_clients(server, 2, steps)


def test_value_read_in_body_and_fragment_reruns_the_body_once(serve: Serve) -> None:
    server = serve(
        """
        if st.button("plus"):
            server_state["k"] = server_state.get("k", 0) + 1
        st.text(f"body {server_state.get('k', 0)}")
        @st.fragment
        def part():
            st.text(f"part {server_state.get('k', 0)}")
        part()
        """
        + FENCE
    )

    async def steps(reader: Client, writer: Client) -> None:
        await writer.click("plus")
        await reader.shows("body 1")
        await reader.shows("part 1")
        await fence(writer, reader)
        assert (reader.started, reader.fragment_runs) == (3, 0)

    with_clients(server, 2, steps)


@pytest.mark.parametrize(
    ("script", "runs_per_click"),
    [
        ("st.text(f\"n {server_state['n']}\")\nif st.button('go'):\n    server_state.n += 1", 2),
        ("if st.button('go'):\n    server_state.n += 1\nst.text(f\"n {server_state['n']}\")", 1),
        (
            "def add():\n    server_state.n += 1\nst.button('go', on_click=add)\nst.text(f\"n {server_state['n']}\")",
            1,
        ),
    ],
    ids=["shown, then written", "written, then shown", "written in a callback"],
)
def test_own_writes_rerun_only_what_was_shown(serve: Serve, script: str, runs_per_click: int) -> None:
    server = serve("if 'n' not in server_state:\n    server_state.n = 0\n" + script + textwrap.dedent(FENCE))

    async def steps(client: Client) -> None:
        for i in range(1, 4):
            await client.click("go")
            await client.shows(f"n {i}")
            await client.until(lambda client, n=1 + i * runs_per_click: client.finished == n)
        await settle(client)
        # `settle` takes one click that shows and one that reruns.
        assert client.started == 1 + 3 * runs_per_click + 1 + 2

    with_clients(server, 1, steps)


def test_a_write_in_every_run_settles_with_one_warning(serve: Serve) -> None:
    """Defect 1 of streamlit-server-state: it never finishes a run of this script."""
    server = serve("""
        st.text(f"before {server_state.get('every_run', 0)}")
        server_state["every_run"] = server_state.get("every_run", 0) + 1
        time.sleep(0.02)
        st.button("again")
        st.text("end")
    """)

    async def steps(client: Client) -> None:
        for clicks in range(3):
            if clicks:
                await client.click("again")
            # The run, and two more for the session's own writes.
            await client.until(lambda client, n=3 * (clicks + 1): client.finished == n)
            await client.shows("end")
            while "would never end" not in server.output:
                await asyncio.sleep(0.01)

    with_clients(server, 1, steps)
    assert server.output.count("server_state['every_run'] is changed at ") == 1


def test_increment_without_showing_never_reruns(serve: Serve) -> None:
    server = serve("""
        server_state.setdefault("visits", 0)
        server_state.visits += 1
        st.text(f"visits {server_state.visits}")
        st.button("again")
    """)

    async def steps(client: Client) -> None:
        for i in range(2, 5):
            await client.click("again")
            await client.shows(f"visits {i}")
        assert client.started == 4

    with_clients(server, 1, steps)


def test_a_write_from_a_fragment_refreshes_its_own_body(serve: Serve) -> None:
    """The body showed the old value in an earlier run, so it has to follow."""
    server = serve("""
        st.text(f"body {server_state.get('k', 0)}")
        @st.fragment
        def part():
            if st.button("plus"):
                server_state["k"] = server_state.get("k", 0) + 1
        part()
    """)

    async def steps(client: Client) -> None:
        await client.click("plus")
        await client.shows("body 1")
        await client.click("plus")
        await client.shows("body 2")

    with_clients(server, 1, steps)


def test_a_transfer_is_never_torn(serve: Serve) -> None:
    """Defect 2: a script that holds a lock between a debit and a credit is not killed by another session's write."""
    server = serve("""
        server_state.setdefault("left", 1000)
        server_state.setdefault("right", 0)
        def transfer():
            with server_state_lock["left"], server_state_lock["right"]:
                server_state.left -= 1
                st.toast("moving")
                time.sleep(0.003)
                st.toast("moved")
                server_state.right += 1
        st.session_state.setdefault("done", 0)
        if st.button("go"):
            transfer()
            st.session_state.done += 1
        st.text(f"done {st.session_state.done}")
        st.text(f"right {server_state.right}")
        st.text(f"sum {server_state.left + server_state.right}")
    """)

    async def steps(*clients: Client) -> None:
        async def transfers(client: Client) -> None:
            for i in range(1, 11):
                await client.click("go")
                await client.shows(f"done {i}")

        await asyncio.gather(*map(transfers, clients))
        for client in clients:
            await client.shows(f"right {10 * len(clients)}")
            await client.shows("sum 1000")

    with_clients(server, 3, steps)


def test_a_script_that_raises_does_not_loop(serve: Serve) -> None:
    server = serve(
        """
        if st.button("break"):
            server_state["broken"] = True
        """
        + FENCE
        + """
        if server_state.get("broken"):
            raise ValueError("on purpose")
    """
    )

    async def steps(client: Client, other: Client) -> None:
        await other.click("break")
        await client.until(lambda client: "ValueError: on purpose" in client.exceptions)
        await fence(other, client)
        assert client.started == 3

    with_clients(server, 2, steps)


def test_no_rerun_and_force(serve: Serve) -> None:
    server = serve(
        """
        if st.button("quiet"):
            with no_rerun:
                with no_rerun:
                    server_state["k"] = "quiet"
                server_state["k"] = "still quiet"
                try:
                    force_rerun_bound_sessions("k")
                except RerunSuppressedError:
                    server_state["refused"] = True
        if st.button("force"):
            force_rerun_bound_sessions("k")
        st.text(f"k {server_state.get('k', '')}")
        st.text(f"refused {server_state.get('refused')}")
        """
        + FENCE
    )

    async def steps(reader: Client, writer: Client) -> None:
        await writer.click("quiet")
        await writer.shows("k still quiet")
        await writer.shows("refused True")
        await fence(writer, reader)
        assert reader.started == 2  # the fence
        await writer.click("force")
        await reader.until(lambda client: client.finished == 3)

    with_clients(server, 2, steps)


def test_a_run_that_was_replaced_subscribes_no_session(serve: Serve) -> None:
    """A click replaces a run immediately. The reads of the old run until it notices subscribe no session."""
    server = serve(
        """
        @st.cache_resource
        def gates():
            return threading.Event(), threading.Event()
        go_on, done = gates()
        server_state.get("anything")
        if st.button("slow"):
            st.text("waiting")
            assert go_on.wait(20)
            server_state.get("read by the old run")
            done.set()
        if st.button("release"):
            go_on.set()
            assert done.wait(20)
        if st.button("write"):
            server_state["read by the old run"] = time.time()
        """
        + FENCE
    )

    async def steps(client: Client, other: Client) -> None:
        await client.click("slow")
        await client.shows("waiting")
        await client.click("fence")  # replaces the slow run
        await client.shows("fence 1")
        await other.until(lambda client: "fence 1" in client.texts and client.settled)
        await other.click("release")
        await other.until(lambda client: client.finished == 3)
        runs = client.started
        await other.click("write")
        await fence(other, client)
        assert client.started == runs + 1

    with_clients(server, 2, steps)
