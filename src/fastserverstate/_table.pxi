# cython: language_level=3
# The table of cells: finding, making and freeing them. See the head of _core.pyx.

cdef inline Shard *shard_of(Table *table, Py_hash_t hashed) noexcept:
    return &table.shards[hashed & (SHARDS - 1)]


cdef inline Py_ssize_t bucket_of(const Shard *shard, Py_hash_t hashed) noexcept:
    return (hashed // SHARDS) & shard.mask


cdef Table *table_new() except NULL:
    cdef Table *table = <Table *>PyMem_Calloc(1, sizeof(Table))
    if table == NULL:
        raise MemoryError()
    table.refs = 1
    table.alarm.at_ns = NEVER_NS
    if not table_start(table):
        table_release(table)
        raise MemoryError()
    return table


cdef bint table_start(Table *table) noexcept:
    """Give every shard its first buckets; False if there is no memory."""
    cdef Shard *shard
    cdef uint64_t clock
    cdef int i
    for i in range(SHARDS):
        shard = &table.shards[i]
        clock = shard.clock  # versions continue after a fork
        memset(shard, 0, sizeof(Shard))
        shard.clock = clock
        shard.slots = &table.slots
        shard.buckets = <Cell **>PyMem_Calloc(FIRST_BUCKETS, sizeof(Cell *))
        if shard.buckets == NULL:
            return False
        shard.mask = FIRST_BUCKETS - 1
    return True


cdef void table_release(Table *table) noexcept:
    """Drop a reference to the table; the last one frees it. The store has emptied it then, and no KeyLock is left."""
    cdef Shard *shard
    cdef Cell *cell
    cdef int i
    cdef Py_ssize_t at
    if add_size(table.refs, -1):
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
                    clear_holder(cell)
                cell_free(cell)
        PyMem_Free(shard.buckets)
        PyMem_RawFree(shard.terms)
        free_folders(shard)
    lifetimes_free(table)
    slots_free(&table.slots)
    PyMem_Free(table)


cdef inline void lock_shards(Table *table, const bint *involved) noexcept:
    """Lock the involved shards, in the order of their numbers; all of them if `involved` is NULL."""
    cdef int i
    for i in range(SHARDS):
        if involved == NULL or involved[i]:
            lock(&table.shards[i].mutex)


cdef inline void unlock_shards(Table *table, const bint *involved) noexcept:
    cdef int i
    for i in range(SHARDS):
        if involved == NULL or involved[i]:
            unlock(&table.shards[i].mutex)


# For the following functions the caller has locked the shard.

cdef inline Cell *find(const Shard *shard, PyObject *key, Py_hash_t hashed) noexcept:
    cdef Cell *cell = shard.buckets[bucket_of(shard, hashed)]
    while cell != NULL and cell.key != key and not (cell.hash == hashed and keys_equal(cell.key, key)):
        cell = cell.next
    return cell


cdef inline Cell *next_cell(const Shard *shard, const Cell *cell) noexcept:
    """The shard's cell after this one, the first cell after NULL; NULL after the last cell."""
    cdef Py_ssize_t bucket = 0
    if cell != NULL:
        if cell.next != NULL:
            return cell.next
        bucket = bucket_of(shard, cell.hash) + 1
    while bucket <= shard.mask and shard.buckets[bucket] == NULL:
        bucket += 1
    return NULL if bucket > shard.mask else shard.buckets[bucket]


cdef Cell *find_or_make(Shard *shard, PyObject *key, Py_hash_t hashed) noexcept:
    """The key's cell, made if need be; NULL if there is no memory."""
    cdef Cell *cell = find(shard, key, hashed)
    if cell != NULL:
        return cell
    if shard.cells > shard.mask:
        grow_buckets(shard)
    cell = cell_new(key, hashed)
    if cell != NULL and not put_into_folder(shard, cell):
        cell_free(cell)
        cell = NULL
    if cell != NULL:
        cell.policy = shard.first_policy
        cell.may_be_guarded = shard.has_guards and not cell.is_hidden
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
                return  # the cell is from before a fork
            link = &link[0].next
        link[0] = cell.next
        if cell.terms_at:
            take_terms(shard, cell)
        take_out_of_folder(shard, cell)
        cell.next = shard.dropped
        shard.dropped = cell
        shard.cells -= 1


cdef void grow_buckets(Shard *shard) noexcept:
    """Double the buckets, unless freeing unused cells makes enough room. Without memory the chains get longer."""
    cdef Cell **old = shard.buckets
    cdef Cell **buckets
    cdef Cell *cell
    cdef Cell *following
    cdef Py_ssize_t at, size = shard.mask + 1, unset_handles = 0
    lock(&shard.slots.mutex)
    cell = next_cell(shard, NULL)
    while cell != NULL:
        note_use(shard, cell)
        purge(cell, shard.slots.retired, shard.slots.size // 64)
        cell = next_cell(shard, cell)
    unlock(&shard.slots.mutex)
    cell = next_cell(shard, NULL)
    while cell != NULL:
        following = next_cell(shard, cell)
        unset_handles += weaken_handle(shard, cell)
        drop_if_unused(shard, cell)
        cell = following
    if (shard.cells - unset_handles) * 2 <= size:
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


cdef bint weaken_handle(Shard *shard, Cell *cell) noexcept:
    """Stop keeping the KeyLock of an unset key alive, so that it is freed once users drop it. Whether it was kept."""
    cdef ColdFields *cold = cell.cold
    cdef KeyLock handle
    if cold == NULL or cold.handle == NULL or cold.handle_is_weak or cell.value != NULL or cell.holder != NULL:
        return False
    handle = <KeyLock>cold.handle
    handle.next_released = shard.released
    shard.released = cold.handle
    cold.handle = <PyObject *>handle.reference
    _incref(cold.handle)
    cold.handle_is_weak = True
    return True


cdef inline void unlock_shard(Shard *shard) noexcept:
    """Unlock the shard, then free cells and release KeyLocks, which must not happen under a mutex."""
    if shard.dropped == NULL and shard.released == NULL:
        unlock(&shard.mutex)
    else:
        unlock_and_free(shard)


cdef void unlock_and_free(Shard *shard) noexcept:
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
