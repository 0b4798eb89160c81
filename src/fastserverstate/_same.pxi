# cython: language_level=3
# Did this assignment change the value? See _core.pyx for the whole.

cdef enum:
    DEEPEST = 100
    MOST_CONTAINERS = 100_000  # a nest of shared containers is walked once for every way into it

cdef frozenset PLAIN = frozenset({type(None), bool, int, str, bytes, datetime.date, datetime.timedelta})
cdef object ENUM_TYPE = enum.EnumMeta


def same_value(old, new):
    cdef int containers = 0
    return _same(old, new, 0, &containers)


cdef bint _same(object old, object new, int depth, int *containers) except -1:
    """Whether `new` certainly shows what `old` showed. Runs no code but that of built-in types.

    Of types that are not listed nothing is certain, not even of the same object: it may have been changed in place.
    """
    cdef type kind = type(old)
    if kind is not type(new):
        return False
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
        return (zone is new.tzinfo and (zone is None or type(zone) is datetime.timezone)) and old == new
    if isinstance(kind, ENUM_TYPE):
        return old is new
    if kind is not tuple and kind is not list and kind is not dict and kind is not set and kind is not frozenset:
        return False
    if old is new and (kind is list or kind is dict or kind is set):
        return False  # it may hold something else by now
    containers[0] += 1
    if len(old) != len(new) or depth > DEEPEST or containers[0] > MOST_CONTAINERS:
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
        for left, right in zip((<dict>old).items(), (<dict>new).items()):
            if not _same(left[0], right[0], depth + 1, containers):
                return False
            if not _same(left[1], right[1], depth + 1, containers):
                return False
        return True
    for left, right in zip(old, new):
        if not _same(left, right, depth + 1, containers):
            return False
    return True
