"""Events on a real server: each session gets each event once, in order, whatever interrupts its runs."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from harness.client import Client
from harness.server import AppServer
from harness.steps import FENCE, Serve, fence, with_clients

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
        import faulthandler; faulthandler.register(10, all_threads=True)
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
        print(server.output[-3000:])
        await clients[-1].enter("number", "100")
        for client in clients:
            try:
                await client.until(lambda client: len(received(client)) >= 100, 20)
            except TimeoutError:
                print(server.output[-6000:], [len(received(c)) for c in clients])
                import os; os.kill(server.process.pid, 10); await asyncio.sleep(1); open("/tmp/hE_dump.txt","w").write(server.output)
                raise
        await asyncio.gather(*clicks)
        for client in clients:
            await client.click("click")
            await client.until(lambda client: client.settled)
            assert received(client) == list(range(100))

    with_receivers(server, 50, steps)
