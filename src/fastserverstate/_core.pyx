# cython: language_level=3, binding=True, embedsignature=False, boundscheck=False, wraparound=False
# cython: initializedcheck=False, freethreading_compatible=True, auto_pickle=False
"""The compiled core: keys, values, per-key locks, and which scopes depend on which keys. It knows nothing of Streamlit.

    Store ──► Table
                shards[] ──► Shard    mutex, and the buckets of the keys whose hash ends in its number
                               buckets[] ──► Cell ─next─► Cell    key, value, version, lock, readers
                                               cold ──► ColdFields    rarely used: watchers, KeyLock, waiters
                slots    ──► Slots    mutex, and a number for every region that reruns as a whole:
                               scopes[]   the Scope in each slot
                               alive      bits: has a scope      retired    bits: had one, sets may still contain it
                               pending    bits: marked stale, not yet collected
    Session ──► scopes: one Scope for the body of its script, and one for every fragment
    thread  ──► Holder: the locks, the transaction and the pending callbacks of the thread's part in a run

Glossary

    scope                what reruns as a whole: the body of one session's script, or one fragment in it
    fragment id          names a scope within its session; None is the script's body
    session              owns scopes, numbers the runs, and counts the messages that were sent to the browser
    slot                 number of one execution of a scope; sets of subscribers contain slots
    subscribe            put the scope's slot into a key's set of readers (value) or watchers (presence)
    stale                a subscribed key was changed: the scope has to rerun
    pending              marked stale, but not yet collected
    collect              take all pending scopes, for the rerun queue
    throttled            to be marked later, because the key's subscribers were marked less than an interval ago
    unflushed reads      reads since the last message to the browser: what they returned cannot be on the screen yet
    chain                reruns that are caused by reruns; a *cause* is the origin of a chain and the depth in it
    holder               a thread's part in a script run or, outside of runs, the thread. Locks, transactions and
                         pending callbacks belong to it and end with it
    refs                 number of objects that keep a table alive
    cold fields          rarely used fields of a cell, allocated on demand
    insertion sequence   orders the keys by when they were set
    fingerprint          16 bytes that identify the content of a value
    comparison           decides whether an assignment changes the value
    staged               written by a transaction that has not committed
    notifying            of a transaction's keys: written outside of `no_rerun` blocks, so the commit marks subscribers
    pending callbacks    calls of listeners that are due. A thread that holds locks *defers* them, and *flushes* them
                         when it holds none
    presence pending     the key appeared or vanished in a `no_rerun` block: its watchers are notified by a later change
    guard                functions of the app that say which sessions may read or write keys
    node                 the scope of a computed value's function, and the key of its result
    source               of a node: another node, whose result its function has read
    mixed                has read values of different moments, because a thread changed one meanwhile
    backend              what a store's writes and locks go through when several servers share the state
    apply                make changes in the table that came from a backend
    journal              the cells that have changed since a thread last took them, for example to store them; these
                         are *dirty*
    batch, epoch         what the engine takes at a time, and its number
    durable              stored: it survives a crash
    encoded              loaded from the engine's file, and not read yet
    source location      a code object and an offset in it
    stale listener       the function that is called when the first scope becomes pending
    skip frames of       look for a source location further out in the stack, past the package's own functions
    terms                when a key expires: its deadline, and the ttl and idle_ttl that are configured for it
    look                 a check of a cell's terms, when they say so; *parked* terms are looked at when the lock is free
    folder               the cells of a shard whose keys are the same up to their last "/"
    hidden               of a key: it is the package's own, and apps do not see it
    immortal             never freed and not reference counted, on builds without the GIL
    check interrupts     raise what stops the script run, and what signal handlers raise
    detect deadlock      find a cycle of threads that wait for each other's locks; *clear wait* takes a thread out of it

Subscriptions. Reading a key puts the slot of the reading scope into the key's set of readers. A write that changes the
value moves the set, a word at a time, into `pending`, and leaves it empty: subscriptions are one-shot, because a scope
that reruns reads again. So a key that is written a thousand times between two reruns pays for its subscribers once. The
first bit in an empty `pending` calls the stale listener.

A scope that executes again gets another slot. When that execution is complete, the slots of earlier executions are
retired. That ends all their subscriptions without a list of them. Sets that contain retired slots are swept when half
of the slots are retired.

Locking. A thread locks mutexes in this order: one session's; one shard's, or several in the order of their numbers;
then the slots', a holder's, a journal's or the alarm's; and last the one of the register of waiters (`_wait.pxi`). With
the GIL, mutexes are no-ops: no operation releases the GIL while it has one locked. Python code never runs under a
mutex: no value's method, no finalizer, no callback. This includes dropping a reference, which may be the last one, and,
on CPython 3.11, creating an object that the garbage collector tracks, which may start a collection. So values are
dropped and Python objects are created outside, and the table consists of plain structs (`_structs.pxd`). The locks of
keys are different: users hold them while their code runs, and no thread waits for one with a mutex locked.

Two operations look at a cell, unlock its shard and look again: waiting for a key's lock, and comparing a new value with
the old one (`_same.pxi`). A cell is freed as soon as it is unused (`is_unused`). So a pointer to a cell stays valid
beyond the mutex only for a thread that holds its lock or waits in its queue, and for its KeyLock.

A read by a scope that is subscribed already locks only the shard's mutex.

Files. The `.pxi` files have one subject each and are included here, to form one unit for the C compiler: it inlines
across them what every read passes through, and accesses thread-local variables without a call.

    _platform.h, .pxd   interpreters, compilers, systems     _wait         sleeping threads, deadlocks
    _structs.pxd        the data                             _lock         the locks of the keys
    _subscribers.pxd    sets of slots                        _observe      waits for changes, listeners
    _cell               one key                              _fingerprint  the content of values; with .h, .pxd
    _holder             what threads hold, and its end       _same         comparisons
    _scope              sessions, scopes, unflushed reads    _store        reading, writing and locking a key
    _slots              subscribing, marking, collecting     _changes      several changes that appear together
    _table              finding, making and freeing cells    _transaction, _namespace
    _computed           computed values                      _remote       one table among those of several servers
    _journal            what has changed, to be stored       _deadlines    keys that expire
    _locate             which scope the thread runs in       _prefixes     subscriptions to the keys under a prefix
    _access             guards of keys                       _spaces       access to the keys under a prefix
    _fields             attributes that stand for keys       _folders      finding the keys under a prefix
"""
cimport cython
from cpython.bool cimport PyBool_Check
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.number cimport PyNumber_Add
from cpython.object cimport Py_EQ, PyObject, PyObject_GenericGetAttr, PyObject_RichCompareBool
from cpython.pythread cimport (
    NOWAIT_LOCK,
    PY_LOCK_ACQUIRED,
    PY_LOCK_INTR,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_get_thread_ident,
    PyThread_release_lock,
)
from cpython.time cimport monotonic_ns
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_FromObject
from libc.math cimport copysign
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memmove, memset

from fastserverstate._platform cimport (
    FIRST_BUCKETS,
    NO_SLOT,
    SHARDS,
    Mutex,
    PyContextVar_Get,
    PyThread_acquire_lock_timed,
    PyThreadState_GetDict,
    PyVectorcall_NARGS,
    PyType_GetName,
    PyWeakref_NewRef,
    _decref,
    _incref,
    _xdecref,
    _xincref,
    add64,
    add_size,
    attributes_of,
    attributes_tag,
    caller_location,
    character_at,
    current_context,
    dict_get,
    fss_generation,
    fss_holder,
    fss_make_immortal,
    fss_serials,
    fss_set_vectorcall,
    fss_skipped_files,
    fss_thread_cache,
    fss_transaction,
    is_dunder,
    is_hidden_key,
    is_finalizing,
    key_hash,
    keys_equal,
    length_of,
    line_of,
    load32,
    load64,
    load_flag,
    load_object,
    load_size,
    lock,
    owned,
    starts_with,
    store32,
    store64,
    store_size,
    store_flag,
    store_object,
    unlock,
    watch_attributes,
    weakref_get,
)
from fastserverstate._structs cimport (
    MAX_CHAIN_WRITES,
    Alarm,
    Cell,
    ChainWrite,
    ColdFields,
    Folder,
    Journal,
    Lifetime,
    Prefix,
    Prefixes,
    Shard,
    Slots,
    Table,
    Terms,
    UnflushedReads,
    Waiter,
)
from fastserverstate._subscribers cimport (
    Subscribers,
    clear_bit,
    has_bit,
    set_bit,
    subscribers_add,
    subscribers_any,
    subscribers_discard,
    subscribers_free,
    subscribers_has,
    subscribers_move,
    subscribers_purge,
    subscribers_take,
    subscribers_take_some,
)

import contextvars
import sys
import threading
import time
import weakref

cdef enum:
    WRITER_STALE
    WRITER_NEVER
    WRITER_ALWAYS

RERUN_WRITER_STALE = WRITER_STALE
RERUN_WRITER_NEVER = WRITER_NEVER
RERUN_WRITER_ALWAYS = WRITER_ALWAYS

# Stands for the set of keys where a changed key is reported.
cdef str SET_OF_KEYS = "(the set of keys)"


@cython.final
cdef class _Absent:
    """The value of a key that is not set."""
    cdef str name

    def __cinit__(self, str name not None):
        self.name = name

    def __repr__(self):
        return f"<{self.name}>"

cdef object ABSENT = _Absent("absent")
absent = ABSENT
HIDDEN = "\0fss/"  # begins the keys that apps do not see: this package's own

# The same, with the reason for the removal.
cdef object EXPIRED = _Absent("expired")
cdef object EVICTED = _Absent("evicted")
expired = EXPIRED
evicted = EVICTED

# A sentinel that code outside of this module never sees.
cdef object PRIVATE = object()


def make_immortal(value):
    fss_make_immortal(<PyObject *>value)


def skip_frames_of(*functions):
    for number, function in enumerate(functions):
        name = function.__code__.co_filename
        _incref(<PyObject *>name)  # immortal
        fss_skipped_files[<int>number] = <PyObject *>name


# Added by tests to the clock.
cdef uint64_t clock_offset_ns = 0


def advance_clock(double seconds):
    add64(clock_offset_ns, <long long>(seconds * 1e9))


cdef inline long long clock_ns() noexcept:
    """The clock for the time limits of fingerprints and for intervals."""
    return monotonic_ns() + <long long>load64(clock_offset_ns)


include "_cell.pxi"
include "_holder.pxi"
include "_scope.pxi"
include "_prefixes.pxi"
include "_folders.pxi"
include "_slots.pxi"
include "_table.pxi"
include "_computed.pxi"
include "_locate.pxi"
include "_wait.pxi"
include "_lock.pxi"
include "_observe.pxi"
include "_fingerprint.pxi"
include "_same.pxi"
include "_access.pxi"
include "_store.pxi"
include "_deadlines.pxi"
include "_journal.pxi"
include "_changes.pxi"
include "_transaction.pxi"
include "_namespace.pxi"
include "_spaces.pxi"
include "_fields.pxi"
include "_remote.pxi"
