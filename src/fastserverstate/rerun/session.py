"""One session, as the rerun queue sees it."""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar, cast

from fastserverstate._core import CAUSE_DEPTHS, Session, Store
from fastserverstate.rerun.inbox import Inbox
from fastserverstate.rerun.memberships import group_changed
from fastserverstate.rerun.notices import Notice, Notices, Unseen
from fastserverstate.rerun.viewers import Viewers

logger = logging.getLogger("fastserverstate")

# Seconds until a session is tried again whose last output was not sent yet, or whose runner is about to be done.
SENDING_RETRY = 0.005
ENDING_RETRY = 0.001

# How often a chain of reruns may return to a fragment: a cycle of sessions or fragments that change each other's values
# ends after this many turns.
MAX_TURNS = 2

# Successive reruns for one change that do not complete, because of st.rerun("a fragment") or the Stop button.
MAX_ATTEMPTS = 3


class Readiness(enum.Enum):
    """Whether a session can be rerun now."""

    READY = enum.auto()
    RUNNING = enum.auto()  # the end of the run will be reported
    SENDING = enum.auto()  # the last run's output was not sent yet, and a new run would discard it
    AWAY = enum.auto()  # disconnected; its return will be reported
    GONE = enum.auto()


def _key_changed(key: str, place: str | None) -> str:
    return f"server_state[{key!r}]" + (f" is changed at {place}" if place else "")


class SessionAdapter(Protocol):
    """A session of Streamlit. Its methods are called on the session's event loop."""

    @property
    def id(self) -> str: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def readiness(self) -> Readiness: ...

    def has_fragment(self, fragment: str) -> bool: ...

    def request_rerun(self, fragment: str | None) -> None: ...

    def push(self, payloads: list[bytes]) -> bool:
        """Send serialized messages to the browser of a ready session; False if it has not received the last yet."""

    def show(self, notices: list[Notice]) -> bool:
        """Show notices in the browser of a ready session; False if it has not received the last messages yet."""

    def unsent(self) -> Sequence[object]:
        """Return the messages that were not sent yet, oldest first."""

    def raise_if_stopped(self) -> None:
        """Raise the exception that ends the calling thread's run, if that run has to end. Called on any thread."""


class RunFollower(Protocol):
    """Follows the runs of one session."""

    def run_started(self) -> None:
        """Another run begins. After a click, that may be before the earlier one has ended."""

    def run_finished(self, complete: Collection[str | None], exists: Callable[[str], bool]) -> None:
        """The run is at its end. These fragments have completed (None is the body), and the others still exist or not.

        Changes by the calling thread are still those of the run.
        """


_Follower = TypeVar("_Follower", bound=RunFollower)


class LiveSession(Session):
    """A session whose script has read or written shared state.

    Thread-safety
        The runner's thread reports the start, the messages and the end of runs. Everything else happens on the
        session's event loop.
    """

    def __init__(self, store: Store, adapter: SessionAdapter, notices: Notices | None = None) -> None:
        super().__init__(store)
        self._store = store
        self.adapter = adapter
        # The runner whose runs count. Weak, because a runner refers to everything that Streamlit has of a session.
        self._runner: Callable[[], object] = lambda: None
        self.runner_ended = False
        self.viewers = Viewers()
        self.inbox = Inbox(adapter)
        self.unseen = Unseen(notices or Notices())
        self._followers: dict[type[RunFollower], RunFollower] = {}
        self.is_push_due = False
        self.queued = False
        self.watched = False  # the queue tries it again, in case the end of its run is not reported
        self.admitted: asyncio.TimerHandle | None = None  # while the queue counts its run as admitted
        self.requested_at = -math.inf  # on the loop's clock
        self._asked = True  # by a user, for a run that has not begun yet
        self._unconfirmed: set[str | None] = set()  # fragments that were rerun since the browser last sent anything
        self._next_cause: int | None = None  # of the run that was requested, or goes on; None: a user's
        self._recurs = False  # that run
        self._users_cause = 0  # of the last run that a user has asked for
        # By fragment: its deepest cause, and how often it got deeper.
        self._turns: dict[str | None, tuple[int, int]] = {}
        self._has_warned = False
        self._attempts: dict[str | None, int] = {}  # by fragment: reruns since it last ran to its end

    def __repr__(self) -> str:
        return f"session {self.adapter}"

    @property
    def id(self) -> str:
        """Streamlit's id of the session."""
        return self.adapter.id

    def follower(self, kind: type[_Follower], make: Callable[[], _Follower]) -> _Follower:
        """Return the session's follower of this type. It is made when it is first asked for."""
        found = self._followers.get(kind)
        if found is None:
            found = self._followers.setdefault(kind, make())
        return cast("_Follower", found)

    @property
    def is_rerun(self) -> bool:
        """Whether the run shows a change, so that its own changes continue a chain of reruns."""
        return self._next_cause is not None

    def raise_if_stopped(self) -> None:
        self.adapter.raise_if_stopped()

    def is_run_by(self, runner: object) -> bool:
        """Whether the runner is the current one. Runs of other runners are about to end."""
        return self._runner() is runner

    def retry_after(self, readiness: Readiness) -> float | None:
        """Return the seconds after which the session may be ready, although nothing will report it."""
        if readiness is Readiness.SENDING:
            return SENDING_RETRY
        return ENDING_RETRY if readiness is Readiness.RUNNING and self.runner_ended else None

    def user_asked(self) -> None:
        """A user, or a timer of the page, has asked for a run."""
        self._asked = True
        self._unconfirmed.clear()

    def returned(self) -> None:
        """The browser is connected again. What it was sent last may have been lost with the connection."""
        for fragment in self._unconfirmed.copy():
            self.mark_stale(fragment)
        self.viewers.connection_lost()
        self.user_asked()  # so the run that shows it is no part of a cycle

    def run_started(self, runner: object, *, is_asked_again: bool = False) -> None:
        """A run begins. `is_asked_again`: the user has asked for another one already, which will interrupt this one."""
        self.inbox.run_started(by_user=self._asked)
        if self._asked:
            self._attempts.clear()
            self._turns.clear()
            self._next_cause, self._recurs = None, False
        self.start_run(self._next_cause, self._recurs)
        if self._next_cause is None:
            self._users_cause = self.cause
        self._asked = is_asked_again
        self._runner = weakref.ref(runner)
        self.runner_ended = False
        self.viewers.run_started()
        for follower in list(self._followers.values()):
            follower.run_started()

    def run_finished(
        self, complete: Collection[str | None], exists: Callable[[str], bool], *, stopped: bool = False
    ) -> None:
        """The run has ended, and these fragments have completed (None is the body), unless it was `stopped`."""
        for follower in list(self._followers.values()):  # first: what they change, the run changes
            follower.run_finished(complete, exists)
        self.finish_run(complete, exists)
        self.viewers.run_finished(complete, exists)
        self.inbox.run_finished(complete, exists, stopped=stopped, by_user=self._asked and not complete)
        for fragment in complete:
            self._attempts.pop(fragment, None)

    def close(self) -> None:
        super().close()
        self.viewers.clear()

    def mark_own_writes(self) -> None:
        """After a run, mark the fragments stale that may have shown a value which the run itself has then replaced.

        And those that have to read events again.
        """
        for fragment in {*self.take_overwritten(), *self.inbox.take_owed()}:
            self.mark_stale(fragment)

    def stale_fragment_or_body(self, warned: set[str]) -> tuple[bool, str | None]:
        """Return whether anything is stale, and the fragment to rerun (None for the whole script).

        `warned` are the keys for which a warning about a cycle was logged already.
        """
        stale = [fragment for fragment in self.stale_fragment_ids() if self._is_worth_a_try(fragment, warned)]
        for fragment in stale:
            if fragment is None or None in stale:
                return True, None
            if self.adapter.has_fragment(fragment):
                return True, fragment
            self.drop_scope(fragment)
        return False, None

    def _is_worth_a_try(self, fragment: str | None, warned: set[str]) -> bool:
        if self._next_turn(fragment, self.cause_of(fragment) - 1)[1] > MAX_TURNS:
            self.dismiss_stale(fragment)
            self._warn_about_cycle(warned)
            return False
        if self.has_changed(fragment):  # since its last execution, even if that did not complete
            self._attempts.pop(fragment, None)
        if self._attempts.get(fragment, 0) < MAX_ATTEMPTS:
            return True
        self.dismiss_stale(fragment)
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%r was rerun %d times to show changed state, and its script never completed: it was stopped, or it "
                "requested another run first. It is not rerun for this change again.",
                self,
                MAX_ATTEMPTS,
            )
        return False

    def _warn_about_cycle(self, warned: set[str]) -> None:
        found = self._store.take_chain_writes()
        keys = {key for key, _ in found} or {""}  # the warning of another session has named them
        if keys <= warned:
            return
        warned.update(keys)
        logger.warning(
            "Reruns change the state that they are made for, and would never end: %s. %r is not rerun for this again. "
            "Change shared state in a callback, or before it is shown.",
            "; ".join(group_changed(key) or _key_changed(key, place) for key, place in found)
            or "see the warnings before this one",
            self,
        )

    def _next_turn(self, fragment: str | None, cause: int) -> tuple[int, int]:
        """Return the fragment's deepest cause if it is rerun for this one, and how often the chain then returned."""
        deepest, turns = self._turns.get(fragment, (self._users_cause, 0))
        if cause // CAUSE_DEPTHS > deepest // CAUSE_DEPTHS:
            return cause, 0
        return (cause, turns + 1) if cause < deepest else (deepest, turns)

    def request_rerun(self, fragment: str | None) -> None:
        self._next_cause = self.cause_of(fragment) - 1
        self._turns[fragment] = _, turns = self._next_turn(fragment, self._next_cause)
        self._recurs = turns > 0
        self._attempts[fragment] = self._attempts.get(fragment, 0) + 1
        self._unconfirmed.add(fragment)
        self.adapter.request_rerun(fragment)
