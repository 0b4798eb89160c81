"""The compiled core: keys, values, per-key locks, and which scopes depend on which keys. It knows nothing of Streamlit.

Apps use `fastserverstate.server_state` and `fastserverstate.server_state_lock`, which are thin layers over this module.
The head of ``_core.pyx`` describes the data, the locking rules and the terms.

Terms
    A *scope* is what reruns as a whole: the body of one session's script, or one fragment in it. A *fragment id* names
    a scope within its session; None is the script's body. A scope *subscribes* to a key by reading it, and is *stale*
    once another session or a thread has changed that key.

    A *holder* is a thread's part in a script run or, outside of runs, a thread. Locks, transactions and deferred
    callbacks belong to it and end with it.

Thread-safety
    Any thread may call anything here, with and without the GIL, unless the documentation of a name says otherwise.
    Single operations are atomic, and an operation on a key waits while another thread holds the key's lock. No internal
    lock is held while foreign code runs: finalizers of replaced values, ``__eq__`` and attributes of compared values,
    callbacks, signal handlers. So all of that may use the store.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import CodeType, TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar, final, overload

_T = TypeVar("_T")

class Suppression:
    """A ``no_rerun`` block: changes by the holder in this context mark no scope as stale. Blocks can be nested."""

    def __enter__(self) -> None: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises ``RuntimeError`` if the block was entered elsewhere, unless another exception is propagating."""

def reruns_are_suppressed() -> bool:
    """Return True if the calling code is in a ``no_rerun`` block."""

absent: Final[object]
"""The value of a key that is not set, in `Store.apply` and for backends."""

expired: Final[object]
evicted: Final[object]
"""The same, for keys that were removed for this reason, in `Store.apply` and for listeners."""

# When a session reruns for its own change (`Store.set_rerun_writer`): if it may show an older value, never, or always.
RERUN_WRITER_STALE: Final = 0
RERUN_WRITER_NEVER: Final = 1
RERUN_WRITER_ALWAYS: Final = 2

# State of the run that a thread takes part in (`locate_scopes`): the session's current run; the same, but a callback
# runs and the script has not begun; a run that was replaced by a newer one; or the current run, on a thread that the
# app has started and that may outlive the run.
ACCESS_READ: Final = 1
ACCESS_WRITE: Final = 2
RUN_CURRENT: Final = 0
RUN_STARTING: Final = 1
RUN_REPLACED: Final = 2
RUN_APP_THREAD: Final = 3

# A cause is the number of an origin times this, plus the remaining depth. An origin is a change by a user's run, a
# thread or a timer. A rerun that it causes is one step deeper, and so are the changes of that rerun.
CAUSE_DEPTHS: Final = 0x10000
HIDDEN: Final = "\0fss/"

# When an assigned value counts as changed (`Store.set_options`): by what it holds, by ``==``, by which object it is, or
# always. 1 is content with functions of the user's for some types.
COMPARE_CONTENT: Final = 0
COMPARE_EQUALITY: Final = 2
COMPARE_IDENTITY: Final = 3
COMPARE_ALWAYS: Final = 4

# How a journal makes changes durable (`Store.start_journal`): without one; later; before a write returns; or before
# other threads can read the value.
JOURNAL_OFF: Final = 0
JOURNAL_LATER: Final = 1
JOURNAL_FIRST: Final = 2
JOURNAL_SHOW_LATER: Final = 3

@final
class Encoded:
    """A value as it was stored. Its first read decodes it.

    >>> Encoded(b"i42").data
    b'i42'
    """

    data: Final[bytes]
    def __init__(self, data: bytes) -> None: ...

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
    """Return the source location of an offset in a code object as text: file, line and function."""

def advance_clock(seconds: float) -> None:
    """Advance the clock of fingerprint time limits and intervals. For tests."""

class TypePlan:
    """How the values of one type are written for their fingerprint. Holds no reference to the type.

    `name` is the type's full name. `functions` take a value apart into values that stand for it; `storage` is the
    built-in type whose content counts. In addition count its attributes if it `has_dict`, but for those in `derived`,
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
    """Return the key as an exact ``str``. Raises ``TypeError`` unless it is a ``str`` or of a subclass, as in StrEnum.

    >>> plain_key("k")
    'k'
    """

def replace_drafts(of_dict: type, of_list: type, copy: Callable[[Any], object]) -> None:
    """Have ``copy(draft)`` replace drafts of these types when they are assigned to a key. Process-wide."""

def make_immortal(value: object) -> None:
    """Make the object immortal, to avoid contention for its reference count without the GIL. Call it immediately after
    the object was created."""

def skip_frames_of(*functions: Callable[..., Any]) -> None:
    """Skip frames of the files that define these functions, 5 at most, in the source location of an access."""

def current_part() -> tuple[Session, int, int, str | None] | None:
    """Return the session whose run the calling thread takes part in, the run's number and state, and the fragment id.

    The state of threads that the app has started is ``RUN_CURRENT``. In an evaluation of a computed value, the session
    is its node.
    """

def locate_scopes(
    attribute: str,
    variable: ContextVar[Any] | None,
    fragment_id: str,
    resolve: Callable[[Any, Any], tuple[Session, Scope | None, int] | None],
) -> None:
    """Set how to find the scope that a thread runs in. Process-wide; the last call wins.

    A thread's *context* is the value of `attribute` of its ``threading.Thread`` object; it is not kept alive. Its
    fragment id is the attribute `fragment_id` of the context variable's value or, without a variable, of the context.
    ``resolve(context, fragment_id)`` is called when either has changed since the thread's last access, when the session
    has begun another run, and at every access while a run is starting.

    It returns the session whose run the thread takes part in, the scope that the thread's reads subscribe, and one of
    the ``RUN_`` constants; or None if the thread takes part in no run.
    """

def holder_serial() -> int:
    """Return the serial number of the calling thread's holder. A process never reuses one."""

def this_holder() -> Holder:
    """Return the calling thread's holder."""

def act_for(holder: Holder, function: Callable[[], _T]) -> _T:
    """Call a function on this thread on behalf of another thread's holder: with its locks and, in its context, in its
    ``no_rerun`` blocks. The other thread may go on meanwhile."""

def on_leftovers(report: Callable[[list[str], list[str]], object]) -> None:
    """Set ``report(locks, written)``, which is called when a thread has ended while it held the locks of these keys, or
    was in a transaction that had written those keys. They are free then. Process-wide; the last call wins."""

def wake_waiters() -> None:
    """Make the waiting threads of all sessions call `Session.raise_if_stopped`."""

def on_event_loop() -> bool:
    """Return True if the calling thread runs an asyncio event loop. Its waits raise `fastserverstate.WouldBlockError`
    after 20 ms."""

MAX_LOOP_WAIT: Final[float]
"""Longest wait of a thread that runs an event loop, in seconds."""

def refuse_to_block(what: str) -> NoReturn:
    """Raise WouldBlockError with the message that `what` would block the event loop."""

def on_ends(in_pool: Callable[[], bool], if_over: Callable[[], object]) -> None:
    """Set ``if_over()``, which waiting threads outside of runs call every 250 ms and which may raise: threads for which
    ``in_pool()`` returned True when the wait began and, after `end_process`, all threads. Process-wide; the last call
    wins."""

def end_process() -> None:
    """Call this when the main thread has ended and the process waits for the other threads."""

def process_is_ending() -> bool:
    """Return True after `end_process`."""

def waits() -> frozenset[tuple[int, int]]:
    """Return the idents of the waiting threads, each with the time at which its wait started (monotonic clock, ns)."""

@final
class KeyLock:
    """The re-entrant lock of one key, as ``server_state_lock[key]`` returns it.

    Behaves as ``threading.RLock``, errors included. While a thread holds it, reads and writes of the key by other
    threads wait. The lock is reserved for a waiter after 2 ms, so that no thread starves.

    Thread-safety
        Released by the thread that acquired it, or when the thread's part in its run ends, or the thread. A waiting
        thread releases the GIL and handles signals.
    """

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock. ``timeout`` is in seconds, -1 for none. Return False if it passed first.

        Raises ``ValueError`` for a negative timeout and for a timeout without blocking, ``OverflowError`` above
        ``threading.TIMEOUT_MAX``.
        """

    def release(self) -> None:
        """Release the lock once.

        Raises ``RuntimeError`` if this thread does not hold it, or holds it only for a transaction that has written the
        key.
        """

    def locked(self) -> bool:
        """Return True if any thread holds the lock."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

@final
class KeyLocks:
    """The locks of several keys as one re-entrant lock, as ``server_state_lock["a", "b"]`` returns it.

    They are acquired in the order of the key names, all or none, and released in reverse order.
    """

    def __new__(cls, store: Store, keys: Iterable[str]) -> KeyLocks: ...
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire all locks. ``timeout`` is for all of them together; see `KeyLock.acquire`."""

    def release(self) -> None:
        """Release all locks once. If one cannot be released, raises ``RuntimeError`` after it has released the others.

        See `KeyLock.release`.
        """

    def locked(self) -> bool:
        """Return True if any thread holds any of the locks."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

@final
class Holder:
    """A thread's part in a run. Created by `Store.writer`."""

@final
class Scope:
    """What reruns as a whole: the body of a session's script, or a fragment in it. Created by `Session.scope`."""

    @property
    def session(self) -> Session:
        """The scope's session."""

class Session:
    """The scopes of one session, its runs, and the messages that were sent to the browser.

    Subclass it to add what a rerun needs.

    Thread-safety
        Any thread may close a session, drop or mark its scopes and query them, while other threads run in it. Calls
        that start and end its runs must not overlap.
    """

    access: Any
    """What guards have said in the run, for `fastserverstate.guards`."""

    def __init__(self, store: Store) -> None: ...
    def scope(self, fragment_id: str | None) -> Scope | None:
        """Return the scope of a fragment or of the script's body (None); create it at the first call.

        Returns None once the session is closed. The first call in a run begins an *execution* of the scope. The
        subscriptions of earlier executions last until an execution is complete.
        """

    def untracked_scope(self) -> Scope | None:
        """Return a scope whose reads are noted (`Store.note_reads`) and subscribe to nothing. For callbacks."""

    cause: int
    """The cause of the last run."""

    def start_run(self, cause: int | None = None, recurs: bool = False) -> None:
        """Start a run. It is not known yet which fragments it executes.

        `cause` is one less than the cause of the scope that reruns; None if a user has caused the run. The run `recurs`
        if it is part of a chain of reruns that came back to the session: then its writes are noted.
        """

    def message_sent(self) -> None:
        """Note that a message was sent to the browser. Values that were read before it may be on the screen."""

    def finish_run(
        self, complete: Collection[str | None] = (None,), exists: Callable[[str], bool] | None = None
    ) -> None:
        """End the run. From then on all its reads count as shown.

        `complete` are the fragment ids whose code has run to its end: these scopes depend on the reads of that run
        only. Drops fragments that do not exist any more.
        """

    def stale_fragment_ids(self) -> list[str | None]:
        """Return the fragment ids that were collected or marked as stale, and have not completed since."""

    def cause_of(self, fragment_id: str | None) -> int:
        """Return the cause that made a scope stale, or any scope if None; the cause of the last run if not known."""

    def has_changed(self, fragment_id: str | None) -> bool:
        """Return True if the last execution of a scope was collected or marked as stale."""

    def dismiss_stale(self, fragment_id: str | None) -> None:
        """Mark a scope as not stale, until something else changes."""

    def mark_stale(self, fragment_id: str | None) -> None:
        """Mark a scope, if it exists, as stale because of a change by the session's own last run."""

    def raise_if_stopped(self) -> None:
        """Overridden by subclasses: raise what stops the session's run. Waiting threads of the session call it."""

    def stop_waiting(self) -> None:
        """Make the session's waiting threads call `raise_if_stopped`. Called on any thread."""

    def take_overwritten(self) -> dict[str | None, str]:
        """Return the scopes that may show a value that the session itself has changed since, with the last such key."""

    def drop_scope(self, fragment_id: str | None) -> None:
        """Remove a scope and its subscriptions."""

    def close(self) -> None:
        """Remove all scopes for good: threads that still run in the session subscribe to nothing."""

class Store:
    """A table of keys, and the scopes that depend on them. Keys are ``str`` (see `plain_key`)."""

    def __new__(cls, reserved: Iterable[str] = ()) -> Store:
        """Create an empty store. The `reserved` names are methods in attribute access, and never keys."""

    def peek(self, key: str, default: Any = None, timeout: float = -1) -> Any:
        """Return the key's value without subscribing, or `default`. Waits while another thread holds the key's lock.

        Raises ``TimeoutError`` after `timeout` seconds; a negative timeout is none.
        """

    def touch(self, key: str) -> None:
        """Mark subscribers as if the value had changed or, if the key is not set, as if it had been set and removed."""

    def version(self, key: str) -> int:
        """Return a number that grows with every change of the key and never repeats; 0 if the key is not set."""

    def check_access(self, key: str, access: int) -> None:
        """Raise if a guard refuses this access to the key, ``ACCESS_READ``, ``ACCESS_WRITE`` or both."""

    def set_guard(self, guard: Callable[[str, int], bool]) -> None:
        """Set the function that is asked before an access: it raises, or returns False if no guard is for the key.

        Call it again when guards were added. `peek`, `apply` and everything else that acts for no session does not
        ask.
        """

    def lock(self, key: str) -> KeyLock:
        """Return the key's lock. It is always the same object, whether or not the key is set."""

    def keys(self, hidden: bool = False, prefix: str | None = None) -> list[str]:
        """Return the keys that are set, in the order of insertion. Subscribes to nothing.

        Without `hidden`, those that begin with `HIDDEN`, the package's own, are left out. With a prefix, which ends in
        "/", return the keys that begin with it, hidden or not. That takes time for these keys only.

        Raises
            ``ValueError`` for a prefix that does not end in "/".
        """

    def watch_members(self, prefix: str | None = None) -> None:
        """Subscribe the calling scope to the set of keys; with a prefix, to the set of the keys that begin with it.

        A prefix ends in "/". A prefix of hidden keys subscribes to these, but not to results of computed values.

        Raises
            ``ValueError`` for a prefix that does not end in "/".
        """

    def on_stale(self, listener: Callable[[], None] | None) -> None:
        """Set the stale listener: the writer's thread calls it when the first scope becomes stale after
        `collect_stale`."""

    def collect_stale(self) -> list[Scope]:
        """Return the scopes that became stale since the last call. They do not subscribe until their next run."""

    def take_chain_writes(self) -> list[tuple[str, str | None]]:
        """Return the keys that recurring runs have changed since the last call, with the source locations if known."""

    def set_rerun_writer(self, policy: int) -> None:
        """Set when `Session.take_overwritten` returns a scope: one of the ``RERUN_WRITER_`` constants."""

    def set_options(
        self,
        options: Callable[
            [str], tuple[int, dict[str, Callable[[Any], object]] | None, float, tuple[float, float, bool]]
        ],
    ) -> None:
        """Set ``options(key)``. It is called when a key is first assigned, and by `resolve`.

        It returns how values are compared (one of the ``COMPARE_`` constants); functions by full name of the type, for
        ``COMPARE_CONTENT``; the least seconds between two times that the key's subscribers are marked stale; and the
        key's ttl and idle_ttl in seconds, 0 for none, with whether a storage engine keeps it.
        """

    def offload_callbacks(self, call: Callable[[list[str]], object]) -> None:
        """Set ``call([key])``, which is called when callbacks are pending on a thread that runs an event loop. It must
        have another thread `flush` the key."""

    def options_changed(self) -> None:
        """Resolve the options of keys that are not set again, when they are assigned."""

    def resolve(self, key: str) -> None:
        """Resolve the options of a key again, if it is set."""

    def release_throttled(self) -> float | None:
        """Mark the throttled subscribers whose interval is over as stale.

        Returns the seconds until the next interval is over, None if there is none.
        """

    def note_reads(self, wanted: bool) -> None:
        """Set whether reads in runs are noted, of values that have a fingerprint: once for each execution."""

    def take_reads(self) -> tuple[list[tuple[str, tuple[CodeType | None, int]]], float]:
        """Return the noted reads of the calling thread since the last call, or since its part in a run began.

        Returns the keys, each with the source location of its first read (a code object, and an offset in it), and the
        duration in seconds.
        """

    def changed_in_place(self, key: str, budget: float) -> bool | None:
        """Return True if the content of a key's value differs from when it was assigned; only once for a key.

        None if that takes more than `budget` seconds to find out. Reads by the value's own code subscribe nothing.
        """

    def transaction(self, keys: Iterable[str], timeout: float | None) -> Transaction:
        """See `fastserverstate.transaction`. `timeout` is in seconds."""

    def wait_for_change(self, key: str, version: int, timeout: float) -> bool:
        """Wait until ``version(key)`` differs from `version`. False after `timeout` seconds; a negative one is none.

        Raises ``RuntimeError`` if the calling thread holds the key's lock.
        """

    def set_listeners(self, key: str, listeners: Callable[[Any], object] | None) -> Callable[[Any], object] | None:
        """Set or remove (None) the function that is called after every change of the key. Returns the previous one.

        The function gets the value that the key has when it is called, locked or not, or `absent`, or `expired` or
        `evicted` for a key that was removed for this reason.

        A thread that has changed the key makes the calls, once it holds no key's lock: in the order of the changes, and
        never two calls at a time.
        """

    def end_holder(self) -> tuple[list[str], list[str]]:
        """End the calling thread's part in a run: release its locks, discard its transaction, flush its callbacks.

        Returns the keys of the locks, and the keys that the transaction had written.
        """

    def set_decoder(self, decode: Callable[[str, bytes], Any]) -> None:
        """Set the function ``decode(key, data)`` for values that `restore` has set. It is never freed."""

    def restore(
        self, rows: Iterable[tuple[str, bytes, int, float | None]], clock: int
    ) -> list[tuple[str, bytes, int, float | None]]:
        """Set keys to encoded values, which their first reads decode: (key, data, position, seconds until it expires).

        The position is that in the order of the keys. Later versions are higher than `clock`. The keys do not enter the
        journal. Returns the rows of keys that were not set, because other threads hold their locks.
        """

    def start_journal(self, durability: int) -> None:
        """Record from now on which keys change. All keys that are set count as changed.

        `durability` is one of the ``JOURNAL_`` constants. With ``JOURNAL_FIRST``, writes wait until they are durable;
        with ``JOURNAL_SHOW_LATER``, they also hold the key's lock meanwhile.
        """

    def close_journal(self) -> None:
        """Make `sleep_until_due` return immediately from now on."""

    def stop_journal(self) -> None:
        """Record no more, and forget what was recorded. No thread waits any longer."""

    def end_journal(self) -> None:
        """Have all waits for durable changes raise NotDurableError, now and later: nothing is stored any more."""

    def record_all(self) -> None:
        """Put all keys that are set into the journal."""

    def sleep_until_due(self, seconds: float, for_changes: bool, least: int = 1) -> None:
        """Sleep until at least so many threads wait for a batch or, if `for_changes`, a key has changed.

        Returns after this many seconds at the latest; a negative number is no limit. Call it on one thread.
        """

    def take_journal(self) -> tuple[int, int, list[tuple[str, Any, int, int, float | None]]]:
        """Take all changes since the last call: the batch's epoch, the highest version, and the changed keys.

        These are (key, value, version, position, seconds until the key expires), in no order. The value is `absent` for
        a key that is not set or not to be stored, and an `Encoded` for one that was not read since it was restored. The
        changes are those between two moments: they contain a transaction as a whole or not at all.
        """

    def end_batch(self, epoch: int, failure: str | None) -> int:
        """Wake the threads that wait for the batches up to this one. They are durable, or `failure` tells why not.

        Returns how many threads were waiting, including those that wait for a later batch.
        """

    def undurable(self) -> int:
        """Return the number of changed keys in the journal."""

    def wait_until_durable(self, timeout: float) -> bool:
        """Wait until all changes made so far are durable. False after `timeout` seconds; a negative one is none.

        Raises ``NotDurableError`` if they could not be stored. A thread that runs an event loop waits 20 ms at most.
        """

    def watch_changes(self) -> None:
        """Record from now on which keys change, for `take_changes`. All keys that are set count as changed."""

    def close_changes(self) -> None:
        """Make `sleep_until_changed` return immediately from now on."""

    def sleep_until_changed(self, seconds: float) -> None:
        """Sleep until `take_changes` has something to return, at most this long; a negative number is no limit.

        Call it on one thread.
        """

    def take_changes(self) -> list[tuple[str, Any, int, int, float | None]]:
        """Take all changes since the last call, as `take_journal` has them."""

    def has_backend(self) -> bool:
        """Return True if the store is connected to other servers."""

    def has_journal(self) -> bool:
        """Return True if the store's changes are recorded."""

    def set_backend(self, backend: object) -> None:
        """Set the backend that makes writes and takes locks, or None. See ``cluster/backend.py``. It is never freed."""

    def apply(
        self, changes: Iterable[tuple[str, Any, bool]], writer: Holder | None = None
    ) -> tuple[list[str], list[str], list[object]]:
        """Make changes atomically, without the backend: (key, value or `absent`, whether to mark no subscribers).

        `expired` and `evicted` remove a key, too. The changes count as writes of `writer`, if given. Returns the keys
        that were skipped because another thread holds their locks; the keys with pending callbacks; and objects that
        hold the old values. Drop those when the caller has nothing locked, and call `flush` then.
        """

    def observers(self, key: str) -> tuple[bool, list[Node]]:
        """Return whether scopes, listeners or waiting threads depend on a key; if none does, the nodes that do."""

    def expire(self, key: str, seconds: float | None) -> bool:
        """Set the deadline of a key, None for none: in the transaction or through the backend if there is one.

        Returns True if the key is set. See `fastserverstate.expire`.
        """

    def set_deadline(self, key: str, seconds: float | None) -> bool:
        """Set the deadline of a key in this table. Returns True if the key is set."""

    def deadline(self, key: str) -> float | None:
        """Return the seconds until the key's deadline, None if it has none."""

    def expire_due(self) -> float | None:
        """Remove the keys that are due, as changes by no session, and call or offload their callbacks.

        A key whose lock is held is removed by a call after its release. Returns the seconds until the next call is
        needed: 0 if more keys are due, None if no key has a deadline.
        """

    def wait_for_deadline(self) -> None:
        """Sleep until `expire_due` has to be called again. For one thread, after a call of `expire_due`."""

    def wake_for_deadlines(self) -> None:
        """End the sleep of the thread in `wait_for_deadline`."""

    def remove_because(self, key: str, version: int, reason: object) -> bool:
        """Remove a key from this table if it has this version, and no thread holds its lock. Returns True if it did.

        The reason is `expired` or `evicted`.
        """

    def removals(self) -> tuple[int, int]:
        """Return the numbers of keys that have expired, and that were evicted."""

    def in_transaction(self) -> bool:
        """Return True if the calling thread is in a transaction."""

    def flush(self, keys: Iterable[str] = ()) -> None:
        """Call the stale listener if `apply` has marked scopes, and flush the pending callbacks of the keys."""

    def policy(self, key: str) -> int:
        """Return how the key's values are compared: one of the ``COMPARE_`` constants."""

    def lifetime(self, key: str) -> tuple[float, float]:
        """Return the ttl and the idle_ttl that are configured for a key, in seconds, 0 for none."""

    def scopes(self) -> int:
        """Return the number of scopes of all sessions."""

    def writer(self) -> Holder | None:
        """Return the calling thread's holder if the thread takes part in a run."""

    def raise_if_stopped(self) -> None:
        """Raise what stops the script run that the calling thread takes part in."""

    def reset_after_fork(self) -> None:
        """Empty the store and close its sessions. A forked process calls this before it uses them.

        Nothing is freed, and no finalizer runs, because all values belong to the parent. The thread that has forked
        holds no lock and is in no transaction, but may leave the blocks that it is in. A `KeyLock` that it has kept
        remains the lock of its key.
        """

    def statistics(self) -> dict[str, int]:
        """Return the numbers of ``keys``, ``cells`` (including absent keys with subscribers), ``buckets``, ``scopes``
        and ``slots``, and the ``clock`` of changes."""

@final
class Transaction(AbstractContextManager[None]):
    """Writes of one thread that other threads do not see yet. Created by `Store.transaction`.

    Thread-safety
        A transaction belongs to the thread on which it began; other threads see the values from before. The thread
        holds the locks of the declared keys, and of all keys that it has written, until the outermost block ends.
    """

    def __new__(cls, store: Store, keys: Iterable[str], timeout: float | None) -> Transaction: ...
    def __enter__(self) -> None:
        """Acquire the locks, or join the thread's current transaction.

        Raises ``TimeoutError`` if the locks were not free in time, ``DeadlockError`` if they would never be free, and
        ``RuntimeError`` if another task of this thread is in a transaction.
        """

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Make all writes visible; discard them if there was an exception.

        Raises ``RuntimeError`` on another thread, which discards the transaction. Also raises it, unless another
        exception is propagating, if the transaction is over: its run has ended, the process has forked, or blocks have
        not ended in reverse order.
        """

    def restage(self, key: str, value: Any) -> None:
        """Replace the value of a key that the transaction has written."""

    def written(self) -> list[tuple[str, Any]]:
        """Return the keys that were written since the block began, with their values, `absent` for a deletion."""

    def stage(self, key: str, value: Any, *, is_known: bool) -> None:
        """Write a key, which keeps its deadline. The key must be an exact ``str``.

        A value that `is_known` to differ is not compared by content, unless it is small.

        Raises ``RuntimeError`` if the transaction is over, or the calling thread is not in it.
        """

class AtomicChanges:
    """Atomic changes of the keys of a store."""

    def __new__(cls, store: Store) -> Self: ...
    def increment(self, key: str, by: Any = 1, *, default: Any = 0) -> Any:
        """Add `by` to the key's number, or to `default` if it is not set, and return the sum. Subscribes to nothing.

        Numbers of type ``int`` are added under a mutex. Other numbers may run code of their own, and are added with the
        key's lock held.
        """

class LockNamespace:
    """Item access to the locks of a store: of one key, or of several as one. It contains the keys that are set."""

    def __new__(cls, store: Store) -> Self: ...
    @overload
    def __getitem__(self, key: str) -> KeyLock: ...
    @overload
    def __getitem__(self, key: tuple[str, ...]) -> KeyLocks: ...
    def __contains__(self, key: object) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...

class Transactions:
    """Begins transactions of a store."""

    def __new__(cls, store: Store) -> Self: ...

def change_atomically(changes: AtomicChanges, key: str, function: Callable[[Any], _T], default: Any) -> _T:
    """Set the key to ``function(value)``, with the key's lock held, and return the new value.

    The function gets `default` if the key is not set.
    """

def begin_transaction(transactions: Transactions, keys: Iterable[str], timeout: float | None) -> Transaction:
    """Create a transaction in the store. `timeout` is in seconds."""

class Namespace:
    """Item and attribute access to a store. `fastserverstate.state.ServerState` makes it a full mapping.

    Every read subscribes the scope that the thread runs in: to the key's value, for ``in`` to its presence, for ``len``
    and iteration to the set of keys. Absent keys are subscribed to as well. A missing key raises ``KeyError`` as an
    item and ``AttributeError`` as an attribute. In attribute access, methods win over keys.

    Thread-safety
        ``setdefault`` and ``pop`` are atomic: of several threads that call one, only one sets or gets the value.
        Iteration is over a snapshot of the keys, in the order of insertion.
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

class SpaceNamespace:
    """Item and attribute access to the keys that begin with a prefix. `fastserverstate.spaces.Space` adds the rest.

    It subscribes as `Namespace` does, for ``len`` and iteration to the set of the keys under the prefix.

    Thread-safety
        As `Namespace`. ``clear`` deletes all keys in one transaction.
    """

    def __new__(
        cls, store: Store, label: str, prefix: str | None = None, find_prefix: Callable[[], str] | None = None
    ) -> Self:
        """`label` stands for it in messages. Without a prefix, `find_prefix` returns that of each access."""

    _store: Final[Store]
    def __getitem__(self, name: str) -> Any: ...
    def __setitem__(self, name: str, value: Any) -> None: ...
    def __delitem__(self, name: str) -> None: ...
    def __contains__(self, name: object) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def __getattribute__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any) -> None: ...
    def __delattr__(self, name: str) -> None: ...
    def get(self, name: str, default: Any = None) -> Any: ...
    def setdefault(self, name: str, default: Any = None) -> Any: ...
    def pop(self, name: str, *default: Any) -> Any: ...
    def clear(self) -> None: ...
    def key(self, name: str) -> str:
        """Return the whole key, for functions that take a key: ``atomic.increment(room.key("votes"))``."""

def label_of(space: SpaceNamespace) -> str: ...
def reserve_in_spaces(names: Iterable[str]) -> None:
    """Set the names that win over keys in attribute access to spaces."""

class Record:
    """An object whose fields stand for keys of a store. See `fastserverstate.typed_state`."""

    def __init__(self, store: Store, keys: tuple[str, ...]) -> None:
        """`keys` are those of the fields, in the order of their places."""

    _store: Final[Store]
    _keys: Final[tuple[str, ...]]

@final
class Field:
    """An attribute of a `Record`: it reads, assigns and deletes the record's key with this place.

    Thread-safety
        Safe from any thread.
    """

    def __init__(
        self,
        name: str,
        place: int,
        class_value: object,
        missing: Callable[[Any], Any],
        check: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        """On the class, the attribute is `class_value`.

        `missing` is called with the record if the key is not set, and returns the value or raises an error. `check` is
        called with the record and a value, and returns what to assign or raises an error.
        """

    name: Final[str]
    def __get__(self, record: object, owner: type | None = None) -> Any: ...
    def __set__(self, record: object, value: Any) -> None: ...
    def __delete__(self, record: object) -> None: ...

class Node(Session):
    """The scope of a computed value's function, and the `key` of its result. See `fastserverstate.computed_values`."""

    key: Final[str]
    lock: Final[KeyLock]
    """Held during an evaluation."""
    used: Final[int]
    """When the result was last used, as a number that grows with the uses of its function."""

    def __init__(self, store: Store, key: str) -> None:
        """`key` must be a new key. From now on, apps do not see it, and backends do not get it."""

    def execute(self, function: Callable[[], _T]) -> _T:
        """Call the function. What it reads replaces the subscriptions of the last call. Calls must not overlap."""

    @property
    def mixed(self) -> bool:
        """Whether the last `execute` has read values of different moments."""

    def completed(self, sources: list[Node]) -> None:
        """Note that the result of the last `execute` is stored, and the nodes whose results it has read."""

    @property
    def keys(self) -> frozenset[str]:
        """The keys that the last `execute` has read."""

    @property
    def sources(self) -> list[Node]: ...
    def is_fresh(self) -> bool:
        """Return True if nothing has changed that the last `execute` has read."""

    def is_current(self) -> bool:
        """Return True if the result is fresh, and the sources too as far as is known without looking at them."""

    def marks(self) -> int:
        """Return the number of changes that had subscribers."""

    def sources_checked(self, marks: int) -> None:
        """Note that the sources were up to date when ``marks()`` returned this number."""

    def refuse_write(self) -> None:
        """Overridden by subclasses: raise the error for a change of shared state in `run`."""

@final
class Failure:
    """The result of a function that has raised an exception."""

    exception: Final[Exception]
    traceback: Final[TracebackType | None]

    def __init__(self, exception: Exception) -> None: ...

class Memo:
    """The nodes of one function, by its arguments. A call returns the result if there is a current one."""

    store: Final[Store]

    def __init__(self, store: Store) -> None: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Overridden by subclasses: a call that finds no current result, fails, or is part of an evaluation."""

    def note_use(self, node: Node) -> None: ...
    def remember(self, args: tuple[Any, ...], node: Node) -> None:
        """Have calls with these arguments find the node, if they are of types ``str`` and ``int``."""

    def forget(self, node: Node) -> None: ...

def use_vectorcall(kind: type[Memo]) -> None:
    """Have calls of the class's instances look for a current result before they call `Memo.call`."""
