# cython: language_level=3
# Waits for changes, and listeners. See the head of _core.pyx.

cdef void signal_change(Cell *cell) noexcept:
    """Wake the threads that wait for a change, and count one pending callback. The shard is locked."""
    cdef Waiter *waiter = cell.cold.change_waiters
    cell.cold.removal = BY_APP
    while waiter != NULL:
        wake(waiter)
        waiter = waiter.next
    if cell.cold.listeners != NULL:
        cell.cold.pending_callbacks += 1


cdef int flush_callbacks(Table *table, Shard *shard, PyObject *key) except -1:
    """Call the key's listeners once for every pending callback: in order, and never two calls at a time for one key.

    Each call gets the value that the key has then, locked or not, or ABSENT, EXPIRED or EVICTED.

    If another thread is calling already, it makes these calls too. This thread holds no key's lock. Exceptions that
    stop the script are raised after all calls. Reads of the callbacks subscribe nothing. A thread that runs an event
    loop leaves the calls to another thread, because they may block.
    """
    cdef Py_hash_t hashed = key_hash(key)
    cdef Cell *cell
    cdef PyObject *listeners
    cdef PyObject *value
    cdef bint was_untracked
    if load_object(table.offload_callbacks) != NULL and on_event_loop():
        (<object>table.offload_callbacks)([<object>key])
        return 0
    was_untracked = set_untracked(True)
    stops = None
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    while cell != NULL and cell.cold != NULL and cell.cold.pending_callbacks and not cell.cold.calling:
        cell.cold.calling = True
        cell.cold.pending_callbacks -= 1
        listeners = cell.cold.listeners
        value = cell.value if cell.value != NULL else removal_of(cell)
        _xincref(listeners)
        _incref(value)
        unlock(&shard.mutex)
        if listeners != NULL:
            kept = owned(listeners)
            try:
                kept(owned(decoded(table, key, value) if is_encoded(value) else value))
            except BaseException as stop:
                stops = stop if stops is None else stops
        else:
            _decref(value)
        cell = end_call(shard, cell)
    unlock_shard(shard)
    set_untracked(was_untracked)
    if stops is not None:
        raise stops
    return 0


cdef Cell *end_call(Shard *shard, Cell *cell) noexcept:
    """Lock the shard, and allow other threads to call. Returns the cell, NULL if it may have been freed."""
    lock(&shard.mutex)
    cell.cold.calling = False  # while it was set, the cell was not freed
    if cell.cold.listeners != NULL:
        return cell
    cell.cold.pending_callbacks = 0
    drop_if_unused(shard, cell)
    return NULL


cdef int defer_callbacks(Table *table, PyObject *key) except -1:
    """Defer the key's pending callbacks until this thread, which holds a lock, holds none."""
    cdef Holder holder = <Holder>fss_holder
    handle = owned(key_lock(table, key))
    if holder.deferred is None:
        holder.deferred = []
    holder.deferred.append(handle)
    return 0


cdef int flush_deferred(Holder self) except -1:
    """Flush the callbacks that the thread has deferred. Exceptions that stop the script are raised after all calls."""
    cdef KeyLock handle
    stops = None
    if self.flushing:
        return 0  # this is a callback of a call below in the stack, which makes the other calls
    self.flushing = True
    while self.deferred:
        handle = self.deferred.pop(0)
        try:
            flush_callbacks(handle.table, handle.shard, handle.cell.key)
        except BaseException as stop:
            stops = stop if stops is None else stops
    self.flushing = False
    if stops is not None:
        raise stops
    return 0


cdef object set_listeners(Table *table, PyObject *key, object listeners):
    """Set or remove the function that is called after every change of the key. Returns the previous one."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef PyObject *old
    cdef Cell *cell
    lock(&shard.mutex)
    cell = find_or_make(shard, key, hashed)
    if cell == NULL or ensure_cold(cell) == NULL:
        unlock_shard(shard)
        raise MemoryError()
    old = cell.cold.listeners
    cell.cold.listeners = NULL
    if listeners is not None:
        cell.cold.listeners = <PyObject *>listeners
        _incref(cell.cold.listeners)
    drop_if_unused(shard, cell)
    unlock_shard(shard)
    return None if old == NULL else owned(old)


cdef bint wait_for_change(Table *table, PyObject *key, uint64_t version, long long timeout_ns) except -1:
    """Wait until the key's version differs from this one; False if `timeout_ns` (-1: none) passed first."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef Waiter waiter
    cdef bint changed
    cdef bint awake = True
    current_holder()
    lock(&shard.mutex)
    cell = find_or_make(shard, key, hashed)
    if cell == NULL or ensure_cold(cell) == NULL or not waiter_start(&waiter):
        unlock_shard(shard)
        raise MemoryError()
    if cell.holder == waiter.holder:
        unlock_shard(shard)
        waiter_end(&waiter)
        raise RuntimeError(
            f"server_state[{<object>key!r}] cannot change while this thread holds its lock. Wait outside of the lock "
            f"or transaction."
        )
    join_queue(&cell.cold.change_waiters, &waiter)
    unlock_shard(shard)
    try:
        waiter_register(&waiter)
        while True:
            lock(&shard.mutex)
            changed = version != (cell.version if cell.value != NULL else 0)
            if changed or not awake:
                break
            unlock(&shard.mutex)
            if exceeds_loop_limit(&waiter, timeout_ns):
                refuse_to_block(f"Waiting for a change of {<object>key!r}")
            check_interrupts(&waiter)
            awake = waiter_sleep(&waiter, timeout_ns)
    except BaseException:
        lock(&shard.mutex)
        raise
    finally:  # the shard is locked
        leave_queue(&cell.cold.change_waiters, &waiter)
        drop_if_unused(shard, cell)
        unlock_shard(shard)
        waiter_end(&waiter)
    return changed
