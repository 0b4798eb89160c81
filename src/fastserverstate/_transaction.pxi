# cython: language_level=3
# Transactions: writes that appear together, or not at all. See the head of _core.pyx.

@cython.final
cdef class Transaction:
    """Writes of one thread that other threads do not see yet. It holds the locks of their keys, so that reads wait."""
    cdef Store store
    cdef tuple keys            # those that were declared
    cdef object timeout
    cdef Holder holder         # holds the locks
    cdef Transaction outer     # the outermost one, which this one has joined, or None
    cdef list blocks           # of the outermost one: itself, and the open ones that have joined it
    cdef object task           # the task of asyncio in which the outermost one began, or None
    cdef dict writes           # key -> value, ABSENT for a deletion
    cdef set touched           # keys that count as changed whatever their value
    cdef set notifying         # keys that were written outside of `no_rerun` blocks
    cdef dict deadlines        # key -> ns from the commit, -1 for none; or None. Only of the outermost one
    cdef set kept              # keys whose deadlines the writes keep, or None. Only of the outermost one
    cdef set edited            # keys whose values are known to differ, or None. Only of the outermost one
    cdef tuple savepoint       # copies of these five from the begin of this block
    cdef list held             # KeyLocks, in the order of acquisition
    cdef bint ended            # the outermost one was discarded before its block ended

    def __cinit__(self, Store store not None, keys, timeout):
        self.store = store
        self.keys = tuple(sorted({plain_key(key) for key in keys}))
        self.timeout = timeout

    def __enter__(self):
        cdef Holder holder = <Holder>current_holder()
        cdef Transaction current = current_transaction()
        cdef list held
        task = running_task()
        self.refuse_to_join(current, task)
        held = self.acquire_declared()
        if current is not None and current.ended:  # by another thread, while this one was waiting
            release_locks(held)
            raise RuntimeError("The transaction that this block would have joined was ended on another thread.")
        self.held = held
        self.ended = False
        self.outer = current
        if current is None:
            self.begin(holder, task)
        else:
            self.writes, self.touched, self.notifying = current.writes, current.touched, current.notifying
            current.blocks.append(self)
        self.savepoint = dict(self.writes), set(self.touched), set(self.notifying), *copies_of_deadlines(self)

    cdef int refuse_to_join(self, Transaction current, task) except -1:
        """Raise RuntimeError if this transaction is open, or cannot join the thread's current one."""
        if self.held is not None:
            raise RuntimeError("This transaction is already open. Make another one: with transaction(...):")
        if current is None:
            return 0
        if current.store is not self.store:
            raise RuntimeError("This thread is in a transaction of another store.")
        if current.task is not None and current.task is not task:
            raise RuntimeError(
                "Another task of this thread is in a transaction. Do not await inside of a transaction, or begin it on "
                "a thread of its own: asyncio.to_thread(...)."
            )
        return 0

    cdef list acquire_declared(self):
        """Acquire the locks of the declared keys. Raises TimeoutError if that takes too long."""
        cdef list held = []
        cdef bint done = False
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
        return held

    cdef int begin(self, Holder holder, task) except -1:
        """Make this the thread's outermost transaction."""
        global fss_transaction
        self.holder, self.task, self.blocks = holder, task, [self]
        self.writes, self.touched, self.notifying = {}, set(), set()
        holder.transaction = self
        fss_transaction = <PyObject *>self
        return 0

    def __call__(self, *args, **kwargs):
        raise TypeError("transaction(...) is not a decorator. Use a block: with transaction(...):")

    def __aenter__(self):
        refuse_async("with transaction(...):")

    def __aexit__(self, exc_type, exc_value, traceback):
        pass

    def __exit__(self, exc_type, exc_value, traceback):
        cdef Transaction outermost = self.outer if self.outer is not None else self
        if self.held is None or outermost.ended:
            self.leave_discarded(exc_type)
        elif <PyObject *>outermost.holder != fss_holder:
            end_transaction(outermost)
            raise_discarded()  # the blocks remain those of the thread that began them
        elif outermost.blocks[len(outermost.blocks) - 1] is not self:
            end_transaction(outermost)
            self.leave_discarded(exc_type)
        else:
            self.close(outermost, exc_type is None)

    cdef int leave_discarded(self, exc_type) except -1:
        """End a block of a discarded transaction. Raises RuntimeError unless another exception is propagating."""
        self.forget()
        if exc_type is None:
            raise_discarded()
        return 0

    cdef int close(self, Transaction outermost, bint succeeded) except -1:
        """End the block: commit if it succeeded and is the outermost one, undo if it failed."""
        cdef list held = self.held
        cdef list changes = None  # keeps the old values alive until the locks are released
        try:
            if not succeeded:
                self.undo()
            elif outermost is self:
                changes = commit_all(self)
        except BaseException:
            self.undo()
            raise
        finally:
            if not outermost.ended:
                outermost.blocks.pop()
            if outermost is self:
                leave_transaction(self)
                self.forget()
                release_locks(held)
            else:
                outermost.held += held
                self.forget()
        return 0

    cdef void forget(self) noexcept:
        self.holder = self.outer = self.blocks = self.task = None
        self.held = self.writes = self.touched = self.notifying = self.savepoint = self.deadlines = self.kept = None
        self.edited = None

    cdef int undo(self) except -1:
        """Discard what was written since the block began. The outermost transaction keeps the locks."""
        cdef Transaction outermost = self.outer if self.outer is not None else self
        for key in self.writes:
            set_staged(self.store.table, <PyObject *>key, key in self.savepoint[0])
        for current, saved in zip((self.writes, self.touched, self.notifying), self.savepoint):
            current.clear()
            current.update(saved)
        outermost.deadlines, outermost.kept = self.savepoint[3:]
        return 0

    cdef object write(self, str key, object value, bint if_absent, bint keeps_deadline):
        """Stage a value, or a deletion with ABSENT. Returns the value that the key had here, or ABSENT."""
        old = self.staged(key)
        if (if_absent and old is not ABSENT) or (value is ABSENT and old is ABSENT):
            return old
        if keeps_deadline and key not in self.writes:
            self.keep_deadline(key)
        elif not keeps_deadline:
            self.forget_deadline(key)
        if self.edited is not None:
            self.edited.discard(key)
        self.note(key, value)
        return old

    def stage(self, key, value, *, bint is_known):
        cdef Transaction outermost = self.outer if self.outer is not None else self
        if self.held is None or outermost.ended or <PyObject *>outermost.holder != fss_holder:
            raise_discarded()
        outermost.write(key, value, False, True)
        if is_known:
            if outermost.edited is None:
                outermost.edited = set()
            outermost.edited.add(key)

    def restage(self, key, value):
        cdef Transaction outermost = self.outer if self.outer is not None else self
        if self.held is None or outermost.ended or key not in self.writes:
            raise_discarded()
        self.writes[key] = value

    def written(self):
        if self.held is None:
            return []
        before = self.savepoint[0]
        return [item for item in self.writes.items() if before.get(item[0], PRIVATE) is not item[1]]

    cdef object staged(self, str key):
        """Take the key's lock. Returns the value that the key has here, or ABSENT."""
        cdef KeyLock handle
        if key not in self.writes:
            handle = self.store.lock(key)
            acquire_lock(handle, -1)
            self.held.append(handle)
            if self.ended:  # by another thread, which may have missed this lock
                release_locks_of(self.holder, [handle])
                refuse_if_ended(self)
        old = self.writes.get(key, PRIVATE)
        return committed_value(self.store.table, <PyObject *>key) if old is PRIVATE else old

    cdef object touch(self, str key):
        value = self.staged(key)
        if key not in self.writes:
            self.keep_deadline(key)
        self.note(key, value)
        self.touched.add(key)
        return value

    cdef bint expire(self, str key, long long left_ns) except -1:
        """Stage a deadline, -1 for none. Returns whether the key is set here."""
        if self.staged(key) is ABSENT:
            return False
        if self.deadlines is None:
            self.deadlines = {}
        self.deadlines[key] = left_ns
        return True

    cdef int keep_deadline(self, str key) except -1:
        if self.kept is None:
            self.kept = set()
        self.kept.add(key)
        return 0

    cdef int forget_deadline(self, str key) except -1:
        """The key is assigned or deleted, which ends its deadline."""
        if self.deadlines is not None:
            self.deadlines.pop(key, None)
        if self.kept is not None:
            self.kept.discard(key)
        return 0

    cdef int note(self, str key, object value) except -1:
        self.writes[key] = value
        if not are_suppressed():
            self.notifying.add(key)
        set_staged(self.store.table, <PyObject *>key, True)
        return 0


cdef tuple copies_of_deadlines(Transaction self):
    """Copies of the deadlines that the transaction has staged, and of the keys whose deadlines it keeps."""
    cdef Transaction outermost = self.outer if self.outer is not None else self
    return (
        None if outermost.deadlines is None else dict(outermost.deadlines),
        None if outermost.kept is None else set(outermost.kept),
    )


cdef int raise_discarded() except -1:
    raise RuntimeError(
        "This transaction was discarded. A transaction must end on the thread, in the run and in the process in which "
        "it began, and after the transactions that began inside of it."
    )


cdef int refuse_if_ended(Transaction self) except -1:
    if self.ended:
        raise RuntimeError("This transaction was ended on another thread, and discarded.")
    return 0


cdef object running_task():
    """The calling thread's current asyncio task, or None."""
    loop = running_loop()
    return None if loop is None else sys.modules["asyncio"].current_task(loop)


cdef inline Transaction current_transaction():
    """The calling thread's outermost transaction, unless another thread has ended it; or None."""
    if fss_transaction != NULL and (<Transaction>fss_transaction).ended:
        leave_transaction(<Transaction>fss_transaction)
    if fss_transaction == NULL:
        return None
    return <Transaction>fss_transaction


cdef inline Transaction transaction_of(Store store):
    """The calling thread's transaction of this store, or None."""
    cdef Transaction current = current_transaction()
    if current is None or current.store is not store:
        return None
    return current


cdef void leave_transaction(Transaction self) noexcept:
    """Take the calling thread out of its transaction, which is this one."""
    global fss_transaction
    fss_transaction = NULL
    if self.holder is not None:
        self.holder.transaction = None


cdef list discard(Transaction self):
    """End an outermost transaction before its block ends. It keeps its locks. Called on any thread.

    Returns its blocks.
    """
    cdef list blocks = list(self.blocks)
    self.ended = True
    self.blocks.clear()  # which also breaks the reference cycle
    if fss_transaction == <PyObject *>self:
        leave_transaction(self)
    for key in list(self.writes):
        set_staged(self.store.table, <PyObject *>key, False)
    return blocks


cdef int end_transaction(Transaction self) except -1:
    """Discard an outermost transaction, and release the locks of all its blocks. Called on any thread."""
    cdef Transaction block
    for block in reversed(discard(self)):
        release_locks_of(self.holder, list(block.held))
    return flush_if_free()


cdef PyObject *staged_value(const Table *table, const Cell *cell) noexcept:
    """A new reference to what the calling thread's transaction has written to the cell, ABSENT for a deletion.

    NULL if it has not written the key, or there is no transaction. The thread holds the cell's lock.
    """
    if not cell.staged or fss_transaction == NULL or (<Transaction>fss_transaction).store.table != table:
        return NULL
    return dict_get(<PyObject *>(<Transaction>fss_transaction).writes, cell.key)


cdef inline bint has_staged_value(const Table *table, const Cell *cell) noexcept:
    """Whether the calling thread's transaction has written to the cell. The thread holds the cell's lock."""
    cdef PyObject *written = staged_value(table, cell)
    _xdecref(written)
    return written != NULL


cdef inline PyObject *visible_value(const Table *table, const Cell *cell) noexcept:
    """A new reference to the value that the calling thread sees, NULL for none. No other thread holds the lock."""
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


cdef list visible_keys(Store store, str prefix=None):
    """The keys that are set for the calling thread, transaction included, in the order of insertion.

    Hidden keys are left out. With a prefix: those that begin with it, hidden or not.
    """
    cdef list keys = sorted_keys(store.table, False, prefix)
    cdef Transaction current = transaction_of(store)
    if current is not None:
        kept = dict.fromkeys(keys)
        for key, value in current.writes.items():
            if value is ABSENT:
                kept.pop(key, None)
            elif not is_hidden_key(<PyObject *>key) if prefix is None else starts_with(
                <PyObject *>key, <PyObject *>prefix
            ):
                kept[key] = None
        keys = list(kept)
    return keys


cdef list commit_all(Transaction self):
    """Make all changes atomically. Returns them; they hold the old values."""
    cdef Store store = self.store
    cdef Table *table = store.table
    cdef PyObject *backend = load_object(table.backend)
    cdef Session writer = current_writer(table)
    cdef list changes = []
    cdef _Change change
    if backend != NULL:
        refuse_if_ended(self)
        (<object>backend).commit(
            dict(self.writes),
            set(self.touched),
            set(self.writes) - self.notifying,
            {} if self.deadlines is None else dict(self.deadlines),
            frozenset() if self.kept is None else frozenset(self.kept),
        )
        for key in self.writes:
            set_staged(table, <PyObject *>key, False)
        self.writes.clear()
        return changes
    for key, value in self.writes.items():
        change = new_change(key, value, key in self.touched, key not in self.notifying)
        change.staged = True
        change.keeps_deadline = self.kept is not None and key in self.kept
        change.comparison.is_known = self.edited is not None and key in self.edited
        changes.append(change)
        if value is not ABSENT:
            compare_change(change, store)
    for key, left_ns in (self.deadlines or {}).items():
        change = new_change(key, ABSENT, False, True)
        change.sets_deadline, change.left_ns = True, left_ns
        changes.append(change)
    if not make_changes(table, changes, writer, fss_holder, self):
        refuse_if_ended(self)
    self.writes.clear()
    failure = None
    for change in changes:  # their locks are held, so callbacks are deferred
        try:
            after_write(
                store, shard_of(table, key_hash(<PyObject *>change.key)), <PyObject *>change.key, change.has_callbacks
            )
        except BaseException as error:  # it could not be stored, but was made: the other keys have callbacks, too
            failure = error
    if failure is not None:
        raise failure
    return changes
