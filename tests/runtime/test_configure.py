"""`configure`: each option on a real server, and the errors for wrong values."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.client import Client
from harness.steps import FENCE, Serve, fence, with_clients

from fastserverstate import configure
from fastserverstate._instances import settings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rerun_writer": "sometimes"}, "rerun_writer is one of 'stale', 'never', 'always', not 'sometimes'"),
        ({"min_rerun_interval": -1}, "min_rerun_interval is a duration from 0 up, not -1"),
        ({"min_rerun_interval": float("nan")}, "min_rerun_interval is a duration from 0 up"),
        ({"max_parallel_reruns": 0}, "max_parallel_reruns is 1 or more, not 0"),
        ({"gc": "never"}, "gc is one of 'streamlit', 'paced', not 'never'"),
    ],
)
def test_wrong_values_are_refused_and_nothing_is_set(options: dict[str, Any], says: str) -> None:
    before = settings.max_parallel_reruns
    with pytest.raises(ValueError, match=says):
        configure(**{"max_parallel_reruns": before + 1, **options})
    assert settings.max_parallel_reruns == before


def test_timedelta() -> None:
    configure(min_rerun_interval=timedelta(milliseconds=1500))
    assert settings.min_rerun_interval == 1.5
    configure(min_rerun_interval=0)
    assert settings.min_rerun_interval == 0


@pytest.mark.parametrize(("policy", "runs_per_click"), [("stale", 2), ("never", 1), ("always", 2)])
def test_rerun_writer(serve: Serve, policy: str, runs_per_click: int) -> None:
    server = serve(
        f"""
        configure(rerun_writer={policy!r})
        st.text(f"shown first {{server_state.get('n', 0)}}")
        if st.button("plus"):
            server_state["n"] = server_state.get("n", 0) + 1
        st.text(f"n {{server_state.get('n', 0)}}")
        """
    )

    async def steps(client: Client) -> None:
        for i in (1, 2, 3):
            await client.click("plus")
            await client.shows(f"n {i}")
            await client.until(lambda client, n=1 + i * runs_per_click: client.finished == n)
        assert client.started == 1 + 3 * runs_per_click

    with_clients(server, 1, steps)


def test_always_reruns_for_a_value_that_was_not_shown(serve: Serve) -> None:
    server = serve("""
        configure(rerun_writer="always")
        if st.button("plus"):
            server_state["n"] = server_state.get("n", 0) + 1
        st.text(f"n {server_state.get('n', 0)}")
    """)

    async def steps(client: Client) -> None:
        await client.click("plus")
        await client.until(lambda client: client.finished == 3)
        assert "n 1" in client.texts

    with_clients(server, 1, steps)


def test_min_rerun_interval(serve: Serve) -> None:
    """Reruns caused by others keep the interval. The user's own clicks are served immediately."""
    server = serve("""
        configure(min_rerun_interval=2)
        @st.cache_resource
        def starts():
            return []
        now = time.monotonic()
        n = server_state.get("n", 0)
        if st.query_params.get("role") == "reader":
            if st.button("mine"):
                st.session_state.served = True
            elif n:
                starts().append(now)
            st.text(f"served {st.session_state.get('served')}")
        elif st.button("plus"):
            server_state["n"] = n + 1
        gaps = [round(b - a, 3) for a, b in zip(starts(), starts()[1:])]
        st.text(f"gaps {gaps}")
        st.text(f"n {server_state.get('n', 0)}")
    """)

    async def steps(writer: Client) -> None:
        async with Client(server.websocket_url, query="role=reader") as reader:
            await reader.until(lambda client: client.settled)
            await writer.click("plus")
            await reader.shows("n 1")
            await reader.click("mine")
            await reader.shows("served True")
            for i in (2, 3, 4):
                await writer.click("plus")
                await writer.shows(f"n {i}")
            await reader.shows("n 4")
            gaps = eval(next(text for text in reader.texts if text.startswith("gaps"))[5:])
            assert gaps
            assert min(gaps) >= 1  # scripts start a moment after their reruns were requested, in any order

    with_clients(server, 1, steps)


def test_reruns_are_admitted_a_few_at_a_time(serve: Serve) -> None:
    """Invariant 7: of many sessions that are due, no more run at the same time than can make progress."""
    server = serve("""
        @st.cache_resource
        def load():
            return {"now": 0, "most": 0, "lock": threading.Lock()}
        load = load()
        if st.button("plus"):
            server_state["n"] = server_state.get("n", 0) + 1
        with load["lock"]:
            load["now"] += 1
            load["most"] = max(load["most"], load["now"])
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        with load["lock"]:
            load["now"] -= 1
        st.text(f"n {server_state.get('n', 0)}")
        st.text(f"most {load['most']}")
        if st.button("reset"):
            load["most"] = 0
    """)

    async def steps(*clients: Client) -> None:
        await clients[0].click("reset")
        await clients[0].until(lambda client: client.finished == 2 and client.settled)
        await clients[0].click("plus")
        for client in clients:
            await client.shows("n 1")
        # The writer's own run and one rerun, and a few more when the processor was idle. Without the
        # rerun queue, all run at the same time.
        most = max(int(text.split()[1]) for client in clients for text in client.texts if text.startswith("most"))
        assert most <= 12

    with_clients(server, 24, steps)


def test_runs_that_wait_do_not_hold_up_the_others(serve: Serve) -> None:
    """While a rerun waits, others are admitted: here, all of them wait for each other."""
    server = serve("""
        @st.cache_resource
        def meeting():
            return threading.Barrier(16)
        if st.button("plus"):
            server_state["n"] = 1
        elif server_state.get("n"):
            meeting().wait(10)
        st.text(f"n {server_state.get('n', 0)}")
    """)

    async def steps(writer: Client, *clients: Client) -> None:
        await writer.click("plus")
        for client in clients:
            await client.shows("n 1")

    with_clients(server, 17, steps)


def test_a_run_that_never_ends_blocks_no_other_session(serve: Serve) -> None:
    server = serve("""
        if st.query_params.get("role") == "endless" and server_state.get("n"):
            st.text("endless")
            while not server_state.get("stop"):
                sum(range(10_000))
            st.text("stopped")
        if st.button("plus"):
            server_state["n"] = server_state.get("n", 0) + 1
        if st.button("stop"):
            server_state["stop"] = True
        st.text(f"n {server_state.get('n', 0)}")
    """)

    async def steps(client: Client, writer: Client) -> None:
        async with Client(server.websocket_url, query="role=endless") as endless:
            await endless.until(lambda client: client.settled)
            await writer.click("plus")
            await endless.shows("endless")
            for i in (2, 3):
                await writer.click("plus")
                await client.shows(f"n {i}")
            await writer.click("stop")
            await endless.shows("stopped")

    with_clients(server, 2, steps)


VOTES = """
    {configured}
    votes = server_state.setdefault("votes", {{"Tea": 0}})
    server_state.setdefault("rows", [])

    def vote():
        server_state["votes"]["Tea"] += 1  # in a callback

    @st.fragment
    def part():
        if st.button("add"):
            server_state["rows"].append(1)  # in a fragment

    def assign():
        server_state["votes"]["Tea"] += 1
        server_state["votes"] = server_state["votes"]

    st.button("vote", on_click=vote)
    st.button("assign", on_click=assign)
    part()
    st.text(f"votes {{votes['Tea']}}")
"""


@pytest.mark.parametrize("configured", ["", "configure(detect_inplace=True)"])
def test_detect_inplace(serve: Serve, tmp_path: Path, configured: str) -> None:
    """One warning for each key, with the line of the app that reads it, however many sessions read it."""
    server = serve(VOTES.format(configured=configured))

    async def steps(client: Client, _other: Client) -> None:
        for n in (1, 2):
            await client.click("assign")
            await client.shows(f"votes {n}")
        assert "in place" not in server.output
        for n in (3, 4):
            await client.click("vote")
            await client.shows(f"votes {n}")
        await client.click("add")
        await client.until(lambda client: client.settled)

    with_clients(server, 2, steps)
    warnings = [line for line in server.output.splitlines() if "was changed in place" in line]
    assert len(warnings) == 2
    script = tmp_path / "app" / "main.py"
    lines = script.read_text().splitlines()
    for key, comment, warning in zip(("votes", "rows"), ("# in a callback", "# in a fragment"), warnings, strict=True):
        at = next(number for number, line in enumerate(lines, 1) if line.endswith(comment))
        assert f"server_state['{key}'] was changed in place" in warning
        assert f"It was read at {script}:{at} in " in warning


def test_detect_inplace_can_be_switched_off(serve: Serve) -> None:
    server = serve(VOTES.format(configured="configure(detect_inplace=False)"))

    async def steps(client: Client) -> None:
        await client.click("vote")
        await client.shows("votes 1")

    with_clients(server, 1, steps)
    assert "in place" not in server.output


def test_min_rerun_interval_of_a_key(serve: Serve) -> None:
    """Changes of other keys are not held back by it, and the last value is shown when the interval is over."""
    server = serve("""
        configure("slow/*", min_rerun_interval="1h")
        if st.button("slow"):
            atomic.increment("slow/n")
        if st.button("quick"):
            atomic.increment("quick")
        if st.button("release"):
            configure("slow/n", min_rerun_interval=0)
        st.text(f"slow {server_state.get('slow/n')} quick {server_state.get('quick')}")
    """)

    async def steps(writer: Client, client: Client) -> None:
        await writer.click("slow")
        await client.shows("slow 1 quick None")
        for n in (2, 3):
            await writer.click("slow")
            await writer.shows(f"slow {n} quick None")
        await client.until(lambda client: client.settled)
        assert "slow 1 quick None" in client.texts
        await writer.click("quick")
        await client.shows("slow 3 quick 1")
        await writer.click("slow")
        await writer.shows("slow 4 quick 1")
        await writer.click("release")
        await client.shows("slow 4 quick 1")

    with_clients(server, 2, steps)


def test_interval_of_a_key_ends_by_itself(serve: Serve) -> None:
    server = serve("""
        configure("n", min_rerun_interval="300ms")
        if st.button("plus"):
            for _ in range(5):
                atomic.increment("n")
        st.text(f"n {server_state.get('n')}")
    """)

    async def steps(writer: Client, client: Client) -> None:
        for n in (5, 10, 15):
            await writer.click("plus")
            await writer.shows(f"n {n}")
        await client.shows("n 15")

    with_clients(server, 2, steps)


def test_on_change_in_a_script_calls_once(serve: Serve) -> None:
    server = serve("""
        from fastserverstate import on_change

        def report(key, value):
            atomic.increment("calls")

        on_change("n", report)
        if st.button("plus"):
            atomic.increment("n")
        st.text(f"n {server_state.get('n')}, calls {server_state.get('calls')}")
    """)

    async def steps(writer: Client, client: Client) -> None:
        for n in (1, 2, 3, 4):
            await writer.click("plus")
            await client.shows(f"n {n}, calls {n}")

    with_clients(server, 2, steps)


def test_force_rerun_of_a_key_that_is_watched_and_not_set(serve: Serve) -> None:
    server = serve("""
        from fastserverstate import force_rerun_bound_sessions

        if st.button("force"):
            force_rerun_bound_sessions("absent")
        st.session_state.runs = st.session_state.get("runs", 0) + 1
        with server_state_lock["absent"]:
            st.text(f"run {st.session_state.runs}, {'absent' in server_state}")
    """)

    async def steps(writer: Client, client: Client) -> None:
        for run in (2, 3):
            await writer.click("force")
            await writer.shows(f"run {run}, False")
            await client.shows(f"run {run}, False")

    with_clients(server, 2, steps)


GARBAGE = """
        import gc as collector
        from fastserverstate._instances import scheduler
        from fastserverstate.rerun.gc_policy import resident_bytes
        from streamlit import config
        configure(gc="paced")
        class Node:
            pass
        def litter():
            for _ in range(10):
                node = Node()
                node.itself, node.ballast = node, bytearray(200_000)
        litter()
        if st.button("plus"):
            server_state["n"] = server_state.get("n", 0) + 1
        st.text(f"n {server_state.get('n', 0)}")
        st.text(f"collections {scheduler.gc_policy.collections}")
        st.text(f"megabytes {resident_bytes() >> 20}")
        st.text(f"streamlit collects {config.get_option('runner.postScriptGC')}")
        st.button("again")
"""


def number(client: Client, name: str) -> int:
    return next(int(text.rpartition(" ")[2]) for text in client.texts if text.startswith(name))


def test_paced_collection_bounds_garbage(serve: Serve) -> None:
    """2 MB of cycles in every run: 400 runs would be 800 MB. The bound is 64 MiB or a quarter, twice in a fan-out."""
    server = serve(GARBAGE)

    async def steps(client: Client, other: Client) -> None:
        await client.shows("streamlit collects False")
        start = number(client, "megabytes")
        for i in range(1, 201):
            await client.click("plus")
            await client.shows(f"n {i}")
            await other.shows(f"n {i}")
        assert number(client, "megabytes") - start < 2 * 64 + 60
        assert number(client, "collections") < 100

    with_clients(server, 2, steps)


def test_paced_collection_when_idle(serve: Serve) -> None:
    server = serve(GARBAGE)

    async def steps(client: Client) -> None:
        await client.click("again")
        await client.until(lambda client: client.settled)
        done = number(client, "collections")
        deadline = asyncio.get_running_loop().time() + 20
        while number(client, "collections") == done and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.4)  # wait until the server is idle
            runs = client.finished
            await client.click("again")
            await client.until(lambda client, n=runs: client.finished > n)
        assert number(client, "collections") > done

    with_clients(server, 1, steps)


def test_objects_that_survive_a_run_are_left_out_of_the_next_collection(serve: Serve) -> None:
    """Streamlit's collection after every run stays on, and traverses few objects."""
    server = serve("""
        import gc as collector
        st.text(f"objects {len(collector.get_objects())}")
        server_state.get("n")
        st.button("again")
    """)

    async def steps(client: Client) -> None:
        before = number(client, "objects")
        for runs in range(2, 5):
            await client.click("again")
            await client.until(lambda client, runs=runs: client.finished == runs)
        assert number(client, "objects") < before / 5  # the other objects are frozen

    with_clients(server, 1, steps)


def test_number_of_left_out_objects_is_bounded(serve: Serve) -> None:
    """Reruns of many sessions without a pause, with 2 MB of cycles in every run."""
    server = serve(GARBAGE.replace('configure(gc="paced")', "").replace("scheduler.gc_policy.collections", "0"))

    async def steps(writer: Client, *clients: Client) -> None:
        start = number(writer, "megabytes")
        for i in range(1, 31):
            await writer.click("plus")
            for client in clients:
                await client.shows(f"n {i}")
        assert number(writer, "megabytes") - start < 2 * 64 + 60

    with_clients(server, 16, steps)


def test_big_old_objects_that_an_app_drops_are_freed(serve: Serve) -> None:
    """200 objects of 8 MB. Each is in a cycle, and is frozen before the app drops it."""
    server = serve("""
        import resource

        class Big:
            def __init__(self):
                self.itself = self
                self.content = bytearray(8 * 2**20)

        server_state.get("n")
        st.button("again")
        runs = st.session_state["runs"] = st.session_state.get("runs", 0) + 1
        if runs % 2:
            st.session_state["big"] = Big()
        st.text(f"megabytes {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")
    """)

    async def steps(client: Client) -> None:
        start = number(client, "megabytes")
        for runs in range(2, 401):
            await client.click("again")
            await client.until(lambda client, runs=runs: client.finished == runs)
        assert number(client, "megabytes") - start < 2 * 64 + 60

    with_clients(server, 1, steps)


def test_streamlit_s_own_collection_is_given_back(serve: Serve) -> None:
    server = serve(
        """
        from streamlit import config
        before = config.get_option("runner.postScriptGC")
        configure(gc="paced")
        during = config.get_option("runner.postScriptGC")
        configure(gc="streamlit")
        st.text(f"{before} {during} {config.get_option('runner.postScriptGC')}")
        """
        + FENCE
    )

    async def steps(client: Client, other: Client) -> None:
        await client.shows("True False True")
        await fence(client, other)

    with_clients(server, 2, steps)
