# cython: language_level=3, binding=True, embedsignature=False, boundscheck=False, wraparound=False
# cython: initializedcheck=False, freethreading_compatible=True, auto_pickle=False
"""The compiled core: keys, values, per-key locks, and who depends on what. It knows nothing of Streamlit.

    Store ──► Table
                shards[] ──► Shard    mutex, and the buckets of the keys whose hash ends in its number
                               buckets[] ──► Cell ─next─► Cell    key, value, version, lock, readers
                                               extra ──► Extra    what few keys have: watchers, KeyLock, waiters
                slots    ──► Slots    mutex, and a number for every region that reruns as a whole:
                               scopes[]   the Scope in each slot
                               alive      bits: has a scope      retired    bits: had one, sets may still hold it
                               pending    bits: marked stale, not yet collected
    Session ──► scopes: a Scope each for the body of its script and for every fragment
    thread  ──► Holder: the locks, the transaction and the pending calls of the thread's part in a run

A *scope* is what can be rerun: the body of one session's script, or one fragment in it. Scopes of one session share a
`Session`, which numbers the runs and counts what was sent to the screen.

Reading a key puts the slot of the reading scope into the key's set of readers. A write that changes the value moves the
set, a word at a time, into `pending`, and leaves it empty: subscriptions are one-shot, because a scope that is rerun
reads again. So a key that is written a thousand times between two reruns pays for its subscribers once. The first bit
that enters an empty `pending` wakes whoever collects stale scopes.

A scope that is executed again gets another slot. When that execution is complete, the slots of those before it are
retired. So all their subscriptions are taken back at once, and no list of them is kept. The sets that hold a retired
slot are swept when half of the slots are.

Exclusion. A thread takes mutexes in this order: one session's; one shard's, or several in the order of their numbers;
and last the slots', a holder's, or that of the register of waiters (`_wait.pxi`). With the GIL they are nothing, for
no operation lets go of it where one is held. Python code never runs under any of them: not a value's, nor
a finalizer's or a callback's. That forbids more than it seems to: every reference that is dropped may be the last one,
and on CPython 3.11 whatever is made for the garbage collector may start it. So values are dropped and Python objects
made outside, and the table is made of plain structs. The locks of the keys are something else: users hold them while
their code runs, and no thread waits for one with a mutex locked.

Two things look at a cell, let go and look again: waiting for a key's lock, which another thread has, and finding out
what a value holds, so that it can be told from the old one (`_same.pxi`). A cell is freed when nothing would be lost
with it (`is_unused`): whoever keeps a pointer to one beyond its mutex holds its lock, stands in its queue, or is its
KeyLock.

Reads that find the scope subscribed take the shard's mutex alone.

The files beside this one have a subject each, and are included: they are one unit for the C compiler, which inlines
across them what every read goes through, and whose thread-local variables take no call. The set of subscribers stands
by itself, so it is a `.pxd` of inline functions. From what is below to what is above:

    _platform   interpreters, compilers, systems           _wait         threads that sleep; circles of them
    _cell       one key                                    _lock         the keys' locks
    _holder     what threads hold, and its end
    _scope      sessions, scopes, what they have shown     _observe      waiting for changes, listeners
    _slots      numbers of scopes; marking, collecting     _fingerprint  what does a value hold?
    _table      finding, making and dropping cells         _same         is it a change?
    _locate     which scope the thread runs in             _store        reading, changing, locking a key
                                                           _transaction, _namespace, _remote
"""
cimport cython
from cpython.bool cimport PyBool_Check
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
    PyThread_type_lock,
)
from cpython.time cimport monotonic_ns
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_FromObject
from libc.math cimport copysign
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memmove, memset

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
)

import contextvars
import sys
import threading
import time
import weakref

include "_platform.pxi"

cdef enum:
    WRITER_STALE
    WRITER_NEVER
    WRITER_ALWAYS

RERUN_WRITER_STALE = WRITER_STALE
RERUN_WRITER_NEVER = WRITER_NEVER
RERUN_WRITER_ALWAYS = WRITER_ALWAYS

# The key that is named when the set of keys was overwritten.
cdef str SET_OF_KEYS = "(the set of keys)"


@cython.final
cdef class _Absent:
    """The value of a key that is not set."""

    def __repr__(self):
        return "<absent>"

cdef object ABSENT = _Absent()
absent = ABSENT

# Given to `__new__` of what only this module makes.
cdef object MAKING = object()


def share_between_threads(value):
    make_immortal(<PyObject *>value)


def look_past(*functions):
    for number, function in enumerate(functions):
        name = function.__code__.co_filename
        _incref(<PyObject *>name)  # for ever
        fss_looked_past[<int>number] = <PyObject *>name


# By how much tests have put the clock on.
cdef long long clock_offset_ns = 0


def advance_clock(double seconds):
    global clock_offset_ns
    clock_offset_ns += <long long>(seconds * 1e9)


cdef inline long long clock_ns() noexcept:
    """What fingerprints and intervals are measured by."""
    return monotonic_ns() + clock_offset_ns


include "_cell.pxi"
include "_holder.pxi"
include "_scope.pxi"
include "_slots.pxi"
include "_table.pxi"
include "_locate.pxi"
include "_wait.pxi"
include "_lock.pxi"
include "_observe.pxi"
include "_fingerprint.pxi"
include "_same.pxi"
include "_store.pxi"
include "_transaction.pxi"
include "_namespace.pxi"
include "_remote.pxi"
