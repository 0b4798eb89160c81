# cython: language_level=3
# Sessions, their scopes, and what those have shown. See _core.pyx for the whole.
#
# A scope has a slot for each execution of its code whose output may be on the screen. A run announces what it is going
# to execute, and may end before it has: what was not executed keeps its screen, and so its subscriptions. An execution
# that runs to its end takes the place of all before it.

ctypedef struct Reads:
    # First reads of a thread in an execution that no message can show yet: an open-addressing table of the sets of
    # subscribers. It belongs to one thread at a time. A read that it does not have counts as shown.
    const void **entries
    uint32_t mask
    uint32_t count
    uint64_t sent             # the session's number of messages,
    uint64_t holder           # the reader's serial,
    const void *context       # and its context, which is another one in every task of asyncio

cdef enum:
    FEWEST_READS = 8


cdef inline uint32_t reads_find(const Reads *self, const void *what) noexcept:
    """The entry's place, or the empty one where it belongs."""
    cdef uint32_t at = <uint32_t>(((<uint64_t><size_t>what >> 3) * 0x9E3779B97F4A7C15ULL) >> 32) & self.mask
    while self.entries[at] != NULL and self.entries[at] != what:
        at = (at + 1) & self.mask
    return at


cdef bint reads_add(Reads *self, const void *what, uint64_t sent, uint64_t holder, const void *context) noexcept:
    """Note a first read; False when there is no memory."""
    cdef Reads wider
    cdef uint32_t at
    if self.sent != sent or self.holder != holder or self.context != context:
        reads_clear(self)
        self.sent = sent
        self.holder = holder
        self.context = context
    if self.entries == NULL or self.count > self.mask // 8 * 7:
        wider.mask = FEWEST_READS - 1 if self.entries == NULL else 2 * self.mask + 1
        wider.entries = <const void **>PyMem_RawCalloc(wider.mask + 1, sizeof(void *))
        if wider.entries == NULL:
            return False
        if self.entries != NULL:
            for at in range(self.mask + 1):
                if self.entries[at] != NULL:
                    wider.entries[reads_find(&wider, self.entries[at])] = self.entries[at]
            PyMem_RawFree(self.entries)
        self.entries = wider.entries
        self.mask = wider.mask
    at = reads_find(self, what)
    self.count += self.entries[at] == NULL
    self.entries[at] = what
    return True


cdef inline bint reads_has(
    const Reads *self, const void *what, uint64_t sent, uint64_t holder, const void *context
) noexcept:
    if self.count == 0 or self.sent != sent or self.holder != holder or self.context != context:
        return False
    return self.entries[reads_find(self, what)] != NULL


cdef void reads_clear(Reads *self) noexcept:
    """Forget them, and keep the room if it is small."""
    if self.mask >= FEWEST_READS:
        PyMem_RawFree(self.entries)
        self.entries = NULL
        self.mask = 0
    elif self.count:
        memset(self.entries, 0, (self.mask + 1) * sizeof(void *))
    self.count = 0


cdef enum:
    MOST_EXECUTIONS = 64      # that were broken off one after the other, before the earliest is given up


@cython.final
cdef class Scope:
    """A region that reruns as a whole, and what its last run depends on."""
    cdef Session session
    cdef Table *table
    cdef object part           # None: the script's body; else the name of a fragment
    cdef uint32_t slot         # of the last execution; NO_SLOT once it was dropped
    cdef uint64_t run          # the session's run that it was in
    cdef bint subscribed       # its slot may be in a set
    cdef Reads reads           # that it has not shown
    cdef bint stale            # what it has read was changed by others; it does not subscribe until it is rerun
    cdef bint echoed           # the same by reruns, its own session's too; but it goes on subscribing
    cdef uint64_t cause        # of what has made it stale, 0 if that is not known: see _slots.pxi
    cdef uint32_t *earlier     # slots of the executions before it that may still be on the screen
    cdef uint32_t earlier_count
    cdef bint stale_before     # what those have read was changed
    cdef uint64_t cause_before
    cdef bint kept             # for `mark`
    cdef bint listed           # for `collect`
    cdef str overwritten       # a key that its own session changed after this scope may have shown it

    def __cinit__(self, token=None):
        if token is not MAKING:
            raise TypeError("Scopes are made by Session.scope(part).")
        self.slot = NO_SLOT

    def __dealloc__(self):
        PyMem_RawFree(self.earlier)
        PyMem_RawFree(self.reads.entries)

    @property
    def owner(self):
        return self.session


# The scope's session is locked.

cdef int begin_execution(Scope scope) except -1:
    """From now on reads belong to another execution. What the earlier ones have read counts until it is complete."""
    cdef Slots *slots = &scope.table.slots
    cdef uint32_t slot = scope.slot
    if scope.subscribed:
        if scope.earlier == NULL:
            scope.earlier = <uint32_t *>PyMem_RawMalloc(MOST_EXECUTIONS * sizeof(uint32_t))
            if scope.earlier == NULL:
                raise MemoryError()
        take_slot(scope.table, scope)
        if scope.earlier_count == MOST_EXECUTIONS:
            scope.earlier_count -= 1
            add_earlier(slots, -1)
            scope.stale_before = True  # what the earliest has read is not followed any more
            retire_slot(scope.table, scope, scope.earlier[0], True)
            memmove(scope.earlier, scope.earlier + 1, scope.earlier_count * sizeof(uint32_t))
        scope.earlier[scope.earlier_count] = slot
        scope.earlier_count += 1
        add_earlier(slots, 1)
    lock(&slots.mutex)
    scope.stale_before = scope.stale_before or scope.stale or scope.echoed or scope.overwritten is not None
    store_flag(scope.stale, False)
    store_flag(scope.echoed, False)
    scope.cause_before = max(scope.cause_before, scope.cause)
    scope.cause = 0
    unlock(&slots.mutex)
    scope.overwritten = None
    reads_clear(&scope.reads)
    scope.run = scope.session.run
    return 0


cdef void complete_execution(Scope scope) noexcept:
    """The last execution has run to its end, so nothing of the earlier ones is left on the screen."""
    while scope.earlier_count:
        scope.earlier_count -= 1
        add_earlier(&scope.table.slots, -1)
        retire_slot(scope.table, scope, scope.earlier[scope.earlier_count], True)
    scope.stale_before = False
    scope.cause_before = 0


cdef inline void add_earlier(Slots *slots, int count) noexcept:
    lock(&slots.mutex)
    slots.earlier += count
    unlock(&slots.mutex)


cdef inline bint is_stale(Scope scope) noexcept:
    return load_flag(scope.stale) or load_flag(scope.echoed) or load_flag(scope.stale_before)


cdef void drop(Scope scope) noexcept:
    """Take back every subscription of the scope, for ever."""
    if scope.slot != NO_SLOT:
        complete_execution(scope)
        retire_slot(scope.table, scope, scope.slot, scope.subscribed)
        store32(scope.slot, NO_SLOT)
        store_flag(scope.stale, False)
        store_flag(scope.echoed, False)


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
    cdef readonly uint64_t cause    # of the run: see _slots.pxi
    cdef bint by_user           # the run is a user's: what it changes begins chains of reruns
    cdef bint recurs            # a chain of reruns has come back to the session: see rerun/session.py

    def __cinit__(self, *args, **kwargs):
        self.scopes = {}

    def __init__(self, Store store not None):
        self.store = store

    def scope(self, part):
        cdef Scope made = None
        cdef Scope scope
        while True:
            lock(&self.mutex)
            try:
                if self.closed or self.store is None:
                    return None
                scope = self.scopes.get(part)
                if scope is None and made is not None:
                    take_slot(self.store.table, made)
                    begin_execution(made)
                    self.scopes[part] = made
                    return made
                if scope is not None:
                    if scope.run != self.run:
                        begin_execution(scope)
                    return scope
            finally:
                unlock(&self.mutex)
            made = Scope.__new__(Scope, MAKING)
            made.session = self
            made.table = self.store.table
            made.part = part

    def bystander(self):
        cdef Scope made
        if self.store is None:
            return None
        made = Scope.__new__(Scope, MAKING)
        made.session = self
        made.table = self.store.table
        return made

    def start_run(self, cause=None, bint recurs=False):
        cdef uint64_t number = 0
        if cause is not None:
            number = cause
        elif self.store is not None:
            number = cause_of_origin(load64(self.store.table.slots.collections))
        lock(&self.mutex)
        store64(self.run, self.run + 1)
        self.running = not self.closed
        self.by_user = cause is None
        self.cause = number
        self.recurs = recurs
        unlock(&self.mutex)

    def message_sent(self):
        lock(&self.mutex)
        self.sent += 1
        unlock(&self.mutex)

    def finish_run(self, complete=(None,), exists=None):
        cdef Scope scope
        items = self.items()
        gone = [part for part, _ in items if part is not None and exists is not None and not exists(part)]
        ended = [scope for part, scope in items if part in complete]
        for part in gone:
            self.drop_scope(part)
        lock(&self.mutex)
        try:
            self.running = False
            for scope in self.scopes.values():
                reads_clear(&scope.reads)
            for scope in ended:
                if scope.slot != NO_SLOT:
                    if scope.run != self.run:
                        begin_execution(scope)  # which has read nothing
                    complete_execution(scope)
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
        return [part for part, scope in self.items() if is_stale(scope)]

    def cause_of(self, part):
        cdef Scope scope
        causes = [
            max(load64(scope.cause), load64(scope.cause_before))
            for known, scope in self.items()
            if part is None or known == part
        ]
        return max(causes, default=0) or self.cause

    def has_changed(self, part):
        cdef Scope scope
        hash(part)
        lock(&self.mutex)
        scope = self.scopes.get(part)
        changed = scope is not None and (load_flag(scope.stale) or load_flag(scope.echoed))
        unlock(&self.mutex)
        return changed

    def give_up(self, part):
        cdef Scope scope
        hash(part)
        lock(&self.mutex)
        scope = self.scopes.get(part)
        if scope is not None and scope.slot != NO_SLOT:
            lock(&scope.table.slots.mutex)
            store_flag(scope.stale, False)
            store_flag(scope.echoed, False)
            store_flag(scope.stale_before, False)
            scope.cause = scope.cause_before = 0
            unlock(&scope.table.slots.mutex)
        unlock(&self.mutex)

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
            scope.cause = max(scope.cause, self.cause)
            store_flag(scope.echoed, True)
            unlock(&scope.table.slots.mutex)
        unlock(&self.mutex)

    def drop_scope(self, part):
        cdef Scope scope
        hash(part)
        lock(&self.mutex)
        scope = self.scopes.pop(part, None)
        if scope is not None:
            drop(scope)
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
            drop(scope)
        unlock(&self.mutex)
