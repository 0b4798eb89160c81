"""Whatever became of a session's last run, what is on its screen goes on to be updated."""

from __future__ import annotations

import inspect

import pytest
import streamlit
from harness.steps import Serve, with_tabs
from harness.tab import Tab
from streamlit.proto.BackMsg_pb2 import BackMsg

HAS_KEYS = "key" in inspect.signature(streamlit.fragment).parameters

# What was executed of a run depends on the way in which it ends. The parts show one number each, at several places.
APP = """
        import inspect

        keyed = "key" in inspect.signature(st.fragment).parameters

        def part(name):
            return st.fragment(key=name) if keyed else st.fragment

        def end(way):
            if way == "stops":
                st.stop()
            elif way == "fails":
                raise ValueError("meant")
            elif way == "reruns":
                st.rerun()
            elif way == "exits":
                raise SystemExit
            elif way == "reruns a fragment":
                st.rerun("f")
            elif way == "reruns fragments of which the first stops":
                st.session_state.first_stops = True
                st.rerun(["f", "g"])
            elif way == "waits":
                st.text("waits")
                while True:
                    time.sleep(0.01)
                    st.empty()

        def show(name):
            st.text(f"{name} {server_state.get('n', 0)}")

        def callback():
            end(st.session_state.way)

        @part("f")
        def f():
            if st.session_state.pop("first_stops", False):
                st.stop()
            show("f")
            if st.button("in f"):
                show("clicked")
                end(st.session_state.way)
            show("end of f")

        @part("g")
        def g():
            show("g")

        st.text_input("way", key="way")
        st.button("in a callback", on_click=callback)
        clicked = st.button("in the body")
        show("head")
        f()
        if clicked:
            end(st.session_state.way)
        g()
        show("tail")
        if st.button("plus"):
            atomic.increment("n")
"""

NAMES = ("head", "f", "end of f", "g", "tail")
PLACES = ("in a callback", "in the body", "in f")
WAYS = ["stops", "fails", "reruns", "exits", "stopped by the user", "replaced"]
WAYS += ["reruns a fragment", "reruns fragments of which the first stops"] if HAS_KEYS else []


def is_current(tab: Tab, number: int) -> bool:
    """Whether the tab shows something, and all of it is of this number."""
    shown = [text.rpartition(" ") for text in tab.texts if text.rpartition(" ")[2].isdigit()]
    return bool(shown) and all(int(value) == number for _, _, value in shown)


async def stop(tab: Tab) -> None:
    """Click on Streamlit's Stop button."""
    message = BackMsg()
    message.stop_script = True
    await tab._socket.send(message.SerializeToString())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_on_the_screen_is_updated(serve: Serve, place: str, way: str) -> None:
    async def steps(tab: Tab, other: Tab) -> None:
        waits = way in {"stopped by the user", "replaced"}
        await tab.enter("way", "waits" if waits else way)
        await tab.until(lambda tab: tab.settled)
        finished = tab.finished
        await tab.click(place)
        if waits:
            await tab.shows("waits")
            await (stop(tab) if way == "stopped by the user" else tab.rerun())
        if way != "exits":  # which ends the thread, and the browser hears of no end
            await tab.until(lambda tab: tab.finished > finished and tab.settled)
        for number in range(1, 6 if way == "exits" else 3):  # such a script never comes to its end
            await other.click("plus")
            await tab.until(lambda tab, number=number: is_current(tab, number))
            await other.until(lambda tab, number=number: is_current(tab, number))

    with_tabs(serve(APP), 2, steps)
