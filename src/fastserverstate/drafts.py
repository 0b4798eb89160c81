"""Drafts: private copies of values that copy only the parts that are used.

A `DictDraft` or `ListDraft` stands for one dict or list of the original value. It copies that when it is first written
to, and makes drafts of the dicts and lists in it when they are read. Other objects are copied when they are read. The
original never changes, and what remains unused is shared with the result.

This finds nothing out about a dict or list that is in the value twice, or in itself. So drafts are only for values that
`is_tree` accepts. All others are copied as a whole, with `copy.deepcopy`.

Drafts are no subclasses of dict and list, although ``isinstance`` takes them for such: code in C would bypass the
methods, and read and change the memory of the original's items.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import gc
import operator
import threading
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, SupportsIndex

from fastserverstate._core import replace_drafts, same_value

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "<missing>"})()

# Types whose values cannot change, and hold nothing that can.
ATOMS = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes, range, type, types.FunctionType, types.ModuleType),
        *(types.BuiltinFunctionType, datetime.date, datetime.datetime, datetime.time, datetime.timedelta),
        *(decimal.Decimal, uuid.UUID, type(...), type(NotImplemented)),
    }
)


# What an app puts drafts into, besides drafts.
NESTING: set[type] = {dict, list, tuple}


def is_tree(value: Any) -> bool:
    """Return whether each object in the value that can change is in it only once."""
    seen = {id(value)}
    level = [value]
    while level:
        level = [one for one in gc.get_referents(*level) if type(one) not in ATOMS and not isinstance(one, type)]
        ids = set(map(id, level))
        if len(ids) == len(level) and seen.isdisjoint(ids):
            seen |= ids
            continue
        found, level = level, []
        for one in found:
            if id(one) not in seen:
                seen.add(id(one))
                level.append(one)
            elif not is_constant(one):
                return False
    return True


def is_constant(value: Any) -> bool:
    """Return whether a copy of the value would be the value itself."""
    try:
        return copy.deepcopy(value) is value
    except Exception:
        return False


class Results(dict[int, Any]):
    """The memo of `copy.deepcopy` with which an edit turns its drafts into results."""

    shared = False  # an object has come up twice

    def get(self, key: int, default: Any = None) -> Any:
        found = super().get(key, MISSING)
        if found is MISSING:
            return default
        self.shared = True
        return found


class Owner:
    """What the drafts of one edit have in common."""

    __slots__ = ("name", "results", "thread")

    def __init__(self, name: str) -> None:
        self.name = name
        self.results = Results()
        self.thread: int | None = threading.get_ident()

    def check(self) -> None:
        """Raise RuntimeError unless the calling thread is in the block."""
        if self.thread is None:
            raise RuntimeError(
                f"The block of {self.name} has ended, so its draft cannot be changed any more. Begin another one: "
                f"with {self.name} as draft:"
            )
        if self.thread != threading.get_ident():
            raise RuntimeError(
                f"The draft of {self.name} belongs to the thread that began the block. Use edit on this thread instead."
            )

    def draft_of(self, value: Any) -> Any:
        """Return a draft or a copy of a part of the original."""
        if type(value) is dict:
            return DictDraft(self, value)
        if type(value) is list:
            return ListDraft(self, value)
        return self.copy_of(value)

    def copy_of(self, value: Any, memo: dict[int, Any] | None = None) -> Any:
        try:
            return copy.deepcopy(value, memo)
        except Exception as error:
            raise TypeError(
                f"{self.name} cannot copy a value of type {value.__class__.__qualname__}: {error}. Use "
                f"atomic('key', function), or change it with its lock held and call touch('key')."
            ) from error

    def result_of(self, draft: Any, base: Any) -> tuple[Any, bool]:
        """Return what the store gets, and whether its content differs from the original's.

        The result consists of plain values. Nothing in the block refers to those that differ from the original.
        """
        result = self.copy_of(draft, self.results)
        changed = draft.changed if is_draft(draft) else not same_value(base, result)
        return result if changed or self.results.shared else base, changed


def is_draft(value: Any) -> bool:
    return type(value) is DictDraft or type(value) is ListDraft


def _is_same(old: Any, new: Any) -> bool:
    return old is new or same_value(old, new)


def holds_draft(value: Any) -> bool:
    """Return whether a dict, list or tuple has a draft in it, at any depth."""
    level = {id(value): value}
    seen: set[int] = set()
    while level:
        if any(map(is_draft, level.values())):
            return True
        seen.update(level)
        found = gc.get_referents(*level.values())
        level = {id(one): one for one in found if type(one) in NESTING and id(one) not in seen}
    return False


class DictDraft(MutableMapping[Any, Any]):
    """A draft of a dict. It behaves as a dict."""

    __slots__ = (
        "__weakref__",
        "_base",
        "_children",
        "_data",
        "_finishing",
        "_owner",
        "_removed",
        "_written",
        "changed",
    )

    def __init__(self, owner: Owner, base: dict[Any, Any]) -> None:
        self._owner = owner
        self._base = base
        self._data: dict[Any, Any] | None = None  # the copy
        self._children: dict[Any, tuple[Any, Any]] = {}  # objects that the block may have, and their originals
        self._written: set[Any] = set()  # keys that were assigned
        self._removed = False
        self._finishing = False
        self.changed = False  # known when the block has ended

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return dict

    @property
    def _current(self) -> dict[Any, Any]:
        return self._base if self._data is None else self._data

    def _copied(self) -> dict[Any, Any]:
        if self._data is None:
            self._data = dict(self._base)
        return self._data

    def __getitem__(self, key: Any) -> Any:
        child = self._children.get(key)
        if child is not None:
            return child[0]
        value = self._current[key]
        if type(value) in ATOMS:
            return value
        draft = self._owner.draft_of(value)
        if draft is not value and self._owner.thread is not None:  # else the draft cannot be changed either
            self._owner.check()
            self._children[key] = draft, value
        return draft

    def __setitem__(self, key: Any, value: Any) -> None:
        self._owner.check()
        self._copied()[key] = value
        self._written.add(key)
        self._children.pop(key, None)
        if type(value) not in ATOMS:
            self._children[key] = value, MISSING

    def __delitem__(self, key: Any) -> None:
        self._owner.check()
        if key not in self._current:
            raise KeyError(key)
        del self._copied()[key]
        self._removed = True
        self._children.pop(key, None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._current)

    def __reversed__(self) -> Any:
        return reversed(self._current)

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, key: object) -> bool:
        return key in self._current

    def clear(self) -> None:
        self._owner.check()
        self._data = {}
        self._children.clear()
        self._removed = True

    def popitem(self) -> tuple[Any, Any]:
        for key in reversed(self._current):
            return key, self.pop(key)
        raise KeyError("popitem(): dictionary is empty")

    def copy(self) -> dict[Any, Any]:
        return dict(self.items())

    __copy__ = copy
    fromkeys = dict.fromkeys

    def __or__(self, other: Any) -> Any:
        return self.copy() | other.copy() if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return other.copy() | self.copy() if isinstance(other, dict) else NotImplemented

    def __ior__(self, other: Any) -> DictDraft:
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        return self.copy() == dict(other.items()) if isinstance(other, dict) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, ...]:
        return dict, (self.copy(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        if memo is self._owner.results:
            return self._result(memo)
        copied: dict[Any, Any] = {}
        memo[id(self)] = copied
        for key, value in self._current.items():
            child = self._children.get(key)
            copied[copy.deepcopy(key, memo)] = copy.deepcopy(value if child is None else child[0], memo)
        return copied

    def _result(self, results: dict[int, Any]) -> dict[Any, Any]:
        if self._finishing:  # the draft was put into itself
            self._owner.results.shared = True
            return self._copied()
        self._finishing = True
        finals: dict[Any, Any] = {}
        for key, (child, original) in self._children.items():
            final = finals[key] = copy.deepcopy(child, results)
            if original is not MISSING and not self.changed:
                self.changed = child.changed if is_draft(child) else not same_value(original, final)
        self.changed = self.changed or not self._is_as_before(finals)
        if self._data is not None or any(final is not self._base[key] for key, final in finals.items()):
            self._copied().update(finals)
        self._base, self._data = self._current, None
        self._children = {}
        return self._base

    def _is_as_before(self, finals: Mapping[Any, Any]) -> bool:
        """Return whether the keys that were assigned or deleted have the values and the order of the original."""
        data, base = self._data, self._base
        if data is None:
            return True
        if len(data) != len(base):
            return False
        if self._removed:
            return same_value(base, {**data, **finals})
        return all(key in base and _is_same(base[key], finals.get(key, data[key])) for key in self._written)


class _Own:
    """An item of a list that the block may have, in place of an item of the original."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _wrapped(value: Any) -> Any:
    return value if type(value) in ATOMS else _Own(value)


class ListDraft(MutableSequence[Any]):
    """A draft of a list. It behaves as a list."""

    __slots__ = ("__weakref__", "_base", "_data", "_finishing", "_owner", "_touched", "changed")

    def __init__(self, owner: Owner, base: list[Any]) -> None:
        self._owner = owner
        self._base = base
        self._data: list[Any] | None = None  # the copy, in which `_Own` stands for objects that the block may have
        # Where the copy may differ from the original; None after items have moved.
        self._touched: set[int] | None = set()
        self._finishing = False
        self.changed = False  # known when the block has ended

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return list

    @property
    def _current(self) -> list[Any]:
        return self._base if self._data is None else self._data

    def _copied(self) -> list[Any]:
        if self._data is None:
            self._data = list(self._base)
        return self._data

    def _item(self, index: int) -> Any:
        value = self._current[index]
        if type(value) is _Own:
            return value.value
        if type(value) in ATOMS:
            return value
        draft = self._owner.draft_of(value)
        if draft is not value and self._owner.thread is not None:
            self._owner.check()
            self._put(index, _Own(draft))
        return draft

    def _put(self, index: int, value: Any) -> None:
        data = self._copied()
        data[index] = value
        if self._touched is not None:
            self._touched.add(index if index >= 0 else index + len(data))

    def _moved(self) -> list[Any]:
        """Return the copy, to move items in it."""
        self._owner.check()
        self._touched = None
        return self._copied()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        return self._item(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._owner.check()
        if isinstance(index, slice):
            self._moved()[index] = [_wrapped(one) for one in value]
        else:
            self._put(operator.index(index), _wrapped(value))

    def __delitem__(self, index: Any) -> None:
        self._owner.check()
        if index == -1 or index == len(self) - 1:
            del self._copied()[index]
        else:
            del self._moved()[index]

    def __len__(self) -> int:
        return len(self._current)

    def insert(self, index: SupportsIndex, value: Any) -> None:
        self._moved().insert(index, _wrapped(value))

    def append(self, value: Any) -> None:
        self._owner.check()
        data = self._copied()
        data.append(_wrapped(value))
        if self._touched is not None:
            self._touched.add(len(data) - 1)

    def extend(self, values: Iterable[Any]) -> None:
        self._owner.check()
        for value in list(values):
            self.append(value)

    def clear(self) -> None:
        self._moved().clear()

    def reverse(self) -> None:
        self._moved().reverse()

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        self._owner.check()
        self[:] = sorted(self, key=key, reverse=reverse)

    def copy(self) -> list[Any]:
        return list(self)

    __copy__ = copy

    def __add__(self, other: Any) -> Any:
        return [*self, *other] if isinstance(other, list) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return [*other, *self] if isinstance(other, list) else NotImplemented

    def __mul__(self, times: Any) -> Any:
        return self.copy() * times

    __rmul__ = __mul__

    def __imul__(self, times: Any) -> ListDraft:
        self[:] = self.copy() * times
        return self

    def __eq__(self, other: object) -> bool:
        return self.copy() == list(other) if isinstance(other, list) else NotImplemented

    def __lt__(self, other: Any) -> bool:
        return self.copy() < list(other) if isinstance(other, list) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return self.copy() <= list(other) if isinstance(other, list) else NotImplemented

    def __gt__(self, other: Any) -> bool:
        return self.copy() > list(other) if isinstance(other, list) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return self.copy() >= list(other) if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, ...]:
        return list, (self.copy(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        if memo is self._owner.results:
            return self._result(memo)
        copied: list[Any] = []
        memo[id(self)] = copied
        for value in self._current:
            copied.append(copy.deepcopy(value.value if type(value) is _Own else value, memo))
        return copied

    def _result(self, results: dict[int, Any]) -> list[Any]:
        data = self._data
        if data is None:
            return self._base
        if self._finishing:  # the draft was put into itself
            self._owner.results.shared = True
            return data
        self._finishing = True
        base, size = self._base, len(data)
        places = range(size) if self._touched is None else [index for index in self._touched if index < size]
        for index in places:
            value = data[index]
            if type(value) is _Own:
                data[index] = copy.deepcopy(value.value, results)
        self.changed = size != len(base) or not all(_is_same(base[index], data[index]) for index in places)
        self._base, self._data = data, None
        return data


NESTING |= {DictDraft, ListDraft}
replace_drafts(DictDraft, ListDraft, copy.deepcopy)
