# cython: language_level=3, binding=True, embedsignature=False, boundscheck=False, wraparound=False
# cython: initializedcheck=False
"""The compiled core: keys, values, per-key locks, and who depends on what. It knows nothing of Streamlit.

                Store
                  buckets ──► [ Cell ─next─► Cell ]   one Cell per key: value, version, lock, subscribers
                              [ None ]
                              [ Cell ]
                  slots   ──► [ Scope, Scope, None ]  one Scope per region that reruns as a whole
                  pending     a bit per slot: marked stale, not yet collected

A *scope* is what can be rerun: the body of one session's script, or one fragment in it. Scopes of one session share a
`Session`, which numbers the runs and counts what was sent to the screen.

Reading a key sets the bit of the reading scope's slot in the key's subscriber set. A write that changes the value moves
the set, a word at a time, into `pending`, and leaves it empty: subscriptions are one-shot, because a scope that is
rerun reads again. So a key that is written a thousand times between two reruns pays for its subscribers once. The first
bit that enters an empty `pending` wakes whoever collects stale scopes.

Exclusion. The module needs the GIL. No operation lets go of it between looking at a cell and changing it, with two
exceptions that check the cell again afterwards: waiting for a key's lock, and comparing an old with a new value. Memory
for Python objects is obtained before a structure is changed, since it may start the garbage collector and with it
anybody's finalizer; values that were replaced are dropped after the structure is whole again.
"""
cimport cython
from cpython.contextvars cimport PyContextVar_Get
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject, PyObject_GenericGetAttr, PyObject_Hash
from cpython.pythread cimport (
    PY_LOCK_ACQUIRED,
    PY_LOCK_INTR,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_get_thread_ident,
    PyThread_release_lock,
    PyThread_type_lock,
)
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastserverstate._subscribers cimport (
    Subscribers,
    subscribers_add,
    subscribers_discard,
    subscribers_free,
    subscribers_has,
    subscribers_take,
)

import contextvars
import datetime
import decimal
import enum
import threading
from time import monotonic_ns

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #  define FSS_THREAD_LOCAL __declspec(thread)
    #else
    #  define FSS_THREAD_LOCAL __thread
    #endif
    /* The calling thread's ThreadCache. Borrowed: the thread state's dict owns it. */
    static FSS_THREAD_LOCAL PyObject *fss_thread_cache = NULL;
    """
    PyObject *fss_thread_cache

cdef extern from "Python.h":
    PyObject *PyThreadState_GetDict()
    int PyErr_CheckSignals() except -1
    Py_ssize_t Py_REFCNT(object)
    void _decref "Py_DECREF"(PyObject *)
    int PyThread_acquire_lock_timed(PyThread_type_lock, long long microseconds, int interruptible) nogil


@cython.final
cdef class _Absent:
    """The value of a key that is not set."""

    def __repr__(self):
        return "<absent>"

cdef object ABSENT = _Absent()

# Depth of the `no_rerun` blocks around the running code. A context variable, so that threads, tasks and parallel
# fragments each have what their own code says.
cdef object ZERO = 0
rerun_suppression_depth = contextvars.ContextVar("fastserverstate.no_rerun", default=ZERO)

include "_cell.pxi"
include "_scope.pxi"
include "_locate.pxi"
include "_store.pxi"
include "_namespace.pxi"
include "_same.pxi"
