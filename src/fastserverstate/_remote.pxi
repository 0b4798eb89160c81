# cython: language_level=3
# One table among several. See _core.pyx for the whole.
#
# A store that has a *backend* changes nothing by itself: what is to be written and locked goes to the backend, with no
# mutex locked, which makes it known to others and brings what came of it into the table by `apply`, as it does with
# what others have written. UnflushedReads know nothing of it.

@cython.final
cdef class _Arrival:
    cdef str key
    cdef object value
    cdef bint quiet
    cdef bint left      # as it is, for another thread holds the key's lock
    cdef bint due       # listeners are to be called
    cdef PyObject *old  # what the cell has held, to be dropped

    def __dealloc__(self):
        _xdecref(self.old)


cdef tuple apply(Store store, changes, Holder holder):
    """Make changes at once: (key, value or ABSENT, whether to rerun no session). See Store.apply.

    ABSENT for a key that is not set touches it.
    """
    global fss_holder
    cdef PyObject *here = fss_holder
    cdef Table *table = store.table
    cdef Session writer = None if holder is None else holder.session
    cdef Shard *shard
    cdef Cell *cell
    cdef Py_hash_t hashed
    cdef PyObject *new
    cdef list arrivals = []
    cdef bint involved[SHARDS]
    cdef bint done = True
    cdef _Arrival arrival
    cdef int i
    memset(involved, 0, sizeof(involved))
    for key, value, quiet in changes:
        arrival = _Arrival()
        arrival.key, arrival.value, arrival.quiet = key, value, quiet
        arrivals.append(arrival)
        involved[shard_of(table, key_hash(checked_key(key))) - table.shards] = True
        if load_object(store.options) != NULL and not is_resolved(table, <PyObject *>key):
            resolve(store, key)
    if writer is not None:
        lock(&writer.mutex)
    lock_shards(table, involved)
    for arrival in arrivals:
        hashed = key_hash(<PyObject *>arrival.key)
        shard = shard_of(table, hashed)
        cell = find_or_make(shard, <PyObject *>arrival.key, hashed)
        if cell == NULL:
            done = False
        elif is_held_by_other(cell):
            arrival.left = True
        else:
            new = NULL if arrival.value is ABSENT else <PyObject *>arrival.value
            # In the name of the thread that has written it, if it is one of this process.
            fss_holder = NULL if holder is None else <PyObject *>holder
            if new != NULL or cell.value != NULL:
                cell.has_print = False
                arrival.old = commit(table, shard, cell, new, writer, arrival.quiet)
            else:
                touch_absent(table, cell, writer, arrival.quiet)
            fss_holder = here
            arrival.due = cell.cold != NULL and cell.cold.pending_callbacks != 0
            drop_if_unused(shard, cell)
    unlock_shards(table, involved)
    if writer is not None:
        unlock(&writer.mutex)
    for i in range(SHARDS):
        if involved[i]:
            lock(&table.shards[i].mutex)
            unlock_shard(&table.shards[i])
    if not done:
        raise MemoryError()
    left = [arrival.key for arrival in arrivals if arrival.left]
    due = [arrival.key for arrival in arrivals if arrival.due]
    return left, due, arrivals


cdef bint is_resolved(Table *table, PyObject *key) noexcept:
    """Whether the key has a cell that knows the key's options."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef bint known
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    known = cell != NULL and cell.policy != UNRESOLVED
    unlock(&shard.mutex)
    return known


cdef bint acquire_through_backend(PyObject *backend, KeyLock self, long long timeout_ns) except -1:
    """Take the key's lock among all tables and then in this one; False if it was not free for `timeout_ns`."""
    cdef str key = <str>self.cell.key
    cdef long long end = monotonic_ns() + timeout_ns
    cdef bint done = False
    if not (<object>backend).acquire(key, None if timeout_ns < 0 else timeout_ns / 1e9):
        return False
    try:
        if acquire_here(self, timeout_ns if timeout_ns <= 0 else max(0, end - monotonic_ns())):
            # The thread that had it before may have lost the one among all tables, and not noticed yet.
            (<object>backend).entered(key)
            done = True
    finally:
        if not done:
            release_once(self, fss_holder)
            release_in_backend(backend, [self], <Holder>current_holder())
    return done


cdef int release_in_backend(PyObject *backend, list locks, Holder holder) except -1:
    """Give back, among all tables, what the holder has no longer in this one."""
    cdef KeyLock handle
    cdef list keys = []
    for handle in locks:
        lock(&handle.shard.mutex)
        is_left = handle.cell.holder != <PyObject *>holder
        unlock(&handle.shard.mutex)
        if is_left:
            keys.append(<object>handle.cell.key)
    if keys:
        (<object>backend).release(keys, holder.serial)
    return 0
