"""The objects that there is one of in a process."""

from __future__ import annotations

from fastserverstate._core import Store
from fastserverstate._streamlit import Bridge, check_streamlit
from fastserverstate.lock import ServerStateLock
from fastserverstate.rerun.control import NoRerun, force_rerun_with
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.state import ServerState

check_streamlit()

store = Store(reserved=dir(ServerState))
scheduler = Scheduler(store)
bridge = Bridge(store, scheduler)

server_state = ServerState(store)
server_state_lock = ServerStateLock(store)
no_rerun = NoRerun()
force_rerun_bound_sessions = force_rerun_with(store)
