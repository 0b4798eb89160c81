# cython: language_level=3
# The re-entrant locks of the keys. See _core.pyx for the whole.

# A waiter that has been passed over for this long has the next turn: no other thread may take the lock before it.
cdef long long FAIR_AFTER_NS = 2_000_000
# How often a backend is told that a thread still waits.
cdef long long ANNOUNCE_EVERY_NS = 1_000_000_000
cdef double FOR_EVER_NS = 2.0 ** 62


@cython.final
cdef class KeyLock:
    """The re-entrant lock of one key, with the methods of ``threading.RLock``.

    >>> from fastserverstate import KeyLock, server_state_lock
    >>> lock: KeyLock = server_state_lock["jobs"]
    >>> lock.acquire(timeout=1), lock.locked()
    (True, True)
    >>> lock.release()
    """
    cdef Table *table
    cdef Shard *shard
    cdef Cell *cell             # stays in the table as long as this object lives
    cdef object reference       # a weak one to this object
    cdef PyObject *next_released
    cdef object __weakref__

    def __cinit__(self, token=None):
        if token is not MAKING:
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
        held = self.cell.holder != NULL
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
        is_owned = self.cell.holder != NULL and self.cell.holder == fss_holder
        unlock(&self.shard.mutex)
        return is_owned

    def _release_save(self):
        cdef uint32_t depth
        cdef bint refused
        if on_event_loop():
            refuse_to_block(f"Waiting on a threading.Condition with server_state_lock[{<object>self.cell.key!r}]")
        lock(&self.shard.mutex)
        depth = self.cell.depth
        refused = self.cell.holder == NULL or self.cell.holder != fss_holder or has_draft(self.table, self.cell)
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
                time.sleep(0.01)  # what has interrupted it will do so again
        self.cell.depth = depth
        if interruption is not None:
            raise interruption

    def __call__(self, *args, **kwargs):
        key = <str>self.cell.key
        if key in ("acquire", "release", "locked"):
            raise TypeError(
                f"server_state_lock has one lock for each key, so name the key: server_state_lock['key'].{key}()."
            )
        refuse_call(subscription(self))

    def __aenter__(self):
        refuse_async(f"with {subscription(self)}:")

    def __aexit__(self, exc_type, exc_value, traceback):
        pass

    def __reduce_ex__(self, protocol):
        refuse_copy(subscription(self))

    def __repr__(self):
        return f"<{subscription(self)} {'locked' if self.locked() else 'unlocked'}>"


@cython.final
cdef class KeyLocks:
    """The locks of several keys as one re-entrant lock, taken in the order of the keys' names.

    >>> from fastserverstate import KeyLocks, server_state_lock
    >>> locks: KeyLocks = server_state_lock["stock", "orders"]
    >>> with locks:
    ...     server_state_lock["orders"].locked()
    True
    """
    cdef list locks

    def __cinit__(self, Store store not None, keys):
        if not keys:
            raise ValueError("server_state_lock[()] names no key. Name at least one: server_state_lock['key'].")
        self.locks = [store.lock(key) for key in sorted({plain_key(key) for key in keys})]

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
        cdef KeyLock refused = None
        cdef list releasable = []
        for lock in self.locks:
            if lock.is_releasable():
                releasable.append(lock)
            elif not is_excused(lock):
                refused = lock
        leave_locks(releasable)
        if refused is not None:
            refuse_release(refused)

    def locked(self):
        return any([lock.locked() for lock in self.locks])

    def __enter__(self):
        return self.acquire()

    def __exit__(self, exc_type, exc_value, traceback):
        self.release()

    def __call__(self, *args, **kwargs):
        refuse_call(subscription(*self.locks))

    def __aenter__(self):
        refuse_async(f"with {subscription(*self.locks)}:")

    def __aexit__(self, exc_type, exc_value, traceback):
        pass

    def __reduce_ex__(self, protocol):
        refuse_copy(subscription(*self.locks))

    def __repr__(self):
        return f"<{subscription(*self.locks)} {'locked' if self.locked() else 'unlocked'}>"


def subscription(*locks):
    """The expression that has made a lock."""
    cdef KeyLock lock
    return f"server_state_lock[{', '.join([repr(<object>lock.cell.key) for lock in locks])}]"


cdef int refuse_call(str lock) except -1:
    raise TypeError(f"{lock} is a lock and is used without parentheses behind it: with {lock}:")


cdef int refuse_async(str block) except -1:
    raise TypeError(
        f"Waiting for a lock blocks its thread, so there is no async with. Put the block, {block} ..., into a function "
        "and call that on another thread: await asyncio.to_thread(function)."
    )


cdef int refuse_copy(str lock) except -1:
    raise TypeError(
        f"{lock} belongs to this process and cannot be pickled or copied. Pass its key on instead, and look the lock "
        "up by that."
    )


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
    cdef int instruction = 0
    cdef PyObject *code = here(&instruction)
    cdef Cell *cell = self.cell
    cdef bint locked = False
    cdef Holder holder
    try:
        holder = <Holder>current_holder()
        lock(&self.shard.mutex)
        locked = try_lock(self.table, cell, holder, NULL)
        if not locked:
            if timeout_ns == 0:
                unlock(&self.shard.mutex)
            else:
                locked = wait_to_lock(self.table, self.shard, cell, holder, timeout_ns)
    finally:
        if not locked:
            _xdecref(code)
    if not locked:
        return False
    if cell.depth == 1:
        code, cell.extra.code = cell.extra.code, code
        cell.extra.instruction = instruction
    unlock(&self.shard.mutex)
    _xdecref(code)
    return True


cdef int leave_lock(KeyLock self) except -1:
    cdef PyObject *backend = load_object(self.table.backend)
    if backend != NULL and self._is_owned():
        (<object>backend).entered(<object>self.cell.key)  # or others would see, for a moment, what was there before
    if not give_back(self, fss_holder):
        if is_excused(self):
            return 0
        refuse_release(self)
    if backend != NULL:
        leave_remotely(backend, [self], <Holder>fss_holder)
    return flush_if_free()


cdef inline int flush_if_free() except -1:
    """Make the calls that the thread has put off, if it holds no lock any more."""
    cdef Holder holder
    if fss_holder != NULL and (<Holder>fss_holder).locks == 0 and (<Holder>fss_holder).pending is not None:
        holder = <Holder>fss_holder
        flush_pending(holder)
    return 0


cdef bint is_excused(KeyLock self) noexcept:
    """Whether the lock was taken before the process forked. The child does not have it, but leaves its blocks."""
    cdef bint excused = False
    lock(&self.shard.mutex)
    if self.cell.extra.forked and self.cell.holder == NULL:
        self.cell.extra.forked -= 1
        excused = True
    unlock(&self.shard.mutex)
    return excused


cdef int refuse_release(KeyLock self) except -1:
    """Say why this thread cannot release the lock."""
    if self._is_owned():
        key = <str>self.cell.key
        raise RuntimeError(
            f"server_state_lock[{key!r}] is held by a transaction that has written {key!r}, until it ends. Release "
            f"what you have taken yourself, and wait outside of the transaction."
        )
    raise RuntimeError("cannot release un-acquired lock")


cdef bint give_back(KeyLock self, PyObject *holder) noexcept:
    """Release the lock once; False if the holder cannot."""
    cdef Cell *cell = self.cell
    lock(&self.shard.mutex)
    if holder == NULL or cell.holder != holder or (cell.depth == 1 and has_draft(self.table, cell)):
        unlock(&self.shard.mutex)
        return False
    unlock_cell(self.shard, cell)
    unlock_shard(self.shard)
    return True


cdef int leave_locks(list locks) except -1:
    """Release all of them, the last first. This thread holds them, and they are of one table."""
    if locks:
        leave_locks_of(<Holder>current_holder(), locks)
    return flush_if_free()


cdef int leave_locks_of(Holder holder, list locks) except -1:
    """Release those that the holder has, the last first. They are of one table."""
    cdef PyObject *backend = load_object((<KeyLock>locks[0]).table.backend) if locks else NULL
    for lock in reversed(locks):
        give_back(lock, <PyObject *>holder)
    if backend != NULL:
        leave_remotely(backend, locks, holder)
    return 0


cdef bint enter_locks(list locks, long long timeout_ns, list taken) except -1:
    """Take all of them, in this order, and note them in `taken`; False, and some of them, when the time is over."""
    cdef long long end = 0 if timeout_ns < 0 else monotonic_ns() + timeout_ns
    for lock in locks:
        if not enter_lock(lock, timeout_ns if timeout_ns <= 0 else max(0, end - monotonic_ns())):
            return False
        taken.append(lock)
    return True


# The shard is locked.

cdef inline bint try_lock(Table *table, Cell *cell, Holder holder, const Waiter *waiter) noexcept:
    """Take the lock if it is the holder's, or free and no other thread's turn."""
    if cell.holder == <PyObject *>holder:
        cell.depth += 1
        return True
    if cell.holder == NULL and (cell.extra.turn == NULL or cell.extra.turn == waiter):
        hold(holder, table, cell)
        return True
    return False


cdef inline bint is_releasable(const Table *table, const Cell *cell) noexcept:
    """Whether this thread holds the lock, and more than once if its transaction needs it."""
    return cell.holder != NULL and cell.holder == fss_holder and not (cell.depth == 1 and has_draft(table, cell))


cdef inline void unlock_cell(Shard *shard, Cell *cell) noexcept:
    """Give the lock back once."""
    cell.depth -= 1
    if cell.depth == 0:
        let_go(cell)
        if cell.extra.waiters != NULL:
            call_next(cell)
        else:
            drop_if_unused(shard, cell)


cdef void call_next(Cell *cell) noexcept:
    """The lock is free: wake the first waiter, and with it those behind it that only want to get by.

    If the first one has waited for too long it is its turn. Waiters that run a handler are passed over.
    """
    cdef Waiter *waiter = cell.extra.waiters
    cdef bint first = True
    cell.extra.turn = NULL
    while waiter != NULL:
        if not waiter.away:
            if first and monotonic_ns() - waiter.since > FAIR_AFTER_NS:
                cell.extra.turn = waiter
            if first or not waiter.takes:
                wake(waiter)
            if waiter.takes:
                return
            first = False
        waiter = waiter.next


cdef void join_queue(Waiter **queue, Waiter *waiter) noexcept:
    while queue[0] != NULL:
        queue = &queue[0].next
    queue[0] = waiter


cdef void leave_queue(Waiter **queue, Waiter *waiter) noexcept:
    while queue[0] != waiter:
        queue = &queue[0].next
    queue[0] = waiter.next


cdef void leave_lock_queue(Cell *cell, Waiter *waiter) noexcept:
    """The waiter has the lock, gets by, or waits no longer. Its end follows when nothing is locked."""
    unblock(waiter)
    leave_queue(&cell.extra.waiters, waiter)
    waiter.queued = False
    if cell.extra.turn == waiter:
        cell.extra.turn = NULL
    if cell.holder == NULL:
        call_next(cell)


# Nothing is locked after these, unless they say so.

cdef bint wait_to_lock(Table *table, Shard *shard, Cell *cell, Holder holder, long long timeout_ns) except -1:
    """Wait until the holder, which is this thread's, has the lock; then the shard is locked.

    False when `timeout_ns` (-1: for ever) went by first. At the call the lock is not free, and the shard is locked.
    """
    cdef Waiter waiter
    waiter.queued = False
    while wait_for_turn(table, shard, cell, &waiter, True, timeout_ns):
        lock(&shard.mutex)
        if try_lock(table, cell, holder, &waiter):
            leave_lock_queue(cell, &waiter)
            unlock(&shard.mutex)
            end_waiting(table, &waiter)
            lock(&shard.mutex)
            return True
    return False


cdef bint wait_for_turn(
    Table *table, Shard *shard, Cell *cell, Waiter *waiter, bint takes, long long timeout_ns
) except -1:
    """Wait until the cell's lock is free, and not another thread's turn if this one `takes` it.

    The shard is locked at the call. When it returns True the waiter stands in the queue, and the caller looks again:
    if it can go on, it calls `leave_lock_queue` and `end_waiting`. False when `timeout_ns` (-1: for ever) after the
    first wait has come. Then, and after an error, the waiter has left.
    """
    cdef bint awake = True
    cdef bint free = False
    try:
        if not waiter.queued:
            start_waiting(shard, cell, waiter, takes, timeout_ns)
        else:
            waiter.away = True
            unlock(&shard.mutex)
        while not free:
            # A waiter that leaves here has just found the lock taken, so its release will wake another one.
            if attend(waiter) and waiter.blocked_by != NULL:
                block(waiter, cell)  # others did not count on it meanwhile
            if is_finalizing():
                raise RuntimeError(f"The interpreter ends while another thread holds the lock of {<object>cell.key!r}.")
            announce_wait(table, cell, waiter)
            lock(&shard.mutex)
            waiter.away = False
            free = is_free(cell, waiter)
            unlock(&shard.mutex)
            if free:
                break
            awake = waiter_sleep(waiter, timeout_ns)
            lock(&shard.mutex)
            free = is_free(cell, waiter)
            waiter.away = not free
            unlock(&shard.mutex)
            if not awake and not free and is_too_long(waiter, timeout_ns):
                refuse_to_block(f"Waiting for the lock of {<object>cell.key!r}, which another thread holds,")
            if not awake:
                break
    except BaseException:
        give_up_waiting(table, shard, cell, waiter)
        raise
    if not free:
        give_up_waiting(table, shard, cell, waiter)
    return free


cdef int start_waiting(Shard *shard, Cell *cell, Waiter *waiter, bint takes, long long timeout_ns) except -1:
    """Join the cell's queue. The shard is locked at the call."""
    if cell_extra(cell) == NULL or not waiter_start(waiter):
        unlock_shard(shard)
        raise MemoryError()
    waiter.queued = waiter.away = True
    waiter.takes = takes
    join_queue(&cell.extra.waiters, waiter)
    unlock(&shard.mutex)
    waiter_register(waiter)
    if timeout_ns < 0:
        block(waiter, cell)
    return 0


cdef inline bint is_free(const Cell *cell, const Waiter *waiter) noexcept:
    """Whether the waiter finds no other thread before it. The shard is locked."""
    if cell.holder != NULL:
        return cell.holder == waiter.holder
    return not waiter.takes or cell.extra.turn == NULL or cell.extra.turn == waiter


cdef int announce_wait(Table *table, Cell *cell, Waiter *waiter) except -1:
    """Tell a backend, now and then, that a thread waits without a limit: another process may wait for its locks.

    Raises DeadlockError if the wait would never end.
    """
    cdef PyObject *backend = load_object(table.backend)
    if backend == NULL or waiter.blocked_by == NULL or waiter.on_loop:
        return 0
    if waiter.announced == 0 or monotonic_ns() - waiter.announced >= ANNOUNCE_EVERY_NS:
        waiter.announced = monotonic_ns()
        if waiter.key == NULL:
            waiter.key = cell.key
            _incref(waiter.key)
        (<object>backend).waiting(<object>waiter.key)
    return 0


cdef void give_up_waiting(Table *table, Shard *shard, Cell *cell, Waiter *waiter) noexcept:
    """The waiter goes without the lock, and has not got by."""
    if waiter.queued:  # else there was no memory for it
        lock(&shard.mutex)
        leave_lock_queue(cell, waiter)
        drop_if_unused(shard, cell)
        unlock_shard(shard)
        end_waiting(table, waiter)


cdef void end_waiting(Table *table, Waiter *waiter) noexcept:
    """What follows `leave_lock_queue`."""
    cdef PyObject *backend = load_object(table.backend)
    if waiter.key != NULL:
        if backend != NULL:
            (<object>backend).waited(<object>waiter.key)
        _decref(waiter.key)
    waiter_end(waiter)
