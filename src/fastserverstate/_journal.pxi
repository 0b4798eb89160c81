# cython: language_level=3
# Journals: which keys have changed since they were last taken. See the head of _core.pyx.
#
# A change puts its cell into its shard's list of dirty cells, once for each open journal. The journal's thread takes
# all dirty cells at one moment, with all shards locked. So a batch is the difference between the states of two moments:
# it contains a transaction as a whole or not at all, and a key that changes often is in it once. Each batch has a
# number, its *epoch*. A writer whose change has to be durable waits for the epoch that was open when it made it.

cdef enum:
    OF_ENGINE           # what a storage engine has to store
    OF_BOUNDS           # what may exceed the bounds of the number or size of values
    JOURNALS

cdef enum:
    KEPT_IN_MEMORY
    DURABLE_LATER       # writers do not wait
    DURABLE_FIRST       # a write returns when it is durable, and releases its locks before it waits
    SHOWN_WHEN_DURABLE  # it also keeps the key's lock until then, so that no thread reads the value earlier

cdef uint64_t ENDED = ~<uint64_t>0  # in place of the last failed epoch: no batch is stored any more

JOURNAL_OFF = KEPT_IN_MEMORY
JOURNAL_LATER = DURABLE_LATER
JOURNAL_FIRST = DURABLE_FIRST
JOURNAL_SHOW_LATER = SHOWN_WHEN_DURABLE


cdef inline bint is_recorded(const Table *table, const Cell *cell) noexcept:
    """Whether a journal is open for the cell's changes."""
    return load_size(table.open_journals) and not cell.is_hidden


cdef void record(Table *table, Shard *shard, Cell *cell) noexcept:
    """Put a changed cell into the open journals. The shard is locked."""
    cdef int which
    for which in range(JOURNALS):
        if load_flag(table.journals[which].is_open):
            record_in(table, which, shard, cell)


cdef inline void record_in(Table *table, int which, Shard *shard, Cell *cell) noexcept:
    cdef Journal *journal = &table.journals[which]
    if not cell.is_dirty[which]:
        cell.is_dirty[which] = True
        cell.next_dirty[which] = shard.dirty[which]
        shard.dirty[which] = cell
        if add_size(journal.dirty, 1) == 1:
            wake_if_due(journal)


cdef inline void forget_last(Table *table, int which, Shard *shard) noexcept:
    """Take the newest cell out of a journal again. The shard is locked."""
    cdef Cell *cell = shard.dirty[which]
    shard.dirty[which] = cell.next_dirty[which]
    cell.is_dirty[which] = False
    add_size(table.journals[which].dirty, -1)


cdef void open_journal(Table *table, int which) noexcept:
    """Record from now on. All keys that are set count as changed."""
    cdef Journal *journal = &table.journals[which]
    cdef bint was_open
    lock(&journal.mutex)
    if journal.epoch == 0:
        store64(journal.epoch, 1)
    journal.is_closing = False
    if journal.failed == ENDED:
        store64(journal.failed, 0)
    was_open = journal.is_open
    store_flag(journal.is_open, True)
    unlock(&journal.mutex)
    if not was_open:
        add_size(table.open_journals, 1)
    record_all(table, which)


cdef void close_journal(Journal *journal) noexcept:
    """Have the journal's thread end."""
    lock(&journal.mutex)
    journal.is_closing = True
    unlock(&journal.mutex)
    wake_if_due(journal)


cdef int stop_journal(Table *table, int which) except -1:
    """Record no more, and forget what was recorded. No thread waits any longer."""
    cdef Journal *journal = &table.journals[which]
    cdef bint was_open
    lock(&journal.mutex)
    was_open = journal.is_open
    store_flag(journal.is_open, False)
    unlock(&journal.mutex)
    if was_open:
        add_size(table.open_journals, -1)
    take_journal(table, which)
    end_batch(journal, load64(journal.epoch) - 1, False)
    return 0


cdef void end_journal(Journal *journal) noexcept:
    """Have all waits fail, now and later. The process is ending."""
    end_batch(journal, ENDED, True)


ctypedef struct Recorded:
    # A dirty cell as it was when the batch was taken.
    PyObject *key
    PyObject *value             # or NULL
    uint64_t version
    uint64_t position
    long long deadline_ns       # 0: none


cdef object take_journal(Table *table, int which):
    """Take all dirty cells: the epoch, the highest version, and for each (key, value, version, position, time left).

    The value is ABSENT for a key that is not set, or that the engine does not keep.
    """
    cdef Journal *journal = &table.journals[which]
    cdef Recorded *batch
    cdef Recorded *recorded
    cdef Cell *cell
    cdef Shard *shard
    cdef Py_ssize_t room, at, n = 0
    cdef uint64_t clock = 0, epoch
    cdef long long now = clock_ns()
    cdef int i
    while True:
        room = load_size(journal.dirty)
        batch = <Recorded *>PyMem_RawMalloc((room + 1) * sizeof(Recorded))
        if batch == NULL:
            raise MemoryError()
        lock_shards(table, NULL)
        if journal.dirty <= room:
            break
        unlock_shards(table, NULL)
        PyMem_RawFree(batch)
    for i in range(SHARDS):
        shard = &table.shards[i]
        clock = max(clock, shard.clock)
        cell = shard.dirty[which]
        shard.dirty[which] = NULL
        while cell != NULL:
            recorded = &batch[n]
            recorded.key = cell.key
            recorded.value = cell.value if which != OF_ENGINE or is_persistent(shard, cell) else NULL
            _incref(recorded.key)
            _xincref(recorded.value)
            recorded.version, recorded.position = cell.version, cell.insertion_sequence
            recorded.deadline_ns = deadline_of(shard, cell)
            n += 1
            cell = leave_journal(shard, which, cell)
    epoch = journal.epoch
    store64(journal.epoch, epoch + 1)  # before the next line: `has_undurable` locks nothing
    store_size(journal.dirty, 0)
    unlock_shards(table, NULL)
    free_dropped(table, NULL)
    changes = []
    for at in range(n):
        recorded = &batch[at]
        value = ABSENT if recorded.value == NULL else owned(recorded.value)
        left = None if recorded.deadline_ns == 0 else (recorded.deadline_ns - now) / 1e9
        changes.append((owned(recorded.key), value, recorded.version, recorded.position, left))
    PyMem_RawFree(batch)
    return epoch, clock, changes


cdef inline Cell *leave_journal(Shard *shard, int which, Cell *cell) noexcept:
    """The cell is dirty no more. Returns the next one. The shard is locked."""
    cdef Cell *following = cell.next_dirty[which]
    cell.is_dirty[which] = False
    cell.next_dirty[which] = NULL
    drop_if_unused(shard, cell)
    return following


cdef void record_all(Table *table, int which) noexcept:
    """Put all keys that are set into a journal."""
    cdef Shard *shard
    cdef Cell *cell
    cdef int i
    for i in range(SHARDS):
        shard = &table.shards[i]
        lock(&shard.mutex)
        cell = next_cell(shard, NULL)
        while cell != NULL:
            if cell.value != NULL and not cell.is_hidden:
                record_in(table, which, shard, cell)
            cell = next_cell(shard, cell)
        unlock(&shard.mutex)


# Waiting

cdef int sleep_until_due(Journal *journal, double seconds, bint for_changes, Py_ssize_t least) except -1:
    """Sleep until at least so many threads wait for a batch or, if `for_changes`, a cell is dirty; or the time is over.

    Called by the journal's thread. A negative time is none.
    """
    cdef Waiter waiter
    cdef bint awake = True
    current_holder()
    if not waiter_start(&waiter):
        raise MemoryError()
    lock(&journal.mutex)
    journal.sleeper = &waiter
    journal.for_changes = for_changes
    journal.least_waiting = least
    unlock(&journal.mutex)
    try:
        waiter_register(&waiter)
        while awake and not is_due_now(journal):
            check_interrupts(&waiter)
            awake = waiter_sleep(&waiter, nanoseconds(seconds))
    finally:
        lock(&journal.mutex)
        journal.sleeper = NULL
        unlock(&journal.mutex)
        waiter_end(&waiter)
    return 0


cdef inline void wake_if_due(Journal *journal) noexcept:
    """Wake the journal's thread if it sleeps and has something to do: a change that the caller has just made.

    The thread notes that it sleeps before it looks for changes. The mutex makes one of the two see the other.
    """
    lock(&journal.mutex)
    if journal.sleeper != NULL and is_due(journal):
        wake(journal.sleeper)
    unlock(&journal.mutex)


cdef inline bint is_due(const Journal *journal) noexcept:
    """Whether the journal's thread has something to do. The journal is locked."""
    return (
        journal.is_closing
        or (journal.for_changes and load_size(journal.dirty) != 0)
        or (journal.waiting >= journal.least_waiting and journal.wanted > last_ended(journal))
    )


cdef inline bint is_due_now(Journal *journal) noexcept:
    cdef bint due
    lock(&journal.mutex)
    due = is_due(journal)
    unlock(&journal.mutex)
    return due


cdef inline uint64_t last_ended(const Journal *journal) noexcept:
    """Epoch of the last batch that was stored or has failed. The journal is locked."""
    return max(journal.durable, journal.failed)


cdef inline bint has_undurable(Journal *journal) noexcept:
    """Whether a change may not be durable yet."""
    return load_size(journal.dirty) != 0 or load64(journal.durable) + 1 != load64(journal.epoch)


cdef bint wait_until_durable(Store store, bint interruptible, long long timeout_ns=-1) except -1:
    """Wait until all changes made so far are durable; False if `timeout_ns` (-1: none) passed first.

    Raises NotDurableError if the engine could not store them.

    A thread that runs an event loop does not wait longer than MAX_LOOP_WAIT_NS: the change will be durable later.
    """
    cdef Journal *journal = &store.table.journals[OF_ENGINE]
    cdef uint64_t epoch = load64(journal.epoch)
    cdef Waiter waiter
    cdef bint awake = True
    if not has_undurable(journal):
        return True
    if load64(journal.failed) == ENDED:
        raise_not_durable(store)
    current_holder()
    if not waiter_start(&waiter):
        raise MemoryError()
    lock(&journal.mutex)
    join_queue(&journal.waiters, &waiter)
    if epoch > last_ended(journal):  # else it has ended since the line that read the epoch
        waiter.epoch = epoch
        journal.wanted = max(journal.wanted, epoch)
        journal.waiting += 1
    unlock(&journal.mutex)
    wake_if_due(journal)
    try:
        waiter_register(&waiter)
        while awake and load64(waiter.epoch) and load_flag(journal.is_open):
            if interruptible:
                check_interrupts(&waiter)
            awake = waiter_sleep(&waiter, timeout_ns)
    finally:
        lock(&journal.mutex)
        leave_queue(&journal.waiters, &waiter)
        journal.waiting -= waiter.epoch != 0
        unlock(&journal.mutex)
        waiter_end(&waiter)
    if load64(journal.durable) < epoch and load64(journal.failed) >= epoch:
        raise_not_durable(store)
    return awake


cdef int raise_not_durable(Store store) except -1:
    from fastserverstate.durable.errors import NotDurableError
    cdef Journal *journal = &store.table.journals[OF_ENGINE]
    lock(&journal.mutex)
    failure = store.failure
    unlock(&journal.mutex)
    if load64(journal.failed) == ENDED:
        raise NotDurableError("The change was made, but is not stored: the process is ending.")
    raise NotDurableError(
        f"The change was made, but could not be stored: {failure}. It is tried again until it is stored. Until "
        f"then, a restart would undo it."
    )


cdef Py_ssize_t end_batch(Journal *journal, uint64_t epoch, bint failed) noexcept:
    """Tell the waiting threads that the batches up to this one are durable, or that they could not be stored.

    Returns how many threads were waiting, including those that wait for a later batch.
    """
    cdef Waiter *waiter
    cdef Py_ssize_t waiting
    lock(&journal.mutex)
    if failed:
        store64(journal.failed, epoch)
    else:
        store64(journal.durable, epoch)
    waiting = journal.waiting
    waiter = journal.waiters
    while waiter != NULL:
        if 0 < waiter.epoch <= epoch:
            store64(waiter.epoch, 0)
            journal.waiting -= 1
            wake(waiter)
        waiter = waiter.next
    unlock(&journal.mutex)
    return waiting


# Values that were loaded and not read yet

@cython.final
@cython.no_gc
cdef class Encoded:
    """A value as it was stored. The first read decodes it."""
    cdef readonly bytes data
    cdef PyObject *value        # decoded; NULL before that
    cdef bint is_unreadable     # decoding has failed

    def __cinit__(self, bytes data not None):
        self.data = data

    def __dealloc__(self):
        _xdecref(self.value)


cdef inline bint is_encoded(PyObject *value) noexcept:
    return type(<object>value) is Encoded


cdef inline bint is_to_decode(const Cell *cell) noexcept:
    """Whether the cell's value has to be decoded before it can be compared. The shard is locked."""
    return (
        cell.value != NULL
        and is_encoded(cell.value)
        and not load_flag((<Encoded>cell.value).is_unreadable)
        and cell.policy not in (BY_IDENTITY, NEVER_SAME)
    )


cdef PyObject *decoded(Table *table, PyObject *key, PyObject *value) except NULL:
    """A new reference to the decoded value, which takes the encoded one's place. Takes over the reference."""
    cdef Encoded encoded = owned(value)
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef PyObject *old = NULL
    cdef uint64_t content[2]
    cdef bint has_fingerprint = False
    cdef PyObject *result = load_object(encoded.value)
    if result == NULL:
        try:
            found = (<object>load_object(table.decoder))(<object>key, encoded.data)
        except Exception:
            store_flag(encoded.is_unreadable, True)
            raise
        if not is_plain(<PyObject *>found):
            has_fingerprint = fingerprint(found, content, None, assignment_budget_ns) == TAKEN
        lock(&shard.mutex)
        if encoded.value == NULL:  # else another thread was faster, and all threads get its object
            _incref(<PyObject *>found)
            store_object(encoded.value, <PyObject *>found)
        else:
            has_fingerprint = False
        cell = find(shard, key, hashed)
        if cell != NULL and cell.value == <PyObject *>encoded:
            old = cell.value
            cell.value = encoded.value
            _incref(cell.value)
            if has_fingerprint and cell.policy in (BY_CONTENT, UNRESOLVED):
                cell.has_fingerprint = True
                memcpy(cell.fingerprint, content, sizeof(content))
        result = encoded.value
        unlock(&shard.mutex)
        _xdecref(old)
    _incref(result)
    return result


cdef object as_decoded(Store store, str key, object value):
    """The value itself or, if it is encoded, the decoded one."""
    if type(value) is not Encoded:
        return value
    _incref(<PyObject *>value)
    return owned(decoded(store.table, <PyObject *>key, <PyObject *>value))


cdef int decode_to_compare(Table *table, PyObject *key, PyObject *value) except -1:
    """Decode the value that an assignment replaces. A value that cannot be decoded counts as another one."""
    try:
        _decref(decoded(table, key, value))
    except Exception:
        pass  # `is_unreadable` tells, and a read raises the error
    return 0


cdef list restore(Store store, rows, uint64_t clock):
    """Set keys: (key, encoded value, position, seconds left). Returns the rows of keys that others have locked."""
    cdef Table *table = store.table
    cdef Shard *shard
    cdef Cell *cell
    cdef PyObject *old
    cdef Py_hash_t hashed
    cdef bint was_dirty
    cdef uint64_t place, last
    cdef int i
    cdef bint has_memory = True
    cdef bint has_callbacks
    cdef list skipped = []
    cdef list due = []
    for i in range(SHARDS):
        shard = &table.shards[i]
        lock(&shard.mutex)
        shard.clock = max(shard.clock, clock)
        unlock(&shard.mutex)
    for row in rows:
        key, data, place, left = row
        value = Encoded(data)
        hashed = key_hash(checked_key(key))
        shard = shard_of(table, hashed)
        if load_object(store.options) != NULL and not is_resolved(table, <PyObject *>key):
            resolve(store, key)
        old = NULL
        has_callbacks = False
        lock(&shard.mutex)
        cell = find_or_make(shard, <PyObject *>key, hashed)
        if cell == NULL:
            unlock_shard(shard)
            raise MemoryError()
        if is_held_by_other(cell):
            skipped.append(row)
        else:
            was_dirty = cell.is_dirty[OF_ENGINE]
            cell.has_fingerprint = False
            old = commit(table, shard, cell, <PyObject *>value, None, False)
            cell.insertion_sequence = place
            last = load64(table.insertion_sequence)
            if place > last:
                add64(table.insertion_sequence, place - last)  # other threads add to it, too
            if left is not None:
                has_memory = change_deadline(table, shard, cell, nanoseconds(max(0.0, left))) and has_memory
            if not was_dirty and cell.is_dirty[OF_ENGINE]:
                forget_last(table, OF_ENGINE, shard)
            has_callbacks = has_pending_callbacks(cell)
        unlock_shard(shard)
        _xdecref(old)
        if has_callbacks:
            due.append(key)
    store.flush(due)
    if not has_memory:
        raise MemoryError()
    return skipped
