"""`edit`: a block that changes a copy of a value."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import json
import pickle
import threading
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from threading import Lock
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pytest
from unit.helpers import DEADLINE, ThreadSet, elsewhere, is_free, leave

from fastserverstate import no_rerun
from fastserverstate._core import same_value
from fastserverstate.drafts import DictDraft, is_draft

try:
    import msgspec
    import polars as pl
    import pydantic
except ModuleNotFoundError:  # no wheels for free-threaded builds of Python 3.13
    pl = None

pytestmark = pytest.mark.usefixtures("many_switches")

THREADS = 10
EDITS = 100


class StopException(BaseException):
    """Ends a script's run. Like Streamlit's, it is no ``Exception``."""


@dataclasses.dataclass
class Todo:
    title: str
    tags: list[str] = dataclasses.field(default_factory=list)


@attrs.define
class Attrs:
    title: str
    tags: list[str] = attrs.field(factory=list)


class Slotted:
    __slots__ = ("tags", "title")

    def __init__(self, title, tags):
        self.title, self.tags = title, tags


def run(block, change=lambda _: None, error=None):
    """Change the draft, and raise the error if there is one."""
    with block as draft:
        change(draft)
        if error is not None:
            raise error


def rows() -> dict[str, Any]:
    return {f"row {n}": {"id": n, "tags": ["a", "b"]} for n in range(1000)}


# ------------------------------------------------------------------------------------------------- assigned at the end


def test_draft_is_assigned_at_the_end(state, edit):
    old = state["votes"] = {"Tea": 1, "Coffee": {"black": [1]}}
    with edit("votes") as votes:
        votes["Tea"] += 1
        votes["Coffee"]["black"].append(2)
        assert elsewhere(lambda: old) == {"Tea": 1, "Coffee": {"black": [1]}}
        assert state["votes"] is old
    assert state["votes"] == {"Tea": 2, "Coffee": {"black": [1, 2]}}
    assert old == {"Tea": 1, "Coffee": {"black": [1]}}
    parts = state["votes"], state["votes"]["Coffee"], state["votes"]["Coffee"]["black"]
    assert list(map(type, parts)) == [dict, dict, list]


def test_other_threads_wait_for_the_end(state, edit):
    state["k"] = {"n": 1}
    seen = []
    with ThreadSet() as threads:
        with edit("k") as draft:
            draft["n"] = 2
            thread = threads.add(lambda: seen.append(state["k"]))
            threads.go()
            thread.join(0.02)
            assert not seen
        thread.join(DEADLINE)
    assert seen == [{"n": 2}]


def test_sessions_rerun_once_for_a_changed_draft_and_not_for_an_unchanged_one(store, state, edit, session):
    state["k"] = {"n": 1, "list": [1, 2], "todo": Todo("a")}
    state["k"]
    leave()
    session.finish_run()
    version, value = store.version("k"), state["k"]
    with edit("k") as draft:
        draft["n"] += 1
        draft["n"] -= 1
        draft["list"].append(draft["list"].pop())
        draft["todo"].title = "a"
        draft["new"] = 1
        del draft["new"]
    with edit("k"):
        pass
    assert state["k"] is value
    assert (store.version("k"), store.collect_stale()) == (version, [])
    with edit("k") as draft:
        draft["n"] += 1
        draft["list"].append(3)
    assert [scope.session for scope in store.collect_stale()] == [session]
    assert store.version("k") > version


@pytest.mark.parametrize("size", [3, 100_000], ids=["small", "large"])
def test_next_assignment_of_a_small_value_is_compared(store, state, edit, size):
    """A fingerprint of a large value would cost more than the edit."""
    state["k"] = list(range(size))
    with edit("k") as draft:
        draft.append(0)
    version = store.version("k")
    state["k"] = copy.copy(state["k"])
    assert (store.version("k") == version) == (size == 3)


def test_edit_subscribes_to_nothing(store, state, edit, session):
    state["k"] = {}
    with edit("k") as draft:
        draft.get("a")
    session.message_sent()
    leave()
    session.finish_run()
    state["k"] = {"a": 1}
    assert store.collect_stale() == []


def test_edit_in_a_no_rerun_block_reruns_no_session(store, state, edit, session):
    state["k"] = {}
    state["k"]
    leave()
    session.finish_run()
    with no_rerun, edit("k") as draft:
        draft["a"] = 1
    assert state["k"] == {"a": 1}
    assert store.collect_stale() == []


def test_listeners_are_called_once(state, edit, on_change):
    calls = []
    state["k"] = []
    on_change("k", lambda _, value: calls.append(value))
    with edit("k") as draft:
        draft.append(1)
        draft.append(2)
    with edit("k") as draft:
        draft.append(draft.pop())
    assert calls == [[1, 2]]


def test_deadline_stays(store, state, edit):
    state["k"] = []
    store.expire("k", 100)
    with edit("k") as draft:
        draft.append(1)
    assert store.deadline("k") is not None


def test_default_is_copied(state, edit):
    default = {"list": []}
    with edit("k", default=default) as draft:
        draft["list"].append(1)
        draft["n"] = 1
    assert state["k"] == {"list": [1], "n": 1}
    assert default == {"list": []}
    with edit("other", default=default) as draft:
        draft["n"] = 1
    assert state["other"]["list"] is not default["list"]


@pytest.mark.parametrize("default", [{}, [], set(), Todo("a")], ids=repr)
def test_unchanged_default_sets_no_key(state, edit, default):
    with edit("k", default=default) as draft:
        assert draft == default
    assert "k" not in state


def test_assigning_to_the_variable_has_no_effect(state, edit):
    state["k"] = {"a": 1}
    with edit("k") as votes:
        assert votes
        votes = {"b": 2}  # noqa: PLW2901
    assert state["k"] == {"a": 1}


# ------------------------------------------------------------------------------------------------------------ discarded


@pytest.mark.parametrize("error", [ValueError, StopException])
@pytest.mark.parametrize("value", [{"n": [1]}, {1}], ids=["draft", "copy"])
def test_exception_discards_the_draft(store, state, locks, edit, *, error, value):
    before = copy.deepcopy(value)
    state["k"] = value
    version = store.version("k")
    with pytest.raises(error):
        run(edit("k"), lambda draft: draft.clear(), error)
    assert state["k"] is value
    assert value == before
    assert store.version("k") == version
    assert is_free(locks["k"])


def test_end_of_the_run_discards_the_draft(store, state, locks, edit):
    state["k"] = []
    with pytest.raises(RuntimeError, match="discarded"):
        run(edit("k"), lambda draft: (draft.append(1), store.end_holder()))
    assert state["k"] == []
    assert is_free(locks["k"])


def test_value_that_cannot_be_copied_at_the_end_discards_all(state, locks, edit):
    state.update(a=[], b=[])
    with pytest.raises(TypeError, match=r"edit\('a', 'b'\) cannot copy a value of type list: .*pickle.*Use atomic"):
        run(edit("a", "b"), lambda drafts: [draft.append(one) for draft, one in zip(drafts, [1, Lock()], strict=True)])
    assert (state["a"], state["b"]) == ([], [])
    assert is_free(locks["a"])


@pytest.mark.parametrize("value", [1, 0.5, "text", None, True, b"b", (1, 2), frozenset({1})], ids=repr)
def test_values_that_never_change_are_refused(state, locks, edit, value):
    state["k"] = value
    with (
        pytest.raises(TypeError, match=rf"server_state\['k'\] is of type {type(value).__name__}. Use atomic\('k',"),
        edit("k"),
    ):
        raise AssertionError
    assert is_free(locks["k"])


def test_value_that_cannot_be_copied_is_refused(state, locks, edit):
    state["k"] = value = Todo(Lock())
    with pytest.raises(TypeError, match=r"edit\('k'\) cannot copy a value of type Todo: .*Use atomic"), edit("k"):
        raise AssertionError
    assert state["k"] is value
    assert is_free(locks["k"])


def test_part_that_cannot_be_copied_is_refused(state, edit):
    state["k"] = {"todo": Todo(Lock()), "n": 1}
    with edit("k") as draft:
        with pytest.raises(TypeError, match=r"edit\('k'\) cannot copy a value of type Todo: .*Use atomic"):
            draft["todo"]
        draft["n"] = 2
    assert state["k"]["n"] == 2
    assert isinstance(state["k"]["todo"], Todo)


def test_absent_key_without_a_default_is_refused(locks, edit):
    with pytest.raises(KeyError, match="no key 'k'"), edit("k"):
        raise AssertionError
    assert is_free(locks["k"])


def test_timeout(locks, edit):
    with locks["k"]:

        def wait():
            with pytest.raises(TimeoutError), edit("k", default=[], timeout="10ms"):
                raise AssertionError

        elsewhere(wait)


# ------------------------------------------------------------------------------------------------------- after the end


@pytest.mark.parametrize("succeeds", [True, False])
def test_draft_cannot_be_changed_after_the_block(state, edit, succeeds):
    state["k"] = {"list": [1], "todo": Todo("a"), "n": 1}
    inserted = []
    with contextlib.suppress(ZeroDivisionError), edit("k") as draft:
        items, todo, values = draft["list"], draft["todo"], draft.values()
        draft["inserted"] = inserted
        draft["n"] = 2 if succeeds else 2 / 0
    draft_n = 2 if succeeds else 1
    before = copy.deepcopy(state["k"])
    todo.title = "other"
    todo.tags.append("other")
    inserted.append("other")
    for change in (
        lambda: draft.__setitem__("n", 3),
        lambda: draft.update(n=3),
        lambda: draft.pop("n"),
        draft.clear,
        lambda: items.append(1),
        lambda: items.__setitem__(slice(None), []),
        items.pop,
        items.sort,
        items.reverse,
        items.clear,
    ):
        with pytest.raises(RuntimeError, match=r"The block of edit\('k'\) has ended"):
            change()
    assert state["k"] == before
    assert (draft["n"], len(items), len(values)) == (draft_n, 1, 4)
    if succeeds:
        assert draft == before
        with pytest.raises(RuntimeError, match="has ended"):
            draft["list"].append(1)


def test_draft_cannot_be_changed_by_another_thread(state, edit):
    state["k"] = {"list": [1]}
    with edit("k") as draft:
        for change in (lambda: draft.update(n=1), lambda: draft["list"]):
            with pytest.raises(RuntimeError, match="belongs to the thread"):
                elsewhere(change)
        draft["n"] = 2
    assert state["k"] == {"list": [1], "n": 2}


# --------------------------------------------------------------------------------------------- transactions, other keys


def test_several_keys(state, edit):
    state.update(a=[1], b={"n": 1})
    with edit("b", "a") as (b, a):
        a.append(b.pop("n"))
        assert (state["a"], state["b"]) == ([1], {"n": 1})
    assert (state["a"], state["b"]) == ([1, 1], {})


def test_several_keys_rerun_a_session_once(store, state, edit, session):
    state.update(a=[1], b=[1])
    state["a"], state["b"]
    leave()
    session.finish_run()
    with edit("a", "b") as drafts:
        for draft in drafts:
            draft.append(2)
    assert [scope.session for scope in store.collect_stale()] == [session]


def test_defaults_of_several_keys(state, edit):
    with edit("a", "b", default={"a": [], "b": set()}) as (a, b):
        a.append(1)
        b.add(2)
    with edit("c", "d", default={}) as (c, d):
        c["n"], d["m"] = 1, 2
    with edit("e", "f", default={"not a key": 1}) as (e, f):
        e["n"] = f["n"] = 3
    assert state.to_dict() == {
        "a": [1],
        "b": {2},
        "c": {"n": 1},
        "d": {"m": 2},
        "e": {"not a key": 1, "n": 3},
        "f": {"not a key": 1, "n": 3},
    }
    with pytest.raises(KeyError, match="'h'"), edit("g", "h", default={"g": []}):
        raise AssertionError


def test_object_that_moves_between_keys(state, edit):
    state.update(todo=[{"id": 1}], done=[])
    with edit("todo", "done") as (todo, done):
        job = todo.pop()
        job["state"] = "done"
        done.append(job)
    assert (state["todo"], state["done"]) == ([], [{"id": 1, "state": "done"}])
    assert type(state["done"][0]) is dict


def test_edit_joins_a_transaction(state, edit, transaction):
    state.update(k=[1], n=1)
    with transaction("k"):
        state["n"] = 2
        with edit("k") as draft:
            draft.append(2)
        with edit("k") as draft:
            assert draft == [1, 2]
            draft.append(3)
        assert state["k"] == [1, 2, 3]
        with pytest.raises(ZeroDivisionError):
            run(edit("k", "n2", default=[]), lambda drafts: drafts[0].append(4), ZeroDivisionError)
    assert state.to_dict() == {"k": [1, 2, 3], "n": 2}
    with pytest.raises(ZeroDivisionError):
        run(transaction(), lambda _: append_in_block(edit, 4), ZeroDivisionError)
    assert state["k"] == [1, 2, 3]


def test_edits_that_cancel_out_in_a_transaction_are_no_change(store, state, edit, transaction):
    state["k"] = [1]
    version = store.version("k")
    with transaction("k"):
        with edit("k") as draft:
            draft.append(2)
        with edit("k") as draft:
            draft.pop()
    assert (state["k"], store.version("k")) == ([1], version)


def test_write_after_an_edit_in_a_transaction_is_compared(store, state, edit, transaction):
    """The edit knows that its own result differs, whatever the size."""
    state["k"] = list(range(50_000))
    version = store.version("k")
    with transaction("k"):
        with edit("k") as draft:
            draft.append(0)
        state["k"] = list(range(50_000))
    assert store.version("k") == version


def test_write_in_the_block_is_not_lost_silently(state, edit, atomic):
    state["k"] = [1]
    for write in (
        lambda: state.__setitem__("k", [5]),
        lambda: state.pop("k"),
        lambda: atomic.append("k", 5),
        lambda: append_in_block(edit, 5),
    ):
        with pytest.raises(RuntimeError, match=r"assigned inside of edit\('k'\)"), edit("k") as draft:
            append_and(draft, write)
        assert state["k"] == [1]
    with edit("k") as draft:  # changes nothing
        state["k"] = [5]
    assert state["k"] == [5]


def append_and(draft, write):
    draft.append(2)
    write()


def append_in_block(edit, item):
    with edit("k") as draft:
        draft.append(item)


def test_draft_of_another_edit_is_copied(state, edit):
    state.update(a={"list": [1]}, b={})
    with edit("a") as a:
        with edit("b") as b:
            b["list"] = a["list"]
        a["list"].append(2)
    assert (state["a"], state["b"]) == ({"list": [1, 2]}, {"list": [1]})
    assert type(state["b"]["list"]) is list


def test_no_draft_gets_into_the_store(state, edit, atomic, transaction):
    state.update(k={"list": [{"n": 1}]}, log=[])
    with transaction():
        state["before"] = [1]
        with edit("k") as draft:
            draft["list"][0]["n"] = 2
            state["whole"] = draft
            state["part"] = draft["list"]
            state.setdefault("default", draft["list"][0])
            atomic.append("log", ("changed", draft["list"][0]))
            state["nested"] = {"a": [draft["list"]], "plain": 1}
            draft["list"][0]["n"] = 3
    state["later"] = draft["list"]
    atomic("atomic", lambda _: draft, default=None)
    assert state["k"] == {"list": [{"n": 3}]}
    assert state["whole"] == {"list": [{"n": 2}]}
    assert state["later"] == [{"n": 3}]
    for value in state.values():
        assert type(pickle.loads(pickle.dumps(value))) is type(value)
        assert_plain(value)
    assert state["log"] == [("changed", {"n": 3})]
    assert state["nested"] == {"a": [[{"n": 3}]], "plain": 1}


def test_draft_written_in_a_no_rerun_block_reruns_no_session(store, state, edit, session):
    state.update(k=[[]], other=0)
    state["other"]
    leave()
    session.finish_run()
    with edit("k") as draft, no_rerun:
        state["other"] = [draft[0]]
    assert state["other"] == [[]]
    assert store.collect_stale() == []


def assert_plain(value):
    assert type(value) in {dict, list, tuple, int, str}
    if not isinstance(value, (int, str)):
        for one in value.values() if isinstance(value, dict) else value:
            assert_plain(one)


def test_rerun_of_one_edit_is_refused(edit):
    block = edit("k", default=[])
    with block as draft:
        draft.append(1)
        with pytest.raises(RuntimeError, match="already open"):
            block.__enter__()
    with pytest.raises(RuntimeError, match="not open"):
        block.__exit__(None, None, None)


def test_no_edit_is_lost(state, edit):
    state["k"] = {"n": 0, "by": {}, "log": []}
    gate = threading.Barrier(THREADS)

    def work(thread):
        gate.wait(DEADLINE)
        for n in range(EDITS):
            with edit("k", "other", default={}) as (draft, other):
                draft["n"] += 1
                draft["by"][thread] = draft["by"].get(thread, 0) + 1
                draft["log"].append((thread, n))
                other["n"] = other.get("n", 0) + 1

    with ThreadSet() as threads:
        for thread in range(THREADS):
            threads.add(work, thread)
    assert state["k"]["n"] == state["other"]["n"] == THREADS * EDITS
    assert state["k"]["by"] == dict.fromkeys(range(THREADS), EDITS)
    for thread in range(THREADS):
        assert [item for item in state["k"]["log"] if item[0] == thread] == [(thread, n) for n in range(EDITS)]


# --------------------------------------------------------------------------------------------------------------- values


VALUES: dict[str, tuple[Any, Any]] = {
    "dict": (lambda: {"a": 1}, lambda draft: draft.update(b=2)),
    "list": (lambda: [1], lambda draft: draft.append(2)),
    "set": (lambda: {1}, lambda draft: draft.add(2)),
    "deque": (lambda: deque([1], 3), lambda draft: draft.append(2)),
    "bytearray": (lambda: bytearray(b"a"), lambda draft: draft.append(2)),
    "Counter": (lambda: Counter("a"), lambda draft: draft.update("b")),
    "defaultdict": (lambda: defaultdict(list, a=[1]), lambda draft: draft["b"].append(2)),
    "OrderedDict": (lambda: OrderedDict(a=1, b=2), lambda draft: draft.move_to_end("a")),
    "dataclass": (lambda: Todo("a", ["x"]), lambda draft: draft.tags.append("y")),
    "attrs": (lambda: Attrs("a", ["x"]), lambda draft: draft.tags.append("y")),
    "slots": (lambda: Slotted("a", ["x"]), lambda draft: draft.tags.append("y")),
    "array": (lambda: np.arange(10), lambda draft: draft.__setitem__(3, 7)),
    "frame": (lambda: pd.DataFrame({"a": [1, 2]}), lambda draft: draft.__setitem__("b", [3, 4])),
    "tuple of lists": (lambda: ([1], [2]), lambda draft: draft[0].append(2)),
}
if pl is not None:

    class Model(pydantic.BaseModel):
        tags: list[str]

    class Struct(msgspec.Struct):
        tags: list[str]

    VALUES |= {
        "pydantic": (lambda: Model(tags=["x"]), lambda draft: draft.tags.append("y")),
        "msgspec": (lambda: Struct(["x"]), lambda draft: draft.tags.append("y")),
        "polars": (lambda: pl.DataFrame({"a": [1, 2]}), lambda draft: draft.__setitem__((0, "a"), 5)),
    }


PLACES = {
    "alone": (lambda value: value, lambda value: value),
    "in a dict": (lambda value: {"x": value}, lambda value: value["x"]),
    "in a list": (lambda value: [0, value], lambda value: value[1]),
    "in a dataclass": (Todo, lambda value: value.title),
}


@pytest.mark.parametrize(("make", "change"), VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("place", PLACES)
def test_kinds_of_values(store, state, edit, *, make, change, place):
    wrap, unwrap = PLACES[place]
    old = state["k"] = wrap(make())
    version = store.version("k")
    with edit("k") as draft:
        unwrap(draft)
    assert store.version("k") == version
    assert state["k"] is old
    expected = make()
    change(expected)
    with edit("k") as draft:
        used = unwrap(draft)
        change(used)
    assert store.version("k") > version
    new = unwrap(state["k"])
    assert type(new) is type(expected)
    assert same_value(new, expected)
    assert same_value(unwrap(old), make())
    for kept in (used, unwrap(draft)):
        if is_draft(kept):
            with pytest.raises(RuntimeError, match="has ended"):
                change(kept)
        else:
            change(kept)
    assert same_value(unwrap(state["k"]), expected)


def test_unused_parts_are_shared(state, edit):
    old = state["k"] = rows()
    with edit("k") as draft:
        draft["row 7"]["tags"].append("c")
        assert draft["row 8"]["id"] == 8
    assert old["row 7"]["tags"] == ["a", "b"]
    changed = [name for name in old if state["k"][name] is not old[name]]
    assert changed == ["row 7"]
    assert state["k"]["row 7"] == {"id": 7, "tags": ["a", "b", "c"]}


def test_successive_edits_of_a_value_look_through_it_once(state, edit, monkeypatch):
    looked = []
    monkeypatch.setattr("fastserverstate.edits.is_tree", lambda value: looked.append(value) or True)
    state["k"] = rows()
    for n in range(3):
        with edit("k") as draft:
            draft["row 1"]["id"] = [n, {"n": n}]
    assert len(looked) == 1
    with edit("k") as draft:
        draft["row 2"] = draft["row 1"]  # twice in the value from now on
    with edit("k") as draft:
        draft["row 3"]["id"] = 7
    state["k"] = rows()
    with edit("k") as draft:
        draft["row 3"]["id"] = 7
    assert len(looked) == 3


def test_object_that_is_in_the_value_twice(state, edit):
    shared = [1]
    state["k"] = {"a": shared, "b": {"c": shared}, "todo": Todo("t", shared)}
    for n in range(2, 4):
        with edit("k") as draft:
            draft["a"].append(n)
            assert draft["b"]["c"] == draft["todo"].tags == draft["a"]
    value = state["k"]
    assert value["a"] is value["b"]["c"] is value["todo"].tags
    assert value["a"] == [1, 2, 3]
    assert shared == [1]


def test_circles(state, edit):
    root: dict[str, Any] = {"n": 1, "list": []}
    root["list"].append(root)
    state["k"] = root
    with edit("k") as draft:
        draft["list"][0]["n"] = 2
    value = state["k"]
    assert value["n"] == 2
    assert value["list"][0] is value
    assert root["n"] == 1
    state["k"] = {"n": 1, "list": [{}]}
    with edit("k") as draft:
        draft["self"] = draft
        draft["list"][0]["parent"] = draft["list"]
    value = state["k"]
    assert value["self"] is value
    assert value["list"][0]["parent"] is value["list"]
    assert {type(value["self"]), type(value["list"]), type(value["list"][0])} == {dict, list}


def test_constants_may_be_in_the_value_many_times(state, edit):
    constant = (1, ("a", "b"))
    old = state["k"] = {n: {"constant": constant, "at": pd.Timestamp(0), "kind": Todo} for n in range(10)}
    with edit("k") as draft:
        assert type(draft) is DictDraft
        draft[1]["n"] = 1
        assert draft[2]["constant"] is constant
    assert state["k"][3] is old[3]


# ------------------------------------------------------------------------------------- drafts behave as dicts and lists


def test_drafts_count_as_dicts_and_lists(state, edit):
    state["k"] = {"list": [{"a": 1}, 2]}
    with edit("k") as draft:
        assert isinstance(draft, dict)
        assert isinstance(draft["list"], list)
        assert draft == {"list": [{"a": 1}, 2]} == draft
        assert {"list": [{"a": 1}, 2]} == draft  # noqa: SIM300
        assert draft != {"list": []}
        assert repr(draft) == "{'list': [{'a': 1}, 2]}"
        assert draft | {"b": 1} == {"b": 1} | draft == {"list": [{"a": 1}, 2], "b": 1}
        assert draft["list"] + [3] == [{"a": 1}, 2, 3]
        assert [3] + draft["list"] == [3, {"a": 1}, 2]
        assert draft["list"] * 2 == 2 * draft["list"] == [{"a": 1}, 2] * 2
        assert draft["list"][1:] > [1]
        assert draft["list"] >= draft["list"][:] <= draft["list"]
        assert list(reversed(draft)) == ["list"]
        assert draft["list"].index({"a": 1}) == 0
        assert {**draft} == dict(draft) == draft.copy() == copy.copy(draft)
        for plain in (copy.deepcopy(draft), pickle.loads(pickle.dumps(draft))):
            assert json.dumps(plain) == '{"list": [{"a": 1}, 2]}'
            plain["list"][0]["a"] = 5
            assert type(plain["list"]) is list
        with pytest.raises(TypeError):
            json.dumps(draft)
        with pytest.raises(TypeError):
            hash(draft)
        match draft:
            case {"list": [{"a": one}, *rest]}:
                assert (one, rest) == (1, [2])
    assert state["k"] == {"list": [{"a": 1}, 2]}


def test_missing_items_and_methods_raise_as_the_types_do(state, edit):
    state["k"] = {"list": []}
    with edit("k") as draft:
        for use, error in (
            (lambda: draft["b"], KeyError),
            (lambda: draft.pop("b"), KeyError),
            (lambda: draft.__delitem__("b"), KeyError),
            (lambda: draft["list"][0], IndexError),
            (draft["list"].pop, IndexError),
            (lambda: draft["list"].remove(1), ValueError),
            (lambda: draft.__setitem__([], 1), TypeError),
        ):
            with pytest.raises(error):
                use()
        draft.clear()
        with pytest.raises(KeyError):
            draft.popitem()
    assert state["k"] == {}


# --------------------------------------------------------------------------------------------------------------- leaks


def test_edits_leave_nothing_behind(state, edit):
    class Item:
        pass

    def once() -> list[Any]:
        item, other = Item(), Item()
        state["k"] = {"items": [item]}
        with edit("k") as draft:
            draft["items"].append(other)
            mine = draft["items"][0]
        references = [weakref.ref(one) for one in (item, other, mine, draft, draft["items"][0], *state["k"]["items"])]
        with pytest.raises(ZeroDivisionError):
            run(edit("k"), lambda draft: references.append(weakref.ref(draft["items"])), ZeroDivisionError())
        del state["k"]
        return references

    references = once()
    gc.collect()
    assert not any(reference() for reference in references)


def test_number_of_remembered_keys_is_bounded(edit):
    trees = edit.__self__._trees
    for n in range(2500):
        with edit(f"k{n}", default=[]) as draft:
            draft.append(1)
    assert len(trees._known) <= 1000
