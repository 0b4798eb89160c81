# cython: language_level=3
# Slots: the numbers that stand for scopes in the sets of subscribers, and which of them are marked. See _core.pyx.

cdef enum:
    FIRST_SLOTS = 1024

    MOST_ECHOES = 8

ctypedef struct Echo:
    # A write of a run that makes a chain of reruns go on.
    PyObject *key
    PyObject *code            # where it was made: a code object, NULL as long as that is not known,
    int instruction           # and an offset in it
    unsigned long thread

ctypedef struct Slots:
    Mutex mutex
    PyObject **scopes         # the Scope in a slot, NULL when it is retired or was never used
    uint64_t *alive           # slots with a scope
    uint64_t *retired         # slots that sets may still hold
    uint64_t *pending         # marked stale, not yet collected
    uint64_t *echoed          # the same, by runs that are reruns themselves
    uint64_t collections      # that there were
    Echo echoes[MOST_ECHOES]
    int echo_count
    uint32_t *spare           # slots that no set holds
    uint32_t size             # of these arrays, in slots
    uint32_t used             # slots that were ever taken
    uint32_t live
    uint32_t earlier          # of those: slots of earlier executions
    uint32_t spares
    bint sweeping
    bint any_pending
    bint woken                # somebody was told and has not collected yet
    int rerun_writer
    Cell *outdated            # the first of the cells with subscribers that are to be marked later
    Subscribers members       # depend on the set of keys


cdef void slots_free(Slots *self) noexcept:
    PyMem_RawFree(self.scopes)
    PyMem_RawFree(self.alive)
    PyMem_RawFree(self.retired)
    PyMem_RawFree(self.pending)
    PyMem_RawFree(self.echoed)
    PyMem_RawFree(self.spare)
    subscribers_free(&self.members)


cdef bint _widen(void **array, Py_ssize_t old, Py_ssize_t new) noexcept:
    cdef void *wider = PyMem_RawRealloc(array[0], new)
    if wider == NULL:
        return False
    memset(<char *>wider + old, 0, new - old)
    array[0] = wider
    return True


cdef bint slots_widen(Slots *self) noexcept:
    """Double the number of slots; False when there is no memory."""
    cdef Py_ssize_t old = self.size, new = 2 * self.size or FIRST_SLOTS
    if not (
        _widen(<void **>&self.scopes, old * sizeof(PyObject *), new * sizeof(PyObject *))
        and _widen(<void **>&self.spare, old * sizeof(uint32_t), new * sizeof(uint32_t))
        and _widen(<void **>&self.alive, old // 8, new // 8)
        and _widen(<void **>&self.retired, old // 8, new // 8)
        and _widen(<void **>&self.pending, old // 8, new // 8)
        and _widen(<void **>&self.echoed, old // 8, new // 8)
    ):
        return False
    self.size = new
    return True


cdef int take_slot(Table *table, Scope scope) except -1:
    """Give the scope a slot that is in no set, for what it reads from now on. Its session is locked."""
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
        # Sweeping looks at every cell, so it has to be worth it.
        if slots.live <= slots.size // 2 and slots.size and not slots.sweeping:
            unlock(&slots.mutex)
            found = sweep(table)
        else:
            found = slots_widen(slots)
            unlock(&slots.mutex)
        if not found:
            raise MemoryError()
    _incref(<PyObject *>scope)
    slots.scopes[slot] = <PyObject *>scope
    set_bit(slots.alive, slot)
    store32(slots.live, slots.live + 1)
    store32(scope.slot, slot)
    scope.subscribed = False
    unlock(&slots.mutex)
    return 0


cdef void retire_slot(Table *table, Scope scope, uint32_t slot, bint subscribed) noexcept:
    """Take a slot away from the scope, and its subscriptions if it may have some. Its session is locked."""
    cdef Slots *slots = &table.slots
    lock(&slots.mutex)
    slots.scopes[slot] = NULL
    store32(slots.live, slots.live - 1)
    clear_bit(slots.alive, slot)
    clear_bit(slots.pending, slot)
    clear_bit(slots.echoed, slot)
    if subscribed:
        set_bit(slots.retired, slot)
    else:
        slots.spare[slots.spares] = slot
        slots.spares += 1
    unlock(&slots.mutex)
    _decref(<PyObject *>scope)


cdef bint sweep(Table *table) noexcept:
    """Take the retired slots out of every set, so that they can be used again; False when there is no memory.

    No shard is locked. Nobody adds a retired slot to a set: that takes the lock of the session under which it was
    retired.
    """
    cdef Slots *slots = &table.slots
    cdef Shard *shard
    cdef Cell *cell
    cdef Cell *following
    cdef uint64_t *retired
    cdef uint32_t words, slot
    cdef Py_ssize_t at
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
    unlock(&slots.mutex)
    for i in range(SHARDS):
        shard = &table.shards[i]
        lock(&shard.mutex)
        for at in range(shard.mask + 1):
            cell = shard.buckets[at]
            while cell != NULL:
                following = cell.next
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


# Subscribing. The scope's session is locked, and the shard of the subscribers' cell.

cdef bint subscribe(Slots *slots, Subscribers *subscribers, Scope scope, Holder reader) noexcept:
    """Add the scope unless it is going to be rerun anyway; False when there is no memory."""
    cdef bint done = True
    cdef uint32_t i
    lock(&slots.mutex)
    if (
        scope.slot != NO_SLOT
        and not scope.stale
        and not has_bit(slots.pending, scope.slot)
        and not subscribers_has(subscribers, scope.slot)
    ):
        for i in range(scope.earlier_count):
            subscribers_discard(subscribers, scope.earlier[i])  # the new one tells of every change as well
        done = (
            reads_add(&scope.reads, subscribers, scope.session.sent, reader.serial, context_here())
            and subscribers_add(subscribers, scope.slot, slots.alive)
        )
        scope.subscribed = True
    unlock(&slots.mutex)
    return done


# Marking. The writer's session is locked, and the shard of the cell.

cdef void notify(Slots *slots, Cell *cell, Session writer) noexcept:
    """Mark what depends on the cell as stale, after it has changed."""
    cdef Subscribers *later
    lock(&slots.mutex)
    later = NULL if cell.extra == NULL or cell.extra.interval_ns == 0 else pace(slots, cell)
    mark(slots, &cell.readers, later, writer, cell.key)
    if cell.presence_owed:
        if cell.extra != NULL:
            mark(slots, &cell.extra.watchers, later, writer, cell.key)
        mark(slots, &slots.members, NULL, writer, <PyObject *>SET_OF_KEYS)
    unlock(&slots.mutex)


cdef void notify_of_absence(Slots *slots, Cell *cell, Session writer) noexcept:
    """Mark what has read that the cell has no value."""
    cdef Subscribers *later
    lock(&slots.mutex)
    later = NULL if cell.extra == NULL or cell.extra.interval_ns == 0 else pace(slots, cell)
    mark(slots, &cell.readers, later, writer, cell.key)
    if cell.extra != NULL:
        mark(slots, &cell.extra.watchers, later, writer, cell.key)
    unlock(&slots.mutex)


cdef Subscribers *pace(Slots *slots, Cell *cell) noexcept:
    """Where to put the subscribers of a key that has an interval, which has changed; NULL if it is time to mark them.

    A later read finds the newest value, so a subscriber that comes since is not among those that are outdated.
    """
    cdef long long now
    if cell.readers.count == 0 and cell.extra.watchers.count == 0:
        return NULL
    now = clock_ns()
    if now - cell.extra.marked_ns >= cell.extra.interval_ns:
        cell.extra.marked_ns = now
        mark_outdated(slots, cell)
        return NULL
    if not cell.extra.is_outdated:
        cell.extra.is_outdated = True
        cell.extra.next_outdated = slots.outdated
        slots.outdated = cell
        store_flag(slots.any_pending, True)  # so that the collector comes back in time
    return &cell.extra.outdated


cdef inline void mark_outdated(Slots *slots, Cell *cell) noexcept:
    if subscribers_take(&cell.extra.outdated, slots.pending, slots.alive):
        store_flag(slots.any_pending, True)


cdef long long release_outdated(Table *table) noexcept:
    """Mark the subscribers of all keys whose interval is over. Returns the ns until the next is over, -1 if none is."""
    cdef Slots *slots = &table.slots
    cdef Shard *shard
    cdef Cell *cell
    cdef Cell *following
    cdef long long left, least = -1, now = clock_ns()
    lock(&slots.mutex)
    cell, slots.outdated = slots.outdated, NULL
    unlock(&slots.mutex)
    while cell != NULL:  # no cell goes while it is outdated
        following = cell.extra.next_outdated
        shard = shard_of(table, cell.hash)
        lock(&shard.mutex)
        lock(&slots.mutex)
        left = cell.extra.marked_ns + cell.extra.interval_ns - now
        if left > 0 and cell.extra.outdated.count:
            least = left if least < 0 else min(left, least)
            cell.extra.next_outdated = slots.outdated
            slots.outdated = cell
        else:
            cell.extra.is_outdated = False
            if cell.extra.outdated.count:
                cell.extra.marked_ns = now
                mark_outdated(slots, cell)
        unlock(&slots.mutex)
        drop_if_unused(shard, cell)
        unlock_shard(shard)
        cell = following
    return least


cdef bint is_watched(Slots *slots, const Cell *cell) noexcept:
    """Whether anybody depends on the cell's presence."""
    cdef bint watched
    lock(&slots.mutex)
    watched = subscribers_any(&slots.members, slots.alive) or (
        cell.extra != NULL and subscribers_any(&cell.extra.watchers, slots.alive)
    )
    unlock(&slots.mutex)
    return watched


cdef void mark(
    Slots *slots, Subscribers *subscribers, Subscribers *later, Session writer, PyObject *name
) noexcept:
    """Make the subscribers pending, or put them among those that will be `later`. Not the writer's own scopes as long
    as its run goes on.

    Those keep their subscription. They are noted as overwritten if they may have shown what was there before.
    """
    cdef Scope scope
    cdef bint own = False
    cdef bint moved
    if subscribers.count == 0:
        return
    if writer is not None and writer.running:
        if subscribers.count == 1 and not subscribers.words and slots.scopes[subscribers.body.few[0]] != NULL:
            scope = <Scope>slots.scopes[subscribers.body.few[0]]
            if scope.session is writer and scope.slot == subscribers.body.few[0]:
                # Most often: a script adds to a number that no other session shows.
                note_own_change(slots, scope, subscribers, name)
                return
        for scope in writer.scopes.values():
            scope.kept = subscribers_has(subscribers, scope.slot)
            if scope.kept:
                own = True
                subscribers_discard(subscribers, scope.slot)
                note_own_change(slots, scope, subscribers, name)
    moved = later != NULL and subscribers_move(subscribers, later, slots.alive)
    if not moved and is_rerun(writer):
        echo(slots, subscribers, writer, name)
    elif not moved and subscribers_take(subscribers, slots.pending, slots.alive):
        store_flag(slots.any_pending, True)
    if own:
        for scope in writer.scopes.values():
            if scope.kept:
                subscribers_add(subscribers, scope.slot, slots.alive)  # it was there, so there is room


cdef inline void note_own_change(Slots *slots, Scope scope, const Subscribers *subscribers, PyObject *name) noexcept:
    """The scope's own session has changed what the scope has read."""
    if is_overwritten(slots, scope, subscribers):
        scope.overwritten = <str>name
        note_echo(slots, scope.session, name)
    if scope.earlier_count:
        scope.cause_before = max(scope.cause_before, scope.session.cause)
        scope.stale_before = True  # if this execution is broken off, an earlier one still shows the older value


cdef inline bint is_for_other() noexcept:
    """Whether the change comes back from a backend: this thread makes it in the name of another, its holder's."""
    return fss_holder != NULL and (<Holder>fss_holder).thread != PyThread_get_thread_ident()


cdef inline bint is_overwritten(Slots *slots, Scope scope, const Subscribers *subscribers) noexcept:
    """Whether a change by the scope's own session is a reason to rerun the scope.

    It is none where the holder and task that make it have read the value, and nothing that was sent since can show it.
    """
    cdef Holder holder
    cdef const void *context
    if slots.rerun_writer == WRITER_NEVER:
        return False
    if slots.rerun_writer == WRITER_ALWAYS or scope.run != scope.session.run or fss_holder == NULL:
        return True
    holder = <Holder>fss_holder
    context = holder.context if is_for_other() else context_here()
    return not reads_has(&scope.reads, subscribers, scope.session.sent, holder.serial, context)


# Chains of reruns. What a user's run, a thread or a timer changes is an *origin*: the number of the collection that
# finds it. What a rerun changes descends from the rerun's own origin, one step deeper. A *cause* is both in one number:
# of two, the greater has the newer origin or, with the same one, the smaller depth. How often a part is rerun at a new
# depth of one origin has a limit (`rerun/session.py`), which ends circles of sessions that change what the others show.

cdef enum:
    DEPTHS = 0x10000

CAUSE_DEPTHS = DEPTHS


cdef inline uint64_t cause_of_origin(uint64_t origin) noexcept:
    return (origin + 1) * DEPTHS - 1


cdef inline void add_cause(Scope scope, uint32_t slot, uint64_t cause) noexcept:
    """What the execution with this slot has read was changed."""
    if slot == scope.slot:
        scope.cause = max(scope.cause, cause)
    else:
        scope.cause_before = max(scope.cause_before, cause)


cdef inline bint is_rerun(Session writer) noexcept:
    """Whether a change is made by a rerun, and not by a thread of the app's own beside it."""
    if writer is None or writer.by_user or not writer.running:
        return False
    if is_for_other():
        return not (<Holder>fss_holder).beside
    return fss_thread_cache == NULL or (<_ThreadCache>fss_thread_cache).standing != BESIDE


cdef void echo(Slots *slots, const Subscribers *subscribers, Session writer, PyObject *name) noexcept:
    """Mark the subscribers. They stay subscribed: if they are not rerun for this, they are for the next change."""
    cdef uint32_t i, slot
    cdef bint some = False
    for i in range(64 * subscribers.words if subscribers.words else subscribers.count):
        slot = i if subscribers.words else subscribers.body.few[i]
        if subscribers_has(subscribers, slot) and slots.scopes[slot] != NULL:
            add_cause(<Scope>slots.scopes[slot], slot, writer.cause)
            set_bit(slots.echoed, slot)
            some = True
    if some:
        store_flag(slots.any_pending, True)
        note_echo(slots, writer, name)


cdef void note_echo(Slots *slots, Session writer, PyObject *key) noexcept:
    """Remember what makes a chain go on. Its place is looked up when nothing is locked (`place_echoes`)."""
    cdef Echo *noted
    cdef int i
    if not writer.recurs or slots.echo_count == MOST_ECHOES:
        return
    for i in range(slots.echo_count):
        if same_key(slots.echoes[i].key, key):
            return
    noted = &slots.echoes[slots.echo_count]
    slots.echo_count += 1
    _incref(key)
    noted.key = key
    noted.code = NULL
    noted.thread = PyThread_get_thread_ident()
    store_flag(slots.any_pending, True)  # so that the writer looks
    store_flag(slots.woken, False)


cdef void place_echoes(Slots *slots) noexcept:
    """Note where the calling thread has made changes. Nothing is locked."""
    cdef unsigned long thread = PyThread_get_thread_ident()
    cdef PyObject *code
    cdef int instruction = 0
    cdef int i
    cdef bint some = False
    lock(&slots.mutex)
    for i in range(slots.echo_count):
        some = some or is_unplaced(&slots.echoes[i], thread)
    unlock(&slots.mutex)
    code = here(&instruction) if some else NULL
    if code == NULL:
        return
    lock(&slots.mutex)
    for i in range(slots.echo_count):
        if is_unplaced(&slots.echoes[i], thread):
            _incref(code)
            slots.echoes[i].code = code
            slots.echoes[i].instruction = instruction
    unlock(&slots.mutex)
    _decref(code)


cdef inline bint is_unplaced(const Echo *self, unsigned long thread) noexcept:
    """Whether this thread has made the change, and it is not known where."""
    return self.thread == thread and self.code == NULL


cdef list take_echoes(Slots *slots):
    """What has made chains go on: (key, place or None)."""
    cdef Echo taken[MOST_ECHOES]
    cdef int count, i
    lock(&slots.mutex)
    count, slots.echo_count = slots.echo_count, 0
    memcpy(taken, slots.echoes, sizeof(taken))
    unlock(&slots.mutex)
    found = []
    for i in range(count):
        key, code = owned(taken[i].key), None if taken[i].code == NULL else owned(taken[i].code)
        found.append((key, None if code is None else place(code, taken[i].instruction)))
    return found


# Collecting. Nothing is locked.

cdef list collect(Slots *slots):
    """The scopes of which an execution is pending. It is stale from now on."""
    cdef list found = []
    cdef PyObject **scopes = NULL
    cdef uint32_t slot, room, n = 0
    cdef Scope scope
    cdef bint is_fed
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
    store_flag(slots.woken, False)
    store_flag(slots.any_pending, False)
    store64(slots.collections, slots.collections + 1)
    for slot in range(slots.used):
        is_fed = has_bit(slots.pending, slot)
        if (is_fed or has_bit(slots.echoed, slot)) and slots.scopes[slot] != NULL:
            scope = <Scope>slots.scopes[slot]
            if is_fed:
                add_cause(scope, slot, cause_of_origin(slots.collections))
            if slot != scope.slot:
                store_flag(scope.stale_before, True)
            elif is_fed:
                store_flag(scope.stale, True)
            else:
                store_flag(scope.echoed, True)
            if not scope.listed:
                scope.listed = True
                scopes[n] = <PyObject *>scope
                _incref(scopes[n])
                n += 1
    for slot in range(n):
        (<Scope>scopes[slot]).listed = False
    if slots.size:
        memset(slots.pending, 0, slots.size // 8)
        memset(slots.echoed, 0, slots.size // 8)
    unlock(&slots.mutex)
    try:
        for slot in range(n):
            found.append(<Scope>scopes[slot])
    finally:
        for slot in range(n):
            _decref(scopes[slot])
        PyMem_RawFree(scopes)
    return found
