"""The store calls no special method of a value when it stores, returns, compares or deletes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from unit.helpers import leave, refuse

# All special methods except `__class__`, `__new__` and those that create the class itself.
SPECIAL = [
    f"__{name}__"
    for name in [
        "bool",
        "bytes",
        "call",
        "complex",
        "contains",
        "copy",
        "deepcopy",
        "delattr",
        "delete",
        "delitem",
        "dir",
        "enter",
        "eq",
        "exit",
        "float",
        "format",
        "ge",
        "get",
        "getattribute",
        "getitem",
        "getstate",
        "gt",
        "hash",
        "index",
        "int",
        "iter",
        "le",
        "len",
        "length_hint",
        "lt",
        "ne",
        "next",
        "reduce",
        "reduce_ex",
        "repr",
        "reversed",
        "set",
        "setattr",
        "setitem",
        "sizeof",
        "str",
    ]
]


class HostileType(type):
    """Its comparison, hash and instance checks must not be called either."""

    __eq__ = __hash__ = __repr__ = __instancecheck__ = __subclasscheck__ = __bool__ = __len__ = refuse  # type: ignore[assignment]


def hostile_value(base: type, *, metaclass: type = type) -> Any:
    return metaclass("Value", (base,), dict.fromkeys(SPECIAL, refuse))()


VALUES: dict[str, Callable[[], Any]] = {
    **{
        f"{base.__name__} subclass": lambda base=base: hostile_value(base)
        for base in (object, int, str, float, bytes, list, dict, tuple, set, frozenset)
    },
    "of a hostile class": lambda: hostile_value(object, metaclass=HostileType),
    "hostile class": lambda: HostileType("Value", (), {}),
    "in a list": lambda: [1, hostile_value(object)],
    "in a tuple": lambda: (hostile_value(str), hostile_value(int)),
    "in a dict": lambda: {"k": hostile_value(dict)},
    "deep": lambda: [{"k": ({"l": [hostile_value(object)]},)}],
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_no_special_method_is_called(store, state, session, make):
    value, other = make(), make()
    state["k"] = value
    got = [state["k"], state.k, state.get("k"), state.get("absent", value), state.setdefault("k", other)]
    got += [store.peek("k"), store.peek("absent", value), state.setdefault("new", value), state.pop("new")]
    got += [state.pop("absent", value)]
    assert all(found is value for found in got)
    session.finish_run()
    leave()
    state["k"] = value
    assert store.collect_stale() == []  # its content is compared nevertheless
    state["k"] = other
    assert state["k"] is other
    state["k"] = 0
    state.k = value
    store.touch("k")
    assert "k" in state
    assert list(state) == store.keys() == ["k"]
    assert repr(state) == "server_state(k)"
    assert next(iter(state.items()))[1] is value
    assert state.popitem()[1] is value
    state["k"] = value
    del state["k"]
    assert store.statistics()["keys"] == 0
