"""The objects that there is one of in a process."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from fastserverstate._core import Store, look_past, share_between_threads
from fastserverstate._streamlit import Bridge, PostScriptGC, check_streamlit, widgets_of_run
from fastserverstate.atomic import (
    Atomic,
    compare_and_set_with,
    on_change_with,
    peek_with,
    touch_with,
    transaction_with,
    wait_for_with,
)
from fastserverstate.configuration import KeyOptions, configure_with
from fastserverstate.lock import ServerStateLock
from fastserverstate.rerun.collector import SettingAside
from fastserverstate.rerun.control import NoRerun, force_rerun_with
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.settings import Settings
from fastserverstate.shared import shared_with
from fastserverstate.state import ServerState

check_streamlit()
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
on_change = on_change_with(store)
peek = peek_with(store)
shared = shared_with(server_state, widgets_of_run)
touch = touch_with(store)
transaction = transaction_with(store)
wait_for = wait_for_with(store)
no_rerun = NoRerun()
force_rerun_bound_sessions = force_rerun_with(store)
key_options = KeyOptions(store)
configure = configure_with(key_options, store, settings, scheduler, post_script_gc)

for _singleton in (store, server_state, server_state_lock, atomic, no_rerun):
    share_between_threads(_singleton)


def _start_afresh() -> None:
    store.reset_after_fork()
    scheduler.reset_after_fork()
    key_options.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
