"""Which values a Streamlit widget offers its user, and so which values a browser may send.

Streamlit checks little of what a browser sends, and other things in each release: a value may lie beyond the bounds of
a slider, or be no option. In plain Streamlit that harms the session that has sent it. A shared value reaches all of
them.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message  # type: ignore[import-untyped]
from streamlit.runtime.state.common import WidgetMetadata
from streamlit.runtime.state.session_state import WStates

_COLOR = re.compile("#([0-9a-fA-F]{3}){1,2}")


class Offer:
    """A widget as a run has created it.

    ``element`` describes it to the browser. Containers that can be opened have none.
    """

    def __init__(self, metadata: WidgetMetadata[Any], element: Any) -> None:
        self.metadata = metadata
        self._element = element

    def includes(self, value: object) -> bool:
        """Whether the user may have set the value."""
        return self._comes_back(value, lambda back: type(back) is type(value) and bool(back == value))

    def can_show(self, value: object) -> bool:
        """Whether the user may see the value. A number may be one of another type, and a list a tuple."""
        return self._comes_back(value, lambda back: type(back) is not type(value) or bool(back == value))

    def _comes_back(self, value: object, as_expected: Callable[[Any], bool]) -> bool:
        """Whether a browser could send the value, and Streamlit would read it back as expected."""
        widget = self.metadata.id
        states = WStates(widget_metadata={widget: self.metadata})
        states.set_from_value(widget, value)
        try:
            sent = states.get_serialized(widget)
            if sent is None:
                return False
            states.set_widget_from_proto(sent)
            return as_expected(states[widget]) and self._includes_sent(sent)
        except Exception:  # raised by Streamlit or the app for an unexpected value
            return False

    def _includes_sent(self, sent: Any) -> bool:
        field = sent.WhichOneof("value")
        if field is None:  # an empty widget
            return True
        value = getattr(sent, field)
        values = list(value.data) if isinstance(value, Message) else [value]
        options = getattr(self.metadata, "formatted_options", None)
        if options is not None and not all(text in options for text in values):
            return False
        check = _CHECKS.get(type(self._element).__name__)
        return check is None or check(self._element, values)


def element_being_registered(widget: str) -> Any:
    """Return the message that describes the widget with this id to its browser; None if there is none.

    Streamlit fills it in before it registers the widget, and passes it on in some releases only. So it is looked up
    among the local variables of Streamlit's functions that are running.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals["__name__"].startswith(("streamlit.", "fastserverstate.")):
        for value in frame.f_locals.values():
            if isinstance(value, Message) and getattr(value, "id", None) == widget:
                return value
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _slider(slider: Any, values: list[Any]) -> bool:
    places = [list(slider.options).index(value) if isinstance(value, str) else value for value in values]
    is_within = all(slider.min <= place <= slider.max for place in places)
    return is_within and len(places) == len(slider.default) and places == sorted(places)


def _number(box: Any, values: list[Any]) -> bool:
    (value,) = values
    low, high = box.min if box.has_min else -math.inf, box.max if box.has_max else math.inf
    return math.isfinite(value) and low <= value <= high


def _date(box: Any, values: list[Any]) -> bool:
    if not values:
        return not box.default  # only a box that was empty at first can be emptied
    dates = [_numbers(value) for value in values]
    is_within = all(_numbers(box.min) <= date and (not box.max or date <= _numbers(box.max)) for date in dates)
    return is_within and len(dates) <= 1 + box.is_range and dates == sorted(dates)


def _numbers(text: str) -> list[int]:
    """Return the numbers in a date or a time. They compare correctly with or without leading zeros."""
    return [int(number) for number in re.findall(r"\d+", text)]


def _choice(choice: Any, values: list[Any]) -> bool:
    if getattr(choice, "accept_new_options", False):
        return True
    return all(value in choice.options if isinstance(value, str) else value < len(choice.options) for value in values)


def _choices(choices: Any, values: list[Any]) -> bool:
    most = getattr(choices, "max_selections", 0) or len(values)
    return len(set(values)) == len(values) <= most


def _text(box: Any, values: list[Any]) -> bool:
    (value,) = values
    return not box.max_chars or len(value) <= box.max_chars


def _color(_: Any, values: list[Any]) -> bool:
    (value,) = values
    return _COLOR.fullmatch(value) is not None


def _stars(feedback: Any, values: list[Any]) -> bool:
    (value,) = values
    return value == "" or 0 <= int(value) < (2 if feedback.type == feedback.THUMBS else 5)


# By kind of element. The values come from a message of the browser.
_CHECKS: dict[str, Callable[[Any, list[Any]], bool]] = {
    "Slider": _slider,
    "NumberInput": _number,
    "DateInput": _date,
    "DateTimeInput": _date,
    "Selectbox": _choice,
    "Radio": _choice,
    "MultiSelect": lambda element, values: _choice(element, values) and _choices(element, values),
    "ButtonGroup": _choices,
    "Feedback": _stars,
    "TextInput": _text,
    "TextArea": _text,
    "ColorPicker": _color,
}
