"""`shared`: one value in the widgets of all sessions."""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any

import numpy as np
import pytest
import streamlit
from harness.client import Client
from harness.steps import FENCE, Serve, fence, with_clients
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest

from fastserverstate import server_state


class Browser(Client):
    """A client that treats text inputs as a browser does.

    It sends the values of all inputs that it shows, and adopts the values that the server sends, except while it is
    `deaf`, as if these were still on their way.
    """

    deaf = False
    born_deaf = ""  # the box with this label starts with its own value, whatever the server has sent

    def _apply(self, message: ForwardMsg) -> None:
        super()._apply(message)
        boxes = [element.text_input for kind, element, _ in self._elements.values() if kind == "text_input"]
        for box in boxes:
            new = box.id not in self._widgets
            if new or (box.set_value and not self.deaf):
                value = box.value if box.set_value and not (new and box.label == self.born_deaf) else box.default
                self._widgets[box.id] = WidgetState(id=box.id, string_value=value)
                box.set_value = False
        if message.WhichOneof("type") == "script_finished":
            self._widgets = {box.id: self._widgets[box.id] for box in boxes}

    def value(self, label: str) -> str:
        return self._widgets[self.element(label)[0].id].string_value

    async def has(self, label: str, value: str) -> None:
        await self.until(lambda client: client.settled and client.value(label) == value)

    def type(self, label: str, text: str) -> None:
        """Fill in a box, and send nothing."""
        box = self.element(label)[0]
        self._widgets[box.id] = WidgetState(id=box.id, string_value=text)

    async def submit(self, button: str, **values: str) -> None:
        """Fill in the boxes of a form and submit it."""
        for label, value in values.items():
            self.type(label, value)
        await self.click(button)


def seconds(**constants: float) -> str:
    """Return code of an app that sets the constants of `shared`. A minute or nothing does not depend on the machine."""
    return f"""
        import sys
        vars(sys.modules["fastserverstate.shared_widgets"]).update({constants})
"""


# Updates may be in transit for a minute.
SLOW_DELIVERY = seconds(DELIVERY_TIME=60.0)
CLICK = """
        st.button("click")
"""
ABOVE = """
        st.text(f"above {server_state.get('text')}")
"""
BOX = """
        st.session_state.runs = st.session_state.get("runs", 0) + 1
        text = st.text_input("box", **shared("text", default="first"))
        st.text(f"text {text}")
"""


def test_a_change_runs_every_session_once(serve: Serve) -> None:
    """No session writes an update back, and the session that has changed the value is not rerun for it."""
    server = serve(ABOVE + BOX + FENCE)

    async def steps(*clients: Browser) -> None:
        for number in range(4):
            client = clients[number % len(clients)]
            runs = [each.started for each in clients]
            await client.enter("box", f"text {number}")
            for each in clients:
                await each.has("box", f"text {number}")
                await each.shows(f"text text {number}")
                await each.shows(f"above text {number}")
            await fence(*clients)
            others = [each.started - before for each, before in zip(clients[1:], runs[1:], strict=True)]
            assert others == [2, 2]  # the change and the fence

    with_clients(server, 3, steps, Browser)


def test_the_session_that_changes_is_not_rerun_for_it(serve: Serve) -> None:
    server = serve(ABOVE + BOX + FENCE)

    async def steps(ours: Browser, theirs: Browser) -> None:
        # The first run sets the value that the next run shows above.
        await ours.until(lambda client: "above first" in client.texts and client.settled)
        runs = ours.started
        await ours.enter("box", "ours")
        await theirs.has("box", "ours")
        await fence(theirs, ours)
        assert ours.started - runs == 2  # the change and the fence

    with_clients(server, 2, steps, Browser)


def test_outdated_value_is_no_change(serve: Serve) -> None:
    """A click in a browser that has not received another session's change is sent with the earlier value."""
    server = serve(
        SLOW_DELIVERY
        + """
        st.session_state.clicks = st.session_state.get("clicks", 0)
        def count():
            st.session_state.clicks += 1
            st.session_state.at_click = st.session_state.text
        st.button("click", on_click=count)
        """
        + BOX
        + """
        st.text_input("mine", key="mine", on_change=count)
        st.text(f"clicks {st.session_state.clicks} {st.session_state.get('at_click')}")
        """
    )

    async def steps(ours: Browser, theirs: Browser) -> None:
        await ours.enter("box", "older")
        await theirs.has("box", "older")
        ours.deaf = True
        for number, act in enumerate((lambda: ours.click("click"), lambda: ours.enter("mine", "private")), 1):
            await theirs.enter("box", f"newer {number}")
            await ours.shows(f"text newer {number}")
            await act()
            await ours.shows(f"clicks {number} newer {number}")
            await ours.shows(f"text newer {number}")
            await theirs.has("box", f"newer {number}")
        ours.deaf = False
        await ours.click("click")
        await ours.has("box", "newer 2")
        await theirs.has("box", "newer 2")

    with_clients(server, 2, steps, Browser)


TWO_BOXES = """
        st.text_input("one", **shared("one", default="first"))
        st.text_input("two", **shared("two", default="first"))
        st.session_state.runs = st.session_state.get("runs", 0) + 1
        st.text(f"{server_state.one} {server_state.two} {st.session_state.runs}")
"""


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_values_that_are_sent_again_do_not_change_newer_values(serve: Serve, first: str) -> None:
    """Most releases of Streamlit send all values again when a slider was moved there and back.

    The other box is outdated, but was not set back; or both are outdated, and a message can set back only one.
    """
    server = serve(seconds(DELIVERY_TIME=60.0, REACTION_TIME=60.0) + TWO_BOXES)

    async def steps(ours: Browser, theirs: Browser) -> None:
        ours.deaf = True
        await {"ours": ours, "theirs": theirs}[first].enter("two", "changed")
        await ours.shows("first changed 2")
        await theirs.enter("one", "theirs")
        await ours.shows("theirs changed 3")
        await ours.rerun()
        await ours.shows("theirs changed 4")

    with_clients(server, 2, steps, Browser)


def test_a_widget_set_back_after_a_change_of_another_is_a_change(serve: Serve) -> None:
    """The same message, but its user has had the time to see the update."""
    server = serve(seconds(DELIVERY_TIME=60.0, REACTION_TIME=0.0) + TWO_BOXES)

    async def steps(ours: Browser, theirs: Browser) -> None:
        await ours.enter("two", "ours")
        await theirs.has("two", "ours")
        await theirs.enter("one", "theirs")
        await ours.has("one", "theirs")
        await ours.enter("one", "first")
        await theirs.has("one", "first")
        assert (ours.value("one"), ours.value("two")) == ("first", "ours")

    with_clients(server, 2, steps, Browser)


def test_a_value_in_transit_when_another_was_set_is_no_change(serve: Serve) -> None:
    """It arrives after that, so the browser shows it and sends it until it receives the newer value."""
    server = serve(SLOW_DELIVERY + CLICK + BOX)

    async def steps(ours: Browser, theirs: Browser) -> None:
        ours.deaf = True
        await theirs.enter("box", "theirs")
        await ours.shows("text theirs")
        await ours.enter("box", "ours")
        await theirs.has("box", "ours")
        await ours.until(lambda client: client.settled)
        ours.deaf = False
        ours.type("box", "theirs")
        await ours.click("click")
        await ours.has("box", "ours")
        await theirs.click("click")
        await theirs.has("box", "ours")

    with_clients(server, 2, steps, Browser)


def test_a_value_that_never_reached_the_browser_is_no_change_of_it(serve: Serve) -> None:
    """A busy browser skips the updates of a run if the next run's messages follow immediately."""
    server = serve(CLICK + BOX)

    class Busy(Browser):
        born_deaf = "box"

    async def steps(ours: Browser, theirs: Browser) -> None:
        for client in (theirs, ours):
            assert client.value("box") == ""
            await client.click("click")
            await client.shows("text first")
            await client.has("box", "first")
        # Without any other trigger, the user has changed the box.
        await theirs.enter("box", "")
        await ours.has("box", "")

    with_clients(server, 2, steps, Busy)


class LateOne(Browser):
    born_deaf = "one"


def test_a_new_widget_receives_its_value_again(serve: Serve) -> None:
    """A browser that creates a widget late creates it as the next run describes it."""
    server = serve(seconds(DELIVERY_TIME=60.0, CREATION_TIME=60.0) + TWO_BOXES)

    async def steps(ours: LateOne, theirs: LateOne) -> None:
        assert ours.value("one") == ""
        await theirs.enter("two", "theirs")
        await ours.has("two", "theirs")
        assert ours.value("one") == "first"

    with_clients(server, 2, steps, LateOne)


def test_a_new_widget_receives_its_value_again_only_if_needed(serve: Serve) -> None:
    """It would overwrite text that the user is typing."""
    server = serve(
        seconds(DELIVERY_TIME=60.0, CREATION_TIME=60.0)
        + CLICK
        + """
        st.text_input("empty", **shared("empty", default=""))
        """
        + TWO_BOXES
    )

    async def steps(ours: Browser, theirs: Browser) -> None:
        ours.type("empty", "typing")  # a browser that creates the box without an update shows an empty one, too
        await theirs.enter("two", "theirs")
        await ours.has("two", "theirs")
        assert ours.value("empty") == "typing"
        ours.type("empty", "")
        await ours.click("click")
        await ours.until(lambda client: client.settled)
        ours.type("one", "typing")  # now it has sent the value back
        await theirs.enter("two", "theirs again")
        await ours.has("two", "theirs again")
        assert ours.value("one") == "typing"

    with_clients(server, 2, steps, Browser)


def test_first_change_to_the_widgets_own_value_is_a_change(serve: Serve) -> None:
    """A browser without the update would send the same value, but here it has no other reason to send it."""
    server = serve(SLOW_DELIVERY + BOX)

    async def steps(ours: Browser, theirs: Browser) -> None:
        await ours.has("box", "first")
        await ours.enter("box", "")
        await theirs.has("box", "")
        assert ours.value("box") == ""

    with_clients(server, 2, steps, Browser)


def test_a_widget_set_back_next_to_a_value_that_never_reached_the_browser(serve: Serve) -> None:
    server = serve(seconds(DELIVERY_TIME=60.0, CREATION_TIME=0.0) + TWO_BOXES)

    async def steps(ours: LateOne, theirs: LateOne) -> None:
        await theirs.enter("two", "theirs")
        await ours.has("two", "theirs")
        assert ours.value("one") == ""
        await ours.enter("two", "first")
        await ours.has("one", "first")
        for client in (ours, theirs):
            await client.has("two", "first")
            await client.has("one", "first")

    with_clients(server, 2, steps, LateOne)


@pytest.mark.skipif(
    tuple(map(int, streamlit.__version__.split(".")[:2])) > (1, 43),
    reason="in this Streamlit release, browsers forget no widgets",
)
def test_a_widget_that_the_browser_forgets_is_not_set_to_its_own_value(serve: Serve) -> None:
    server = serve(CLICK + BOX)

    async def steps(ours: Browser, theirs: Browser) -> None:
        await ours.enter("box", "entered")
        await theirs.has("box", "entered")
        for client in (theirs, ours):
            client.type("box", "")
            await client.click("click")
            for each in (theirs, ours):
                await each.has("box", "entered")
                await each.shows("text entered")
        # Without any other trigger, the user has emptied the box.
        await theirs.enter("box", "")
        await ours.has("box", "")

    with_clients(server, 2, steps, Browser)


has_timers = pytest.mark.skipif(
    not hasattr(ClientState(), "is_auto_rerun"), reason="in this Streamlit release, browsers do not tell of timers"
)


@pytest.mark.parametrize(
    ("fragment", "by_timer"),
    [("below", False), pytest.param("box", True, marks=has_timers)],
    ids=["another fragment", "timer"],
)
def test_outdated_value_with_a_click_in_a_fragment_is_no_change(serve: Serve, fragment: str, by_timer: bool) -> None:
    """A change is sent with a run of the widget's own fragment, and never by a timer."""
    server = serve(
        SLOW_DELIVERY
        + """
        @st.fragment
        def part():
            st.text("shown " + st.text_input("box", **shared("text", default="first")))
        @st.fragment
        def another():
            st.text_input("below")
        part()
        another()
        if st.button("look"):
            st.session_state.looks = st.session_state.get("looks", 0) + 1
            st.session_state.seen = server_state.text
        st.text(f"{st.session_state.get('looks')}: {st.session_state.get('seen')}")
        """
    )

    async def steps(ours: Browser, theirs: Browser) -> None:
        ours.deaf = True
        for number, text in enumerate(("one", "two"), 1):
            await theirs.enter("box", text)
            await ours.shows(f"shown {text}")
            runs = ours.finished
            await ours.rerun(fragment=ours.element(fragment)[1], by_timer=by_timer)
            await ours.until(lambda client, runs=runs: client.settled and client.finished > runs)
            await theirs.click("look")
            await theirs.shows(f"{number}: {text}")
            assert theirs.value("box") == text

    with_clients(server, 2, steps, Browser)


def test_a_widget_set_back_immediately_is_a_change(serve: Serve) -> None:
    """An outdated session would send the same value, but here the browser has no other reason to send it."""
    server = serve(BOX)

    async def steps(ours: Browser, theirs: Browser) -> None:
        for _ in range(5):
            await ours.enter("box", "on")
            await theirs.has("box", "on")
            await theirs.enter("box", "first")
            await ours.has("box", "first")

    with_clients(server, 2, steps, Browser)


def test_the_last_of_two_wins_in_both_sessions(serve: Serve) -> None:
    """A session sets the value before it receives the other's change. Both end up with the later value."""
    server = serve(SLOW_DELIVERY + BOX)

    async def steps(ours: Browser, theirs: Browser) -> None:
        ours.deaf = True
        await theirs.enter("box", "theirs")
        await ours.shows("text theirs")
        await ours.enter("box", "ours")
        ours.deaf = False
        await ours.shows("text ours")
        await ours.has("box", "ours")
        await theirs.has("box", "ours")

    with_clients(server, 2, steps, Browser)


def test_callbacks_see_and_set_the_value(serve: Serve) -> None:
    server = serve(
        """
        def note():
            st.session_state.noted = server_state["text"]
        def by_session_state():
            st.session_state.text = "by session state"
        def by_server_state():
            server_state["text"] = "by server state"
        st.button("session state", on_click=by_session_state)
        st.button("server state", on_click=by_server_state)
        st.text_input("box", on_change=note, **shared("text", default="first"))
        st.text(f"noted {st.session_state.get('noted')}")
        """
    )

    async def steps(ours: Browser, theirs: Browser) -> None:
        await ours.enter("box", "typed")
        await ours.shows("noted typed")
        await theirs.has("box", "typed")
        assert "noted None" in theirs.texts
        for name in ("session state", "server state", "session state"):
            await ours.click(name)
            await ours.has("box", f"by {name}")
            await theirs.has("box", f"by {name}")

    with_clients(server, 2, steps, Browser)


def test_callbacks_that_rerun(serve: Serve) -> None:
    """`st.rerun()` in a callback has taken effect since Streamlit 1.63: the run ends before the script begins."""
    server = serve("""
        def note():
            st.session_state.calls = st.session_state.get("calls", 0) + 1
            st.rerun()
        def by_server_state():
            server_state["text"] = "set"
            st.rerun()
        st.button("set", on_click=by_server_state)
        st.text_input("box", on_change=note, **shared("text", default="first"))
        st.text(f"text {server_state.text} {st.session_state.get('calls', 0)}")
        """)

    async def steps(ours: Browser, theirs: Browser) -> None:
        for number in (1, 2):
            await ours.enter("box", f"text {number}")
            await ours.shows(f"text text {number} {number}")
            await theirs.has("box", f"text {number}")
            await theirs.click("set")
            for client in (ours, theirs):
                await client.has("box", "set")
            await theirs.shows("text set 0")

    with_clients(server, 2, steps, Browser)


@pytest.mark.skipif(
    tuple(map(int, streamlit.__version__.split(".")[:2])) < (1, 66), reason="this Streamlit release has no 'ignore'"
)
def test_values_that_arrive_with_the_next_run(serve: Serve) -> None:
    """A browser keeps what is set in a widget with on_change="ignore" until something else makes it send all values."""
    server = serve(
        seconds(CREATION_TIME=0.0)
        + """
        st.text_input("box", on_change="ignore", **shared("text", default="first"))
        st.button("send")
        st.button("count", on_click=atomic.increment, args=("count",))
        st.text(f"{server_state.text} {server_state.get('count', 0)}")
        """
    )

    async def steps(ours: Browser, theirs: Browser) -> None:
        ours.type("box", "ours")
        await theirs.click("count")  # our rerun neither overwrites our text nor sends it
        for client in (ours, theirs):
            await client.shows("first 1")
        assert ours.value("box") == "ours"
        await ours.click("send")
        for client in (ours, theirs):
            await client.shows("ours 1")
            await client.has("box", "ours")
        ours.type("box", "lost")
        theirs.type("box", "theirs")
        await theirs.click("send")  # the last change that arrives wins, and overwrites unsent text
        for client in (ours, theirs):
            await client.shows("theirs 1")
            await client.has("box", "theirs")

    with_clients(server, 2, steps, Browser)


def test_two_widgets_of_one_session(serve: Serve) -> None:
    server = serve("""
        st.text_input("one", **shared("text", default="first"))
        st.text_input("two", **shared("text", default="first", widget_key="another"))
        """)

    async def steps(ours: Browser, theirs: Browser) -> None:
        for number, label in enumerate(("one", "two", "two", "one")):
            runs = ours.started
            await ours.enter(label, f"text {number}")
            for client in (ours, theirs):
                await client.has("one", f"text {number}")
                await client.has("two", f"text {number}")
            assert ours.started == runs + 1

    with_clients(server, 2, steps, Browser)


def test_form(serve: Serve) -> None:
    """Only values that the user has changed and submitted are published."""
    server = serve("""
        with st.form("form"):
            st.text_input("name", **shared("name", default="no name"))
            st.text_input("place", **shared("place", default="nowhere"))
            st.form_submit_button("submit")
        st.button("elsewhere")
        st.text(f"{server_state.name} {server_state.place}")
        """)

    async def steps(ours: Browser, theirs: Browser) -> None:
        await ours.submit("submit", name="Ada")
        await theirs.has("name", "Ada")
        await theirs.shows("Ada nowhere")
        await theirs.submit("submit", place="London")
        await ours.has("place", "London")
        await ours.shows("Ada London")
        await theirs.until(lambda client: client.settled)
        await theirs.submit("submit", name="Bob", place="Paris")
        for client in (ours, theirs):
            await client.has("name", "Bob")
            await client.has("place", "Paris")
        await ours.click("elsewhere")
        await theirs.click("elsewhere")
        for client in (ours, theirs):
            await client.until(lambda client: client.settled)
            assert "Bob Paris" in client.texts

    with_clients(server, 2, steps, Browser)


def test_fragment(serve: Serve) -> None:
    """Only the fragment runs, in both sessions."""
    server = serve("""
        st.session_state.body = st.session_state.get("body", 0) + 1
        st.text(f"body {st.session_state.body}")
        @st.fragment
        def part():
            st.text("shown " + st.text_input("box", **shared("text", default="first")))
        part()
        """)

    async def steps(ours: Browser, theirs: Browser) -> None:
        for client, text in ((ours, "one"), (theirs, "two"), (ours, "three")):
            await client.enter("box", text)
            for each in (ours, theirs):
                await each.shows(f"shown {text}")
                await each.has("box", text)
        assert "body 1" in ours.texts
        assert "body 1" in theirs.texts

    with_clients(server, 2, steps, Browser)


def test_a_widget_that_was_left_out_comes_back_with_the_current_value(serve: Serve) -> None:
    server = serve("""
        hidden = st.session_state.setdefault("hidden", False)
        def turn():
            st.session_state.hidden = not st.session_state.hidden
        st.button("turn", on_click=turn)
        st.text(f"hidden {hidden}")
        if not hidden:
            st.text_input("box", **shared("text", default="first"))
        """)

    async def steps(ours: Browser, theirs: Browser) -> None:
        await ours.enter("box", "older")
        await theirs.has("box", "older")
        await ours.click("turn")
        await ours.shows("hidden True")
        await theirs.enter("box", "newer")
        await theirs.until(lambda client: client.settled)
        await ours.click("turn")
        await ours.shows("hidden False")
        await ours.has("box", "newer")
        assert theirs.value("box") == "newer"

    with_clients(server, 2, steps, Browser)


def test_without_a_default_the_widget_has_its_own(serve: Serve) -> None:
    server = serve("""
        st.text_input("box", "its own", **shared("text"))
        st.text(f"set {'text' in server_state} {st.session_state.text}")
        """)

    async def steps(ours: Browser, theirs: Browser) -> None:
        await ours.shows("set False its own")
        await ours.enter("box", "ours")
        await ours.shows("set True ours")
        await theirs.has("box", "ours")

    with_clients(server, 2, steps, Browser)


REFUSED = {
    "chat_input": "st.chat_input('label', **shared('refused'))",
    "chat_input with a default": "st.chat_input('label', **shared('refused', default='text'))",
    "button": "st.button('label', **shared('refused'))",
    "data_editor": "st.data_editor([[1]], **shared('refused', default=1))",
    "file_uploader": "st.file_uploader('label', **shared('refused', default=None))",
    "camera_input": "st.camera_input('label', **shared('refused', default=None))",
    "download_button": "st.download_button('label', 'data', **shared('refused'))",
    "a chart": "st.vega_lite_chart([1], {'params': [{'name': 'p', 'select': 'point'}]}, on_select='rerun', "
    "**shared('refused'))",
}
if hasattr(streamlit, "audio_input"):
    REFUSED["audio_input"] = "st.audio_input('label', **shared('refused', default=None))"
if hasattr(streamlit, "menu_button"):
    REFUSED["menu_button"] = "st.menu_button('label', ['a'], **shared('refused'))"


@pytest.mark.parametrize("source", REFUSED.values(), ids=REFUSED)
def test_widgets_that_only_their_user_can_set(source: str) -> None:
    for message in messages_of_runs(source, 2):
        assert message.startswith("shared('refused') was given to a widget whose value only its user can set")
        assert "docs/shared-widgets.md" in message


def messages_of_runs(source: str, runs: int) -> list[str]:
    """Return the error that the script raises in each of its runs."""
    app = AppTest.from_string("import datetime\nimport streamlit as st\nfrom fastserverstate import shared\n" + source)
    messages = []
    try:
        for _ in range(runs):
            (error,) = app.run(timeout=30).exception
            messages.append(error.message)
        return messages
    finally:
        server_state.clear()


NOT_OFFERED = {
    "selectbox": "st.selectbox('label', ['a', 'b'], **shared('value', default='z'))",
    "selectbox, formatted": "st.selectbox('l', ['a', 'b'], format_func=str.upper, **shared('value', default='A'))",
    "radio": "st.radio('label', ['a', 'b'], **shared('value', default='z'))",
    "multiselect": "st.multiselect('label', ['a', 'b'], **shared('value', default=['z']))",
    "multiselect, one of two": "st.multiselect('label', ['a', 'b'], **shared('value', default=['a', 'z']))",
    "multiselect, too many": "st.multiselect('l', ['a', 'b'], max_selections=1, **shared('value', default=['a', 'b']))",
    "select_slider": "st.select_slider('label', ['a', 'b'], **shared('value', default='z'))",
    "slider": "st.slider('label', 0, 10, **shared('value', default=50))",
    "slider, another type": "st.slider('label', 0, 10, **shared('value', default='5'))",
    "slider, range": "st.slider('label', 0, 10, **shared('value', default=(8, 2)))",
    "number_input": "st.number_input('label', 0, 10, **shared('value', default=50))",
    "text_input": "st.text_input('label', max_chars=2, **shared('value', default='abc'))",
    "text_input, another type": "st.text_input('label', **shared('value', default=5))",
    "color_picker": "st.color_picker('label', **shared('value', default='red'))",
    "date_input": "st.date_input('label', max_value=datetime.date(2021, 1, 1), "
    "min_value=datetime.date(2020, 1, 1), **shared('value', default=datetime.date(2026, 1, 1)))",
    "date_input, another type": "st.date_input('label', **shared('value', default='2026-01-01'))",
    "time_input": "st.time_input('label', **shared('value', default='10:00'))",
    "pills": "st.pills('label', ['a', 'b'], **shared('value', default='z'))",
    "pills, several": "st.pills('l', ['a', 'b'], selection_mode='multi', **shared('value', default=['z']))",
    "segmented_control": "st.segmented_control('label', ['a', 'b'], **shared('value', default='z'))",
    "pagination": "st.pagination(3, **shared('value', default=9))",
}


@pytest.mark.parametrize("kind", [kind for kind in NOT_OFFERED if hasattr(streamlit, kind.split(",", maxsplit=1)[0])])
def test_a_default_that_the_widget_does_not_offer(kind: str) -> None:
    (message,) = messages_of_runs(NOT_OFFERED[kind], 1)
    assert message.startswith("shared('value', default=")
    assert "does not offer this value of type" in message


OFFERED = {
    "a number of another type": "st.slider('label', 0, 10, **shared('value', default=5.0))",
    "a number for a truth value": "st.checkbox('label', **shared('value', default=1))",
    "a tuple": "st.multiselect('label', ['a', 'b'], **shared('value', default=('a',)))",
    "a time for a date": "st.date_input('label', **shared('value', default=datetime.datetime(2026, 1, 1)))",
    "nothing": "st.selectbox('label', ['a', 'b'], **shared('value', default=None))",
}


@pytest.mark.parametrize("source", OFFERED.values(), ids=OFFERED)
def test_a_default_that_streamlit_converts(source: str) -> None:
    app = AppTest.from_string("import datetime\nimport streamlit as st\nfrom fastserverstate import shared\n" + source)
    try:
        for _ in range(3):
            assert not app.run(timeout=30).exception
    finally:
        server_state.clear()


TWO = {
    "called twice": "st.slider('a', 0, 9, **shared('value', default=1)); "
    "st.number_input('b', 0, 9, **shared('value', default=1))",
    "called once": "args = shared('value', default='x'); st.text_input('a', **args); st.text_input('b', **args)",
    "without a default": "st.text_input('a', **shared('value')); st.text_input('b', **shared('value'))",
    "one with widget_key": "st.text_input('a', **shared('value')); "
    "st.text_input('b', **shared('another', widget_key='value'))",
}


@pytest.mark.parametrize("source", TWO.values(), ids=TWO)
def test_one_key_for_two_widgets_of_a_run(source: str) -> None:
    for message in messages_of_runs(source, 2):
        assert "was given to two widgets in this run" in message
        assert "widget_key=" in message


def test_elements_without_a_value() -> None:
    for message in messages_of_runs("st.dataframe([1], **shared('value'))", 2):
        assert message.startswith("shared('value') was given to an element that has no value to share")
    if hasattr(streamlit, "pagination"):
        for element in ("st.container(**shared('value'))", "st.expander('label', **shared('value'))"):
            assert "on_change='rerun'" in messages_of_runs(element, 1)[0]


def test_the_first_widget_of_a_process_is_checked(serve: Serve) -> None:
    """Python looks up `st.selectbox` before it calls `shared`."""
    server = serve("""
        try:
            st.selectbox("label", ["a", "b"], **shared("value", default="z"))
        except FastServerStateError as error:
            st.text(str(error)[:34])
        """)

    async def steps(client: Client) -> None:
        await client.shows("shared('value', default='z') was g")

    with_clients(server, 1, steps)


DAYS = [date(2026, 1, 2), date(2026, 1, 5), date(2026, 3, 4)]
KINDS: dict[str, tuple[str, Any, Any]] = {
    "slider": ("st.slider('label', 0, 100, **arguments)", 50, 70),
    "select_slider": ("st.select_slider('label', ['a', 'b', 'c'], **arguments)", "b", "c"),
    "text_input": ("st.text_input('label', **arguments)", "one", "two"),
    "text_area": ("st.text_area('label', **arguments)", "one", "two"),
    "number_input": ("st.number_input('label', 0, 100, **arguments)", 1, 2),
    "selectbox": ("st.selectbox('label', ['a', 'b', 'c'], **arguments)", "b", "c"),
    "radio": ("st.radio('label', ['a', 'b', 'c'], **arguments)", "b", "c"),
    "multiselect": ("st.multiselect('label', ['a', 'b', 'c'], **arguments)", ["b"], ["b", "c"]),
    "checkbox": ("st.checkbox('label', **arguments)", True, False),
    "toggle": ("st.toggle('label', **arguments)", True, False),
    "color_picker": ("st.color_picker('label', **arguments)", "#ff0000", "#00ff00"),
    "date_input": ("st.date_input('label', **arguments)", DAYS[0], DAYS[2]),
    "time_input": ("st.time_input('label', **arguments)", time(1, 0), time(2, 30)),
    "slider, a range": ("st.slider('label', 0, 100, **arguments)", (20, 30), (40, 50)),
    "date_input, a range": ("st.date_input('label', **arguments)", (DAYS[0], DAYS[1]), (DAYS[1], DAYS[2])),
    "text_input, empty at first": ("st.text_input('label', **arguments)", None, "two"),
}
# Streamlit has them, or AppTest can use them, in newer releases only.
NEWER_KINDS: dict[str, tuple[str, Any, Any]] = {
    "datetime_input": ("st.datetime_input('label', **arguments)", datetime(2026, 1, 2, 1), datetime(2026, 1, 3, 2)),
    "pills": ("st.pills('label', ['a', 'b', 'c'], **arguments)", "b", "c"),
    "pills, several": ("st.pills('label', ['a', 'b'], selection_mode='multi', **arguments)", ["a"], ["a", "b"]),
    "segmented_control": ("st.segmented_control('label', ['a', 'b', 'c'], **arguments)", "b", "c"),
    "feedback": ("st.feedback('stars', **arguments)", 1, 3),
    "pagination": ("st.pagination(10, **arguments)", 1, 3),
}
for name, kind in NEWER_KINDS.items():
    if all(hasattr(where, name.split(",", maxsplit=1)[0]) for where in (streamlit, AppTest)):
        KINDS[name] = kind


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_widgets(kind: str) -> None:
    """Each widget has the shared value from its first run on, and can set it."""
    source, first, second = KINDS[kind]
    script = f"""
import datetime
import streamlit as st
from fastserverstate import shared
arguments = shared("value", default={first!r})
st.text(repr({source}))
"""
    try:
        ours, theirs = AppTest.from_string(script).run(timeout=30), AppTest.from_string(script).run(timeout=30)
        assert (ours.text[0].value, theirs.text[0].value) == (repr(first), repr(first))
        widget = getattr(ours, kind.split(",", maxsplit=1)[0])[0]
        widget.set_value(second)
        ours.run(timeout=30)
        theirs.run(timeout=30)
        assert server_state["value"] == second
        assert (ours.text[0].value, theirs.text[0].value) == (repr(second), repr(second))
        assert not ours.exception
        assert not theirs.exception
    finally:
        server_state.clear()


def test_values_are_not_shared_by_reference() -> None:
    """A change in place in the session state is not shared."""
    script = """
import streamlit as st
from fastserverstate import shared
arguments = shared("value", default=["a"])
st.session_state["value"].append("b")
st.multiselect("label", ["a", "b"], **arguments)
"""
    try:
        app = AppTest.from_string(script).run(timeout=30)
        assert not app.exception
        assert server_state["value"] == ["a"]
    finally:
        server_state.clear()


OPENED = {
    "tabs": ("[tab.open for tab in st.tabs(['a', 'b'], on_change='rerun', **arguments)]", ("b", "a")),
    "expander": ("[st.expander('label', on_change='rerun', **arguments).open]", (True, False)),
    "popover": ("[st.popover('label', on_change='rerun', **arguments).open]", (True, False)),
}


@pytest.mark.skipif(not hasattr(streamlit, "pagination"), reason="in this Streamlit release they have no value")
@pytest.mark.parametrize("kind", OPENED)
def test_elements_that_open_and_close(kind: str) -> None:
    source, values = OPENED[kind]
    script = f"""
import streamlit as st
from fastserverstate import shared
arguments = shared("value", default={values[0]!r})
st.text({source}[-1])
"""
    try:
        app = AppTest.from_string(script).run(timeout=30)
        assert app.text[0].value == "True"
        server_state["value"] = values[1]
        assert app.run(timeout=30).text[0].value == "False"
        assert not app.exception
    finally:
        server_state.clear()


def test_values_that_cannot_be_compared() -> None:
    """They are passed to Streamlit, which raises its own error."""
    script = """
import streamlit as st
from fastserverstate import shared
arguments = shared("value")
st.text(type(st.session_state["value"]).__name__)
"""
    try:
        server_state["value"] = np.arange(3)
        app = AppTest.from_string(script).run(timeout=30)
        app.run(timeout=30)
        assert not app.exception
        assert app.text[0].value == "ndarray"
    finally:
        server_state.clear()


def test_session_state_shows_no_private_keys() -> None:
    script = """
import streamlit as st
from fastserverstate import shared
st.text_input("label", **shared("value", default=""))
st.text(sorted(st.session_state))
"""
    try:
        assert AppTest.from_string(script).run(timeout=30).text[0].value == "['value']"
    finally:
        server_state.clear()


@pytest.mark.skipif(not hasattr(streamlit, "pills"), reason="this Streamlit release has none")
def test_pills(serve: Serve) -> None:
    server = serve("""
        st.button("other", on_click=lambda: server_state.update(value="b"))
        st.text(f"chosen {st.pills('label', ['a', 'b'], **shared('value', default='a'))}")
        """)

    async def steps(ours: Client, theirs: Client) -> None:
        await ours.shows("chosen a")
        await ours.click("other")
        await theirs.shows("chosen b")

    with_clients(server, 2, steps)
