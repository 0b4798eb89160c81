"""`configure`: the options of the process and of keys."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from fastserverstate._core import (
    COMPARE_ALWAYS,
    COMPARE_CONTENT,
    COMPARE_EQUALITY,
    COMPARE_IDENTITY,
    HIDDEN,
    RERUN_WRITER_ALWAYS,
    RERUN_WRITER_NEVER,
    RERUN_WRITER_STALE,
    Store,
    plain_key,
    same_value,
)
from fastserverstate.bounds import bytes_of
from fastserverstate.change import HashFuncs, named
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.event_log import PREFIX
from fastserverstate.patterns import compiled, is_pattern, specificity

_RERUN_WRITER = {"stale": RERUN_WRITER_STALE, "never": RERUN_WRITER_NEVER, "always": RERUN_WRITER_ALWAYS}
_COMPARE = {
    "content": COMPARE_CONTENT,
    "equality": COMPARE_EQUALITY,
    "identity": COMPARE_IDENTITY,
    "always": COMPARE_ALWAYS,
}
GcPolicy = Literal["streamlit", "paced"]
Lifetime = tuple[float, float, bool]  # ttl and idle_ttl in seconds, 0 for none; and whether the key is stored
Resolved = tuple[int, dict[str, Callable[[Any], object]] | None, float, Lifetime]


def has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def runnable_in_parallel() -> int:
    """Return how many script runs can make progress at the same time on this interpreter."""
    return 1 if has_gil() else os.cpu_count() or 1


@dataclass
class Settings:
    """The options of the process that the rerun queue reads."""

    max_parallel_reruns: int = field(default_factory=runnable_in_parallel)
    min_rerun_interval: float = 0.0  # seconds between two reruns of a session for changes that it has not made


@dataclass(frozen=True)
class KeyOptionsGiven:
    """What one call of `configure`, or several, have said of a key or a pattern; None for nothing."""

    compare: str | None = None
    hash_funcs: dict[str, Callable[[Any], object]] | None = None
    min_rerun_interval: float | None = None
    ttl: float | None = None
    idle_ttl: float | None = None
    persist: bool | None = None


class KeyOptions:
    """What is configured for keys.

    The core asks for a key's options when it is first assigned, and keeps them. So a look-up may take its time.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, on_lifetime: Callable[[], object] = lambda: None) -> None:
        self._store = store
        self._on_lifetime = on_lifetime  # called when a key that is about to be set will expire
        self._lock = threading.RLock()
        self._given: dict[str, KeyOptionsGiven] = {}
        self._lent: dict[str, float] = {}  # keys that a session owns -> their idle_ttl in seconds
        self._patterns: dict[str, re.Pattern[str]] = {}  # the most specific one last
        self._resolve = self.of  # one object, which the core keeps for ever

    def reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._lent = {}

    def set(self, key: str, **options: Any) -> None:
        """Set options of a key, or of all keys that match a pattern. Those that are None stay as they are."""
        options = {name: value for name, value in options.items() if value is not None}
        of_pattern = is_pattern(key)
        while True:
            before = self._given.get(key)
            given = replace(before or KeyOptionsGiven(), **options)
            is_news = not same_value(before, given)
            with self._lock:
                if self._given.get(key) is before:
                    self._given[key] = given
                    if of_pattern and before is None:
                        patterns = {**self._patterns, key: compiled(key)}
                        self._patterns = dict(sorted(patterns.items(), key=lambda item: specificity(item[0])))
                    break
        if is_news:
            self._store.set_options(self._resolve)
        if not of_pattern:
            self._store.resolve(key)  # also with functions that are the same, but newer
        elif is_news:
            for other in filter(self._patterns[key].match, self._store.keys()):
                self._store.resolve(other)

    def lend(self, key: str, idle_ttl: float) -> None:
        """Have the key expire this many seconds after its last use, and store it in no file."""
        self._lent[key] = idle_ttl
        self._store.set_options(self._resolve)
        self._store.resolve(key)

    def take_back(self, key: str) -> None:
        """End what `lend` has set."""
        if self._lent.pop(key, None) is not None:
            self._store.resolve(key)

    def of(self, key: str) -> Resolved:
        """What holds for a key: what is given for it by name, else by the most specific pattern."""
        if key.startswith(PREFIX):  # a log of events differs after each of them, and comparing it would take long
            return COMPARE_ALWAYS, None, 0.0, (0.0, 0.0, False)
        patterns = {} if key.startswith(HIDDEN) else self._patterns
        names = [pattern for pattern, found in patterns.items() if pattern != key and found.match(key)]
        found: dict[str, Any] = {}
        for name in (*names, key):
            given = vars(self._given[name]) if name in self._given else {}
            found.update({option: value for option, value in given.items() if value is not None})
        lent = self._lent.get(key)
        if lent is not None:
            found.update(idle_ttl=min(lent, found.get("idle_ttl", math.inf)), persist=False)
        ttl, idle_ttl = (found.get(name, math.inf) for name in ("ttl", "idle_ttl"))
        if min(ttl, idle_ttl) < math.inf:
            self._on_lifetime()
        return (
            _COMPARE[found.get("compare", "content")],
            found.get("hash_funcs") or None,
            found.get("min_rerun_interval", 0.0),
            (
                ttl if ttl < math.inf else 0.0,
                idle_ttl if idle_ttl < math.inf else 0.0,
                found.get("persist", True),
            ),
        )


class Configuration:
    """The options of a store, its keys and its reruns."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        key_options: KeyOptions,
        *,
        set_detect_inplace: Callable[[bool], None],
        set_gc_policy: Callable[[GcPolicy], None],
        set_bounds: Callable[[str | None, float | None, float | None], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._key_options = key_options
        self._set_detect_inplace = set_detect_inplace
        self._set_gc_policy = set_gc_policy
        self._set_bounds = set_bounds

    def configure(
        self,
        key: str | None = None,
        /,
        *,
        compare: Literal["content", "equality", "identity", "always"] | None = None,
        hash_funcs: HashFuncs | None = None,
        detect_inplace: bool | None = None,
        rerun_writer: Literal["stale", "never", "always"] | None = None,
        min_rerun_interval: Duration | None = None,
        ttl: Duration | None = None,
        idle_ttl: Duration | None = None,
        persist: bool | None = None,
        max_entries: float | None = None,
        max_bytes: float | str | None = None,
        max_parallel_reruns: int | None = None,
        gc: GcPolicy | None = None,
    ) -> None:
        """Set options of a key, with ``configure("key", ...)``, or of the process. Options that you leave out stay.

        The key may be a pattern such as ``"room/*"``: ``*`` matches any text, ``?`` one character, ``[abc]`` one of
        these characters. Pass ``glob.escape(key)`` for a key that contains such characters itself. A pattern applies to
        existing keys and to keys that are set later. Options of a single key win over patterns. Among patterns, the one
        with the most literal characters wins, then the newest.

        Parameters of a key
            ``compare``: when an assigned value counts as changed. ``"content"`` (default): if its content differs from
            that of the last assignment, which also finds changes in place. ``"equality"``: unless it equals the old
            value by ``==``. ``"identity"``: if it is another object. ``"always"``.

            ``hash_funcs``: functions by type (or full name of a type), as in ``st.cache_data``. The comparison of
            content uses their results in place of the values. ``{}`` removes them.

            ``ttl``: deletes the key this long after its last write: seconds, a ``timedelta``, or text such as
            ``"10m"``. Every write begins the time again, also one of an equal value. ``float("inf")`` ends it.
            `expire` sets the deadline of one key now.

            ``idle_ttl``: deletes the key when nothing has depended on it, and no thread has written it, for this long
            or up to a quarter longer. A key is depended on by sessions that show it, computed values, `on_change`
            callbacks, waiting threads, and its lock while a thread holds it. Reads outside of script runs do not count.

            ``persist``: False keeps the key out of a database file; see `connect`.

        Parameters of a pattern or of the process
            ``max_entries``, ``max_bytes``: evicts keys while more match the pattern, or are set in the whole process,
            or while their values take more memory: a number of bytes, or text such as ``"256MB"`` or ``"1GiB"``.
            ``float("inf")`` ends a bound. The first to go is the key that was not written, and that nothing has
            depended on, for longest. Keys in use go last, with a warning in the log: keys that sessions show, or that
            computed values, `on_change` callbacks or waiting threads depend on. A key whose lock is held stays. Bounds
            are enforced soon after a write, not before it. A key counts for the most specific pattern that has bounds.

        Parameter of a key or of the process
            ``min_rerun_interval``: throttles reruns. The least time between two reruns of one session that other
            sessions have caused or, for a key, that changes of this key have caused: seconds, a ``timedelta``, or text
            such as ``"500ms"``, ``"1s"`` or ``"2m"``. 0 by default. The last value is always shown. It does not hold
            back a user's own interactions or, for a key, changes of other keys.

        Parameters of the process
            ``detect_inplace``: whether to log a warning when a run has changed a value in place without assigning it
            again: once per key, with the line that read it. By default a sample of the runs is checked, which takes up
            to 0.5% of their time, and none while sessions wait for a rerun or more than 50 script bodies and fragments
            are open. True checks at the end of every run, False never.

            ``rerun_writer``: whether a session is rerun, after its run, for its own writes: ``"stale"`` (default) if
            that run has already shown an older value, ``"never"``, or ``"always"`` if it has read the key. A chain of
            such reruns ends after two of them.

            ``max_parallel_reruns``: how many reruns for changes by other sessions run at a time. By default as many as
            can make progress in parallel: 1 with the GIL, otherwise the number of processors. More start while those
            only wait.

            ``gc``: ``"streamlit"`` (default) keeps Streamlit's garbage collection after every run as configured, and
            makes it cheap: objects that survive a collection are set aside from later ones (``gc.freeze``). ``"paced"``
            switches it off and collects once for many runs: when no run has ended for a quarter of a second, or when
            the process has grown by 64 MiB or by a quarter, whichever is more (twice that during a fan-out).

        Thread-safety
            Safe from any thread. Call it once where the app starts; calling it in every run does no harm.

        Raises
            ``ValueError`` for an unknown value of an option, for an option of keys without a key, and for an option of
            the process with a key; ``TypeError`` for a value or key of the wrong type. It sets nothing in these cases.

        >>> from fastserverstate import configure
        >>> configure(rerun_writer="stale")
        >>> configure("model", compare="identity")
        >>> configure("room/*", min_rerun_interval="500ms", idle_ttl="1h")
        >>> configure("rate/*", ttl="10m", persist=False)
        >>> configure("upload/*", max_entries=1000, max_bytes="256MB")
        """
        of_keys: dict[str, object] = {
            "compare": compare,
            "hash_funcs": hash_funcs,
            "ttl": ttl,
            "idle_ttl": idle_ttl,
            "persist": persist,
        }
        of_process: dict[str, object] = {
            "detect_inplace": detect_inplace,
            "rerun_writer": rerun_writer,
            "max_parallel_reruns": max_parallel_reruns,
            "gc": gc,
        }
        if key is not None:
            key = plain_key(key)
        _refuse_options(key, of_keys, of_process)
        _check_comparison(compare, hash_funcs)
        _check_persist(persist)
        size = _check_bounds(key, max_entries, max_bytes)
        seconds = seconds_of(min_rerun_interval, "min_rerun_interval")
        lifetimes = {"ttl": _lifetime(ttl, "ttl"), "idle_ttl": _lifetime(idle_ttl, "idle_ttl")}
        if rerun_writer is not None and rerun_writer not in _RERUN_WRITER:
            raise ValueError(f"rerun_writer is one of {', '.join(map(repr, _RERUN_WRITER))}, not {rerun_writer!r}.")
        if seconds == float("inf"):
            raise ValueError("min_rerun_interval is finite: no rerun would ever show the last value.")
        if max_parallel_reruns is not None and max_parallel_reruns < 1:
            raise ValueError(f"max_parallel_reruns is 1 or more, not {max_parallel_reruns!r}.")
        if gc is not None and gc not in get_args(GcPolicy):
            raise ValueError(f"gc is one of {', '.join(map(repr, get_args(GcPolicy)))}, not {gc!r}.")

        if max_entries is not None or size is not None:
            self._set_bounds(key, max_entries, size)
        if key is not None:
            functions = None if hash_funcs is None else named(hash_funcs)
            self._key_options.set(
                key, compare=compare, hash_funcs=functions, min_rerun_interval=seconds, persist=persist, **lifetimes
            )
            return
        if detect_inplace is not None:
            self._set_detect_inplace(detect_inplace)
        if rerun_writer is not None:
            self._store.set_rerun_writer(_RERUN_WRITER[rerun_writer])
        if seconds is not None:
            self._settings.min_rerun_interval = seconds
        if max_parallel_reruns is not None:
            self._settings.max_parallel_reruns = max_parallel_reruns
        if gc is not None:
            self._set_gc_policy(gc)


def _lifetime(duration: Duration | None, what: str) -> float | None:
    seconds = seconds_of(duration, what)
    if seconds == 0:
        raise ValueError(f"{what} is longer than 0. Delete keys that you do not need, and end a {what} with inf.")
    return seconds


def _check_persist(persist: object) -> None:
    if persist is not None and not isinstance(persist, bool):
        raise TypeError(f"persist is True or False, not {persist!r} of type {type(persist).__qualname__}.")


def _check_bounds(key: str | None, max_entries: float | None, max_bytes: float | str | None) -> float | None:
    """Return `max_bytes` as a number."""
    if (max_entries is not None or max_bytes is not None) and key is not None and not is_pattern(key):
        raise ValueError(
            f"max_entries and max_bytes bound the keys of a pattern, such as {key + '/*'!r}, not of a key."
        )
    if max_entries is not None and (isinstance(max_entries, bool) or not isinstance(max_entries, int | float)):
        raise TypeError(f"max_entries is a number, not {max_entries!r} of type {type(max_entries).__qualname__}.")
    size = None if max_bytes is None else bytes_of(max_bytes, "max_bytes")
    for name, bound in (("max_entries", max_entries), ("max_bytes", size)):
        if bound is not None and not bound >= 1:
            raise ValueError(f"{name} is 1 or more, not {bound!r}.")
    return size


def _refuse_options(key: object, of_keys: dict[str, object], of_process: dict[str, object]) -> None:
    """Tell the options of a key and those of the process apart."""
    wrong = [name for name, value in (of_keys if key is None else of_process).items() if value is not None]
    if wrong and key is None:
        raise ValueError(f"{wrong[0]} is an option of a key: configure('key', {wrong[0]}=...).")
    if wrong:
        raise ValueError(f"{wrong[0]} is an option of the process, not of {key!r}: configure({wrong[0]}=...).")


def _check_comparison(compare: str | None, hash_funcs: HashFuncs | None) -> None:
    if compare is not None and compare not in _COMPARE:
        raise ValueError(f"compare is one of {', '.join(map(repr, _COMPARE))}, not {compare!r}.")
    if hash_funcs and compare not in {None, "content"}:
        raise ValueError(f"hash_funcs say what values hold, and compare={compare!r} does not ask for that.")
