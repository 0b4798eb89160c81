# cython: language_level=3
# Did this assignment change the value? See _core.pyx for the whole.

cdef enum:
    DEEPEST = 100
    MOST_CONTAINERS = 100_000  # a nest of shared containers is walked once for every way into it
    MOST_ITEMS = 10_000_000    # and all their items with it

cdef enum Verdict:
    UNKNOWN
    SAME
    DIFFERENT

cdef frozenset PLAIN = frozenset({type(None), bool, int, str, bytes, datetime.date, datetime.timedelta})
cdef type ENUM_TYPE = enum.EnumMeta


def same_value(old, new):
    cdef Budget budget = Budget(containers=MOST_CONTAINERS, items=MOST_ITEMS)
    try:
        return _same(old, new, 0, &budget)
    except RuntimeError:  # a finalizer, run by the garbage collector, has changed a dict or a set meanwhile
        return False


cdef Verdict compare_plain(PyObject *old, PyObject *new) noexcept:
    """Compare what can be compared at once and without anybody's code: under a mutex."""
    cdef double one, other
    if old == <PyObject *>None or PyBool_Check(<object>old):
        return SAME if old == new else DIFFERENT
    if PyUnicode_CheckExact(<object>old):
        if not PyUnicode_CheckExact(<object>new):
            return DIFFERENT
        return SAME if old == new or PyObject_RichCompareBool(<object>old, <object>new, Py_EQ) == 1 else DIFFERENT
    if PyLong_CheckExact(<object>old):
        if not PyLong_CheckExact(<object>new):
            return DIFFERENT
        return SAME if old == new or PyObject_RichCompareBool(<object>old, <object>new, Py_EQ) == 1 else DIFFERENT
    if PyFloat_CheckExact(<object>old) and PyFloat_CheckExact(<object>new):
        one, other = PyFloat_AS_DOUBLE(<object>old), PyFloat_AS_DOUBLE(<object>new)
        if one == other:
            return SAME if one != 0 or copysign(1, one) == copysign(1, other) else DIFFERENT
        return SAME if one != one and other != other else DIFFERENT
    return UNKNOWN


ctypedef struct Budget:
    Py_ssize_t containers
    Py_ssize_t items


cdef bint _same(object old, object new, int depth, Budget *left) except -1:
    """Whether `new` certainly shows what `old` showed. Runs no code but that of built-in types.

    Of types that are not listed nothing is certain, not even of the same object: it may have been changed in place.
    """
    cdef type kind = type(old)
    if kind is not type(new):
        return False
    if type(kind) is not type:  # its metaclass may define __hash__ or __eq__, so it is looked up nowhere
        return old is new and PyType_IsSubtype(type(kind), ENUM_TYPE)
    if kind in PLAIN:
        return old is new or old == new
    if kind is float or kind is complex:
        return old is new or repr(old) == repr(new)  # tells 0.0 from -0.0, and not NaN from NaN
    if kind is decimal.Decimal:
        return old is new or old.compare_total(new) == 0  # tells 1.0 from 1.00
    if kind is range:
        return old.start == new.start and old.stop == new.stop and old.step == new.step
    if kind is datetime.datetime or kind is datetime.time:
        zone = old.tzinfo
        if zone is not new.tzinfo or (zone is not None and type(zone) is not datetime.timezone):
            return False  # comparing would ask the zone
        return old.fold == new.fold and old == new
    if kind is not tuple and kind is not list and kind is not dict and kind is not set and kind is not frozenset:
        return False
    if old is new and (kind is list or kind is dict or kind is set):
        return False  # it may hold something else by now
    left.containers -= 1
    left.items -= len(old)
    if len(old) != len(new) or depth > DEEPEST or left.containers < 0 or left.items < 0:
        return False
    if kind is set or kind is frozenset:
        for item in old:
            if type(item) not in PLAIN:
                return False
        for item in new:
            if type(item) not in PLAIN:
                return False
        return {(type(item), item) for item in old} == {(type(item), item) for item in new}
    if kind is dict:
        for one, other in zip((<dict>old).items(), (<dict>new).items()):
            if not _same(one[0], other[0], depth + 1, left):
                return False
            if not _same(one[1], other[1], depth + 1, left):
                return False
        return True
    for one, other in zip(old, new):
        if not _same(one, other, depth + 1, left):
            return False
    return True
