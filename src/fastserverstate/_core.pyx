# cython: language_level=3, binding=True, embedsignature=False, boundscheck=False, wraparound=False
# cython: initializedcheck=False
"""The compiled core: keys, values, per-key locks, and who depends on what. It knows nothing of Streamlit.

                Store
                  buckets ──► [ Cell ─next─► Cell ]   one Cell per key: value, version, lock, subscribers
                              [ None ]
                              [ Cell ]
                  slots   ──► [ Scope, Scope, None ]  one Scope per region that reruns as a whole
                  pending     a bit per slot: marked stale, not yet collected

A *scope* is what can be rerun: the body of one session's script, or one fragment in it. Scopes of one session share a
`Session`, which numbers the runs and counts what was sent to the screen.

Reading a key sets the bit of the reading scope's slot in the key's subscriber set. A write that changes the value moves
the set, a word at a time, into `pending`, and leaves it empty: subscriptions are one-shot, because a scope that is
rerun reads again. So a key that is written a thousand times between two reruns pays for its subscribers once. The first
bit that enters an empty `pending` wakes whoever collects stale scopes.

Exclusion. The module needs the GIL. No operation lets go of it between looking at a cell and changing it, with two
exceptions that check the cell again afterwards: waiting for a key's lock, and comparing an old with a new value. Memory
for Python objects is obtained before a structure is changed, since it may start the garbage collector and with it
anybody's finalizer; values that were replaced are dropped after the structure is whole again.
"""
cimport cython
from cpython.contextvars cimport PyContextVar_Get
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject, PyObject_GenericGetAttr, PyObject_Hash
from cpython.pythread cimport (
    PY_LOCK_ACQUIRED,
    PY_LOCK_INTR,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_get_thread_ident,
    PyThread_release_lock,
    PyThread_type_lock,
)
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastserverstate._subscribers cimport (
    Subscribers,
    subscribers_add,
    subscribers_discard,
    subscribers_free,
    subscribers_has,
    subscribers_take,
)

import contextvars
import datetime
import decimal
import enum
import threading
from time import monotonic_ns

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #  define FSS_THREAD_LOCAL __declspec(thread)
    #else
    #  define FSS_THREAD_LOCAL __thread
    #endif
    /* The calling thread's ThreadCache. Borrowed: the thread state's dict owns it. */
    static FSS_THREAD_LOCAL PyObject *fss_thread_cache = NULL;
    """
    PyObject *fss_thread_cache

cdef extern from "Python.h":
    PyObject *PyThreadState_GetDict()
    int PyErr_CheckSignals() except -1
    Py_ssize_t Py_REFCNT(object)
    void _decref "Py_DECREF"(PyObject *)
    int PyThread_acquire_lock_timed(PyThread_type_lock, long long microseconds, int interruptible) nogil


@cython.final
cdef class _Absent:
    """The value of a key that is not set."""

    def __repr__(self):
        return "<absent>"

cdef object ABSENT = _Absent()

# Depth of the `no_rerun` blocks around the running code. A context variable, so that threads, tasks and parallel
# fragments each have what their own code says.
rerun_suppression_depth = contextvars.ContextVar("fastserverstate.no_rerun", default=0)


# ---------------------------------------------------------------------------------------------------------------- cells

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


# --------------------------------------------------------------------------------------------------------------- scopes

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
        if self.closed:
            return None
        if scope is None:
            scope = Scope.__new__(Scope)
            scope.session = self
            scope.part = part
            scope.values = _ReadLog()
            scope.presence = _ReadLog()
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


# ------------------------------------------------------------------------------------------ which scope is running here

@cython.final
cdef class _Locator:
    """How to find the scope that the calling thread runs in."""
    cdef str attribute      # of the threading.Thread object; its value is the thread's context
    cdef object variable    # a ContextVar, or None
    cdef str part           # attribute of the variable's value, or of the context when there is no variable
    cdef object resolve     # (context, part) -> Scope | None

cdef _Locator locator = None


@cython.final
cdef class _ThreadCache:
    """What the calling thread's last look-up found, and what must still be so for it to hold."""
    cdef dict attributes    # the Thread object's __dict__
    cdef object context
    cdef object source
    cdef object part
    cdef Scope scope

    def __dealloc__(self):
        global fss_thread_cache
        if fss_thread_cache == <PyObject *>self:
            fss_thread_cache = NULL


cdef object THREAD_CACHE_KEY = object()


cdef _ThreadCache _make_thread_cache():
    global fss_thread_cache
    cdef PyObject *state = PyThreadState_GetDict()
    cdef _ThreadCache cache = _ThreadCache()
    cache.attributes = threading.current_thread().__dict__
    if state == NULL:
        return cache
    (<dict>state)[THREAD_CACHE_KEY] = cache
    fss_thread_cache = <PyObject *>cache
    return cache


cdef Scope current_scope():
    """The scope that the calling thread runs in, or None."""
    cdef _ThreadCache cache
    cdef PyObject *found
    cdef object context, part, source
    if locator is None:
        return None
    cache = <_ThreadCache>fss_thread_cache if fss_thread_cache != NULL else _make_thread_cache()
    found = PyDict_GetItemWithError(cache.attributes, locator.attribute)
    if found == NULL or found == <PyObject *>None:
        if cache.context is not None:
            cache.context = cache.source = cache.part = cache.scope = None
        return None
    context = <object>found
    if locator.variable is not None:
        source = _context_value(locator.variable)
        if source is cache.source:
            part = cache.part
        else:
            part = None if source is None else getattr(source, locator.part)
    else:
        source = None
        part = getattr(context, locator.part)
    if context is cache.context and (part is cache.part or part == cache.part):
        cache.source = source
        if cache.scope is None or cache.scope.run == cache.scope.session.run:
            return cache.scope
    cache.scope = locator.resolve(context, part)
    cache.context, cache.source, cache.part = context, source, part
    return cache.scope


cdef inline object _context_value(object variable):
    """The value of a context variable, None where it has none."""
    cdef PyObject *value = NULL
    PyContextVar_Get(variable, NULL, &value)
    if value == NULL:
        return None
    result = <object>value
    _decref(value)
    return result


def locate_scopes(str attribute, variable, str part, resolve):
    global locator
    cdef _Locator new = _Locator()
    new.attribute = attribute
    new.variable = variable
    new.part = part
    new.resolve = resolve
    locator = new


# ---------------------------------------------------------------------------------------------------------------- store

cdef enum:
    FIRST_BUCKETS = 64

RERUN_WRITER_STALE = 0
RERUN_WRITER_NEVER = 1
RERUN_WRITER_ALWAYS = 2


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
        made.reserved = key in self.reserved
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
        cdef list values = scope.values.cells
        cdef list presence = scope.presence.cells
        cdef Cell cell
        scope.stale = False
        scope.overwritten = None
        self.pending[scope.slot >> 6] &= ~((<uint64_t>1) << (scope.slot & 63))
        scope.values.cells, scope.values.unshown = [], 0
        scope.presence.cells, scope.presence.unshown = [], 0
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
            if old is ABSENT:
                cell.born = self.clock
                self.present += 1
            else:
                self.present -= 1
        if presence_changed:
            cell.presence_owed = True
        if cell.readers.count or (cell.presence_owed and (cell.watchers.count or self.members.readers.count)):
            if rerun_suppression_depth.get():
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
        cdef list own
        cdef Scope scope
        cdef _ReadLog log
        if subscribers.count == 0:
            return 0
        if writer is None or not writer.running:
            subscribers_take(subscribers, self.pending)
            return 0
        own = []
        for scope in writer.scopes.values():
            if subscribers_has(subscribers, scope.slot):
                own.append(scope)
                log = scope.presence if presence else scope.values
                if self.rerun_writer == RERUN_WRITER_ALWAYS or (
                    self.rerun_writer == RERUN_WRITER_STALE
                    and (scope.run != writer.run or log.may_show(cell, writer.sent))
                ):
                    scope.overwritten = cell.key or "(the set of keys)"
        if subscribers.count > <uint32_t>len(own):
            for scope in own:
                subscribers_discard(subscribers, scope.slot)
            subscribers_take(subscribers, self.pending)
            for scope in own:
                subscribers_add(subscribers, scope.slot)
        return 0

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
        cdef Session writer = current_session()
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
        cdef Session writer = current_session()
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
        cdef Scope scope = current_scope()
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
        if cell is None or cell.value is ABSENT:
            raise KeyError(key)
        self.commit(cell, cell.value, current_session())
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
        cdef Scope scope = current_scope()
        if scope is not None and not subscribers_has(&self.members.readers, scope.slot) and not self.is_pending(scope):
            subscribers_add(&self.members.readers, scope.slot)
            scope.values.add(self.members, scope.session.sent)

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


cdef inline Session current_session():
    cdef Scope scope = current_scope()
    return None if scope is None else scope.session


cdef inline str checked_key(object key):
    if not PyUnicode_CheckExact(key):
        raise TypeError(
            f"server_state keys are of type str, not {type(key).__module__}.{type(key).__qualname__}: {key!r}. "
            f"Use str(key)."
        )
    return <str>key


# -------------------------------------------------------------------------------------------- item and attribute access

cdef class Namespace:
    """Item and attribute access to a store. A method of a subclass is a name that no key can have as an attribute."""
    cdef Store _store

    def __cinit__(self, Store store not None):
        self._store = store

    def __getitem__(self, key):
        value = self._store.read(checked_key(key))
        if value is ABSENT:
            raise KeyError(key)
        return value

    def __setitem__(self, key, value):
        self._store.write(checked_key(key), value, False)

    def __delitem__(self, key):
        if self._store.remove(checked_key(key)) is ABSENT:
            raise KeyError(key)

    def __contains__(self, key):
        cdef Scope scope
        cdef Cell cell
        if not PyUnicode_CheckExact(key):
            return False
        scope = current_scope()
        cell = self._store.find(<str>key)
        if cell is None:
            if scope is None:
                return False
            cell = self._store.find_or_make(<str>key)
        if _is_held_by_other(cell):
            self._store.read_when_free(cell, None)
        if scope is not None:
            self._store.watch(cell, scope)
        return cell.value is not ABSENT

    def __len__(self):
        self._store.watch_members()
        return self._store.present

    def __iter__(self):
        self._store.watch_members()
        return iter(self._store.keys())

    def __getattribute__(self, name):
        # No __getattr__ beside it: with one, subclasses would look attributes up the slow way.
        cdef Store store = self._store
        cdef Cell cell
        if not PyUnicode_CheckExact(name):
            return PyObject_GenericGetAttr(self, name)
        cell = store.find(<str>name)
        if cell is None or cell.reserved:
            if <str>name in store.reserved or is_dunder(<str>name):
                return PyObject_GenericGetAttr(self, name)
        value = store.read(<str>name)
        if value is ABSENT:
            raise AttributeError(
                f"server_state has no {name!r} yet. Set it first: server_state.{name} = ...", name=name, obj=self
            )
        return value

    def __setattr__(self, name, value):
        check_attribute(self._store, name)
        self._store.write(checked_key(name), value, False)

    def __delattr__(self, name):
        check_attribute(self._store, name)
        if self._store.remove(checked_key(name)) is ABSENT:
            raise AttributeError(f"server_state has no {name!r} to delete.", name=name, obj=self)

    def get(self, key, default=None):
        value = self._store.read(checked_key(key))
        return default if value is ABSENT else value

    def setdefault(self, key, default=None):
        cdef str name = checked_key(key)
        value = self._store.read(name)
        if value is ABSENT:
            value = self._store.write(name, default, True)
        return default if value is ABSENT else value

    def pop(self, key, *default):
        cdef Scope scope = current_scope()
        cdef str name = checked_key(key)
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        if scope is not None:
            self._store.watch(self._store.find_or_make(name), scope)
        value = self._store.remove(name)
        if value is not ABSENT:
            return value
        if default:
            return default[0]
        raise KeyError(key)


cdef inline bint is_dunder(str name):
    return name.startswith("__") and name.endswith("__")


cdef int check_attribute(Store store, name) except -1:
    if name in store.reserved or is_dunder(name):
        raise AttributeError(
            f"{name!r} is a method of server_state and cannot be a key by attribute. Use server_state[{name!r}]."
        )
    return 0


# -------------------------------------------------------------------------------------- did this assignment change it?

cdef enum:
    DEEPEST = 100
    MOST_CONTAINERS = 100_000  # a nest of shared containers is walked once for every way into it

cdef frozenset PLAIN = frozenset({type(None), bool, int, str, bytes, datetime.date, datetime.timedelta})
cdef object ENUM_TYPE = enum.EnumMeta


def same_value(old, new):
    cdef int containers = 0
    return _same(old, new, 0, &containers)


cdef bint _same(object old, object new, int depth, int *containers) except -1:
    """Whether `new` certainly shows what `old` showed. Runs no code but that of built-in types.

    Of types that are not listed nothing is certain, not even of the same object: it may have been changed in place.
    """
    cdef type kind = type(old)
    if kind is not type(new):
        return False
    if kind in PLAIN:
        return old is new or old == new
    if kind is float or kind is complex:
        return old is new or repr(old) == repr(new)  # tells 0.0 from -0.0, and not NaN from NaN
    if kind is decimal.Decimal:
        return old is new or old.compare_total(new) == 0  # tells 1.0 from 1.00
    if kind is range:
        return old.start == new.start and old.stop == new.stop and old.step == new.step
    if kind is datetime.datetime or kind is datetime.time:
        zone = old.tzinfo
        return (zone is new.tzinfo and (zone is None or type(zone) is datetime.timezone)) and old == new
    if isinstance(kind, ENUM_TYPE):
        return old is new
    if kind is not tuple and kind is not list and kind is not dict and kind is not set and kind is not frozenset:
        return False
    if old is new and (kind is list or kind is dict or kind is set):
        return False  # it may hold something else by now
    containers[0] += 1
    if len(old) != len(new) or depth > DEEPEST or containers[0] > MOST_CONTAINERS:
        return False
    if kind is set or kind is frozenset:
        for item in old:
            if type(item) not in PLAIN:
                return False
        for item in new:
            if type(item) not in PLAIN:
                return False
        return {(type(item), item) for item in old} == {(type(item), item) for item in new}
    if kind is dict:
        for left, right in zip((<dict>old).items(), (<dict>new).items()):
            if not _same(left[0], right[0], depth + 1, containers) or not _same(left[1], right[1], depth + 1, containers):
                return False
        return True
    for left, right in zip(old, new):
        if not _same(left, right, depth + 1, containers):
            return False
    return True
