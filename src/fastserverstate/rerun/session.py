"""One session as the scheduler sees it."""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import weakref
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from fastserverstate._core import CAUSE_DEPTHS, Session, Store

if TYPE_CHECKING:
    from fastserverstate.rerun.scheduler import Pump

logger = logging.getLogger("fastserverstate")

# How often a chain of reruns may come back to a part: a circle of sessions, or of fragments, that change what the
# others show ends after so many turns.
MAX_TURNS = 2

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
        self._store = store
        self.link = link
        self.pump: Pump | None = None
        # Whose runs count. Weak, for runners lead to all that Streamlit has of a session.
        self._runner: Callable[[], object] = lambda: None
        self.runner_ended = False
        self.queued = False
        self.watched = False  # the pump looks at it again, in case that the end of its run is not reported
        self.admitted: asyncio.TimerHandle | None = None  # while the pump counts its run
        self.requested_at = -math.inf  # on the loop's clock
        self._asked = True  # by a user, for a run that has not begun yet
        self._requested = False  # by `request_rerun`, the same
        self._next_cause: int | None = None  # of the run that was requested, or goes on; None: a user's
        self._recurs = False  # that run
        self._users_cause = 0  # of the last run that a user has asked for
        self._turns: dict[str | None, tuple[int, int]] = {}  # by part: its deepest cause, and how often it got deeper
        self._has_warned = False
        self._attempts: dict[str | None, int] = {}  # by part: reruns since it last ran to its end

    def __repr__(self) -> str:
        return f"session {self.link}"

    def raise_if_stopped(self) -> None:
        self.link.raise_if_stopped()

    def is_run_by(self, runner: object) -> bool:
        """Whether the runner's runs count. Those of others are on their way out."""
        return self._runner() is runner

    def user_asked(self) -> None:
        """A user, or a timer of the page, has asked for a run."""
        self._asked = True

    def run_started(self, runner: object) -> None:
        if self._asked:
            self._attempts.clear()
            self._turns.clear()
            self._next_cause, self._recurs = None, False
        self.start_run(self._next_cause, self._recurs)
        if self._next_cause is None:
            self._users_cause = self.cause
        self._asked = self._requested = False
        self._runner = weakref.ref(runner)
        self.runner_ended = False

    def run_finished(self, complete: Collection[str | None], exists: Callable[[str], bool]) -> None:
        """The run has ended, and these parts have run to their end."""
        self.finish_run(complete, exists)
        for part in complete:
            self._attempts.pop(part, None)

    def settle(self) -> None:
        """After a run: what it has changed itself, and may have shown before, is a reason to rerun."""
        for part in self.take_overwritten():
            self.mark_stale(part)

    def stale_fragment_or_body(self, warned: set[str]) -> tuple[bool, str | None]:
        """Whether anything is stale, and the fragment to rerun: None for the whole script.

        `warned` are keys of which the log says already that reruns change them.
        """
        stale = [part for part in self.stale_parts() if self._is_worth_a_try(part, warned)]
        for part in stale:
            if part is None or None in stale:
                return True, None
            if self.link.has_fragment(part):
                return True, part
            self.drop_scope(part)
        return False, None

    def _is_worth_a_try(self, part: str | None, warned: set[str]) -> bool:
        if self._next_turn(part, self.cause_of(part) - 1)[1] > MAX_TURNS:
            self.give_up(part)
            self._warn_of_circle(warned)
            return False
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

    def _warn_of_circle(self, warned: set[str]) -> None:
        found = self._store.take_echoes()
        keys = {key for key, _ in found} or {""}  # another session's warning has named them
        if keys <= warned:
            return
        warned.update(keys)
        logger.warning(
            "Reruns change the state that they are made for, and would never end: %s. %r is not rerun for this again. "
            "Change shared state in a callback, or before it is shown.",
            "; ".join(f"server_state[{key!r}]" + (f" is changed at {place}" if place else "") for key, place in found)
            or "see the warnings before this one",
            self,
        )

    def _next_turn(self, part: str | None, cause: int) -> tuple[int, int]:
        """The part's deepest cause if it is rerun for this one, and how often the chain will have come back to it."""
        deepest, turns = self._turns.get(part, (self._users_cause, 0))
        if cause // CAUSE_DEPTHS > deepest // CAUSE_DEPTHS:
            return cause, 0
        return (cause, turns + 1) if cause < deepest else (deepest, turns)

    def request_rerun(self, fragment: str | None) -> None:
        self._requested = True
        self._next_cause = self.cause_of(fragment) - 1
        self._turns[fragment] = _, turns = self._next_turn(fragment, self._next_cause)
        self._recurs = turns > 0
        self._attempts[fragment] = self._attempts.get(fragment, 0) + 1
        self.link.request_rerun(fragment)
