"""The places on a session's page that show live regions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any, Protocol


class Rendering(Protocol):
    """What a region shows."""

    def payloads_since(self, shown: Any, place: Any) -> list[bytes]: ...


class Region(Protocol):
    """A live region, which has one rendering for all sessions."""

    viewers: dict[Viewer, None]

    @property
    def rendering(self) -> Any: ...

    def is_sent_by(self, loops: int) -> None:
        """The newest rendering is about to be sent by this many event loops."""

    def was_sent(self) -> None:
        """The newest rendering was sent to the sessions of an event loop, as far as they can be pushed to now."""


class Viewer:
    """A place on the page of a session that shows a region."""

    def __init__(self, region: Region, live: Any, place: Any, fragment_id: str | None, shown: Any) -> None:
        self.region = region
        self.live = live
        self.place = place
        self.fragment_id = fragment_id
        self.shown = shown
        self.is_pushed = False
        self.is_lost = False  # what the browser shows is not known

    def lose(self) -> None:
        self.is_lost = True

    def remove(self) -> None:
        self.region.viewers.pop(self, None)


class Viewers:
    """The viewers on the page of one session, by the fragment whose run has created them.

    Thread-safety
        Threads of runs add viewers. The rest is called as runs start and end, and on the event loop.
    """

    def __init__(self) -> None:
        self._shown: dict[str | None, list[Viewer]] = {}
        self._new: dict[str | None, list[Viewer]] = {}
        self._lock = threading.RLock()
        self.run = 0
        """Number of the last run."""

    def add(self, viewer: Viewer, run: int) -> None:
        """Add a viewer that this run has created. If the next run has replaced it, no browser shows the place."""
        with self._lock:
            if run == self.run:
                self._new.setdefault(viewer.fragment_id, []).append(viewer)
                viewer.region.viewers[viewer] = None
            else:
                viewer.remove()

    def run_started(self) -> None:
        """Another run begins. After a click, that may be before the earlier one has ended.

        Streamlit does not send what is left of that one, so its viewers are lost until a run has completed.
        """
        with self._lock:
            for viewers in self._new.values():
                for viewer in viewers:
                    viewer.lose()
            self._replace((), lambda _: True)
            self.run += 1

    def run_finished(self, complete: Collection[str | None], exists: Callable[[str], bool]) -> None:
        """Forget the viewers that the run has replaced, and those of fragments that do not exist any more.

        A run that was interrupted may have overwritten the places of earlier ones, and they may be on the screen all
        the same. They are lost: a change of their regions reruns their fragment.
        """
        with self._lock:
            self._replace(complete, exists)

    def _replace(self, complete: Collection[str | None], exists: Callable[[str], bool]) -> None:
        new, self._new = self._new, {}
        before, shown = self._shown, {}
        for fragment_id in {*before, *new}:
            earlier, now = before.get(fragment_id, []), new.get(fragment_id, [])
            if fragment_id in complete:
                gone, kept = earlier, now
            elif fragment_id is not None and not exists(fragment_id):
                gone, kept = earlier + now, []
            elif now:
                lost = {viewer.region: viewer for viewer in earlier}
                gone, kept = [viewer for viewer in earlier if lost[viewer.region] is not viewer], [*now, *lost.values()]
                for viewer in lost.values():
                    viewer.lose()
            else:
                gone, kept = [], earlier
            for viewer in gone:
                viewer.remove()
            if kept:
                shown[fragment_id] = kept
        self._shown = shown  # in one step, because the event loop may look at any time

    def outdated(self) -> list[Viewer]:
        return [viewer for viewer in self._all() if viewer.shown is not viewer.region.rendering]

    def connection_lost(self) -> None:
        """What was pushed last may not have reached the browser."""
        for viewer in self._all():
            if viewer.is_pushed:
                viewer.lose()
                viewer.shown = None

    def _all(self) -> list[Viewer]:
        return [viewer for viewers in self._shown.values() for viewer in viewers]

    def clear(self) -> None:
        """The page is gone."""
        with self._lock:
            for viewers in (*self._shown.values(), *self._new.values()):
                for viewer in viewers:
                    viewer.remove()
            self._shown, self._new = {}, {}
