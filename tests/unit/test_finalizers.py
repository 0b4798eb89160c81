"""Values whose finalizers use the store, block or raise.

After each step the store holds what a dict would hold, and its statistics agree.
"""

from __future__ import annotations

import pytest
from unit.helpers import run_script

# Each of these creates a value that calls `act` when it is deallocated.
BOMBS = """
class Finalizer:
    def __init__(self, act): self.act = act
    def __del__(self): self.act()

class Plain: pass

watched = []

def with_callback(act):
    value = Plain()
    watched.append(weakref.ref(value, lambda _: act()))
    return value

def with_finalize(act):
    value = Plain()
    weakref.finalize(value, act).atexit = False
    return value

def with_generator(act):
    def generate():
        try:
            yield
        finally:
            act()
    value = generate()
    next(value)
    return value

bombs = {
    "finalizer": Finalizer,
    "weakref callback": with_callback,
    "weakref.finalize": with_finalize,
    "generator": with_generator,
    "nested": lambda act: [{"k": (Finalizer(act),)}],
    "two": lambda act: (Finalizer(act), Finalizer(act)),
}
"""
# Runs on the store and on a dict, which must be equal after every step.
AS_A_DICT = """
import itertools

def put(target, key, value):
    target.__setitem__(key, value)  # with a dict, `target[key] = value` may release the old value too early

def clear(target):
    for key in list(target):
        target.pop(key, None)

def grow(target):
    for i in range(1_200):
        target[f"new{{i}}"] = i

def rotate(target):
    for i in range(300):
        target[f"rotating{{i}}"] = i
        target.pop(f"rotating{{i - 3}}", None)

def chain(target, make, links):
    if links:
        put(target, "k", make(lambda: chain(target, make, links - 1)))
        target["k"] = links

class Phoenix:
    def __init__(self, target): self.target = target
    def __del__(self): put(self.target, "k", self)

def lock(target):
    with store.lock("k"), store.lock("other"):
        target["k"] = "locked"

def run_session(target):
    session = _core.Session(store)
    session.start_run()
    for part in (None, "f"):
        session.scope(part)
    session.close()
    store.collect_stale()

def act_on(target, make):
    {act}

def label(value):
    return value if type(value) in (int, str) else type(value).__name__

def steps(target, make):
    def bomb():
        return make(lambda: act_on(target, make))
    def delete(key): del target[key]
    yield put, target, "k", bomb()
    yield put, target, "k", 1
    yield put, target, "k", bomb()
    yield put, target, "k", bomb()
    yield target.pop, "k", None
    yield put, target, "k", bomb()
    yield (lambda: "k" in target and delete("k")),
    yield put, target, "other", bomb()
    yield put, target, "k", bomb()
    yield put, target, "other", "old"
    yield target.setdefault, "k", bomb()
    yield target.setdefault, "k", 5
    yield target.pop, "other", None
    for i in range(12):
        yield put, target, f"bomb{{i}}", bomb()
    for i in range(0, 12, 2):
        yield put, target, f"bomb{{i}}", i
    for i in range(12):
        yield target.pop, f"bomb{{i}}", None
    yield put, target, "k", bomb()
    yield clear, target

def trace(target, make):
    for function, *args in steps(target, make):
        result = label(function(*args))
        del function, args
        yield result, [(key, label(target.get(key))) for key in target]

for name, make in bombs.items():
    for subscribed in (False, True):
        state = _core.Namespace(store := _core.Store(reserved=dir(_core.Namespace)))
        if subscribed:
            session = _core.Session(store)
            session.start_run()
            enter(session)
            [state.get(key) for key in ("k", "other", "new7", "bomb3")], "k" in state, len(state)
        traces = itertools.zip_longest(trace(state, make), trace({{}}, make))
        for step, (ours, theirs) in enumerate(traces):
            assert ours == theirs, (name, subscribed, step, ours, theirs)
            keys = store.keys()
            assert store.statistics()["keys"] == len(keys) == len(state)
        leave()
        if subscribed:
            session.close()
        while list(state):  # finalizers may write again
            clear(state)
        statistics = store.statistics()
        assert statistics["keys"] == statistics["scopes"] == 0, statistics
        assert statistics["cells"] <= 2 if "lock" in {act!r} else statistics["cells"] == 0, statistics
"""
ACTS = {
    "reads": "target.get('k'); 'k' in target; list(target); len(target)",
    "writes the key": "target['k'] = 'written'",
    "deletes the key": "target.pop('k', None)",
    "moves the key": "target.pop('k', None); target['k'] = 'moved'",
    "raises": "raise ValueError('from a finalizer')",
    "deletes the key and raises": "target.pop('k', None); raise KeyboardInterrupt",
    "clears": "clear(target)",
    "clears and writes": "clear(target); target['k'] = 'first'",
    "lets the table grow": "grow(target)",
    "lets the table grow and clears it": "grow(target); clear(target)",
    "makes and deletes many": "rotate(target)",
    "dies in a chain": "chain(target, make, 8)",
    "rises again": "put(target, 'k', Phoenix(target))",
    "takes the lock": "lock(target)",
    "runs a session": "run_session(target)",
    "collects garbage": "gc.collect(0)",
    "is deeply recursive": "(recurse := lambda n: n and recurse(n - 1))(10**9)",
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_finalizer_uses_the_store(act):
    hook = "sys.unraisablehook = lambda _: None\n" if "raise" in act or "recurse" in act else ""
    run_script(hook + BOMBS + AS_A_DICT.format(act=act))


REPLACEMENTS = {
    "assign": "state['k'] = 0",
    "attribute": "state.k = 0",
    "delete": "del state['k']",
    "pop": "state.pop('k')",
    "assign another of its kind": "state['k'] = [1]",
    "its lock held": "with lock: state['k'] = 0",
    "another lock held": "with store.lock('other'): state['k'] = 0",
    "after a wait": "after_a_wait(lambda: state.__setitem__('k', 0))",
    "deleted after a wait": "after_a_wait(lambda: state.pop('k'))",
}


@pytest.mark.parametrize("replace", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_blocking_finalizer_stalls_no_other_thread(replace):
    """Other threads can use the store meanwhile, and the same key unless the replacing thread holds its lock."""
    run_script(
        f"""
        own_lock = {replace.startswith("with lock")}
        other_lock = {replace.startswith("with store")}
        lock = store.lock("k")
        dying, used, died = threading.Event(), threading.Event(), threading.Event()

        class Blocking:
            def __del__(self):
                dying.set()
                if not used.wait(20):
                    print("no other thread could use the store", file=sys.stderr)
                died.set()

        def use():
            dying.wait()
            session = _core.Session(store)
            session.start_run()
            enter(session)
            for key in {{"k", "other", "new"}} - ({{"k"}} if own_lock else {{"other"}} if other_lock else set()):
                state.get(key), key in state, store.peek(key), store.version(key)
                state.setdefault(key, 1)
                state[key] = 2
                store.touch(key)
                with store.lock(key):
                    state.pop(key)
            list(state), len(state), store.statistics()
            for i in range(1_000):
                state[f"growing{{i}}"] = i
            store.collect_stale()
            session.close()
            leave()
            used.set()

        def after_a_wait(change):
            held, waited = threading.Event(), threading.Event()
            def hold():
                with lock:
                    held.set()
                    waited.wait()
            holder = threading.Thread(target=hold)
            holder.start()
            held.wait()
            signals.append(waited.set)
            signal.setitimer(signal.ITIMER_REAL, 0.02)  # while this thread waits
            change()
            holder.join()

        signals = []
        signal.signal(signal.SIGALRM, lambda *_: signals.pop()())
        state["other"] = 1
        state["k"] = [Blocking()]
        user = threading.Thread(target=use)
        user.start()
        {replace}
        died.wait()
        user.join()
        assert store.statistics()["keys"] == len(store.keys())
        assert store.statistics()["scopes"] == 0
        """
    )


def test_errors_of_finalizers_are_unraisable():
    output = run_script(
        """
        sys.unraisablehook = lambda unraisable: print(unraisable.exc_value)

        class Raising:
            def __init__(self, error): self.error = error
            def __del__(self): raise self.error

        for error in (ValueError("one"), KeyboardInterrupt("two"), SystemExit("three")):
            for replace in (
                lambda: state.__setitem__("k", 0),
                lambda: state.__delitem__("k"),
                lambda: state.pop("k") and None,
                lambda: setattr(state, "k", None),
            ):
                state["k"] = Raising(error)
                replace()
                assert state.pop("k", None) in (0, None)
        try:
            state.pop("k", state.__setitem__("other", Raising(ValueError("four"))) or state.pop("other") and 5)
            state["k"]
        except KeyError as error:
            assert "'k'" in str(error)
        assert store.statistics()["cells"] == 0
        """
    )
    assert output.split() == ["one"] * 4 + ["two"] * 4 + ["three"] * 4 + ["four"]
