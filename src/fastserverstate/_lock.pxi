# cython: language_level=3
# The re-entrant locks of the keys. See _core.pyx for the whole.

# A waiter that has been passed over for this long is given the lock directly instead of being told to try.
cdef long long FAIR_AFTER_NS = 2_000_000
cdef double FOR_EVER_NS = 2.0 ** 62


@cython.final
cdef class KeyLock:
    """The lock of a key."""
    cdef Table *table
    cdef Shard *shard
    cdef Cell *cell             # stays in the table as long as this object lives
    cdef object reference       # a weak one to this object
    cdef PyObject *next_released
    cdef object __weakref__

    def __init__(self):
        raise TypeError("Locks are made by server_state_lock[key].")

    def __dealloc__(self):
        cdef PyObject *weak = NULL
        if self.cell == NULL:
            return
        lock(&self.shard.mutex)
        self.cell.extra.handles -= 1
        if self.cell.extra.handle == <PyObject *>self.reference:
            weak = self.cell.extra.handle
            self.cell.extra.handle = NULL
        drop_if_unused(self.shard, self.cell)
        unlock_shard(self.shard)
        _xdecref(weak)
        table_disown(self.table)

    @cython.binding(False)
    def acquire(self, blocking=True, timeout=-1):
        return enter_lock(self, patience(blocking, timeout))

    @cython.binding(False)
    def release(self):
        leave_lock(self)

    @cython.binding(False)
    def locked(self):
        lock(&self.shard.mutex)
        held = self.cell.owner != 0
        unlock(&self.shard.mutex)
        return held

    @cython.binding(False)
    def __enter__(self):
        return enter_lock(self, -1)

    @cython.binding(False)
    def __exit__(self, exc_type, exc_value, traceback):
        leave_lock(self)

    cdef bint is_releasable(self) noexcept:
        cdef bint found
        lock(&self.shard.mutex)
        found = is_releasable(self.table, self.cell)
        unlock(&self.shard.mutex)
        return found

    # What threading.Condition asks of a re-entrant lock.

    def _is_owned(self):
        lock(&self.shard.mutex)
        owned = self.cell.owner == PyThread_get_thread_ident()
        unlock(&self.shard.mutex)
        return owned

    def _release_save(self):
        cdef uint32_t depth
        cdef bint refused
        lock(&self.shard.mutex)
        depth = self.cell.depth
        refused = self.cell.owner != PyThread_get_thread_ident() or has_draft(self.table, self.cell)
        if not refused:
            self.cell.depth = 1
        unlock(&self.shard.mutex)
        if refused:
            refuse_release(self)
        leave_lock(self)
        return depth

    def _acquire_restore(self, uint32_t depth):
        interruption = None
        while True:
            try:
                enter_lock(self, -1)
                break
            except BaseException as error:  # the caller is in a block that releases the lock
                interruption = error
        self.cell.depth = depth
        if interruption is not None:
            raise interruption

    def __repr__(self):
        return f"<server_state_lock[{<str>self.cell.key!r}] {'locked' if self.locked() else 'unlocked'}>"


@cython.final
cdef class KeyLocks:
    """The locks of several keys, in the order of the keys' names."""
    cdef list locks

    def __init__(self, Store store not None, keys):
        for key in keys:
            checked_key(key)
        self.locks = [store.lock(key) for key in sorted(set(keys))]

    def acquire(self, blocking=True, timeout=-1):
        cdef list taken = []
        cdef bint done = False
        try:
            done = enter_locks(self.locks, patience(blocking, timeout), taken)
        finally:
            if not done:
                leave_locks(taken)
        return done

    def release(self):
        cdef KeyLock lock
        for lock in self.locks:
            if not lock.is_releasable():
                refuse_release(lock)
        leave_locks(self.locks)

    def locked(self):
        return any([lock.locked() for lock in self.locks])

    def __enter__(self):
        return self.acquire()

    def __exit__(self, exc_type, exc_value, traceback):
        self.release()

    def __repr__(self):
        cdef KeyLock lock
        keys = ", ".join([repr(<object>lock.cell.key) for lock in self.locks])
        return f"<server_state_lock[{keys}] {'locked' if self.locked() else 'unlocked'}>"


cdef long long patience(blocking, timeout) except -2:
    """What `acquire` was told, in nanoseconds: -1 is for ever."""
    if blocking is True and PyLong_CheckExact(timeout) and timeout == -1:
        return -1
    threading.RLock().acquire(blocking, timeout)  # which refuses what it refuses in this release of Python
    return nanoseconds(timeout) if blocking else 0


cdef inline long long nanoseconds(double seconds) noexcept:
    return -1 if seconds < 0 else <long long>min(seconds * 1e9, FOR_EVER_NS)


cdef bint enter_lock(KeyLock self, long long timeout_ns) except -1:
    """Take the lock; False if it was not free for `timeout_ns` (-1: try for ever)."""
    cdef PyObject *backend = load_object(self.table.backend)
    if backend != NULL and not self._is_owned():
        return enter_through(backend, self, timeout_ns)
    return enter_here(self, timeout_ns)


cdef inline bint enter_here(KeyLock self, long long timeout_ns) except -1:
    """Take the lock in this table."""
    global fss_locks_held
    cdef int instruction = 0
    cdef PyObject *code = here(&instruction)
    cdef Cell *cell = self.cell
    cdef bint locked = False
    lock(&self.shard.mutex)
    if not try_lock(cell):
        try:
            if timeout_ns == 0:
                unlock(&self.shard.mutex)
            else:
                locked = wait_for_lock(self.table, self.shard, cell, timeout_ns)
        finally:
            if not locked:
                _xdecref(code)
        if not locked:
            return False
        lock(&self.shard.mutex)
    if cell.depth == 1:
        fss_locks_held += 1
        code, cell.extra.code = cell.extra.code, code
        cell.extra.instruction = instruction
    unlock(&self.shard.mutex)
    _xdecref(code)
    return True


cdef int leave_lock(KeyLock self) except -1:
    cdef PyObject *backend = load_object(self.table.backend)
    if not give_back(self):
        refuse_release(self)
    if backend != NULL:
        leave_remotely(backend, [self])
    if fss_calls_owed and fss_locks_held == 0:
        pay_calls()
    return 0


cdef int refuse_release(KeyLock self) except -1:
    """Say why this thread cannot release the lock."""
    if self._is_owned():
        key = <str>self.cell.key
        raise RuntimeError(
            f"server_state_lock[{key!r}] is held by a transaction that has written {key!r}, until it ends. Release "
            f"what you have taken yourself, and wait outside of the transaction."
        )
    raise RuntimeError("cannot release un-acquired lock")


cdef bint give_back(KeyLock self) noexcept:
    """Release the lock once; False if this thread cannot."""
    global fss_locks_held
    cdef Cell *cell = self.cell
    lock(&self.shard.mutex)
    if not is_releasable(self.table, cell):
        unlock(&self.shard.mutex)
        return False
    if cell.depth == 1:
        fss_locks_held -= 1
    unlock_cell(self.shard, cell)
    unlock_shard(self.shard)
    return True


cdef int leave_locks(list locks) except -1:
    """Release all of them, the last first. This thread holds them, and they are of one table."""
    cdef PyObject *backend = load_object((<KeyLock>locks[0]).table.backend) if locks else NULL
    for lock in reversed(locks):
        give_back(lock)
    if backend != NULL:
        leave_remotely(backend, locks)
    if fss_calls_owed and fss_locks_held == 0:
        pay_calls()
    return 0


cdef bint enter_locks(list locks, long long timeout_ns, list taken) except -1:
    """Take all of them, in this order, and note them in `taken`; False, and some of them, when the time is over."""
    cdef long long end = 0 if timeout_ns < 0 else monotonic_ns() + timeout_ns
    for lock in locks:
        if not enter_lock(lock, timeout_ns if timeout_ns <= 0 else max(0, end - monotonic_ns())):
            return False
        taken.append(lock)
    return True


cdef list release_locks(Table *table):
    """Release what the calling thread still holds, and discard what its transaction has written. Returns the keys."""
    global fss_locks_held
    cdef unsigned long me = PyThread_get_thread_ident()
    cdef list keys = []
    cdef Shard *shard
    cdef Cell *cell
    cdef PyObject *key
    cdef PyObject *backend = load_object(table.backend)
    cdef int i = 0
    discard_transaction(table)
    while i < SHARDS and fss_locks_held > 0:
        shard = &table.shards[i]
        lock(&shard.mutex)
        cell = held_cell(shard, me)
        if cell == NULL:
            i += 1
            unlock(&shard.mutex)
            continue
        key = cell.key
        _incref(key)
        fss_locks_held -= 1
        cell.depth = 1
        unlock_cell(shard, cell)
        unlock_shard(shard)
        keys.append(owned(key))
    if keys and backend != NULL:
        (<object>backend).release(keys)
    if fss_calls_owed and fss_locks_held == 0:
        pay_calls()
    return keys


# The shard is locked.

cdef inline bint try_lock(Cell *cell) noexcept:
    cdef unsigned long me = PyThread_get_thread_ident()
    if cell.owner == me:
        cell.depth += 1
        return True
    if cell.owner == 0:
        store_owner(cell.owner, me)
        cell.depth = 1
        return True
    return False


cdef inline bint is_releasable(const Table *table, const Cell *cell) noexcept:
    """Whether this thread holds the lock, and more than once if its transaction needs it."""
    return cell.owner == PyThread_get_thread_ident() and not (cell.depth == 1 and has_draft(table, cell))


cdef Cell *held_cell(Shard *shard, unsigned long thread) noexcept:
    """A cell whose lock the thread holds, or NULL."""
    cdef Cell *cell
    cdef Py_ssize_t at
    for at in range(shard.mask + 1):
        cell = shard.buckets[at]
        while cell != NULL:
            if cell.owner == thread:
                return cell
            cell = cell.next
    return NULL


cdef inline void unlock_cell(Shard *shard, Cell *cell) noexcept:
    """Give the lock back once. This thread holds it."""
    cell.depth -= 1
    if cell.depth == 0:
        store_owner(cell.owner, 0)
        if cell.extra != NULL and cell.extra.waiters != NULL:
            hand_over(cell)
        else:
            drop_if_unused(shard, cell)


cdef void hand_over(Cell *cell) noexcept:
    """Wake who has waited longest, and make it the owner if that was too long. Who is away is passed over."""
    cdef Waiter **link = &cell.extra.waiters
    cdef Waiter *waiter
    while link[0] != NULL and link[0].away:
        link = &link[0].next
    waiter = link[0]
    if waiter == NULL:
        return
    if monotonic_ns() - waiter.since > FAIR_AFTER_NS:
        link[0] = waiter.next
        store_owner(cell.owner, waiter.thread)
        cell.depth = 1
        waiter.granted = True
    wake(waiter)


cdef void join_queue(Waiter **queue, Waiter *waiter) noexcept:
    while queue[0] != NULL:
        queue = &queue[0].next
    queue[0] = waiter


cdef void leave_queue(Waiter **queue, Waiter *waiter) noexcept:
    while queue[0] != waiter:
        queue = &queue[0].next
    queue[0] = waiter.next


cdef bint wait_for_lock(Table *table, Shard *shard, Cell *cell, long long timeout_ns) except -1:
    """Wait until this thread holds the lock; False when `timeout_ns` (-1: for ever) went by first.

    Another thread holds it at the call, and the shard is locked. The shard is unlocked after it.
    """
    cdef Waiter waiter
    cdef bint locked = False
    cdef bint awake = True
    # Provisional: a thread that waits tells the backend.
    cdef PyObject *backend = load_object(table.backend) if timeout_ns < 0 else NULL
    if cell_extra(cell) == NULL or not waiter_start(&waiter):
        unlock_shard(shard)
        raise MemoryError()
    waiter.away = True
    join_queue(&cell.extra.waiters, &waiter)
    unlock_shard(shard)
    try:
        waiter_register(&waiter)
        if timeout_ns < 0:
            block(&waiter, cell)
        while True:
            # Whoever goes away or gives up has just found the lock taken, so its holder will wake somebody else.
            attend(&waiter)
            lock(&shard.mutex)
            waiter.away = False
            locked = try_lock(cell)
            if locked:
                break
            unlock(&shard.mutex)
            if backend == NULL:
                awake = waiter_sleep(&waiter, timeout_ns)
            else:
                (<object>backend).waiting(<object>cell.key)
                waiter_sleep(&waiter, monotonic_ns() - waiter.since + 1_000_000_000)
            lock(&shard.mutex)
            locked = waiter.granted or try_lock(cell)
            if locked or not awake:
                break
            waiter.away = True
            unlock(&shard.mutex)
    except BaseException:
        lock(&shard.mutex)
        raise
    finally:  # the shard is locked
        unblock(&waiter)
        if not waiter.granted:
            leave_queue(&cell.extra.waiters, &waiter)
        drop_if_unused(shard, cell)
        unlock_shard(shard)
        waiter_end(&waiter)
        if backend != NULL:
            (<object>backend).waited("")
    return locked
