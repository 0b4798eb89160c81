# cython: language_level=3
# Several changes that appear together: those of a transaction, and those that come from a backend. See the head of
# _core.pyx.

@cython.final
cdef class _Change:
    """A change of one key. It holds the old value, which may be freed only when nothing is locked."""
    cdef str key
    cdef object value         # ABSENT removes the key or, if it is absent, touches it
    cdef Comparison comparison
    cdef bint forced          # marks subscribers even if the value is the same
    cdef bint quiet           # marks no subscribers
    cdef bint staged          # the calling thread's transaction has staged it
    cdef bint keeps_deadline
    cdef bint sets_deadline   # only that, for a key that is set: `left_ns` from now, -1 for none
    cdef long long left_ns
    cdef int removal          # why the key is removed
    cdef bint skipped         # it was not made, because another thread holds the key's lock
    cdef bint has_callbacks   # callbacks are pending for the key
    cdef PyObject *old        # the previous value, or NULL

    def __dealloc__(self):
        end_comparison(&self.comparison)
        _xdecref(self.old)


cdef _Change new_change(str key, object value, bint forced, bint quiet):
    cdef _Change change = _Change()
    change.key, change.value = key, value
    change.forced, change.quiet = forced, quiet
    if value is EXPIRED or value is EVICTED:
        change.removal, change.value = removal_by(value), ABSENT
    elif value is not ABSENT:
        begin_comparison(&change.comparison, <PyObject *>value)
    return change


cdef int compare_change(_Change change, Store store) except -1:
    """Compare the change with the key's value, as far as that runs foreign code. Nothing is locked."""
    cdef Py_hash_t hashed = key_hash(<PyObject *>change.key)
    cdef Shard *shard = shard_of(store.table, hashed)
    cdef Cell *cell
    cdef PyObject *replaced
    cdef bint due
    while True:
        lock(&shard.mutex)
        cell = find(shard, <PyObject *>change.key, hashed)
        if cell == NULL:  # another thread has ended the transaction, and `make_changes` refuses it
            unlock(&shard.mutex)
            return 0
        replaced = cell.value if is_to_decode(cell) else NULL
        _xincref(replaced)
        due = replaced == NULL and needs_comparison(&change.comparison, cell)
        unlock(&shard.mutex)
        if replaced != NULL:
            decode_to_compare(store.table, <PyObject *>change.key, replaced)
            continue
        if not due:
            return 0
        compare_unlocked(&change.comparison, store, change.key)


cdef bint make_changes(
    Table *table, list changes, Session writer, PyObject *holder, Transaction transaction
) except -1:
    """Make all changes atomically, as writes of the holder. False if the transaction, unless None, has ended before."""
    cdef bint involved[SHARDS]
    cdef bint is_over
    cdef bint has_memory = True
    cdef _Change change
    memset(involved, 0, sizeof(involved))
    for change in changes:
        involved[shard_of(table, key_hash(<PyObject *>change.key)) - table.shards] = True
    if writer is not None:
        lock(&writer.mutex)
    lock_shards(table, involved)
    is_over = transaction is not None and transaction.ended
    if not is_over:
        for change in changes:
            has_memory = make_change(table, change, writer, holder) and has_memory
    unlock_shards(table, involved)
    if writer is not None:
        unlock(&writer.mutex)
    free_dropped(table, involved)
    if not has_memory:
        raise MemoryError()
    return not is_over


cdef bint make_change(Table *table, _Change change, Session writer, PyObject *holder) noexcept:
    """Make one of the changes; False if there is no memory. The writer's session and the key's shard are locked."""
    global fss_holder
    cdef PyObject *own_holder = fss_holder
    cdef Py_hash_t hashed = key_hash(<PyObject *>change.key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell = find_or_make(shard, <PyObject *>change.key, hashed)
    cdef PyObject *new = change.comparison.value  # NULL for ABSENT
    if cell == NULL:
        return False
    if is_held_by_other(cell):
        change.skipped = True
        return True
    if change.sets_deadline:
        return cell.value == NULL or change_deadline(table, shard, cell, change.left_ns)
    if change.staged:
        cell.staged = False
    if new == NULL and cell.value == NULL and not change.forced:
        return True
    if new != NULL and cell.value != NULL and not change.forced and is_unchanged(&change.comparison, cell):
        change.old, cell.value = cell.value, new
        _incref(new)
        if cell.terms_at:
            begin_terms(table, shard, cell, change.keeps_deadline)
        if cell.policy != BY_CONTENT and is_recorded(table, cell):
            record(table, shard, cell)
        return True
    fss_holder = holder
    if new == NULL and cell.value == NULL:
        touch_absent(table, cell, writer, change.quiet)
    else:
        keep_fingerprint(&change.comparison, cell)
        change.old = commit(table, shard, cell, new, writer, change.quiet)
        if new == NULL:
            note_removal(table, cell, change.removal)
        elif cell.terms_at:
            begin_terms(table, shard, cell, change.keeps_deadline)
    fss_holder = own_holder
    change.has_callbacks = has_pending_callbacks(cell)
    drop_if_unused(shard, cell)
    return True


cdef inline void free_dropped(Table *table, const bint *involved) noexcept:
    """Free what the involved shards, or all if it is NULL, have dropped. Nothing is locked."""
    cdef int i
    for i in range(SHARDS):
        if involved == NULL or involved[i]:
            lock(&table.shards[i].mutex)
            unlock_shard(&table.shards[i])
