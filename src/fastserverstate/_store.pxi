# cython: language_level=3
# The store: reading, writing and locking a key. See the head of _core.pyx.

cdef class Store:
    """A table of keys, and the scopes that depend on them."""
    cdef Table *table
    cdef tuple reserved          # names of methods, which win in attribute access
    cdef object stale_listener   # called when the first scope becomes pending; guarded by the mutex of the slots
    cdef PyObject *options       # key -> its options, or NULL; never freed
    cdef uint64_t generation     # of the options
    cdef object failure          # why the storage engine could not store a batch; guarded by the mutex of the journal

    def __cinit__(self, reserved=()):
        self.table = table_new()
        self.reserved = tuple(reserved)
        reserve(self.table, self.reserved)

    def __dealloc__(self):
        if self.table != NULL:
            empty(self.table)
            table_release(self.table)

    # For the Python layers

    def peek(self, key, default=None, double timeout=-1):
        cdef PyObject *value
        if not PyUnicode_CheckExact(key):
            return self.peek(plain_key(key), default, timeout)
        value = read_slowly(self.table, <PyObject *>key, key_hash(<PyObject *>key), None, False, nanoseconds(timeout))
        return default if value == NULL else owned(value)

    def touch(self, key):
        change_presence(self, <str>plain_key(key), False)

    def version(self, key):
        key = plain_key(key)
        cdef Py_hash_t hashed = key_hash(<PyObject *>key)
        cdef Shard *shard = shard_of(self.table, hashed)
        cdef uint64_t version = 0
        cdef Cell *cell
        lock(&shard.mutex)
        cell = find(shard, <PyObject *>key, hashed)
        if cell != NULL and cell.value != NULL:
            version = cell.version
        unlock(&shard.mutex)
        return version

    def check_access(self, key, int access):
        key = plain_key(key)
        check_access(self.table, <PyObject *>key, access)

    def set_guard(self, guard):
        _incref(<PyObject *>guard)  # immortal: a thread may be about to call it at any time
        set_guard(self.table, <PyObject *>guard)

    def lock(self, key):
        if not PyUnicode_CheckExact(key):
            return self.lock(plain_key(key))
        return owned(key_lock(self.table, <PyObject *>key))

    def keys(self, bint hidden=False, prefix=None):
        return sorted_keys(self.table, hidden, None if prefix is None else plain_key(prefix))

    def watch_members(self, prefix=None):
        watch_members(self.table, None if prefix is None else plain_key(prefix))

    def on_stale(self, listener):
        lock(&self.table.slots.mutex)
        previous, self.stale_listener = self.stale_listener, listener  # dropped when nothing is locked
        unlock(&self.table.slots.mutex)

    def set_rerun_writer(self, int policy):
        lock(&self.table.slots.mutex)
        self.table.slots.rerun_writer = policy
        unlock(&self.table.slots.mutex)

    def collect_stale(self):
        return collect_scopes(&self.table.slots)

    def take_chain_writes(self):
        return take_chain_writes(&self.table.slots)

    def set_options(self, options):
        if load_object(self.options) != <PyObject *>options:
            _incref(<PyObject *>options)  # immortal: a thread may be about to call it at any time
            store_object(self.options, <PyObject *>options)
        self.options_changed()

    def options_changed(self):
        add64(self.generation, 1)
        forget_options(self.table)

    def resolve(self, key):
        if self.version(key):
            resolve(self, <str>key)
            release_throttled(self.table)  # the new interval may be over already
            call_stale_listener(self)

    def release_throttled(self):
        cdef long long left = release_throttled(self.table)
        return None if left < 0 else left / 1e9

    def note_reads(self, bint wanted):
        store_flag(self.table.note_reads, wanted)

    def take_reads(self):
        return take_reads()

    def changed_in_place(self, key, double budget):
        cdef bint was_untracked = set_untracked(True)
        try:
            return changed_in_place(self.table, checked_key(key), max(1, nanoseconds(budget)))
        finally:
            set_untracked(was_untracked)

    def offload_callbacks(self, call):
        _incref(<PyObject *>call)  # immortal: a thread may be about to call it at any time
        store_object(self.table.offload_callbacks, <PyObject *>call)

    def transaction(self, keys, timeout):
        return Transaction(self, keys, timeout)

    def wait_for_change(self, key, uint64_t version, double timeout):
        key = plain_key(key)
        return wait_for_change(self.table, <PyObject *>key, version, nanoseconds(timeout))

    def set_listeners(self, key, listeners):
        key = plain_key(key)
        return set_listeners(self.table, <PyObject *>key, listeners)

    def end_holder(self):
        return end_current_holder()

    def set_decoder(self, decoder):
        _incref(<PyObject *>decoder)  # immortal: a thread may be about to call it at any time
        store_object(self.table.decoder, <PyObject *>decoder)

    def restore(self, rows, uint64_t clock):
        return restore(self, rows, clock)

    def start_journal(self, uint32_t durability):
        store32(self.table.durability, durability)
        open_journal(self.table, OF_ENGINE)

    def close_journal(self):
        close_journal(&self.table.journals[OF_ENGINE])

    def stop_journal(self):
        store32(self.table.durability, KEPT_IN_MEMORY)
        stop_journal(self.table, OF_ENGINE)

    def end_journal(self):
        end_journal(&self.table.journals[OF_ENGINE])

    def record_all(self):
        record_all(self.table, OF_ENGINE)

    def sleep_until_due(self, double seconds, bint for_changes, Py_ssize_t least=1):
        sleep_until_due(&self.table.journals[OF_ENGINE], seconds, for_changes, least)

    def take_journal(self):
        return take_journal(self.table, OF_ENGINE)

    def end_batch(self, uint64_t epoch, failure):
        cdef Journal *journal = &self.table.journals[OF_ENGINE]
        if failure is not None:
            lock(&journal.mutex)
            previous, self.failure = self.failure, failure  # dropped when nothing is locked
            unlock(&journal.mutex)
        return end_batch(journal, epoch, failure is not None)

    def undurable(self):
        return load_size(self.table.journals[OF_ENGINE].dirty)

    def wait_until_durable(self, double timeout):
        return wait_until_durable(self, True, nanoseconds(timeout))

    def watch_changes(self):
        open_journal(self.table, OF_BOUNDS)

    def close_changes(self):
        close_journal(&self.table.journals[OF_BOUNDS])

    def sleep_until_changed(self, double seconds):
        sleep_until_due(&self.table.journals[OF_BOUNDS], seconds, True, 1)

    def take_changes(self):
        return take_journal(self.table, OF_BOUNDS)[2]

    def set_backend(self, backend):
        if backend is not None:
            _incref(<PyObject *>backend)  # immortal: a thread may be about to call it at any time
        if backend is not None or load_object(self.table.backend) != NULL:
            store_object(self.table.backend, NULL if backend is None else <PyObject *>backend)
            restart_terms(self.table)

    def has_backend(self):
        return load_object(self.table.backend) != NULL

    def has_journal(self):
        return load32(self.table.durability) != KEPT_IN_MEMORY

    def apply(self, changes, Holder writer=None):
        return apply(self, changes, writer)

    def flush(self, keys=()):
        call_stale_listener(self)
        for key in keys:
            after_change(self, shard_of(self.table, key_hash(checked_key(key))), <PyObject *>key, True)

    def observers(self, key):
        return observers(self.table, checked_key(key))

    def expire_due(self):
        return expire_due(self)

    def wait_for_deadline(self):
        wait_for_deadline(self)

    def wake_for_deadlines(self):
        ring(&self.table.alarm, 0)

    def expire(self, key, seconds):
        key = plain_key(key)
        check_access(self.table, <PyObject *>key, WRITE)
        return expire(self, key, seconds)

    def set_deadline(self, key, seconds):
        return set_deadline(self, plain_key(key), -1 if seconds is None else nanoseconds(seconds))

    def deadline(self, key):
        return deadline(self, plain_key(key))

    def remove_because(self, key, uint64_t version, reason):
        return remove_because(self, plain_key(key), version, removal_by(reason))

    def removals(self):
        return load64(self.table.expired), load64(self.table.evicted)

    def in_transaction(self):
        return fss_transaction != NULL and transaction_of(self) is not None

    def policy(self, key):
        cdef PyObject *options = load_object(self.options)
        return BY_CONTENT if options == NULL else (<object>options)(plain_key(key))[0]

    def lifetime(self, key):
        cdef PyObject *options = load_object(self.options)
        return (0.0, 0.0) if options == NULL else (<object>options)(plain_key(key))[3][:2]

    def scopes(self):
        return load32(self.table.slots.live) - load32(self.table.slots.earlier)

    def writer(self):
        cdef Holder holder
        session = current_writer(self.table)
        if session is None:
            return None
        holder = <Holder>current_holder()
        holder.session = session
        holder.context = current_context()
        holder.is_app_thread = this_thread().run_state == APP_THREAD
        return holder

    def raise_if_stopped(self):
        session = located_session()
        if session is not None:
            session.raise_if_stopped()

    def reset_after_fork(self):
        """Empty the store and close its sessions, in a forked process.

        The parent's other threads may have left any mutex locked, and what they used belongs to the parent. So nothing
        is freed, and no finalizer runs. KeyLocks in variables remain those of their keys, and are free: the thread that
        has forked may leave its `with` blocks, but holds no lock.
        """
        cdef Table *table = self.table
        cdef Slots *slots = &table.slots
        cdef Session session
        cdef Scope scope
        cdef uint32_t slot
        cdef int rerun_writer = slots.rerun_writer
        cdef list handles = kept_handles(table)
        forget_waiters()
        for slot in range(slots.used):
            if slots.scopes[slot] != NULL:
                scope = <Scope>slots.scopes[slot]
                store32(scope.slot, NO_SLOT)
                scope.earlier_count = 0
                session = scope.session
                memset(&session.mutex, 0, sizeof(Mutex))
                session.closed = True
                session.running = False
        memset(slots, 0, sizeof(Slots))
        slots.rerun_writer = rerun_writer
        table.present = 0
        table.backend = NULL
        table.open_journals = 0
        table.durability = KEPT_IN_MEMORY
        memset(table.journals, 0, sizeof(table.journals))
        memset(&table.alarm, 0, sizeof(Alarm))
        table.alarm.at_ns = NEVER_NS
        if not table_start(table):
            raise MemoryError()
        reserve(table, self.reserved)
        for handle, depth in handles:
            rebind(table, handle, depth)
        forget_holder()
        if self.options != NULL:
            self.options_changed()
        if table.guard != NULL:
            set_guard(table, table.guard)

    def statistics(self):
        cdef Shard *shard
        cdef Cell *cell
        cdef Py_ssize_t cells = 0, buckets = 0
        cdef uint64_t clock = 0
        cdef int i
        if not sweep(self.table):
            raise MemoryError()
        for i in range(SHARDS):
            shard = &self.table.shards[i]
            lock(&shard.mutex)
            buckets += shard.mask + 1
            clock += shard.clock
            cell = next_cell(shard, NULL)
            while cell != NULL:
                cells += not cell.is_method or cell.value != NULL or cell.readers.count != 0
                cell = next_cell(shard, cell)
            unlock(&shard.mutex)
        return {
            "keys": load_size(self.table.present),
            "cells": cells,
            "buckets": buckets,
            "scopes": self.scopes(),
            "slots": load32(self.table.slots.used),
            "clock": clock,
        }


cdef list kept_handles(Table *table):
    """The KeyLocks of all keys, each with the depth at which the calling thread holds it."""
    cdef list handles = []
    cdef Cell *cell
    cdef PyObject *handle
    cdef int i
    for i in range(SHARDS):
        cell = next_cell(&table.shards[i], NULL)
        while cell != NULL:
            handle = NULL if cell.cold == NULL else live_handle(cell.cold)
            if handle != NULL:
                handles.append((owned(handle), cell.depth if cell.holder == fss_holder else 0))
            cell = next_cell(&table.shards[i], cell)
    return handles


cdef int rebind(Table *table, KeyLock handle, uint32_t depth) except -1:
    """Connect a KeyLock from before the fork with its key's new cell."""
    cdef PyObject *key = handle.cell.key
    cdef Py_hash_t hashed = handle.cell.hash
    cdef Cell *cell = find_or_make(handle.shard, key, hashed)
    if cell == NULL or ensure_cold(cell) == NULL:
        raise MemoryError()
    handle.cell = cell
    cell.cold.handle = <PyObject *>handle.reference
    cell.cold.handle_is_weak = True
    cell.cold.handles = 1
    cell.cold.forked = depth
    _incref(cell.cold.handle)
    return 0


cdef void forget_holder() noexcept:
    """Forget the thread's holder in a forked process: what it holds belongs to the parent."""
    global fss_holder, fss_transaction
    cdef Holder holder
    if fss_holder != NULL:
        holder = <Holder>fss_holder
        holder.cells = NULL
        holder.locks = 0
        holder.deferred = None
        holder.forked = True
        if holder.transaction is not None:
            holder.transaction.ended = True
            holder.transaction = None
        fss_holder = fss_transaction = NULL
        (<_ThreadCache>fss_thread_cache).holder = None


cdef int reserve(Table *table, tuple names) except -1:
    """Make cells for the names of methods. They are never freed."""
    cdef Cell *cell
    cdef Py_hash_t hashed
    cdef str name
    for name in names:
        hashed = key_hash(<PyObject *>name)
        cell = find_or_make(shard_of(table, hashed), <PyObject *>name, hashed)
        if cell == NULL:
            raise MemoryError()
        cell.is_method = True
    return 0


cdef int call_stale_listener(Store store) except -1:
    """Call the stale listener if a scope is pending and it was not called yet. Nothing is locked."""
    cdef Slots *slots = &store.table.slots
    listener = None
    if slots.chain_write_count and load_object(store.table.backend) == NULL:
        locate_chain_writes(slots)
    lock(&slots.mutex)
    if slots.any_pending and not slots.notified and store.stale_listener is not None:
        store_flag(slots.notified, True)
        listener = store.stale_listener
    unlock(&slots.mutex)
    if listener is not None:
        try:
            listener()
        except BaseException:
            lock(&slots.mutex)
            store_flag(slots.notified, False)  # so that the next change calls it again
            unlock(&slots.mutex)
            raise
    return 0


cdef void empty(Table *table) noexcept:
    """Remove all values and release all KeyLocks."""
    cdef Shard *shard
    cdef Cell *cell
    cdef PyObject **values
    cdef Py_ssize_t at, n
    cdef int i
    for i in range(SHARDS):
        shard = &table.shards[i]
        lock(&shard.mutex)
        n = 0
        values = <PyObject **>PyMem_RawMalloc((shard.cells + 1) * sizeof(PyObject *))
        cell = next_cell(shard, NULL)
        while cell != NULL:
            if cell.value != NULL and values != NULL:  # without memory the values are leaked
                values[n] = cell.value
                n += 1
            cell.value = NULL
            weaken_handle(shard, cell)
            cell = next_cell(shard, cell)
        unlock_shard(shard)
        for at in range(n):
            _decref(values[at])
        PyMem_RawFree(values)


# Reading

cdef inline PyObject *read(Table *table, PyObject *key) except? NULL:
    """A new reference to the key's value, NULL if it is not set. Subscribes the calling scope to the value."""
    cdef PyObject *scope = current_scope(table)
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef PyObject *value
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    if (cell != NULL and is_readable(cell) and not cell.may_be_guarded
            and (scope == NULL or subscribers_has(&cell.readers, load32((<Scope>scope).slot)))):
        value = cell.value
        _xincref(value)
        unlock(&shard.mutex)
        return decoded(table, key, value) if value != NULL and is_encoded(value) else value
    unlock(&shard.mutex)
    check_access(table, key, READ)
    return read_slowly(table, key, hashed, <Scope>scope if scope != NULL else None, False, -1)


cdef inline bint contains(Table *table, PyObject *key) except -1:
    """Whether the key is set. Subscribes the calling scope to its presence."""
    cdef PyObject *scope = current_scope(table)
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef PyObject *value
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    if (cell != NULL and is_readable(cell) and not cell.may_be_guarded and (scope == NULL or (
            cell.cold != NULL and subscribers_has(&cell.cold.watchers, load32((<Scope>scope).slot))))):
        value = cell.value
        unlock(&shard.mutex)
        return value != NULL
    unlock(&shard.mutex)
    check_access(table, key, READ)
    value = read_slowly(table, key, hashed, <Scope>scope if scope != NULL else None, True, -1)
    _xdecref(value)
    return value != NULL


cdef PyObject *peek(Table *table, PyObject *key) except? NULL:
    """A new reference to the key's value, NULL if it is not set. Subscribes to nothing."""
    return read_slowly(table, key, key_hash(key), None, False, -1)


cdef PyObject *read_slowly(
    Table *table, PyObject *key, Py_hash_t hashed, Scope scope, bint presence, long long timeout_ns
) except? NULL:
    """Read when another thread may hold the key's lock, or the scope may not be subscribed yet."""
    cdef Session session = None if scope is None else scope.session
    cdef Holder reader = <Holder>current_holder()
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef PyObject *value
    cdef Waiter waiter
    cdef bint waited
    cdef bint done = True
    cdef bint noted = False
    waiter.queued = False
    while True:
        lock_session_and_shard(session, shard)
        cell = find(shard, key, hashed) if scope is None else find_or_make(shard, key, hashed)
        if cell == NULL or not is_held_by_other(cell):
            break
        if session is not None:
            unlock(&session.mutex)
        if not wait_until_available(table, shard, cell, &waiter, False, timeout_ns):
            raise TimeoutError(f"The lock of {<object>key!r} was not free in time.")
    waited = waiter.queued
    if waited:
        leave_lock_queue(cell, &waiter)
    if cell == NULL:
        value = NULL
        done = scope is None
    else:
        value = visible_value(table, cell)
        if scope is not None:
            done = subscribe_to(table, cell, scope, reader, presence)
            noted = not presence and load_flag(table.note_reads) and cell.has_fingerprint and not cell.reported
            noted = noted and not session.is_node and not cell.is_hidden  # only runs of scripts are checked
        drop_if_unused(shard, cell)
    unlock_session_and_shard(session, shard)
    if waited:
        end_waiting(table, &waiter)
    if not done:
        _xdecref(value)
        raise MemoryError()
    if noted:
        note_read(reader, key)
    if session is not None and session.is_node:
        (<Node>session)._keys.append(<object>key)
    return decoded(table, key, value) if value != NULL and is_encoded(value) and not presence else value


cdef inline bint subscribe_to(Table *table, Cell *cell, Scope scope, Holder reader, bint presence) noexcept:
    """Subscribe the scope to the key's value or presence; False if there is no memory.

    The scope's session and the shard are locked.
    """
    if not presence:
        return subscribe(&table.slots, &cell.readers, scope, reader)
    return ensure_cold(cell) != NULL and subscribe(&table.slots, &cell.cold.watchers, scope, reader)


cdef int watch_members(Table *table, str prefix=None) except -1:
    """Subscribe the calling scope to the set of keys, or to that of the keys under a prefix."""
    cdef PyObject *found = current_scope(table)
    cdef Slots *slots = &table.slots
    cdef Holder reader = <Holder>current_holder()
    cdef Scope scope
    cdef bint done
    if prefix is not None:
        check_prefix(prefix)
    if found != NULL:
        scope = <Scope>found
        lock(&scope.session.mutex)
        if prefix is None:
            done = subscribe(slots, &slots.members, scope, reader)
        else:
            done = subscribe_to_prefix(slots, <PyObject *>prefix, scope, reader)
        unlock(&scope.session.mutex)
        if not done:
            raise MemoryError()
    return 0


cdef int check_prefix(str prefix) except -1:
    key_hash(<PyObject *>prefix)  # makes it ready
    if not prefix.endswith("/"):
        raise ValueError(f"A prefix of keys ends in '/', and {shown(prefix)} does not.")
    return 0


cdef Py_ssize_t count_keys(Table *table) noexcept:
    """Number of keys that are set. A transaction changes it key by key with all its shards locked, so lock them all."""
    cdef Py_ssize_t count
    lock_shards(table, NULL)
    count = table.present
    unlock_shards(table, NULL)
    return count


cdef Py_ssize_t count_cells(const Table *table) noexcept:
    """Number of cells. All shards are locked."""
    cdef Py_ssize_t count = 0
    cdef int i
    for i in range(SHARDS):
        count += table.shards[i].cells
    return count


cdef Py_ssize_t count_cells_under(const Table *table, PyObject *prefix) noexcept:
    """Number of cells in the folder. All shards are locked."""
    cdef Py_ssize_t count = 0
    cdef Folder *root
    cdef Folder *folder
    cdef int i
    for i in range(SHARDS):
        root = folder_of(&table.shards[i], prefix)
        folder = root
        while folder != NULL:
            count += folder.count
            folder = next_folder(root, folder)
    return count


cdef Py_ssize_t cells_under(const Table *table, PyObject *prefix, Cell **cells) noexcept:
    """Put the cells in the folder whose keys are set into `cells`. Returns their number. All shards are locked."""
    cdef Py_ssize_t n = 0
    cdef Folder *root
    cdef Folder *folder
    cdef uint32_t at
    cdef int i
    for i in range(SHARDS):
        root = folder_of(&table.shards[i], prefix)
        folder = root
        while folder != NULL:
            for at in range(folder.count):
                if folder.cells[at].value != NULL and not folder.cells[at].is_result:
                    cells[n] = folder.cells[at]
                    n += 1
            folder = next_folder(root, folder)
    return n


cdef Py_ssize_t cells_in_table(const Table *table, bint hidden, Cell **cells) noexcept:
    """Put the cells whose keys are set into `cells`. Returns their number. All shards are locked."""
    cdef Py_ssize_t n = 0
    cdef Cell *cell
    cdef int i
    for i in range(SHARDS):
        cell = next_cell(&table.shards[i], NULL)
        while cell != NULL:
            if cell.value != NULL and (not cell.is_hidden or (hidden and not cell.is_result)):
                cells[n] = cell
                n += 1
            cell = next_cell(&table.shards[i], cell)
    return n


cdef list sorted_keys(Table *table, bint hidden=False, str prefix=None):
    """The keys that are set, in the order of insertion. With a prefix: those that begin with it, hidden or not."""
    cdef Cell **cells
    cdef Py_ssize_t at, room, count, n
    cdef list found = []
    if prefix is not None:
        check_prefix(prefix)
    room = load_size(table.present) if prefix is None else 64
    while True:
        cells = <Cell **>PyMem_RawMalloc((room + 1) * sizeof(Cell *))
        if cells == NULL:
            raise MemoryError()
        lock_shards(table, NULL)
        count = count_cells(table) if prefix is None else count_cells_under(table, <PyObject *>prefix)
        if count <= room:
            break
        unlock_shards(table, NULL)
        PyMem_RawFree(cells)
        room = count
    if prefix is None:
        n = cells_in_table(table, hidden, cells)
    else:
        n = cells_under(table, <PyObject *>prefix, cells)
    qsort(cells, n, sizeof(Cell *), compare_insertion)
    for at in range(n):
        cells[at] = <Cell *>cells[at].key  # the following reference keeps it alive when the cell is freed
        _incref(<PyObject *>cells[at])
    unlock_shards(table, NULL)
    try:
        for at in range(n):
            found.append(<object><PyObject *>cells[at])
    finally:
        for at in range(n):
            _decref(<PyObject *>cells[at])
        PyMem_RawFree(cells)
    return found


cdef int compare_insertion(const void *one, const void *other) noexcept nogil:
    cdef uint64_t first = (<const Cell **>one)[0].insertion_sequence
    cdef uint64_t second = (<const Cell **>other)[0].insertion_sequence
    return (first > second) - (first < second)


# Changing

cdef enum:
    FROM_CONTEXT = -1       # quiet if the code runs in a `no_rerun` block


cdef inline void lock_session_and_shard(Session writer, Shard *shard) noexcept:
    if writer is not None:
        lock(&writer.mutex)
    lock(&shard.mutex)


cdef inline void unlock_session_and_shard(Session writer, Shard *shard) noexcept:
    if writer is not None:
        unlock(&writer.mutex)
    unlock_shard(shard)


cdef PyObject *commit(
    Table *table, Shard *shard, Cell *cell, PyObject *value, Session writer, int quiet
) noexcept:
    """Set the cell's value, or remove it, and mark the subscribers unless `quiet`. Returns the old reference.

    The writer's session and the shard are locked.
    """
    cdef PyObject *old = cell.value
    _xincref(value)
    cell.value = value
    shard.clock += 1
    cell.version = shard.clock
    if (old == NULL) != (value == NULL):
        cell.presence_pending = True
        if not cell.is_hidden:
            add_size(table.present, 1 if old == NULL else -1)
        if old == NULL:
            cell.insertion_sequence = add64(table.insertion_sequence, 1)
    if cell.terms_at:
        renew(table, shard, cell)
    if is_recorded(table, cell):
        record(table, shard, cell)
    if cell.cold != NULL:
        signal_change(cell)
    if cell.presence_pending or cell.readers.count:
        if not (are_suppressed() if quiet == FROM_CONTEXT else quiet):
            notify(&table.slots, cell, writer)
            cell.presence_pending = False
        else:
            outdate_nodes(&table.slots, cell)
            if not is_watched(&table.slots, cell):
                cell.presence_pending = False
    return old


cdef void touch_absent(Table *table, Cell *cell, Session writer, int quiet) noexcept:
    """Mark the subscribers of an absent key as if it had changed. The set of keys has not.

    The writer's session and the shard are locked.
    """
    if cell.cold != NULL:
        signal_change(cell)
    if not (are_suppressed() if quiet == FROM_CONTEXT else quiet):
        notify_absent(&table.slots, cell, writer)


# The types of drafts, and the function that makes a plain copy of one.
cdef object draft_of_dict = None
cdef object draft_of_list = None
cdef object copy_of_draft = None


def replace_drafts(of_dict, of_list, copy):
    global draft_of_dict, draft_of_list, copy_of_draft
    draft_of_dict, draft_of_list, copy_of_draft = of_dict, of_list, copy


cdef object assign(Store store, str key, object value, bint if_absent, bint keeps_deadline=False):
    """Set the key, unless `if_absent` and it is set. Returns the value that it had, or ABSENT."""
    cdef PyObject *backend = load_object(store.table.backend)
    check_access(store.table, <PyObject *>key, WRITE)
    if type(value) is draft_of_dict or type(value) is draft_of_list:
        value = copy_of_draft(value)
    if fss_transaction != NULL and transaction_of(store) is not None:
        return transaction_of(store).write(key, value, if_absent, keeps_deadline)
    if backend != NULL:
        return (<object>backend).assign(key, value, if_absent, keeps_deadline)
    if load32(store.table.durability) == SHOWN_WHEN_DURABLE:
        return assign_locked(store, key, value, if_absent, keeps_deadline)
    return assign_here(store, key, value, if_absent, keeps_deadline)


cdef object assign_locked(Store store, str key, object value, bint if_absent, bint keeps_deadline):
    """Assign with the key's lock held until the write is durable, so that no other thread reads the value earlier."""
    cdef KeyLock handle = owned(key_lock(store.table, <PyObject *>key))
    acquire_lock(handle, -1)
    try:
        return assign_here(store, key, value, if_absent, keeps_deadline)
    finally:
        release_lock(handle)


cdef inline object assign_here(Store store, str key, object value, bint if_absent, bint keeps_deadline=False):
    """Assign in this table."""
    cdef Table *table = store.table
    cdef Session writer = current_writer(table)
    cdef Py_hash_t hashed = key_hash(<PyObject *>key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef PyObject *old
    cdef Comparison comparison
    cdef Waiter waiter
    cdef bint waited
    cdef bint has_callbacks
    begin_comparison(&comparison, <PyObject *>value)
    waiter.queued = False
    try:
        cell = lock_to_assign(store, writer, shard, key, hashed, if_absent, &comparison, &waiter)
        waited = waiter.queued
        if waited:
            leave_lock_queue(cell, &waiter)
        old = cell.value
        if if_absent and old != NULL:
            _incref(old)
        elif old != NULL and is_unchanged(&comparison, cell):
            _incref(<PyObject *>value)
            cell.value = <PyObject *>value
            if cell.policy != BY_CONTENT and is_recorded(table, cell):
                record(table, shard, cell)  # equal for the app, but not the same content
        else:
            keep_fingerprint(&comparison, cell)
            old = commit(table, shard, cell, <PyObject *>value, writer, FROM_CONTEXT)
        if cell.terms_at and not (if_absent and old != NULL):
            begin_terms(table, shard, cell, keeps_deadline)
        has_callbacks = has_pending_callbacks(cell)
        unlock_session_and_shard(writer, shard)
        previous = ABSENT if old == NULL else owned(old)
        if waited:
            end_waiting(table, &waiter)
    finally:
        end_comparison(&comparison)
    after_write(store, shard, <PyObject *>key, has_callbacks)
    return previous


cdef inline Cell *lock_to_assign(
    Store store,
    Session writer,
    Shard *shard,
    str key,
    Py_hash_t hashed,
    bint if_absent,
    Comparison *comparison,
    Waiter *waiter,
) except NULL:
    """Lock the writer's session and the shard, once no other thread holds the key's lock and the comparison is made.

    Returns the key's cell. The waiter may be in its queue.
    """
    cdef Cell *cell
    cdef PyObject *replaced
    while True:
        lock_session_and_shard(writer, shard)
        cell = find_or_make(shard, <PyObject *>key, hashed)
        if cell == NULL:
            unlock_session_and_shard(writer, shard)
            raise MemoryError()
        if is_held_by_other(cell):
            if writer is not None:
                unlock(&writer.mutex)
            wait_to_pass(store.table, shard, cell, waiter)
            restart_comparison(comparison)
        elif is_to_decode(cell) and not if_absent:
            replaced = cell.value
            _incref(replaced)
            unlock_session_and_shard(writer, shard)
            if waiter.queued:
                give_up_waiting(store.table, shard, cell, waiter)
            decode_to_compare(store.table, <PyObject *>key, replaced)
        elif not (if_absent and cell.value != NULL) and needs_comparison(comparison, cell):
            unlock_session_and_shard(writer, shard)
            if waiter.queued:  # else other threads would wait for the comparison
                give_up_waiting(store.table, shard, cell, waiter)
            compare_unlocked(comparison, store, key)
        else:
            return cell


cdef int wait_to_pass(Table *table, Shard *shard, Cell *cell, Waiter *waiter) except -1:
    """Wait while another thread holds the cell's lock. The shard is locked at the call. Check the lock again then."""
    if fss_holder == NULL:
        unlock(&shard.mutex)
        current_holder()  # a wait needs one
    else:
        wait_until_available(table, shard, cell, waiter, False, -1)
    return 0


cdef object change_presence(Store store, str key, bint remove):
    """Remove the key, or touch its value. Returns the value that it had, or ABSENT."""
    cdef PyObject *backend = load_object(store.table.backend)
    check_access(store.table, <PyObject *>key, WRITE)
    if fss_transaction != NULL and transaction_of(store) is not None:
        return transaction_of(store).write(key, ABSENT, False, False) if remove else transaction_of(store).touch(key)
    if backend != NULL:
        return (<object>backend).remove(key) if remove else (<object>backend).touch(key)
    if load32(store.table.durability) == SHOWN_WHEN_DURABLE:
        return change_presence_locked(store, key, remove)
    return change_presence_here(store, key, remove)


cdef object change_presence_locked(Store store, str key, bint remove):
    """Remove or touch with the key's lock held until that is durable."""
    cdef KeyLock handle = owned(key_lock(store.table, <PyObject *>key))
    acquire_lock(handle, -1)
    try:
        return change_presence_here(store, key, remove)
    finally:
        release_lock(handle)


cdef object change_presence_here(Store store, str key, bint remove):
    """Remove or touch in this table."""
    cdef Table *table = store.table
    cdef Session writer = current_writer(table)
    cdef Py_hash_t hashed = key_hash(<PyObject *>key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef PyObject *old = NULL
    cdef Waiter waiter
    cdef bint waited
    cdef bint has_callbacks = False
    waiter.queued = False
    while True:
        lock_session_and_shard(writer, shard)
        cell = find(shard, <PyObject *>key, hashed)
        if cell == NULL or not is_held_by_other(cell):
            break
        if writer is not None:
            unlock(&writer.mutex)
        wait_to_pass(table, shard, cell, &waiter)
    waited = waiter.queued
    if waited:
        leave_lock_queue(cell, &waiter)
    if cell != NULL:
        if cell.value != NULL:
            cell.has_fingerprint = False
            old = commit(table, shard, cell, NULL if remove else cell.value, writer, FROM_CONTEXT)
        elif not remove:
            touch_absent(table, cell, writer, FROM_CONTEXT)
        has_callbacks = has_pending_callbacks(cell)
        drop_if_unused(shard, cell)
    unlock_session_and_shard(writer, shard)
    previous = ABSENT if old == NULL else owned(old)
    if waited:
        end_waiting(table, &waiter)
    after_write(store, shard, <PyObject *>key, has_callbacks)
    return previous


cdef inline int after_write(Store store, Shard *shard, PyObject *key, bint has_callbacks) except -1:
    """Do what follows a write of this thread. Nothing is locked."""
    if load32(store.table.durability) > DURABLE_LATER:
        return after_durable_write(store, shard, key, has_callbacks)
    return after_change(store, shard, key, has_callbacks)


cdef int after_durable_write(Store store, Shard *shard, PyObject *key, bint has_callbacks) except -1:
    """Wait until the write is durable. The thread makes the callbacks after that."""
    cdef bint holds_lock = fss_holder != NULL and (<Holder>fss_holder).locks != 0
    try:
        if load32(store.table.durability) == SHOWN_WHEN_DURABLE:
            wait_until_durable(store, False)
        elif holds_lock:  # other threads may use the key while this one waits
            (<Holder>fss_holder).undurable = store
        else:
            call_stale_listener(store)
            wait_until_durable(store, True)
    finally:
        after_change(store, shard, key, has_callbacks)
    return 0


cdef inline int after_change(Store store, Shard *shard, PyObject *key, bint has_callbacks) except -1:
    """Call the stale listener, and flush or defer the key's callbacks. Nothing is locked."""
    if load_flag(store.table.slots.any_pending) and not load_flag(store.table.slots.notified):
        call_stale_listener(store)
    if has_callbacks and fss_holder != NULL and (<Holder>fss_holder).locks:
        defer_callbacks(store.table, key)
    elif has_callbacks:
        flush_callbacks(store.table, shard, key)
    return 0


cdef object add(Store store, str key, object by, object default):
    """Add to the key's number, or to the default if the key is not set. Returns the sum."""
    cdef Table *table = store.table
    cdef PyObject *backend = load_object(table.backend)
    cdef Session writer = current_writer(table)
    cdef Py_hash_t hashed = key_hash(<PyObject *>key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef PyObject *old = NULL
    cdef bint due = False
    check_access(table, <PyObject *>key, READ | WRITE)
    if (PyLong_CheckExact(by) and by and fss_transaction == NULL and backend == NULL
            and load32(table.durability) != SHOWN_WHEN_DURABLE):
        total = None
        lock_session_and_shard(writer, shard)
        cell = find(shard, <PyObject *>key, hashed)
        if (cell != NULL and is_readable(cell) and cell.value != NULL and PyLong_CheckExact(<object>cell.value)
                and cell.policy != BY_HASH_FUNCS and cell.policy != UNRESOLVED):
            total = PyNumber_Add(<object>cell.value, by)  # ints: not tracked by the garbage collector, no foreign code
            old = commit(table, shard, cell, <PyObject *>total, writer, FROM_CONTEXT)
            due = has_pending_callbacks(cell)
        unlock_session_and_shard(writer, shard)
        if old != NULL:
            _decref(old)
            after_write(store, shard, <PyObject *>key, due)
            return total
    if fss_transaction == NULL and backend != NULL:
        total = (<object>backend).increment(key, by, default)
        if total is not None:
            return total
    return add_locked(store, key, by, default)


cdef object add_locked(Store store, str key, object by, object default):
    cdef Table *table = store.table
    cdef KeyLock handle = owned(key_lock(table, <PyObject *>key))
    cdef PyObject *old
    acquire_lock(handle, -1)
    try:
        old = peek(table, <PyObject *>key)
        value = default if old == NULL else owned(old)
        try:
            total = value + by
        except TypeError as error:
            raise TypeError(
                f"atomic.increment({key!r}, {shown(by)}) cannot add that to a value of type "
                f"{type(value).__qualname__}. Use atomic({key!r}, function) instead."
            ) from error
        assign(store, key, total, False, True)
    finally:
        release_lock(handle)
    return total


cdef object change_locked(Store store, str key, function, default):
    """Set the key to ``function(value)``, with its lock held. The default stands for the value of an absent key."""
    cdef KeyLock handle
    cdef PyObject *old
    check_access(store.table, <PyObject *>key, READ | WRITE)
    handle = owned(key_lock(store.table, <PyObject *>key))
    acquire_lock(handle, -1)
    try:
        old = peek(store.table, <PyObject *>key)
        changed = function(default if old == NULL else owned(old))
        assign(store, key, changed, False, True)
    finally:
        release_lock(handle)
    return changed


# Options of keys. They are resolved when a key is first assigned, and again after they have changed.

cdef void forget_options(Table *table) noexcept:
    """Mark the options of absent keys as unresolved."""
    cdef Shard *shard
    cdef Cell *cell
    cdef int i
    for i in range(SHARDS):
        shard = &table.shards[i]
        lock(&shard.mutex)
        shard.first_policy = UNRESOLVED
        cell = next_cell(shard, NULL)
        while cell != NULL:
            if cell.value == NULL:
                cell.policy = UNRESOLVED
            cell = next_cell(shard, cell)
        unlock(&shard.mutex)


cdef int resolve(Store store, str key) except -1:
    """Store the configured options of the key in its cell. Nothing is locked."""
    cdef Py_hash_t hashed = key_hash(<PyObject *>key)
    cdef Shard *shard = shard_of(store.table, hashed)
    cdef Cell *cell
    cdef PyObject *before
    cdef PyObject *replaced
    cdef PyObject *options = load_object(store.options)
    cdef uint64_t generation
    cdef long long interval_ns
    cdef Lifetime *lifetime
    cdef int policy
    cdef bint done = False
    cdef bint has_memory = True
    while not done:
        generation = load64(store.generation)
        policy, hash_funcs, interval, (ttl, idle_ttl, persist) = (
            (BY_CONTENT, None, 0.0, (0.0, 0.0, True)) if options == NULL else (<object>options)(key)
        )
        lifetime = find_lifetime(store.table, ttl, idle_ttl, persist)
        interval_ns = nanoseconds(interval)
        if policy == BY_CONTENT and hash_funcs is not None:
            policy = BY_HASH_FUNCS
        lock(&shard.mutex)
        cell = find(shard, <PyObject *>key, hashed)
        before = NULL if cell == NULL else hash_funcs_of(cell)
        _xincref(before)
        unlock(&shard.mutex)
        known = None if before == NULL else owned(before)
        # Scripts may pass equal functions in every run, defined anew.
        kept = policy <= BY_HASH_FUNCS and (known is hash_funcs or same_value(known, hash_funcs))
        lock(&shard.mutex)
        cell = find_or_make(shard, <PyObject *>key, hashed)
        if cell == NULL or ((interval_ns or hash_funcs is not None) and ensure_cold(cell) == NULL):
            unlock_shard(shard)
            raise MemoryError()
        replaced = NULL
        done = before == hash_funcs_of(cell)
        if done and load64(store.generation) == generation:  # else the thread that changed the options resolves again
            cell.policy = policy
            cell.has_fingerprint = cell.has_fingerprint and kept
            if cell.cold != NULL:
                replaced = keep_options(cell.cold, hash_funcs, interval_ns)
            has_memory = set_lifetime(store.table, shard, cell, lifetime)
        unlock_shard(shard)
        _xdecref(replaced)
        if not has_memory:
            raise MemoryError()
    return 0


# The shard is locked.

cdef inline PyObject *hash_funcs_of(const Cell *cell) noexcept:
    """The functions for the user's types, NULL if there are none. Borrowed."""
    return NULL if cell.cold == NULL else cell.cold.hash_funcs


cdef inline PyObject *keep_options(ColdFields *cold, object hash_funcs, long long interval_ns) noexcept:
    """Set the functions for the user's types, or None, and the interval. Returns the functions before, or NULL."""
    cdef PyObject *replaced = cold.hash_funcs
    if cold.interval_ns == 0:
        cold.marked_ns = clock_ns() - interval_ns  # as if the interval were over
    cold.interval_ns = interval_ns
    cold.hash_funcs = NULL if hash_funcs is None else <PyObject *>hash_funcs
    _xincref(cold.hash_funcs)
    return replaced


# Locking

cdef PyObject *key_lock(Table *table, PyObject *key) except NULL:
    """A new reference to the key's lock."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef KeyLock made = None
    cdef PyObject *handle
    cdef PyObject *replaced
    while True:
        lock(&shard.mutex)
        cell = find_or_make(shard, key, hashed)
        if cell == NULL or ensure_cold(cell) == NULL:
            unlock_shard(shard)
            raise MemoryError()
        handle = live_handle(cell.cold)
        if handle == NULL and made is not None:
            handle = connect_handle(table, shard, cell, made)
        if handle != NULL:
            break
        unlock_shard(shard)
        made = KeyLock.__new__(KeyLock, PRIVATE)
        made.reference = weakref.ref(made)
    replaced = keep_handle(cell.cold, handle)
    unlock_shard(shard)
    _xdecref(replaced)
    return handle


# The shard is locked.

cdef inline PyObject *live_handle(const ColdFields *cold) noexcept:
    """A new reference to the KeyLock, NULL if there is none."""
    if cold.handle == NULL:
        return NULL
    if cold.handle_is_weak:
        return weakref_get(cold.handle)
    _incref(cold.handle)
    return cold.handle


cdef inline PyObject *connect_handle(Table *table, Shard *shard, Cell *cell, KeyLock handle) noexcept:
    """Make a new KeyLock the one of the cell. Returns a new reference to it."""
    handle.table, handle.shard, handle.cell = table, shard, cell
    cell.cold.handles += 1
    add_size(table.refs, 1)
    _incref(<PyObject *>handle)
    return <PyObject *>handle


cdef inline PyObject *keep_handle(ColdFields *cold, PyObject *handle) noexcept:
    """Keep the KeyLock alive. Returns the weak reference that this replaces, or NULL."""
    cdef PyObject *weak = cold.handle
    if weak == handle:
        return NULL
    _incref(handle)
    cold.handle = handle
    cold.handle_is_weak = False
    return weak


cdef inline PyObject *checked_key(object key) except NULL:
    """The key itself. Raises TypeError unless it is an exact str."""
    if not PyUnicode_CheckExact(key):
        refuse_key(key)
    return <PyObject *>key


cpdef str plain_key(key):
    # Runs no code of the key's own class.
    if not isinstance(key, str):
        refuse_key(key)
    return PyUnicode_FromObject(key)


cdef int refuse_key(key) except -1:
    kind = type(key).__qualname__
    if type(key).__module__ != "builtins":
        kind = f"{type(key).__module__}.{kind}"
    if key is None:
        raise TypeError(
            "server_state keys are of type str, and this one is None. Find out where it comes from: st.selectbox "
            "returns None while nothing is selected, for example."
        )
    if isinstance(key, (bytes, bytearray)):
        advice = "Use key.decode()."
    elif isinstance(key, (tuple, list, set, frozenset)):
        advice = "Use one key at a time, or make a str of its parts: f'{user}/{room}'."
    elif isinstance(key, slice):
        advice = "list(server_state) has the keys, and server_state.to_dict() has a dict of all values."
    else:
        advice = "Use str(key)."
    raise TypeError(f"server_state keys are of type str, not {kind}: {shown(key)}. {advice}")


cdef str shown(key):
    """The repr of a key for a message."""
    try:
        text = repr(key)
    except Exception:
        text = object.__repr__(key)
    if len(text) > 200:
        text = text[:200] + "..."
    return text.encode("ascii", "backslashreplace").decode() if not text.isprintable() else text
