"""The real store with the calls of the model, and threads that perform and record calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import pytest
from harness.linearizability import Operation, timed
from linearizability.model import FUNCTIONS

from fastserverstate import _core
from fastserverstate.errors import DeadlockError
from fastserverstate.lock import ServerStateLock
from fastserverstate.state import ServerState
from fastserverstate.updates import Atomic, BeginTransaction, KeyOperations

DEADLINE = 20

Call = tuple[Any, ...]  # name and arguments


class VanishError(Exception):
    """Raised to discard a transaction."""


class Subject:
    """A new store. Calls return comparable results: tuples instead of lists."""

    def __init__(self) -> None:
        self.store = _core.Store(reserved=dir(ServerState))
        self.state = ServerState(self.store)
        self.locks = ServerStateLock(self.store)
        self.atomic = Atomic(self.store)
        self.transaction = BeginTransaction(self.store)
        self.compare_and_set = KeyOperations(self.store).compare_and_set

    def perform(self, call: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self, f"_{call}")(*arguments)

    def _steps(self, steps: Iterable[Call]) -> tuple[Any, ...]:
        results = []
        for name, *arguments in steps:
            time.sleep(0)  # releases the GIL
            try:
                results.append(self.perform(name, tuple(arguments)))
            except (KeyError, AttributeError, TypeError) as error:
                results.append(type(error))
        time.sleep(0)
        return tuple(results)

    def _transaction(self, keys: tuple[str, ...], steps: Iterable[Call], raises: bool = False) -> tuple[Any, ...]:
        results: tuple[Any, ...] = ()
        with pytest.raises(VanishError) if raises else nullcontext(), self.transaction(*keys):
            results = self._steps(steps)
            if raises:
                raise VanishError
        return results

    def _locked(self, keys: tuple[str, ...], steps: Iterable[Call]) -> tuple[Any, ...]:
        with self.locks[keys]:
            return self._steps(steps)

    def _item(self, key: str) -> Any:
        return self.state[key]

    def _get(self, key: str) -> Any:
        value = self.state.get(key)
        return tuple(value) if type(value) is list else value

    def _contains(self, key: str) -> bool:
        return key in self.state

    def _len(self) -> int:
        return len(self.state)

    def _list(self) -> tuple[str, ...]:
        return tuple(sorted(self.state))

    def _set(self, key: str, value: Any) -> None:
        self.state[key] = value

    def _del(self, key: str) -> None:
        del self.state[key]

    def _setdefault(self, key: str, value: Any) -> Any:
        return self.state.setdefault(key, value)

    def _pop(self, key: str) -> Any:
        return self.state.pop(key)

    def _touch(self, key: str) -> None:
        self.store.touch(key)

    def _compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        return self.compare_and_set(key, expected, value)

    def _atomic(self, key: str, function: str) -> Any:
        return self.atomic(key, lambda value: (time.sleep(0), FUNCTIONS[function](value))[1])

    def _atomic_default(self, key: str, function: str, default: Any) -> Any:
        return self.atomic(key, FUNCTIONS[function], default=default)

    def _increment(self, key: str, by: int) -> Any:
        return self.atomic.increment(key, by)

    def _append(self, key: str, item: Any, max_length: int) -> tuple[Any, ...]:
        return tuple(self.atomic.append(key, item, max_length=max_length))

    def _move(self, source: str, target: str, amount: int) -> None:
        moved = self.state[source] - amount, self.state[target] + amount
        self.state[source] = moved[0]
        time.sleep(0)
        self.state[target] = moved[1]


class Team:
    """Threads that perform the calls of one script each, concurrently. Can be used repeatedly."""

    def __init__(self, size: int) -> None:
        self._gate = threading.Barrier(size + 1)
        self._subject = Subject()
        self._scripts: Sequence[Sequence[Call]] = ()
        self._histories: list[list[Operation]] = [[] for _ in range(size)]
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(at,), daemon=True) for at in range(size)]

    def __enter__(self) -> Team:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._gate.abort()
        for thread in self._threads:
            thread.join(DEADLINE)

    def play(self, subject: Subject, scripts: Sequence[Sequence[Call]]) -> list[Operation]:
        """Return the history. Calls that raised DeadlockError must have had no effect and are left out."""
        self._subject, self._scripts = subject, scripts
        self._gate.wait(DEADLINE)
        self._gate.wait(DEADLINE)
        if self._errors:
            raise self._errors[0]
        return [operation for part in self._histories for operation in part if operation.result is not DeadlockError]

    def _work(self, at: int) -> None:
        try:
            while True:
                self._gate.wait(DEADLINE)
                history = self._histories[at]
                history.clear()
                if at < len(self._scripts):
                    for call, *arguments in self._scripts[at]:
                        history.append(timed(at, call, tuple(arguments), self._subject.perform))
                self._gate.wait(DEADLINE)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            self._errors.append(error)
            self._gate.abort()
