"""Processes that end or fork while their threads use the store."""

from __future__ import annotations

import time

from stress.helpers import SECONDS, run_script

BUSY = """
cast = Cast(6)

def act(seed):
    actor = Actor(cast, seed)
    while True:
        actor.act()

def start():
    '''Have threads do anything, for ever.'''
    for seed in range(6):
        threading.Thread(target=act, args=(seed,), daemon=True).start()
    patience = time.monotonic() + 20
    while cast.store.statistics()["clock"] < 500 and time.monotonic() < patience:
        time.sleep(0.001)
    assert cast.store.statistics()["clock"] >= 500
"""


def test_interpreter_exits_while_threads_use_the_store():
    """Without output, although finalizers use the store at exit."""
    until = time.monotonic() + SECONDS
    while True:
        run_script(
            BUSY
            + """
class Late:
    def __del__(self):
        cast.state.get("k0")
        cast.store.keys()
        cast.store.collect_stale()

late = [Late(), cast]
late.append(late)
start()
"""
        )
        if time.monotonic() > until:
            break
