# cython: language_level=3
# The re-entrant locks of the keys. See the head of _core.pyx.

# The lock is reserved for a waiter that has waited for this long: no other thread may take it before that waiter.
cdef long long FAIR_AFTER_NS = 2_000_000
# Interval between reports to a backend that a thread still waits.
cdef long long REPORT_INTERVAL_NS = 1_000_000_000
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
    cdef Cell *cell             # not freed while this object lives
    cdef object reference       # a weak reference to this object
    cdef PyObject *next_released
    cdef object __weakref__

    def __cinit__(self, token=None):
        if token is not PRIVATE:
            raise TypeError("Create locks with server_state_lock[key].")

    def __dealloc__(self):
        cdef PyObject *weak = NULL
        if self.cell == NULL:
            return
        lock(&self.shard.mutex)
        self.cell.cold.handles -= 1
        if self.cell.cold.handle == <PyObject *>self.reference:
            weak = self.cell.cold.handle
            self.cell.cold.handle = NULL
        drop_if_unused(self.shard, self.cell)
        unlock_shard(self.shard)
        _xdecref(weak)
        table_release(self.table)

    @cython.binding(False)
    def acquire(self, blocking=True, timeout=-1):
        return acquire_lock(self, timeout_to_ns(blocking, timeout))

    @cython.binding(False)
    def release(self):
        release_lock(self)

    @cython.binding(False)
    def locked(self):
        lock(&self.shard.mutex)
        held = self.cell.holder != NULL
        unlock(&self.shard.mutex)
        return held

    @cython.binding(False)
    def __enter__(self):
        return acquire_lock(self, -1)

    @cython.binding(False)
    def __exit__(self, exc_type, exc_value, traceback):
        release_lock(self)

    cdef bint is_releasable(self) noexcept:
        cdef bint found
        lock(&self.shard.mutex)
        found = is_releasable(self.table, self.cell)
        unlock(&self.shard.mutex)
        return found

    # Methods that threading.Condition calls

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
        refused = self.cell.holder == NULL or self.cell.holder != fss_holder or has_staged_value(self.table, self.cell)
        if not refused:
            self.cell.depth = 1
        unlock(&self.shard.mutex)
        if refused:
            refuse_release(self)
        release_lock(self)
        return depth

    def _acquire_restore(self, uint32_t depth):
        interruption = None
        while True:
            try:
                acquire_lock(self, -1)
                break
            except BaseException as error:  # raised below: the caller is in a block that releases the lock
                interruption = error
                time.sleep(0.01)  # the same interruption is likely to come again immediately
        self.cell.depth = depth
        if interruption is not None:
            raise interruption

    def __call__(self, *args, **kwargs):
        key = <str>self.cell.key
        if key in ("acquire", "release", "locked"):
            raise TypeError(
                f"server_state_lock has one lock for each key, so name the key: server_state_lock['key'].{key}()."
            )
        refuse_call(lock_expression(self))

    def __aenter__(self):
        refuse_async(f"with {lock_expression(self)}:")

    def __aexit__(self, exc_type, exc_value, traceback):
        pass

    def __reduce_ex__(self, protocol):
        refuse_copy(lock_expression(self))

    def __repr__(self):
        return f"<{lock_expression(self)} {'locked' if self.locked() else 'unlocked'}>"


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
            raise ValueError("server_state_lock[()] has no key. Name at least one: server_state_lock['key'].")
        self.locks = [store.lock(key) for key in sorted({plain_key(key) for key in keys})]

    def acquire(self, blocking=True, timeout=-1):
        cdef list taken = []
        cdef bint done = False
        try:
            done = acquire_locks(self.locks, timeout_to_ns(blocking, timeout), taken)
        finally:
            if not done:
                release_locks(taken)
        return done

    def release(self):
        cdef KeyLock lock
        cdef KeyLock refused = None
        cdef list releasable = []
        for lock in self.locks:
            if lock.is_releasable():
                releasable.append(lock)
            elif not consume_forked_hold(lock):
                refused = lock
        release_locks(releasable)
        if refused is not None:
            refuse_release(refused)

    def locked(self):
        return any([lock.locked() for lock in self.locks])

    def __enter__(self):
        return self.acquire()

    def __exit__(self, exc_type, exc_value, traceback):
        self.release()

    def __call__(self, *args, **kwargs):
        refuse_call(lock_expression(*self.locks))

    def __aenter__(self):
        refuse_async(f"with {lock_expression(*self.locks)}:")

    def __aexit__(self, exc_type, exc_value, traceback):
        pass

    def __reduce_ex__(self, protocol):
        refuse_copy(lock_expression(*self.locks))

    def __repr__(self):
        return f"<{lock_expression(*self.locks)} {'locked' if self.locked() else 'unlocked'}>"


def lock_expression(*locks):
    """The expression that returns the lock."""
    cdef KeyLock lock
    return f"server_state_lock[{', '.join([repr(<object>lock.cell.key) for lock in locks])}]"


cdef int refuse_call(str lock) except -1:
    raise TypeError(f"{lock} is a lock. Use it without parentheses: with {lock}:")


cdef int refuse_async(str block) except -1:
    raise TypeError(
        f"Waiting for a lock blocks the thread, so async with is not supported. Move the block, {block} ..., into a "
        "function and call it on another thread: await asyncio.to_thread(function)."
    )


cdef int refuse_copy(str lock) except -1:
    raise TypeError(
        f"{lock} belongs to this process and cannot be pickled or copied. Pass its key on instead, and get the lock "
        "with the key."
    )


cdef long long timeout_to_ns(blocking, timeout) except -2:
    """The arguments of `acquire` as a timeout in nanoseconds; -1 is none."""
    if blocking is True and PyLong_CheckExact(timeout) and timeout == -1:
        return -1
    threading.RLock().acquire(blocking, timeout)  # raises the errors of this version of Python
    return nanoseconds(timeout) if blocking else 0


cdef inline long long nanoseconds(double seconds) noexcept:
    return -1 if seconds < 0 else <long long>min(seconds * 1e9, FOR_EVER_NS)


cdef bint acquire_lock(KeyLock self, long long timeout_ns) except -1:
    """Acquire the lock; False if that was not possible within `timeout_ns` (-1: no timeout)."""
    cdef PyObject *backend = backend_of(self.table, self.cell)
    if backend != NULL and not self._is_owned():
        return acquire_through_backend(backend, self, timeout_ns)
    return acquire_here(self, timeout_ns)


cdef inline bint acquire_here(KeyLock self, long long timeout_ns) except -1:
    """Acquire the lock in this table."""
    cdef int instruction = 0
    cdef PyObject *code = caller_location(&instruction)
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
                locked = wait_for_lock(self.table, self.shard, cell, holder, timeout_ns)
    finally:
        if not locked:
            _xdecref(code)
    if not locked:
        return False
    if cell.depth == 1:
        code, cell.cold.code = cell.cold.code, code
        cell.cold.instruction = instruction
    unlock(&self.shard.mutex)
    _xdecref(code)
    return True


cdef int release_lock(KeyLock self) except -1:
    cdef PyObject *backend = backend_of(self.table, self.cell)
    if backend != NULL and self._is_owned():
        (<object>backend).entered(<object>self.cell.key)  # else others could briefly see the older value
    if not release_once(self, fss_holder):
        if consume_forked_hold(self):
            return 0
        refuse_release(self)
    if backend != NULL:
        release_in_backend(backend, [self], <Holder>fss_holder)
    return flush_if_free()


cdef inline int flush_if_free() except -1:
    """If the thread holds no lock any more, wait until its changes are durable, and flush its deferred callbacks."""
    cdef Holder holder
    if fss_holder == NULL or (<Holder>fss_holder).locks:
        return 0
    holder = <Holder>fss_holder
    if holder.undurable is not None:
        store, holder.undurable = holder.undurable, None
        try:
            wait_until_durable(store, True)
        finally:  # a change that could not be stored was made all the same
            if holder.deferred is not None:
                flush_deferred(holder)
    elif holder.deferred is not None:
        flush_deferred(holder)
    return 0


cdef bint consume_forked_hold(KeyLock self) noexcept:
    """Whether a release refers to an acquisition before the process forked. The child does not hold the lock then."""
    cdef bint excused = False
    lock(&self.shard.mutex)
    if self.cell.cold.forked and self.cell.holder == NULL:
        self.cell.cold.forked -= 1
        excused = True
    unlock(&self.shard.mutex)
    return excused


cdef int refuse_release(KeyLock self) except -1:
    """Raise the reason why this thread cannot release the lock."""
    if self._is_owned():
        key = <str>self.cell.key
        raise RuntimeError(
            f"server_state_lock[{key!r}] is held by a transaction that has written {key!r}, until it ends. Release "
            f"only the locks that you have acquired yourself, and wait outside of the transaction."
        )
    raise RuntimeError("cannot release un-acquired lock")


cdef bint release_once(KeyLock self, PyObject *holder) noexcept:
    """Release the lock once; False if the holder cannot do so."""
    cdef Cell *cell = self.cell
    lock(&self.shard.mutex)
    if holder == NULL or cell.holder != holder or (cell.depth == 1 and has_staged_value(self.table, cell)):
        unlock(&self.shard.mutex)
        return False
    unlock_cell(self.shard, cell)
    unlock_shard(self.shard)
    return True


cdef int release_locks(list locks) except -1:
    """Release the locks in reverse order. This thread holds them, and they are of one table."""
    if locks:
        release_locks_of(<Holder>current_holder(), locks)
    return flush_if_free()


cdef int release_locks_of(Holder holder, list locks) except -1:
    """Release those of the locks that the holder has, in reverse order. They are of one table."""
    cdef PyObject *backend = backend_of((<KeyLock>locks[0]).table, (<KeyLock>locks[0]).cell) if locks else NULL
    for lock in reversed(locks):
        release_once(lock, <PyObject *>holder)
    if backend != NULL:
        release_in_backend(backend, locks, holder)
    return 0


cdef bint acquire_locks(list locks, long long timeout_ns, list taken) except -1:
    """Acquire the locks in this order and append them to `taken`; False, with some of them taken, after the timeout."""
    cdef long long end = 0 if timeout_ns < 0 else monotonic_ns() + timeout_ns
    for lock in locks:
        if not acquire_lock(lock, timeout_ns if timeout_ns <= 0 else max(0, end - monotonic_ns())):
            return False
        taken.append(lock)
    return True


# For the following functions the shard is locked.

cdef inline bint try_lock(Table *table, Cell *cell, Holder holder, const Waiter *waiter) noexcept:
    """Acquire the lock if the holder has it already, or it is free and not reserved for another waiter."""
    if cell.holder == <PyObject *>holder:
        cell.depth += 1
        return True
    if cell.holder == NULL and (cell.cold.reserved_for == NULL or cell.cold.reserved_for == waiter):
        set_holder(holder, table, cell)
        return True
    return False


cdef inline bint is_releasable(const Table *table, const Cell *cell) noexcept:
    """Whether this thread holds the lock, and more than once if its transaction needs it."""
    return cell.holder != NULL and cell.holder == fss_holder and not (cell.depth == 1 and has_staged_value(table, cell))


cdef inline void unlock_cell(Shard *shard, Cell *cell) noexcept:
    """Release the lock once."""
    cell.depth -= 1
    if cell.depth == 0:
        clear_holder(cell)
        if cell.terms_at:
            unpark(shard, cell)
        if cell.cold.waiters != NULL:
            wake_next_waiter(cell)
        else:
            drop_if_unused(shard, cell)


cdef void wake_next_waiter(Cell *cell) noexcept:
    """Wake the first waiter for the free lock, and those behind it up to the next one that wants to hold the lock.

    If the first one has waited for too long, the lock is reserved for it. Waiters in handlers are skipped.
    """
    cdef Waiter *waiter = cell.cold.waiters
    cdef bint first = True
    cell.cold.reserved_for = NULL
    while waiter != NULL:
        if not waiter.in_handler:
            if first and monotonic_ns() - waiter.started_ns > FAIR_AFTER_NS:
                cell.cold.reserved_for = waiter
            if first or not waiter.wants_lock:
                wake(waiter)
            if waiter.wants_lock:
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
    """The waiter's wait is over. Call `end_waiting` when nothing is locked."""
    clear_wait(waiter)
    leave_queue(&cell.cold.waiters, waiter)
    waiter.queued = False
    if cell.cold.reserved_for == waiter:
        cell.cold.reserved_for = NULL
    if cell.holder == NULL:
        wake_next_waiter(cell)


cdef inline bint is_available(const Cell *cell, const Waiter *waiter) noexcept:
    """Whether the waiter may take the lock or, if it does not want to hold it, may pass."""
    if cell.holder != NULL:
        return cell.holder == waiter.holder
    return not waiter.wants_lock or cell.cold.reserved_for == NULL or cell.cold.reserved_for == waiter


# Nothing is locked when the following functions return, unless they say so.

cdef bint wait_for_lock(Table *table, Shard *shard, Cell *cell, Holder holder, long long timeout_ns) except -1:
    """Wait until the lock is acquired for this thread's holder. Then the shard is locked.

    False if `timeout_ns` (-1: none) passed first. At the call the lock is not free, and the shard is locked.
    """
    cdef Waiter waiter
    waiter.queued = False
    while wait_until_available(table, shard, cell, &waiter, True, timeout_ns):
        lock(&shard.mutex)
        if try_lock(table, cell, holder, &waiter):
            leave_lock_queue(cell, &waiter)
            unlock(&shard.mutex)
            end_waiting(table, &waiter)
            lock(&shard.mutex)
            return True
    return False


cdef bint wait_until_available(
    Table *table, Shard *shard, Cell *cell, Waiter *waiter, bint wants_lock, long long timeout_ns
) except -1:
    """Wait until the cell's lock is free and, if this thread wants to hold it, not reserved for another one.

    The shard is locked at the call. After True the waiter is in the queue, and the caller has to check the lock again:
    if it can go on, it calls `leave_lock_queue` and `end_waiting`, else this function. False once `timeout_ns` (-1:
    none) have passed since the first call. Then, and after an exception, the waiter is not in the queue any more.
    """
    cdef bint awake = True
    try:
        enter_queue(shard, cell, waiter, wants_lock, timeout_ns)
        while awake:
            run_handlers(table, cell, waiter)
            if check_lock(shard, cell, waiter, False):
                return True
            awake = waiter_sleep(waiter, timeout_ns)
            if check_lock(shard, cell, waiter, True):
                return True
        if exceeds_loop_limit(waiter, timeout_ns):
            refuse_to_block(f"Waiting for the lock of {<object>cell.key!r}, which another thread holds,")
    except BaseException:
        give_up_waiting(table, shard, cell, waiter)
        raise
    give_up_waiting(table, shard, cell, waiter)
    return False


cdef int enter_queue(Shard *shard, Cell *cell, Waiter *waiter, bint wants_lock, long long timeout_ns) except -1:
    """Put the waiter, which is about to run handlers, into the cell's queue if it is not there yet.

    The shard is locked at the call.
    """
    if waiter.queued:
        waiter.in_handler = True
        unlock(&shard.mutex)
        return 0
    if ensure_cold(cell) == NULL or not waiter_start(waiter):
        unlock_shard(shard)
        raise MemoryError()
    waiter.queued = waiter.in_handler = True
    waiter.wants_lock = wants_lock
    join_queue(&cell.cold.waiters, waiter)
    unlock(&shard.mutex)
    waiter_register(waiter)
    if timeout_ns < 0:
        detect_deadlock(waiter, cell)
    return 0


cdef int run_handlers(Table *table, const Cell *cell, Waiter *waiter) except -1:
    """Run what may end the wait with an exception.

    If it does, the waiter has just found the lock held, so the release of the lock wakes another waiter.
    """
    if check_interrupts(waiter) and waiter.blocked_by != NULL:
        detect_deadlock(waiter, cell)  # while it had to check for a stop, other threads did not count it as blocked
    if is_finalizing():
        raise RuntimeError(
            f"The interpreter is shutting down while another thread holds the lock of {<object>cell.key!r}."
        )
    report_wait(table, cell, waiter)
    return 0


cdef bint check_lock(Shard *shard, const Cell *cell, Waiter *waiter, bint handlers_follow) noexcept:
    """Whether the lock is available. If it is not, note whether the waiter runs handlers next."""
    cdef bint available
    lock(&shard.mutex)
    available = is_available(cell, waiter)
    waiter.in_handler = handlers_follow and not available
    unlock(&shard.mutex)
    return available


cdef int report_wait(Table *table, const Cell *cell, Waiter *waiter) except -1:
    """Report a wait without a timeout to the backend, periodically: another process may wait for this one's locks.

    Raises DeadlockError if the wait would never end.
    """
    cdef PyObject *backend = backend_of(table, cell)
    if backend == NULL or waiter.blocked_by == NULL or waiter.on_loop:
        return 0
    if waiter.reported_ns == 0 or monotonic_ns() - waiter.reported_ns >= REPORT_INTERVAL_NS:
        waiter.reported_ns = monotonic_ns()
        if waiter.reported_key == NULL:
            waiter.reported_key = cell.key
            _incref(waiter.reported_key)
        (<object>backend).waiting(<object>waiter.reported_key)
    return 0


cdef void give_up_waiting(Table *table, Shard *shard, Cell *cell, Waiter *waiter) noexcept:
    """End a wait that was not successful."""
    if waiter.queued:  # else there was no memory for it
        lock(&shard.mutex)
        leave_lock_queue(cell, waiter)
        drop_if_unused(shard, cell)
        unlock_shard(shard)
        end_waiting(table, waiter)


cdef void end_waiting(Table *table, Waiter *waiter) noexcept:
    """Report the end of the wait, and free what the waiter has. Follows `leave_lock_queue`."""
    cdef PyObject *backend = load_object(table.backend)
    if waiter.reported_key != NULL:
        if backend != NULL:
            (<object>backend).waited(<object>waiter.reported_key)
        _decref(waiter.reported_key)
    waiter_end(waiter)
