# cython: language_level=3
"""Declares _fingerprint.h, and the structs of the encoder in _fingerprint.pxi."""
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

cdef extern from "_fingerprint.h":
    object fss_list_item(list, Py_ssize_t index)
    bint fss_dict_next(dict, Py_ssize_t *position, PyObject **key, PyObject **value)
    bint fss_digit(object number, long long *value)
    unsigned int fss_type_version(type) noexcept
    size_t fss_stack_pointer() noexcept
    size_t fss_stack_limit() noexcept

cdef enum:
    MAX_DEPTH = 400
    FIRST_ROOM = 2048

ctypedef struct Encoder:
    # Writes the encoding of one value. Lives on the stack of its thread.
    unsigned char *buffer       # `first`, or allocated
    size_t used                 # bytes of it
    size_t size
    int depth                   # containers in `path`
    bint cyclic                 # a cycle can be reached from what is being written
    uint64_t numbered           # number of finished containers from which a cycle can be reached
    size_t stack_limit          # lowest address of the thread's stack that the encoder may use
    Py_ssize_t steps            # that are left
    Py_ssize_t next_look        # number of steps left at the next check of the clock
    long long end               # deadline on the clock, 0 for none
    bint late                   # the deadline has passed
    PyObject *hash_funcs        # borrowed; NULL if there are none
    PyObject *memo              # address of a finished container -> the container, and its encoding or number; or NULL
    PyObject *culprit           # name of the innermost type that has stopped the encoder, or NULL
    PyObject *path[MAX_DEPTH]   # the containers that are being written, outermost first. Borrowed
    unsigned char first[FIRST_ROOM]

ctypedef struct Place:
    # State of the encoder before a container.
    size_t start                # `used`
    bint cyclic
    Py_ssize_t steps
