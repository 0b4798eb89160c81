# cython: language_level=3
# Slots: subscribing scopes, marking them stale and collecting them. See the head of _core.pyx.

cdef enum:
    FIRST_SLOTS = 1024


cdef void slots_free(Slots *self) noexcept:
    PyMem_RawFree(self.scopes)
    PyMem_RawFree(self.alive)
    PyMem_RawFree(self.retired)
    PyMem_RawFree(self.nodes)
    PyMem_RawFree(self.pending)
    PyMem_RawFree(self.pending_by_rerun)
    PyMem_RawFree(self.spare)
    subscribers_free(&self.members)
    free_prefixes(&self.prefixes)


cdef bint _grow_array(void **array, Py_ssize_t old, Py_ssize_t new) noexcept:
    cdef void *grown = PyMem_RawRealloc(array[0], new)
    if grown == NULL:
        return False
    memset(<char *>grown + old, 0, new - old)
    array[0] = grown
    return True


cdef bint slots_grow(Slots *self) noexcept:
    """Double the number of slots; False if there is no memory."""
    cdef Py_ssize_t old = self.size, new = 2 * self.size or FIRST_SLOTS
    if not (
        _grow_array(<void **>&self.scopes, old * sizeof(PyObject *), new * sizeof(PyObject *))
        and _grow_array(<void **>&self.spare, old * sizeof(uint32_t), new * sizeof(uint32_t))
        and _grow_array(<void **>&self.alive, old // 8, new // 8)
        and _grow_array(<void **>&self.retired, old // 8, new // 8)
        and _grow_array(<void **>&self.nodes, old // 8, new // 8)
        and _grow_array(<void **>&self.pending, old // 8, new // 8)
        and _grow_array(<void **>&self.pending_by_rerun, old // 8, new // 8)
    ):
        return False
    self.size = new
    return True


cdef int take_slot(Table *table, Scope scope) except -1:
    """Give the scope a slot that no set contains, for its next reads. Its session is locked."""
    cdef Slots *slots = &table.slots
    cdef uint32_t slot
    cdef bint found
    while True:
        lock(&slots.mutex)
        if slots.spares:
            slots.spares -= 1
            slot = slots.spare[slots.spares]
            break
        if slots.used < slots.size:
            slot = slots.used
            store32(slots.used, slots.used + 1)
            break
        # A sweep visits every cell, so it has to free enough slots.
        if slots.live <= slots.size // 2 and slots.size and not slots.sweeping:
            unlock(&slots.mutex)
            found = sweep(table)
        else:
            found = slots_grow(slots)
            unlock(&slots.mutex)
        if not found:
            raise MemoryError()
    _incref(<PyObject *>scope)
    slots.scopes[slot] = <PyObject *>scope
    set_bit(slots.alive, slot)
    if scope.session.is_node:
        set_bit(slots.nodes, slot)
    store32(slots.live, slots.live + 1)
    store32(scope.slot, slot)
    scope.subscribed = False
    unlock(&slots.mutex)
    return 0


cdef void retire_slot(Table *table, Scope scope, uint32_t slot, bint subscribed) noexcept:
    """Take a slot from the scope, which ends its subscriptions. Its session is locked.

    Without `subscribed` no set contains the slot.
    """
    cdef Slots *slots = &table.slots
    lock(&slots.mutex)
    slots.scopes[slot] = NULL
    store32(slots.live, slots.live - 1)
    clear_bit(slots.alive, slot)
    clear_bit(slots.nodes, slot)
    clear_bit(slots.pending, slot)
    clear_bit(slots.pending_by_rerun, slot)
    if subscribed:
        set_bit(slots.retired, slot)
    else:
        slots.spare[slots.spares] = slot
        slots.spares += 1
    unlock(&slots.mutex)
    _decref(<PyObject *>scope)


cdef bint sweep(Table *table) noexcept:
    """Remove the retired slots from every set, so that they can be used again; False if there is no memory.

    No shard is locked. No thread adds a retired slot to a set, because slots are retired with the session locked and
    subscribing locks it too.
    """
    cdef Slots *slots = &table.slots
    cdef Shard *shard
    cdef Cell *cell
    cdef Cell *following
    cdef uint64_t *retired
    cdef uint32_t words, slot
    cdef int i
    lock(&slots.mutex)
    if slots.sweeping or slots.size == 0:
        unlock(&slots.mutex)
        return True
    words = slots.size // 64
    retired = <uint64_t *>PyMem_RawMalloc(words * sizeof(uint64_t))
    if retired == NULL:
        unlock(&slots.mutex)
        return False
    slots.sweeping = True
    memcpy(retired, slots.retired, words * sizeof(uint64_t))
    subscribers_purge(&slots.members, retired, words)
    purge_prefixes(&slots.prefixes, retired, words)
    unlock(&slots.mutex)
    for i in range(SHARDS):
        shard = &table.shards[i]
        lock(&shard.mutex)
        cell = next_cell(shard, NULL)
        while cell != NULL:
            following = next_cell(shard, cell)
            note_use(shard, cell)
            purge(cell, retired, words)
            drop_if_unused(shard, cell)
            cell = following
        unlock_shard(shard)
    lock(&slots.mutex)
    for slot in range(words * 64):
        if has_bit(retired, slot):
            clear_bit(slots.retired, slot)
            slots.spare[slots.spares] = slot
            slots.spares += 1
    slots.sweeping = False
    unlock(&slots.mutex)
    PyMem_RawFree(retired)
    return True


# Subscribing. The scope's session is locked, and the shard of the cell that has the set.

cdef bint subscribe(Slots *slots, Subscribers *subscribers, Scope scope, Holder reader) noexcept:
    """Subscribe the scope to a set; False if there is no memory."""
    cdef bint done
    lock(&slots.mutex)
    done = add_scope(slots, subscribers, scope, reader)
    unlock(&slots.mutex)
    return done


cdef bint subscribe_to_prefix(Slots *slots, PyObject *text, Scope scope, Holder reader) noexcept:
    """Subscribe the scope to the set of keys under a prefix; False if there is no memory."""
    cdef Prefix *prefix
    cdef bint done
    lock(&slots.mutex)
    prefix = find_or_make_prefix(slots, text)
    done = prefix != NULL and add_scope(slots, &prefix.subscribers, scope, reader)
    unlock(&slots.mutex)
    return done


cdef inline bint add_scope(Slots *slots, Subscribers *subscribers, Scope scope, Holder reader) noexcept:
    """Add the scope's slot to a set, unless the scope is going to rerun anyway; False if there is no memory.

    The mutex of the slots is locked.
    """
    cdef bint done = True
    cdef uint32_t i
    if scope.slot == NO_SLOT:
        pass
    elif scope.stale or has_bit(slots.pending, scope.slot):
        scope.mixed = True
    elif not subscribers_has(subscribers, scope.slot):
        for i in range(scope.earlier_count):
            subscribers_discard(subscribers, scope.earlier[i])  # the new slot is marked by the same changes
        done = (
            reads_add(&scope.reads, subscribers, scope.session.sent, reader.serial, current_context())
            and subscribers_add(subscribers, scope.slot, slots.alive)
        )
        scope.subscribed = True
    return done


# Marking. The writer's session is locked, and the shard of the cell.

cdef void notify(Slots *slots, Cell *cell, Session writer) noexcept:
    """Mark the scopes that depend on the cell as stale, after it has changed."""
    cdef Subscribers *later
    cdef Prefix *prefix
    cdef PrefixWalk walk
    lock(&slots.mutex)
    later = throttle(slots, cell)
    mark(slots, &cell.readers, later, writer, cell.key)
    if cell.presence_pending:
        if cell.cold != NULL:
            mark(slots, &cell.cold.watchers, later, writer, cell.key)
        if not cell.is_hidden:
            mark(slots, &slots.members, NULL, writer, <PyObject *>SET_OF_KEYS)
        walk.length, walk.hash = 0, 0
        prefix = next_prefix(&slots.prefixes, cell, &walk)
        while prefix != NULL:
            mark(slots, &prefix.subscribers, NULL, writer, <PyObject *>SET_OF_KEYS)
            prefix = next_prefix(&slots.prefixes, cell, &walk)
    unlock(&slots.mutex)


cdef void notify_absent(Slots *slots, Cell *cell, Session writer) noexcept:
    """Mark the scopes that depend on an absent cell as stale, after it was touched."""
    cdef Subscribers *later
    lock(&slots.mutex)
    later = throttle(slots, cell)
    mark(slots, &cell.readers, later, writer, cell.key)
    if cell.cold != NULL:
        mark(slots, &cell.cold.watchers, later, writer, cell.key)
    unlock(&slots.mutex)


cdef inline void outdate_nodes(Slots *slots, Cell *cell) noexcept:
    """Mark the computed values that depend on the cell, after a quiet change. They are evaluated when they are read, or
    collected with the next change that is not quiet."""
    cdef Prefix *prefix
    cdef PrefixWalk walk
    lock(&slots.mutex)
    store64(slots.marks, slots.marks + 1)
    subscribers_take_some(&cell.readers, slots.nodes, slots.pending)
    if cell.presence_pending:
        if cell.cold != NULL:
            subscribers_take_some(&cell.cold.watchers, slots.nodes, slots.pending)
        if not cell.is_hidden:
            subscribers_take_some(&slots.members, slots.nodes, slots.pending)
        walk.length, walk.hash = 0, 0
        prefix = next_prefix(&slots.prefixes, cell, &walk)
        while prefix != NULL:
            subscribers_take_some(&prefix.subscribers, slots.nodes, slots.pending)
            prefix = next_prefix(&slots.prefixes, cell, &walk)
    unlock(&slots.mutex)


cdef inline Subscribers *throttle(Slots *slots, Cell *cell) noexcept:
    """The set into which to move the subscribers of a changed key that has an interval; NULL if they are due.

    A scope that subscribes later has read the newest value, so it does not get into that set.
    """
    cdef long long now
    if cell.cold == NULL or cell.cold.interval_ns == 0 or (cell.readers.count == 0 and cell.cold.watchers.count == 0):
        return NULL
    now = clock_ns()
    if now - cell.cold.marked_ns >= cell.cold.interval_ns:
        cell.cold.marked_ns = now
        mark_throttled(slots, cell)
        return NULL
    if not cell.cold.is_throttled:
        cell.cold.is_throttled = True
        cell.cold.next_throttled = slots.throttled
        slots.throttled = cell
        store_flag(slots.any_pending, True)  # makes the rerun queue ask when the interval is over
    return &cell.cold.throttled


cdef inline void mark_throttled(Slots *slots, Cell *cell) noexcept:
    if subscribers_take(&cell.cold.throttled, slots.pending, slots.alive):
        store_flag(slots.any_pending, True)


cdef long long release_throttled(Table *table) noexcept:
    """Mark the throttled subscribers whose interval is over. Returns the ns until the next is over, -1 if none is left.
    """
    cdef Slots *slots = &table.slots
    cdef Shard *shard
    cdef Cell *cell
    cdef Cell *following
    cdef long long left, least = -1, now = clock_ns()
    lock(&slots.mutex)
    cell, slots.throttled = slots.throttled, NULL
    unlock(&slots.mutex)
    while cell != NULL:  # a throttled cell is not freed
        following = cell.cold.next_throttled
        shard = shard_of(table, cell.hash)
        lock(&shard.mutex)
        lock(&slots.mutex)
        left = cell.cold.marked_ns + cell.cold.interval_ns - now
        if left > 0 and cell.cold.throttled.count:
            least = left if least < 0 else min(left, least)
            cell.cold.next_throttled = slots.throttled
            slots.throttled = cell
        else:
            cell.cold.is_throttled = False
            if cell.cold.throttled.count:
                cell.cold.marked_ns = now
                mark_throttled(slots, cell)
        unlock(&slots.mutex)
        drop_if_unused(shard, cell)
        unlock_shard(shard)
        cell = following
    return least


cdef bint is_watched(Slots *slots, const Cell *cell) noexcept:
    """Whether any scope depends on the cell's presence."""
    cdef Prefix *prefix
    cdef PrefixWalk walk
    cdef bint watched
    lock(&slots.mutex)
    watched = (not cell.is_hidden and subscribers_any(&slots.members, slots.alive)) or (
        cell.cold != NULL and subscribers_any(&cell.cold.watchers, slots.alive)
    )
    walk.length, walk.hash = 0, 0
    while not watched:
        prefix = next_prefix(&slots.prefixes, cell, &walk)
        if prefix == NULL:
            break
        watched = subscribers_any(&prefix.subscribers, slots.alive)
    unlock(&slots.mutex)
    return watched


cdef void mark(
    Slots *slots, Subscribers *subscribers, Subscribers *later, Session writer, PyObject *name
) noexcept:
    """Mark the subscribers as pending or, unless `later` is NULL, move them there.

    While the writer's run goes on, its own scopes are left subscribed instead. They are noted as overwritten if they
    may have shown the older value.
    """
    cdef PyObject *only
    cdef bint set_aside
    if subscribers.count == 0:
        return
    store64(slots.marks, slots.marks + 1)
    if writer is None or not writer.running:
        mark_all(slots, subscribers, later, writer, name)
        return
    only = only_subscriber(slots, subscribers, writer)
    if only != NULL:  # the most frequent case: a script adds to a number that no other session shows
        note_own_change(slots, <Scope>only, subscribers, name)
        return
    set_aside = set_own_aside(slots, subscribers, writer, name)
    mark_all(slots, subscribers, later, writer, name)
    if set_aside:
        put_own_back(slots, subscribers, writer)


cdef inline PyObject *only_subscriber(const Slots *slots, const Subscribers *subscribers, Session session) noexcept:
    """The scope of the session that is the only subscriber with its last execution, else NULL. Borrowed."""
    cdef PyObject *scope
    if subscribers.count != 1 or subscribers.words:
        return NULL
    scope = slots.scopes[subscribers.body.few[0]]
    if scope == NULL or (<Scope>scope).session is not session or (<Scope>scope).slot != subscribers.body.few[0]:
        return NULL
    return scope


cdef inline bint set_own_aside(Slots *slots, Subscribers *subscribers, Session writer, PyObject *name) noexcept:
    """Take the writer's own scopes out of the subscribers, and note its change. Whether there were some."""
    cdef Scope scope
    cdef bint found = False
    for scope in writer.scopes.values():
        scope.set_aside = subscribers_has(subscribers, scope.slot)
        if scope.set_aside:
            found = True
            subscribers_discard(subscribers, scope.slot)
            note_own_change(slots, scope, subscribers, name)
    return found


cdef inline void put_own_back(Slots *slots, Subscribers *subscribers, Session writer) noexcept:
    """Undo `set_own_aside`."""
    cdef Scope scope
    for scope in writer.scopes.values():
        if scope.set_aside:
            subscribers_add(subscribers, scope.slot, slots.alive)  # cannot fail: the room for it is still there


cdef inline void mark_all(
    Slots *slots, Subscribers *subscribers, Subscribers *later, Session writer, PyObject *name
) noexcept:
    """Mark all subscribers as pending, or move them to `later`. Computed values are never late."""
    if later != NULL and subscribers_take_some(subscribers, slots.nodes, slots.pending):
        store_flag(slots.any_pending, True)
    if later != NULL and subscribers_move(subscribers, later, slots.alive):
        return
    if is_rerun_write(writer):
        mark_by_rerun(slots, subscribers, writer, name)
    elif subscribers_take(subscribers, slots.pending, slots.alive):
        store_flag(slots.any_pending, True)


cdef inline void note_own_change(Slots *slots, Scope scope, const Subscribers *subscribers, PyObject *name) noexcept:
    """The scope's own session has changed a key that the scope has read."""
    if is_overwritten(slots, scope, subscribers):
        scope.overwritten = <str>name
        note_chain_write(slots, scope.session, name)
    if scope.earlier_count:
        scope.cause_before = max(scope.cause_before, scope.session.cause)
        scope.stale_before = True  # if this execution is interrupted, the screen still shows an earlier one


cdef inline bint acts_for_other() noexcept:
    """Whether this thread applies a change from a backend on behalf of another thread, the holder's."""
    return fss_holder != NULL and (<Holder>fss_holder).thread != PyThread_get_thread_ident()


cdef inline bint is_overwritten(Slots *slots, Scope scope, const Subscribers *subscribers) noexcept:
    """Whether a change by the scope's own session is a reason to rerun the scope.

    It is not if the holder and task that make the change have read the value, and nothing was sent to the browser
    since.
    """
    cdef Holder holder
    cdef const void *context
    if slots.rerun_writer == WRITER_NEVER:
        return False
    if slots.rerun_writer == WRITER_ALWAYS or scope.run != scope.session.run or fss_holder == NULL:
        return True
    holder = <Holder>fss_holder
    context = holder.context if acts_for_other() else current_context()
    return not reads_has(&scope.reads, subscribers, scope.session.sent, holder.serial, context)


# Chains of reruns. A change by a user's run, a thread or a timer is an *origin*: the number of the collection that
# finds it. A change by a rerun belongs to the origin of the rerun, one step deeper. A *cause* encodes both in one
# number: the greater of two causes has the newer origin or, with the same origin, the smaller depth.
# `rerun/session.py` limits how often a fragment or script body reruns at new depths of one origin. That ends cycles of
# sessions that change what the others show.

cdef enum:
    DEPTHS = 0x10000

CAUSE_DEPTHS = DEPTHS


cdef inline uint64_t cause_of_origin(uint64_t origin) noexcept:
    return (origin + 1) * DEPTHS - 1


cdef inline void add_cause(Scope scope, uint32_t slot, uint64_t cause) noexcept:
    """Note the cause of a change to what the execution with this slot has read."""
    if slot == scope.slot:
        scope.cause = max(scope.cause, cause)
    else:
        scope.cause_before = max(scope.cause_before, cause)


cdef inline bint is_rerun_write(Session writer) noexcept:
    """Whether a change is made by a rerun, and not by a thread that the app has started."""
    if writer is None or writer.by_user or not writer.running:
        return False
    if acts_for_other():
        return not (<Holder>fss_holder).is_app_thread
    return fss_thread_cache == NULL or (<_ThreadCache>fss_thread_cache).run_state != APP_THREAD


cdef void mark_by_rerun(Slots *slots, const Subscribers *subscribers, Session writer, PyObject *name) noexcept:
    """Mark the subscribers, and keep them subscribed: if they do not rerun for this change, they do for the next."""
    cdef uint32_t i, slot
    cdef bint found = False
    for i in range(64 * subscribers.words if subscribers.words else subscribers.count):
        slot = i if subscribers.words else subscribers.body.few[i]
        if subscribers_has(subscribers, slot) and slots.scopes[slot] != NULL:
            add_cause(<Scope>slots.scopes[slot], slot, writer.cause)
            set_bit(slots.pending_by_rerun, slot)
            found = True
    if found:
        store_flag(slots.any_pending, True)
        note_chain_write(slots, writer, name)


cdef void note_chain_write(Slots *slots, Session writer, PyObject *key) noexcept:
    """Remember a key that continues a chain. `locate_chain_writes` adds the source location with nothing locked."""
    cdef ChainWrite *noted
    cdef int i
    if not writer.recurs or slots.chain_write_count == MAX_CHAIN_WRITES:
        return
    for i in range(slots.chain_write_count):
        if keys_equal(slots.chain_writes[i].key, key):
            return
    noted = &slots.chain_writes[slots.chain_write_count]
    slots.chain_write_count += 1
    _incref(key)
    noted.key = key
    noted.code = NULL
    noted.thread = PyThread_get_thread_ident()
    store_flag(slots.any_pending, True)  # makes the writer call `locate_chain_writes`
    store_flag(slots.notified, False)


cdef void locate_chain_writes(Slots *slots) noexcept:
    """Add source locations to the chain writes of the calling thread. Nothing is locked."""
    cdef unsigned long thread = PyThread_get_thread_ident()
    cdef PyObject *code
    cdef int instruction = 0
    cdef int i
    cdef bint found = False
    lock(&slots.mutex)
    for i in range(slots.chain_write_count):
        found = found or needs_location(&slots.chain_writes[i], thread)
    unlock(&slots.mutex)
    code = caller_location(&instruction) if found else NULL
    if code == NULL:
        return
    lock(&slots.mutex)
    for i in range(slots.chain_write_count):
        if needs_location(&slots.chain_writes[i], thread):
            _incref(code)
            slots.chain_writes[i].code = code
            slots.chain_writes[i].instruction = instruction
    unlock(&slots.mutex)
    _decref(code)


cdef inline bint needs_location(const ChainWrite *self, unsigned long thread) noexcept:
    """Whether this thread has made the write and its source location is not known yet."""
    return self.thread == thread and self.code == NULL


cdef list take_chain_writes(Slots *slots):
    """Return and forget the writes that have continued chains: (key, source location or None)."""
    cdef ChainWrite taken[MAX_CHAIN_WRITES]
    cdef int count, i
    lock(&slots.mutex)
    count, slots.chain_write_count = slots.chain_write_count, 0
    memcpy(taken, slots.chain_writes, sizeof(taken))
    unlock(&slots.mutex)
    found = []
    for i in range(count):
        key, code = owned(taken[i].key), None if taken[i].code == NULL else owned(taken[i].code)
        found.append((key, None if code is None else format_location(code, taken[i].instruction)))
    return found


# Collecting. Nothing is locked.

cdef list collect_scopes(Slots *slots):
    """Return the scopes with pending executions. These count as stale from now on."""
    cdef list found = []
    cdef PyObject **scopes = NULL
    cdef uint32_t i, room, n
    while True:
        lock(&slots.mutex)
        if scopes != NULL and slots.live <= room:
            break
        room = slots.live
        unlock(&slots.mutex)
        PyMem_RawFree(scopes)
        scopes = <PyObject **>PyMem_RawMalloc(room * sizeof(PyObject *))
        if scopes == NULL:
            raise MemoryError()
    n = take_pending(slots, scopes)
    unlock(&slots.mutex)
    try:
        for i in range(n):
            found.append(<Scope>scopes[i])
    finally:
        for i in range(n):
            _decref(scopes[i])
        PyMem_RawFree(scopes)
    return found


# The mutex of the slots is locked.

cdef inline uint32_t take_pending(Slots *slots, PyObject **scopes) noexcept:
    """Make the pending executions stale. Puts new references to their scopes into `scopes`, and returns their number.
    """
    cdef uint32_t slot, i, n = 0
    cdef Scope scope
    store_flag(slots.notified, False)
    store_flag(slots.any_pending, False)
    store64(slots.collections, slots.collections + 1)
    for slot in range(slots.used):
        if (has_bit(slots.pending, slot) or has_bit(slots.pending_by_rerun, slot)) and slots.scopes[slot] != NULL:
            scope = <Scope>slots.scopes[slot]
            make_stale(slots, scope, slot)
            if not scope.listed:
                scope.listed = True
                scopes[n] = <PyObject *>scope
                _incref(scopes[n])
                n += 1
    for i in range(n):
        (<Scope>scopes[i]).listed = False
    if slots.size:
        memset(slots.pending, 0, slots.size // 8)
        memset(slots.pending_by_rerun, 0, slots.size // 8)
    return n


cdef inline void make_stale(Slots *slots, Scope scope, uint32_t slot) noexcept:
    """Make a scope's execution, which is pending, stale."""
    cdef bint has_origin = has_bit(slots.pending, slot)
    if has_origin:
        add_cause(scope, slot, cause_of_origin(slots.collections))
    if slot != scope.slot:
        store_flag(scope.stale_before, True)
    elif has_origin:
        store_flag(scope.stale, True)
    else:
        store_flag(scope.stale_by_rerun, True)
