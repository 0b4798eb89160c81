# cython: language_level=3
# A key, and the re-entrant lock that it is. See _core.pyx for the whole.

# A waiter that has been passed over for this long is given the lock directly instead of being told to try.
cdef long long FAIR_AFTER_NS = 2_000_000
cdef double FOR_EVER_NS = 2.0 ** 62


@cython.final
cdef class _Waiter:
    """One thread that waits for a cell's lock: an OS lock, held until somebody wakes the thread."""
    cdef PyThread_type_lock gate
    cdef unsigned long thread
    cdef long long since
    cdef bint woken      # the gate was opened and the thread has not looked yet
    cdef bint granted    # the thread already is the owner

    def __cinit__(self):
        self.gate = PyThread_allocate_lock()
        if self.gate == NULL:
            raise MemoryError()
        PyThread_acquire_lock(self.gate, 0)
        self.thread = PyThread_get_thread_ident()
        self.since = monotonic_ns()

    def __dealloc__(self):
        if self.gate != NULL:
            PyThread_free_lock(self.gate)

    cdef inline void wake(self) noexcept:
        self.woken = True
        PyThread_release_lock(self.gate)


@cython.final
cdef class Cell:
    """Everything about one key. Outside of this module it is the key's re-entrant lock."""
    cdef str key
    cdef Py_hash_t hash
    cdef Cell next            # in the bucket's chain
    cdef object value         # ABSENT when the key is not set
    cdef uint64_t version     # the store's clock at the last change
    cdef uint64_t born        # the store's clock when the key appeared: the order of iteration
    cdef Subscribers readers  # depend on the value
    cdef Subscribers watchers  # depend on whether there is one
    cdef bint presence_owed   # it appeared or vanished in a `no_rerun` block, and the watchers do not know
    cdef bint linked          # in the table
    cdef bint reserved        # the key is also a method's name, which wins in attribute access
    cdef bint handed_out      # somebody may hold this lock object, whose identity must last
    cdef unsigned long owner  # ident of the thread that holds the lock, 0 when free
    cdef unsigned long depth
    cdef list waiters

    def __init__(self):
        raise TypeError("Locks are made by server_state_lock[key].")

    def __dealloc__(self):
        subscribers_free(&self.readers)
        subscribers_free(&self.watchers)

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
        if _try_lock(self):
            return True
        if not blocking:
            return False
        return _wait_for_lock(self, -1 if seconds == -1 else <long long>min(seconds * 1e9, FOR_EVER_NS))

    def release(self):
        _unlock(self)

    def locked(self):
        return self.owner != 0

    def __enter__(self):
        if not _try_lock(self):
            _wait_for_lock(self, -1)
        return True

    def __exit__(self, exc_type, exc_value, traceback):
        _unlock(self)

    # What threading.Condition asks of a re-entrant lock.

    def _is_owned(self):
        return self.owner == PyThread_get_thread_ident()

    def _release_save(self):
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        depth = self.depth
        self.depth = 1
        _unlock(self)
        return depth

    def _acquire_restore(self, depth):
        self.__enter__()
        self.depth = depth

    def __repr__(self):
        return f"<server_state_lock[{self.key!r}] {'locked' if self.owner else 'unlocked'}>"


cdef inline bint _try_lock(Cell self) noexcept:
    cdef unsigned long me = PyThread_get_thread_ident()
    if self.owner == me:
        self.depth += 1
        return True
    if self.owner == 0:
        self.owner = me
        self.depth = 1
        return True
    return False


cdef bint _wait_for_lock(Cell self, long long timeout_ns) except -1:
    """Wait until this thread holds the lock; False when `timeout_ns` (-1: for ever) went by first."""
    cdef _Waiter waiter = _Waiter()
    cdef long long left
    cdef long long microseconds = -1
    cdef int status
    if self.waiters is None:
        self.waiters = []
    self.waiters.append(waiter)
    try:
        while not waiter.granted and not _try_lock(self):
            waiter.woken = False
            if timeout_ns >= 0:
                left = waiter.since + timeout_ns - monotonic_ns()
                if left <= 0:
                    return False
                microseconds = left // 1000 + 1
            with nogil:
                status = PyThread_acquire_lock_timed(waiter.gate, microseconds, 1)
            if status == PY_LOCK_INTR:
                PyErr_CheckSignals()
            elif status != PY_LOCK_ACQUIRED and not waiter.granted:
                return False
        return True
    except BaseException:
        if waiter.granted:
            _unlock(self)
        raise
    finally:
        if not waiter.granted:
            self.waiters.remove(waiter)
        if waiter.woken and self.owner == 0:
            _wake_next(self)  # this thread was told that the lock is free and did not take it


cdef void _wake_next(Cell self) noexcept:
    cdef _Waiter waiter
    if self.waiters:
        waiter = <_Waiter>self.waiters[0]
        if not waiter.woken:
            waiter.wake()


cdef int _unlock(Cell self) except -1:
    cdef _Waiter waiter
    if self.owner != PyThread_get_thread_ident():
        raise RuntimeError("cannot release un-acquired lock")
    self.depth -= 1
    if self.depth:
        return 0
    self.owner = 0
    if self.waiters:
        waiter = <_Waiter>self.waiters[0]
        if monotonic_ns() - waiter.since > FAIR_AFTER_NS:
            self.waiters.pop(0)
            self.owner = waiter.thread
            self.depth = 1
            waiter.granted = True
            if not waiter.woken:
                waiter.wake()
            for other in self.waiters:  # of a signal handler, which that thread runs while it waits
                if (<_Waiter>other).thread == waiter.thread and not (<_Waiter>other).woken:
                    (<_Waiter>other).wake()
        else:
            _wake_next(self)
    return 0


cdef inline bint _is_held_by_other(Cell self) noexcept:
    return self.owner != 0 and self.owner != PyThread_get_thread_ident()
