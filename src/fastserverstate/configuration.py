"""`configure`: the options of the process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, Protocol

from fastserverstate._core import (
    COMPARE_ALWAYS,
    COMPARE_CONTENT,
    COMPARE_EQUALITY,
    COMPARE_IDENTITY,
    RERUN_WRITER_ALWAYS,
    RERUN_WRITER_NEVER,
    RERUN_WRITER_STALE,
    Store,
)
from fastserverstate.change import HashFuncs, named
from fastserverstate.rerun.collector import Paced, SettingAside
from fastserverstate.rerun.scheduler import Scheduler
from fastserverstate.rerun.settings import Settings

_RERUN_WRITER = {"stale": RERUN_WRITER_STALE, "never": RERUN_WRITER_NEVER, "always": RERUN_WRITER_ALWAYS}
_GC = ("streamlit", "paced")
_COMPARE = {
    "content": COMPARE_CONTENT,
    "equality": COMPARE_EQUALITY,
    "identity": COMPARE_IDENTITY,
    "always": COMPARE_ALWAYS,
}

logger = logging.getLogger("fastserverstate")


class Configure(Protocol):
    """The type of `fastserverstate.configure`."""

    def __call__(
        self,
        key: str | None = None,
        /,
        *,
        compare: Literal["content", "equality", "identity", "always"] | None = None,
        hash_funcs: HashFuncs | None = None,
        detect_inplace: bool | None = None,
        rerun_writer: Literal["stale", "never", "always"] | None = None,
        min_rerun_interval: float | timedelta | None = None,
        max_parallel_reruns: int | None = None,
        gc: Literal["streamlit", "paced"] | None = None,
    ) -> None: ...


class PostScriptGC(Protocol):
    """Streamlit's option to collect garbage after every run."""

    def is_on(self) -> bool: ...

    def switch_off(self) -> None: ...

    def restore(self) -> None: ...


def configure_with(store: Store, settings: Settings, scheduler: Scheduler, post_script_gc: PostScriptGC) -> Configure:
    """Make `configure` for a store and its scheduler."""

    def configure(
        key: str | None = None,
        /,
        *,
        compare: Literal["content", "equality", "identity", "always"] | None = None,
        hash_funcs: HashFuncs | None = None,
        detect_inplace: bool | None = None,
        rerun_writer: Literal["stale", "never", "always"] | None = None,
        min_rerun_interval: float | timedelta | None = None,
        max_parallel_reruns: int | None = None,
        gc: Literal["streamlit", "paced"] | None = None,
    ) -> None:
        """Set options: of one key with ``configure("key", ...)``, else of the whole process.

        Parameters of a key, which are set together
            ``compare``: when an assigned value counts as changed. ``"content"`` (default): when it holds something
            else than what was assigned last, which tells a change in place too. ``"equality"``: unless it equals the
            old value by ``==``. ``"identity"``: when it is another object. ``"always"``.

            ``hash_funcs``: functions by type (or its full name), as in ``st.cache_data``: what they return stands for
            the value when content is compared.

        Parameters of the process; what is left out stays as it is
            ``detect_inplace``: for development. Log a warning, once for every key, with the line that has read it, when
            a value was changed in place and not assigned again. Every read then takes as long as an assignment.

            ``rerun_writer``: whether a session is rerun, after its run, for what it has itself written:
            ``"stale"`` (default) if the run had shown an older value, ``"never"``, or ``"always"`` if it has read the
            key. A chain of such reruns ends after two turns.

            ``min_rerun_interval``: least seconds (or ``timedelta``) between two reruns of one session that others have
            caused; 0 by default. The last value is always shown. A user's own interactions are not held back.

            ``max_parallel_reruns``: how many reruns that others have caused run at a time. By default as many as can
            make progress in parallel: 1 with the GIL, else the number of processors. More are admitted while those
            only wait.

            ``gc``: ``"streamlit"`` (default) leaves Streamlit's garbage collection after every run as it is
            configured; while many sessions are rerun, objects that are older are set aside from it (``gc.freeze``).
            ``"paced"`` switches it off and collects once for many runs: when no run has ended for a quarter of a
            second, or when the process has grown by 64 MiB or a quarter, whichever is more (twice that while sessions
            are being rerun).

        Thread-safety
            Safe from any thread. Call it once, where the app starts; calling it in every run does no harm.

        Raises
            ``ValueError`` for a value that an option does not have; nothing is set then.

        >>> from fastserverstate import configure
        >>> configure(rerun_writer="stale", min_rerun_interval=0)
        >>> configure("model", compare="identity")
        """
        policy = _policy(compare, hash_funcs)
        if key is None and (compare is not None or hash_funcs is not None):
            raise ValueError("compare and hash_funcs are options of a key: configure('key', ...).")
        seconds = (
            min_rerun_interval.total_seconds() if isinstance(min_rerun_interval, timedelta) else min_rerun_interval
        )
        if rerun_writer is not None and rerun_writer not in _RERUN_WRITER:
            raise ValueError(f"rerun_writer is one of {', '.join(map(repr, _RERUN_WRITER))}, not {rerun_writer!r}.")
        if seconds is not None and not 0 <= seconds < float("inf"):
            raise ValueError(f"min_rerun_interval is a number of seconds from 0 up, not {min_rerun_interval!r}.")
        if max_parallel_reruns is not None and max_parallel_reruns < 1:
            raise ValueError(f"max_parallel_reruns is 1 or more, not {max_parallel_reruns!r}.")
        if gc is not None and gc not in _GC:
            raise ValueError(f"gc is one of {', '.join(map(repr, _GC))}, not {gc!r}.")

        if key is not None:
            store.compare_by(key, *policy)
        if detect_inplace is not None:
            store.report_in_place(_warn_of_change_in_place if detect_inplace else None)
        if rerun_writer is not None:
            store.set_rerun_writer(_RERUN_WRITER[rerun_writer])
        if seconds is not None:
            settings.min_rerun_interval = seconds
        if max_parallel_reruns is not None:
            settings.max_parallel_reruns = max_parallel_reruns
        if gc == "paced" and not isinstance(scheduler.collector, Paced):
            scheduler.collector.stop()
            post_script_gc.switch_off()
            scheduler.collector = Paced()
        elif gc == "streamlit" and not isinstance(scheduler.collector, SettingAside):
            scheduler.collector.stop()
            post_script_gc.restore()
            scheduler.collector = SettingAside(post_script_gc.is_on)

    return configure


def _policy(compare: str | None, hash_funcs: HashFuncs | None) -> tuple[int, dict[str, Callable[[Any], object]] | None]:
    compare = compare or "content"
    if compare not in _COMPARE:
        raise ValueError(f"compare is one of {', '.join(map(repr, _COMPARE))}, not {compare!r}.")
    if hash_funcs is not None and compare != "content":
        raise ValueError(f"hash_funcs say what values hold, and compare={compare!r} does not ask for that.")
    return _COMPARE[compare], named(hash_funcs) if hash_funcs else None


def _warn_of_change_in_place(key: str, place: str) -> None:
    logger.warning(
        "The value of server_state[%r] was changed in place, so nobody was rerun for it. It was read at %s. Assign it "
        "after changing it: server_state[%r] = value.",
        key,
        place,
        key,
    )
