"""Add random delays to threads and messages, as on a busy machine: `make test-delays`.

Python imports a module of this name at startup if it is on the path. The servers that tests start do so, too.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import random
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# By module: methods that are delayed, and by how many seconds at most.
POINTS = {
    "fastserverstate.cluster.log_follower": {"LogFollower._follow": 0.3, "LogFollower._apply_entries": 0.5},
    "fastserverstate.callers": {"Callers._call_alone": 0.3},
    "fastserverstate.cluster.locks": {"Leases._renew": 0.3},
    "fastserverstate.computed_values": {"Evaluator._work": 0.1},
    "fastserverstate.live_regions": {"Live._show": 0.1, "Region.changed": 0.1, "Region.compute": 0.1},
    "fastserverstate.rerun.push": {"PushQueue._push_to": 0.03},
    "fastserverstate.rerun.rerun_queue": {"RerunQueue.run_ended": 0.05},
    "fastserverstate.rerun.scheduler": {"Scheduler._collect": 0.15},
    "fastserverstate.rerun.viewers": {"Viewers.add": 0.05, "Viewers.run_finished": 0.05},
    "harness.client": {"Client._apply": 0.05},
    "streamlit.runtime.app_session": {"AppSession.handle_backmsg": 0.3},
    "streamlit.runtime.runtime": {"Runtime._send_message": 0.05},
    "streamlit.runtime.scriptrunner.script_runner": {"ScriptRunner._run_script": 0.5},
}


def delayed(function: Callable[..., Any], longest: float) -> Callable[..., Any]:
    @functools.wraps(function)
    def late(*args: Any, **kwargs: Any) -> Any:
        time.sleep(random.uniform(0, longest))
        return function(*args, **kwargs)

    return late


class Finder(importlib.abc.MetaPathFinder):
    """Delays methods of the modules after their import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        points = POINTS.get(name)
        if points is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def load_and_delay(module: ModuleType) -> None:
            load(module)
            for point, longest in points.items():
                kind, method = point.split(".")
                owner = getattr(module, kind)
                setattr(owner, method, delayed(getattr(owner, method), longest))

        spec.loader.exec_module = load_and_delay
        return spec


sys.meta_path.insert(0, Finder())
