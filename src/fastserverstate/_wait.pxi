# cython: language_level=3
# Threads that wait: how they sleep, who wakes them, and how a circle of them is found. See _core.pyx for the whole.

ctypedef struct Waiter:
    # A thread that waits. Lives on that thread's stack.
    PyThread_type_lock gate   # an OS lock, closed while the thread is to sleep
    bint open                 # whether the gate is
    bint stopped              # the session's run is to end, and the thread has not looked yet
    bint on_loop              # the thread runs an event loop, which is to wait for LOOP_PATIENCE_NS at most
    bint looks                # now and then, whether it belongs to a pool that ends
    long long looked          # when it did so last
    PyObject *holder          # what the thread's locks belong to
    PyObject *session         # whose script run the thread is part of, or NULL
    const Cell *blocked_by    # whose lock it waits for, with no limit of time
    Waiter *registered        # the next one in the register
    PyObject *key             # that a backend was told of,
    long long announced       # and when
    # Guarded by the shard:
    bint queued               # for a lock
    Waiter *next              # in the queue
    long long since
    bint takes                # the thread wants to hold the lock; if not, to get by when no thread does
    bint away                 # the thread runs a handler, which may wait itself: it will look when it is back

# How long a thread that runs an event loop may wait: enough for locks that are held for a moment.
cdef long long LOOP_PATIENCE_NS = 20_000_000
# How often a waiter whose pool or process may end looks whether it does.
cdef long long LOOK_EVERY_NS = 250_000_000
LOOP_PATIENCE = LOOP_PATIENCE_NS / 1e9

# `is_in_pool()`, and `raise_if_over()`: see `on_ends`.
cdef object is_in_pool = None
cdef object raise_if_over = None
cdef bint process_ends = False

# Every waiter of the process. The mutex is taken last of all.
cdef Mutex register_mutex
cdef Waiter *register = NULL


cdef bint waiter_start(Waiter *self) noexcept:
    """Make a waiter of the calling thread, which has a holder; False when there is no memory."""
    memset(self, 0, sizeof(Waiter))
    self.gate = PyThread_allocate_lock()
    if self.gate == NULL:
        return False
    PyThread_acquire_lock(self.gate, NOWAIT_LOCK)
    self.holder = fss_holder
    _incref(self.holder)
    self.since = monotonic_ns()
    return True


cdef int waiter_register(Waiter *self) except -1:
    """Let the waiter be found. No mutex is locked."""
    global register
    cdef Session session = located_session()
    if session is not None:
        self.session = <PyObject *>session
        _incref(self.session)
        self.stopped = True  # it may be: look before the first sleep
    elif is_in_pool is not None:
        self.looks = is_in_pool()
    self.on_loop = on_event_loop()
    self.looked = self.since
    lock(&register_mutex)
    self.registered = register
    register = self
    unlock(&register_mutex)
    return 0


cdef void waiter_end(Waiter *self) noexcept:
    """No mutex is locked, and the waiter is in no queue."""
    cdef Waiter **link = &register
    lock(&register_mutex)
    while link[0] != NULL and link[0] != self:
        link = &link[0].registered
    if link[0] != NULL:
        link[0] = self.registered
    unlock(&register_mutex)
    PyThread_free_lock(self.gate)
    _decref(self.holder)
    _xdecref(self.session)


cdef void forget_waiters() noexcept:
    """In a forked process: the other threads are gone."""
    global register, process_ends
    register = NULL
    process_ends = False
    memset(&register_mutex, 0, sizeof(Mutex))


cdef void wake(Waiter *self) noexcept:
    lock(&register_mutex)
    wake_registered(self)
    unlock(&register_mutex)


cdef inline void wake_registered(Waiter *self) noexcept:
    if not self.open:
        self.open = True
        PyThread_release_lock(self.gate)


cdef bint attend(Waiter *self) except -1:
    """Raise what ends the script run that the thread is in, and what handlers of signals raise. No mutex is locked.

    Returns whether the thread was to look whether its run ends.
    """
    cdef bint stopped
    lock(&register_mutex)
    stopped, self.stopped = self.stopped, False
    unlock(&register_mutex)
    if stopped:
        (<Session>self.session).raise_if_stopped()
    PyErr_CheckSignals()
    if (self.looks or process_ends) and monotonic_ns() - self.looked >= LOOK_EVERY_NS:
        self.looked = monotonic_ns()
        raise_if_over()
    return stopped


cdef bint waiter_sleep(Waiter *self, long long timeout_ns) noexcept:
    """Sleep until the waiter is woken or a signal comes; False when `timeout_ns` after its start (-1: never) has come.

    On a thread that runs an event loop it comes sooner: see `is_too_long`. `attend` is to be called before each sleep,
    as a signal that comes before it does not end it. No mutex is locked.
    """
    cdef long long left = -1
    cdef long long slice = LOOK_EVERY_NS if self.looks or process_ends else ANNOUNCE_EVERY_NS if self.announced else -1
    cdef int status
    if is_too_long(self, timeout_ns):
        timeout_ns = LOOP_PATIENCE_NS
    if timeout_ns >= 0:
        left = max(0, self.since + timeout_ns - monotonic_ns())
    if slice >= 0 and (left < 0 or left > slice):
        left = slice
        timeout_ns = -1
    with nogil:
        status = PyThread_acquire_lock_timed(self.gate, left // 1000 + 1 if left > 0 else left, 1)
    if status == PY_LOCK_ACQUIRED:
        lock(&register_mutex)
        self.open = False
        unlock(&register_mutex)
    return timeout_ns < 0 or status == PY_LOCK_ACQUIRED or status == PY_LOCK_INTR


cdef void stop_waiters(Session session) noexcept:
    """Have the threads of the session that wait, or of all sessions if it is None, look whether their run is to end."""
    cdef Waiter *waiter
    lock(&register_mutex)
    waiter = register
    while waiter != NULL:
        if waiter.session != NULL and (session is None or waiter.session == <PyObject *>session):
            waiter.stopped = True
            wake_registered(waiter)
        waiter = waiter.registered
    unlock(&register_mutex)


def wake_waiters():
    stop_waiters(None)


# A wait on a thread that runs an event loop stops all that the loop serves. It is refused after a moment.

cdef object running_loop():
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def on_event_loop():
    return running_loop() is not None


cdef inline bint is_too_long(const Waiter *self, long long timeout_ns) noexcept:
    """Whether the waiter runs an event loop, which cannot wait for so long."""
    return self.on_loop and (timeout_ns < 0 or timeout_ns > LOOP_PATIENCE_NS)


cpdef refuse_to_block(str what):
    from fastserverstate.errors import WouldBlockError
    raise WouldBlockError(
        f"{what} would stop the event loop that this thread runs, so nothing was done. Make the call on another "
        f"thread: await asyncio.to_thread(...) or, in a function that is not async, "
        f"asyncio.get_running_loop().run_in_executor(None, ...)."
    )


# The end of a pool or of the process, when no thread may be left that would end a wait.

def on_ends(in_pool, if_over):
    global is_in_pool, raise_if_over
    is_in_pool, raise_if_over = in_pool, if_over


def end_process():
    """The main thread has come to its end: have all that wait look whether that is the end of their wait."""
    global process_ends
    cdef Waiter *waiter
    process_ends = True
    lock(&register_mutex)
    waiter = register
    while waiter != NULL:
        wake_registered(waiter)
        waiter = waiter.registered
    unlock(&register_mutex)


def process_is_ending():
    return process_ends


def waits():
    """The threads that wait, each with the time of its wait's beginning."""
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
                found[2 * n + 1] = waiter.since
            n += 1
            waiter = waiter.registered
        unlock(&register_mutex)
        if n <= room:
            break
        PyMem_RawFree(found)
        room = 2 * n
    try:
        return frozenset([(found[2 * at], found[2 * at + 1]) for at in range(n)])
    finally:
        PyMem_RawFree(found)


# A circle of threads, each waiting for a lock that the next one holds, is closed by the last that starts to wait. So
# that one looks. All others stand still meanwhile, and what they hold with them, for none has a limit of time.

cdef Waiter *blocked(PyObject *holder) noexcept:
    """The waiter of a holder that waits for a lock, NULL if it does not. The register is locked."""
    cdef Waiter *waiter = register
    while waiter != NULL:
        if waiter.holder == holder and waiter.blocked_by != NULL:
            # It may have taken the lock and not said so yet, or be about to give up.
            return waiter if load_object(waiter.blocked_by.holder) != holder and not waiter.stopped else NULL
        waiter = waiter.registered
    return NULL


cdef enum:
    MOST_HOPS = 10_000
    MOST_NAMED = 32  # of a circle's locks

ctypedef struct Held:
    # A lock in a circle: references that outlive the register's mutex.
    PyObject *key
    PyObject *code
    PyObject *session
    int instruction
    unsigned long thread


cdef int block(Waiter *self, const Cell *cell) except -1:
    """Note what the thread is going to wait for. Raises DeadlockError if that would never end.

    The thread is in the cell's queue. No mutex is locked.
    """
    cdef Held circle[MOST_NAMED]
    cdef Held *held
    cdef const Cell *at = cell
    cdef Waiter *other = self
    cdef int n = 0, hops = 0
    lock(&register_mutex)
    self.blocked_by = cell
    while other != NULL and hops < MOST_HOPS and load_object(at.holder) != self.holder:
        hops += 1
        other = blocked(load_object(at.holder))
        if other != NULL:
            at = other.blocked_by
    if other == NULL or hops == MOST_HOPS:
        unlock(&register_mutex)
        return 0
    # Nobody in the circle can leave it while the register is locked.
    self.blocked_by = NULL
    at = cell
    other = self
    while n < MOST_NAMED:
        held = &circle[n]
        n += 1
        other = self if load_object(at.holder) == self.holder else blocked(load_object(at.holder))
        if other == NULL:
            n -= 1
            break
        held.thread = (<Holder>other.holder).thread
        held.key = at.key
        held.code = NULL if at.extra == NULL else at.extra.code
        held.instruction = 0 if at.extra == NULL else at.extra.instruction
        held.session = other.session
        _incref(held.key)
        _xincref(held.code)
        _xincref(held.session)
        if other == self:
            break
        at = other.blocked_by
    unlock(&register_mutex)
    raise_deadlock([
        (
            owned(circle[i].key),
            circle[i].thread,
            None if circle[i].session == NULL else owned(circle[i].session),
            None if circle[i].code == NULL else owned(circle[i].code),
            circle[i].instruction,
        )
        for i in range(n)
    ])
    return -1


cdef void unblock(Waiter *self) noexcept:
    """The thread waits no longer, and the cell may go."""
    lock(&register_mutex)
    self.blocked_by = NULL
    unlock(&register_mutex)


cdef int raise_deadlock(list circle) except -1:
    from fastserverstate.errors import DeadlockError
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    steps = []
    for at, (key, thread, session, code, instruction) in enumerate(circle):
        who = f"thread {names.get(thread, 'unknown')!r} ({thread})" + (f" of {session}" if session is not None else "")
        where = f"at {place(code, instruction)}" if code is not None else "by an operation on it"
        steps.append(f"{who} holds {key!r}, taken {where}, and waits for {circle[(at + 1) % len(circle)][0]!r}")
    keys = ", ".join(sorted(repr(key) for key, *_ in circle))
    raise DeadlockError(
        f"Waiting for server_state_lock[{circle[0][0]!r}] would never end: {'; '.join(steps)}. Take several locks at "
        f"once, server_state_lock[{keys}], or in the same order everywhere."
    )


def place_of(code, int instruction):
    return "an unknown place" if code is None else place(code, instruction)


cdef str place(code, int instruction):
    return f"{code.co_filename}:{line_of(<PyObject *>code, instruction)} in {code.co_qualname}"
