"""Drafts compared with `copy.deepcopy`: random changes of random values have the same result."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserverstate.drafts import ATOMS, Owner, is_tree


@dataclasses.dataclass
class Room:
    members: Any


CONTAINERS = (dict, list, set, deque, Room, tuple)


def shape(value: Any) -> Any:
    """Describe a value with its types, order, and which of its objects are the same."""
    known: dict[int, int] = {}

    def describe(value: Any) -> Any:
        if type(value) in ATOMS:
            return type(value).__name__, repr(value)
        if type(value) is not tuple:
            if id(value) in known:
                return "the same", known[id(value)]
            known[id(value)] = len(known)
        if type(value) is dict:
            return "dict", [(key, describe(item)) for key, item in value.items()]
        if type(value) is set:
            return "set", sorted(map(repr, value))
        assert type(value) in CONTAINERS
        return type(value).__name__, [describe(item) for item in children(value)]

    return describe(value)


def children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, Room):
        return [value.members]
    return list(value) if isinstance(value, (list, tuple, deque)) else []


def pick(value: Any, path: list[int]) -> Any:
    """Walk down the path, which chooses one of the children at each step."""
    for step in path:
        found = [child for child in children(value) if isinstance(child, CONTAINERS)]
        if not found:
            break
        value = found[step % len(found)]
    return value


def change(root: Any, path: list[int], operation: str, *, index: int, item: Any, other: list[int]) -> None:
    """Make one change of the object at the path. It puts in an item, or the object at another path if there is none."""
    target = pick(root, path)
    item = pick(root, other) if item is None else copy.deepcopy(item)
    for kind, operations in CHANGES_BY_TYPE.items():
        if isinstance(target, kind) and operation in operations:
            operations[operation](target, index, item)


def reinsert(target: Any, key: str) -> None:
    if key in target:
        target[key] = target.pop(key)


def rewrite(target: Any) -> None:
    for key in list(target):
        target[key] = target[key]


def set_item(target: Any, index: int, item: Any) -> None:
    if target:
        target[index % len(target)] = item


def delete_item(target: Any, index: int) -> None:
    if target:
        del target[index % len(target)]


def move_last(target: Any, index: int) -> None:
    if target:
        target.insert(index, target.pop())


def extend(target: Any, item: Any) -> None:
    target += [item, item]


def repeat(target: Any) -> None:
    if len(target) < 5:
        target *= 2


LIST_CHANGES = {
    "set": set_item,
    "remove": lambda target, index, _: delete_item(target, index),
    "remove and set": lambda target, index, _: move_last(target, index),
    "more": lambda target, _, item: extend(target, item),
    "default": lambda target, _, item: target.append(item),
    "last": lambda target, _, __: target.reverse(),
    "clear": lambda target, _, __: target.clear(),
}
CHANGES_BY_TYPE: dict[type, dict[str, Any]] = {
    dict: {
        "set": lambda target, index, item: target.__setitem__(f"key {index % 3}", item),
        "remove": lambda target, index, _: target.pop(f"key {index % 3}", None),
        "remove and set": lambda target, index, _: reinsert(target, f"key {index % 3}"),
        "more": lambda target, index, item: target.update({f"key {index % 3}": item, "more": item}),
        "default": lambda target, index, item: target.setdefault(f"key {index % 3}", item),
        "last": lambda target, _, __: target and target.popitem(),
        "clear": lambda target, _, __: target.clear(),
        "same": lambda target, _, __: rewrite(target),
    },
    list: LIST_CHANGES
    | {
        "same": lambda target, _, __: target.__setitem__(slice(2), target[:2]),
        "times": lambda target, _, __: repeat(target),
    },
    deque: LIST_CHANGES,
    set: {
        "set": lambda target, index, _: target.add(index),
        "remove": lambda target, index, _: target.discard(index),
    },
    Room: {
        "set": lambda target, _, item: setattr(target, "members", item),
        "same": lambda target, _, __: setattr(target, "members", target.members),
    },
}
OPERATIONS = sorted({name for operations in CHANGES_BY_TYPE.values() for name in operations})


KEYS = st.sampled_from(["key 0", "key 1", "key 2", "key 3"])
VALUES = st.recursive(
    st.integers(0, 3) | st.sampled_from(["a", None, 0.5]) | st.sets(st.integers(0, 3), max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.builds(Room, inner)
        | st.lists(inner, max_size=2).map(deque)
    ),
    max_leaves=12,
)
ROOTS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4) | st.lists(VALUES, min_size=1, max_size=4)
PATHS = st.lists(st.integers(0, 3), max_size=4)
CHANGES = st.lists(
    st.fixed_dictionaries(
        {
            "path": PATHS,
            "operation": st.sampled_from(OPERATIONS),
            "index": st.integers(0, 5),
            "item": st.none() | VALUES,
            "other": PATHS,
        }
    ),
    max_size=8,
)


def edited(base: Any, changes: list[dict[str, Any]]) -> Any:
    """Make the changes as `edit` does."""
    owner = Owner("edit('k')")
    draft = owner.draft_of(base) if is_tree(base) else copy.deepcopy(base)
    for one in changes:
        change(draft, **one)
    owner.thread = None
    return owner.result_of(draft, base)[0]


@given(ROOTS, CHANGES)
@settings(max_examples=600, deadline=None)
def test_draft_changes_as_a_deep_copy_does(base, changes):
    before, ids = shape(base), {id(one) for one in objects_in(base)}
    expected = copy.deepcopy(base)
    for one in changes:
        change(expected, **one)
    result = edited(base, changes)
    assert shape(result) == shape(expected)
    assert shape(base) == before
    assert {id(one) for one in objects_in(base)} == ids


def test_change_that_only_makes_two_objects_one():
    """Its content is the same, and a later change differs."""
    base = {"a": [], "b": []}
    owner = Owner("edit('k')")
    draft = owner.draft_of(base)
    draft["b"] = draft["a"]
    result, changed = owner.result_of(draft, base)
    assert result["a"] is result["b"]
    assert not changed


@pytest.mark.parametrize(
    "move",
    [
        lambda draft: draft.__delitem__(0),
        lambda draft: draft.insert(0, 5),
        lambda draft: draft.reverse(),
        lambda draft: draft.__setitem__(slice(1), []),
        lambda draft: draft.sort(key=str),
        lambda draft: draft.extend(draft),
        lambda draft: draft.__imul__(2),
    ],
)
def test_items_that_move_after_they_were_changed(move):
    base = [0, {"n": 1}, 2, {"n": 3}]
    expected = copy.deepcopy(base)
    owner = Owner("edit('k')")
    draft = owner.draft_of(base)
    for value in (draft, expected):
        value[1]["n"] = 5
        value[-2] = "new"
        move(value)
        value.append({"n": 6})
        value.pop()
    assert shape(owner.result_of(draft, base)[0]) == shape(expected)
    assert base == [0, {"n": 1}, 2, {"n": 3}]


@given(ROOTS, PATHS, PATHS, CHANGES)
@settings(max_examples=300, deadline=None)
def test_values_that_hold_an_object_twice_or_in_a_circle(base, path, other, changes):
    change(base, path, "default", index=4, item=None, other=other)
    change(base, other, "more", index=4, item=None, other=path)
    test_draft_changes_as_a_deep_copy_does.hypothesis.inner_test(base, changes)


def objects_in(value: Any) -> list[Any]:
    found = {id(value): value}
    waiting = [value]
    while waiting:
        for child in children(waiting.pop()):
            if isinstance(child, CONTAINERS) and id(child) not in found:
                found[id(child)] = child
                waiting.append(child)
    return list(found.values())
