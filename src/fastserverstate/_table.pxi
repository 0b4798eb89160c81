# cython: language_level=3
# The table of cells: finding, making and dropping them. See _core.pyx for the whole.

ctypedef struct Shard:
    # A part of the table with a mutex of its own. Padded, so that processors do not fight for a line of their caches.
    Mutex mutex
    Cell **buckets            # heads of the chains; their number is a power of two
    Py_ssize_t mask
    Py_ssize_t cells
    uint64_t clock            # counts the changes of its keys
    Slots *slots              # of the table
    char first_policy         # of the cells that are made: UNRESOLVED once there are options of keys
    Cell *dropped             # to be freed, and
    PyObject *released        # KeyLocks to be let go of, once the mutex is
    char padding[64]

ctypedef struct Table:
    Py_ssize_t owners         # the store and the KeyLocks
    Py_ssize_t present        # keys that are set
    uint64_t births
    PyObject *call_elsewhere    # told of keys whose listeners an event loop is not to call, or NULL; never freed
    bint notes_reads            # what runs read is noted, to be looked at in the end
    PyObject *backend         # what writes go through, or NULL; lives as long as the process
    Slots slots
    Shard shards[SHARDS]


cdef inline Shard *shard_of(Table *table, Py_hash_t hashed) noexcept:
    return &table.shards[hashed & (SHARDS - 1)]


cdef inline Py_ssize_t bucket_of(const Shard *shard, Py_hash_t hashed) noexcept:
    return (hashed // SHARDS) & shard.mask


cdef Table *table_new() except NULL:
    cdef Table *table = <Table *>PyMem_Calloc(1, sizeof(Table))
    if table == NULL:
        raise MemoryError()
    table.owners = 1
    if not table_start(table):
        table_disown(table)
        raise MemoryError()
    return table


cdef bint table_start(Table *table) noexcept:
    """Give every shard its first buckets; False when there is no memory."""
    cdef Shard *shard
    cdef uint64_t clock
    cdef int i
    for i in range(SHARDS):
        shard = &table.shards[i]
        clock = shard.clock  # versions go on after a fork
        memset(shard, 0, sizeof(Shard))
        shard.clock = clock
        shard.slots = &table.slots
        shard.buckets = <Cell **>PyMem_Calloc(FIRST_BUCKETS, sizeof(Cell *))
        if shard.buckets == NULL:
            return False
        shard.mask = FIRST_BUCKETS - 1
    return True


cdef void table_disown(Table *table) noexcept:
    """Give up the table; the last owner frees it. The store has emptied it, and its KeyLocks are gone."""
    cdef Shard *shard
    cdef Cell *cell
    cdef int i
    cdef Py_ssize_t at
    if add_size(table.owners, -1):
        return
    for i in range(SHARDS):
        shard = &table.shards[i]
        if shard.buckets == NULL:
            continue
        for at in range(shard.mask + 1):
            while shard.buckets[at] != NULL:
                cell = shard.buckets[at]
                shard.buckets[at] = cell.next
                if cell.holder != NULL:
                    let_go(cell)
                cell_free(cell)
        PyMem_Free(shard.buckets)
    slots_free(&table.slots)
    PyMem_Free(table)


cdef inline void lock_shards(Table *table, const bint *involved) noexcept:
    """Lock those that are involved, in the one order; all of them if it is NULL."""
    cdef int i
    for i in range(SHARDS):
        if involved == NULL or involved[i]:
            lock(&table.shards[i].mutex)


cdef inline void unlock_shards(Table *table, const bint *involved) noexcept:
    cdef int i
    for i in range(SHARDS):
        if involved == NULL or involved[i]:
            unlock(&table.shards[i].mutex)


# The caller has locked the shard.

cdef inline Cell *find(const Shard *shard, PyObject *key, Py_hash_t hashed) noexcept:
    cdef Cell *cell = shard.buckets[bucket_of(shard, hashed)]
    while cell != NULL and cell.key != key and not (cell.hash == hashed and same_key(cell.key, key)):
        cell = cell.next
    return cell


cdef Cell *find_or_make(Shard *shard, PyObject *key, Py_hash_t hashed) noexcept:
    """The key's cell; NULL when there is no memory."""
    cdef Cell *cell = find(shard, key, hashed)
    if cell != NULL:
        return cell
    if shard.cells > shard.mask:
        make_room(shard)
    cell = cell_new(key, hashed)
    if cell != NULL:
        cell.policy = shard.first_policy
        link_cell(shard, cell)
        shard.cells += 1
    return cell


cdef inline void link_cell(Shard *shard, Cell *cell) noexcept:
    cdef Cell **head = &shard.buckets[bucket_of(shard, cell.hash)]
    cell.next = head[0]
    head[0] = cell


cdef inline void drop_if_unused(Shard *shard, Cell *cell) noexcept:
    cdef Cell **link
    if is_unused(cell):
        link = &shard.buckets[bucket_of(shard, cell.hash)]
        while link[0] != cell:
            if link[0] == NULL:
                return  # of the table before a fork
            link = &link[0].next
        link[0] = cell.next
        cell.next = shard.dropped
        shard.dropped = cell
        shard.cells -= 1


cdef void make_room(Shard *shard) noexcept:
    """Double the buckets, unless dropping what nobody needs makes enough room. Without memory chains get longer."""
    cdef Cell **old = shard.buckets
    cdef Cell **buckets
    cdef Cell *cell
    cdef Cell *following
    cdef Py_ssize_t at, size = shard.mask + 1, unneeded = 0
    lock(&shard.slots.mutex)
    for at in range(size):
        cell = old[at]
        while cell != NULL:
            purge(cell, shard.slots.retired, shard.slots.size // 64)
            cell = cell.next
    unlock(&shard.slots.mutex)
    for at in range(size):
        cell = old[at]
        while cell != NULL:
            following = cell.next
            unneeded += release_handle(shard, cell)
            drop_if_unused(shard, cell)
            cell = following
    if (shard.cells - unneeded) * 2 <= size:
        return
    buckets = <Cell **>PyMem_Calloc(2 * size, sizeof(Cell *))
    if buckets == NULL:
        return
    shard.buckets = buckets
    shard.mask = 2 * size - 1
    for at in range(size):
        cell = old[at]
        while cell != NULL:
            following = cell.next
            link_cell(shard, cell)
            cell = following
    PyMem_Free(old)


cdef bint release_handle(Shard *shard, Cell *cell) noexcept:
    """Keep the KeyLock of a key that is not set only as long as somebody has it in hand. Whether it was kept so far."""
    cdef Extra *extra = cell.extra
    cdef KeyLock handle
    if extra == NULL or extra.handle == NULL or extra.handle_is_weak or cell.value != NULL or cell.holder != NULL:
        return False
    handle = <KeyLock>extra.handle
    handle.next_released = shard.released
    shard.released = extra.handle
    extra.handle = <PyObject *>handle.reference
    _incref(extra.handle)
    extra.handle_is_weak = True
    return True


cdef void unlock_shard(Shard *shard) noexcept:
    """Unlock, and then let go of what must not die under a mutex."""
    cdef Cell *dropped = shard.dropped
    cdef PyObject *released = shard.released
    cdef Cell *cell
    cdef PyObject *handle
    shard.dropped = NULL
    shard.released = NULL
    unlock(&shard.mutex)
    while dropped != NULL:
        cell = dropped
        dropped = cell.next
        cell_free(cell)
    while released != NULL:
        handle = released
        released = (<KeyLock>handle).next_released
        _decref(handle)
