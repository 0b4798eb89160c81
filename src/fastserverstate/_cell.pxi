# cython: language_level=3
# One key: its cell and the cold fields. See the head of _core.pyx.

cdef Cell *cell_new(PyObject *key, Py_hash_t hashed) noexcept:
    cdef Cell *cell = <Cell *>PyMem_Calloc(1, sizeof(Cell))
    if cell != NULL:
        _incref(key)
        cell.key = key
        cell.hash = hashed
        cell.is_hidden = is_hidden_key(key)
    return cell


cdef void cell_free(Cell *cell) noexcept:
    """Free a cell that has no value and is in no table."""
    _decref(cell.key)
    subscribers_free(&cell.readers)
    if cell.cold != NULL:
        subscribers_free(&cell.cold.watchers)
        subscribers_free(&cell.cold.throttled)
        _xdecref(cell.cold.code)
        _xdecref(cell.cold.hash_funcs)
        _xdecref(cell.cold.listeners)
        PyMem_Free(cell.cold)
    PyMem_Free(cell)


cdef inline ColdFields *ensure_cold(Cell *cell) noexcept:
    """The cell's cold fields, allocated if need be; NULL if there is no memory."""
    if cell.cold == NULL:
        cell.cold = <ColdFields *>PyMem_Calloc(1, sizeof(ColdFields))
    return cell.cold


cdef inline void purge(Cell *cell, const uint64_t *retired, uint32_t words) noexcept:
    """Remove retired slots from the cell's sets."""
    subscribers_purge(&cell.readers, retired, words)
    if cell.cold != NULL:
        subscribers_purge(&cell.cold.watchers, retired, words)
        subscribers_purge(&cell.cold.throttled, retired, words)


cdef inline bint is_dirty(const Cell *cell) noexcept:
    return cell.is_dirty[0] or cell.is_dirty[1]


cdef inline bint is_unused(const Cell *cell) noexcept:
    """Whether the cell can be freed: nothing depends on it."""
    if cell.value != NULL or cell.readers.count or cell.holder != NULL or cell.is_method or is_dirty(cell):
        return False
    return (
        cell.cold == NULL
        or (
            cell.cold.watchers.count == 0
            and cell.cold.handles == 0
            and cell.cold.waiters == NULL
            and cell.cold.change_waiters == NULL
            and cell.cold.listeners == NULL
            and not cell.cold.calling
            and not cell.cold.is_throttled
        )
    )


cdef inline PyObject *backend_of(const Table *table, const Cell *cell) noexcept:
    """The table's backend, NULL for a result: each server computes its own."""
    return NULL if cell.is_result else load_object(table.backend)


cdef inline bint has_pending_callbacks(const Cell *cell) noexcept:
    return cell.cold != NULL and cell.cold.pending_callbacks != 0


cdef inline bint is_readable(const Cell *cell) noexcept:
    """Whether this thread may read `value` directly."""
    return cell.holder == NULL or (not cell.staged and cell.holder == fss_holder)


cdef inline bint is_held_by_other(const Cell *cell) noexcept:
    return cell.holder != NULL and cell.holder != fss_holder
