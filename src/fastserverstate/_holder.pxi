# cython: language_level=3
# Holders: the locks, transactions and pending callbacks of threads. See the head of _core.pyx.
#
# A Holder is a thread's part in a script run or, outside of runs, the thread's life. Locks, transactions and pending
# callbacks belong to it and end with it. A holder is identified by its address, which is not reused while a cell refers
# to it, and by a serial number that is never reused. A thread ident would not do, for the system reuses it.

@cython.final
cdef class Holder:
    """A thread's part in a run or, outside of runs, the thread. What it holds ends with it."""
    cdef uint64_t serial
    cdef unsigned long thread     # the thread's ident, for messages
    # Set by the thread's last write that went through a backend:
    cdef Session session          # the session whose run the thread takes part in
    cdef const void *context
    cdef bint is_app_thread       # the thread was started by the app and may outlive the run
    cdef Mutex mutex              # guards `cells` and `locks`; locked after a shard's
    cdef Cell *cells              # list of the cells whose locks it has
    cdef Py_ssize_t locks         # length of that list
    # Only used by the thread itself:
    cdef Transaction transaction  # the outermost open one
    cdef dict reads               # key -> source location of its first read: a code object, and an offset in it
    cdef long long reads_since_ns  # time at which `reads` was last taken, or the holder was created
    cdef list deferred            # locks of the keys whose listeners are called when it holds no lock any more
    cdef bint flushing            # it is making those calls
    cdef Store undurable          # whose changes are to be durable before it goes on without a lock, or None
    cdef bint forked              # in a forked process: it belongs to the parent

    def __cinit__(self):
        self.serial = add64(fss_serials, 1)
        self.thread = PyThread_get_thread_ident()
        self.reads_since_ns = clock_ns()

    def __dealloc__(self):
        release_held_cells(self, None, None)  # there are none unless the thread went on after its end


cdef inline PyObject *current_holder() except NULL:
    """The calling thread's holder, borrowed from the thread. Call with no mutex locked."""
    return fss_holder if fss_holder != NULL else _make_holder()


cdef PyObject *_make_holder() except NULL:
    global fss_holder
    cdef _ThreadCache cache = this_thread()
    cdef Holder made = Holder()
    suppression.set(suppression.get())  # creates the thread's context
    if fss_holder == NULL:  # else a finalizer created one meanwhile
        cache.holder = made
        fss_holder = <PyObject *>made
    return fss_holder


cdef enum:
    MAX_READS = 100


cdef void note_read(Holder self, PyObject *key) noexcept:
    """Note the source location of a key's first read in an execution."""
    cdef int instruction = 0
    cdef PyObject *code
    try:
        if self.reads is None:
            self.reads = {}
        if len(self.reads) < MAX_READS and <object>key not in self.reads:
            code = caller_location(&instruction)
            self.reads[<object>key] = (None if code == NULL else owned(code), instruction)
    except MemoryError:
        self.reads = None


cdef tuple take_reads():
    """Return the reads noted since the last call or the start of the thread's part in a run. See Store.take_reads."""
    cdef Holder holder
    cdef dict reads
    cdef long long now = clock_ns()
    if fss_holder == NULL:
        return [], 0.0
    holder = <Holder>fss_holder
    seconds = (now - holder.reads_since_ns) / 1e9
    reads, holder.reads, holder.reads_since_ns = holder.reads, None, now
    return list(reads.items()) if reads is not None else [], seconds


def holder_serial():
    return (<Holder>current_holder()).serial


def this_holder():
    return <Holder>current_holder()


def act_for(Holder holder not None, function):
    global fss_holder
    cdef PyObject *own = fss_holder
    fss_holder = <PyObject *>holder
    try:
        return function()
    finally:
        fss_holder = own


cdef void set_holder(Holder self, Table *table, Cell *cell) noexcept:
    """Make this the holder of the cell's lock, which is free. The shard is locked, and the cell has its cold fields."""
    store_object(cell.holder, <PyObject *>self)
    cell.depth = 1
    cell.cold.table = table
    lock(&self.mutex)
    cell.cold.next_held = self.cells
    cell.cold.previous_held = NULL
    if self.cells != NULL:
        self.cells.cold.previous_held = cell
    self.cells = cell
    self.locks += 1
    unlock(&self.mutex)


cdef void clear_holder(Cell *cell) noexcept:
    """Free the cell's lock, which has a holder. The shard is locked."""
    cdef Holder self = <Holder>cell.holder
    lock(&self.mutex)
    if cell.cold.next_held != NULL:
        cell.cold.next_held.cold.previous_held = cell.cold.previous_held
    if cell.cold.previous_held != NULL:
        cell.cold.previous_held.cold.next_held = cell.cold.next_held
    else:
        self.cells = cell.cold.next_held
    self.locks -= 1
    unlock(&self.mutex)
    cell.depth = 0
    store_object(cell.holder, NULL)


cdef tuple end_current_holder():
    """End the calling thread's holder. The thread gets another one when it needs one."""
    global fss_holder, fss_transaction
    cdef Holder ended
    if fss_holder == NULL:
        return [], []
    ended = <Holder>fss_holder
    fss_holder = fss_transaction = NULL
    (<_ThreadCache>fss_thread_cache).holder = None
    return end_holder(ended)


cdef tuple end_holder(Holder self):
    """Release all its locks and discard its transaction.

    Returns the keys of the locks, and the keys that the transaction had written. No thread uses the holder any more.
    """
    cdef list released = []
    cdef dict remote = {}     # backend -> keys
    cdef list discarded = []
    if self.transaction is not None and not self.transaction.ended:
        discarded = list(self.transaction.writes)
        discard(self.transaction)
    self.transaction = None
    release_held_cells(self, released, remote)
    try:
        for backend, names in remote.items():
            backend.release(names, self.serial)
    finally:
        flush_at_end(self)
    return released, discarded


cdef int flush_at_end(Holder self) except -1:
    """Flush the pending callbacks. Exceptions that stop a script end here, because the script is over."""
    try:
        flush_deferred(self)
    except BaseException as stop:
        if isinstance(stop, KeyboardInterrupt):
            raise
    return 0


cdef int release_held_cells(Holder self, list released, dict remote) except -1:
    """Free the holder's locks, and note their keys, also by backend."""
    cdef Table *table
    cdef Shard *shard
    cdef Cell *cell
    cdef PyObject *key
    cdef PyObject *backend
    while True:
        lock(&self.mutex)
        cell = self.cells
        unlock(&self.mutex)
        if cell == NULL:
            return 0
        table = cell.cold.table
        shard = shard_of(table, cell.hash)
        backend = backend_of(table, cell)
        key = cell.key
        _incref(key)
        lock(&shard.mutex)
        cell.depth = 1
        unlock_cell(shard, cell)
        unlock_shard(shard)
        name = owned(key)
        if released is not None:
            released.append(name)
            if backend != NULL:
                remote.setdefault(<object>backend, []).append(name)


# Called with what a thread still held when it ended: (keys of locks, keys that its transaction had written).
cdef object report_leftovers = None


def on_leftovers(report):
    global report_leftovers
    report_leftovers = report
