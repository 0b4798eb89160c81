# cython: language_level=3
# Sessions, their scopes, and what those have shown. See _core.pyx for the whole.

ctypedef struct Unshown:
    # What a run of a scope has read since the session's message number `sent`: a message may show what was read before.
    const void **cells
    uint32_t count
    uint32_t room
    uint64_t sent


cdef bint unshown_add(Unshown *self, const void *cell, uint64_t sent) noexcept:
    """Note a first read; False when there is no memory."""
    cdef const void **wider
    if self.sent != sent:
        self.sent = sent
        self.count = 0
    if self.count == self.room:
        wider = <const void **>PyMem_RawRealloc(self.cells, (2 * self.room + 4) * sizeof(void *))
        if wider == NULL:
            return False
        self.cells = wider
        self.room = 2 * self.room + 4
    self.cells[self.count] = cell
    self.count += 1
    return True


cdef bint unshown_has(const Unshown *self, const void *cell, uint64_t sent) noexcept:
    """Whether nothing on the screen can show what was first read from this cell."""
    cdef uint32_t i
    if self.sent == sent:
        for i in range(self.count):
            if self.cells[i] == cell:
                return True
    return False


cdef void unshown_clear(Unshown *self) noexcept:
    PyMem_RawFree(self.cells)
    memset(self, 0, sizeof(Unshown))


@cython.final
cdef class Scope:
    """A region that reruns as a whole, and what its last run depends on."""
    cdef Session session
    cdef Table *table
    cdef object part           # None: the script's body; else the name of a fragment
    cdef uint32_t slot         # NO_SLOT once it was dropped
    cdef uint64_t run          # the session's run that last started this scope
    cdef bint subscribed       # its slot may be in a set
    cdef bint stale            # somebody else changed what it depends on
    cdef bint kept             # for `mark`
    cdef str overwritten       # a key that its own session changed after this scope may have shown it
    cdef Unshown values
    cdef Unshown presence

    def __cinit__(self):
        self.slot = NO_SLOT

    def __init__(self):
        raise TypeError("Scopes are made by Session.scope(part).")

    def __dealloc__(self):
        unshown_clear(&self.values)
        unshown_clear(&self.presence)

    @property
    def owner(self):
        return self.session


cdef int forget(Scope scope) except -1:
    """Take back every subscription of the scope, and what has made it stale. Its session is locked."""
    cdef Slots *slots = &scope.table.slots
    scope.overwritten = None
    unshown_clear(&scope.values)
    unshown_clear(&scope.presence)
    if not scope.subscribed:
        lock(&slots.mutex)
        store_flag(scope.stale, False)
        unlock(&slots.mutex)
        return 0
    retire_slot(scope.table, scope)
    return take_slot(scope.table, scope)


cdef class Session:
    """The scopes of one session: which runs they are in and what has gone to the screen.

    Subclass it to add what a rerun needs.
    """
    cdef Store store
    cdef Mutex mutex            # guards what follows, and the scopes
    cdef dict scopes            # part -> Scope
    cdef uint64_t run           # number of the current or last run
    cdef uint64_t sent          # messages to the screen so far
    cdef bint running
    cdef bint closed

    def __init__(self, Store store not None):
        self.store = store
        self.scopes = {}

    def scope(self, part):
        cdef Scope made = None
        cdef Scope scope
        while True:
            lock(&self.mutex)
            try:
                if self.closed:
                    return None
                scope = self.scopes.get(part)
                if scope is None and made is not None:
                    take_slot(self.store.table, made)
                    made.run = self.run
                    self.scopes[part] = made
                    return made
                if scope is not None:
                    if scope.run != self.run and part is not None:
                        # A nested fragment has no start of its own: its first read in a new run is one.
                        forget(scope)
                        scope.run = self.run
                    return scope
            finally:
                unlock(&self.mutex)
            made = Scope.__new__(Scope)
            made.session = self
            made.table = self.store.table
            made.part = part

    def start_run(self, parts=None):
        cdef Scope scope
        started = [scope for part, scope in self.items() if parts is None or part in parts]
        lock(&self.mutex)
        try:
            store64(self.run, self.run + 1)
            self.running = True
            for scope in started:
                if scope.slot != NO_SLOT:
                    forget(scope)
                    scope.run = self.run
        finally:
            unlock(&self.mutex)

    def message_sent(self):
        lock(&self.mutex)
        self.sent += 1
        unlock(&self.mutex)

    def finish_run(self, executed=(), exists=None):
        cdef Scope scope
        items = self.items()
        gone = [part for part, _ in items if part is not None and exists is not None and not exists(part)]
        idle = [scope for part, scope in items if part is not None and part in executed]
        for part in gone:
            self.drop_scope(part)
        lock(&self.mutex)
        try:
            self.running = False
            for scope in idle:
                if scope.run != self.run and scope.slot != NO_SLOT:
                    forget(scope)
            for scope in self.scopes.values():
                unshown_clear(&scope.values)
                unshown_clear(&scope.presence)
        finally:
            unlock(&self.mutex)

    def raise_if_stopped(self):
        """For subclasses."""

    def stop_waiting(self):
        stop_waiters(self)

    cdef list items(self):
        lock(&self.mutex)
        items = list(self.scopes.items())
        unlock(&self.mutex)
        return items

    def stale_parts(self):
        cdef Scope scope
        return [part for part, scope in self.items() if load_flag(scope.stale)]

    def take_overwritten(self):
        cdef Scope scope
        found = {}
        lock(&self.mutex)
        for part, scope in self.scopes.items():
            if scope.overwritten is not None:
                found[part] = scope.overwritten
                scope.overwritten = None
        unlock(&self.mutex)
        return found

    def mark_stale(self, part):
        cdef Scope scope
        hash(part)
        lock(&self.mutex)
        scope = self.scopes.get(part)
        if scope is not None and scope.slot != NO_SLOT:
            lock(&scope.table.slots.mutex)
            store_flag(scope.stale, True)
            unlock(&scope.table.slots.mutex)
        unlock(&self.mutex)

    def drop_scope(self, part):
        cdef Scope scope
        hash(part)
        lock(&self.mutex)
        scope = self.scopes.pop(part, None)
        if scope is not None:
            retire_slot(scope.table, scope)
        unlock(&self.mutex)

    def close(self):
        cdef Scope scope
        cdef dict dropped
        cdef dict empty = {}
        lock(&self.mutex)
        self.closed = True
        self.running = False
        dropped, self.scopes = self.scopes, empty
        for scope in dropped.values():
            retire_slot(scope.table, scope)
        unlock(&self.mutex)
