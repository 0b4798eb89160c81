# cython: language_level=3
# The table of keys: reading, subscribing, changing, marking stale. See _core.pyx for the whole.

cdef enum:
    FIRST_BUCKETS = 64

cdef enum:
    WRITER_STALE
    WRITER_NEVER
    WRITER_ALWAYS

RERUN_WRITER_STALE = WRITER_STALE
RERUN_WRITER_NEVER = WRITER_NEVER
RERUN_WRITER_ALWAYS = WRITER_ALWAYS


cdef class Store:
    """A table of cells, and the scopes that depend on them."""
    cdef list buckets            # heads of the chains; their number is a power of two
    cdef Py_ssize_t mask
    cdef Py_ssize_t cells        # in the table, absent ones included
    cdef Py_ssize_t present
    cdef uint64_t clock
    cdef Cell members            # not in the table: its readers depend on the set of keys
    cdef frozenset reserved      # names that attribute access gives to methods
    cdef list slots
    cdef list free_slots
    cdef uint64_t *pending
    cdef uint32_t pending_words
    cdef bint woken              # `wake` was called and nobody has collected yet
    cdef object wake
    cdef int rerun_writer

    def __cinit__(self, reserved=()):
        self.buckets = [None] * FIRST_BUCKETS
        self.mask = FIRST_BUCKETS - 1
        self.reserved = frozenset(reserved)
        self.slots = []
        self.free_slots = []
        self.members = Cell.__new__(Cell)
        self.members.value = ABSENT

    def __dealloc__(self):
        free(self.pending)

    # The table

    cdef inline Cell find(self, str key):
        cdef Py_hash_t hashed = PyObject_Hash(key)
        cdef PyObject *head = <PyObject *>PyList_GET_ITEM(self.buckets, hashed & self.mask)
        cdef Cell cell
        while head != <PyObject *>None:
            cell = <Cell>head
            if cell.key is key or (cell.hash == hashed and cell.key == key):
                return cell
            head = <PyObject *>cell.next
        return None

    cdef Cell find_or_make(self, str key):
        cdef Cell cell = self.find(key)
        cdef Cell made
        if cell is not None:
            return cell
        made = Cell.__new__(Cell)
        made.key = key
        made.hash = PyObject_Hash(key)
        made.value = ABSENT
        made.reserved = is_reserved(self, key)
        if self.cells > self.mask:
            self.grow()
        cell = self.find(key)  # a finalizer may have made it meanwhile
        if cell is not None:
            return cell
        made.next = self.buckets[made.hash & self.mask]
        self.buckets[made.hash & self.mask] = made
        made.linked = True
        self.cells += 1
        return made

    cdef int grow(self) except -1:
        """Double the buckets, unless dropping the cells that nobody needs makes enough room."""
        cdef list old, new
        cdef Cell cell, following
        for cell in self.all_cells():
            # One reference is the chain's, one the list's, one the loop's.
            if cell.handed_out and Py_REFCNT(cell) == 3:
                cell.handed_out = False
            self.drop_if_unused(cell)
        if self.cells * 2 <= self.mask:
            return 0
        new = [None] * (2 * (self.mask + 1))
        if len(new) != 2 * (self.mask + 1):
            return 0  # a finalizer has grown the table meanwhile
        old, self.buckets, self.mask = self.buckets, new, len(new) - 1
        for cell in old:
            while cell is not None:
                following = cell.next
                cell.next = new[cell.hash & self.mask]
                new[cell.hash & self.mask] = cell
                cell = following
        return 0

    cdef list all_cells(self):
        cdef list found = []
        cdef Cell cell
        for cell in self.buckets:
            while cell is not None:
                found.append(cell)
                cell = cell.next
        return found

    cdef inline int drop_if_unused(self, Cell cell) except -1:
        if (cell.linked and cell.value is ABSENT and not cell.readers.count and not cell.watchers.count
                and not cell.handed_out and cell.owner == 0 and not cell.waiters):
            self.unlink(cell)
        return 0

    cdef int unlink(self, Cell cell) except -1:
        cdef Py_ssize_t at = cell.hash & self.mask
        cdef Cell before = self.buckets[at]
        if before is cell:
            self.buckets[at] = cell.next
        else:
            while before.next is not cell:
                before = before.next
            before.next = cell.next
        cell.next = None
        cell.linked = False
        self.cells -= 1
        return 0

    # Subscribing

    cdef inline int subscribe(self, Cell cell, Scope scope) except -1:
        """Depend on the cell's value, which may be that it has none."""
        if not subscribers_has(&cell.readers, scope.slot) and not self.is_pending(scope):
            subscribers_add(&cell.readers, scope.slot)
            scope.values.add(cell, scope.session.sent)
        return 0

    cdef int watch(self, Cell cell, Scope scope) except -1:
        """Depend on whether the cell has a value."""
        if not subscribers_has(&cell.watchers, scope.slot) and not self.is_pending(scope):
            subscribers_add(&cell.watchers, scope.slot)
            scope.presence.add(cell, scope.session.sent)
        return 0

    cdef inline bint is_pending(self, Scope scope) noexcept:
        # What is going to be rerun anyway need not subscribe: this bounds the log of a run that never ends.
        return scope.stale or (self.pending[scope.slot >> 6] >> (scope.slot & 63)) & 1

    cdef int forget(self, Scope scope) except -1:
        """Take back every subscription of the scope, and what has made it stale."""
        cdef list values = []
        cdef list presence = []
        cdef Cell cell
        scope.stale = False
        scope.overwritten = None
        self.pending[scope.slot >> 6] &= ~((<uint64_t>1) << (scope.slot & 63))
        values, scope.values.cells, scope.values.unshown = scope.values.cells, values, 0
        presence, scope.presence.cells, scope.presence.unshown = scope.presence.cells, presence, 0
        for cell in values:
            subscribers_discard(&cell.readers, scope.slot)
            self.drop_if_unused(cell)
        for cell in presence:
            subscribers_discard(&cell.watchers, scope.slot)
            self.drop_if_unused(cell)
        return 0

    cdef int take_slot(self, Scope scope) except -1:
        cdef uint64_t *wider
        cdef uint32_t words
        if self.free_slots:
            scope.slot = self.free_slots.pop()
            self.slots[scope.slot] = scope
            return 0
        scope.slot = len(self.slots)
        if scope.slot >> 6 >= self.pending_words:
            words = 2 * self.pending_words + 1
            wider = <uint64_t *>realloc(self.pending, words * sizeof(uint64_t))
            if wider == NULL:
                raise MemoryError()
            memset(wider + self.pending_words, 0, (words - self.pending_words) * sizeof(uint64_t))
            self.pending, self.pending_words = wider, words
        self.slots.append(scope)
        return 0

    cdef int give_back_slot(self, Scope scope) except -1:
        self.forget(scope)
        scope.stale = True  # a thread may still run in it: what is stale does not subscribe
        self.slots[scope.slot] = None
        self.free_slots.append(scope.slot)
        return 0

    # Changing

    cdef int commit(self, Cell cell, object value, Session writer) except -1:
        """Give the cell a new value and mark who depends on it. The caller keeps the old value alive until after it."""
        cdef object old = cell.value
        cdef bint presence_changed = (old is ABSENT) != (value is ABSENT)
        cell.value = value
        self.clock += 1
        cell.version = self.clock
        if presence_changed:
            cell.presence_owed = True
            if old is ABSENT:
                cell.born = self.clock
                self.present += 1
            else:
                self.present -= 1
        if cell.readers.count or (cell.presence_owed and (cell.watchers.count or self.members.readers.count)):
            if _context_value(rerun_suppression_depth) is not ZERO:
                return 0
            self.mark(cell, &cell.readers, False, writer)
            if cell.presence_owed:
                self.mark(cell, &cell.watchers, True, writer)
                self.mark(self.members, &self.members.readers, False, writer)
        cell.presence_owed = False
        return 0

    cdef int mark(self, Cell cell, Subscribers *subscribers, bint presence, Session writer) except -1:
        """Make the subscribers pending, but for the writer's own scopes as long as its run goes on.

        Those keep their subscription. They are noted as overwritten if they may have shown what was there before.
        """
        cdef uint32_t own = 0
        cdef list kept
        cdef Scope scope
        if subscribers.count == 0:
            return 0
        if writer is not None and writer.running:
            for scope in writer.scopes.values():
                if subscribers_has(subscribers, scope.slot):
                    own += 1
                    if self.is_overwritten(cell, scope, scope.presence if presence else scope.values):
                        scope.overwritten = cell.key or "(the set of keys)"
            if subscribers.count == own:
                return 0
        kept = []
        if own:
            for scope in writer.scopes.values():
                if subscribers_has(subscribers, scope.slot):
                    subscribers_discard(subscribers, scope.slot)
                    kept.append(scope)
        subscribers_take(subscribers, self.pending)
        for scope in kept:
            subscribers_add(subscribers, scope.slot)
        return 0

    cdef inline bint is_overwritten(self, Cell cell, Scope scope, _ReadLog log) noexcept:
        """Whether a change of the cell by the scope's own session is a reason to rerun the scope."""
        if self.rerun_writer == WRITER_NEVER:
            return False
        if self.rerun_writer == WRITER_ALWAYS or scope.run != scope.session.run:
            return True
        return log.may_show(cell, scope.session.sent)

    cdef inline int wake_collector(self) except -1:
        """Call `wake` if something is pending and nobody has been told. Holds nothing of the store's."""
        cdef uint32_t i
        if self.woken or self.wake is None:
            return 0
        for i in range(self.pending_words):
            if self.pending[i]:
                self.woken = True
                self.wake()
                break
        return 0

    cdef object write(self, str key, object value, bint if_absent):
        """Assign, unless `if_absent` and there is a value. Returns the value that was there, or ABSENT."""
        cdef Session writer = current_session(self)
        cdef Cell cell
        cdef object old
        cdef bint equal, held
        while True:
            cell = self.find_or_make(key)
            held = _is_held_by_other(cell) and _wait_for_lock(cell, -1)
            try:
                old = cell.value
                equal = old is not ABSENT and same_value(old, value)
                if cell.value is not old or not cell.linked or (not held and _is_held_by_other(cell)):
                    continue  # somebody else came in while the values were compared
                if if_absent and old is not ABSENT:
                    break
                if equal:
                    cell.value = value
                else:
                    self.commit(cell, value, writer)
            finally:
                if held:
                    _unlock(cell)
            break
        self.wake_collector()
        return old

    cdef object remove(self, str key):
        """Take the key away and return its value, ABSENT when it has none."""
        cdef Session writer = current_session(self)
        cdef Cell cell = self.find(key)
        cdef object old
        cdef bint held
        if cell is None:
            return ABSENT
        held = _is_held_by_other(cell) and _wait_for_lock(cell, -1)
        try:
            old = cell.value
            if old is not ABSENT:
                self.commit(cell, ABSENT, writer)
        finally:
            if held:
                _unlock(cell)
        self.drop_if_unused(cell)
        self.wake_collector()
        return old

    cdef inline object read(self, str key):
        """The key's value, ABSENT when it has none; the calling scope depends on it from now on."""
        cdef Scope scope = current_scope(self)
        cdef Cell cell = self.find(key)
        if cell is None:
            if scope is None:
                return ABSENT
            cell = self.find_or_make(key)
        if cell.owner != 0 and _is_held_by_other(cell):
            return self.read_when_free(cell, scope)
        if scope is not None:
            self.subscribe(cell, scope)
            self.drop_if_unused(cell)
        return cell.value

    cdef object read_when_free(self, Cell cell, Scope scope):
        _wait_for_lock(cell, -1)
        try:
            if scope is not None:
                self.subscribe(cell, scope)
            return cell.value
        finally:
            _unlock(cell)

    # For the Python layers. `key` is an exact str everywhere.

    def peek(self, key, default=None):
        cdef Cell cell = self.find(checked_key(key))
        if cell is None:
            return default
        value = self.read_when_free(cell, None) if _is_held_by_other(cell) else cell.value
        return default if value is ABSENT else value

    def touch(self, key):
        cdef Cell cell = self.find(checked_key(key))
        cdef Session writer = current_session(self)
        cdef bint held = cell is not None and _is_held_by_other(cell) and _wait_for_lock(cell, -1)
        try:
            if cell is None or cell.value is ABSENT:
                raise KeyError(key)
            self.commit(cell, cell.value, writer)
        finally:
            if held:
                _unlock(cell)
        self.wake_collector()

    def version(self, key):
        cdef Cell cell = self.find(checked_key(key))
        return 0 if cell is None or cell.value is ABSENT else cell.version

    def lock(self, key):
        cdef Cell cell = self.find_or_make(checked_key(key))
        cell.handed_out = True
        return cell

    def keys(self):
        """The keys that are set, oldest first. Subscribes to nothing."""
        cdef Cell cell
        cdef list found = [(cell.born, cell.key) for cell in self.all_cells() if cell.value is not ABSENT]
        found.sort()
        return [key for _, key in found]

    def watch_members(self):
        """Make the calling scope depend on the set of keys."""
        cdef Scope scope = current_scope(self)
        if scope is not None:
            self.subscribe(self.members, scope)

    def on_stale(self, wake):
        self.wake = wake

    def set_rerun_writer(self, int policy):
        self.rerun_writer = policy

    def collect_stale(self):
        cdef list found = []
        cdef uint32_t i, bit
        cdef uint64_t word
        cdef Scope scope
        self.woken = False
        for i in range(self.pending_words):
            word = self.pending[i]
            self.pending[i] = 0
            bit = 0
            while word:
                if word & 1:
                    scope = <Scope>self.slots[(i << 6) + bit]
                    scope.stale = True
                    found.append(scope)
                word >>= 1
                bit += 1
        return found

    def statistics(self):
        return {
            "keys": self.present,
            "cells": self.cells,
            "buckets": self.mask + 1,
            "scopes": len(self.slots) - len(self.free_slots),
            "slots": len(self.slots),
            "clock": self.clock,
        }


cdef inline Session current_session(Store store):
    cdef Scope scope = current_scope(store)
    return None if scope is None else scope.session


cdef inline str checked_key(object key):
    if not PyUnicode_CheckExact(key):
        raise TypeError(
            f"server_state keys are of type str, not {type(key).__module__}.{type(key).__qualname__}: {key!r}. "
            f"Use str(key)."
        )
    return <str>key
