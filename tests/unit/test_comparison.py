"""Values that use the store, block or raise while they are compared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from unit.helpers import DEADLINE, ThreadSet, leave

from fastserverstate import _core

# How a value is compared: with `__eq__`, or by a fingerprint of its content. No lock is held while it runs.
COMPARISONS: dict[str, tuple[int, str]] = {
    "equality": (_core.COMPARE_EQUALITY, "__eq__"),
    "registered function": (_core.COMPARE_CONTENT, "told"),
    "pickled content": (_core.COMPARE_CONTENT, "__reduce_ex__"),
}
COMPARING_ACTS: dict[str, Callable[[Any, Any], object]] = {
    "reads": lambda store, state: (state["k"], "k" in state, list(state)),
    "writes the key": lambda store, state: state.__setitem__("k", "meanwhile"),
    "deletes the key": lambda store, state: state.pop("k", None),
    "deletes and writes": lambda store, state: (state.pop("k", None), state.__setitem__("k", "meanwhile")),
    "touches the key": lambda store, state: "k" in state and store.touch("k"),
    "lets the table grow": lambda store, state: state.update({f"new{i}": i for i in range(300)}),
    "takes the lock": lambda store, state: store.lock("k").acquire() and store.lock("k").release(),
    "raises": lambda store, state: 1 / 0,
}


@pytest.mark.parametrize(("policy", "method"), COMPARISONS.values(), ids=COMPARISONS)
@pytest.mark.parametrize("act", COMPARING_ACTS.values(), ids=COMPARING_ACTS)
def test_comparison_uses_the_store(store, state, session, *, policy, method, act):
    """The assignment then applies to the state as it is, and counts as a change."""
    acts: list[bool] = []

    def acting(self: object, *_: object) -> Any:
        if state.get("armed") and not acts:
            acts.append(True)
            act(store, state)
        return False if method == "__eq__" else (object, (), {"n": id(self)})

    acting.__qualname__ = f"Value.{method}"  # as if it were defined in the class
    value = type("Value", (), {method: acting, "__hash__": None})
    told = {f"{value.__module__}.{value.__qualname__}": acting} if method == "told" else None
    store.set_options(lambda _: (policy, told, 0.0, (0.0, 0.0, True)))
    state["k"], state["armed"] = value(), True
    state["k"]
    session.finish_run()
    version, other = store.version("k"), value()
    leave()
    state["k"] = other
    assert acts
    assert state["k"] is other
    assert store.version("k") > version
    assert [scope.session for scope in store.collect_stale()] == [session]
    del state["k"]
    assert store.statistics()["keys"] == len(state) == len(store.keys())
    assert not store.lock("k").locked()


def test_blocking_comparison_stalls_no_other_thread(store, state):
    """A value that is written meanwhile is compared next."""
    entered, used = threading.Event(), threading.Event()
    waits: list[bool] = []

    class Blocking:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, _other: object) -> bool:
            if entered.is_set():
                return False
            entered.set()
            waits.append(used.wait(DEADLINE))
            return True

    def use() -> None:
        assert entered.wait(DEADLINE)
        with store.lock("k"):
            assert type(state["k"]) is Blocking
            state["k"], state["new"] = "newer", 1
        assert state.pop("new") == 1
        used.set()

    store.set_options(lambda _: (_core.COMPARE_EQUALITY, None, 0.0, (0.0, 0.0, True)))
    state["k"] = Blocking()
    with ThreadSet() as threads:
        threads.add(use)
        threads.go()
        state["k"] = "newest"
    assert waits == [True]
    assert state["k"] == "newest"
