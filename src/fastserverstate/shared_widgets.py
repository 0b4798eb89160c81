"""`shared`: widgets that show the same value in every session.

With every action of its user, a browser sends the values of all widgets of a page, without saying which one changed.
The value of a shared widget may be outdated: another session may have replaced it, and the browser has not received
that yet. Treating it as a change would undo the other session's change, and two users who move two sliders at the same
time would keep resetting each other's. So this module remembers which values each browser may be showing.

A browser may send anything. A value that its widget does not offer is ignored, and a session whose widget cannot take
the shared value shows another value: one user cannot break another user's page.
"""

from __future__ import annotations

import copy
import logging
import reprlib
import time
from collections import deque
from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict

from fastserverstate._core import plain_key
from fastserverstate.errors import FastServerStateError
from fastserverstate.state import ServerState

logger = logging.getLogger("fastserverstate")

# After this many seconds, a browser shows the value that it was sent, even over a slow connection.
UNHEARD = 1.0
# Minimum time in seconds that a user needs to react to an update. Only the time shows that a user has set a widget back
# when the message may have another cause: in a form, whose values arrive with the click on its button, and after a
# change whose value most Streamlit releases send again when it is set back.
UNSEEN = 0.2
# A browser that is busy, or has to load a kind of widget first, creates a new widget as the newest run describes it,
# without the value of an earlier run. That takes up to this many seconds.
UNMADE = 2.0

_MISSING: Any = type("Missing", (), {"__repr__": lambda _: "<no default>"})()


class WidgetArguments(TypedDict):
    """The arguments that `shared` returns for a widget.

    >>> from fastserverstate import WidgetArguments, shared
    >>> arguments: WidgetArguments = shared("volume")
    >>> arguments
    {'key': 'volume'}
    """

    key: str


class SessionWidgets(Protocol):
    """The keyed widgets of one session. For its script's threads."""

    shared: Any
    """A place for what is known of those that are shared."""

    @property
    def browser_forgets(self) -> bool:
        """Whether the browser may lose a widget, and with it what it was told of it, at any time."""

    def report(self, receive: Callable[[dict[str, Any]], None], shows: Callable[[str, Any], None]) -> None:
        """Have two functions called.

        `receive` when a run begins, with what the browser has sent of the expected widgets; `shows` when a widget was
        made, with its key and the value that it was to show.
        """

    def offers(self, key: str, value: Any) -> bool:
        """Whether the user may have set the value, in the widget as it was made last."""

    def can_show(self, key: str, value: Any) -> bool:
        """Whether the user may see the value in the widget as it was made last."""

    def is_made(self, key: str) -> bool:
        """Whether this run has made a widget with the key."""

    def value(self, key: str, default: Any) -> Any: ...

    def value_before(self, key: str, default: Any) -> Any:
        """What the value was before the browser has sent another."""

    def own_value(self, key: str, default: Any) -> Any:
        """What a browser shows in the widget if it does not hear of any other value."""

    def discard(self, key: str) -> None:
        """Behave as if the browser had not sent the value."""

    def may_be_cause(self, key: str, shared: Collection[str]) -> bool:
        """Whether the widget may be the cause of what the browser has sent.

        None of the shared ones is if another has changed or was clicked, or if it was a timer. If a fragment is to run,
        it is a widget of that fragment.
        """

    def is_assigned(self, key: str) -> bool:
        """Whether a value is assigned, of which the browser is told when the widget is made next."""

    def assign(self, key: str, value: Any) -> None: ...

    def is_in_form(self) -> bool: ...

    def expect(self, key: str, refusals: Refusals) -> None:
        """A widget with the key is made next."""


class Refusals:
    """What is raised when a widget cannot be shared."""

    def __init__(self, key: str) -> None:
        self._key = key

    @property
    def user_sets(self) -> FastServerStateError:
        """No value can be assigned to it."""
        key = self._key
        return FastServerStateError(
            f"shared({key!r}) was given to a widget whose value only its user can set, such as a button, an uploader, "
            "st.chat_input, st.data_editor or a selection in a chart, so other tabs cannot follow it. Assign what it "
            f"returns to server_state[{key!r}] instead, in its callback. How that is done, also for a table: "
            "docs/shared-widgets.md"
        )

    @property
    def no_value(self) -> FastServerStateError:
        """It is no widget."""
        return FastServerStateError(
            f"shared({self._key!r}) was given to an element that has no value to share. Give it to a widget; tabs, "
            "expanders and popovers are some with on_change='rerun'."
        )

    @property
    def second_widget(self) -> FastServerStateError:
        """The run has made another one with the key."""
        key = self._key
        return FastServerStateError(
            f"shared({key!r}) was given to two widgets in this run. Give the second one a key of its own in "
            f"st.session_state: shared({key!r}, widget_key={key + ' 2'!r})."
        )

    def default(self, default: object) -> FastServerStateError:
        """It does not offer its default."""
        return FastServerStateError(
            f"shared({self._key!r}, default={reprlib.repr(default)}) was given to a widget that does not offer this "
            f"value of type {type(default).__name__}, and would show another. Choose a default among its options and "
            "within its bounds."
        )


@dataclass
class _Widget:
    """What the browser of a session may be showing in one widget.

    `told` is what it was told, oldest first, each with the time. The last item is what it will show, and what the value
    is in this session; the ones before are what it may be showing still.
    """

    server_key: str
    new_until: float
    default: Any = _MISSING
    in_form: bool = False
    told: deque[tuple[Any, float]] = field(default_factory=deque)
    heard: bool = False  # the browser has sent what it was told, or what its user has set
    in_doubt: bool = False  # what it was told last may not have reached it, or before what it then has sent

    def forget_what_is_gone(self, now: float) -> None:
        while len(self.told) > 1 and now - self.told[1][1] >= UNHEARD:
            self.told.popleft()

    def place(self, value: Any) -> int | None:
        """Which of the values it is, the newest first."""
        return next((place for place in reversed(range(len(self.told))) if _same(self.told[place][0], value)), None)

    def may_be_unmade(self, now: float) -> bool:
        return not self.heard and now < self.new_until

    def is_seen(self, now: float) -> bool:
        """Whether the user has had the time to see what it was told last."""
        return now - self.told[-1][1] >= UNSEEN

    def is_at(self, place: int) -> None:
        """The browser was showing this value when it sent it."""
        for _ in range(place):
            self.told.popleft()
        self.in_doubt = len(self.told) > 1
        self.heard = self.heard or not self.in_doubt

    def set_by_user(self, value: Any, now: float) -> None:
        # A form sends what its user has set, and goes on showing what it was told after that.
        self.in_doubt = self.in_form or len(self.told) > 1
        self.heard = True
        # What is on its way takes the place of what the user has set, until the browser is told of that again.
        self.told = deque(item for item in self.told if now - item[1] < UNHEARD)
        self.told.append((value, now))

    def tell(self, value: Any, now: float) -> None:
        self.in_doubt = False
        self.told.append((value, now))
        self.forget_what_is_gone(now)

    def refused(self, value: Any, instead: Any, now: float) -> None:
        """The browser was not told the value, but the other one."""
        if self.told and _same(self.told[-1][0], value):
            self.told.pop()
        self.tell(instead, now)


class _Widgets:
    """The shared widgets of one session.

    Thread-safety
        What a browser has sent is received before the run; in the run, each widget belongs to the thread that makes it.
    """

    def __init__(self, state: ServerState, session: SessionWidgets, warned: set[str]) -> None:
        self._state = state
        self._warned = warned
        self._session = session
        self._widgets: dict[str, _Widget] = {}
        self._last_change: tuple[str | None, float] = None, 0.0
        session.report(self._received, self._made)

    def show(self, server_key: str, key: str, default: Any) -> None:
        """Before the widget is made: have it show the shared value, and publish what the app has assigned to it."""
        session, now = self._session, time.monotonic()
        refusals = Refusals(server_key)
        if session.is_made(key):
            raise refusals.second_widget
        widget, mine = self._widgets.get(key), session.value(key, _MISSING)
        if widget is None or mine is _MISSING:  # a widget that was left out of a run begins anew
            widget = self._widgets[key] = _Widget(server_key, now + UNMADE)
        elif session.is_assigned(key) and widget.place(mine) != len(widget.told) - 1:
            self._state[widget.server_key] = copy.deepcopy(mine)
            widget.tell(mine, now)
        widget.server_key, widget.default, widget.in_form = server_key, default, session.is_in_form()
        if default is _MISSING:
            value = self._state.get(server_key, _MISSING)
        else:
            value = self._state.setdefault(server_key, default)
        is_known = mine is not _MISSING and not widget.in_doubt and _same(mine, value)
        if is_known and widget.may_be_unmade(now):
            is_known = _same(value, session.own_value(key, _MISSING))
        if value is not _MISSING and not is_known:
            session.assign(key, copy.deepcopy(value))
            widget.tell(value, now)
        session.expect(key, refusals)

    def _received(self, values: dict[str, Any]) -> None:
        """Publish what the user has changed, and discard old news."""
        session, now = self._session, time.monotonic()
        changed: list[str] = []
        unclear: dict[str, int] = {}
        untold: set[str] = set()
        for key, widget in self._widgets.items():
            if not widget.told:
                widget.told.append((session.value_before(key, _MISSING), now - UNHEARD))
            widget.forget_what_is_gone(now)
            if key not in values:  # the browser has no such widget
                widget.in_doubt = True
                continue
            place = widget.place(values[key])
            if place != len(widget.told) - 1 and not session.offers(key, values[key]):
                self._warn(widget, values[key], "A browser has sent a value for", "so it is ignored")
                widget.in_doubt = True
                session.discard(key)
                continue
            if place is None and self._was_made_untold(widget, key, values[key]):
                widget.told.appendleft((values[key], now))
                untold.add(key)
                place = 0
            if place is None:
                changed.append(key)
            elif place < len(widget.told) - 1:
                unclear[key] = place
            else:
                widget.is_at(place)
        set_back = None if changed else self._set_back(unclear.keys(), untold, now)
        for key, place in unclear.items():
            widget = self._widgets[key]
            if key == set_back or (widget.in_form and widget.is_seen(now)):
                changed.append(key)
            else:
                widget.is_at(place)
                session.discard(key)
        for key in changed:
            self._state[self._widgets[key].server_key] = copy.deepcopy(values[key])
            self._widgets[key].set_by_user(values[key], now)
            self._last_change = key, now

    def _made(self, key: str, value: Any) -> None:
        """The widget was made, and shows the value if that fits in."""
        widget, shown = self._widgets[key], self._session.value(key, _MISSING)
        if shown is not value:
            widget.refused(value, shown, time.monotonic())
        if _same(value, widget.default) and not (_same(shown, value) and self._session.can_show(key, value)):
            raise Refusals(widget.server_key).default(widget.default)
        if shown is not value:
            self._warn(widget, value, "There is a value for", "so a session shows another there")

    def _warn(self, widget: _Widget, value: Any, event: str, outcome: str) -> None:
        key = widget.server_key
        if key not in self._warned:
            self._warned.add(key)
            logger.warning(
                "%s shared(%r), of type %s, that the widget does not offer, %s. Give all widgets of this key the same "
                "options and bounds, or each set of them a key of its own, or set server_state[%r] to a value that "
                "fits in all of them. This is logged once.",
                event,
                key,
                type(value).__name__,
                outcome,
                key,
            )

    def _set_back(self, unclear: Set[str], untold: Set[str], now: float) -> str | None:
        """The widget of these that was set back, if that is why the browser has sent them.

        There is one cause, so the others are old news, and it is none that the browser has made untold if there is one
        that it has not. Or a widget that was changed a moment ago was set to what it was, and its value is sent again.
        """
        suspects = (unclear - untold) or unclear
        if len(suspects) != 1:
            return None
        (lone,) = suspects
        cause, caused_at = self._last_change
        may_be_sent_again = cause != lone and now - caused_at < UNHEARD and not self._widgets[lone].is_seen(now)
        if may_be_sent_again or not self._session.may_be_cause(lone, self._widgets.keys()):
            return None
        return lone

    def _was_made_untold(self, widget: _Widget, key: str, value: Any) -> bool:
        """Whether the browser may have made the widget without what it was told, and shows this value of its own."""
        may_be_new = not widget.heard or (self._session.browser_forgets and not widget.in_form)
        return may_be_new and _same(value, self._session.own_value(key, _MISSING))


def _same(one: object, other: object) -> bool:
    """By ``==``. Arrays and others that have no answer to it are not; Streamlit then says what it thinks of them."""
    try:
        return bool(one == other)
    except Exception:  # it is the values' own code
        return False


class SharedWidgets:
    """The widgets of all sessions that show a value of `server_state`."""

    def __init__(self, state: ServerState, widgets_of_run: Callable[[], SessionWidgets | None]) -> None:
        self._state = state
        self._widgets_of_run = widgets_of_run
        self._warned: set[str] = set()

    def shared(self, key: str, *, default: Any = _MISSING, widget_key: str | None = None) -> WidgetArguments:
        """Return the arguments that make a widget show the same value in every session.

        ``st.slider("Volume", 0, 100, **shared("volume", default=50))``

        The widget shows ``server_state["volume"]``. When a user changes the widget, the new value is assigned to that
        key before the script and its callbacks run, and the other sessions are rerun. When another session changes it,
        this widget shows the new value. The last change wins.

        Parameters
            ``key``: the key in `server_state`.

            ``default``: the value for a key that is not set. It replaces the widget's own default, such as ``value=``
            or ``index=``. Without it, the widget shows its own default until a user changes it.

            ``widget_key``: the widget's key in ``st.session_state``; `key` by default. A second widget for the same
            `key` needs one of its own.

        Returns
            The arguments for the widget: ``{"key": ...}``. You are free to pass others, including ``on_change=``. Call
            `shared` where you create the widget, in every run.

        Thread-safety
            Call it in script runs, including parallel fragments.

        Raises
            ``FastServerStateError``, from the widget, if only its user can set its value (a button, an uploader,
            ``st.chat_input``, ``st.data_editor``), if it does not offer `default`, or if the run has already created a
            widget with this key. ``TypeError`` if `key` is not a ``str``.

        >>> from fastserverstate import server_state, shared
        >>> shared("volume", default=50)
        {'key': 'volume'}
        >>> server_state.volume
        50
        >>> del server_state.volume
        """
        key = plain_key(key)
        name = key if widget_key is None else plain_key(widget_key)
        session = self._widgets_of_run()
        if session is not None:
            if session.shared is None:
                session.shared = _Widgets(self._state, session, self._warned)
            session.shared.show(key, name, default)
        elif default is not _MISSING:
            self._state.setdefault(key, default)
        return {"key": name}
