# cython: language_level=3
# Sessions, their scopes, and what those have read. See _core.pyx for the whole.

@cython.final
cdef class _ReadLog:
    """What one run of a scope has read, oldest first: to undo the subscriptions, and to know what was shown.

    A message to the screen may show everything that was read before it. `cells[unshown:]` were read after the last
    message as long as that was message number `sent`.
    """
    cdef list cells
    cdef Py_ssize_t unshown
    cdef uint64_t sent

    def __cinit__(self):
        self.cells = []

    cdef inline int add(self, Cell cell, uint64_t sent) except -1:
        if self.sent != sent:
            self.sent = sent
            self.unshown = len(self.cells)
        self.cells.append(cell)
        return 0

    cdef bint may_show(self, Cell cell, uint64_t sent) noexcept:
        """Whether the screen may show what was first read from this cell."""
        cdef Py_ssize_t i
        if self.sent == sent:
            for i in range(len(self.cells) - 1, self.unshown - 1, -1):
                if PyList_GET_ITEM(self.cells, i) == <PyObject *>cell:
                    return False
        return True


@cython.final
cdef class Scope:
    """A region that reruns as a whole, and what its last run depends on."""
    cdef Session session
    cdef object part           # None: the script's body; else the name of a fragment
    cdef uint32_t slot
    cdef uint64_t run          # the session's run that last started this scope
    cdef bint stale            # somebody else changed what it depends on
    cdef str overwritten       # a key that its own session changed after this scope may have shown it
    cdef _ReadLog values
    cdef _ReadLog presence

    def __init__(self):
        raise TypeError("Scopes are made by Session.scope(part).")

    @property
    def owner(self):
        return self.session


cdef class Session:
    """The scopes of one session: which runs they are in and what has gone to the screen.

    Subclass it to add what a rerun needs.
    """
    cdef Store store
    cdef dict scopes            # part -> Scope
    cdef uint64_t run           # number of the current or last run
    cdef uint64_t sent          # messages to the screen so far
    cdef bint running
    cdef bint closed

    def __init__(self, Store store not None):
        self.store = store
        self.scopes = {}

    def scope(self, part):
        cdef Scope scope = self.scopes.get(part)
        cdef Scope made
        if scope is None and not self.closed:
            made = Scope.__new__(Scope)
            made.session = self
            made.part = part
            made.values = _ReadLog()
            made.presence = _ReadLog()
            scope = self.scopes.get(part)  # a finalizer may have made it meanwhile, or closed the session
        if self.closed:
            return None
        if scope is None:
            scope = made
            scope.run = self.run
            self.store.take_slot(scope)
            self.scopes[part] = scope
        elif scope.run != self.run and part is not None:
            # A nested fragment has no start of its own: its first read in a new run is one.
            self.store.forget(scope)
            scope.run = self.run
        return scope

    def start_run(self, parts=None):
        self.run += 1
        self.running = True
        cdef Scope scope
        for part, scope in list(self.scopes.items()):
            if parts is None or part in parts:
                self.store.forget(scope)
                scope.run = self.run

    def message_sent(self):
        self.sent += 1

    def finish_run(self, executed=(), exists=None):
        cdef Scope scope
        self.running = False
        for part, scope in list(self.scopes.items()):
            if part is None:
                continue
            if exists is not None and not exists(part):
                self.drop_scope(part)
            elif scope.run != self.run and part in executed:
                self.store.forget(scope)

    def stale_parts(self):
        cdef Scope scope
        return [part for part, scope in self.scopes.items() if scope.stale]

    def take_overwritten(self):
        cdef Scope scope
        found = {}
        for part, scope in self.scopes.items():
            if scope.overwritten is not None:
                found[part] = scope.overwritten
                scope.overwritten = None
        return found

    def mark_stale(self, part):
        cdef Scope scope = self.scopes.get(part)
        if scope is not None:
            scope.stale = True

    def drop_scope(self, part):
        cdef Scope scope = self.scopes.pop(part, None)
        if scope is not None:
            self.store.give_back_slot(scope)

    def close(self):
        self.closed = True
        self.running = False
        for part in list(self.scopes):
            self.drop_scope(part)
