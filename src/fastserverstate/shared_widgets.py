"""`shared`: widgets that show the same value in every session.

With every action of its user, a browser sends the values of all widgets of a page, without saying which one changed.
The value of a shared widget may be outdated: another session may have replaced it, and the browser has not received
the update yet. Treating it as a change would undo the other session's change, and two users who move two sliders at the
same time would keep resetting each other's. So this module remembers which values each browser may be showing.

A browser may send anything. A value that its widget does not offer is ignored, and a session whose widget cannot show
the shared value shows another value: one user cannot break another user's page.
"""

from __future__ import annotations

import copy
import logging
import reprlib
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict

from fastserverstate._core import plain_key
from fastserverstate.errors import FastServerStateError
from fastserverstate.state import ServerState

logger = logging.getLogger("fastserverstate")

# Within this many seconds, a browser receives and shows an update, even over a slow connection.
DELIVERY_TIME = 1.0
# Minimum time in seconds that a user needs to react to an update. An earlier value that arrives sooner was not set by
# the user, if the message may have another trigger: in a form, whose values arrive with a click on its button, and
# after a change in another widget, whose value most Streamlit releases send again when it is set back.
REACTION_TIME = 0.2
# A browser that is busy, or has to load a kind of widget first, creates a new widget as the newest run describes it,
# without the value of an earlier run. It does so within this many seconds.
CREATION_TIME = 2.0

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
    """The keyed widgets of one session.

    Thread-safety
        Call it from the threads of the session's script.
    """

    shared: Any
    """A place for the state of the session's shared widgets."""

    @property
    def browser_forgets(self) -> bool:
        """Whether the browser may recreate a widget at any time, without the last update."""

    def report(self, received: Callable[[dict[str, Any]], None], created: Callable[[str, Any], None]) -> None:
        """Set two callbacks.

        ``received`` is called when a run begins, with the values that the browser has sent for the expected widgets.
        ``created`` is called when a widget was created, with its key and the value that it was expected to show.
        """

    def offers(self, key: str, value: Any) -> bool:
        """Return whether a user can choose the value in the widget, as it was last created."""

    def can_show(self, key: str, value: Any) -> bool:
        """Return whether the widget can display the value, as it was last created."""

    def is_created(self, key: str) -> bool:
        """Return whether this run has created a widget with the key."""

    def value(self, key: str, default: Any) -> Any:
        """Return the current value."""

    def value_before(self, key: str, default: Any) -> Any:
        """Return the value from before the last message of the browser."""

    def own_value(self, key: str, default: Any) -> Any:
        """Return the value that a browser shows if it receives no other one."""

    def discard(self, key: str) -> None:
        """Behave as if the browser had not sent the value."""

    def may_be_trigger(self, key: str, shared: Collection[str]) -> bool:
        """Return whether the user may have triggered the last message with this widget.

        No shared widget is the trigger if a timer was, or if another widget has changed or was clicked. The trigger of
        a fragment's run is a widget of that fragment.
        """

    def is_assigned(self, key: str) -> bool:
        """Return whether the app has assigned a value that the browser receives when the widget is next created."""

    def assign(self, key: str, value: Any) -> None:
        """Assign a value that the browser receives when the widget is next created."""

    def is_in_form(self) -> bool:
        """Return whether a widget that is created now is in a form."""

    def expect(self, key: str, refusals: Refusals) -> None:
        """Expect a widget with the key to be created next."""


class Refusals:
    """The errors for widgets that cannot be shared."""

    def __init__(self, key: str) -> None:
        self._key = key

    @property
    def user_sets(self) -> FastServerStateError:
        """The error for a widget to which no value can be assigned."""
        key = self._key
        return FastServerStateError(
            f"shared({key!r}) was given to a widget whose value only its user can set, such as a button, an uploader, "
            "st.chat_input, st.data_editor or a selection in a chart, so other sessions cannot follow it. Instead, "
            f"assign the value that it returns to server_state[{key!r}] in its callback. For examples, including a "
            "table, see docs/shared-widgets.md."
        )

    @property
    def no_value(self) -> FastServerStateError:
        """The error for an element that is no widget."""
        return FastServerStateError(
            f"shared({self._key!r}) was given to an element that has no value to share. Give it to a widget. Tabs, "
            "expanders and popovers are widgets with on_change='rerun'."
        )

    @property
    def second_widget(self) -> FastServerStateError:
        """The error for a second widget with the same key in a run."""
        key = self._key
        return FastServerStateError(
            f"shared({key!r}) was given to two widgets in this run. Give the second one a key of its own in "
            f"st.session_state: shared({key!r}, widget_key={key + ' 2'!r})."
        )

    def default(self, default: object) -> FastServerStateError:
        """Return the error for a widget that does not offer its default."""
        return FastServerStateError(
            f"shared({self._key!r}, default={reprlib.repr(default)}) was given to a widget that does not offer this "
            f"value of type {type(default).__name__}, and would show another. Choose a default among its options and "
            "within its bounds."
        )


@dataclass
class _Widget:
    """The values that the browser of a session may be showing in one widget.

    ``history`` has these values, oldest first, each with the time when the browser sent or was sent it. The last one is
    the value of the session, and the browser will show it. Until then, it may be showing an earlier one.
    """

    server_key: str
    new_until: float
    default: Any = _MISSING
    in_form: bool = False
    history: deque[tuple[Any, float]] = field(default_factory=deque)
    confirmed: bool = False  # the browser has sent an update back, or a change of its user
    must_resend: bool = False  # the browser may not show the last value of the history

    @property
    def last(self) -> int:
        return len(self.history) - 1

    def index(self, value: Any) -> int | None:
        """Return the newest index of the value in the history."""
        return next((i for i in reversed(range(len(self.history))) if _same(self.history[i][0], value)), None)

    def forget_replaced(self, now: float) -> None:
        """Remove the values that the browser no longer shows, because it has received a later one."""
        while len(self.history) > 1 and now - self.history[1][1] >= DELIVERY_TIME:
            self.history.popleft()

    def may_lack_update(self, now: float) -> bool:
        """Return whether the browser may have created the widget without the last update."""
        return not self.confirmed and now < self.new_until

    def is_seen(self, now: float) -> bool:
        """Return whether the user has had the time to react to the last value."""
        return now - self.history[-1][1] >= REACTION_TIME

    def browser_showed(self, index: int) -> None:
        """The browser has sent the value with this index, so it does not show earlier ones."""
        for _ in range(index):
            self.history.popleft()
        self.must_resend = self.last > 0
        self.confirmed = self.confirmed or not self.must_resend

    def set_by_user(self, value: Any, now: float) -> None:
        """The user has changed the value."""
        # After sending the value of its user, a form shows the updates that arrived before.
        self.must_resend = self.in_form or self.last > 0
        self.confirmed = True
        # Updates that are still in transit replace the user's value in the browser, until it is sent again.
        self.history = deque(item for item in self.history if now - item[1] < DELIVERY_TIME)
        self.history.append((value, now))

    def send(self, value: Any, now: float) -> None:
        """The run sends the value to the browser."""
        self.must_resend = False
        self.history.append((value, now))
        self.forget_replaced(now)

    def send_instead(self, value: Any, shown: Any, now: float) -> None:
        """The run sends the value ``shown`` instead of ``value``, which the widget does not accept."""
        if self.history and _same(self.history[-1][0], value):
            self.history.pop()
        self.send(shown, now)


@dataclass(frozen=True, eq=False)
class _Outdated:
    """A value that the browser has sent, but not the last one of the widget's history.

    Either the browser had not received the last value yet, or its user has set the widget back to an earlier one.
    """

    key: str
    index: int  # in the history
    is_own: bool = False  # it may be the widget's own value, in a browser that has created it without any update


class _Widgets:
    """The shared widgets of one session.

    Thread-safety
        The values of the browser are received before the run. During the run, each widget is used by the thread that
        creates it.
    """

    def __init__(self, state: ServerState, session: SessionWidgets, warned: set[str]) -> None:
        self._state = state
        self._warned = warned
        self._session = session
        self._widgets: dict[str, _Widget] = {}
        self._last_change: tuple[str | None, float] = None, 0.0
        session.report(self._received, self._created)

    def show(self, server_key: str, key: str, default: Any) -> None:
        """Publish the value that the app has assigned, and let the widget show the shared value when it is created."""
        session, now = self._session, time.monotonic()
        refusals = Refusals(server_key)
        if session.is_created(key):
            raise refusals.second_widget
        widget, mine = self._widgets.get(key), session.value(key, _MISSING)
        if widget is None or mine is _MISSING:  # a widget that was left out of a run starts anew
            widget = self._widgets[key] = _Widget(server_key, now + CREATION_TIME)
        elif session.is_assigned(key) and widget.index(mine) != widget.last:
            self._state[widget.server_key] = copy.deepcopy(mine)
            widget.send(mine, now)
        widget.server_key, widget.default, widget.in_form = server_key, default, session.is_in_form()
        if default is _MISSING:
            value = self._state.get(server_key, _MISSING)
        else:
            value = self._state.setdefault(server_key, default)
        is_known = mine is not _MISSING and not widget.must_resend and _same(mine, value)
        if is_known and widget.may_lack_update(now):
            is_known = _same(value, session.own_value(key, _MISSING))
        if value is not _MISSING and not is_known:
            session.assign(key, copy.deepcopy(value))
            widget.send(value, now)
        session.expect(key, refusals)

    def _received(self, values: dict[str, Any]) -> None:
        """Publish the changes of the user, and discard outdated values."""
        now = time.monotonic()
        changed, outdated = self._classify(values, now)
        set_back = None if changed else self._find_set_back(outdated, now)
        for item in outdated:
            widget = self._widgets[item.key]
            if item is set_back or (widget.in_form and widget.is_seen(now)):
                changed.append(item.key)
            else:
                widget.browser_showed(item.index)
                self._session.discard(item.key)
        for key in changed:
            self._publish(key, values[key], now)

    def _classify(self, values: dict[str, Any], now: float) -> tuple[list[str], list[_Outdated]]:
        """Return the keys of the widgets that the user has certainly changed, and the outdated values.

        Neither has values that are current, or that their widgets do not offer.
        """
        changed: list[str] = []
        outdated: list[_Outdated] = []
        for key, widget in self._widgets.items():
            if not widget.history:
                widget.history.append((self._session.value_before(key, _MISSING), now - DELIVERY_TIME))
            widget.forget_replaced(now)
            if key not in values:  # the browser does not show the widget
                widget.must_resend = True
                continue
            value = values[key]
            index = widget.index(value)
            if index == widget.last:
                widget.browser_showed(index)
            elif not self._session.offers(key, value):
                self._reject(key, value)
            elif index is not None:
                outdated.append(_Outdated(key, index))
            elif self._may_be_own_value(key, value):
                widget.history.appendleft((value, now))
                outdated.append(_Outdated(key, 0, is_own=True))
            else:
                changed.append(key)
        return changed, outdated

    def _reject(self, key: str, value: Any) -> None:
        """Ignore a value that the widget does not offer."""
        widget = self._widgets[key]
        self._warn(widget, value, "A browser has sent a value for", "so it is ignored")
        widget.must_resend = True
        self._session.discard(key)

    def _may_be_own_value(self, key: str, value: Any) -> bool:
        """Return whether the browser may show the widget's own value, because it has received no update."""
        widget = self._widgets[key]
        may_be_new = not widget.confirmed or (self._session.browser_forgets and not widget.in_form)
        return may_be_new and _same(value, self._session.own_value(key, _MISSING))

    def _find_set_back(self, outdated: Sequence[_Outdated], now: float) -> _Outdated | None:
        """Find the widget that its user has set back, if that has triggered the message.

        A message has a single trigger. A widget whose earlier value was in the history is more likely to be it than a
        widget that may show its own value. If several are as likely, none of them counts as set back.
        """
        suspects = [item for item in outdated if not item.is_own] or outdated
        if len(suspects) != 1:
            return None
        (suspect,) = suspects
        if self._may_be_repeated(suspect.key, now):
            return None
        return suspect if self._session.may_be_trigger(suspect.key, self._widgets.keys()) else None

    def _may_be_repeated(self, key: str, now: float) -> bool:
        """Return whether the trigger may be another widget, which was set back after a recent change.

        Then Streamlit sends all values again, and this widget's value is outdated.
        """
        changed_key, changed_at = self._last_change
        return changed_key != key and now - changed_at < DELIVERY_TIME and not self._widgets[key].is_seen(now)

    def _publish(self, key: str, value: Any, now: float) -> None:
        """Assign the value that the user has set to the shared key."""
        widget = self._widgets[key]
        self._state[widget.server_key] = copy.deepcopy(value)
        widget.set_by_user(value, now)
        self._last_change = key, now

    def _created(self, key: str, value: Any) -> None:
        """Check that the widget shows the value with which it was created."""
        widget, shown = self._widgets[key], self._session.value(key, _MISSING)
        if shown is not value:
            widget.send_instead(value, shown, time.monotonic())
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


def _same(one: object, other: object) -> bool:
    """Compare by ``==``. Arrays and other values that raise an error or have no truth value count as different."""
    try:
        return bool(one == other)
    except Exception:  # raised by the code of the values
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
