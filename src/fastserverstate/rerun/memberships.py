"""The groups that a session has joined."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from urllib.parse import quote, unquote

from fastserverstate._core import HIDDEN

_ONLINE = f"{HIDDEN}online/"


def prefix_of_group(name: str) -> str:
    """Return what the keys of a group begin with. Each server has one, which ends with its name."""
    return f"{_ONLINE}{quote(name, safe='')}/"


def group_changed(key: str) -> str | None:
    """Return what has changed a group, for messages; None for other keys."""
    if not key.startswith(_ONLINE):
        return None
    group = unquote(key.removeprefix(_ONLINE).partition("/")[0])
    return f"join({group!r}, ...) differs between runs"


class Memberships:
    """The groups that the runs of one session have joined, by the fragment that has joined them.

    A run states its groups anew: when a fragment or the script's body completes, the groups are left that it has not
    joined again. A run that was interrupted leaves none.

    Thread-safety
        Threads of runs join. The rest is called as runs start and end.
    """

    def __init__(self, tell: Callable[[Memberships, Collection[str], Collection[str]], None]) -> None:
        # Called with the groups that were left, and those that were postponed. Nothing is locked.
        self._tell = tell
        self._postponed: set[str] = set()
        self._joined: dict[str | None, set[str]] = {}
        self._new: dict[str | None, set[str]] = {}
        self._lock = threading.RLock()
        self.run = 0
        """Number of the last run."""

    def groups(self) -> set[str]:
        with self._lock:
            return set().union(*self._joined.values(), *self._new.values())

    def join(self, group: str, fragment_id: str | None, run: int) -> bool:
        """Join a group in this run. Returns False if the next run has replaced it."""
        with self._lock:
            if run != self.run:
                return False
            self._new.setdefault(fragment_id, set()).add(group)
            return True

    def postpone(self, group: str) -> None:
        """Have the others told of a change of the group at the end of the run."""
        with self._lock:
            self._postponed.add(group)

    def run_started(self) -> None:
        """Another run begins. After a click, that may be before the earlier one has ended."""
        with self._lock:
            self._replace((), lambda _: True)
            self.run += 1

    def run_finished(self, complete: Collection[str | None], exists: Callable[[str], bool]) -> None:
        """Leave the groups that the completed fragments have not joined again, and those of fragments that are gone."""
        with self._lock:
            before = self.groups()
            self._replace(complete, exists)
            left = before - self.groups()
            postponed, self._postponed = self._postponed, set()
        if left or postponed:
            self._tell(self, left, postponed)

    def _replace(self, complete: Collection[str | None], exists: Callable[[str], bool]) -> None:
        new, self._new = self._new, {}
        for fragment_id, groups in new.items():
            earlier = set() if fragment_id in complete else self._joined.get(fragment_id, set())
            self._joined[fragment_id] = groups | earlier
        for fragment_id in [*self._joined]:
            is_gone = fragment_id is not None and fragment_id not in complete and not exists(fragment_id)
            if is_gone or (fragment_id in complete and fragment_id not in new):
                del self._joined[fragment_id]
