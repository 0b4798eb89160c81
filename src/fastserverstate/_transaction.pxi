# cython: language_level=3
# Several changes that appear at once, or not at all. See _core.pyx for the whole.

@cython.final
cdef class Transaction:
    """Writes of one thread that no other thread sees yet. It holds the locks of their keys, so that none looks."""
    cdef Store store
    cdef tuple keys            # that were declared
    cdef object timeout
    cdef Holder holder         # that its locks belong to
    cdef Transaction outer     # the outermost one, which this one has joined
    cdef list blocks           # of the outermost one: itself and those that have joined it and are open
    cdef object task           # of asyncio, in which the outermost one began
    cdef dict writes           # key -> value, ABSENT for a deletion
    cdef set touched           # keys that count as changed whatever their value
    cdef set announced         # keys that were changed outside of `no_rerun` blocks
    cdef tuple savepoint       # copies of the three, of when this one began
    cdef list held             # KeyLocks, in the order in which they were taken
    cdef bint ended            # the outermost one was ended before its block: it is discarded

    def __cinit__(self, Store store not None, keys, timeout):
        self.store = store
        self.keys = tuple(sorted({plain_key(key) for key in keys}))
        self.timeout = timeout

    def __enter__(self):
        global fss_transaction
        cdef Holder holder = <Holder>current_holder()
        cdef Transaction current = current_transaction()
        cdef list held = []
        cdef bint done = False
        task = running_task()
        if self.held is not None:
            raise RuntimeError("This transaction is open. Make another one: with transaction(...):")
        if current is not None and current.store is not self.store:
            raise RuntimeError("This thread is in a transaction of another store.")
        if current is not None and current.task is not None and current.task is not task:
            raise RuntimeError(
                "Another task of this thread is in a transaction. Do not await inside of a transaction, or begin it on "
                "a thread of its own: asyncio.to_thread(...)."
            )
        try:
            done = acquire_locks(
                [self.store.lock(key) for key in self.keys],
                -1 if self.timeout is None else nanoseconds(self.timeout),
                held,
            )
        finally:
            if not done:
                release_locks(held)
        if not done:
            raise TimeoutError(f"The lock of {self.keys[len(held)]!r} was not free within {self.timeout} seconds.")
        if current is not None and current.ended:  # while this thread has waited
            release_locks(held)
            raise RuntimeError("The transaction that this one was to join was ended on another thread.")
        self.held = held
        self.ended = False
        self.outer = current
        if current is None:
            self.holder, self.task, self.blocks = holder, task, []
            self.writes, self.touched, self.announced = {}, set(), set()
            holder.transaction = self
            fss_transaction = <PyObject *>self
        else:
            self.writes, self.touched, self.announced = current.writes, current.touched, current.announced
        self.savepoint = dict(self.writes), set(self.touched), set(self.announced)
        whole = self if current is None else current
        (<Transaction>whole).blocks.append(self)

    def __call__(self, *args, **kwargs):
        raise TypeError("transaction(...) makes a block and decorates nothing: with transaction(...):")

    def __aenter__(self):
        refuse_async("with transaction(...):")

    def __aexit__(self, exc_type, exc_value, traceback):
        pass

    def __exit__(self, exc_type, exc_value, traceback):
        cdef list held = self.held
        cdef list changes = None  # holds the old values, which are to die when nothing is locked
        cdef Transaction whole = self.outer if self.outer is not None else self
        cdef bint over = held is None or whole.ended
        if over or <PyObject *>whole.holder != fss_holder or whole.blocks[len(whole.blocks) - 1] is not self:
            if not over:
                end_transaction(whole)
            elsewhere = not over and <PyObject *>whole.holder != fss_holder
            if not elsewhere:
                self.forget()
                if exc_type is not None:
                    return
            raise RuntimeError(
                "This transaction was discarded. A transaction ends on the thread, in the run and in the process in "
                "which it began, and after those that have begun inside of it."
            )
        try:
            if exc_type is not None:
                self.undo()
            elif self.outer is None:
                changes = commit_all(self)
        except BaseException:
            self.undo()
            raise
        finally:
            if not whole.ended:
                whole.blocks.pop()
            if self.outer is not None:
                whole.held += held
            else:
                leave_transaction(self)
            self.forget()
            if whole is self:
                release_locks(held)

    cdef void forget(self) noexcept:
        self.holder = self.outer = self.blocks = self.task = None
        self.held = self.writes = self.touched = self.announced = self.savepoint = None

    cdef int undo(self) except -1:
        """Forget what was written since the block began. The outer transaction keeps the locks."""
        for key in self.writes:
            set_staged(self.store.table, <PyObject *>key, key in self.savepoint[0])
        for current, saved in zip((self.writes, self.touched, self.announced), self.savepoint):
            current.clear()
            current.update(saved)
        return 0

    cdef object write(self, str key, object value, bint if_absent):
        """As `assign` does it, and with ABSENT as `remove`. Returns the value that the key had here, or ABSENT."""
        cdef Table *table = self.store.table
        cdef KeyLock handle
        if key not in self.writes:
            handle = self.store.lock(key)
            acquire_lock(handle, -1)
            self.held.append(handle)
            if self.ended:  # by a thread that may have passed over this lock
                release_locks_of(self.holder, [handle])
                refuse_if_ended(self)
        old = self.writes.get(key, self)
        if old is self:
            old = committed_value(table, <PyObject *>key)
        if (if_absent and old is not ABSENT) or (value is ABSENT and old is ABSENT):
            return old
        self.note(key, value)
        return old

    cdef object touch(self, str key):
        value = self.write(key, ABSENT, True)
        self.note(key, value)
        self.touched.add(key)
        return value

    cdef int note(self, str key, object value) except -1:
        self.writes[key] = value
        if not are_suppressed():
            self.announced.add(key)
        set_staged(self.store.table, <PyObject *>key, True)
        return 0


cdef int refuse_if_ended(Transaction self) except -1:
    if self.ended:
        raise RuntimeError("This transaction was ended on another thread, which discarded it.")
    return 0


cdef object running_task():
    """The task of asyncio that the calling thread is in, if any."""
    loop = running_loop()
    return None if loop is None else sys.modules["asyncio"].current_task(loop)


cdef inline Transaction current_transaction():
    """The calling thread's transaction, the outermost one, if there is one that was not ended elsewhere."""
    if fss_transaction != NULL and (<Transaction>fss_transaction).ended:
        leave_transaction(<Transaction>fss_transaction)
    return <Transaction>fss_transaction if fss_transaction != NULL else None


cdef inline Transaction transaction_of(Store store):
    """The calling thread's transaction, if it is one of this store."""
    cdef Transaction current = current_transaction()
    return current if current is not None and current.store is store else None


cdef void leave_transaction(Transaction self) noexcept:
    """The calling thread, whose transaction this is, is in it no longer."""
    global fss_transaction
    fss_transaction = NULL
    if self.holder is not None:
        self.holder.transaction = None


cdef list discard(Transaction self):
    """End a transaction, the outermost one, before its block does. The locks stay. On any thread.

    Returns its blocks.
    """
    cdef list blocks = list(self.blocks)
    self.ended = True
    self.blocks.clear()  # which has held the transaction itself
    if fss_transaction == <PyObject *>self:
        leave_transaction(self)
    for key in list(self.writes):
        set_staged(self.store.table, <PyObject *>key, False)
    return blocks


cdef int end_transaction(Transaction self) except -1:
    """Discard a transaction, the outermost one, and release the locks of all its blocks. On any thread."""
    cdef Transaction block
    for block in reversed(discard(self)):
        release_locks_of(self.holder, list(block.held))
    return flush_if_free()


cdef PyObject *staged_value(const Table *table, const Cell *cell) noexcept:
    """What the calling thread's transaction has written to the cell: a new reference, ABSENT for a deletion.

    NULL if it has written nothing, or there is none. The thread holds the cell's lock.
    """
    if not cell.staged or fss_transaction == NULL or (<Transaction>fss_transaction).store.table != table:
        return NULL
    return dict_get(<PyObject *>(<Transaction>fss_transaction).writes, cell.key)


cdef inline bint has_staged_value(const Table *table, const Cell *cell) noexcept:
    """Whether the calling thread's transaction has written to the cell, whose lock the thread holds."""
    cdef PyObject *written = staged_value(table, cell)
    _xdecref(written)
    return written != NULL


cdef inline PyObject *visible_value(const Table *table, const Cell *cell) noexcept:
    """A new reference to the value that the calling thread finds, NULL for none. No other thread holds the lock."""
    cdef PyObject *value = staged_value(table, cell)
    if value == NULL:
        value = cell.value
        _xincref(value)
    elif value == <PyObject *>ABSENT:
        _decref(value)
        value = NULL
    return value

cdef object committed_value(Table *table, PyObject *key):
    """The key's value outside of the transaction, or ABSENT. The calling thread holds the key's lock."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef PyObject *value
    lock(&shard.mutex)
    value = find(shard, key, hashed).value
    _xincref(value)
    unlock(&shard.mutex)
    return ABSENT if value == NULL else owned(value)


cdef void set_staged(Table *table, PyObject *key, bint staged) noexcept:
    """The calling thread holds the key's lock."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    if cell != NULL:  # it is NULL in a forked process
        cell.staged = staged
    unlock(&shard.mutex)


cdef list visible_keys(Store store):
    """The keys that are set, oldest first, as the calling thread's transaction has it."""
    cdef list keys = sorted_keys(store.table)
    cdef Transaction current = transaction_of(store)
    if current is not None:
        kept = dict.fromkeys(keys)
        for key, value in current.writes.items():
            if value is ABSENT:
                kept.pop(key, None)
            else:
                kept[key] = None
        keys = list(kept)
    return keys


@cython.final
cdef class _Change:
    cdef str key
    cdef object value
    cdef Judge judge
    cdef bint touched   # counts as changed whatever its value
    cdef bint quiet     # made in `no_rerun` blocks
    cdef bint due       # listeners are to be called
    cdef PyObject *old  # what the cell has held, to be dropped

    def __dealloc__(self):
        judge_end(&self.judge)
        _xdecref(self.old)


cdef list commit_all(Transaction self):
    """Make all changes at once. Returns them, for the old values to be dropped."""
    cdef Store store = self.store
    cdef Table *table = store.table
    cdef PyObject *backend = load_object(table.backend)
    cdef Session writer = current_writer(table)
    cdef Shard *shard
    cdef Cell *cell
    cdef Py_hash_t hashed
    cdef PyObject *new
    cdef list changes = []
    cdef bint involved[SHARDS]
    cdef bint due
    cdef _Change change
    if backend != NULL:
        refuse_if_ended(self)
        (<object>backend).commit(dict(self.writes), set(self.touched), set(self.writes) - self.announced)
        for key in self.writes:
            set_staged(table, <PyObject *>key, False)
        self.writes.clear()
        return changes
    memset(involved, 0, sizeof(involved))
    for key, value in self.writes.items():
        change = _Change()
        change.key, change.value = key, value
        change.touched = key in self.touched
        change.quiet = key not in self.announced
        changes.append(change)
        hashed = key_hash(<PyObject *>key)
        shard = shard_of(table, hashed)
        involved[shard - table.shards] = True
        if value is not ABSENT:
            judge_start(&change.judge, <PyObject *>value)
            lock(&shard.mutex)
            due = is_due(&change.judge, find(shard, <PyObject *>key, hashed))
            unlock(&shard.mutex)
            while due:
                examine(&change.judge, store, key)
                lock(&shard.mutex)
                due = is_due(&change.judge, find(shard, <PyObject *>key, hashed))
                unlock(&shard.mutex)
    if writer is not None:
        lock(&writer.mutex)
    lock_shards(table, involved)
    if self.ended:
        unlock_shards(table, involved)
        if writer is not None:
            unlock(&writer.mutex)
        refuse_if_ended(self)
    for change in changes:
        hashed = key_hash(<PyObject *>change.key)
        shard = shard_of(table, hashed)
        cell = find(shard, <PyObject *>change.key, hashed)
        cell.staged = False
        new = change.judge.value  # NULL for a deletion
        if new == NULL and cell.value == NULL:
            if change.touched:
                touch_absent(table, cell, writer, change.quiet)
                change.due = cell.cold.pending_callbacks != 0
            continue
        if new != NULL and cell.value != NULL and not change.touched and is_same(&change.judge, cell):
            change.old, cell.value = cell.value, new
            _incref(new)
            continue
        keep_print(&change.judge, cell)
        change.old = commit(table, shard, cell, new, writer, change.quiet)
        change.due = cell.cold.pending_callbacks != 0
    unlock_shards(table, involved)
    if writer is not None:
        unlock(&writer.mutex)
    self.writes.clear()
    for change in changes:  # whose locks are held, so that calls are put off
        after_change(store, shard_of(table, key_hash(<PyObject *>change.key)), <PyObject *>change.key, change.due)
    return changes
