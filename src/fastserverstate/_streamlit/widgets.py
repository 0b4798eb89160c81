"""Keyed widgets: the values that browsers send, and the values that widgets show."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import streamlit
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.form import is_in_form  # type: ignore[attr-defined]
from streamlit.elements.lib import policies
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.state.common import WidgetMetadata
from streamlit.runtime.state.session_state import STREAMLIT_INTERNAL_KEY_PREFIX, SessionState

from fastserverstate._streamlit.names import ATTRIBUTE, BROWSERS_FORGET
from fastserverstate._streamlit.offers import Offer, element_being_registered
from fastserverstate._streamlit.session import find_session, listen_to_requests
from fastserverstate.errors import FastServerStateError

if TYPE_CHECKING:
    from fastserverstate.shared_widgets import Refusals

_NOTHING: Any = object()
_UNREADABLE = type("unreadable", (), {})()  # in place of a value that Streamlit cannot read

# Kinds of values that Streamlit resets at the end of a run.
_TRIGGERS = {"trigger_value", "string_trigger_value", "json_trigger_value", "chat_input_value"}


class StreamlitWidgets:
    """Adapts the keyed widgets of one session to `shared_widgets.SessionWidgets`."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self._refusals: dict[str, Refusals] = {}  # of all shared widgets so far
        self._offers: dict[str, Offer] = {}
        self._expected: set[str] = set()
        self._being_created: set[str] = set()
        self._on_received: Callable[[dict[str, Any]], None] = lambda _: None
        self._on_created: Callable[[str, Any], None] = lambda *_: None
        self.timed: Any = None  # the last message that a timer of the page has triggered
        self._message: Any = None  # the last message of the browser
        self.shared: Any = None  # state of `fastserverstate.shared_widgets`

    def __reduce__(self) -> Any:
        """Support pickle: the session state has this object, and may be configured to require that."""
        return object, ()

    def report(self, received: Callable[[dict[str, Any]], None], created: Callable[[str, Any], None]) -> None:
        self._on_received, self._on_created = received, created

    def received(self, states: Any) -> None:
        """Streamlit has stored the values that the browser has sent for a run."""
        self._message = states
        sent = {widget.id for widget in states.widgets}
        if sent:  # empty if no browser has requested the run
            keys = [key for key in self._offers if self._state._get_widget_id(key) in sent]
            values = {key: self._read(key) for key in keys}
            self._on_received({key: value for key, value in values.items() if value is not _NOTHING})

    def _read(self, key: str) -> Any:
        """Return a value that the browser has sent."""
        try:
            return self._state[key]
        except KeyError:
            return _NOTHING
        except Exception:  # raised by Streamlit, which trusts browsers
            return _UNREADABLE

    def offers(self, key: str, value: Any) -> bool:
        return self._offers[key].includes(value)

    def can_show(self, key: str, value: Any) -> bool:
        return self._offers[key].can_show(value)

    @property
    def browser_forgets(self) -> bool:
        return BROWSERS_FORGET

    def value(self, key: str, default: Any) -> Any:
        return streamlit.session_state.get(key, default)

    def value_before(self, key: str, default: Any) -> Any:
        return self._state._old_state.get(self._state._get_widget_id(key), default)

    def own_value(self, key: str, default: Any) -> Any:
        context: Any = get_script_run_ctx(suppress_warning=True)
        metadata = self._state._new_widget_state.widget_metadata.get(self._state._get_widget_id(key))
        if metadata is None or context is None or find_session(context.session_id) is None:
            return default  # AppTest has no browser, so no message gets lost
        # Older releases also pass the widget's id.
        takes_id = len(inspect.signature(metadata.deserializer).parameters) > 1
        return metadata.deserializer(None, metadata.id) if takes_id else metadata.deserializer(None)

    def discard(self, key: str) -> None:
        del self._state._new_widget_state[self._state._get_widget_id(key)]

    def may_be_trigger(self, key: str, shared: Collection[str]) -> bool:
        state, context = self._state, get_script_run_ctx(suppress_warning=True)
        if self._message is self.timed:
            return False
        known = {state._get_widget_id(key) for key in shared}
        if any(_has_changed(state, other) for other in state._new_widget_state if other not in known):
            return False
        asked: Any = () if context is None else context.fragment_ids_this_run
        metadata = state._new_widget_state.widget_metadata.get(state._get_widget_id(key))
        return not asked or (metadata is not None and metadata.fragment_id in asked)

    def is_assigned(self, key: str) -> bool:
        return bool(self._state.is_new_state_value(key))

    def assign(self, key: str, value: Any) -> None:
        streamlit.session_state[key] = value

    def is_in_form(self) -> bool:
        return bool(is_in_form(streamlit._main))

    def is_created(self, key: str) -> bool:
        run: Any = get_script_run_ctx(suppress_warning=True)
        return run is not None and key in getattr(run, "shared", run).widget_user_keys_this_run

    def expect(self, key: str, refusals: Refusals) -> None:
        self._refusals[key] = refusals
        self._expected.add(key)

    def expects(self, key: object) -> bool:
        return isinstance(key, str) and key in self._expected

    def creates(self, key: str, assignable: bool) -> bool:
        """A widget with the key is about to be created. Return whether it was expected."""
        if key in self._refusals and self.is_created(key):
            raise self._refusals[key].second_widget
        if key not in self._expected:
            return False
        if not assignable:
            raise self._refusals[key].user_sets
        self._expected.discard(key)
        return True

    def registered(self, key: str, metadata: WidgetMetadata[Any]) -> None:
        """Streamlit registers a widget with the key, which may be a shared one."""
        if key not in self._refusals:
            return
        if metadata.value_type in _TRIGGERS:
            raise self._refusals[key].user_sets
        self._offers[key] = Offer(metadata, element_being_registered(metadata.id))
        state = self._state
        before = state._get_widget_id(key)
        is_new = before != metadata.id and key not in state._new_session_state
        if is_new and key in self._being_created:
            # Other arguments create another widget, which would start with its own default.
            with contextlib.suppress(KeyError):
                state._new_session_state[key] = state._getitem(before, key)

    def create(self, key: str, widget: Callable[[], Any]) -> Any:
        """Create an expected widget. After an error, try again with its previous value, and then without any."""
        run: Any = get_script_run_ctx(suppress_warning=True)
        run = getattr(run, "shared", run)
        given = self.value(key, _NOTHING)
        fallbacks = iter([] if key in run.widget_user_keys_this_run else [self._unassign, self._forget])
        self._being_created.add(key)
        while True:
            try:
                created = widget()
                break
            except FastServerStateError:
                raise
            except Exception:  # raised again if no fallback is left
                if not any(fallback(key) for fallback in fallbacks):
                    raise
                _take_back(run, key)
                self._expected.add(key)
        self._being_created.discard(key)
        if key in self._expected:
            self._expected.discard(key)
            raise self._refusals[key].no_value
        if given is not _NOTHING:
            self._on_created(key, given)
        return created

    def _unassign(self, key: str) -> bool:
        return self._state._new_session_state.pop(key, _NOTHING) is not _NOTHING

    def _forget(self, key: str) -> bool:
        is_known = key in self._state
        if is_known:
            del self._state[key]
        return is_known


def _has_changed(state: SessionState, widget: str) -> bool:
    try:
        return state._widget_changed(widget)
    except Exception:  # Streamlit raises it again when it looks for callbacks, and shows it in this session only
        return True


def _take_back(run: Any, key: str) -> None:
    """Allow this run to create the widget again after an error. Streamlit offers no way to do that."""
    for names in (run.widget_ids_this_run, run.widget_user_keys_this_run):
        with getattr(names, "_lock", contextlib.nullcontext()):
            known = getattr(names, "_data", names)
            known -= {name for name in known if name == key or name.split("-", 2)[2:] == [key]}


# The key of `StreamlitWidgets` in a session state. Streamlit hides keys with this prefix from the app.
_WIDGETS_KEY = f"{STREAMLIT_INTERNAL_KEY_PREFIX}_FASTSERVERSTATE"


def _widgets_of(state: Any) -> StreamlitWidgets | None:
    widgets: StreamlitWidgets | None = state._new_session_state.get(_WIDGETS_KEY) or state._old_state.get(_WIDGETS_KEY)
    return widgets


def _known_widgets_of_run() -> StreamlitWidgets | None:
    context: Any = get_script_run_ctx(suppress_warning=True)
    return None if context is None else _widgets_of(context.session_state._state)


def widgets_of_run() -> StreamlitWidgets | None:
    """Return the widgets of the session whose script runs on this thread."""
    context: Any = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return None
    widgets = _widgets_of(context.session_state._state)
    if widgets is None:
        widgets = streamlit.session_state[_WIDGETS_KEY] = StreamlitWidgets(context.session_state._state)
        session = find_session(context.session_id)
        if session is not None:
            _watch_timers(session, widgets)
    return widgets


def _watch_timers(session: AppSession, widgets: StreamlitWidgets) -> None:
    """Record the messages that the timer of a fragment triggers."""

    def listen(client_state: Any) -> None:
        if getattr(client_state, "is_auto_rerun", False):  # Streamlit 1.37 lacks the attribute
            widgets.timed = client_state.widget_states

    listen_to_requests(session, listen)


def watch_widgets() -> None:
    """Follow the values that Streamlit receives and the keyed widgets that it creates. Called once per process.

    It replaces functions, because the objects offer no hooks. It must run before the first call of `shared`, because
    Python looks up ``st.slider`` before it calls `shared` in ``st.slider(**shared("k"))``.
    """
    set_widgets, register = SessionState.set_widgets_from_proto, SessionState.register_widget
    check = policies.check_session_state_rules
    if ATTRIBUTE in check.__dict__:
        return

    def set_widgets_and_report(self: Any, states: Any) -> None:
        set_widgets(self, states)
        widgets = _widgets_of(self)
        if widgets is not None:
            widgets.received(states)

    def check_and_report(default_value: Any, key: str | None, writes_allowed: bool = True) -> None:
        widgets = _known_widgets_of_run()
        if widgets is not None and key is not None and widgets.creates(key, writes_allowed):
            default_value = None  # prevents the warning that the widget has two initial values
        check(default_value, key, writes_allowed)

    def register_and_report(self: Any, metadata: Any, user_key: str | None) -> Any:
        widgets = _widgets_of(self)
        if widgets is not None and user_key is not None:
            widgets.registered(user_key, metadata)
        return register(self, metadata, user_key)

    check_and_report.__dict__[ATTRIBUTE] = True
    SessionState.set_widgets_from_proto = set_widgets_and_report  # type: ignore[assignment, method-assign]
    SessionState.register_widget = register_and_report  # type: ignore[method-assign]
    policies.check_session_state_rules = check_and_report
    for name, function in inspect.getmembers(DeltaGenerator, inspect.isfunction):
        if "key" in inspect.signature(function).parameters and not name.startswith("_"):
            setattr(DeltaGenerator, name, _creating(function))
            command: Any = getattr(streamlit, name, None)  # of the main part of the page
            if getattr(command, "__func__", None) is function:
                setattr(streamlit, name, getattr(command.__self__, name))


def _creating(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def create(*args: Any, **kwargs: Any) -> Any:
        widgets = _known_widgets_of_run() if kwargs.get("key") else None
        if widgets is None or not widgets.expects(kwargs["key"]):
            return function(*args, **kwargs)
        return widgets.create(kwargs["key"], lambda: function(*args, **kwargs))

    return create
