"""Wrong code raises errors that say what to write instead."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import re
import threading

import pytest

import fastserverstate
from fastserverstate import (
    atomic,
    compare_and_set,
    configure,
    connect,
    edit,
    force_rerun_bound_sessions,
    no_rerun,
    on_change,
    peek,
    server_state,
    server_state_lock,
    shared,
    touch,
    transaction,
    wait_for,
)


async def enter_async(manager):
    async with manager:
        pass


def enter(manager):
    with manager:
        pass


def delete(item, key):
    del item[key]


def decorated_coroutine():
    @no_rerun
    async def save(): ...


def decorated_generator():
    @no_rerun
    def rows():
        yield


def decorated_by_transaction():
    @transaction
    def save(): ...


def decorated_by_edit():
    @edit
    def save(): ...


def decorated_by_edit_block():
    @edit("n", default=[])
    def save(): ...


def decorated_by_block():
    @transaction("n")
    def save(): ...


# Code -> the error, and a part of its message.
MESSAGES = {
    'server_state["n"]': (
        lambda: server_state["n"],
        KeyError,
        "server_state has no key 'n'. Did you forget to initialize it? server_state.setdefault('n', ...) does.",
    ),
    "server_state.n": (
        lambda: server_state.n,
        AttributeError,
        "server_state has no attribute 'n'. Did you forget to initialize it? server_state.setdefault('n', ...) does.",
    ),
    'del server_state["n"]': (
        lambda: delete(server_state, "n"),
        KeyError,
        "server_state has no key 'n'. server_state.pop('n', None) deletes it if it is there.",
    ),
    "del server_state.n": (
        lambda: delattr(server_state, "n"),
        AttributeError,
        "server_state has no attribute 'n'. server_state.pop('n', None) deletes it if it is there.",
    ),
    'server_state.pop("n")': (lambda: server_state.pop("n"), KeyError, "server_state.pop('n', None) returns None"),
    "server_state.popitem()": (server_state.popitem, KeyError, "server_state is empty"),
    'atomic("n", function)': (lambda: atomic("n", str), KeyError, "atomic('n', function, default=...)"),
    'edit("n")': (lambda: enter(edit("n")), KeyError, "edit('n', default=...) begins with a copy of a default"),
    'edit("n", default=1)': (
        lambda: enter(edit("n", default=1)),
        TypeError,
        "is of type int. Use atomic('n', function)",
    ),
    'edit("n", default=lock)': (
        lambda: enter(edit("n", default=[threading.Lock()])),
        TypeError,
        "edit('n') cannot copy a value of type list: cannot pickle '_thread.lock' object. Use atomic('key', function)",
    ),
    'atomic.pop_first("n")': (lambda: atomic.pop_first("n"), KeyError, "atomic.pop_first('n', default=None) returns"),
    'atomic.update("n", 1)': (lambda: atomic.update("n", 1), TypeError, "a dict, such as {'name': 1}, not as int"),
    'atomic.add("n", [])': (lambda: atomic.add("n", []), TypeError, "unhashable type: 'list'. A tuple or a str can be"),
    'atomic.discard("n", [])': (lambda: atomic.discard("n", []), TypeError, "in a set, not a list"),
    "atomic(returning=1)": (
        lambda: atomic("n", str, default=0, returning=1),
        TypeError,
        "returning= of atomic('n', ...) has to be a function, not 1",
    ),
    "server_state.items = 1": (lambda: setattr(server_state, "items", 1), AttributeError, "server_state['items']"),
    # Keys
    "server_state[1]": (lambda: server_state[1], TypeError, "of type str, not int: 1. Use str(key)."),
    "server_state[1] = 1": (lambda: server_state.__setitem__(1, 1), TypeError, "not int: 1. Use str(key)."),
    'server_state[b"n"]': (lambda: server_state[b"n"], TypeError, "not bytes: b'n'. Use key.decode()."),
    "server_state[None]": (lambda: server_state[None], TypeError, "this one is None. Find out where it comes from"),
    'server_state["a", "b"]': (lambda: server_state["a", "b"], TypeError, "not tuple: ('a', 'b'). Use one key at a"),
    "server_state[:]": (lambda: server_state[:], TypeError, "server_state.to_dict() has a dict of all values"),
    "server_state.get(1)": (lambda: server_state.get(1), TypeError, "not int: 1. Use str(key)."),
    "server_state.update({1: 2})": (lambda: server_state.update({1: 2}), TypeError, "not int: 1. Use str(key)."),
    "server_state_lock[None]": (lambda: server_state_lock[None], TypeError, "this one is None. Find out where"),
    "server_state_lock[1]": (lambda: server_state_lock[1], TypeError, "not int: 1. Use str(key)."),
    'server_state_lock["a", 1]': (lambda: server_state_lock["a", 1], TypeError, "not int: 1. Use str(key)."),
    'server_state_lock[["a", "b"]]': (
        lambda: server_state_lock[["a", "b"]],
        TypeError,
        "server_state_lock['a', 'b'], and those in a list as server_state_lock[tuple(keys)]",
    ),
    "server_state_lock[()]": (lambda: server_state_lock[()], ValueError, "Name at least one: server_state_lock['key']"),
    "transaction(1)": (lambda: transaction(1), TypeError, "not int: 1. Use str(key)."),
    'transaction(["a", "b"])': (lambda: transaction(["a", "b"]), TypeError, "transaction('a', 'b'), or transaction(*"),
    "atomic(1, function)": (lambda: atomic(1, str), TypeError, "not int: 1. Use str(key)."),
    "atomic.increment(1)": (lambda: atomic.increment(1), TypeError, "not int: 1. Use str(key)."),
    "atomic.append(1, 2)": (lambda: atomic.append(1, 2), TypeError, "not int: 1. Use str(key)."),
    "atomic.pop_first(1)": (lambda: atomic.pop_first(1), TypeError, "not int: 1. Use str(key)."),
    "atomic.update(1, {})": (lambda: atomic.update(1, {}), TypeError, "not int: 1. Use str(key)."),
    "atomic.add(1, 2)": (lambda: atomic.add(1, 2), TypeError, "not int: 1. Use str(key)."),
    "atomic.discard(1, 2)": (lambda: atomic.discard(1, 2), TypeError, "not int: 1. Use str(key)."),
    "atomic.maximum(1, 2)": (lambda: atomic.maximum(1, 2), TypeError, "not int: 1. Use str(key)."),
    "edit(1)": (lambda: edit(1), TypeError, "not int: 1. Use str(key)."),
    'edit(["a", "b"])': (lambda: edit(["a", "b"]), TypeError, "edit('a', 'b'), or edit(*keys)"),
    "edit()": (lambda: edit(), TypeError, "with edit('votes') as votes:"),  # noqa: PLW0108
    'edit("a", "a")': (lambda: edit("a", "a"), ValueError, "edit was given a key twice: 'a', 'a'"),
    "compare_and_set(1, 2, 3)": (lambda: compare_and_set(1, 2, 3), TypeError, "not int: 1. Use str(key)."),
    "configure(1)": (lambda: configure(1, compare="always"), TypeError, "not int: 1. Use str(key)."),
    "force_rerun(1)": (lambda: force_rerun_bound_sessions(1), TypeError, "not int: 1. Use str(key)."),
    "on_change(1, function)": (lambda: on_change(1, print), TypeError, "not int: 1. Use str(key)."),
    "peek(1)": (lambda: peek(1), TypeError, "not int: 1. Use str(key)."),
    "shared(1)": (lambda: shared(1), TypeError, "not int: 1. Use str(key)."),
    'shared("n", widget_key=1)': (lambda: shared("n", widget_key=1), TypeError, "not int: 1. Use str(key)."),
    "touch(1)": (lambda: touch(1), TypeError, "not int: 1. Use str(key)."),
    "wait_for(1)": (lambda: wait_for(1), TypeError, "not int: 1. Use str(key)."),
    # Brackets, parentheses and `with`
    'server_state("n")': (lambda: server_state("n"), TypeError, "Use brackets: server_state['key']"),
    "with no_rerun():": (lambda: enter(no_rerun()), TypeError, "with no_rerun: or, above a function, @no_rerun"),
    'no_rerun("n")': (lambda: no_rerun("n"), TypeError, "with no_rerun: or, above a function, @no_rerun"),
    "@no_rerun async def": (decorated_coroutine, TypeError, "@no_rerun ends when save() returns"),
    "@no_rerun def with yield": (decorated_generator, TypeError, "Use a block in it: with no_rerun:"),
    "with transaction:": (lambda: enter(transaction), TypeError, "with transaction('a', 'b'):"),
    "@transaction": (decorated_by_transaction, TypeError, "with transaction('key'):"),
    '@transaction("n")': (decorated_by_block, TypeError, "with transaction(...):"),
    'async with transaction("n")': (lambda: asyncio.run(enter_async(transaction("n"))), TypeError, "asyncio.to_thread"),
    "@edit": (decorated_by_edit, TypeError, "with edit('key') as draft:"),
    '@edit("n")': (decorated_by_edit_block, TypeError, "with edit(...) as draft:"),
    'async with edit("n")': (lambda: asyncio.run(enter_async(edit("n"))), TypeError, "asyncio.to_thread"),
    "with server_state_lock:": (lambda: enter(server_state_lock), TypeError, "with server_state_lock['key']:"),
    'server_state_lock("n")': (lambda: server_state_lock("n"), TypeError, "with server_state_lock['key']:"),
    "server_state_lock.acquire()": (
        lambda: server_state_lock.acquire(),  # noqa: PLW0108
        TypeError,
        "server_state_lock['key'].acquire()",
    ),
    'with server_state_lock["n"]():': (
        lambda: enter(server_state_lock["n"]()),
        TypeError,
        "with server_state_lock['n']:",
    ),
    'with server_state_lock["a", "b"]():': (
        lambda: enter(server_state_lock["b", "a"]()),
        TypeError,
        "with server_state_lock['a', 'b']:",
    ),
    'async with server_state_lock["n"]:': (
        lambda: asyncio.run(enter_async(server_state_lock["n"])),
        TypeError,
        "await asyncio.to_thread(function)",
    ),
    'async with server_state_lock["a", "b"]:': (
        lambda: asyncio.run(enter_async(server_state_lock["a", "b"])),
        TypeError,
        "with server_state_lock['a', 'b']:",
    ),
    "server_state_lock.x = 1": (
        lambda: setattr(server_state_lock, "x", 1),
        AttributeError,
        "Values belong in server_state: server_state.x = ...",
    ),
    'server_state_lock["x"] = 1': (
        lambda: server_state_lock.__setitem__("x", 1),
        TypeError,
        "Values belong in server_state: server_state['x'] = ...",
    ),
    "del server_state_lock.x": (lambda: delattr(server_state_lock, "x"), AttributeError, "del server_state.x"),
    'del server_state_lock["x"]': (lambda: delete(server_state_lock, "x"), TypeError, "del server_state['x']"),
}
for name, clone in {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle.dumps": pickle.dumps,
    "pickle.dumps in a list": lambda value: pickle.dumps([value]),
}.items():
    for text, make, words in [
        ("server_state", lambda: server_state, "or server_state.to_dict()"),
        ("server_state_lock", lambda: server_state_lock, "from fastserverstate import server_state_lock"),
        ('server_state_lock["n"]', lambda: server_state_lock["n"], "Pass its key on instead"),
        ('server_state_lock["a", "b"]', lambda: server_state_lock["a", "b"], "server_state_lock['a', 'b'] belongs"),
    ]:
        MESSAGES[f"{name}({text})"] = (lambda clone=clone, make=make: clone(make()), TypeError, words)

INTERNAL = re.compile(
    r"_core|<locals>|<lambda>|Namespace|ServerState|KeyLock|Atomic|BeginTransaction|NoRerun|KeyOperations|Listeners"
    r"|Editing|Waiting\.|Configuration|SharedWidgets"
)


@pytest.mark.parametrize(("use", "error", "words"), MESSAGES.values(), ids=MESSAGES)
def test_the_message_says_what_to_type(use, error, words) -> None:
    with pytest.raises(error) as caught:
        use()
    assert type(caught.value) is error
    (message,) = caught.value.args
    assert words in message
    assert not INTERNAL.search(message)
    assert not server_state


FUNCTIONS = {
    name: getattr(fastserverstate, name)
    for name in fastserverstate.__all__
    if name not in {"server_state", "server_state_lock", "user_state", "no_rerun"}
    and not isinstance(getattr(fastserverstate, name), type)
}
FUNCTIONS |= {
    f"atomic.{name}": getattr(atomic, name)
    for name in ("add", "append", "discard", "increment", "maximum", "pop_first", "update")
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_unknown_keywords_name_the_public_function(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        FUNCTIONS[name](nonsense=1)
    message = str(caught.value)
    assert message.startswith(f"{name}()" if name != "atomic.increment" else "increment()")
    assert not INTERNAL.search(message)


@pytest.mark.parametrize("name", [name for name, value in FUNCTIONS.items() if inspect.isfunction(value)])
def test_functions_are_found_under_their_public_name(name: str) -> None:
    function = FUNCTIONS[name]
    assert (function.__name__, function.__qualname__) == (name, name)
    assert pickle.loads(pickle.dumps(function)) is function


def test_the_functions_are_all_there() -> None:
    assert {atomic, connect, shared, transaction, wait_for} <= set(FUNCTIONS.values())
