"""Operations near the recursion limit, and values nested deeper than the C stack."""

from __future__ import annotations

import pytest
from unit.helpers import run_script

NEAR_THE_LIMIT = """
def dive(depth, use):
    return dive(depth - 1, use) if depth else use()

def wake():
    global wakes
    wakes += 1

wakes = 0
store.on_stale(wake)
lock = store.lock("locked")
ends = {"well": 0, "too deep": 0}
use = lambda: {use}
limit = 400
sys.setrecursionlimit(limit)
for depth in range(limit - 120, limit):
    state["k"], state["old"] = [0], [0]
    reader, session = _core.Session(store), _core.Session(store)
    reader.start_run()
    enter(reader)
    state["k"], state.get("new"), "old" in state
    reader.finish_run()
    session.start_run()
    enter(session)
    store.collect_stale()
    keys, version, woken = set(state), store.version("k"), wakes
    try:
        dive(depth, use)
        ends["well"] += 1
    except (RecursionError, TypeError) as error:
        ends["too deep" if type(error) is RecursionError else "well"] += 1
    assert not lock.locked()
    leave()
    changed = store.version("k") != version or set(state) != keys
    assert state.get("k") in ([0], [1], None) and state.get("new") in (None, [1])
    assert store.statistics()["keys"] == len(store.keys()) == len(state)
    is_stale = reader in [scope.session for scope in store.collect_stale()]
    assert is_stale == changed, (is_stale, changed, depth)
    session.start_run()
    enter(session)
    state.get("k")
    session.finish_run()
    leave()
    woken = wakes
    state["k"] = ["last"]  # the store still works
    assert wakes == woken + 1
    assert session in [scope.session for scope in store.collect_stale()]
    state.pop("new", None)
    session.close()
    reader.close()
    assert store.statistics()["scopes"] == 0
assert min(ends.values()) >= 2, ends
"""
DEEP_USES = {
    "write": "state.__setitem__('k', [1])",
    "write attribute": "setattr(state, 'k', [1])",
    "write new": "state.__setitem__('new', [1])",
    "setdefault": "state.setdefault('new', [1])",
    "delete": "state.__delitem__('k')",
    "pop": "state.pop('k')",
    "touch": "store.touch('k')",
    "read": "(state['k'], state.k, state.get('k'), 'k' in state)",
    "miss": "getattr(state, 'absent', None)",
    "wrong key": "state.get(1)",
    "lock": "lock.__enter__() and lock.__exit__(None, None, None)",
    "keys": "(list(state), len(state), store.statistics())",
    "sessions": "(one := _core.Session(store)).scope(None) and one.start_run() or one.close()",
}


@pytest.mark.parametrize("use", DEEP_USES.values(), ids=DEEP_USES)
def test_near_the_recursion_limit(use):
    run_script(NEAR_THE_LIMIT.replace("{use}", use))


def test_deeply_nested_values(store, state):
    """Comparing and freeing them does not recurse."""
    for kind in (list, tuple):
        for _ in range(3):
            value = kind()
            for _ in range(200_000):
                value = kind((value,))
            state["k"] = value
            state["k"] = kind((value,))
            del value
    state["k"] = 0
    assert store.statistics()["keys"] == 1
