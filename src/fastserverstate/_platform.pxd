# cython: language_level=3
"""Declares _platform.h, and functions of CPython that are needed with other types than Cython declares."""
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "_platform.h":
    enum:
        SHARDS "FSS_SHARDS"
        FIRST_BUCKETS "FSS_FIRST_BUCKETS"
    uint32_t NO_SLOT "FSS_NO_SLOT"
    ctypedef struct Mutex "fss_mutex":
        pass
    void lock "fss_lock"(Mutex *) noexcept
    void unlock "fss_unlock"(Mutex *) noexcept
    uint64_t load64 "fss_load"(uint64_t) noexcept
    uint32_t load32 "fss_load"(uint32_t) noexcept
    void store64 "fss_store"(uint64_t, uint64_t) noexcept
    void store32 "fss_store"(uint32_t, uint32_t) noexcept
    uint64_t add64 "fss_add"(uint64_t, uint64_t) noexcept
    Py_ssize_t load_size "fss_load"(Py_ssize_t) noexcept
    void store_size "fss_store"(Py_ssize_t, Py_ssize_t) noexcept
    Py_ssize_t add_size "fss_add"(Py_ssize_t, Py_ssize_t) noexcept
    bint load_flag "fss_load"(bint) noexcept
    PyObject *load_object "fss_load"(PyObject *) noexcept
    void store_object "fss_store"(PyObject *, PyObject *) noexcept
    void store_flag "fss_store"(bint, bint) noexcept
    object owned "fss_owned"(PyObject *)
    Py_hash_t key_hash "fss_hash"(PyObject *) noexcept
    void fss_set_vectorcall(PyObject *, Py_ssize_t) noexcept
    Py_ssize_t PyVectorcall_NARGS(size_t) noexcept
    Py_ssize_t length_of "PyUnicode_GET_LENGTH"(PyObject *) noexcept
    Py_UCS4 character_at "PyUnicode_READ_CHAR"(PyObject *, Py_ssize_t) noexcept
    bint starts_with "fss_starts_with"(PyObject *, PyObject *) noexcept
    bint keys_equal "fss_keys_equal"(PyObject *, PyObject *) noexcept
    bint is_dunder "fss_is_dunder"(PyObject *) noexcept
    bint is_hidden_key "fss_is_hidden_key"(PyObject *) noexcept
    dict attributes_of "fss_attributes"(object)
    uint64_t attributes_tag "fss_attributes_tag"(PyObject *) noexcept
    bint watch_attributes "fss_watch_attributes"(PyObject *) noexcept
    PyObject *dict_get "fss_dict_get"(PyObject *, PyObject *) noexcept
    PyObject *weakref_get "fss_weakref_get"(PyObject *) noexcept
    void fss_make_immortal(PyObject *) noexcept
    const void *current_context "fss_current_context"() noexcept
    PyObject *caller_location "fss_caller_location"(int *instruction) noexcept
    int line_of "fss_line"(PyObject *code, int instruction) noexcept
    bint is_finalizing "fss_is_finalizing"() noexcept
    PyObject *fss_skipped_files[5]
    PyObject *fss_thread_cache
    PyObject *fss_holder
    PyObject *fss_transaction
    uint64_t fss_serials
    uint64_t fss_generation

cdef extern from "Python.h":
    PyObject *PyThreadState_GetDict()
    # Takes the variable as a pointer, so that its reference count, a point of contention for threads, stays as it is.
    int PyContextVar_Get(PyObject *variable, PyObject *default, PyObject **value) noexcept
    void _incref "Py_INCREF"(PyObject *) noexcept
    void _decref "Py_DECREF"(PyObject *) noexcept
    void _xincref "Py_XINCREF"(PyObject *) noexcept
    void _xdecref "Py_XDECREF"(PyObject *) noexcept
    PyObject *PyWeakref_NewRef(PyObject *, PyObject *)
    str PyType_GetName(type)
    int PyThread_acquire_lock_timed(PyThread_type_lock, long long microseconds, int interruptible) nogil
