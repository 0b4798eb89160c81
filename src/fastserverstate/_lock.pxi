# cython: language_level=3
# The re-entrant lock of a key. See _core.pyx for the whole.

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
        if self.cell.extra.handle == <PyObject *>self.reference:
            weak = self.cell.extra.handle
            self.cell.extra.handle = NULL
            drop_if_unused(self.shard, self.cell)
        unlock_shard(self.shard)
        _xdecref(weak)
        table_disown(self.table)

    @cython.binding(False)
    def acquire(self, blocking=True, timeout=-1):
        cdef double seconds = timeout
        if seconds != seconds:
            raise ValueError("Invalid value NaN (not a number)")
        if not blocking and seconds != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        if seconds < 0 and seconds != -1:
            raise ValueError("timeout value must be a non-negative number")
        if seconds > threading.TIMEOUT_MAX:
            raise OverflowError("timeout value is too large")
        lock(&self.shard.mutex)
        if try_lock(self.cell):
            unlock(&self.shard.mutex)
            return True
        if not blocking:
            unlock(&self.shard.mutex)
            return False
        return wait_for_lock(self.shard, self.cell, -1 if seconds == -1 else <long long>min(seconds * 1e9, FOR_EVER_NS))

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
        enter_lock(self)
        return True

    @cython.binding(False)
    def __exit__(self, exc_type, exc_value, traceback):
        leave_lock(self)

    # What threading.Condition asks of a re-entrant lock.

    def _is_owned(self):
        lock(&self.shard.mutex)
        owned = self.cell.owner == PyThread_get_thread_ident()
        unlock(&self.shard.mutex)
        return owned

    def _release_save(self):
        cdef uint32_t depth
        lock(&self.shard.mutex)
        if self.cell.owner != PyThread_get_thread_ident():
            unlock(&self.shard.mutex)
            raise RuntimeError(NOT_OWNED)
        depth = self.cell.depth
        self.cell.depth = 1
        unlock_cell(self.shard, self.cell)
        unlock_shard(self.shard)
        return depth

    def _acquire_restore(self, uint32_t depth):
        enter_lock(self)
        self.cell.depth = depth

    def __repr__(self):
        return f"<server_state_lock[{<str>self.cell.key!r}] {'locked' if self.locked() else 'unlocked'}>"


cdef str NOT_OWNED = "cannot release un-acquired lock"


cdef inline int enter_lock(KeyLock self) except -1:
    lock(&self.shard.mutex)
    if try_lock(self.cell):
        unlock(&self.shard.mutex)
        return 0
    wait_for_lock(self.shard, self.cell, -1)
    return 0


cdef inline int leave_lock(KeyLock self) except -1:
    lock(&self.shard.mutex)
    if self.cell.owner != PyThread_get_thread_ident():
        unlock(&self.shard.mutex)
        raise RuntimeError(NOT_OWNED)
    unlock_cell(self.shard, self.cell)
    unlock_shard(self.shard)
    return 0


# The shard is locked.

cdef inline bint try_lock(Cell *cell) noexcept:
    cdef unsigned long me = PyThread_get_thread_ident()
    if cell.owner == me:
        cell.depth += 1
        return True
    if cell.owner == 0:
        cell.owner = me
        cell.depth = 1
        return True
    return False


cdef inline void unlock_cell(Shard *shard, Cell *cell) noexcept:
    """Give the lock back once. This thread holds it."""
    cell.depth -= 1
    if cell.depth == 0:
        cell.owner = 0
        if cell.extra != NULL and cell.extra.waiters != NULL:
            hand_over(cell)
        else:
            drop_if_unused(shard, cell)


cdef void hand_over(Cell *cell) noexcept:
    """Wake who has waited longest, and make it the owner if that was too long."""
    cdef Waiter *waiter = cell.extra.waiters
    cdef Waiter *other
    if monotonic_ns() - waiter.since <= FAIR_AFTER_NS:
        wake(waiter)
        return
    cell.extra.waiters = waiter.next
    cell.owner = waiter.thread
    cell.depth = 1
    waiter.granted = True
    wake(waiter)
    other = cell.extra.waiters
    while other != NULL:  # of a signal handler, which that thread runs while it waits
        if other.thread == waiter.thread:
            wake(other)
        other = other.next


cdef inline void wake(Waiter *waiter) noexcept:
    if not waiter.woken:
        waiter.woken = True
        PyThread_release_lock(waiter.gate)


cdef void leave_queue(Cell *cell, Waiter *waiter) noexcept:
    cdef Waiter **link = &cell.extra.waiters
    while link[0] != waiter:
        link = &link[0].next
    link[0] = waiter.next


cdef bint wait_for_lock(Shard *shard, Cell *cell, long long timeout_ns) except -1:
    """Wait until this thread holds the lock; False when `timeout_ns` (-1: for ever) went by first.

    Another thread holds it at the call, and the shard is locked. The shard is unlocked after it.
    """
    cdef Waiter waiter
    cdef Waiter **link
    cdef long long left
    cdef long long microseconds = -1
    cdef int status = PY_LOCK_FAILURE
    cdef bint locked = False
    memset(&waiter, 0, sizeof(Waiter))
    waiter.gate = PyThread_allocate_lock()
    if waiter.gate == NULL or cell_extra(cell) == NULL:
        unlock(&shard.mutex)
        if waiter.gate != NULL:
            PyThread_free_lock(waiter.gate)
        raise MemoryError()
    PyThread_acquire_lock(waiter.gate, NOWAIT_LOCK)
    waiter.thread = PyThread_get_thread_ident()
    waiter.since = monotonic_ns()
    link = &cell.extra.waiters
    while link[0] != NULL:
        link = &link[0].next
    link[0] = &waiter
    unlock(&shard.mutex)
    try:
        while True:
            if timeout_ns >= 0:
                left = waiter.since + timeout_ns - monotonic_ns()
                microseconds = left // 1000 + 1 if left > 0 else 0
            with nogil:
                status = PyThread_acquire_lock_timed(waiter.gate, microseconds, 1)
            if status == PY_LOCK_INTR:
                PyErr_CheckSignals()
            lock(&shard.mutex)
            locked = waiter.granted or try_lock(cell)
            if locked or status == PY_LOCK_FAILURE:
                break
            if status == PY_LOCK_ACQUIRED:
                waiter.woken = False
            unlock(&shard.mutex)
    except BaseException:
        lock(&shard.mutex)
        if waiter.granted:
            unlock_cell(shard, cell)
        raise
    finally:  # the shard is locked
        if not waiter.granted:
            leave_queue(cell, &waiter)
            if waiter.woken and cell.owner == 0 and cell.extra.waiters != NULL:
                wake(cell.extra.waiters)  # this thread was told that the lock is free and did not take it
        drop_if_unused(shard, cell)
        unlock_shard(shard)
        PyThread_free_lock(waiter.gate)
    return locked
