# cython: language_level=3
# Deadlines: keys that expire. See the head of _core.pyx.
#
# A cell has *terms* if a lifetime is configured for its key, or if it has a deadline. The terms of a shard's cells form
# a binary heap by the time of the next look at each. A cell knows its place in it, and leaves it before it is freed.
#
# Renewal is lazy: a write to a key that has a ttl stores a new deadline, and leaves the cell where it is in the heap. A
# look that comes too early moves it. Only an earlier deadline moves it at once, and wakes the thread that sleeps until
# the next one: see `wait_for_deadline`.
#
# A key whose lock is held is not removed. Its terms are *parked*: looked at when the lock is released.
#
# idle_ttl: a look finds out whether anything depends on the key, or has since the last look: sets of subscribers still
# contain the retired slots of ended sessions then. Looks are a quarter of the duration apart, so the key is removed
# between 1 and 1.25 times the duration after it was last written or depended on. Reads cost nothing for that.
#
# With a backend, the engine has the deadlines, and nothing is removed here. A look reports the keys in use to it.

cdef enum:
    BY_APP
    HAS_EXPIRED
    WAS_EVICTED

cdef enum:
    MOST_REMOVED = 64       # keys that are removed with the shard locked once
    MOST_LOOKS = 1000       # and looks, so that other threads do not wait for long
    LOOKS_PER_IDLE_TTL = 4
    LEAST_ROOM = 16

# Later than all other times.
cdef long long NEVER_NS = 2 ** 62
# The shortest time between two looks at a key that has an idle_ttl.
cdef long long LEAST_LOOK_NS = 1_000_000


cdef inline PyObject *removal_of(const Cell *cell) noexcept:
    """What stands for the value of an absent key: it tells listeners why the key was removed. Borrowed."""
    if cell.cold == NULL or cell.cold.removal == BY_APP:
        return <PyObject *>ABSENT
    return <PyObject *>EXPIRED if cell.cold.removal == HAS_EXPIRED else <PyObject *>EVICTED


cdef int removal_by(object value) except -1:
    if value is not EXPIRED and value is not EVICTED:
        raise ValueError("A reason is `expired` or `evicted`.")
    return HAS_EXPIRED if value is EXPIRED else WAS_EVICTED


cdef Lifetime *find_lifetime(Table *table, double ttl, double idle_ttl, bint persist) except? NULL:
    """The table's lifetime of this kind, made if need be; NULL if keys without terms behave the same way.

    Durations are in seconds, 0 for none. Nothing is locked.
    """
    cdef long long ttl_ns = nanoseconds(ttl), idle_ns = nanoseconds(idle_ttl)
    cdef Lifetime *made = NULL
    cdef Lifetime *found
    if not ttl_ns and not idle_ns and persist:
        return NULL
    made = <Lifetime *>PyMem_RawCalloc(1, sizeof(Lifetime))
    if made == NULL:
        raise MemoryError()
    made.ttl_ns, made.idle_ns, made.is_transient = ttl_ns, idle_ns, not persist
    lock(&table.alarm.mutex)
    found = table.lifetimes
    while found != NULL and not (
        found.ttl_ns == ttl_ns and found.idle_ns == idle_ns and found.is_transient == made.is_transient
    ):
        found = found.next
    if found == NULL:
        made.next = table.lifetimes
        table.lifetimes = found = made
        made = NULL
    unlock(&table.alarm.mutex)
    PyMem_RawFree(made)
    return found


cdef void lifetimes_free(Table *table) noexcept:
    cdef Lifetime *lifetime
    while table.lifetimes != NULL:
        lifetime = table.lifetimes
        table.lifetimes = lifetime.next
        PyMem_RawFree(lifetime)


# The heap. The shard is locked.

cdef inline Terms *terms_of(const Shard *shard, const Cell *cell) noexcept:
    """The terms of a cell that has some."""
    return &shard.terms[cell.terms_at - 1]


cdef inline bint is_persistent(const Shard *shard, const Cell *cell) noexcept:
    """Whether a storage engine keeps the key."""
    return (
        cell.terms_at == 0 or terms_of(shard, cell).lifetime == NULL or not terms_of(shard, cell).lifetime.is_transient
    )


cdef inline long long deadline_of(const Shard *shard, const Cell *cell) noexcept:
    """The key's deadline on the core's clock, 0 for none."""
    return 0 if cell.terms_at == 0 else terms_of(shard, cell).deadline_ns


cdef inline void put_terms(Shard *shard, Py_ssize_t at, Terms terms) noexcept:
    shard.terms[at] = terms
    terms.cell.terms_at = <uint32_t>(at + 1)


cdef Py_ssize_t move_up(Shard *shard, Py_ssize_t at) noexcept:
    """Move terms up to their place in the heap. Returns the place."""
    cdef Terms terms = shard.terms[at]
    cdef Py_ssize_t parent
    while at:
        parent = (at - 1) // 2
        if shard.terms[parent].look_ns <= terms.look_ns:
            break
        put_terms(shard, at, shard.terms[parent])
        at = parent
    put_terms(shard, at, terms)
    return at


cdef void move_down(Shard *shard, Py_ssize_t at) noexcept:
    """Move terms down to their place in the heap."""
    cdef Terms terms = shard.terms[at]
    cdef Py_ssize_t child
    while True:
        child = 2 * at + 1
        if child >= shard.terms_count:
            break
        if child + 1 < shard.terms_count and shard.terms[child + 1].look_ns < shard.terms[child].look_ns:
            child += 1
        if terms.look_ns <= shard.terms[child].look_ns:
            break
        put_terms(shard, at, shard.terms[child])
        at = child
    put_terms(shard, at, terms)


cdef bint give_terms(Shard *shard, Cell *cell) noexcept:
    """Give the cell terms unless it has some; False if there is no memory."""
    cdef Terms *grown
    cdef Py_ssize_t room
    if cell.terms_at:
        return True
    if shard.terms_count == shard.terms_room:
        room = shard.terms_room + (shard.terms_room >> 3) + LEAST_ROOM
        if room >= UINT32_MAX:
            return False
        grown = <Terms *>PyMem_RawRealloc(shard.terms, room * sizeof(Terms))
        if grown == NULL:
            return False
        shard.terms, shard.terms_room = grown, room
    cell.terms_at = <uint32_t>(shard.terms_count + 1)
    shard.terms_count += 1
    memset(terms_of(shard, cell), 0, sizeof(Terms))
    terms_of(shard, cell).cell = cell
    terms_of(shard, cell).look_ns = NEVER_NS
    return True


cdef void take_terms(Shard *shard, Cell *cell) noexcept:
    """Take the terms from a cell that has some."""
    cdef Py_ssize_t at = cell.terms_at - 1
    cdef Terms *shrunk
    shard.terms_count -= 1
    cell.terms_at = 0
    if at != shard.terms_count:
        put_terms(shard, at, shard.terms[shard.terms_count])
        move_down(shard, move_up(shard, at))
    if shard.terms_room > LEAST_ROOM and shard.terms_count < shard.terms_room // 4:
        shrunk = <Terms *>PyMem_RawRealloc(shard.terms, (shard.terms_room // 2) * sizeof(Terms))
        if shrunk != NULL:
            shard.terms, shard.terms_room = shrunk, shard.terms_room // 2


cdef void settle(Table *table, Shard *shard, Cell *cell) noexcept:
    """Look at the cell earlier if its terms demand it. Without any, it gives them up."""
    cdef Terms *terms = terms_of(shard, cell)
    cdef long long look_ns = NEVER_NS
    if terms.lifetime == NULL and terms.deadline_ns == 0:
        take_terms(shard, cell)
        return
    if terms.deadline_ns and load_object(table.backend) == NULL:
        look_ns = terms.deadline_ns
    if terms.idle_ns:
        look_ns = min(look_ns, terms.idle_ns - terms.lifetime.idle_ns + look_interval(terms.lifetime))
    if look_ns < terms.look_ns:
        terms.look_ns = look_ns
        move_up(shard, cell.terms_at - 1)
        ring(&table.alarm, look_ns)


cdef inline long long look_interval(const Lifetime *lifetime) noexcept:
    return max(lifetime.idle_ns // LOOKS_PER_IDLE_TTL, LEAST_LOOK_NS)


cdef void renew(Table *table, Shard *shard, Cell *cell) noexcept:
    """The cell, which has terms, was changed or removed: its configured durations begin again."""
    begin_durations(cell, terms_of(shard, cell))
    settle(table, shard, cell)


cdef inline void begin_durations(const Cell *cell, Terms *terms) noexcept:
    """Set the times of the cell's terms anew. Call `settle` next."""
    cdef long long now
    if cell.value == NULL:
        terms.deadline_ns = terms.idle_ns = 0
    elif terms.lifetime != NULL:
        now = clock_ns()
        if terms.lifetime.ttl_ns:
            terms.deadline_ns = now + terms.lifetime.ttl_ns
        if terms.lifetime.idle_ns:
            terms.idle_ns = now + terms.lifetime.idle_ns


cdef void begin_terms(Table *table, Shard *shard, Cell *cell, bint keeps_deadline) noexcept:
    """The cell, which has terms, was assigned. That ends a deadline which is not the one of its ttl."""
    cdef Terms *terms = terms_of(shard, cell)
    if not keeps_deadline and (terms.lifetime == NULL or terms.lifetime.ttl_ns == 0):
        terms.deadline_ns = 0
    renew(table, shard, cell)
    if is_recorded(table, cell):
        record(table, shard, cell)


cdef bint set_lifetime(Table *table, Shard *shard, Cell *cell, Lifetime *lifetime) noexcept:
    """Set what is configured for the key, NULL for nothing; False if there is no memory.

    New durations begin now. They do not postpone a deadline that is not the one of another ttl: the key may come from
    the file of an earlier run, in which it had this ttl already.
    """
    cdef Terms *terms
    cdef long long deadline_ns
    cdef bint had_ttl
    if cell.terms_at == 0 and lifetime == NULL:
        return True
    if not give_terms(shard, cell):
        return False
    terms = terms_of(shard, cell)
    if terms.lifetime == lifetime:
        return True
    had_ttl = terms.lifetime != NULL and terms.lifetime.ttl_ns != 0
    terms.lifetime = lifetime
    deadline_ns = 0 if had_ttl else terms.deadline_ns
    terms.deadline_ns = terms.idle_ns = 0
    begin_durations(cell, terms)
    if deadline_ns and cell.value != NULL and (terms.deadline_ns == 0 or deadline_ns < terms.deadline_ns):
        terms.deadline_ns = deadline_ns
    settle(table, shard, cell)
    if is_recorded(table, cell):
        record(table, shard, cell)
    return True


cdef bint change_deadline(Table *table, Shard *shard, Cell *cell, long long left_ns) noexcept:
    """Set the deadline of a key that is set, -1 for none; False if there is no memory."""
    if left_ns < 0 and cell.terms_at == 0:
        return True
    if not give_terms(shard, cell):
        return False
    terms_of(shard, cell).deadline_ns = 0 if left_ns < 0 else min(clock_ns() + left_ns, NEVER_NS)
    settle(table, shard, cell)
    if is_recorded(table, cell):
        record(table, shard, cell)
    return True


cdef inline void note_use(Shard *shard, Cell *cell) noexcept:
    """Retired slots are about to be removed from the cell's sets. The next look could not see them any more."""
    if cell.terms_at and terms_of(shard, cell).idle_ns and has_subscribers(cell):
        terms_of(shard, cell).idle_ns = NEVER_NS


cdef inline bint has_subscribers(const Cell *cell) noexcept:
    """Whether a scope has subscribed since retired slots were last removed from the sets."""
    return cell.readers.count != 0 or (
        cell.cold != NULL and (cell.cold.watchers.count != 0 or cell.cold.throttled.count != 0)
    )


cdef bint is_in_use(Table *table, Cell *cell, const Terms *terms) noexcept:
    """Whether anything depends on the cell, or scopes have since the last call."""
    cdef bint used = terms.idle_ns == NEVER_NS or cell.holder != NULL or (
        cell.cold != NULL
        and (
            cell.cold.listeners != NULL
            or cell.cold.calling
            or cell.cold.waiters != NULL
            or cell.cold.change_waiters != NULL
        )
    )
    if has_subscribers(cell):
        used = True
        lock(&table.slots.mutex)
        purge(cell, table.slots.retired, table.slots.size // 64)
        unlock(&table.slots.mutex)
    return used


cdef inline void unpark(Shard *shard, Cell *cell) noexcept:
    """The lock of a cell that has terms was released."""
    if terms_of(shard, cell).look_ns == NEVER_NS:
        settle(cell.cold.table, shard, cell)


cdef void restart_terms(Table *table) noexcept:
    """A backend was set or removed. Without it, configured durations begin again, and other deadlines are unknown.

    A new backend is told of the deadlines so far.
    """
    cdef bint here = load_object(table.backend) == NULL
    cdef Shard *shard
    cdef Cell *cell
    cdef Cell *following
    cdef int i
    for i in range(SHARDS):
        shard = &table.shards[i]
        lock(&shard.mutex)
        cell = next_cell(shard, NULL)
        while cell != NULL:
            following = next_cell(shard, cell)
            if cell.terms_at and here:
                begin_terms(table, shard, cell, False)
            elif cell.terms_at:
                settle(table, shard, cell)
            cell = following
        unlock(&shard.mutex)


# Removing keys

ctypedef struct Removed:
    PyObject *key
    PyObject *value
    bint has_callbacks


cdef Removed remove_cell(Table *table, Shard *shard, Cell *cell, int removal) noexcept:
    """Remove a key that is set. The caller owns the references in the result. The shard is locked."""
    cdef Removed removed
    removed.key = cell.key
    _incref(removed.key)
    cell.has_fingerprint = False
    removed.value = commit(table, shard, cell, NULL, None, False)
    note_removal(table, cell, removal)
    removed.has_callbacks = has_pending_callbacks(cell)
    drop_if_unused(shard, cell)
    return removed


cdef inline void note_removal(Table *table, Cell *cell, int removal) noexcept:
    """The cell's value was removed for this reason. The shard is locked."""
    if cell.cold != NULL:
        cell.cold.removal = <char>removal
    if removal == HAS_EXPIRED:
        add64(table.expired, 1)
    elif removal == WAS_EVICTED:
        add64(table.evicted, 1)


cdef int finish_removals(Store store, Removed *removed, int count) except -1:
    """Drop the values, and have subscribers and listeners hear of it. Nothing is locked."""
    cdef PyObject *offload = load_object(store.table.offload_callbacks)
    cdef list due = []
    cdef int at
    for at in range(count):
        key = owned(removed[at].key)
        _decref(removed[at].value)
        if removed[at].has_callbacks:
            due.append(key)
    try:
        call_stale_listener(store)
    finally:
        if due and offload != NULL:  # a callback that takes long must not keep other keys from expiring
            (<object>offload)(due)
        else:
            store.flush(due)
    return 0


cdef bint look_at(Table *table, Cell *cell, Terms *terms, long long now, bint *used) noexcept:
    """Whether to remove the cell now. Else its terms have the time of the next look. The shard is locked."""
    cdef bint here = load_object(table.backend) == NULL
    cdef bint due = False
    cdef long long deadline_ns = terms.deadline_ns if here and terms.deadline_ns else NEVER_NS
    cdef long long look_ns = deadline_ns
    used[0] = False
    if cell.value == NULL:
        terms.look_ns = NEVER_NS
        return False
    if terms.idle_ns:
        used[0] = is_in_use(table, cell, terms)
        if used[0]:
            terms.idle_ns = now + terms.lifetime.idle_ns
        due = here and terms.idle_ns <= now
        look_ns = min(look_ns, now + look_interval(terms.lifetime))
        if here:
            look_ns = min(look_ns, terms.idle_ns)
    due = due or deadline_ns <= now
    if due and cell.holder == NULL:
        return True
    terms.look_ns = NEVER_NS if due else look_ns  # parked, or later
    return False


cdef long long expire_in(Store store, Shard *shard) except -1:
    """Remove the shard's keys that are due. Returns the time of the next look, NEVER_NS for none."""
    cdef Removed removed[MOST_REMOVED]
    cdef PyObject *in_use[MOST_REMOVED]
    cdef Table *table = store.table
    cdef PyObject *backend = load_object(table.backend)
    cdef Terms *terms
    cdef bint used
    cdef int count = 0, used_count = 0, looks = 0, at
    cdef long long now = clock_ns(), look_ns
    lock(&shard.mutex)
    while (shard.terms_count and shard.terms[0].look_ns <= now and looks < MOST_LOOKS
            and count < MOST_REMOVED and used_count < MOST_REMOVED):
        looks += 1
        terms = &shard.terms[0]
        if look_at(table, terms.cell, terms, now, &used):
            removed[count] = remove_cell(table, shard, terms.cell, HAS_EXPIRED)
            count += 1
            continue
        if used and backend != NULL:
            in_use[used_count] = terms.cell.key
            _incref(in_use[used_count])
            used_count += 1
        move_down(shard, 0)
    look_ns = shard.terms[0].look_ns if shard.terms_count else NEVER_NS
    unlock_shard(shard)
    names = [owned(in_use[at]) for at in range(used_count)]
    finish_removals(store, removed, count)
    if names:
        (<object>backend).prolong(names)
    return look_ns


cdef object expire_due(Store store):
    """See Store.expire_due."""
    cdef Alarm *alarm = &store.table.alarm
    cdef long long look_ns
    cdef int i
    lock(&alarm.mutex)
    store64(alarm.at_ns, NEVER_NS)
    unlock(&alarm.mutex)
    for i in range(SHARDS):
        ring(alarm, expire_in(store, &store.table.shards[i]))
    look_ns = <long long>load64(alarm.at_ns)
    return None if look_ns >= NEVER_NS else max(0, look_ns - clock_ns()) / 1e9


cdef object set_deadline(Store store, str key, long long left_ns):
    """Set the deadline of a key in this table, -1 for none. Returns whether the key is set."""
    cdef Table *table = store.table
    cdef Py_hash_t hashed = key_hash(<PyObject *>key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef Waiter waiter
    cdef bint waited, is_set, has_memory = True
    waiter.queued = False
    while True:
        lock(&shard.mutex)
        cell = find(shard, <PyObject *>key, hashed)
        if cell == NULL or not is_held_by_other(cell):
            break
        wait_to_pass(table, shard, cell, &waiter)
    waited = waiter.queued
    if waited:
        leave_lock_queue(cell, &waiter)
    is_set = cell != NULL and cell.value != NULL
    if is_set:
        has_memory = change_deadline(table, shard, cell, left_ns)
    elif cell != NULL:
        drop_if_unused(shard, cell)
    unlock_shard(shard)
    if waited:
        end_waiting(table, &waiter)
    if not has_memory:
        raise MemoryError()
    return is_set


cdef object expire(Store store, str key, seconds):
    """See Store.expire."""
    cdef PyObject *backend = load_object(store.table.backend)
    current_writer(store.table)  # a computed value makes no changes
    if fss_transaction != NULL and transaction_of(store) is not None:
        return transaction_of(store).expire(key, -1 if seconds is None else nanoseconds(seconds))
    if backend != NULL:
        return (<object>backend).expire(key, seconds)
    return set_deadline(store, key, -1 if seconds is None else nanoseconds(seconds))


cdef object deadline(Store store, str key):
    """See Store.deadline."""
    cdef Py_hash_t hashed = key_hash(<PyObject *>key)
    cdef Shard *shard = shard_of(store.table, hashed)
    cdef Cell *cell
    cdef long long deadline_ns = 0
    lock(&shard.mutex)
    cell = find(shard, <PyObject *>key, hashed)
    if cell != NULL:
        deadline_ns = deadline_of(shard, cell)
    unlock(&shard.mutex)
    return None if deadline_ns == 0 else max(0, deadline_ns - clock_ns()) / 1e9


cdef object remove_because(Store store, str key, uint64_t version, int removal):
    """See Store.remove_because."""
    cdef Table *table = store.table
    cdef Py_hash_t hashed = key_hash(<PyObject *>key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Removed removed
    cdef Cell *cell
    cdef bint done
    lock(&shard.mutex)
    cell = find(shard, <PyObject *>key, hashed)
    done = cell != NULL and cell.value != NULL and cell.version == version and cell.holder == NULL
    if done:
        removed = remove_cell(table, shard, cell, removal)
    unlock_shard(shard)
    if done:
        finish_removals(store, &removed, 1)
    return done


# Waiting

cdef void ring(Alarm *self, long long at_ns) noexcept:
    """Have the sleeping thread look at this time, if it would do so later. No mutex but a shard's is locked."""
    if at_ns >= <long long>load64(self.at_ns):
        return
    lock(&self.mutex)
    if at_ns < <long long>self.at_ns:
        store64(self.at_ns, at_ns)
        if self.sleeper != NULL:
            wake(self.sleeper)
    unlock(&self.mutex)


cdef int wait_for_deadline(Store store) except -1:
    """See Store.wait_for_deadline."""
    cdef Alarm *alarm = &store.table.alarm
    cdef Waiter waiter
    cdef long long at_ns
    current_holder()
    if not waiter_start(&waiter):
        raise MemoryError()
    lock(&alarm.mutex)
    alarm.sleeper = &waiter
    unlock(&alarm.mutex)
    while True:
        at_ns = <long long>load64(alarm.at_ns)
        if at_ns <= clock_ns():
            break
        at_ns -= <long long>load64(clock_offset_ns)  # sleeps are measured by the real clock
        waiter_sleep(&waiter, -1 if at_ns >= NEVER_NS // 2 else max(0, at_ns - waiter.started_ns))
    lock(&alarm.mutex)
    alarm.sleeper = NULL
    unlock(&alarm.mutex)
    waiter_end(&waiter)
    return 0
