# cython: language_level=3
# Sessions, their scopes, and unflushed reads. See the head of _core.pyx.
#
# A scope has one slot for each execution of its code whose output may be on the screen. A run states which fragments
# it is going to execute, and may end before it has executed them: their output stays on the screen, and so do their
# subscriptions. An execution that completes replaces all executions before it.

cdef enum:
    MIN_READS = 8


cdef inline uint32_t reads_find(const UnflushedReads *self, const void *what) noexcept:
    """The index of the entry, or of the empty entry where it belongs."""
    cdef uint32_t at = <uint32_t>(((<uint64_t><size_t>what >> 3) * 0x9E3779B97F4A7C15ULL) >> 32) & self.mask
    while self.entries[at] != NULL and self.entries[at] != what:
        at = (at + 1) & self.mask
    return at


cdef bint reads_add(
    UnflushedReads *self, const void *what, uint64_t sent, uint64_t holder, const void *context
) noexcept:
    """Note a first read; False if there is no memory."""
    cdef UnflushedReads grown
    cdef uint32_t at
    if self.sent != sent or self.holder != holder or self.context != context:
        reads_clear(self)
        self.sent = sent
        self.holder = holder
        self.context = context
    if self.entries == NULL or self.count > self.mask // 8 * 7:
        grown.mask = MIN_READS - 1 if self.entries == NULL else 2 * self.mask + 1
        grown.entries = <const void **>PyMem_RawCalloc(grown.mask + 1, sizeof(void *))
        if grown.entries == NULL:
            return False
        if self.entries != NULL:
            for at in range(self.mask + 1):
                if self.entries[at] != NULL:
                    grown.entries[reads_find(&grown, self.entries[at])] = self.entries[at]
            PyMem_RawFree(self.entries)
        self.entries = grown.entries
        self.mask = grown.mask
    at = reads_find(self, what)
    self.count += self.entries[at] == NULL
    self.entries[at] = what
    return True


cdef inline bint reads_has(
    const UnflushedReads *self, const void *what, uint64_t sent, uint64_t holder, const void *context
) noexcept:
    if self.count == 0 or self.sent != sent or self.holder != holder or self.context != context:
        return False
    return self.entries[reads_find(self, what)] != NULL


cdef void reads_clear(UnflushedReads *self) noexcept:
    """Forget the reads, and keep the array if it is small."""
    if self.mask >= MIN_READS:
        PyMem_RawFree(self.entries)
        self.entries = NULL
        self.mask = 0
    elif self.count:
        memset(self.entries, 0, (self.mask + 1) * sizeof(void *))
    self.count = 0


cdef enum:
    MAX_EXECUTIONS = 64       # incomplete ones in a row that a scope keeps; one more, and it gives up the earliest


@cython.final
cdef class Scope:
    """What reruns as a whole: the body of a session's script, or a fragment in it."""
    cdef readonly Session session  # set before other threads see the scope, and never again
    cdef Table *table
    cdef object fragment_id    # None: the script's body
    cdef uint32_t slot         # of the last execution; NO_SLOT once the scope was dropped
    cdef uint64_t run          # number of the session's run that contains this execution
    cdef bint subscribed       # a set may contain the slot
    cdef UnflushedReads reads
    cdef bint stale            # others changed what it has read; it does not subscribe until it reruns
    cdef bint mixed            # it has read values of different moments
    cdef bint stale_by_rerun   # reruns did so, its own session's included; it still subscribes
    cdef uint64_t cause        # of the change that made it stale, 0 if that is not known: see _slots.pxi
    cdef uint32_t *earlier     # slots of earlier executions that may still be on the screen
    cdef uint32_t earlier_count
    cdef bint stale_before     # a change affects what those have read
    cdef uint64_t cause_before
    cdef bint set_aside        # used by `mark`
    cdef bint listed           # used by `collect_scopes`
    cdef str overwritten       # a key that its own session changed after this scope may have shown the value

    def __cinit__(self, token=None):
        if token is not PRIVATE:
            raise TypeError("Create scopes with Session.scope(fragment_id).")
        self.slot = NO_SLOT

    def __dealloc__(self):
        PyMem_RawFree(self.earlier)
        PyMem_RawFree(self.reads.entries)


# For the following functions the scope's session is locked.

cdef int begin_execution(Scope scope) except -1:
    """Start another execution of the scope. The subscriptions of earlier ones last until one is complete."""
    cdef Slots *slots = &scope.table.slots
    cdef uint32_t slot = scope.slot
    if scope.subscribed:
        if scope.earlier == NULL:
            scope.earlier = <uint32_t *>PyMem_RawMalloc(MAX_EXECUTIONS * sizeof(uint32_t))
            if scope.earlier == NULL:
                raise MemoryError()
        take_slot(scope.table, scope)
        if scope.earlier_count == MAX_EXECUTIONS:
            scope.earlier_count -= 1
            add_earlier(slots, -1)
            scope.stale_before = True  # the reads of the earliest are not tracked any more
            retire_slot(scope.table, scope, scope.earlier[0], True)
            memmove(scope.earlier, scope.earlier + 1, scope.earlier_count * sizeof(uint32_t))
        scope.earlier[scope.earlier_count] = slot
        scope.earlier_count += 1
        add_earlier(slots, 1)
    lock(&slots.mutex)
    scope.stale_before = scope.stale_before or scope.stale or scope.stale_by_rerun or scope.overwritten is not None
    store_flag(scope.stale, False)
    store_flag(scope.stale_by_rerun, False)
    scope.cause_before = max(scope.cause_before, scope.cause)
    scope.cause = 0
    unlock(&slots.mutex)
    scope.overwritten = None
    scope.mixed = False
    reads_clear(&scope.reads)
    scope.run = scope.session.run
    return 0


cdef void complete_execution(Scope scope) noexcept:
    """The last execution has completed, so that nothing of the earlier ones is left on the screen."""
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
    return load_flag(scope.stale) or load_flag(scope.stale_by_rerun) or load_flag(scope.stale_before)


cdef void drop(Scope scope) noexcept:
    """End all subscriptions of the scope for good."""
    if scope.slot != NO_SLOT:
        complete_execution(scope)
        retire_slot(scope.table, scope, scope.slot, scope.subscribed)
        store32(scope.slot, NO_SLOT)
        store_flag(scope.stale, False)
        store_flag(scope.stale_by_rerun, False)


cdef class Session:
    """The scopes of one session, its runs, and the messages that were sent to the browser.

    Subclass it to add what a rerun needs.
    """
    cdef Store store
    cdef Mutex mutex            # guards the following fields and the scopes
    cdef dict scopes            # fragment id -> Scope
    cdef uint64_t run           # number of the current or last run
    cdef uint64_t sent          # number of messages sent to the browser
    cdef bint running
    cdef bint closed
    cdef readonly uint64_t cause    # of the run: see _slots.pxi
    cdef bint by_user           # a user caused the run, so its changes are origins of chains
    cdef bint is_node           # it is the Node of a computed value
    cdef bint recurs            # the run is part of a chain that came back to the session: see rerun/session.py
    cdef public object access   # what guards have said in the run: see guards.py

    def __cinit__(self, *args, **kwargs):
        self.scopes = {}

    def __init__(self, Store store not None):
        self.store = store

    def scope(self, fragment_id):
        cdef Scope made = None
        cdef Scope scope
        while True:
            lock(&self.mutex)
            try:
                if self.closed or self.store is None:
                    return None
                scope = self.scopes.get(fragment_id)
                if scope is None and made is not None:
                    take_slot(self.store.table, made)
                    begin_execution(made)
                    self.scopes[fragment_id] = made
                    return made
                if scope is not None:
                    if scope.run != self.run:
                        begin_execution(scope)
                    return scope
            finally:
                unlock(&self.mutex)
            made = Scope.__new__(Scope, PRIVATE)
            made.session = self
            made.table = self.store.table
            made.fragment_id = fragment_id

    def untracked_scope(self):
        cdef Scope made
        if self.store is None:
            return None
        made = Scope.__new__(Scope, PRIVATE)
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
        gone = [name for name, _ in items if name is not None and exists is not None and not exists(name)]
        ended = [scope for name, scope in items if name in complete]
        for name in gone:
            self.drop_scope(name)
        lock(&self.mutex)
        try:
            self.running = False
            for scope in self.scopes.values():
                reads_clear(&scope.reads)
            for scope in ended:
                if scope.slot != NO_SLOT:
                    if scope.run != self.run:
                        begin_execution(scope)  # one that reads nothing
                    complete_execution(scope)
        finally:
            unlock(&self.mutex)

    def raise_if_stopped(self):
        """Overridden by subclasses."""

    def stop_waiting(self):
        stop_waiters(self)

    cdef list items(self):
        lock(&self.mutex)
        items = list(self.scopes.items())
        unlock(&self.mutex)
        return items

    def stale_fragment_ids(self):
        cdef Scope scope
        return [fragment_id for fragment_id, scope in self.items() if is_stale(scope)]

    def cause_of(self, fragment_id):
        cdef Scope scope
        causes = [
            max(load64(scope.cause), load64(scope.cause_before))
            for known, scope in self.items()
            if fragment_id is None or known == fragment_id
        ]
        return max(causes, default=0) or self.cause

    def has_changed(self, fragment_id):
        cdef Scope scope
        hash(fragment_id)
        lock(&self.mutex)
        scope = self.scopes.get(fragment_id)
        changed = scope is not None and (load_flag(scope.stale) or load_flag(scope.stale_by_rerun))
        unlock(&self.mutex)
        return changed

    def dismiss_stale(self, fragment_id):
        cdef Scope scope
        hash(fragment_id)
        lock(&self.mutex)
        scope = self.scopes.get(fragment_id)
        if scope is not None and scope.slot != NO_SLOT:
            lock(&scope.table.slots.mutex)
            store_flag(scope.stale, False)
            store_flag(scope.stale_by_rerun, False)
            store_flag(scope.stale_before, False)
            scope.cause = scope.cause_before = 0
            unlock(&scope.table.slots.mutex)
        unlock(&self.mutex)

    def take_overwritten(self):
        cdef Scope scope
        found = {}
        lock(&self.mutex)
        for fragment_id, scope in self.scopes.items():
            if scope.overwritten is not None:
                found[fragment_id] = scope.overwritten
                scope.overwritten = None
        unlock(&self.mutex)
        return found

    def mark_stale(self, fragment_id):
        cdef Scope scope
        hash(fragment_id)
        lock(&self.mutex)
        scope = self.scopes.get(fragment_id)
        if scope is not None and scope.slot != NO_SLOT:
            lock(&scope.table.slots.mutex)
            scope.cause = max(scope.cause, self.cause)
            store_flag(scope.stale_by_rerun, True)
            unlock(&scope.table.slots.mutex)
        unlock(&self.mutex)

    def drop_scope(self, fragment_id):
        cdef Scope scope
        hash(fragment_id)
        lock(&self.mutex)
        scope = self.scopes.pop(fragment_id, None)
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
