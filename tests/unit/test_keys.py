"""Keys: wrong types, `str` subclasses whose methods must not be called, unusual strings, colliding hashes."""

from __future__ import annotations

import contextlib
import enum
import sys
import textwrap
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from unit.helpers import enter, leave, refuse, run_script

from fastserverstate import _core


class Text(str):
    __slots__ = ()


class Hostile(str):
    """Its hash and comparison must not be called."""

    __slots__ = ()
    __hash__ = __eq__ = __ne__ = __lt__ = __len__ = refuse  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "'hostile'"


class Unprintable(str):
    __slots__ = ()
    __repr__ = __str__ = __format__ = refuse  # type: ignore[assignment]


class Kind(enum.StrEnum):
    ONE = "one"


class Number(enum.IntEnum):
    ONE = 1


NOT_KEYS: dict[str, tuple[Any, str, str]] = {
    "enum member": (Number.ONE, "test_keys.Number", "<Number.ONE: 1>"),
    "bytes": (b"k", "bytes", "b'k'"),
    "long bytes": (b"k" * 1_000_000, "bytes", "b'kkk"),
    "number": (0.5, "float", "0.5"),
    "list": ([], "list", "[]"),
    "type": (str, "type", "<class 'str'>"),
}
KEY_USES: dict[str, Callable[[Any, Any, Any], object]] = {
    "get item": lambda store, state, key: state[key],
    "set item": lambda store, state, key: state.__setitem__(key, 1),
    "delete item": lambda store, state, key: state.__delitem__(key),
    "get": lambda store, state, key: state.get(key, 1),
    "setdefault": lambda store, state, key: state.setdefault(key, 1),
    "pop": lambda store, state, key: state.pop(key, None),
    "update": lambda store, state, key: state.update([(key, 1)]),
    "lock": lambda store, state, key: store.lock(key),
    "peek": lambda store, state, key: store.peek(key),
    "touch": lambda store, state, key: store.touch(key),
    "version": lambda store, state, key: store.version(key),
}


@pytest.mark.parametrize(("key", "kind", "shown"), NOT_KEYS.values(), ids=NOT_KEYS)
@pytest.mark.parametrize("use", KEY_USES.values(), ids=KEY_USES)
@pytest.mark.usefixtures("session")
def test_error_names_a_key_of_the_wrong_type(store, state, *, use, key, kind, shown):
    state["k"] = 0
    before = store.statistics()
    with pytest.raises(TypeError) as caught:
        use(store, state, key)
    message = str(caught.value)
    assert kind in message
    assert shown in message
    assert "Use " in message
    assert len(message) < 1_000
    message.encode()  # can be logged
    assert store.statistics() == before
    assert dict(state) == {"k": 0}
    assert store.collect_stale() == []


KINDS_OF_STR: dict[str, tuple[str, str]] = {
    "subclass": (Text("k"), "k"),
    "hostile": (Hostile("k"), "k"),
    "unprintable": (Unprintable("k"), "k"),
    "enum member": (Kind.ONE, "one"),
    "lone surrogate": (Text("\ud800"), "\ud800"),
}


@pytest.mark.parametrize(("key", "plain"), KINDS_OF_STR.values(), ids=KINDS_OF_STR)
@pytest.mark.parametrize("use", KEY_USES.values(), ids=KEY_USES)
@pytest.mark.usefixtures("session")
def test_str_subclass_is_the_key_with_its_text(store, state, use, key, plain):
    """None of its own methods is called."""

    def outcome(key):
        state.clear()
        state[plain] = 0
        result = use(store, state, key)
        return result if use is not KEY_USES["version"] else bool(result), dict(state)

    assert outcome(key) == outcome(plain)
    assert all(type(key) is str for key in state)


@pytest.mark.parametrize(("name", "plain"), KINDS_OF_STR.values(), ids=KINDS_OF_STR)
@pytest.mark.usefixtures("session")
def test_str_subclass_as_attribute_name(state, name, plain):
    setattr(state, name, 1)
    assert dict(state) == {plain: 1}
    with contextlib.suppress(AssertionError):  # `getattr` itself may hash the name
        assert getattr(state, name) == 1
    delattr(state, name)
    assert dict(state) == {}


HUGE = "x" * 10_000_000
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
UNUSUAL_KEYS = [
    "",
    " ",
    "\0",
    "a",
    "a\0",
    "a\0b",
    "\ud800",
    "\udfff",
    "a\udc80",
    COMPOSED,
    DECOMPOSED,
    "K",
    "\N{KELVIN SIGN}",
    "fi",
    "\N{LATIN SMALL LIGATURE FI}",
    "ß",
    "\N{GRINNING FACE}",
    "\U0010ffff",
    "a.b",
    "1",
    "class",
    HUGE,
    f"{HUGE}\0",
    f"{HUGE}é",
]


def copy_of(key: str) -> str:
    return (key + "\0")[:-1]


@pytest.mark.parametrize("access", ["item", "attribute"])
def test_unusual_strings_are_distinct_keys(store, state, session, access):
    """An equal string finds each of them, as an item and as an attribute."""
    get, put, delete = (
        (getattr, setattr, delattr)
        if access == "attribute"
        else (type(state).__getitem__, type(state).__setitem__, type(state).__delitem__)
    )
    assert len(set(UNUSUAL_KEYS)) == len(UNUSUAL_KEYS)
    model = {}
    for i, key in enumerate(UNUSUAL_KEYS):
        assert key not in state
        with pytest.raises((KeyError, AttributeError)):
            get(state, key)
        put(state, key, [i])
        model[key] = [i]
    assert list(state) == list(model) == store.keys()
    session.close()
    locks = [store.lock(copy_of(key)) for key in UNUSUAL_KEYS]
    assert len(set(map(id, locks))) == len(locks)
    for key, lock in zip(UNUSUAL_KEYS, locks, strict=True):
        assert store.lock(key) is lock
        assert repr(key) in repr(lock)
        assert get(state, copy_of(key)) == state[key] == state.get(copy_of(key)) == model[key]
        reader = _core.Session(store)
        reader.start_run()
        enter(reader)
        get(state, copy_of(key))
        reader.finish_run()
        leave()
        put(state, key, "changed")
        assert [scope.session for scope in store.collect_stale()] == [reader]
        reader.close()
    for i, key in enumerate(UNUSUAL_KEYS):
        if i % 2:
            delete(state, copy_of(key))
        else:
            assert state.pop(copy_of(key)) == "changed"
        assert key not in state
        assert len(state) == len(UNUSUAL_KEYS) - i - 1
    assert store.statistics()["keys"] == 0


def test_deleted_keys_are_released(store, state, session):
    key = copy_of(HUGE)
    references = sys.getrefcount(key)
    for _ in range(3):
        session.start_run()
        key in state, state.get(key), getattr(state, key, None)
        state[key] = 1
        state[key] = 2
        state.pop(key)
        store.lock(key)
        state.get(key)
    session.finish_run()
    session.close()
    for i in range(2000):  # growing the table drops unreferenced locks
        state[f"other{i}"] = i
    store.statistics()  # sweeps the closed session's subscriptions
    assert sys.getrefcount(key) == references


@pytest.mark.parametrize("key", ["a\ud800", "a\0b"], ids=["lone surrogate", "NUL"])
def test_error_about_an_unusual_attribute_can_be_logged(state, key):
    for use in (lambda: getattr(state, key), lambda: delattr(state, key), lambda: setattr(state, f"__{key}__", 1)):
        with pytest.raises(AttributeError) as caught:
            use()
        str(caught.value).encode()
        assert len(str(caught.value)) < 1_000


COLLISIONS = """
import itertools
COUNT, BITS = 1_500, 10
colliding = (key for key in map(str, itertools.count()) if hash(key) >> {shift} & (1 << BITS) - 1 == 0)
keys = list(itertools.islice(colliding, COUNT))
"""


@pytest.mark.parametrize("shift", [0, 64 - 10], ids=["low bits", "high bits"])
def test_colliding_hashes(shift, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    run_script(
        COLLISIONS.format(shift=shift)
        + textwrap.dedent(
            """
            import random
            choose = random.Random(1)
            locks = {key: store.lock(key) for key in keys[::50]}
            model = {}
            for step in range(4 * COUNT):
                key = keys[step] if step < COUNT else choose.choice(keys)
                if step < COUNT or choose.random() < 0.5:
                    state[key] = model[key] = step
                else:
                    assert state.pop(key, None) == model.pop(key, None)
            assert store.keys() == list(model)
            assert {key: state.get(key) for key in keys} == {key: model.get(key) for key in keys}
            assert all(store.lock(key) is lock for key, lock in locks.items())
            assert store.statistics()["keys"] == len(state) == len(model)
            for key in keys:
                state.pop(key, None)
            assert store.statistics()["keys"] == len(state) == 0
            """
        )
    )
