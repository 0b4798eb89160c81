"""`State`: classes whose annotated attributes are keys of shared state."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Never, SupportsIndex

from fastserverstate._core import Field, Record, Store, absent, plain_key
from fastserverstate.edits import Editing

KEPT_KEYS = 256  # of so many spaces of a class, the keys are kept for the next object

# What no two readers can change, so that all may get the same object.
_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, range, types.FunctionType, type)

Check = Callable[[Any], Any]  # returns what to assign, or raises an error


class FieldKey(str):
    """What a field is on its class: the key of the object without a space."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class _Declared:
    """An annotated attribute."""

    name: str
    owner: type  # in whose body, and
    namespace: dict[str, Any] = dataclasses.field(repr=False)  # in whose module the annotation is to be read
    annotation: Any
    default: Any = absent
    default_factory: Callable[[], Any] | None = None

    def new_default(self) -> Any:
        """Return the default, of which no caller can change that of another; `absent` if there is none."""
        if self.default_factory is not None:
            return self.default_factory()
        is_same = self.default is absent or isinstance(self.default, _IMMUTABLE)
        return self.default if is_same else copy.deepcopy(self.default)


class State(Record):
    """A base class: annotated attributes of a subclass are keys of shared state, with types and defaults.

    ``Room(space="7").topic`` is the key ``"Room/7/topic"``, and ``Room().topic`` the key ``"Room/topic"``. Attributes
    read, write and subscribe as those of `server_state`. An attribute that is not set has its default: every read of a
    list, dict or other object that can be changed gets a copy of it, so assign what you change, or use
    ``with room.edit("messages") as messages:``. Type checkers know the types.

    On the class, an attribute is the key of the object without a space, so ``wait_for(Room.topic)`` and
    ``on_change(Room.topic, ...)`` work. ``room.key("topic")`` is that of an object.

    Parameters
        ``space``: a name, such as that of a room or a user, which keeps the objects of a class apart. Objects with the
        same space share their values.

    Parameters of the class
        ``class Room(State, validate=True)`` validates values when they are assigned, with pydantic or msgspec in strict
        mode: the one that a type in the annotation comes from, else the one that is installed. What it returns is
        assigned, which may be a copy. ``name="chat.Room"`` begins the keys with another name than that of the class.

    Thread-safety
        As `server_state`. Objects are cheap: make them in each run.

    Raises
        ``AttributeError`` for a field without a default that is not set, ``TypeError`` for a value of a wrong type if
        the class validates, ``ValueError`` for a space that is no valid name.

    >>> from fastserverstate import State
    >>> class Room(State):
    ...     topic: str = "General"
    ...     members: list[str] = []
    >>> kitchen = Room(space="kitchen")
    >>> kitchen.topic = "Lunch"
    >>> Room(space="kitchen").topic, Room(space="garden").topic
    ('Lunch', 'General')
    >>> kitchen.key("topic"), Room.topic
    ('Room/kitchen/topic', 'Room/topic')
    >>> kitchen.clear()
    """

    _declared: ClassVar[dict[str, _Declared]] = {}  # in the body of the class
    _fields: ClassVar[dict[str, _Declared]] = {}  # those, and the inherited ones
    _checks: ClassVar[dict[str, Callable[[State, Any], Any]]] = {}
    _prefix: ClassVar[str] = ""
    _find_keys: ClassVar[Callable[[str | None], tuple[str, ...]]]
    _process: ClassVar[Process]

    def __init__(self, space: str | None = None) -> None:
        cls = type(self)
        if not cls._fields:
            raise TypeError(f"{cls.__name__} has no fields. Annotate its attributes: topic: str = 'General'.")
        super().__init__(cls._process.store, cls._find_keys(space))
        self.__dict__["_space_name"] = space

    def __init_subclass__(cls, *, validate: bool = False, name: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._prefix = _checked_prefix(cls.__name__ if name is None else name)
        bases = [base for base in reversed(cls.__mro__) if base is not cls and issubclass(base, State)]
        inherited = {one: field for base in bases for one, field in base._declared.items()}
        cls._declared = dict(_declared_by(cls, inherited))
        cls._fields = {**inherited, **cls._declared}
        cls._find_keys = functools.lru_cache(KEPT_KEYS)(functools.partial(_keys, cls._prefix, tuple(cls._fields)))
        if validate and not _has_validator():
            raise TypeError(
                f"class {cls.__name__}(State, validate=True) needs pydantic or msgspec to validate. Install either."
            )
        cls._checks = {}
        for place, field in enumerate(cls._fields.values()):
            missing = functools.partial(_default_of, field)
            check = functools.partial(_check, field, _LazyCheck(field)) if validate else None
            if check is not None:
                cls._checks[field.name] = check
            key = FieldKey(f"{cls._prefix}/{field.name}")
            setattr(cls, field.name, Field(field.name, place, key, missing, check))

    def __setattr__(self, name: str, value: object) -> None:
        cls = type(self)
        if name not in cls._fields and not hasattr(type(inspect.getattr_static(cls, name, None)), "__set__"):
            raise self._no_field(name)
        super().__setattr__(name, value)

    def key(self, field: str) -> str:
        """Return the key of a field, for functions that take a key: ``atomic.increment(room.key("visits"))``."""
        names = list(type(self)._fields)
        if field not in names:
            raise self._no_field(field)
        return self._keys[names.index(field)]

    def _no_field(self, name: str) -> AttributeError:
        fields = ", ".join(type(self)._fields)
        return AttributeError(
            f"{type(self).__name__} has no field {name!r}. Its fields are {fields}.", name=name, obj=self
        )

    def edit(self, *fields: str) -> AbstractContextManager[Any]:
        """Change copies of the values of fields in a ``with`` block: see `edit`. Defaults stand for missing values."""
        declared = type(self)._fields
        defaults = {self.key(field): declared[field].new_default() for field in fields}
        keys, known = tuple(defaults), {key: default for key, default in defaults.items() if default is not absent}
        options = {"default": known if len(keys) > 1 else known[keys[0]]} if known else {}
        editing = self._process.edit(*keys, **options)
        checks = type(self)._checks
        editing.checks = {
            self.key(field): functools.partial(checks[field], self) for field in fields if field in checks
        }
        return editing

    def to_dict(self) -> dict[str, Any]:
        """Return a ``dict`` of the fields and their values. Fields without a value or default are left out."""
        found = {name: getattr(self, name, absent) for name in type(self)._fields}
        return {name: value for name, value in found.items() if value is not absent}

    def clear(self) -> None:
        """Set all fields back to their defaults, in one transaction: delete their keys."""
        with self._store.transaction(self._keys, None):
            for name in type(self)._fields:
                delattr(self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and other._keys == self._keys  # a script defines its classes anew in every run

    def __hash__(self) -> int:
        return hash(self._keys)

    def __repr__(self) -> str:
        space = self.__dict__["_space_name"]
        return f"{type(self).__name__}({'' if space is None else f'space={space!r}'})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        raise TypeError(f"{self!r} belongs to this process and cannot be pickled or copied. Pass its to_dict().")


@dataclasses.dataclass(frozen=True)
class Process:
    """What the objects of `State` use in this process."""

    store: Store
    edit: Callable[..., Editing[Any]]


# What a class declares


def _declared_by(cls: type, inherited: Mapping[str, _Declared]) -> Iterator[tuple[str, _Declared]]:
    """Yield the fields in the body of a new subclass of `State`, by name."""
    body, annotations, namespace = vars(cls), _annotations_of(cls), _namespace_of(cls)
    for name, annotation in annotations.items():
        if _is_class_var(annotation):
            continue
        if name in _RESERVED or name.startswith("__"):
            raise TypeError(f"{cls.__name__}.{name} cannot be a field, because State has an attribute of that name.")
        default = body.get(name, absent)
        if isinstance(default, dataclasses.Field):
            plain = absent if default.default is dataclasses.MISSING else default.default
            factory = None if default.default_factory is dataclasses.MISSING else default.default_factory
            yield name, _Declared(name, cls, namespace, annotation, plain, factory)
        else:
            yield name, _Declared(name, cls, namespace, annotation, default)
    for name, field in inherited.items():
        if name in body and name not in annotations:  # another default
            if hasattr(type(body[name]), "__get__"):
                raise TypeError(f"{cls.__name__}.{name} cannot be a method, because a base class has a field {name!r}.")
            yield name, dataclasses.replace(field, default=body[name], default_factory=None)


def _namespace_of(cls: type) -> dict[str, Any]:
    """Return the global variables of the code that defines a class.

    Every run of a script has a module of its own, and `sys.modules` has that of the last one.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != cls.__module__:
        frame = frame.f_back
    return vars(sys.modules[cls.__module__]) if frame is None else frame.f_globals


def _annotations_of(cls: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415

        found: dict[str, Any] = annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
        return found
    return dict(vars(cls).get("__annotations__", {}))


def _is_class_var(annotation: Any) -> bool:
    text = annotation if isinstance(annotation, str) else repr(annotation)
    return re.match(r"['\"]?(\w+\.)*ClassVar\b", text) is not None


def _checked_prefix(name: str) -> str:
    if not name or name != name.strip("/"):
        raise ValueError(f"The name {name!r} of a State class is empty, or begins or ends with '/'.")
    return name


def _keys(prefix: str, fields: tuple[str, ...], space: str | None) -> tuple[str, ...]:
    if space is not None:
        if not isinstance(space, str):
            raise TypeError(
                f"The space of {prefix} is a str, not {space!r} of type {type(space).__qualname__}. Make a str of it: "
                f"{prefix}(space=f'{{number}}')."
            )
        if not space or space != space.strip("/"):
            raise ValueError(f"The space {space!r} of {prefix} is empty, or begins or ends with '/'.")
        prefix = f"{prefix}/{plain_key(space)}"
    return tuple(f"{prefix}/{field}" for field in fields)


def _default_of(field: _Declared, record: State) -> Any:
    default = field.new_default()
    if default is absent:
        raise AttributeError(
            f"{record!r}.{field.name} is not set and has no default. Assign it first, or declare a default: "
            f"{field.name}: ... = ...",
            name=field.name,
            obj=record,
        )
    return default


# Validation


def _has_validator() -> bool:
    return _is_installed("pydantic") or _is_installed("msgspec")


def _check(field: _Declared, check: _LazyCheck, record: State, value: Any) -> Any:
    """Return what to assign. Refuses a value that does not fit the field's annotation."""
    try:
        return check(value)
    except Exception as error:
        problem = " ".join(str(error).split())
        raise TypeError(
            f"server_state[{record.key(field.name)!r}] is declared as {type(record).__name__}.{field.name}: "
            f"{_shown(check.annotation)}, and this value is of type {type(value).__qualname__}: {problem}"
        ) from error


def _shown(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


class _LazyCheck:
    """Checks values of a field. It is made by the first: an annotation may name a class that is defined later."""

    def __init__(self, field: _Declared) -> None:
        self._field = field
        self._check: Check | None = None
        self.annotation = field.annotation

    def __call__(self, value: Any) -> Any:
        if self._check is None:
            self.annotation = self._resolved()
            self._check = _new_check(self.annotation)
        return self._check(value)

    def _resolved(self) -> Any:
        """Return the annotation, with names in place of strings looked up where its class is defined."""
        owner = self._field.owner
        holder = type(owner.__name__, (), {"__annotations__": {"field": self._field.annotation}})
        names = {name: value for name, value in vars(owner).items() if not isinstance(value, Field)}
        return typing.get_type_hints(holder, self._field.namespace, names, include_extras=True)["field"]


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in typing.get_args(annotation):
        yield from _types_in(part)


def _new_check(annotation: Any) -> Check:
    """Return a function that raises an error if a value does not fit."""
    parts = list(_types_in(annotation))
    if any(hasattr(part, "__struct_fields__") for part in parts) or not _is_installed("pydantic"):
        return _check_with_msgspec(annotation)
    return _check_with_pydantic(annotation)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _check_with_pydantic(annotation: Any) -> Check:
    import pydantic  # noqa: PLC0415

    try:
        adapter = pydantic.TypeAdapter(annotation, config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    except pydantic.errors.PydanticUserError:  # the type has a configuration of its own
        adapter = pydantic.TypeAdapter(annotation)
    return lambda value: adapter.validate_python(value, strict=True)


def _check_with_msgspec(annotation: Any) -> Check:
    import msgspec  # noqa: PLC0415

    def same(kind: Any, value: Any) -> Any:
        if isinstance(value, kind):
            return value
        raise TypeError(f"Expected `{kind.__qualname__}`, got `{type(value).__qualname__}`")

    return lambda value: msgspec.convert(value, annotation, strict=True, dec_hook=same)


_RESERVED = {name for name in dir(State) if not name.startswith("__")}
