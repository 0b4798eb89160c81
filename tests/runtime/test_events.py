"""Events on a real server: each session gets each event once, in order, whatever interrupts its runs."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from harness.client import Client
from harness.server import AppServer
from harness.steps import FENCE, Serve, with_clients

# Emits as many events as the user enters, one by one.
EMIT = """
        def audience():
            return {"to": st.query_params["to"]} if "to" in st.query_params else {}

        def emit_all():
            def run():
                first = server_state.get("emitted", 0)
                for number in range(first, first + int(st_number)):
                    emit("n", number, **to)
                    time.sleep(pause)
                server_state["emitted"] = first + int(st_number)
            st_number, to, pause = st.session_state["number"], audience(), 0.02
            threading.Thread(target=run).start()

        st.text_input("number", key="number", on_change=emit_all)
"""


class Receiver(Client):
    """Records the events that the browser is shown, and those that it is shown as toasts."""

    def __init__(self, url: str, **arguments: Any) -> None:
        super().__init__(url, **arguments)
        self.got: list[int] = []
        self.toasts: list[str] = []

    def _apply(self, message: Any) -> None:
        super()._apply(message)
        if message.WhichOneof("type") == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            if element.WhichOneof("type") == "toast":
                self.toasts.append(element.toast.body)
            elif element.WhichOneof("type") == "text" and element.text.body.startswith("got "):
                self.got.append(int(element.text.body[4:]))

    async def gets(self, *numbers: int) -> None:
        """Wait until it was shown so many events, which have to be these."""
        await self.until(lambda _: len(self.got) >= len(numbers))
        assert self.got == [*numbers]


def with_receivers(server: AppServer, count: int, steps: Any) -> None:
    with_clients(server, count, steps, Receiver)


@pytest.mark.parametrize("show", ["st.text(f'got {event}')", "st.toast(f'got {event}')"])
def test_each_session_gets_each_event_once_while_clicks_interrupt_its_runs(serve: Serve, show: str) -> None:
    server = serve(
        EMIT
        + f"""
        st.button("click")
        for event in events("n"):
            {show}
            time.sleep(0.002)
        for step in range(5):
            time.sleep(0.002)
            st.text(f"step {{step}}")
        """,
        options={"runner.postScriptGC": "false"},
    )
    chance = random.Random(5)

    def received(client: Receiver) -> list[int]:
        return client.got + [int(text[4:]) for text in client.toasts]

    async def steps(*clients: Receiver) -> None:
        async def click(client: Receiver) -> None:
            while len(received(client)) < 100:
                await asyncio.sleep(chance.uniform(0.2, 1.5))
                await client.click("click")

        clicks = [asyncio.create_task(click(client)) for client in clients[:25]]
        try:
            await clients[-1].enter("number", "100")
            for client in clients:
                await client.until(lambda client: len(received(client)) >= 100)
            await asyncio.gather(*clicks)
        finally:
            for task in clicks:
                task.cancel()
        for client in clients:
            await client.click("click")
            await client.until(lambda client: client.settled)
            assert received(client) == list(range(100))

    with_receivers(server, 50, steps)


SHOW = """
        st.session_state["runs"] = st.session_state.get("runs", 0) + 1
        for event in events("n", replay=int(st.query_params.get("replay", 0))):
            st.text(f"got {event}")
        st.text(f"run {st.session_state['runs']}")
"""


def test_a_new_session_gets_none_or_the_last_events(serve: Serve) -> None:
    server = serve(EMIT + SHOW)

    async def steps(first: Receiver) -> None:
        await first.enter("number", "5")
        await first.gets(0, 1, 2, 3, 4)
        async with (
            Receiver(server.websocket_url) as none,
            Receiver(server.websocket_url, query="replay=2") as last,
        ):
            for client in (none, last):
                await client.until(lambda client: client.settled)
            assert (none.got, last.got) == ([], [3, 4])
            await first.enter("number", "1")
            await none.gets(5)
            await last.gets(3, 4, 5)

    with_receivers(server, 1, steps)


def test_a_session_that_was_away_gets_what_was_kept(serve: Serve) -> None:
    server = serve(EMIT + SHOW + FENCE)

    async def steps(first: Receiver) -> None:
        async with Receiver(server.websocket_url) as away:
            await away.until(lambda client: client.settled)
        await first.enter("number", "130")
        await first.until(lambda client: len(client.got) == 130)
        async with Receiver(server.websocket_url, resume=away.session_id) as returned:
            await returned.until(lambda client: len(client.got) >= 100)
            assert returned.got == list(range(30, 130))

    with_receivers(server, 1, steps)


AUDIENCES = """
        from streamlit.runtime.scriptrunner import get_script_run_ctx
        from fastserverstate import _instances

        @st.cache_resource
        def groups():
            joined = {}
            _instances._readers.groups_of = lambda live: joined.get(live, ())
            return joined

        def join():
            groups()[_instances.bridge.session_of_run()] = {"g"}

        name = st.query_params.get("name")
        get_script_run_ctx().user_info = {"email": f"{name}@example.com"} if name else {}
        st.button("join", on_click=join)
        st.button("to g", on_click=emit, args=("n", 1), kwargs={"to": "g"})
        st.button("to Ann", on_click=emit, args=("n", 2), kwargs={"to": {"email": "Ann@example.com"}})
        st.button("to all", on_click=emit, args=("n", 3))
"""


def test_only_the_audience_gets_an_event_and_is_rerun(serve: Serve) -> None:
    server = serve(AUDIENCES + SHOW)

    async def steps(member: Receiver, other: Receiver) -> None:
        async with Receiver(server.websocket_url, query="name=ann") as ann:
            await ann.until(lambda client: client.settled)
            await member.click("join")
            await member.shows("run 2")
            await other.click("to g")
            await member.gets(1)
            await other.click("to Ann")
            await ann.gets(2)
            await other.click("to all")
            await other.gets(3)
            await member.gets(1, 3)
            await ann.gets(2, 3)
            for client, runs in ((member, 4), (other, 4), (ann, 3)):
                await client.shows(f"run {runs}")
                await client.until(lambda client: client.settled)
            assert [client.started for client in (member, other, ann)] == [4, 4, 3]

    with_receivers(server, 2, steps)


def test_joining_in_a_run_that_has_read_the_topic(serve: Serve) -> None:
    server = serve(
        AUDIENCES
        + SHOW
        + """
        if "joins" in st.query_params and not st.session_state.get("joined"):
            st.session_state["joined"] = True
            join()
            _instances._topics.joined("g")
        """
    )

    async def steps(other: Receiver) -> None:
        async with Receiver(server.websocket_url, query="joins=1") as member:
            await member.until(lambda client: client.settled)
            await other.click("to g")
            await member.gets(1)

    with_receivers(server, 1, steps)


def test_a_script_that_reruns_itself_for_each_event_ends(serve: Serve) -> None:
    server = serve(
        EMIT
        + """
        for event in events("n"):
            st.session_state.setdefault("seen", []).append(event)
            st.text("a message")
            st.rerun()
        st.text(f"seen {st.session_state.get('seen')}")
        """
    )

    async def steps(client: Receiver) -> None:
        await client.enter("number", "3")
        await client.shows("seen [0, 1, 2]")

    with_receivers(server, 1, steps)


def test_a_session_gets_its_own_events(serve: Serve) -> None:
    server = serve(SHOW + '        if st.button("emit"):\n            emit("n", 7)\n')

    async def steps(client: Receiver, other: Receiver) -> None:
        await client.click("emit")
        await client.gets(7)
        await other.gets(7)
        await client.shows("run 3")
        await client.until(lambda client: client.settled)
        assert (client.started, other.started) == (3, 2)

    with_receivers(server, 2, steps)


def test_an_event_reruns_the_fragment_that_reads(serve: Serve) -> None:
    server = serve("""
        st.session_state["runs"] = st.session_state.get("runs", 0) + 1

        @st.fragment
        def show():
            for event in events("n"):
                st.text(f"got {event}")

        show()
        st.text(f"run {st.session_state['runs']}")
        st.button("emit", on_click=emit, args=("n", 1))
    """)

    async def steps(client: Receiver, other: Receiver) -> None:
        await other.click("emit")
        await client.gets(1)
        assert "run 1" in client.texts

    with_receivers(server, 2, steps)


BROADCAST = """
        st.session_state["runs"] = st.session_state.get("runs", 0) + 1

        def toast(text):
            threading.Thread(target=broadcast, args=(st.toast, text)).start()

        st.button("thread", on_click=toast, args=("from a thread",))
        st.button("callback", on_click=broadcast, args=(st.toast, "from a callback"))
        st.button("hold", on_click=lambda: server_state.update(held=True))
        st.button("release", on_click=lambda: server_state.update(held=False))
        if "waits" in st.query_params and peek("held"):
            st.text("held")
            wait_for("held", lambda held: not held, timeout=20)
        st.text(f"run {st.session_state['runs']}")
"""


def test_a_toast_to_idle_running_and_absent_sessions(serve: Serve) -> None:
    server = serve(BROADCAST)

    async def steps(first: Receiver, idle: Receiver) -> None:
        await idle.until(lambda client: client.settled)
        async with Receiver(server.websocket_url) as away:
            await away.until(lambda client: client.settled)
        await first.click("hold")
        await first.until(lambda client: client.settled)
        async with Receiver(server.websocket_url, query="waits=1") as running:
            await running.shows("held")
            await first.click("thread")
            await idle.until(lambda client: client.toasts)
            await first.until(lambda client: client.toasts)
            assert running.toasts == []
            async with Receiver(server.websocket_url) as late:
                await late.until(lambda client: client.settled)
                await first.click("release")
                await running.until(lambda client: client.toasts)
                await first.click("callback")
                expected = ["from a thread", "from a callback"]
                async with Receiver(server.websocket_url, resume=away.session_id) as returned:
                    for client in (first, idle, running, returned):
                        await client.until(lambda client: len(set(client.toasts)) == 2)
                        assert list(dict.fromkeys(client.toasts)) == expected
                await late.until(lambda client: client.toasts)
                assert late.toasts == ["from a callback"]
        assert (idle.started, idle.finished) == (1, 1)

    with_receivers(server, 2, steps)


def test_a_toast_to_sessions_that_do_not_use_shared_state(serve: Serve) -> None:
    server = serve("""
        st.button("click")
        if "sends" in st.query_params:
            st.button("send", on_click=broadcast, args=(st.toast, "hello"))
            if tuple(map(int, st.__version__.split(".")[:2])) >= (1, 44):
                with st.sidebar:
                    broadcast(st.balloons)
        st.text("end")
    """)

    async def steps(one: Receiver, two: Receiver) -> None:
        async with Receiver(server.websocket_url, query="sends=1") as sender:
            await sender.shows("end")
            await sender.click("send")
            for client in (one, two, sender):
                await client.until(lambda client: client.toasts == ["hello"])
        await one.click("click")
        await one.until(lambda client: client.settled)
        assert (one.started, two.started) == (2, 1)

    with_receivers(server, 2, steps)
