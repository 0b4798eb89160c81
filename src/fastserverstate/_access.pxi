# cython: language_level=3
# Who may read and write which keys: asking the guards of keys. See the head of _core.pyx, and `guards.py`.
#
# Once there are guards, a cell may be guarded until the guards have said that it is not.

cdef enum:
    READ = 1
    WRITE = 2

ACCESS_READ = READ
ACCESS_WRITE = WRITE


cdef inline int check_access(Table *table, PyObject *key, int access) except -1:
    """Raise if the calling thread must not do this to the key. Nothing is locked."""
    if load_object(table.guard) != NULL:
        return ask_guard(table, key, access)
    return 0


cdef int ask_guard(Table *table, PyObject *key, int access) except -1:
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef uint64_t guards = load64(table.guards)
    cdef bint maybe = may_be_guarded(shard, key, hashed)
    if maybe and not (<object>load_object(table.guard))(<object>key, access):
        lock(&shard.mutex)
        set_unguarded(table, find(shard, key, hashed), guards)
        unlock(&shard.mutex)
    return 0


cdef inline bint may_be_guarded(Shard *shard, PyObject *key, Py_hash_t hashed) noexcept:
    cdef Cell *cell
    cdef bint maybe
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    maybe = cell.may_be_guarded if cell != NULL else not is_hidden_key(key)
    unlock(&shard.mutex)
    return maybe


cdef inline void set_unguarded(const Table *table, Cell *cell, uint64_t guards) noexcept:
    """Note that no guard is for the cell, unless it is NULL or guards were added since. The shard is locked."""
    if cell != NULL and load64(table.guards) == guards:
        cell.may_be_guarded = False


cdef void set_guard(Table *table, PyObject *guard) noexcept:
    """Set what to ask, and have it asked for every key again. Nothing is locked.

    Computed values become outdated: they may have read keys that are guarded now.
    """
    cdef Shard *shard
    cdef Cell *cell
    cdef int i
    store_object(table.guard, guard)
    add64(table.guards, 1)
    for i in range(SHARDS):
        shard = &table.shards[i]
        lock(&shard.mutex)
        shard.has_guards = True
        cell = next_cell(shard, NULL)
        while cell != NULL:
            cell.may_be_guarded = not cell.is_hidden
            outdate_nodes(&table.slots, cell)
            cell = next_cell(shard, cell)
        unlock(&shard.mutex)
