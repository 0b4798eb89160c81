"""`edit`: a block that changes a copy of a value and assigns it at its end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Never, TypeVar, cast, overload

from fastserverstate._core import ACCESS_READ, ACCESS_WRITE, Store, plain_key
from fastserverstate.drafts import ATOMS, MISSING, Owner, holds_draft, is_draft, is_tree
from fastserverstate.durations import Duration, seconds_of

_Value = TypeVar("_Value")

MOST_TREES = 1000
NEVER_CHANGE = (*ATOMS, frozenset)


class Trees:
    """Which values are known to be trees, so that successive edits of a large one do not look through it again.

    A value is known by its version and its address. It is not kept alive.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[int, int]] = {}

    def contain(self, key: str, value: Any) -> bool:
        return self._known.get(key) == (self._store.version(key), id(value)) or is_tree(value)

    def add(self, key: str, value: Any) -> None:
        if len(self._known) >= MOST_TREES and key not in self._known:
            self._known = {}
        self._known[key] = self._store.version(key), id(value)


class _Part:
    """One key of an edit."""

    __slots__ = ("base", "draft", "found", "key", "result")

    def __init__(self, key: str, found: Any, base: Any, draft: Any) -> None:
        self.key = key
        self.found = found  # the value of the key, MISSING if it is not set
        self.base = base  # that, or the default
        self.draft = draft
        self.result: Any = MISSING  # what was assigned


class Editing(AbstractContextManager[_Value]):
    """The ``with`` block that `edit` returns."""

    def __init__(self, store: Store, trees: Trees, keys: tuple[str, ...], default: Any, timeout: float | None) -> None:
        self._store = store
        self._trees = trees
        self._keys = keys
        self._name = f"edit({', '.join(map(repr, keys))})"
        self._default = default
        self._transaction = store.transaction(keys, timeout)
        self._owner: Owner | None = None
        self._parts: list[_Part] = []
        self.checks: Mapping[str, Callable[[Any], Any]] = {}
        """By key: returns what to assign instead of a result, or raises an error."""

    def __enter__(self) -> _Value:
        for key in self._keys:
            self._store.check_access(key, ACCESS_READ | ACCESS_WRITE)
        self._transaction.__enter__()
        self._owner = Owner(self._name)
        try:
            self._parts = [self._part(key) for key in self._keys]
        except BaseException as error:
            self._owner.thread = None
            self._transaction.__exit__(type(error), error, error.__traceback__)
            raise
        drafts = tuple(part.draft for part in self._parts)
        return cast("_Value", drafts[0] if len(drafts) == 1 else drafts)

    def _part(self, key: str) -> _Part:
        owner = cast("Owner", self._owner)
        found = base = self._store.peek(key, MISSING)
        if found is MISSING:
            base = owner.copy_of(self._default_of(key))
        if isinstance(base, NEVER_CHANGE):
            self._refuse(key, base)
        if type(base) in {dict, list} and self._trees.contain(key, base):
            return _Part(key, found, base, owner.draft_of(base))
        draft = owner.copy_of(base)
        if draft is base:
            self._refuse(key, base)
        return _Part(key, found, base, draft)

    def _default_of(self, key: str) -> Any:
        default = self._default
        if len(self._keys) > 1 and isinstance(default, Mapping) and default and set(default) <= set(self._keys):
            default = default.get(key, MISSING)
        if default is MISSING:
            raise KeyError(
                f"server_state has no key {key!r}. Did you forget to initialize it? edit({key!r}, default=...) begins "
                f"with a copy of a default."
            )
        return default

    @staticmethod
    def _refuse(key: str, value: Any) -> Never:
        raise TypeError(
            f"edit({key!r}) needs a value that can be changed in place, such as a dict, a list or a dataclass, and "
            f"server_state[{key!r}] is of type {type(value).__qualname__}. Use atomic({key!r}, function), or "
            f"atomic.increment for a number."
        )

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner, parts, self._owner, self._parts = self._owner, self._parts, None, []
        if owner is None:
            raise RuntimeError("This edit is not open. Make another one: with edit(...) as draft:")
        owner.thread = None  # refuses changes from here on
        if exc_type is None:
            try:
                written = self._transaction.written()
                for part in parts:
                    self._assign(owner, part)
                for key, value in written:
                    if key not in self._keys and holds_draft(value):
                        self._transaction.restage(key, copy.deepcopy(value))
            except BaseException as error:
                self._transaction.__exit__(type(error), error, error.__traceback__)
                raise
        self._transaction.__exit__(exc_type, exc_value, traceback)
        if not owner.results.shared:
            for part in parts:
                if part.result is not MISSING and is_draft(part.draft):
                    self._trees.add(part.key, part.result)

    def _assign(self, owner: Owner, part: _Part) -> None:
        """Assign the result if it differs from the value at the beginning of the block."""
        key = part.key
        result, changed = owner.result_of(part.draft, part.base)
        if result is part.base:
            return
        if self._store.peek(key, MISSING) is not part.found:
            raise RuntimeError(
                f"server_state[{key!r}] was assigned inside of edit({key!r}), which would overwrite that with its "
                f"draft. Change the draft only, or assign before or after the block."
            )
        if key in self.checks:
            result = self.checks[key](result)
        self._transaction.stage(key, result, is_known=changed)
        part.result = result

    def __aenter__(self) -> Never:
        raise TypeError(
            "An edit would block the event loop. Use a plain block in a function, with edit(...) as draft:, and call "
            "it on another thread: await asyncio.to_thread(function)."
        )

    def __aexit__(self, *_exc: object) -> None: ...

    def __call__(self, *_args: object, **_options: object) -> Never:
        raise TypeError("edit(...) is not a decorator. Use a block: with edit(...) as draft:")


class Edit:
    """Begins edits of the keys of a store.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._trees = Trees(store)

    @overload
    def edit(self, key: str, /, *, timeout: Duration | None = None) -> Editing[Any]: ...
    @overload
    def edit(self, key: str, /, *, default: dict[Never, Never], timeout: Duration | None = None) -> Editing[Any]: ...
    @overload
    def edit(self, key: str, /, *, default: list[Never], timeout: Duration | None = None) -> Editing[Any]: ...
    @overload
    def edit(self, key: str, /, *, default: _Value, timeout: Duration | None = None) -> Editing[_Value]: ...
    @overload
    def edit(
        self, first: str, second: str, /, *others: str, default: Any = ..., timeout: Duration | None = None
    ) -> Editing[tuple[Any, ...]]: ...
    def edit(self, *keys: str, default: Any = MISSING, timeout: Duration | None = None) -> Editing[Any]:
        """Change a value in place, in a block: ``with edit(*keys, default=..., timeout=None) as draft:``.

        The block gets a draft, a private copy of the value. At its end, the draft is assigned, and the sessions that
        depend on the key are rerun. A draft with the content from before is not assigned. An exception discards the
        draft, and so does an exception that stops or reruns the script.

        ``default=`` stands for the value of a key that is not set. It is copied, and the key stays unset if the draft
        is not changed. With several keys, the block gets a tuple of drafts, which are assigned atomically, and
        ``default=`` is for each of them, or a dict of defaults by key.

        Use it for dicts, lists, sets, deques, dataclasses, frames and other objects that can be changed in place and
        copied by ``copy.deepcopy``, nested to any depth. Use `atomic` for numbers, text and tuples. Assigning to the
        variable, ``votes = {}``, has no effect on the key: call ``votes.clear()``, or assign to
        ``server_state["votes"]`` without a block.

        A dict or list is copied when it is first changed. Parts that the block does not use are shared with the value
        from before. Drafts of dicts and lists behave as these types, also for ``isinstance``, but functions in C such
        as ``json.dumps`` and ``heapq.heappush`` reject them: pass ``copy.deepcopy(draft)``, a plain copy.

        Thread-safety
            The block is a `transaction` on the keys: it holds their locks, and other threads that read or write the
            keys wait until it ends. Inside another transaction it joins that. The draft belongs to the thread that
            began the block. Reading it subscribes to nothing.

        Raises
            ``KeyError`` if a key is not set and there is no default, ``TypeError`` if a key is not a ``str`` or its
            value cannot be changed in place or copied, ``RuntimeError`` if the draft is changed after the block, or the
            key was assigned inside of it in another way. Also the errors of `transaction`.

        >>> from fastserverstate import edit, server_state
        >>> with edit("votes", default={}) as votes:
        ...     votes["Tea"] = votes.get("Tea", 0) + 1
        >>> server_state["votes"]
        {'Tea': 1}
        >>> server_state["done"] = []
        >>> with edit("votes", "done") as (votes, done):
        ...     done.append(votes.pop("Tea"))
        >>> server_state["votes"], server_state["done"]
        ({}, [1])
        >>> del server_state["votes"], server_state["done"]
        """
        if not keys:
            raise TypeError("edit needs the key that the block changes: with edit('votes') as votes:")
        for key in keys:
            if isinstance(key, (list, tuple, set, frozenset)):
                raise TypeError(
                    "edit takes its keys one after the other: edit('a', 'b'), or edit(*keys) for those in a "
                    f"{type(key).__name__}."
                )
            if callable(key):
                raise TypeError("edit decorates nothing. Use a block in the function: with edit('key') as draft:")
        plain = tuple(plain_key(key) for key in keys)
        if len(set(plain)) < len(plain):
            raise ValueError(f"edit was given a key twice: {', '.join(map(repr, plain))}. Name each key once.")
        return Editing(self._store, self._trees, plain, default, seconds_of(timeout, "timeout"))
