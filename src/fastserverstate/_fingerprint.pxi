# cython: language_level=3
# The fingerprint of a value: 16 bytes that stand for its content. See change.py for the types that the core does not
# know.
#
# An encoder writes the value into a buffer, as a self-delimiting encoding: a tag, numbers of fixed length, data with
# its length in front, and the encodings of the value's parts. The fingerprint is the XXH3-128 of the buffer. To keep
# it short, long data and containers are replaced by their own XXH3-128: a container with many references is then
# written once, and the members of a set are added up independent of their order. Nothing depends on addresses or on
# the hash seed.
#
# Sharing. A container from which no cycle can be reached has the same encoding everywhere, so sharing it makes no
# difference. Other containers are numbered in the order in which they are finished, and later references use the
# number: each is written once, however many paths lead to it, and sharing counts. The number is written at the
# container's end, because the members of a set are added up independent of their order.
#
# Threads. Other threads may change values in the meantime: everything is read through references of our own, and a
# container that changes its size has no fingerprint. This runs foreign code, so the caller holds none of our locks.
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.complex cimport PyComplex_ImagAsDouble, PyComplex_RealAsDouble
from cpython.datetime cimport (
    PyDate_CheckExact,
    PyDateTime_Check,
    PyDateTime_CheckExact,
    PyDelta_Check,
    PyDelta_CheckExact,
    PyTime_Check,
    PyTime_CheckExact,
    date_day,
    date_month,
    date_year,
    datetime_fold,
    datetime_hour,
    datetime_microsecond,
    datetime_minute,
    datetime_second,
    datetime_tzinfo,
    import_datetime,
    time_fold,
    time_hour,
    time_microsecond,
    time_minute,
    time_second,
    time_tzinfo,
    timedelta_days,
    timedelta_microseconds,
    timedelta_seconds,
)
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.list cimport PyList_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_FromVoidPtr
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport Py_TYPE, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_REFCNT
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.type cimport PyType_IsSubtype
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND
from libc.string cimport memcpy

from fastserverstate._fingerprint cimport (
    FIRST_ROOM,
    MAX_DEPTH,
    Encoder,
    Place,
    fss_dict_next,
    fss_digit,
    fss_list_item,
    fss_stack_limit,
    fss_stack_pointer,
    fss_type_version,
)

import pickle
import weakref

from xxhash import xxh3_128_digest

import_datetime()

# The tags of an encoding: ASCII characters, except for text.
cdef enum:
    TAG_NONE = 0x4E       # 'N'
    TAG_TRUE = 0x54       # 'T'
    TAG_FALSE = 0x46      # 'F'
    TAG_INT = 0x69        # 'i'
    TAG_BIG_INT = 0x49    # 'I'
    TAG_FLOAT = 0x66      # 'f'
    TAG_COMPLEX = 0x63    # 'c'
    TAG_BYTES = 0x62      # 'b'
    TAG_BYTEARRAY = 0x61  # 'a'
    TAG_MEMORY = 0x6D     # 'm'
    TAG_MOMENT = 0x74     # 't'
    TAG_TEXT = 0x10       # plus the bytes per character: 1, 2 or 4
    TAG_LIST = 0x4C       # 'L'
    TAG_TUPLE = 0x55      # 'U'
    TAG_DICT = 0x44       # 'D'
    TAG_SET = 0x53        # 'S'
    TAG_FROZENSET = 0x5A  # 'Z'
    TAG_OBJECT = 0x4F     # 'O', parts, storage, attributes and slots
    TAG_CUSTOM = 0x58     # 'X', what a user's function returns for it
    TAG_UNSET = 0x75      # 'u', a slot without a value
    TAG_END = 0x3B        # ';', after parts that are not preceded by their number
    TAG_BACK = 0x5E       # '^', a container that is being written, and how many levels further out it is
    TAG_NUMBER = 0x3D     # '=', the end of a container from which a cycle can be reached, and its number
    TAG_SEEN = 0x40       # '@', the container of that number
    TAG_HASHED = 0x23     # '#', the hash of a long encoding
    TAG_FOLDED = 0x2B     # '+', the hash of the first part of a buffer

cdef enum:
    SHORT = 1024             # longer data and encodings of containers are replaced by their hash
    FOLD = 60_000            # a buffer that has grown this long is replaced by its hash and continues
    # What is done before it is given up: a step is a value, or 4 KiB of data. Values that have code count as more.
    MOST_STEPS = 50_000_000
    OBJECT_STEPS = 20
    SMALL = 15               # steps that are as soon done again as remembered
    STEPS_PER_LOOK = 1000    # at the clock


class Unfingerprintable(Exception):
    """The value has no fingerprint."""


@cython.final
cdef class TypePlan:
    """How the values of one type are written. It holds no reference to the type, which may be dropped by its module.

    `name` is the type's full name. `functions` take a value apart into values that stand for it; `storage` is the
    built-in type whose content counts. Its attributes count too, if it `has_dict`, except those in `derived`, and
    its slots: by name, or by the position in the MRO and the name if a subclass hides the slot.
    """
    cdef readonly str name
    cdef bytes label
    cdef tuple functions
    cdef type storage
    cdef bint has_dict
    cdef tuple slots
    cdef frozenset derived
    cdef unsigned int version   # the type's, as it was when the plan was made

    def __cinit__(self, str name, tuple functions=(), type storage=None, bint has_dict=False, tuple slots=(),
                  frozenset derived=frozenset()):
        self.name = name
        # A class that is defined anew has the same name, and perhaps other slots.
        self.label = repr((name, len(functions), slots)).encode(errors="surrogatepass")
        self.functions = functions
        self.storage = storage
        self.has_dict = has_dict
        self.slots = slots
        self.derived = derived

# Of a type, whatever its metaclass says.
mro_of = type.__dict__["__mro__"].__get__
base_of = type.__dict__["__base__"].__get__
namespace_of = type.__dict__["__dict__"].__get__

# By address of a type: a weak reference that removes the entry with the type, and the plan.
cdef dict plans = {}
cdef object make_plan = None
cdef object report_type = None
cdef object report_slow = None

# How long the fingerprint of an assigned value may take.
cdef long long assignment_budget_ns = 20_000_000


def plan_types(make, report, slow):
    """Have ``make(type)`` say how its values are written, and ``report(name, reason)`` told what stopped an encoder.

    ``slow(key, name)`` is told of an assigned value that takes too long.
    """
    global make_plan, report_type, report_slow
    make_plan, report_type, report_slow = make, report, slow
    plans.clear()


def content_fingerprint(value, dict hash_funcs=None):
    cdef uint64_t out[2]
    if fingerprint(value, out, hash_funcs):
        return PyBytes_FromStringAndSize(<char *>out, 16)
    return None


cdef enum:
    NONE_TO_BE_HAD
    TAKEN
    OUT_OF_TIME


cdef int fingerprint(object value, uint64_t *out, dict hash_funcs, long long budget_ns=0) except -1:
    """Write the value's fingerprint, 16 bytes, to `out`. Returns TAKEN, NONE_TO_BE_HAD (0) or OUT_OF_TIME.

    A value whose own code raises an ``Exception`` has no fingerprint; other exceptions, which stop a script, propagate.
    `hash_funcs` are functions by the name of a type. OUT_OF_TIME: it would take longer than `budget_ns` (0: no limit).
    """
    cdef Encoder encoder
    encoder.buffer = encoder.first
    encoder.used = 0
    encoder.size = FIRST_ROOM
    encoder.depth = 0
    encoder.cyclic = False
    encoder.numbered = 0
    encoder.stack_limit = fss_stack_limit()
    encoder.steps = MOST_STEPS
    encoder.next_look = MOST_STEPS - STEPS_PER_LOOK if budget_ns else 0
    encoder.end = clock_ns() + budget_ns if budget_ns else 0
    encoder.late = False
    encoder.hash_funcs = <PyObject *>hash_funcs if hash_funcs else NULL
    encoder.memo = NULL
    encoder.culprit = NULL
    try:
        _write(&encoder, value)
        _hash_into(encoder.buffer, encoder.used, <unsigned char *>out)
        return TAKEN
    except BaseException as reason:
        if encoder.late:
            return OUT_OF_TIME
        # A library in Rust that panics does not want to stop the script.
        if not isinstance(reason, Exception) and type(reason).__module__ != "pyo3_runtime":
            raise
        if report_type is not None:
            report_type(<object>encoder.culprit if encoder.culprit != NULL else PyType_GetName(type(value)), reason)
        return NONE_TO_BE_HAD
    finally:
        if encoder.buffer != encoder.first:
            PyMem_Free(encoder.buffer)
        _drop(encoder.memo)
        _drop(encoder.culprit)


cdef inline void _drop(PyObject *owned) noexcept:
    if owned != NULL:
        _decref(owned)


# The buffer


cdef inline unsigned char *_room(Encoder *encoder, size_t length) except NULL:
    """Make the buffer longer by `length` bytes. The address is valid until the next call."""
    cdef unsigned char *start
    if encoder.size - encoder.used < length:
        _grow(encoder, length)
    start = encoder.buffer + encoder.used
    encoder.used += length
    return start


cdef int _grow(Encoder *encoder, size_t length) except -1:
    cdef size_t size = max(2 * encoder.size, encoder.used + length)
    cdef unsigned char *buffer
    if encoder.buffer == encoder.first:
        buffer = <unsigned char *>PyMem_Malloc(size)
        if buffer != NULL:
            memcpy(buffer, encoder.first, encoder.used)
    else:
        buffer = <unsigned char *>PyMem_Realloc(encoder.buffer, size)
    if buffer == NULL:
        raise MemoryError()
    encoder.buffer = buffer
    encoder.size = size
    return 0


cdef inline int _put(Encoder *encoder, unsigned char tag, uint64_t number) except -1:
    cdef unsigned char *at = _room(encoder, 9)
    at[0] = tag
    memcpy(at + 1, &number, 8)
    return 0


cdef inline int _put_double(Encoder *encoder, unsigned char tag, double number) except -1:
    cdef uint64_t bits = 0x7FF8000000000000  # every NaN
    if number == number:
        memcpy(&bits, &number, 8)
    return _put(encoder, tag, bits)


cdef int _put_data(Encoder *encoder, unsigned char tag, const void *data, size_t length) except -1:
    _put(encoder, tag, length)
    if length <= SHORT:
        memcpy(_room(encoder, length), data, length)
        return 0
    encoder.steps -= length >> 12
    cdef unsigned char digest[16]
    _hash_into(data, length, digest)
    memcpy(_room(encoder, 16), digest, 16)
    return 0


cdef int _hash_into(const void *data, size_t length, unsigned char *out) except -1:
    """The caller keeps the data alive: above 64 KiB this lets go of the GIL."""
    cdef object source
    if length <= SHORT:
        source = PyBytes_FromStringAndSize(<const char *>data, length)
    else:
        source = PyMemoryView_FromMemory(<char *>data, length, PyBUF_READ)
    memcpy(out, PyBytes_AS_STRING(<bytes>xxh3_128_digest(source)), 16)
    return 0


cdef inline int _fold(Encoder *encoder, size_t start) except -1:
    if encoder.used - start > FOLD:
        return _fold_now(encoder, start)
    return 0


cdef int _fold_now(Encoder *encoder, size_t start) except -1:
    _replace(encoder, start, TAG_FOLDED)
    with nogil:  # others have waited for long enough
        pass
    PyErr_CheckSignals()
    return 0


cdef int _replace(Encoder *encoder, size_t start, unsigned char tag) except -1:
    """Replace the end of the buffer, from `start` on, by its hash."""
    cdef unsigned char digest[16]
    _hash_into(encoder.buffer + start, encoder.used - start, digest)
    encoder.used = start
    cdef unsigned char *at = _room(encoder, 17)
    at[0] = tag
    memcpy(at + 1, digest, 16)
    return 0


# Containers


cdef bint _enter(Encoder *encoder, object value, Place *place) except -1:
    """Begin the encoding of a container. False if that is all: a reference, or an earlier encoding, was written."""
    cdef PyObject *known
    cdef int i
    if encoder.memo != NULL:
        known = PyDict_GetItemWithError(<dict>encoder.memo, PyLong_FromVoidPtr(<void *>value))
        if known != NULL:
            _write_again(encoder, <object>PyTuple_GET_ITEM(<tuple>known, 1))
            return False
    for i in range(encoder.depth - 1, -1, -1):
        if encoder.path[i] == <PyObject *>value:
            _put(encoder, TAG_BACK, encoder.depth - i)
            encoder.cyclic = True
            return False
    _check_depth(encoder)
    encoder.path[encoder.depth] = <PyObject *>value
    encoder.depth += 1
    place.start = encoder.used
    place.cyclic = encoder.cyclic
    place.steps = encoder.steps
    encoder.cyclic = False
    return True


cdef inline int _check_depth(Encoder *encoder) except -1:
    if encoder.depth == MAX_DEPTH or fss_stack_pointer() < encoder.stack_limit:
        raise Unfingerprintable("It is nested too deep.")
    return 0


cdef int _write_again(Encoder *encoder, object known) except -1:
    if type(known) is int:
        _put(encoder, TAG_SEEN, known)
        encoder.cyclic = True
    else:
        memcpy(_room(encoder, PyBytes_GET_SIZE(known)), PyBytes_AS_STRING(known), PyBytes_GET_SIZE(known))
    return 0


cdef int _leave(Encoder *encoder, object value, Place *place) except -1:
    cdef bint cyclic = encoder.cyclic
    encoder.depth -= 1
    encoder.cyclic |= place.cyclic
    if cyclic:
        _put(encoder, TAG_NUMBER, encoder.numbered)
        _remember(encoder, value, encoder.numbered)
        encoder.numbered += 1
    if encoder.used - place.start > SHORT or encoder.buffer[place.start] == TAG_FOLDED:
        _replace(encoder, place.start, TAG_HASHED)
    # One reference is the container's that holds it and one is ours. Small ones are as soon written again.
    if not cyclic and place.steps - encoder.steps > SMALL and Py_REFCNT(value) > 2 and encoder.depth:
        encoding = PyBytes_FromStringAndSize(<char *>encoder.buffer + place.start, encoder.used - place.start)
        _remember(encoder, value, encoding)
    return 0


cdef int _remember(Encoder *encoder, object value, object written) except -1:
    """The value is kept, so that no other one comes to lie at its address."""
    if encoder.memo == NULL:
        memo = {}
        Py_INCREF(memo)
        encoder.memo = <PyObject *>memo
    (<dict>encoder.memo)[PyLong_FromVoidPtr(<void *>value)] = (value, written)
    return 0


cdef int _write_list(Encoder *encoder, list value, size_t start) except -1:
    cdef Py_ssize_t length = PyList_GET_SIZE(value)
    cdef Py_ssize_t i
    _put(encoder, TAG_LIST, length)
    for i in range(length):
        _write(encoder, fss_list_item(value, i))
        _fold(encoder, start)
    if PyList_GET_SIZE(value) != length:
        raise Unfingerprintable("A list has changed its size meanwhile.")
    return 0


cdef int _write_tuple(Encoder *encoder, tuple value, size_t start) except -1:
    cdef Py_ssize_t length = PyTuple_GET_SIZE(value)
    cdef Py_ssize_t i
    _put(encoder, TAG_TUPLE, length)
    for i in range(length):
        _write(encoder, <object>PyTuple_GET_ITEM(value, i))
        _fold(encoder, start)
    return 0


cdef int _write_dict(Encoder *encoder, dict value, size_t start) except -1:
    cdef Py_ssize_t length = PyDict_Size(value)
    cdef Py_ssize_t position = 0
    cdef Py_ssize_t found = 0
    cdef PyObject *key
    cdef PyObject *item
    _put(encoder, TAG_DICT, length)
    while fss_dict_next(value, &position, &key, &item):
        try:
            _write(encoder, <object>key)
            _write(encoder, <object>item)
        finally:
            _decref(key)
            _decref(item)
        _fold(encoder, start)
        found += 1
        if found > length:
            break
    if found != length or PyDict_Size(value) != length:
        raise Unfingerprintable("A dict has changed its size meanwhile.")
    return 0


cdef int _write_set(Encoder *encoder, object value, unsigned char tag) except -1:
    cdef list members = [*frozenset.__iter__(value)] if tag == TAG_FROZENSET else [*set.__iter__(value)]
    cdef size_t start
    cdef uint64_t member[2]
    cdef uint64_t total[2]
    total[0] = total[1] = 0
    _put(encoder, tag, len(members))
    for item in members:
        start = encoder.used
        _write(encoder, item)
        _hash_into(encoder.buffer + start, encoder.used - start, <unsigned char *>member)
        encoder.used = start
        total[0] += member[0]
        total[1] += member[1] + (total[0] < member[0])
    memcpy(_room(encoder, 16), total, 16)
    return 0


# Numbers, text, data


cdef inline int _write_int(Encoder *encoder, object value) except -1:
    cdef long long number
    if fss_digit(value, &number):
        return _put(encoder, TAG_INT, <uint64_t>number)
    return _write_long(encoder, value)


cdef int _write_long(Encoder *encoder, object value) except -1:
    cdef int overflow
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if not overflow:
        return _put(encoder, TAG_INT, <uint64_t>number)
    cdef bytes data = int.to_bytes(value, int.bit_length(value) // 8 + 1, "little", signed=True)
    return _put_data(encoder, TAG_BIG_INT, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef inline int _write_text(Encoder *encoder, object value) except -1:
    cdef int kind = PyUnicode_KIND(value)  # 1, 2 or 4 bytes, by what the text needs
    return _put_data(encoder, TAG_TEXT + kind, PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value) * kind)


cdef int _write_bytearray(Encoder *encoder, object value) except -1:
    cdef bytes data = bytes(value)  # a copy: exporting the buffer would keep other threads from resizing the object
    return _put_data(encoder, TAG_BYTEARRAY, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef int _write_memory(Encoder *encoder, object view) except -1:
    cdef Py_buffer data
    _put(encoder, TAG_MEMORY, view.ndim)
    _write_text(encoder, view.format)
    for length in view.shape:
        _put(encoder, TAG_INT, length)
    PyObject_GetBuffer(view if view.c_contiguous else view.tobytes(), &data, PyBUF_SIMPLE)
    try:
        return _put_data(encoder, TAG_BYTES, data.buf, data.len)
    finally:
        PyBuffer_Release(&data)


cdef int _write_moment(Encoder *encoder, object value) except -1:
    """A date, time, datetime or timedelta; -1 in the place of what it has not."""
    cdef int fields[8]
    cdef object zone = None
    fields[:] = [-1, -1, -1, -1, -1, -1, -1, -1]
    if PyDelta_Check(value):
        fields[:3] = [timedelta_days(value), timedelta_seconds(value), timedelta_microseconds(value)]
        fields[7] = 0
    elif PyTime_Check(value):
        fields[3:] = [time_hour(value), time_minute(value), time_second(value), time_microsecond(value),
                      time_fold(value)]
        zone = time_tzinfo(value)
    else:
        fields[:3] = [date_year(value), date_month(value), date_day(value)]
        if PyDateTime_Check(value):
            fields[3:] = [datetime_hour(value), datetime_minute(value), datetime_second(value),
                          datetime_microsecond(value), datetime_fold(value)]
            zone = datetime_tzinfo(value)
    _put_data(encoder, TAG_MOMENT, fields, sizeof(fields))
    return _write(encoder, zone)


# Any value


cdef int _write(Encoder *encoder, object value) except -1:
    cdef type kind = <type>Py_TYPE(value)
    encoder.steps -= 1
    if encoder.steps < encoder.next_look:
        _look_at_clock(encoder)
    if encoder.hash_funcs != NULL and _write_custom(encoder, value, kind):
        return 0
    if kind is int:
        return _write_int(encoder, value)
    return _write_as_is(encoder, value, kind)


cdef int _look_at_clock(Encoder *encoder) except -1:
    """Give up what takes too long or holds too much."""
    if encoder.steps < 0:
        raise Unfingerprintable("It holds too much.")
    encoder.late = clock_ns() > encoder.end
    if encoder.late:
        raise Unfingerprintable("It takes too long.")
    encoder.next_look = max(0, encoder.steps - STEPS_PER_LOOK)
    return 0


cdef int _write_as_is(Encoder *encoder, object value, type kind) except -1:
    cdef Place place
    if kind is str:
        return _write_text(encoder, value)
    if kind is int:
        return _write_int(encoder, value)
    if kind is float:
        return _put_double(encoder, TAG_FLOAT, PyFloat_AS_DOUBLE(value))
    if value is None:
        _room(encoder, 1)[0] = TAG_NONE
        return 0
    if kind is bool:
        _room(encoder, 1)[0] = TAG_TRUE if value is True else TAG_FALSE
        return 0
    if kind is list or kind is dict or kind is tuple or kind is set or kind is frozenset:
        if _enter(encoder, value, &place):
            _write_storage(encoder, value, kind, place.start)
            _leave(encoder, value, &place)
        return 0
    if (kind is bytes or kind is complex or kind is bytearray or PyDateTime_CheckExact(value)
            or PyDate_CheckExact(value) or PyDelta_CheckExact(value) or PyTime_CheckExact(value)):
        return _write_storage(encoder, value, kind, encoder.used)
    if kind is memoryview:
        return _write_memory(encoder, value)
    if kind is pickle.PickleBuffer:
        return _write_memory(encoder, value.raw())
    return _write_object(encoder, value, kind)


cdef int _write_storage(Encoder *encoder, object value, type base, size_t start) except -1:
    """What a value keeps as one of `base`, whatever its own type says."""
    if base is list:
        return _write_list(encoder, <list>value, start)
    if base is dict:
        return _write_dict(encoder, <dict>value, start)
    if base is tuple:
        return _write_tuple(encoder, <tuple>value, start)
    if base is set:
        return _write_set(encoder, value, TAG_SET)
    if base is frozenset:
        return _write_set(encoder, value, TAG_FROZENSET)
    if base is str:
        return _write_text(encoder, value)
    if base is int:
        return _write_int(encoder, value)
    if base is float:
        return _put_double(encoder, TAG_FLOAT, PyFloat_AS_DOUBLE(value))
    if base is bytes:
        return _put_data(encoder, TAG_BYTES, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    if base is bytearray:
        return _write_bytearray(encoder, value)
    if base is complex:
        _put_double(encoder, TAG_COMPLEX, PyComplex_RealAsDouble(value))
        return _put_double(encoder, TAG_COMPLEX, PyComplex_ImagAsDouble(value))
    return _write_moment(encoder, value)


cdef int _write_object(Encoder *encoder, object value, type kind) except -1:
    cdef TypePlan plan = None
    cdef Place place
    try:
        plan = _plan(kind)
        if not _enter(encoder, value, &place):
            return 0
        encoder.steps -= OBJECT_STEPS
        _put_label(encoder, TAG_OBJECT, plan)
        for function in plan.functions:
            _write_parts(encoder, function(value), place.start)
        if plan.storage is not None:
            if not PyType_IsSubtype(kind, plan.storage):  # a metaclass has misled `plan_for`
                raise TypeError("It has not the storage that it seems to have.")
            _write_storage(encoder, value, plan.storage, place.start)
        _write_attributes(encoder, value, plan, place.start)
        if Py_TYPE(value) != <PyTypeObject *>kind:
            raise Unfingerprintable("It has changed its class meanwhile.")
        return _leave(encoder, value, &place)
    except Exception:
        if encoder.culprit == NULL:
            name = PyType_GetName(kind) if plan is None else plan.name
            Py_INCREF(name)
            encoder.culprit = <PyObject *>name
        raise


cdef inline int _put_label(Encoder *encoder, unsigned char tag, TypePlan plan) except -1:
    return _put_data(encoder, tag, PyBytes_AS_STRING(plan.label), PyBytes_GET_SIZE(plan.label))


cdef int _write_parts(Encoder *encoder, object parts, size_t start) except -1:
    for part in parts:
        _write(encoder, part)
        _fold(encoder, start)
    _room(encoder, 1)[0] = TAG_END
    return 0


cdef int _write_attributes(Encoder *encoder, object value, TypePlan plan, size_t start) except -1:
    """Without the order in which they were set, which is not seen."""
    cdef list items
    if plan.has_dict:
        items = list(attributes_of(value).items())
        items.sort()
        for name, item in items:
            if name not in plan.derived:
                _write(encoder, name)
                _write(encoder, item)
                _fold(encoder, start)
    _room(encoder, 1)[0] = TAG_END
    for slot in plan.slots:
        try:
            item = PyObject_GenericGetAttr(value, slot) if type(slot) is str else _hidden_slot(value, slot)
        except AttributeError:
            _room(encoder, 1)[0] = TAG_UNSET
        else:
            _write(encoder, item)
            _fold(encoder, start)
    return 0


cdef bint _write_custom(Encoder *encoder, object value, type kind) except -1:
    """Write what the user's function says of the value, if there is one for its type.

    What it says is not given to the same function again, so that ``{float: round_it}`` works.
    """
    cdef size_t start = encoder.used
    cdef TypePlan plan = _plan(kind)
    cdef PyObject *function = PyDict_GetItemWithError(<dict>encoder.hash_funcs, plan.name)
    if function == NULL:
        return False
    _check_depth(encoder)
    _put_label(encoder, TAG_CUSTOM, plan)
    # Not a place that can be referred to: a function that gives its argument back would hide its content.
    encoder.path[encoder.depth] = NULL
    encoder.depth += 1
    stand_in = (<object>function)(value)
    if type(stand_in) is kind:
        _write_as_is(encoder, stand_in, kind)
    else:
        _write(encoder, stand_in)
    encoder.depth -= 1
    if encoder.used - start > SHORT:
        _replace(encoder, start, TAG_HASHED)
    return True


cdef object _hidden_slot(value, tuple slot):
    """What a slot holds of whose name a subclass makes something else."""
    position, name = slot
    return namespace_of(mro_of(<type>Py_TYPE(value))[position])[name].__get__(value)


cdef TypePlan _plan(type kind):
    cdef object address = PyLong_FromVoidPtr(<void *>kind)
    cdef PyObject *entry = dict_get(<PyObject *>plans, <PyObject *>address)
    cdef unsigned int version = fss_type_version(kind)
    cdef TypePlan plan
    if entry != NULL:
        plan = (<tuple>owned(entry))[1]
        if plan.version == version and version:
            return plan
    if not version:
        type.__getattribute__(kind, "__reduce_ex__")  # a look-up gives it one
        version = fss_type_version(kind)
    plan = make_plan(kind)
    plan.version = version
    plans[address] = (weakref.ref(kind, lambda _reference: plans.pop(address, None)), plan)
    return plan
