"""The compiled core: keys, values, per-key locks, and who depends on what. It knows nothing of Streamlit.

Apps use `fastserverstate.server_state` and `fastserverstate.server_state_lock`, which are thin layers over what is
described here. How the data is laid out, and which code excludes which, stands at the top of ``_core.pyx``.

Terms
    A *scope* is a region that reruns as a whole: the body of one session's script, or one fragment in it. It
    *subscribes* to a key by reading it, and is *stale* once another session or a thread has changed that key.

    A *holder* is a thread's part in a script run or, outside of runs, a thread. Locks, transactions and calls that were
    put off belong to it and end with it.

Thread-safety
    Everything may be called from any thread, with and without the GIL, unless its entry says otherwise. Single
    operations are atomic: whatever others do meanwhile, each happens at one moment, and an operation on a key waits
    while another thread holds the key's lock. Nothing is locked but what the caller has locked while foreign code runs:
    finalizers of replaced values, ``__eq__`` and attributes of compared ones, callbacks, handlers of signals. So all of
    that may use the store.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import CodeType, TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar, final, overload

_T = TypeVar("_T")

class Suppression:
    """A ``no_rerun`` block, which nests: changes that the holder makes in this context make nothing stale."""

    def __enter__(self) -> None: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises ``RuntimeError`` if the block has not begun here, unless another exception is under way."""

def reruns_are_suppressed() -> bool:
    """Whether the running code is in a ``no_rerun`` block."""

absent: Final[object]
"""Stands for the value of a key that is not set, in `Store.apply` and to backends."""

# When a session's own change is a reason to rerun what it shows (`Store.set_rerun_writer`): if that may be an older
# value, never, or always.
RERUN_WRITER_STALE: Final = 0
RERUN_WRITER_NEVER: Final = 1
RERUN_WRITER_ALWAYS: Final = 2

# How the run that a thread takes part in stands (`locate_scopes`): it is the session's current one; it is, but its
# script has not begun yet, for a callback runs; the session has a newer one; or it is the current one, and the thread
# is one of the app's own, which may go on after it.
RUN_CURRENT: Final = 0
RUN_STARTING: Final = 1
RUN_REPLACED: Final = 2
RUN_APP_THREAD: Final = 3

# A cause is the number of an origin, times this, plus what is left of it at some depth. An origin is what a user's run,
# a thread or a timer has changed; a rerun for it is one step deeper, and so is what that changes.
CAUSE_DEPTHS: Final = 0x10000

# When an assigned value counts as changed (`Store.set_options`): by what it holds, by ``==``, by which object it is, or
# always. 1 is content with functions of the user's for some types.
COMPARE_CONTENT: Final = 0
COMPARE_EQUALITY: Final = 2
COMPARE_IDENTITY: Final = 3
COMPARE_ALWAYS: Final = 4

def same_value(old: object, new: object) -> bool:
    """Whether two values hold the same, as `fastserverstate.change.content_fingerprint` tells it.

    >>> same_value({"a": [1, 2]}, {"a": [1, 2]})
    True
    >>> same_value(1, True)
    False
    """

def content_fingerprint(value: object, hash_funcs: dict[str, Callable[[Any], object]] | None = None) -> bytes | None:
    """16 bytes that tell what a value holds, or None where nothing can. See `fastserverstate.change`.

    `hash_funcs` are by full name of the type.
    """

def plan_types(
    make: Callable[[type], TypePlan],
    report: Callable[[str, Exception], None],
    slow: Callable[[str, str], None],
) -> None:
    """Have ``make(type)`` say how the values of a type are written, and ``report(name, reason)`` told which type has
    kept a value from having a fingerprint. ``slow(key, name)`` is told of a value, of the type of that name, that was
    assigned to a key and would have taken too long. Process-wide; the last call wins."""

def source_location(code: CodeType | None, instruction: int) -> str:
    """Where in the source an offset in a code object is: file, line and function."""

def advance_clock(seconds: float) -> None:
    """Put the clock on by which fingerprints and intervals are measured, for tests."""

class TypePlan:
    """How the values of one type are written for their fingerprint. Holds no reference to the type.

    `name` is the type's full name. `functions` take a value apart into values that stand for it; `storage` is the
    built-in type whose content counts. Beside these count its attributes if it `has_dict`, but for those in `derived`,
    and its `slots`: by name, or by the position in the MRO and the name if a subclass hides the slot.
    """

    name: Final[str]

    def __new__(
        cls,
        name: str,
        functions: tuple[Callable[[Any], Iterable[object]], ...] = (),
        storage: type | None = None,
        has_dict: bool = False,
        slots: tuple[str | tuple[int, str], ...] = (),
        derived: frozenset[str] = frozenset(),
    ) -> TypePlan: ...

def mro_of(kind: type) -> tuple[type, ...]:
    """The type's ``__mro__``, whatever its metaclass says. So do `base_of` and `namespace_of`."""

def base_of(kind: type) -> type: ...
def namespace_of(kind: type) -> Mapping[str, Any]: ...
def plain_key(key: str) -> str:
    """The key as an exact ``str``: of a subclass, such as a ``StrEnum``, the text that it holds. Else ``TypeError``.

    >>> plain_key("k")
    'k'
    """

def make_immortal(value: object) -> None:
    """Never free the object, so that threads without the GIL do not fight for its reference count. Call it at once."""

def skip_frames_of(*functions: Callable[..., Any]) -> None:
    """Do not name the files of these functions, 4 at most, as the place of an access, but who has called them."""

def locate_scopes(
    attribute: str,
    variable: ContextVar[Any] | None,
    part: str,
    resolve: Callable[[Any, Any], tuple[Session, Scope | None, int] | None],
) -> None:
    """Say how to find the scope that a thread runs in. Process-wide; the last call wins.

    A thread's *context* is the value of `attribute` of its ``threading.Thread`` object, and is not kept alive. Its
    *part* is the attribute `part` of the context variable's value or, with no variable, of the context.
    ``resolve(context, part)`` is called when either has changed since the thread's last access, or when the session has
    begun another run.

    It returns the session whose run the thread takes part in, the scope that its reads subscribe, and one of the
    ``RUN_`` constants; or None for a thread that is in no run. It is asked at every access while a run is starting.
    """

def holder_serial() -> int:
    """The number of the calling thread's holder. No other one in the process has it, ever."""

def this_holder() -> Holder:
    """The calling thread's holder."""

def act_for(holder: Holder, function: Callable[[], _T]) -> _T:
    """Call a function on this thread as if the holder's thread did: with its locks, and in its `no_rerun` blocks if
    that is done in its context. That thread may go on meanwhile."""

def on_leftovers(report: Callable[[list[str], list[str]], object]) -> None:
    """Have ``report(locks, written)`` called when a thread has ended that held the locks of these keys, or was in
    a transaction that had written those. They are free then. Process-wide; the last call wins."""

def wake_waiters() -> None:
    """Have the threads of all sessions that wait call `Session.raise_if_stopped`."""

def on_event_loop() -> bool:
    """Whether the calling thread runs an event loop of asyncio. Such a thread waits for 20 ms at most, and then gets
    a `fastserverstate.WouldBlockError`."""

EVENT_LOOP_WAIT_LIMIT: Final[float]
"""The 20 ms, in seconds."""

def refuse_to_block(what: str) -> NoReturn:
    """Raise WouldBlockError: `what` would stop the event loop."""

def on_ends(in_pool: Callable[[], bool], if_over: Callable[[], object]) -> None:
    """Have waits of threads that are part of no run call ``if_over()`` every 250 ms, which may raise: those that begin
    where ``in_pool()`` is true, and all of them after `end_process`. Process-wide; the last call wins."""

def end_process() -> None:
    """Say that the main thread has come to its end, and the process waits for the others."""

def process_is_ending() -> bool: ...
def waits() -> frozenset[tuple[int, int]]:
    """The threads that wait, each with the time, on the monotonic clock in ns, at which its wait has begun."""

@final
class KeyLock:
    """The re-entrant lock of one key, as ``server_state_lock[key]`` returns it.

    Behaves as ``threading.RLock``, errors included. While a thread holds it, other threads' reads and writes of the
    key wait. A waiter that is passed over for 2 ms has the next turn, so none starves.

    Thread-safety
        Released by the thread that acquired it, or when the thread's part in its run ends, or the thread. Waiting lets
        go of the GIL and reacts to signals.
    """

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock. ``timeout`` is in seconds, -1 for ever; False if it could not be taken in that time.

        Raises ``ValueError`` for a negative timeout and for a timeout without blocking, ``OverflowError`` above
        ``threading.TIMEOUT_MAX``.
        """

    def release(self) -> None:
        """Give the lock back once.

        Raises ``RuntimeError`` if this thread does not hold it, or holds it only for a transaction that has written the
        key.
        """

    def locked(self) -> bool:
        """Whether any thread holds the lock."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    # What ``threading.Condition`` asks of a re-entrant lock.
    def _is_owned(self) -> bool: ...
    def _release_save(self) -> int: ...
    def _acquire_restore(self, depth: int) -> None: ...

@final
class KeyLocks:
    """The locks of several keys as one re-entrant lock, as ``server_state_lock["a", "b"]`` returns it.

    They are taken in the order of the keys' names, all or none, and released in the opposite one.
    """

    def __new__(cls, store: Store, keys: Iterable[str]) -> KeyLocks: ...
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take all locks. ``timeout`` is for all together; see `KeyLock.acquire`."""

    def release(self) -> None:
        """Give all locks back once. Raises ``RuntimeError`` if one cannot be, and gives the others back.

        See `KeyLock.release`.
        """

    def locked(self) -> bool:
        """Whether any thread holds any of the locks."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

@final
class Holder:
    """A thread's part in a run. Made by `Store.writer`."""

@final
class Scope:
    """A region that reruns as a whole. Made by `Session.scope`."""

    @property
    def session(self) -> Session:
        """The session that the scope is part of."""

class Session:
    """The scopes of one session: which runs they are in, and what has gone to the screen.

    Subclass it to add what a rerun needs.

    Thread-safety
        Any thread may close a session, drop or mark its parts and ask for them, while others run in it. The start and
        the end of its runs are told one after the other, by who runs them.
    """

    def __init__(self, store: Store) -> None: ...
    def scope(self, part: str | None) -> Scope | None:
        """The scope of a part, made at the first call: None is the script's body, a name one of its fragments.

        None once the session is closed. The first call in a run begins an *execution* of the part. What earlier
        executions have read counts until one is complete.
        """

    def untracked_scope(self) -> Scope | None:
        """A scope whose reads are noted (`Store.note_reads`) and subscribe to nothing, for callbacks."""

    cause: int
    """Of the last run."""

    def start_run(self, cause: int | None = None, recurs: bool = False) -> None:
        """A run begins. What it will execute is not known yet.

        `cause` is one less than that of the part which it reruns; None for a run that a user has asked for. It `recurs`
        if it is part of a chain of reruns that comes back to the session: what it changes is noted.
        """

    def message_sent(self) -> None:
        """Something has gone to the screen: what was read before it may be visible."""

    def finish_run(
        self, complete: Collection[str | None] = (None,), exists: Callable[[str], bool] | None = None
    ) -> None:
        """The run has ended: what it has read counts as shown from here on.

        `complete` are the parts whose code has run to its end: they depend on what it has read, and on nothing else.
        Fragments that no longer exist are dropped.
        """

    def stale_fragment_ids(self) -> list[str | None]:
        """The parts that were collected as stale or marked so, and have not run to their end since."""

    def cause_of(self, part: str | None) -> int:
        """The cause of what has made a part stale, that of the last run if it is not known. None: of any part."""

    def has_changed(self, part: str | None) -> bool:
        """Whether what the last execution of a part has read was collected as stale or marked so."""

    def dismiss_stale(self, part: str | None) -> None:
        """Let a stale part be, until something else changes."""

    def mark_stale(self, part: str | None) -> None:
        """Make a part stale, if it exists, for what the session's last run has changed itself."""

    def raise_if_stopped(self) -> None:
        """For subclasses: raise what ends the session's run if it is to end. Called by its threads when they wait."""

    def stop_waiting(self) -> None:
        """Have the session's threads that wait for a lock or a change call `raise_if_stopped`, from any thread."""

    def take_overwritten(self) -> dict[str | None, str]:
        """The parts that may show a value which the session itself has changed since, with the last such key each."""

    def drop_scope(self, part: str | None) -> None:
        """Forget a part and its subscriptions."""

    def close(self) -> None:
        """Forget every part, for ever: threads that still run in the session subscribe to nothing."""

class Store:
    """A table of keys, and the scopes that depend on them. Keys are ``str`` (see `plain_key`)."""

    def __new__(cls, reserved: Iterable[str] = ()) -> Store:
        """An empty store. The `reserved` names are methods in attribute access, and never keys."""

    def peek(self, key: str, default: Any = None, timeout: float = -1) -> Any:
        """The key's value without subscribing, `default` when it has none. Waits while another thread has its lock.

        Raises ``TimeoutError`` if that takes longer than `timeout` seconds; a negative one is for ever.
        """

    def touch(self, key: str) -> None:
        """Behave as if the key's value had changed or, where it has none, as if it had been set and removed."""

    def version(self, key: str) -> int:
        """A number that grows with every change of the key, and is never used for it twice; 0 when it is not set."""

    def lock(self, key: str) -> KeyLock:
        """The key's lock. Always the same object, whether or not the key is set."""

    def keys(self) -> list[str]:
        """The keys that are set, in the order in which they appeared. Subscribes to nothing."""

    def watch_members(self) -> None:
        """Make the calling scope depend on which keys there are."""

    def on_stale(self, wake: Callable[[], None] | None) -> None:
        """Have `wake` called, on the writer's thread, when the first scope becomes stale after `collect_stale`."""

    def collect_stale(self) -> list[Scope]:
        """The scopes that became stale since the last call. They do not subscribe until their next run starts."""

    def take_chain_writes(self) -> list[tuple[str, str | None]]:
        """The keys that runs which recur have changed since the last call, and the lines that did so if known."""

    def set_rerun_writer(self, policy: int) -> None:
        """When `Session.take_overwritten` names a part: one of the ``RERUN_WRITER_`` constants."""

    def set_options(
        self, options: Callable[[str], tuple[int, dict[str, Callable[[Any], object]] | None, float]]
    ) -> None:
        """Have ``options(key)`` say what is configured for a key: when the key is first assigned, and at `resolve`.

        Options are how values are compared, one of the ``COMPARE_`` constants; functions by full name of the type, for
        ``COMPARE_CONTENT``; and the least seconds between two times that those who depend on the key are made stale.
        """

    def offload_callbacks(self, call: Callable[[list[str]], object]) -> None:
        """Have ``call([key])`` called where calls are due on a thread that runs an event loop: another thread has to
        `settle` the key."""

    def options_changed(self) -> None:
        """Have the options of keys that are not set asked for again, when they are."""

    def resolve(self, key: str) -> None:
        """Ask for the options of a key again, if it is set."""

    def release_throttled(self) -> float | None:
        """Make stale what depends on keys that have changed within their interval, where that is over.

        Returns the seconds until the next one is, None if there is none.
        """

    def note_reads(self, wanted: bool) -> None:
        """Whether to note what runs read from now on, of values that have a fingerprint: once for each execution."""

    def take_reads(self) -> tuple[list[tuple[str, tuple[CodeType | None, int]]], float]:
        """What the calling thread has read since the last call, or since its part in a run began.

        Returns the keys with the code and the offset in it that have read them first, and how many seconds that was.
        """

    def changed_in_place(self, key: str, budget: float) -> bool | None:
        """Whether the content of a key's value is another than when it was assigned; True once for a key.

        None if it takes more than `budget` seconds to tell. What the value's own code reads subscribes nothing.
        """

    def transaction(self, keys: Iterable[str], timeout: float | None) -> Transaction:
        """See `fastserverstate.transaction`. `timeout` is in seconds."""

    def wait_for_change(self, key: str, version: int, timeout: float) -> bool:
        """Sleep until ``version(key)`` is another than this. False after `timeout` seconds; a negative one is for ever.

        Raises ``RuntimeError`` if the calling thread holds the key's lock.
        """

    def set_listeners(self, key: str, listeners: Callable[[Any], object] | None) -> Callable[[Any], object] | None:
        """Have a function called after every change of the key, or none. Returns the one that was called so far.

        It is given the value that the key has when it is called, locked or not, or `absent`.

        The calls are made by a thread that has changed the key, once it holds no key's lock: in the order of the
        changes, and never two at a time.
        """

    def end_holder(self) -> tuple[list[str], list[str]]:
        """End the calling thread's part in a run: release its locks, discard its transaction, make its calls.

        Returns the keys of the locks, and those that the transaction had written.
        """

    def set_backend(self, backend: object) -> None:
        """Have writes and locks go through a backend (see ``cluster/backend.py``), or None. It is never freed."""

    def apply(
        self, changes: Iterable[tuple[str, Any, bool]], writer: Holder | None = None
    ) -> tuple[list[str], list[str], list[object]]:
        """Make changes at once, past the backend: keys, values or `absent`, and whether to rerun nobody for it.

        They count as writes of `writer`, if there is one. Returns the keys that were left as they are, for
        another thread holds their locks; the keys whose listeners are to be called; and what holds the old values,
        which is to be dropped when the caller has nothing locked. `settle` is to follow then.
        """

    def flush(self, keys: Iterable[str] = ()) -> None:
        """Have those rerun that `apply` has made stale, and call the listeners of the keys."""

    def policy(self, key: str) -> int:
        """How the key's values are to be compared: one of the ``COMPARE_`` constants."""

    def scopes(self) -> int:
        """How many there are, of all sessions."""

    def writer(self) -> Holder | None:
        """Stands for the calling thread's part in a run, if it is in one."""

    def raise_if_stopped(self) -> None:
        """Raise what ends the script run that the calling thread is in, if it is to end."""

    def reset_after_fork(self) -> None:
        """Empty the store and close its sessions. For a forked process, before it does anything else with them.

        Nothing is freed, and no finalizer runs: it is the parent's. The thread that has forked holds no lock and is in
        no transaction, and may leave the blocks that it is in. A `KeyLock` that it has kept is that of its key.
        """

    def statistics(self) -> dict[str, int]:
        """Numbers of ``keys``, ``cells`` (absent keys that something depends on included), ``buckets``, ``scopes``
        and ``slots``, and the ``clock`` of changes."""

@final
class Transaction(AbstractContextManager[None]):
    """Writes of one thread that nobody else sees yet. Made by `Store.transaction`.

    Thread-safety
        A transaction is of the thread on which it began, and other threads find what was there before. The thread holds
        the locks of the declared keys, and of all that it has written, until the outermost block ends.
    """

    def __new__(cls, store: Store, keys: Iterable[str], timeout: float | None) -> Transaction: ...
    def __enter__(self) -> None:
        """Take the locks, or join the transaction that the thread is in.

        Raises ``TimeoutError`` if the locks were not free in time, ``DeadlockError`` if they never would be,
        ``RuntimeError`` if another task of this thread is in a transaction.
        """

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Make all of it appear, or none after an exception.

        Raises ``RuntimeError`` on another thread, which discards the transaction, and without an exception when it is
        over: its run has ended, the process has forked, or blocks have not ended in the reverse order.
        """

class Counters:
    """Adding to the numbers of a store."""

    def __new__(cls, store: Store) -> Self: ...
    def increment(self, key: str, by: Any = 1, *, default: Any = 0) -> Any:
        """Add `by` to the key's number, or to `default` if it is not set, and return the sum. Subscribes to nothing.

        Numbers that are ``int`` are added to under a mutex. Anything else may run code of its own, and is added to with
        the key's lock held.
        """

class LockNamespace:
    """Item access to the locks of a store: of one key, or of several as one."""

    def __new__(cls, store: Store) -> Self: ...
    @overload
    def __getitem__(self, key: str) -> KeyLock: ...
    @overload
    def __getitem__(self, key: tuple[str, ...]) -> KeyLocks: ...

class Namespace:
    """Item and attribute access to a store. `fastserverstate.state.ServerState` makes it a full mapping.

    Every read subscribes the scope that the thread runs in: to the key's value, ``in`` to whether there is one,
    ``len`` and iteration to which keys there are. What is absent is subscribed to as well. A key that is missing is
    a ``KeyError`` as an item and an ``AttributeError`` as an attribute; methods win over keys in attribute access.

    Thread-safety
        ``setdefault`` and ``pop`` are one operation each: of several threads one sets, one gets. Iteration is over
        a snapshot of the keys, in the order in which they appeared.
    """

    def __new__(cls, store: Store) -> Self: ...
    def __getitem__(self, key: str) -> Any: ...
    def __setitem__(self, key: str, value: Any) -> None: ...
    def __delitem__(self, key: str) -> None: ...
    def __contains__(self, key: object) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def __getattribute__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any) -> None: ...
    def __delattr__(self, name: str) -> None: ...
    def get(self, key: str, default: Any = None) -> Any: ...
    def setdefault(self, key: str, default: Any = None) -> Any: ...
    def pop(self, key: str, *default: Any) -> Any: ...
