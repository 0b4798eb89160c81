"""`live`: a part of the page that is rendered once for all sessions, and pushed to them when it changes."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, NoReturn, ParamSpec, Protocol, overload

from fastserverstate._core import Failure, Store
from fastserverstate.computed_values import Dependent, Evaluator, HasNodes, Nodes
from fastserverstate.definitions import Call, Registry
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.errors import FastServerStateError
from fastserverstate.functions import check_function, name_of
from fastserverstate.rerun.session import LiveSession
from fastserverstate.rerun.viewers import Viewer
from fastserverstate.updates import MISSING
from fastserverstate.workers import Workers

# Seconds that a script waits for a worker that renders a region, if there is an older rendering to show meanwhile.
PATIENCE = 0.5

# Renderings that no session shows which are kept, for each function.
MOST_RENDERINGS = 100

P = ParamSpec("P")


class Pages(Protocol):
    """The pages of the sessions, as Streamlit makes them. Called on the threads of script runs, except `capture`."""

    can_push: bool
    """Whether browsers draw what is sent to them outside of a run."""

    def session_of_run(self) -> LiveSession | None:
        """Return the session in whose current run the thread takes part; None if no server runs it."""

    def show_in_fragment(self, call: Call) -> None:
        """Call the function in a fragment, which may be called again with these arguments."""

    def open_place(self) -> Any:
        """Create a container. Return its place, which has the `fragment_id` of the run."""

    def capture(self, function: Callable[[], Any], refuse: Callable[[str], NoReturn], previous: Any) -> Any:
        """Render a function. Called on any thread, with the last rendering or None."""


class Region(Dependent):
    """A live function with its arguments: what it has read, its newest rendering, and the places that show it."""

    def __init__(self, store: Store, definition: Live[Any], call: Call) -> None:
        super().__init__(store, definition, call, lambda function, _: function())
        self._live = definition
        self._lock = threading.RLock()
        self._sending = 0  # event loops that are sending the newest rendering
        self._waiting: Callable[[], None] | None = None
        self._rendered_at = -float("inf")
        self.viewers: dict[Viewer, None] = {}
        self.rendering: Any = None

    def refuse_write(self) -> None:
        self.refuse("a change of shared state")

    def refuse(self, what: str) -> NoReturn:
        raise FastServerStateError(
            f"The live function {name_of(self.definition.function)} has used {what}. It is rendered once for all "
            "sessions, so it can only show. Move that out of the function, or decorate it with @st.fragment instead "
            "of @live."
        )

    def compute(self) -> Any:
        self._rendered_at = time.monotonic()
        return self._live.pages.capture(
            lambda: self.definition.function(*self.call.args, **self.call.kwargs), self.refuse, self.rendering
        )

    def keep(self, result: Any) -> tuple[bool, list[str]]:
        if isinstance(result, Failure):
            raise result.exception
        is_changed = result != self.rendering
        if is_changed:
            self.rendering = result
        return is_changed, []

    def is_needed(self) -> bool:
        return bool(self.viewers)

    def is_recent(self) -> bool:
        """Whether it was rendered less than the interval ago."""
        return self.rendering is not None and time.monotonic() - self._rendered_at < self._live.every

    def schedule(self, evaluate: Callable[[], None], workers: Workers) -> None:
        with self._lock:
            if self._sending:
                self._waiting = functools.partial(self.schedule, evaluate, workers)
                return
            rest = self._rendered_at + self._live.every - time.monotonic()
        if rest > 0:
            again = functools.partial(self.schedule, evaluate, workers)  # a run may render it meanwhile
            workers.submit_later(rest, again, f"The live region {self!r}")
        else:
            workers.submit(evaluate, f"The live region {self!r}")

    def changed(self) -> None:
        self._live.push(self)

    def is_sent_by(self, loops: int) -> None:
        with self._lock:
            self._sending += loops

    def was_sent(self) -> None:
        with self._lock:
            self._sending -= 1
            waiting, self._waiting = (None, self._waiting) if self._sending else (self._waiting, None)
        if waiting is not None:
            waiting()


class Live(HasNodes, Generic[P]):
    """A function that `live` has decorated. Call it where its elements should be.

    >>> from fastserverstate import Live, live
    >>> @live
    ... def board(game: str) -> None: ...
    >>> isinstance(board, Live)
    True
    """

    def __init__(self, regions: LiveRegions, function: Callable[P, object], every: float) -> None:
        self.function = function
        self.every = every
        self.pages = regions.pages
        self.push = regions.push
        self._evaluator = regions.evaluator
        self._nodes = Nodes(lambda call: Region(regions.store, self, call), MOST_RENDERINGS, self._evaluator)
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        live = None if self._evaluator.is_evaluating() else self.pages.session_of_run()
        if live is None:  # inside another live function, or without a server
            self.function(*args, **kwargs)
        elif not self.pages.can_push:
            self.pages.show_in_fragment(Call(self.function, args, kwargs))
        else:
            run = live.viewers.run
            if self.pages.session_of_run() is live:  # else another run has replaced this one meanwhile
                self._show(live, run, Call(self.function, args, kwargs))

    def __repr__(self) -> str:
        return f"<live function {name_of(self.function)}>"

    def _show(self, live: LiveSession, run: int, call: Call) -> None:
        place = self.pages.open_place()
        while True:
            region: Any = self._nodes.find_or_make(call)
            if not region.is_recent():
                self._evaluator.refresh(region, -1 if region.rendering is None else PATIENCE)
            viewer = Viewer(region, live, place, place.fragment_id, region.rendering)
            region.viewers[viewer] = None  # from now on it is not discarded
            if not region.is_discarded:
                break
            viewer.remove()
        live.viewers.add(viewer, run)
        viewer.shown.show(place)
        if self._evaluator.is_outdated(region):
            self._evaluator.collected([region])  # no session has shown it when it was


class LiveRegions:
    """Makes live functions."""

    def __init__(self, store: Store, evaluator: Evaluator, pages: Pages, push: Callable[[Region], None]) -> None:
        self.store = store
        self.evaluator = evaluator
        self.pages = pages
        self.push = push
        self._registry: Registry[Live[Any]] = Registry()

    @overload
    def live(self, function: Callable[P, object], /) -> Live[P]: ...

    @overload
    def live(self, *, every: Duration = 0) -> Callable[[Callable[P, object]], Live[P]]: ...

    def live(self, function: Any = MISSING, *, every: Duration = 0) -> Any:
        """Turn a function into a live region: rendered once for all sessions, and pushed to them when it changes.

        Call the decorated function anywhere on a page: in the body of the script, a column, tab, sidebar, dialog or
        fragment. When shared state changes that the function has read, it is called once, on a thread of its own, and
        the elements that differ are sent to every session that shows them. No script runs. A session that comes later
        gets the newest rendering. Calls with arguments of the same content share one rendering.

        The function can show anything, and nothing else: no widgets or forms, no ``st.session_state``,
        ``st.query_params``, ``st.context`` or ``st.user``, no ``st.rerun`` or ``st.stop``, no elements outside of its
        own container, and no changes of shared state. Such a use raises an error in place of the elements. Pass what
        differs between sessions as an argument. What an exception inside the function leaves is shown as in a script,
        logged once, and replaced by the next rendering.

        Parameters
            ``every``: the least time between two renderings, in seconds, as a ``timedelta``, or as text such as
            ``"200ms"``. The newest state is always shown in the end. By default, the function is called again as soon
            as the last rendering was sent.

        Thread-safety
            Call it in script runs. Elsewhere, in AppTest and in plain Python, it just calls the function.

        Raises
            ``TypeError`` if the function is async, or if an argument has no content that can be compared.

        >>> import streamlit as st
        >>> from fastserverstate import live, server_state
        >>> @live
        ... def scoreboard(game: str) -> None:
        ...     st.table(server_state[f"scores/{game}"])
        """
        seconds = seconds_of(every, "every")

        def decorate(function: Callable[P, object]) -> Live[P]:
            check_function(function, "The function that live decorates")
            definition = self._registry.find_or_make(function, lambda: Live(self, function, seconds))
            definition.every = seconds
            return definition

        return decorate if function is MISSING else decorate(function)

    def reset_after_fork(self) -> None:
        self._registry.reset_after_fork()
