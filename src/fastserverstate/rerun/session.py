"""One session as the scheduler sees it."""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from fastserverstate._core import Session, Store

if TYPE_CHECKING:
    from fastserverstate.rerun.scheduler import Pump

logger = logging.getLogger("fastserverstate")

# Reruns in a row that a session may owe to its own writes alone.
MAX_SELF_RERUNS = 2

# Reruns in a row for one change that do not come to their end, as by st.rerun("a fragment") or the Stop button.
MAX_ATTEMPTS = 3


class Readiness(enum.Enum):
    """Whether a session can be rerun now."""

    READY = enum.auto()
    RUNNING = enum.auto()  # its end will be reported
    SENDING = enum.auto()  # the last run's output has not left yet, and a new run would discard it
    AWAY = enum.auto()  # disconnected; its return will be reported
    GONE = enum.auto()


class SessionLink(Protocol):
    """What the scheduler needs of a session. All of it is called on the session's event loop."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def readiness(self) -> Readiness: ...

    def has_fragment(self, fragment: str) -> bool: ...

    def request_rerun(self, fragment: str | None) -> None: ...

    def raise_if_stopped(self) -> None:
        """Raise what ends the run that the calling thread is in, if it is to end. From any thread."""


class LiveSession(Session):
    """A session whose script has read or written shared state.

    Thread-safety
        The runner's thread reports the start, the messages and the end of runs. Everything else happens on the
        session's event loop.
    """

    def __init__(self, store: Store, link: SessionLink) -> None:
        super().__init__(store)
        self.link = link
        self.pump: Pump | None = None
        self.runner: object = None  # whose runs count; others are on their way out
        self.runner_ended = False
        self.queued = False
        self.watched = False  # the pump looks at it again, in case that the end of its run is not reported
        self.admitted: asyncio.TimerHandle | None = None  # while the pump counts its run
        self.requested_at = -math.inf  # on the loop's clock
        self._requested = False
        self._has_warned = False
        self._attempts: dict[str | None, int] = {}  # by part: reruns since it last ran to its end
        self._self_reruns = 0
        self._owed_to_self = False
        self._requested_for_self = False

    def __repr__(self) -> str:
        return f"session {self.link}"

    def raise_if_stopped(self) -> None:
        self.link.raise_if_stopped()

    def run_started(self, runner: object) -> None:
        if runner is not self.runner and not self._requested:
            self._attempts.clear()  # a user's run
        self._requested = False
        self.runner = runner
        self.runner_ended = False
        self._self_reruns = self._self_reruns + 1 if self._requested_for_self else 0
        self._requested_for_self = self._owed_to_self = False
        self.start_run()

    def run_finished(self, complete: Collection[str | None], exists: Callable[[str], bool]) -> None:
        """The run has ended, and these parts have run to their end."""
        self.finish_run(complete, exists)
        for part in complete:
            self._attempts.pop(part, None)

    def settle(self, warned: set[str]) -> None:
        """After a run: decide whether what the session itself has overwritten is worth a rerun."""
        overwritten = self.take_overwritten()
        if not overwritten:
            return
        if self._self_reruns >= MAX_SELF_RERUNS:
            for key in set(overwritten.values()) - warned:
                warned.add(key)
                logger.warning(
                    "Every run of a session shows server_state[%r] and then changes it, so no run can show its final "
                    "value. The session is not rerun for this again. Change the value in a callback, or before it is "
                    "shown.",
                    key,
                )
            return
        self._owed_to_self = not self.stale_parts()
        for part in overwritten:
            self.mark_stale(part)

    def stale_fragment_or_body(self) -> tuple[bool, str | None]:
        """Whether anything is stale, and the fragment to rerun: None for the whole script."""
        stale = [part for part in self.stale_parts() if self._is_worth_a_try(part)]
        for part in stale:
            if part is None or None in stale:
                return True, None
            if self.link.has_fragment(part):
                return True, part
            self.drop_scope(part)
        return False, None

    def _is_worth_a_try(self, part: str | None) -> bool:
        if self.has_changed(part):  # what its last execution has read, as far as that came
            self._attempts.pop(part, None)
        if self._attempts.get(part, 0) < MAX_ATTEMPTS:
            return True
        self.give_up(part)
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%r was rerun %d times to show changed state, and its script never came to its end: it was stopped, or "
                "asked for another run before that. It is not rerun for this change again.",
                self,
                MAX_ATTEMPTS,
            )
        return False

    def request_rerun(self, fragment: str | None) -> None:
        self._requested = True
        self._attempts[fragment] = self._attempts.get(fragment, 0) + 1
        self._requested_for_self = self._owed_to_self
        self.link.request_rerun(fragment)
