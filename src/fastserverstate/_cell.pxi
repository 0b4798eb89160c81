# cython: language_level=3
# One key and all that belongs to it. See _core.pyx for the whole.

ctypedef struct Extra:
    # What few keys have.
    Subscribers watchers      # depend on whether there is a value
    PyObject *handle          # the KeyLock, or a weak reference to it
    uint32_t handles          # KeyLocks that were not freed yet: one that is dying, and another made since
    bint handle_is_weak       # nobody may have the lock in hand, and the key is not set
    Table *table              # of a cell whose lock was ever taken
    Cell *next_held           # among the locks of the holder,
    Cell *previous_held       # in a chain that begins at the holder
    Waiter *waiters           # for the lock, longest first
    Waiter *turn              # the one of them that is next: no other thread may take the lock
    uint32_t forked           # times that the lock was taken before the process forked, and not released yet
    Waiter *sleepers          # for a change of the value
    PyObject *code            # where the lock was taken: a code object
    int instruction           # and an offset in it
    PyObject *hash_funcs      # say of the user's types what they hold
    PyObject *listeners       # called after a change
    uint32_t calls_due
    bint calling
    long long interval_ns     # at most once in which subscribers are marked; 0: at every change
    long long marked_ns       # when they were last, on the clock
    Subscribers outdated      # have read what was there before a change, and are to be marked when that time is over
    Cell *next_outdated       # among the cells that have some; guarded by the mutex of the slots
    bint is_outdated          # it is among those

ctypedef struct Cell:
    PyObject *key
    Py_hash_t hash
    Cell *next                # in the bucket's chain
    PyObject *value           # NULL when the key is not set
    uint64_t version          # the shard's clock at the last change
    uint64_t born             # when the key appeared: the order of iteration
    Subscribers readers       # depend on the value
    Extra *extra
    PyObject *holder          # the Holder that has the lock, NULL when free. Borrowed: it lets go before it dies
    uint32_t depth
    char policy               # when an assigned value counts as changed; see _same.pxi
    # Of one byte each:
    char has_print            # what the value is has a fingerprint, and was not said to have changed in place
    char reported             # it was found to have changed in place
    char drafted              # the holder's transaction has written it
    char presence_owed        # it appeared or vanished in a `no_rerun` block, and the watchers do not know
    char is_method            # the key is also a method's name, which wins in attribute access; the cell stays
    uint64_t print[2]         # fingerprint of the value, as it was when it was assigned


cdef Cell *cell_new(PyObject *key, Py_hash_t hashed) noexcept:
    cdef Cell *cell = <Cell *>PyMem_Calloc(1, sizeof(Cell))
    if cell != NULL:
        _incref(key)
        cell.key = key
        cell.hash = hashed
    return cell


cdef void cell_free(Cell *cell) noexcept:
    """Free a cell without a value that is in no table."""
    _decref(cell.key)
    subscribers_free(&cell.readers)
    if cell.extra != NULL:
        subscribers_free(&cell.extra.watchers)
        subscribers_free(&cell.extra.outdated)
        _xdecref(cell.extra.code)
        _xdecref(cell.extra.hash_funcs)
        _xdecref(cell.extra.listeners)
        PyMem_Free(cell.extra)
    PyMem_Free(cell)


cdef inline Extra *cell_extra(Cell *cell) noexcept:
    """The cell's extra, made if need be; NULL when there is no memory."""
    if cell.extra == NULL:
        cell.extra = <Extra *>PyMem_Calloc(1, sizeof(Extra))
    return cell.extra


cdef inline void purge(Cell *cell, const uint64_t *retired, uint32_t words) noexcept:
    """Take retired slots out of the cell's sets."""
    subscribers_purge(&cell.readers, retired, words)
    if cell.extra != NULL:
        subscribers_purge(&cell.extra.watchers, retired, words)
        subscribers_purge(&cell.extra.outdated, retired, words)


cdef inline bint is_unused(const Cell *cell) noexcept:
    """Whether nothing would be lost with the cell."""
    if cell.value != NULL or cell.readers.count or cell.holder != NULL or cell.is_method:
        return False
    return (
        cell.extra == NULL
        or (
            cell.extra.watchers.count == 0
            and cell.extra.handles == 0
            and cell.extra.waiters == NULL
            and cell.extra.sleepers == NULL
            and cell.extra.listeners == NULL
            and not cell.extra.calling
            and not cell.extra.is_outdated
        )
    )


cdef inline bint is_open(const Cell *cell) noexcept:
    """Whether what the calling thread reads of the cell is what the cell says."""
    return cell.holder == NULL or (not cell.drafted and cell.holder == fss_holder)


cdef inline bint is_held_by_other(const Cell *cell) noexcept:
    return cell.holder != NULL and cell.holder != fss_holder
