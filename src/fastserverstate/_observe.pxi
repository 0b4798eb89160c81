# cython: language_level=3
# Threads and callbacks that are told of every change of a key. See _core.pyx for the whole.

cdef void announce(Cell *cell) noexcept:
    """Tell who waits for a change, and owe the listeners a call. The shard is locked."""
    cdef Waiter *sleeper = cell.extra.sleepers
    while sleeper != NULL:
        wake(sleeper)
        sleeper = sleeper.next
    if cell.extra.listeners != NULL:
        cell.extra.calls_due += 1


cdef int call_listeners(Table *table, Shard *shard, PyObject *key) except -1:
    """Make the calls that are due, one for every change: in their order, and never two at a time for one key.

    Each is given the value that there is then, locked or not, or ABSENT.

    A thread that comes while another one is calling leaves its calls to that one. This thread holds no lock of any key.
    What ends the script is raised when all calls were made. What the callbacks read subscribes nothing. On a thread
    that runs an event loop they are left to another one, for they may take their time.
    """
    cdef Py_hash_t hashed = key_hash(key)
    cdef Cell *cell
    cdef PyObject *listeners
    cdef PyObject *value
    cdef bint was_detached
    if load_object(table.call_elsewhere) != NULL and on_event_loop():
        (<object>table.call_elsewhere)([<object>key])
        return 0
    was_detached = detach(True)
    stops = None
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    while cell != NULL and cell.extra != NULL and cell.extra.calls_due and not cell.extra.calling:
        cell.extra.calling = True
        cell.extra.calls_due -= 1
        listeners = cell.extra.listeners
        value = cell.value if cell.value != NULL else <PyObject *>ABSENT
        _xincref(listeners)
        _incref(value)
        unlock(&shard.mutex)
        newest = owned(value)
        if listeners != NULL:
            try:
                owned(listeners)(newest)
            except BaseException as stop:
                stops = stop if stops is None else stops
        cell = end_call(shard, cell)
    unlock_shard(shard)
    detach(was_detached)
    if stops is not None:
        raise stops
    return 0


cdef Cell *end_call(Shard *shard, Cell *cell) noexcept:
    """Lock the shard, and let others call. Returns the cell, NULL if it may be gone."""
    lock(&shard.mutex)
    cell.extra.calling = False  # which has kept the cell
    if cell.extra.listeners != NULL:
        return cell
    cell.extra.calls_due = 0
    drop_if_unused(shard, cell)
    return NULL


cdef int defer_calls(Table *table, PyObject *key) except -1:
    """Have this thread, which holds a lock, call the key's listeners when it holds none any more."""
    cdef Holder holder = <Holder>fss_holder
    handle = owned(key_lock(table, key))
    if holder.pending is None:
        holder.pending = []
    holder.pending.append(handle)
    return 0


cdef int flush_pending(Holder self) except -1:
    """Make the calls that were put off. What ends the script is raised when all were made."""
    cdef KeyLock handle
    stops = None
    if self.flushing:
        return 0  # by a callback of a call that is being made: the rest follows that
    self.flushing = True
    while self.pending:
        handle = self.pending.pop(0)
        try:
            call_listeners(handle.table, handle.shard, handle.cell.key)
        except BaseException as stop:
            stops = stop if stops is None else stops
    self.flushing = False
    if stops is not None:
        raise stops
    return 0


cdef object set_listeners(Table *table, PyObject *key, object listeners):
    """Have a function called after every change of the key, or none. Returns the one that was called so far."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef PyObject *old
    cdef Cell *cell
    lock(&shard.mutex)
    cell = find_or_make(shard, key, hashed)
    if cell == NULL or cell_extra(cell) == NULL:
        unlock_shard(shard)
        raise MemoryError()
    old = cell.extra.listeners
    cell.extra.listeners = NULL
    if listeners is not None:
        cell.extra.listeners = <PyObject *>listeners
        _incref(cell.extra.listeners)
    drop_if_unused(shard, cell)
    unlock_shard(shard)
    return None if old == NULL else owned(old)


cdef bint wait_for_change(Table *table, PyObject *key, uint64_t version, long long timeout_ns) except -1:
    """Wait until the key's version is another than this; False when `timeout_ns` (-1: for ever) went by first."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef Waiter waiter
    cdef bint changed
    cdef bint awake = True
    current_holder()
    lock(&shard.mutex)
    cell = find_or_make(shard, key, hashed)
    if cell == NULL or cell_extra(cell) == NULL or not waiter_start(&waiter):
        unlock_shard(shard)
        raise MemoryError()
    if cell.holder == waiter.holder:
        unlock_shard(shard)
        waiter_end(&waiter)
        raise RuntimeError(
            f"server_state[{<object>key!r}] cannot change while this thread holds its lock. Wait outside of the lock "
            f"or transaction."
        )
    join_queue(&cell.extra.sleepers, &waiter)
    unlock_shard(shard)
    try:
        waiter_register(&waiter)
        while True:
            lock(&shard.mutex)
            changed = version != (cell.version if cell.value != NULL else 0)
            if changed or not awake:
                break
            unlock(&shard.mutex)
            if is_too_long(&waiter, timeout_ns):
                refuse_to_block(f"Waiting for a change of {<object>key!r}")
            attend(&waiter)
            awake = waiter_sleep(&waiter, timeout_ns)
    except BaseException:
        lock(&shard.mutex)
        raise
    finally:  # the shard is locked
        leave_queue(&cell.extra.sleepers, &waiter)
        drop_if_unused(shard, cell)
        unlock_shard(shard)
        waiter_end(&waiter)
    return changed
