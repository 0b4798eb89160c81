# cython: language_level=3
# One table among those of several servers. See the head of _core.pyx.
#
# A store that has a *backend* makes no changes itself. Writes and lock operations go to the backend, with no mutex
# locked. The backend sends them to the other servers, and makes the resulting changes in the table with `apply`, as it
# does with changes of other servers. Reads do not involve the backend.

cdef tuple apply(Store store, changes, Holder holder):
    """Make changes atomically: (key, value or ABSENT, whether to mark no subscribers). See Store.apply.

    ABSENT touches a key that is not set.
    """
    cdef list made = []
    cdef _Change change
    for key, value, quiet in changes:
        checked_key(key)
        made.append(new_change(key, value, True, quiet))
        if load_object(store.options) != NULL and not is_resolved(store.table, <PyObject *>key):
            resolve(store, key)
    if holder is None:
        make_changes(store.table, made, None, NULL, None)
    else:  # a thread of this process has written them
        make_changes(store.table, made, holder.session, <PyObject *>holder, None)
    skipped = [change.key for change in made if change.skipped]
    has_callbacks = [change.key for change in made if change.has_callbacks]
    return skipped, has_callbacks, made


cdef bint is_resolved(Table *table, PyObject *key) noexcept:
    """Whether the key's cell exists and has its options."""
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef bint known
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    known = cell != NULL and (cell.is_result or cell.policy != UNRESOLVED)
    unlock(&shard.mutex)
    return known


cdef bint acquire_through_backend(PyObject *backend, KeyLock self, long long timeout_ns) except -1:
    """Acquire the key's lock among all servers and then in this table; False if `timeout_ns` passed first."""
    cdef str key = <str>self.cell.key
    cdef long long end = monotonic_ns() + timeout_ns
    cdef bint done = False
    if not (<object>backend).acquire(key, None if timeout_ns < 0 else timeout_ns / 1e9):
        return False
    try:
        if acquire_here(self, timeout_ns if timeout_ns <= 0 else max(0, end - monotonic_ns())):
            # The lease may have expired, unnoticed so far, while another thread of this process held the lock.
            (<object>backend).entered(key)
            done = True
    finally:
        if not done:
            release_once(self, fss_holder)
            release_in_backend(backend, [self], <Holder>current_holder())
    return done


cdef int release_in_backend(PyObject *backend, list locks, Holder holder) except -1:
    """Release among all servers the locks that the holder does not have any more in this table."""
    cdef KeyLock handle
    cdef list keys = []
    for handle in locks:
        lock(&handle.shard.mutex)
        is_left = handle.cell.holder != <PyObject *>holder
        unlock(&handle.shard.mutex)
        if is_left:
            keys.append(<object>handle.cell.key)
    if keys:
        (<object>backend).release(keys, holder.serial)
    return 0
