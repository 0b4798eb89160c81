"""Objects of the core that were created, copied or unpickled in unsupported ways raise errors and never crash."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
from unit.helpers import run_script

from fastserverstate import _core

TYPES = {
    name: kind for name, kind in vars(_core).items() if inspect.isclass(kind) and kind.__module__ == _core.__name__
}

CALLS = """
import copy, inspect, itertools, pickle, random

kind = getattr(_core, {name!r})
session = _core.Session(store)
session.start_run()
enter(session)
state["k"] = [1]
state["k"]
lock = store.lock("k")
transaction = store.transaction(["k"], None)
made = [store, state, session, session.scope(None), lock, _core.KeyLocks(store, ["k", "l"]), transaction,
        store.writer(), _core.TypePlan("name"), *store.apply([("k", 2, False)])[2]]
random.seed({seed})

def attempt(function, *args):
    try:
        return function(*args)
    except Exception:
        return None

class Sub:
    pass

things = [thing for thing in made if type(thing) is kind]
ways = [
    lambda: kind.__new__(kind),
    lambda: kind.__new__(kind, store),
    lambda: kind.__new__(kind, None),
    lambda: kind.__new__(kind, store, ["k"]),
    lambda: kind.__new__(kind, store, ["k"], None),
    lambda: kind.__new__(kind, "name", None, None, True, ("x",), frozenset()),
    lambda: object.__new__(kind),
    lambda: kind(),
    lambda: kind(store),
    lambda: type("Sub", (kind,), {{}})(store),
    lambda: type("Sub", (kind,), {{"__init__": lambda self: None}})(),
    lambda: type("Sub", (kind,), {{"__new__": lambda cls: object.__new__(cls)}})(),
    *(lambda thing=thing: copy.copy(thing) for thing in list(things)),
    *(lambda thing=thing: copy.deepcopy(thing) for thing in list(things)),
    *(lambda thing=thing: pickle.loads(pickle.dumps(thing)) for thing in list(things)),
    *(lambda thing=thing: type(thing).__new__(type(thing)) for thing in list(things)),
]
things += [thing for thing in map(attempt, ways) if thing is not None]
arguments = [None, "k", "", 0, 1, -1, 2**64, 0.0, 1.5, True, b"k", (), ("k",), ["k"], {{}}, {{"k": 1}}, set(), object(),
             store, session, session.scope(None), lock, transaction, store.writer(), kind, len, lambda *_: None]

# What would wait for ever, end the process's store or run what it is given, and what Python has for all objects.
OMITTED = {{"__class__", "__init_subclass__", "__subclasshook__", "__dir__", "__getattribute__", "__new__",
           "__sizeof__", "__format__", "wait_for_change", "wait_for_deadline", "on_stale", "set_listeners",
           "set_backend", "set_options", "reset_after_fork", "set_decoder", "start_journal", "sleep_until_due",
           "sleep_until_changed", "wait_until_durable"}}
for thing in things:
    names = [name for name in dir(type(thing)) if name not in OMITTED]
    for _ in range({rounds}):
        name = random.choice(names)
        method = attempt(getattr, thing, name)
        if callable(method):
            attempt(method, *random.choices(arguments, k=random.choice((0, 0, 1, 1, 2, 3, 4))))
        store.end_holder()
del things, made
gc.collect()
"""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TYPES)
def test_methods_of_fabricated_objects(name, seed):
    run_script(CALLS.format(name=name, seed=seed, rounds=300))


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_locks_and_transactions_are_not_copied(locks, transaction, make):
    for thing in (locks["k"], locks["a", "b"], transaction("k")):
        with pytest.raises(TypeError):
            make(thing)


def test_nothing_can_be_set_from_a_state(store, locks, transaction):
    for thing in (locks["k"], locks["a", "b"], transaction("k"), store, _core.Session(store).scope(None)):
        assert not hasattr(thing, "__setstate__")
        assert not hasattr(thing, "__setstate_cython__")


def test_lock_without_a_key_cannot_be_made(locks):
    with pytest.raises(TypeError, match="Create locks with server_state_lock"):
        type(locks["k"]).__new__(type(locks["k"]))
    with pytest.raises(TypeError, match=r"Create scopes with Session\.scope"):
        _core.Scope.__new__(_core.Scope)
