# cython: language_level=3
# Comparisons: does an assignment change the value? See the head of _core.pyx, and _fingerprint.pxi for content.
#
# Numbers and text are compared with the cell's value. For other values the cell keeps a fingerprint, taken at the
# assignment, so that changes in place are found too. The fingerprint of a new value is taken first, with nothing
# locked, and then compared with the cell's under the mutex, so that it is compared with the newest write.
#
# In doubt, the value counts as changed. A fingerprint is valid only for the content that it was taken from: `touch`
# drops the cell's fingerprint, and a comparison starts again after a wait for the key's lock.

cdef enum:
    BY_CONTENT
    BY_HASH_FUNCS   # by content, with functions of the app for some types
    BY_EQUALITY
    BY_IDENTITY
    NEVER_SAME
    UNRESOLVED      # not known before `resolve` has asked for the key's options

COMPARE_CONTENT = BY_CONTENT
COMPARE_EQUALITY = BY_EQUALITY
COMPARE_IDENTITY = BY_IDENTITY
COMPARE_ALWAYS = NEVER_SAME


def same_value(old, new):
    cdef uint64_t one[2]
    cdef uint64_t other[2]
    if is_plain(<PyObject *>old) or is_plain(<PyObject *>new):
        return same_plain(<PyObject *>old, <PyObject *>new)
    return bool(fingerprint(old, one, None) and fingerprint(new, other, None) and same_fingerprint(one, other))


cdef inline bint same_fingerprint(const uint64_t *one, const uint64_t *other) noexcept:
    return one[0] == other[0] and one[1] == other[1]


cdef inline bint is_plain(PyObject *value) noexcept:
    return (
        PyUnicode_CheckExact(<object>value)
        or PyLong_CheckExact(<object>value)
        or PyFloat_CheckExact(<object>value)
        or value == <PyObject *>None
        or PyBool_Check(<object>value)
    )


cdef bint same_plain(PyObject *old, PyObject *new) noexcept:
    """Compare two values, of which one is plain, under a mutex: it runs no foreign code."""
    cdef double one, other
    if PyFloat_CheckExact(<object>old) and PyFloat_CheckExact(<object>new):
        one, other = PyFloat_AS_DOUBLE(<object>old), PyFloat_AS_DOUBLE(<object>new)
        if one == other:
            return one != 0 or copysign(1, one) == copysign(1, other)
        return one != one and other != other
    if old == new:
        return True
    if (PyUnicode_CheckExact(<object>old) and PyUnicode_CheckExact(<object>new)) or (
        PyLong_CheckExact(<object>old) and PyLong_CheckExact(<object>new)
    ):
        return PyObject_RichCompareBool(<object>old, <object>new, Py_EQ) == 1
    return False


cdef enum:
    MAX_COMPARISONS = 8     # while other threads keep writing; then the value counts as changed
    BRIEFLY = 1             # ns: the first look at the clock ends the fingerprint


ctypedef struct Comparison:
    # The comparison of a value that will be assigned.
    PyObject *value           # borrowed
    bint plain
    bint is_known             # to differ: a fingerprint is taken of a small value only
    int comparisons
    bint fingerprinted             # the fingerprint was taken, or the value has none
    bint has_fingerprint
    uint64_t fingerprint[2]
    PyObject *compared        # the old value that was compared with by ==,
    uint64_t version          # its version,
    bint equal                # and the result
    bint unresolved           # `compare_unlocked` has to find the key's options
    PyObject *hash_funcs      # the functions that it uses
    PyObject *old             # for `compare_unlocked`, to compare by ==


cdef inline void begin_comparison(Comparison *self, PyObject *value) noexcept:
    memset(self, 0, sizeof(Comparison))
    self.value = value
    self.plain = is_plain(value)


cdef inline void restart_comparison(Comparison *self) noexcept:
    """Start again, because the values may have changed in place."""
    self.fingerprinted = self.has_fingerprint = False
    self.version = 0


cdef inline void end_comparison(Comparison *self) noexcept:
    """Nothing is locked."""
    _xdecref(self.compared)
    _xdecref(self.hash_funcs)


# The shard is locked.

cdef inline bint needs_comparison(Comparison *self, const Cell *cell) noexcept:
    """Whether `compare_unlocked` has to be called, with nothing locked, before `is_unchanged` knows."""
    if cell.policy <= BY_HASH_FUNCS:
        if self.fingerprinted or (self.plain and cell.policy == BY_CONTENT) or self.comparisons == MAX_COMPARISONS:
            return False
        if cell.policy == BY_HASH_FUNCS:
            self.hash_funcs = cell.cold.hash_funcs
            _incref(self.hash_funcs)
        return True
    if cell.policy == UNRESOLVED:
        self.unresolved = True
        return True
    if cell.policy != BY_EQUALITY or cell.value == NULL or self.comparisons == MAX_COMPARISONS:
        return False
    if cell.value == self.compared and cell.version == self.version:
        return False
    self.old = cell.value
    self.version = cell.version
    _incref(self.old)
    return True


cdef inline bint is_unchanged(const Comparison *self, const Cell *cell) noexcept:
    """Whether the new value counts as unchanged."""
    if cell.policy <= BY_HASH_FUNCS:
        if self.fingerprinted:
            if not (fingerprint_fits(self, cell) and cell.has_fingerprint):
                return False
            return same_fingerprint(self.fingerprint, cell.fingerprint)
        return self.plain and same_plain(cell.value, self.value)
    if cell.policy == BY_EQUALITY:
        return self.equal and cell.value == self.compared and cell.version == self.version
    return cell.policy == BY_IDENTITY and cell.value == self.value


cdef inline bint fingerprint_fits(const Comparison *self, const Cell *cell) noexcept:
    """Whether there is a fingerprint, taken by the cell's policy, which may have changed in the meantime."""
    return self.has_fingerprint and self.hash_funcs == (cell.cold.hash_funcs if cell.policy == BY_HASH_FUNCS else NULL)


cdef inline void keep_fingerprint(const Comparison *self, Cell *cell) noexcept:
    cell.has_fingerprint = fingerprint_fits(self, cell)
    if cell.has_fingerprint:
        memcpy(cell.fingerprint, self.fingerprint, sizeof(cell.fingerprint))


# Nothing is locked.

cdef int compare_unlocked(Comparison *self, Store store, str key) except -1:
    """Compare without holding locks: it runs foreign code and may take long. Propagates only BaseException."""
    cdef PyObject *last = self.compared
    cdef int result
    cdef bint is_brief
    if self.unresolved:
        self.unresolved = False
        return resolve(store, key)
    self.comparisons += 1
    if self.old != NULL:
        self.compared, self.old = self.old, NULL
        _xdecref(last)
        self.equal = False  # if the next line raises
        self.equal = is_equal(<object>self.compared, <object>self.value)
        return 0
    hash_funcs = None if self.hash_funcs == NULL else <object>self.hash_funcs
    self.fingerprinted = True
    is_brief = self.is_known and hash_funcs is None  # those of the app may find no difference
    result = fingerprint(
        <object>self.value, self.fingerprint, hash_funcs, BRIEFLY if is_brief else assignment_budget_ns
    )
    self.has_fingerprint = result == TAKEN
    if result == OUT_OF_TIME and report_slow is not None and not is_brief:
        report_slow(key, PyType_GetName(type(<object>self.value)))
    return 0


cdef bint is_equal(old, new) except -1:
    try:
        return bool(old == new)
    except Exception:  # two arrays, for example, have no single answer
        return False


# Detection of changes in place.

cdef object changed_in_place(Table *table, PyObject *key, long long budget_ns):
    """Whether the content differs from what was assigned. True only once; None if it takes too long."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef PyObject *value
    cdef uint64_t assigned[2]
    cdef uint64_t found[2]
    cdef PyObject *hash_funcs = NULL
    cdef bint changed = False
    cdef int result
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    if cell == NULL or cell.value == NULL or not cell.has_fingerprint or cell.reported or is_held_by_other(cell):
        unlock(&shard.mutex)
        return False
    memcpy(assigned, cell.fingerprint, sizeof(assigned))
    if cell.policy == BY_HASH_FUNCS:
        hash_funcs = cell.cold.hash_funcs
        _incref(hash_funcs)
    value = cell.value
    _incref(value)
    unlock(&shard.mutex)
    kept = owned(value)
    result = fingerprint(kept, found, None if hash_funcs == NULL else owned(hash_funcs), budget_ns)
    if result == OUT_OF_TIME:
        return None
    if result == NONE_TO_BE_HAD or same_fingerprint(found, assigned):
        return False
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    if (cell != NULL and cell.value == value and cell.has_fingerprint and not cell.reported
            and not is_held_by_other(cell) and same_fingerprint(cell.fingerprint, assigned)):
        cell.reported = changed = True
    unlock(&shard.mutex)
    return changed
