"""The process-wide store, and the public names that act on it."""

from __future__ import annotations

import atexit
import os
from collections.abc import MutableMapping

from fastserverstate import _ends
from fastserverstate._core import Store, make_immortal, skip_frames_of
from fastserverstate._streamlit import (
    Bridge,
    Metrics,
    PostScriptGC,
    StreamlitPages,
    StreamlitReaders,
    element_of,
    user_of_run,
    widgets_of_run,
)
from fastserverstate.bounds import Bounds
from fastserverstate.broadcasting import Broadcasts
from fastserverstate.callers import Callers
from fastserverstate.computed_values import Computing, Evaluator
from fastserverstate.configuration import Configuration, KeyOptions, Settings
from fastserverstate.edits import Edit
from fastserverstate.events import Topics
from fastserverstate.expiry import Expirer, Expiry
from fastserverstate.functions import name_publicly
from fastserverstate.guards import Guards
from fastserverstate.limits import Limits
from fastserverstate.listeners import Listeners
from fastserverstate.live_regions import LiveRegions
from fastserverstate.lock import ServerStateLock
from fastserverstate.metrics import REMOVED_NAMES, removed_figures
from fastserverstate.once import Once
from fastserverstate.presence import Presence
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.sessions import Sessions
from fastserverstate.shared_widgets import SharedWidgets
from fastserverstate.spaces import Spaces
from fastserverstate.state import ServerState
from fastserverstate.suppression import NoRerun
from fastserverstate.typed_state import Process, State
from fastserverstate.updates import Atomic, BeginTransaction, KeyOperations
from fastserverstate.waiting import Waiting
from fastserverstate.workers import Workers

_ends.watch()

store = Store(reserved=dir(ServerState))
settings = Settings()
expirer = Expirer(store)
atexit.register(expirer.close)
key_options = KeyOptions(store, expirer.start)
bounds = Bounds(store)
workers = Workers()
evaluator = Evaluator(store, workers)
scheduler = Scheduler(store, settings, PostScriptGC(), evaluator.collected)
bridge = Bridge(store, scheduler)
bridge.server.publish(Metrics(REMOVED_NAMES, lambda: removed_figures(*store.removals())))

server_state = ServerState(store)
"""State that all sessions of the app share.

It has the item and attribute access of ``st.session_state`` and the methods of a ``dict``, but there is one for the
whole process. A script run or fragment that reads a key depends on it, and is rerun when another session or thread
assigns a different value::

    server_state["visitors"] = server_state.get("visitors", 0) + 1
"""

_spaces = Spaces(store, user_of_run)
space = _spaces.space

user_state = _spaces.user_state
"""The state of the user who is logged in with ``st.login()``: a `Space` for each user, with the API of `server_state`.

All sessions of a user share it, also on other devices. The user is looked up at each access, and an access raises
`NotLoggedInError` if no user is logged in::

    if st.user.is_logged_in:
        user_state.theme = st.selectbox("Theme", ["light", "dark"])
"""

_guards = Guards(store)
guard = _guards.guard

server_state_lock = ServerStateLock(store)
"""A re-entrant lock for every key: ``with server_state_lock["key"]:`` or ``with server_state_lock["a", "b"]:``.

While a thread holds the lock, reads and writes of that key by other threads wait.
"""

atomic = Atomic(store)
"""Change a key atomically, by a function of its value.

``atomic(key, function, *, default=..., returning=None)`` sets the key to ``function(value)`` and returns the new value.
``atomic.increment(key, by=1, *, default=0)`` and ``atomic.maximum(key, value)`` change a number,
``atomic.append(key, item, *, max_length=None)`` and ``atomic.pop_first(key, *, default=...)`` a list,
``atomic.update(key, changes)`` a dict, ``atomic.add(key, item)`` and ``atomic.discard(key, item)`` a set::

    atomic("price", lambda price: round(price * 1.1, 2))
"""

transaction = BeginTransaction(store)
"""A block whose writes all take effect together at its end, or not at all: ``with transaction(*keys, timeout=None):``.

Other threads see all of its writes atomically, and the sessions that depend on them are rerun once. An exception
discards the writes::

    with transaction("mine", "yours"):
        server_state["mine"] -= 2
        server_state["yours"] += 2
"""

no_rerun = NoRerun()
"""Writes inside ``with no_rerun:`` rerun no session. You can also decorate a function with ``@no_rerun``."""

_operations = KeyOperations(store)
peek = _operations.peek
touch = _operations.touch
compare_and_set = _operations.compare_and_set
force_rerun_bound_sessions = _operations.force_rerun_bound_sessions

edit = Edit(store).edit
State._process = Process(store, edit)

expire = Expiry(store, expirer).expire
limiter = Limits(store, expire).limiter
once = Once(store).once

_listeners = Listeners(store)
on_change = _listeners.on_change

_sessions = Sessions(store, Workers(), _listeners, key_options, bridge.lifecycle.current)
bridge.lifecycle.tell(_sessions)
_ends.before_exit(_sessions.wait_until_done)
on_session_start = _sessions.on_session_start
on_session_end = _sessions.on_session_end
on_session_pause = _sessions.on_session_pause
on_session_resume = _sessions.on_session_resume
own = _sessions.own

_presence = Presence(
    store,
    _listeners,
    key_options,
    current=bridge.lifecycle.current,
    part_of_run=bridge.part_of_run,
    is_evaluating=evaluator.is_evaluating,
    has_ended=_sessions.has_ended,
    workers=Workers(),
)
bridge.lifecycle.tell(_presence)
_sessions.fields_of = _presence.fields_of
join = _presence.join
online = _presence.online

_waiting = Waiting(store, _listeners)
wait_for = _waiting.wait_for
wait_for_async = _waiting.wait_for_async

shared = SharedWidgets(server_state, widgets_of_run).shared

_pages = StreamlitPages(bridge)
_computing = Computing(store, evaluator, _pages.without_elements)
computed = _computing.computed
_live_regions = LiveRegions(store, evaluator, _pages, scheduler.push)
live = _live_regions.live

_readers = StreamlitReaders(bridge, _presence.groups_of)
_topics = Topics(store, _listeners, expire=expire, reader=_readers.current, is_evaluating=evaluator.is_evaluating)
_presence.on_join = _topics.joined
emit = _topics.emit
events = _topics.events

_broadcasts = Broadcasts(
    store,
    _listeners,
    expire=expire,
    workers=workers,
    notices=scheduler.notices,
    element_of=element_of,
    show=bridge.show_notices,
)
bridge.lifecycle.tell(_broadcasts)
bridge.lifecycle.watch()
broadcast = _broadcasts.broadcast

configure = Configuration(
    store,
    settings,
    key_options,
    set_detect_inplace=scheduler.in_place.set,
    set_gc_policy=scheduler.set_gc_policy,
    set_bounds=bounds.set,
).configure

skip_frames_of(Atomic.__call__, Edit.edit, ServerState.items, MutableMapping.update, SharedWidgets.shared)
for _singleton in (store, server_state, user_state, server_state_lock, atomic, no_rerun, transaction):
    make_immortal(_singleton)

for _method in (
    Broadcasts.broadcast,
    Computing.computed,
    Configuration.configure,
    Edit.edit,
    Expiry.expire,
    Guards.guard,
    KeyOperations.compare_and_set,
    KeyOperations.force_rerun_bound_sessions,
    KeyOperations.peek,
    KeyOperations.touch,
    Limits.limiter,
    Listeners.on_change,
    LiveRegions.live,
    Once.once,
    Presence.join,
    Presence.online,
    Sessions.on_session_end,
    Sessions.on_session_pause,
    Sessions.on_session_resume,
    Sessions.on_session_start,
    Sessions.own,
    SharedWidgets.shared,
    Spaces.space,
    Topics.emit,
    Topics.events,
    Waiting.wait_for,
    Waiting.wait_for_async,
):
    name_publicly(__package__, _method)
name_publicly(__package__, Atomic.__call__, "atomic")
for _name in ("add", "append", "discard", "maximum", "pop_first", "update"):
    name_publicly(__package__, getattr(Atomic, _name), f"atomic.{_name}")
name_publicly(__package__, BeginTransaction.__call__, "transaction")


def _offload_callbacks() -> None:
    call = Callers(lambda key: store.flush([key])).add
    store.offload_callbacks(call)
    evaluator.call_back = call


_offload_callbacks()


def _start_afresh() -> None:
    store.reset_after_fork()
    expirer.reset_after_fork()
    _offload_callbacks()
    bounds.reset_after_fork()
    workers.reset_after_fork()
    _sessions.reset_after_fork()
    _presence.reset_after_fork()
    _computing.reset_after_fork()
    _live_regions.reset_after_fork()
    scheduler.reset_after_fork()
    _broadcasts.reset_after_fork()
    key_options.reset_after_fork()
    _guards.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
