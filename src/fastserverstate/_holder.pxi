# cython: language_level=3
# What threads hold, and the end of it. See _core.pyx for the whole.
#
# A Holder is a thread's part in a script run or, outside of runs, the thread's life. Locks, transactions and pending
# calls belong to it and end with it. It is told apart by its address, which cannot be used again while a cell has it,
# and by a number that is never used again: not by the thread's ident, which the system gives to the next thread.

@cython.final
cdef class Holder:
    """A thread's part in a run, or a thread outside of runs: what it holds ends with it."""
    cdef uint64_t serial
    cdef unsigned long thread     # its ident, for messages
    # As of the thread's last write that went through a backend:
    cdef Session session          # whose run it is part of,
    cdef const void *context      # the context,
    cdef bint beside              # and whether the thread is one of the app's own
    cdef Mutex mutex              # guards what follows; taken after a shard's
    cdef Cell *cells              # whose locks it has
    cdef Py_ssize_t locks         # how many
    # For the thread itself:
    cdef Transaction transaction  # the outermost one that is open
    cdef dict reads               # key -> where it was read first: a code object, and an offset in it
    cdef long long since          # when the last of them were taken, or the holder was made, on the clock
    cdef list pending             # locks of the keys whose listeners are to be called when it has no lock any more
    cdef bint flushing            # those calls are being made
    cdef bint forked              # it is the parent's, in a forked process

    def __cinit__(self):
        self.serial = add64(fss_serials, 1)
        self.thread = PyThread_get_thread_ident()
        self.since = clock_ns()

    def __dealloc__(self):
        release_cells(self, None, None)  # none, but for a thread that goes on after its end


cdef inline PyObject *current_holder() except NULL:
    """The calling thread's holder. Borrowed from the thread. No mutex is locked."""
    return fss_holder if fss_holder != NULL else _make_holder()


cdef PyObject *_make_holder() except NULL:
    global fss_holder
    cdef _ThreadCache cache = this_thread()
    cdef Holder made = Holder()
    suppression.set(suppression.get())  # gives the thread the context that it will be known by
    if fss_holder == NULL:  # else a finalizer has made one meanwhile
        cache.holder = made
        fss_holder = <PyObject *>made
    return fss_holder


cdef enum:
    MOST_READS = 100


cdef void note_read(Holder self, PyObject *key) noexcept:
    """Note where the running code reads the key, which has been read first in an execution."""
    cdef int instruction = 0
    cdef PyObject *code
    try:
        if self.reads is None:
            self.reads = {}
        if len(self.reads) < MOST_READS and <object>key not in self.reads:
            code = here(&instruction)
            self.reads[<object>key] = (None if code == NULL else owned(code), instruction)
    except MemoryError:
        self.reads = None


cdef tuple take_reads():
    """What the calling thread has read since the last call or the begin of its part: see Store.take_reads."""
    cdef Holder holder
    cdef dict reads
    cdef long long now = clock_ns()
    if fss_holder == NULL:
        return [], 0.0
    holder = <Holder>fss_holder
    seconds = (now - holder.since) / 1e9
    reads, holder.reads, holder.since = holder.reads, None, now
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


cdef void hold(Holder self, Table *table, Cell *cell) noexcept:
    """Make this the holder of the cell's lock, which is free. The shard is locked, and the cell has its cold fields."""
    store_object(cell.holder, <PyObject *>self)
    cell.depth = 1
    cell.extra.table = table
    lock(&self.mutex)
    cell.extra.next_held = self.cells
    cell.extra.previous_held = NULL
    if self.cells != NULL:
        self.cells.extra.previous_held = cell
    self.cells = cell
    self.locks += 1
    unlock(&self.mutex)


cdef void let_go(Cell *cell) noexcept:
    """Free the cell's lock, which has a holder. The shard is locked."""
    cdef Holder self = <Holder>cell.holder
    lock(&self.mutex)
    if cell.extra.next_held != NULL:
        cell.extra.next_held.extra.previous_held = cell.extra.previous_held
    if cell.extra.previous_held != NULL:
        cell.extra.previous_held.extra.next_held = cell.extra.next_held
    else:
        self.cells = cell.extra.next_held
    self.locks -= 1
    unlock(&self.mutex)
    cell.depth = 0
    store_object(cell.holder, NULL)


cdef tuple end_current_holder():
    """End the calling thread's holder. The thread is given another one at its next need."""
    global fss_holder, fss_transaction
    cdef Holder ended
    if fss_holder == NULL:
        return [], []
    ended = <Holder>fss_holder
    fss_holder = fss_transaction = NULL
    (<_ThreadCache>fss_thread_cache).holder = None
    return end_holder(ended)


cdef tuple end_holder(Holder self):
    """Release every lock that it has, and discard its transaction.

    Returns the keys of the locks and those that the transaction has written. It is no thread's holder any more.
    """
    cdef list released = []
    cdef dict remote = {}     # keys by backend
    cdef list discarded = []
    if self.transaction is not None and not self.transaction.ended:
        discarded = list(self.transaction.writes)
        discard(self.transaction)
    self.transaction = None
    release_cells(self, released, remote)
    try:
        for told, names in remote.items():
            told.release(names, self.serial)
    finally:
        flush_at_end(self)
    return released, discarded


cdef int flush_at_end(Holder self) except -1:
    """Make the calls that were put off. What stops a script ends here, for there is no script left."""
    try:
        flush_pending(self)
    except BaseException as stop:
        if isinstance(stop, KeyboardInterrupt):
            raise
    return 0


cdef int release_cells(Holder self, list released, dict remote) except -1:
    """Free the locks that the holder has, and note their keys, by backend too."""
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
        table = cell.extra.table
        shard = shard_of(table, cell.hash)
        key = cell.key
        _incref(key)
        lock(&shard.mutex)
        cell.depth = 1
        unlock_cell(shard, cell)
        unlock_shard(shard)
        name = owned(key)
        if released is not None:
            released.append(name)
            backend = load_object(table.backend)
            if backend != NULL:
                remote.setdefault(<object>backend, []).append(name)


# Told of what a thread that has ended still held: (keys of locks, keys that its transaction has written).
cdef object report_leftovers = None


def on_leftovers(report):
    global report_leftovers
    report_leftovers = report
