"""`State`: classes whose attributes are keys."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import sys
import types
import typing as tp
import weakref
from typing import Any, ClassVar

import attrs
import msgspec
import pydantic
import pytest
from unit.helpers import enter

from fastserverstate import _core
from fastserverstate.edits import Edit
from fastserverstate.typed_state import Process, State


@dataclasses.dataclass
class Message:
    author: str
    text: str


class Model(pydantic.BaseModel):
    n: int


class Struct(msgspec.Struct):
    n: int


@attrs.define
class Attrs:
    n: int


@pytest.fixture(autouse=True)
def process(store: _core.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "_process", Process(store, Edit(store).edit))


class Room(State):
    topic: str = "General"
    messages: list[Message] = []  # noqa: RUF012
    open: bool = True
    owner: str
    scores: dict[str, int] = dataclasses.field(default_factory=lambda: {"Ann": 1})
    limit: ClassVar[int] = 10


def test_fields_are_keys_of_a_space(state) -> None:
    room = Room(space="kitchen/1")
    room.topic = "Lunch"
    room.owner = "Ann"
    assert state.to_dict() == {"Room/kitchen/1/topic": "Lunch", "Room/kitchen/1/owner": "Ann"}
    assert Room(space="kitchen/1").topic == "Lunch"
    assert Room(space="garden").topic == Room().topic == "General"
    Room().topic = "All"
    assert state["Room/topic"] == "All"
    del room.topic
    assert room.topic == "General"
    assert room.limit == 10
    assert room.to_dict() == {
        "topic": "General",
        "messages": [],
        "open": True,
        "owner": "Ann",
        "scores": {"Ann": 1},
    }


def test_keys_of_fields(state) -> None:
    assert Room.topic == "Room/topic"
    assert isinstance(Room.topic, str)
    assert Room(space="a").key("topic") == "Room/a/topic"
    assert Room(space="*").key("topic") == "Room/*/topic", "as configure takes it"
    state[Room.topic] = "by key"
    assert Room().topic == "by key"


def test_every_reader_gets_a_default_of_its_own() -> None:
    room = Room()
    room.messages.append(Message("Ann", "lost"))
    room.scores["Bob"] = 2
    assert room.messages == []
    assert room.scores == {"Ann": 1}


def test_field_without_a_default_is_missing_until_it_is_set() -> None:
    room = Room(space="a")
    with pytest.raises(AttributeError, match=r"Room\(space='a'\).owner is not set and has no default"):
        _ = room.owner
    assert not hasattr(room, "owner")
    room.owner = "Ann"
    assert room.owner == "Ann"


def test_objects_of_one_space_are_equal() -> None:
    assert Room(space="a") == Room(space="a")
    assert Room(space="a") != Room(space="b")
    assert len({Room(space="a"), Room(space="a"), Room()}) == 2
    again = type("Room", (State,), {"__annotations__": dict(Room.__annotations__), "scores": {}})
    assert again.topic == Room.topic
    assert repr(Room(space="a")) == "Room(space='a')"
    assert repr(Room()) == "Room()"


def test_clear_deletes_the_fields_of_one_space(state) -> None:
    kitchen, process = Room(space="kitchen"), Room()
    kitchen.topic = process.topic = "set"
    process.clear()
    assert state.to_dict() == {"Room/kitchen/topic": "set"}
    kitchen.clear()
    assert len(state) == 0


def test_subclass_has_keys_of_its_own(state) -> None:
    class Lounge(Room):
        topic: str = "Relax"
        music: str = "Jazz"

    lounge = Lounge()
    assert (lounge.topic, lounge.music, lounge.open) == ("Relax", "Jazz", True)
    lounge.open = False
    assert state.to_dict() == {"Lounge/open": False}
    assert Lounge.open == "Lounge/open"
    assert Room.topic == "Room/topic"
    assert Room().open is True


def test_subclass_can_change_a_default_without_an_annotation() -> None:
    class Base(State):
        topic: str = "General"
        people: list[str] = []  # noqa: RUF012

    class Lounge(Base):
        topic = "Lounge"

    class Bar(Lounge):
        people = ["Ann"]  # noqa: RUF012

    assert (Base().topic, Lounge().topic, Bar().topic, Bar().people) == ("General", "Lounge", "Lounge", ["Ann"])
    with pytest.raises(TypeError, match="topic cannot be a method, because a base class has a field 'topic'"):
        type("Hall", (Base,), {"topic": lambda _: ""})


def test_properties_can_be_assigned() -> None:
    class Gauge(State):
        celsius: float = 20.0

        @property
        def kelvin(self) -> float:
            return self.celsius + 273

        @kelvin.setter
        def kelvin(self, value: float) -> None:
            self.celsius = value - 273

    gauge = Gauge()
    gauge.kelvin = 300
    assert gauge.celsius == 27
    with pytest.raises(AttributeError, match="has no field 'fahrenheit'"):
        gauge.fahrenheit = 1.0


def test_class_variable_is_found_by_any_alias() -> None:
    class Aliased(State):
        topic: str = ""
        limit: tp.ClassVar[int] = 10

    assert (Aliased.limit, list(Aliased().to_dict())) == (10, ["topic"])


def test_name_of_the_class_can_be_replaced(state) -> None:
    class Another(State, name="chat.Room"):
        topic: str = ""

    Another(space="1").topic = "x"
    assert list(state) == ["chat.Room/1/topic"]


def test_reads_subscribe(store, session) -> None:
    room = Room(space="a")
    assert room.topic == "General"
    other = _core.Session(store)
    other.start_run()
    enter(other)
    room.topic = "Lunch"
    assert [scope.session for scope in store.collect_stale()] == [session]


def test_edit_changes_copies_of_fields() -> None:
    room = Room(space="a")
    with room.edit("messages") as messages:
        messages.append(Message("Ann", "Hi"))
    with room.edit("messages", "scores") as (messages, scores):
        messages.append(Message("Bob", "Ho"))
        scores["Bob"] = 2
    assert [message.text for message in room.messages] == ["Hi", "Ho"]
    assert room.scores == {"Ann": 1, "Bob": 2}
    assert Room().scores == {"Ann": 1}
    with pytest.raises(AttributeError, match="no field 'x'"):
        room.edit("x")
    with pytest.raises(KeyError, match="Room/a/owner"), room.edit("owner"):
        pass


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: setattr(Room(), "topics", 1),
            AttributeError,
            "Room has no field 'topics'. Its fields are topic",
        ),
        (lambda: Room().key("x"), AttributeError, "Room has no field 'x'"),
        (lambda: Room(space=7), TypeError, "The space of Room is a str, not 7 of type int"),
        (lambda: Room(space=""), ValueError, "The space '' of Room is empty"),
        (lambda: Room(space="/a"), ValueError, "begins or ends with '/'"),
        (State, TypeError, "State has no fields. Annotate its attributes"),
        (type("Empty", (State,), {}), TypeError, "Empty has no fields"),
        (lambda: type("Bad", (State,), {"__annotations__": {"key": str}}), TypeError, "Bad.key cannot be a field"),
        (lambda: type("Bad", (State,), {"__annotations__": {"_keys": str}}), TypeError, "Bad._keys cannot be a field"),
        (lambda: __import__("pickle").dumps(Room()), TypeError, r"Room\(\) belongs to this process"),
        (lambda: Room.__dict__["topic"].__get__(3), TypeError, "Record"),
    ],
)
def test_misuse_is_explained(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


# Validation


class Checked(State, validate=True):
    count: int = 0
    names: list[str] = []  # noqa: RUF012
    message: Message | None = None
    model: Model
    struct: Struct
    attrs: Attrs
    later: Later | None = None
    anything: Any = None


class Later:
    """Is defined after the class that names it."""


FITTING = [
    ("count", 3),
    ("names", ["Ann"]),
    ("message", Message("Ann", "Hi")),
    ("message", None),
    ("model", Model(n=1)),
    ("struct", Struct(1)),
    ("attrs", Attrs(1)),
    ("later", Later()),
    ("anything", object()),
]


@pytest.mark.parametrize(("name", "value"), FITTING)
def test_fitting_value_is_assigned(name: str, value: object) -> None:
    checked = Checked()
    setattr(checked, name, value)
    assert getattr(checked, name) == value
    assert type(getattr(checked, name)) is type(value)


def test_validated_value_is_assigned() -> None:
    checked = Checked()
    checked.model = {"n": 1}  # type: ignore[assignment]
    checked.struct = {"n": 1}  # type: ignore[assignment]
    assert (checked.model, checked.struct) == (Model(n=1), Struct(1))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "3", r"'Checked/count'\] is declared as Checked.count: int, and this value is of type str"),
        ("names", ["Ann", 1], r"Checked.names: list\[str\], and this value is of type list"),
        ("message", "Hi", r"Checked.message: .*Message.*None, and this value is of type str"),
        ("model", {"n": "x"}, "Checked.model: Model, and this value is of type dict"),
        ("struct", 3, "Checked.struct: Struct, and this value is of type int"),
        ("attrs", 3, "Checked.attrs: Attrs, and this value is of type int"),
        ("later", 3, "Checked.later: .*Later.*None, and this value is of type int"),
    ],
)
def test_value_of_a_wrong_type_is_refused(name: str, value: object, expected: str, state) -> None:
    with pytest.raises(TypeError, match=expected):
        setattr(Checked(), name, value)
    assert len(state) == 0


def test_edit_validates_what_it_assigns() -> None:
    class Scores(State, validate=True):
        points: dict[str, int] = {}  # noqa: RUF012
        names: list[str] = []  # noqa: RUF012

    scores = Scores()
    with scores.edit("points", "names") as (points, names):
        points["Ann"] = 1
        names.append("Ann")
    editing = scores.edit("points", "names")
    points, names = editing.__enter__()
    names.append("Bob")
    points["Bob"] = "many"
    with pytest.raises(TypeError, match=r"'Scores/points'\] is declared as Scores.points: dict\[str, int\]"):
        editing.__exit__(None, None, None)
    assert (scores.points, scores.names) == ({"Ann": 1}, ["Ann"])


def test_class_validates_with_either_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types that come from neither are checked by the one that is installed."""
    find_spec = importlib.util.find_spec
    for missing in ("pydantic", "msgspec"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, m=missing: None if name == m else find_spec(name))

        class Either(State, validate=True):
            names: list[str] = []  # noqa: RUF012

        either = Either()
        either.names = ["Ann"]
        with pytest.raises(TypeError, match=r"Either.names: list\[str\]"):
            either.names = [1]  # type: ignore[list-item]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(TypeError, match="needs pydantic or msgspec"):

        class Neither(State, validate=True):
            names: list[str] = []  # noqa: RUF012


def test_annotations_are_read_where_the_class_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of a script has a module of its own, of the same name."""
    code = """
from __future__ import annotations
import dataclasses

@dataclasses.dataclass
class Point:
    x: int

class Plan(State, validate=True):
    @dataclasses.dataclass
    class Step:
        n: int

    points: list[Point] = []
    step: Step | None = None

plan = Plan()
"""
    runs = [types.ModuleType("script_of_sessions") for _ in range(2)]
    for run in runs:
        run.__dict__["State"] = State
        monkeypatch.setitem(sys.modules, run.__name__, run)
        exec(compile(code, "script.py", "exec"), run.__dict__)
    for run in runs:
        run.plan.points = [run.Point(1)]
        run.plan.step = run.Plan.Step(2)
        assert run.plan.points == [run.Point(1)]


def test_class_is_freed() -> None:
    """Scripts define their classes anew in every run."""

    def use() -> weakref.ref[type]:
        class Passing(State, validate=True):
            n: int = 0

        Passing(space="a").n = 1
        return weakref.ref(Passing)

    found = use()
    gc.collect()
    assert found() is None
