"""The objects that there is one of in a process."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from fastserverstate import _ends
from fastserverstate._core import Store, look_past, share_between_threads
from fastserverstate._streamlit import Bridge, PostScriptGC, check_streamlit, widgets_of_run
from fastserverstate.atomic import (
    Atomic,
    BeginTransaction,
    Listeners,
    compare_and_set_with,
    on_change_with,
    peek_with,
    touch_with,
    wait_for_with,
)
from fastserverstate.awaiting import wait_for_async_with
from fastserverstate.callers import Callers
from fastserverstate.configuration import KeyOptions, configure_with
from fastserverstate.lock import ServerStateLock
from fastserverstate.rerun.collector import SettingAside
from fastserverstate.rerun.control import NoRerun, force_rerun_with
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.settings import Settings
from fastserverstate.shared import shared_with
from fastserverstate.state import ServerState

check_streamlit()
_ends.watch()
look_past(Atomic.__call__, ServerState.items, MutableMapping.update, shared_with)

store = Store(reserved=dir(ServerState))
settings = Settings()
post_script_gc = PostScriptGC()
scheduler = Scheduler(store, settings, SettingAside(post_script_gc.is_on))
bridge = Bridge(store, scheduler)

server_state = ServerState(store)
server_state_lock = ServerStateLock(store)
atomic = Atomic(store)
compare_and_set = compare_and_set_with(store)
_listeners = Listeners(store)
on_change = on_change_with(store, _listeners)
peek = peek_with(store)
shared = shared_with(server_state, widgets_of_run)
touch = touch_with(store)
transaction = BeginTransaction(store)
wait_for = wait_for_with(store)
wait_for_async = wait_for_async_with(store, _listeners)
no_rerun = NoRerun()
force_rerun_bound_sessions = force_rerun_with(store)
key_options = KeyOptions(store)
configure = configure_with(key_options, store, settings, scheduler, post_script_gc)

for _singleton in (store, server_state, server_state_lock, atomic, no_rerun, transaction):
    share_between_threads(_singleton)


def _name_publicly(*functions: Any) -> None:
    """Python's own messages, such as those of unknown keywords, call a function by its qualified name."""
    for function in functions:
        function.__module__, function.__qualname__ = __package__, function.__name__


_name_publicly(
    compare_and_set, configure, force_rerun_bound_sessions, on_change, peek, shared, touch, wait_for, wait_for_async
)
Atomic.__call__.__qualname__ = "atomic"
Atomic.append.__qualname__ = "atomic.append"
BeginTransaction.__call__.__qualname__ = "transaction"


def _call_elsewhere() -> None:
    store.call_elsewhere(Callers(lambda key: store.settle([key])).add)


_call_elsewhere()


def _start_afresh() -> None:
    store.reset_after_fork()
    _call_elsewhere()
    scheduler.reset_after_fork()
    key_options.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
