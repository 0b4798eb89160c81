# cython: language_level=3
# Waiting threads: how they sleep and wake, and how deadlocks are detected. See the head of _core.pyx.

# The longest wait of a thread that runs an event loop: enough for locks that are held briefly.
cdef long long MAX_LOOP_WAIT_NS = 20_000_000
# Interval between checks whether the waiter's pool or process is shutting down.
cdef long long POLL_INTERVAL_NS = 250_000_000
MAX_LOOP_WAIT = MAX_LOOP_WAIT_NS / 1e9

# `is_in_pool()` and `raise_if_over()`: see `on_ends`.
cdef object is_in_pool = None
cdef object raise_if_over = None
cdef bint process_ends = False

# All waiters of the process. No other mutex is locked while this one is.
cdef Mutex register_mutex
cdef Waiter *register = NULL


cdef bint waiter_start(Waiter *self) noexcept:
    """Initialize a waiter for the calling thread, which has a holder; False if there is no memory."""
    memset(self, 0, sizeof(Waiter))
    self.gate = PyThread_allocate_lock()
    if self.gate == NULL:
        return False
    PyThread_acquire_lock(self.gate, NOWAIT_LOCK)
    self.holder = fss_holder
    _incref(self.holder)
    self.started_ns = monotonic_ns()
    return True


cdef int waiter_register(Waiter *self) except -1:
    """Make the waiter known to other threads. No mutex is locked."""
    global register
    cdef Session session = located_session()
    if session is not None:
        self.session = <PyObject *>session
        _incref(self.session)
        self.check_stop = True  # the run may be stopping already
    elif is_in_pool is not None:
        self.polls = is_in_pool()
    self.on_loop = on_event_loop()
    self.polled_ns = self.started_ns
    lock(&register_mutex)
    self.next_registered = register
    register = self
    unlock(&register_mutex)
    return 0


cdef void waiter_end(Waiter *self) noexcept:
    """Free what the waiter has. No mutex is locked, and the waiter is in no queue."""
    cdef Waiter **link = &register
    lock(&register_mutex)
    while link[0] != NULL and link[0] != self:
        link = &link[0].next_registered
    if link[0] != NULL:
        link[0] = self.next_registered
    unlock(&register_mutex)
    PyThread_free_lock(self.gate)
    _decref(self.holder)
    _xdecref(self.session)


cdef void forget_waiters() noexcept:
    """Empty the register in a forked process, which does not have the other threads."""
    global register, process_ends
    register = NULL
    process_ends = False
    memset(&register_mutex, 0, sizeof(Mutex))


cdef void wake(Waiter *self) noexcept:
    lock(&register_mutex)
    wake_registered(self)
    unlock(&register_mutex)


cdef inline void wake_registered(Waiter *self) noexcept:
    if not self.gate_open:
        self.gate_open = True
        PyThread_release_lock(self.gate)


cdef bint check_interrupts(Waiter *self) except -1:
    """Raise what stops the thread's script run, and what signal handlers raise. No mutex is locked.

    Returns whether the thread was asked to check for a stop.
    """
    cdef bint check_stop
    lock(&register_mutex)
    check_stop, self.check_stop = self.check_stop, False
    unlock(&register_mutex)
    if check_stop:
        (<Session>self.session).raise_if_stopped()
    PyErr_CheckSignals()
    if (self.polls or process_ends) and monotonic_ns() - self.polled_ns >= POLL_INTERVAL_NS:
        self.polled_ns = monotonic_ns()
        raise_if_over()
    return check_stop


cdef bint waiter_sleep(Waiter *self, long long timeout_ns) noexcept:
    """Sleep until the waiter is woken or a signal arrives. False once `timeout_ns` have passed since the wait started.

    -1 is no timeout. On an event loop the timeout may be shorter: see `exceeds_loop_limit`. Call `check_interrupts`
    before each sleep, because a signal that arrives before it does not end it. No mutex is locked.
    """
    cdef long long limit_ns = MAX_LOOP_WAIT_NS if exceeds_loop_limit(self, timeout_ns) else timeout_ns
    cdef long long left_ns = -1 if limit_ns < 0 else max(0, self.started_ns + limit_ns - monotonic_ns())
    cdef long long slice_ns = -1
    cdef bint is_last = limit_ns >= 0
    cdef int status
    if self.polls or process_ends:
        slice_ns = POLL_INTERVAL_NS
    elif self.reported_ns:
        slice_ns = REPORT_INTERVAL_NS
    if slice_ns >= 0 and (left_ns < 0 or left_ns > slice_ns):
        left_ns = slice_ns
        is_last = False
    with nogil:
        status = PyThread_acquire_lock_timed(self.gate, left_ns // 1000 + 1 if left_ns > 0 else left_ns, 1)
    if status == PY_LOCK_ACQUIRED:
        lock(&register_mutex)
        self.gate_open = False
        unlock(&register_mutex)
    return not is_last or status == PY_LOCK_ACQUIRED or status == PY_LOCK_INTR


cdef void stop_waiters(Session session) noexcept:
    """Make the waiting threads of the session, or of all sessions if it is None, check whether their run is stopped."""
    cdef Waiter *waiter
    lock(&register_mutex)
    waiter = register
    while waiter != NULL:
        if waiter.session != NULL and (session is None or waiter.session == <PyObject *>session):
            waiter.check_stop = True
            wake_registered(waiter)
        waiter = waiter.next_registered
    unlock(&register_mutex)


def wake_waiters():
    stop_waiters(None)


# A thread that runs an event loop must not block: that would stop everything that the loop serves. So a wait there is
# refused after MAX_LOOP_WAIT_NS.

cdef object running_loop():
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def on_event_loop():
    return running_loop() is not None


cdef inline bint exceeds_loop_limit(const Waiter *self, long long timeout_ns) noexcept:
    """Whether the thread runs an event loop, which cannot wait for that long."""
    return self.on_loop and (timeout_ns < 0 or timeout_ns > MAX_LOOP_WAIT_NS)


cpdef refuse_to_block(str what):
    from fastserverstate.errors import WouldBlockError
    raise WouldBlockError(
        f"{what} would block the event loop that this thread runs, so nothing was done. Make the call on another "
        f"thread: await asyncio.to_thread(...) or, in a function that is not async, "
        f"asyncio.get_running_loop().run_in_executor(None, ...)."
    )


# Shutdown of a pool or of the process: it ends waits for threads that are gone.

def on_ends(in_pool, if_over):
    global is_in_pool, raise_if_over
    is_in_pool, raise_if_over = in_pool, if_over


def end_process():
    """The main thread ends: make all waiting threads check whether the process is shutting down."""
    global process_ends
    cdef Waiter *waiter
    process_ends = True
    lock(&register_mutex)
    waiter = register
    while waiter != NULL:
        wake_registered(waiter)
        waiter = waiter.next_registered
    unlock(&register_mutex)


def process_is_ending():
    return process_ends


def waits():
    """The waiting threads, each with the time at which its wait started."""
    cdef Waiter *waiter
    cdef long long *found
    cdef Py_ssize_t room = 64, n = 0, at
    while True:
        found = <long long *>PyMem_RawMalloc(2 * room * sizeof(long long))
        if found == NULL:
            raise MemoryError()
        n = 0
        lock(&register_mutex)
        waiter = register
        while waiter != NULL:
            if n < room:
                found[2 * n] = <long long>(<Holder>waiter.holder).thread
                found[2 * n + 1] = waiter.started_ns
            n += 1
            waiter = waiter.next_registered
        unlock(&register_mutex)
        if n <= room:
            break
        PyMem_RawFree(found)
        room = 2 * n
    try:
        return frozenset([(found[2 * at], found[2 * at + 1]) for at in range(n)])
    finally:
        PyMem_RawFree(found)


# Deadlocks. In a deadlock each thread waits for a lock that the next thread of a cycle holds. The thread whose wait
# completes the cycle detects it. All others are blocked meanwhile, because only waits without a timeout count.

cdef enum:
    MAX_HOPS = 10_000
    MAX_NAMED = 32  # locks of a cycle in the message

ctypedef struct HeldLock:
    # A lock in a cycle, with references of its own: they stay valid when the register is unlocked.
    PyObject *key
    PyObject *code
    PyObject *session
    int instruction
    unsigned long thread


cdef int detect_deadlock(Waiter *self, const Cell *cell) except -1:
    """Note that the thread waits for the cell's lock without a timeout. Raise DeadlockError if that completes a cycle.

    The thread is in the cell's queue. No mutex is locked.
    """
    cdef HeldLock cycle[MAX_NAMED]
    cdef int n = 0, i
    lock(&register_mutex)
    self.blocked_by = cell
    if completes_cycle(self):
        n = copy_cycle(self, cycle)
        self.blocked_by = NULL
    unlock(&register_mutex)
    if n == 0:
        return 0
    raise_deadlock([
        (
            owned(cycle[i].key),
            cycle[i].thread,
            None if cycle[i].session == NULL else owned(cycle[i].session),
            None if cycle[i].code == NULL else owned(cycle[i].code),
            cycle[i].instruction,
        )
        for i in range(n)
    ])
    return -1


# The register is locked, so no thread of a cycle can leave it.

cdef bint completes_cycle(const Waiter *self) noexcept:
    """Whether the chain of holders, from the lock that this thread waits for, leads back to this thread."""
    cdef const Cell *cell = self.blocked_by
    cdef const Waiter *next_waiter
    cdef int hop
    for hop in range(MAX_HOPS):
        if load_object(cell.holder) == self.holder:
            return True
        next_waiter = blocked_waiter(load_object(cell.holder))
        if next_waiter == NULL:
            return False
        cell = next_waiter.blocked_by
    return False


cdef const Waiter *blocked_waiter(PyObject *holder) noexcept:
    """The waiter of a holder that waits for a lock without a timeout, NULL if the holder does not."""
    cdef const Waiter *waiter = register
    while waiter != NULL:
        if waiter.holder == holder and waiter.blocked_by != NULL:
            # It may have taken the lock and not unregistered yet, or be about to give up.
            return waiter if load_object(waiter.blocked_by.holder) != holder and not waiter.check_stop else NULL
        waiter = waiter.next_registered
    return NULL


cdef int copy_cycle(const Waiter *self, HeldLock *cycle) noexcept:
    """Copy the locks of the cycle that this thread is in, up to MAX_NAMED. Returns their number."""
    cdef const Cell *cell = self.blocked_by
    cdef const Waiter *waiter = NULL
    cdef HeldLock *held
    cdef int n = 0
    while n < MAX_NAMED and waiter != self:
        waiter = self if load_object(cell.holder) == self.holder else blocked_waiter(load_object(cell.holder))
        if waiter == NULL:
            break
        held = &cycle[n]
        held.thread = (<Holder>waiter.holder).thread
        held.key = cell.key
        held.code = NULL if cell.cold == NULL else cell.cold.code
        held.instruction = 0 if cell.cold == NULL else cell.cold.instruction
        held.session = waiter.session
        _incref(held.key)
        _xincref(held.code)
        _xincref(held.session)
        n += 1
        cell = waiter.blocked_by
    return n


cdef void clear_wait(Waiter *self) noexcept:
    """The thread does not wait any more, and the cell may be freed."""
    lock(&register_mutex)
    self.blocked_by = NULL
    unlock(&register_mutex)


cdef int raise_deadlock(list cycle) except -1:
    from fastserverstate.errors import DeadlockError
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    steps = []
    for at, (key, thread, session, code, instruction) in enumerate(cycle):
        who = f"thread {names.get(thread, 'unknown')!r} ({thread})" + (f" of {session}" if session is not None else "")
        where = f"at {format_location(code, instruction)}" if code is not None else "by an operation on it"
        steps.append(f"{who} holds {key!r}, taken {where}, and waits for {cycle[(at + 1) % len(cycle)][0]!r}")
    keys = ", ".join(sorted(repr(key) for key, *_ in cycle))
    raise DeadlockError(
        f"Waiting for server_state_lock[{cycle[0][0]!r}] would never end: {'; '.join(steps)}. Take these locks "
        f"together, server_state_lock[{keys}], or in the same order everywhere."
    )


def source_location(code, int instruction):
    return "an unknown location" if code is None else format_location(code, instruction)


cdef str format_location(code, int instruction):
    return f"{code.co_filename}:{line_of(<PyObject *>code, instruction)} in {code.co_qualname}"
