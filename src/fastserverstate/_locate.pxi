# cython: language_level=3
# Which scope the calling thread runs in. See the head of _core.pyx.

# How to find it. These references are immortal, because a thread may still use one while another replaces it.
cdef PyObject *locator_attribute = NULL    # attribute of the threading.Thread object that has the thread's context
cdef PyObject *locator_variable = NULL     # a ContextVar, or NULL
cdef PyObject *locator_fragment_id = NULL  # attribute of the variable's value or, without a variable, of the context
cdef PyObject *locator_resolve = NULL      # (context, fragment id) -> (Session, Scope | None, run state) | None

# Run states
cdef enum:
    CURRENT      # the thread takes part in the session's current run
    STARTING     # the same, but a callback runs and the script has not begun
    REPLACED     # the thread takes part in a run that was replaced by a newer one
    APP_THREAD   # the app has started the thread, which takes part in the session's current run

RUN_CURRENT = CURRENT
RUN_STARTING = STARTING
RUN_REPLACED = REPLACED
RUN_APP_THREAD = APP_THREAD


def locate_scopes(str attribute not None, variable, str fragment_id not None, resolve):
    for kept in (attribute, variable, fragment_id, resolve):
        _incref(<PyObject *>kept)
    store_object(locator_variable, <PyObject *>variable if variable is not None else NULL)
    store_object(locator_fragment_id, <PyObject *>fragment_id)
    store_object(locator_resolve, <PyObject *>resolve)
    store_object(locator_attribute, <PyObject *>attribute)
    store64(fss_generation, load64(fss_generation) + 1)  # invalidates the caches of threads that saw a mix of both


@cython.final
cdef class _ThreadCache:
    """The result of the calling thread's last look-up of its scope, and the conditions under which it is valid."""
    cdef dict attributes       # the Thread object's __dict__
    cdef bint watched          # `attributes_tag` changes with `attributes`
    cdef uint64_t tag          # NO_TAG: look up again every time
    cdef object context        # a weak reference: threads of a pool outlive the sessions that they worked for
    cdef object variable_value
    cdef object fragment_id
    cdef Session session       # the session whose run the thread takes part in
    cdef uint64_t run          # number of its run at the look-up; the next run may use another thread
    cdef int run_state
    cdef Scope scope           # the scope that reads subscribe
    cdef Session writer        # the session that makes the thread's writes, or None
    cdef Table *table          # the table of the session
    cdef bint untracked        # reads subscribe no scope
    cdef Node node             # the computed value that the thread is evaluating, or None
    cdef Holder holder

    def __del__(self):
        """The thread ends. In a forked process and at the interpreter's end another thread calls this."""
        global fss_holder, fss_transaction
        cdef Holder ended
        while self.holder is not None:  # the following code may make another one
            ended, self.holder = self.holder, None
            if fss_thread_cache != <PyObject *>self or is_finalizing():
                _incref(<PyObject *>ended)  # immortal, with what it holds
                return
            fss_holder = fss_transaction = NULL
            keys, written = end_holder(ended)
            if (keys or written) and report_leftovers is not None:
                report_leftovers(keys, written)

    def __dealloc__(self):
        global fss_thread_cache, fss_holder, fss_transaction
        if fss_thread_cache == <PyObject *>self:
            fss_thread_cache = fss_holder = fss_transaction = NULL


cdef uint64_t NO_TAG = 0


cdef inline _ThreadCache this_thread():
    return <_ThreadCache>(fss_thread_cache if fss_thread_cache != NULL else _make_thread_cache())


cdef PyObject *_make_thread_cache() except NULL:
    """Make the thread's cache, which the dict of its thread state owns."""
    global fss_thread_cache
    cdef PyObject *state = PyThreadState_GetDict()
    cdef _ThreadCache cache = _ThreadCache()
    if state == NULL:
        raise RuntimeError("This thread has no Python thread state, so it cannot use server_state.")
    cache.attributes = attributes_of(threading.current_thread())
    cache.watched = watch_attributes(<PyObject *>cache.attributes)
    if fss_thread_cache != NULL:  # a finalizer made one meanwhile, which may have pending callbacks
        return fss_thread_cache
    (<dict>state)[PRIVATE] = cache
    fss_thread_cache = <PyObject *>cache
    return fss_thread_cache


cdef inline bint is_valid(PyObject *cache) noexcept:
    """Whether a thread's cache exists, and its Thread object and context variable are what they were."""
    return (
        cache != NULL
        and (<_ThreadCache>cache).tag == attributes_tag(<PyObject *>(<_ThreadCache>cache).attributes)
        and has_value(
            load_object(locator_variable), <PyObject *>(<_ThreadCache>cache).variable_value, <PyObject *>None
        )
    )


cdef inline PyObject *current_scope(const Table *table) except? NULL:
    """The scope of the table that the calling thread runs in, NULL if there is none. Borrowed from the thread."""
    cdef PyObject *cache = fss_thread_cache
    cdef PyObject *scope
    if is_valid(cache):
        scope = <PyObject *>(<_ThreadCache>cache).scope
        if scope == <PyObject *>None:
            return NULL
        if (<_ThreadCache>cache).run == load64((<Scope>scope).session.run):
            return scope if (<Scope>scope).table == table else NULL
    if locate() == NULL:
        return NULL
    scope = <PyObject *>(<_ThreadCache>fss_thread_cache).scope
    return scope if scope != <PyObject *>None and (<Scope>scope).table == table else NULL


cdef inline Session current_writer(const Table *table):
    """The session that makes the calling thread's writes to the table; None if the thread takes part in no run."""
    cdef PyObject *cache = fss_thread_cache
    if not (
        is_valid(cache)
        and ((<_ThreadCache>cache).session is None
             or (<_ThreadCache>cache).run == load64((<_ThreadCache>cache).session.run))
    ):
        cache = locate()
        if cache == NULL:
            return None
    if (<_ThreadCache>cache).table != table:
        if (<_ThreadCache>cache).node is not None:
            (<_ThreadCache>cache).node.refuse_write()
        return None
    return (<_ThreadCache>cache).writer


cdef inline Session located_session():
    """The session whose run the calling thread takes part in, even if that run was replaced."""
    if locate() == NULL:
        return None
    return (<_ThreadCache>fss_thread_cache).session


def current_part():
    cdef Session session = located_session()
    cdef _ThreadCache cache
    if session is None:
        return None
    cache = <_ThreadCache>fss_thread_cache
    fragment_id = None if cache.scope is None else cache.scope.fragment_id
    return session, load64(session.run), CURRENT if cache.run_state == APP_THREAD else cache.run_state, fragment_id


cdef inline bint has_value(PyObject *variable, PyObject *expected, PyObject *default) noexcept:
    """Whether the value of a context variable, or the default if it has none, is the expected object."""
    cdef PyObject *value = NULL
    PyContextVar_Get(variable, default, &value)
    _xdecref(value)
    return value == expected


cdef PyObject *locate() except? NULL:
    """Update the thread's cache. Returns it, NULL if `locate_scopes` was not called."""
    cdef PyObject *found
    cdef _ThreadCache cache
    cdef uint64_t tag
    cdef PyObject *attribute = load_object(locator_attribute)
    if attribute == NULL:
        return NULL
    cache = this_thread()
    tag = attributes_tag(<PyObject *>cache.attributes)
    found = dict_get(<PyObject *>cache.attributes, attribute)
    refresh_cache(cache, None if found == NULL else owned(found))
    # Without a variable, the fragment id is an attribute of the context, and no tag changes with it. Nor does one
    # change when a starting run begins.
    if cache.watched and load_object(locator_variable) != NULL and cache.run_state != STARTING:
        cache.tag = tag
    else:
        cache.tag = NO_TAG
    return fss_thread_cache


cdef int refresh_cache(_ThreadCache cache, object context) except -1:
    """Resolve the context again, if the context, the fragment id or the session's run is another than in the cache."""
    cdef PyObject *variable = load_object(locator_variable)
    cdef PyObject *found = NULL
    cdef object value = None
    cdef object fragment_id
    cdef object reference
    if variable != NULL:
        PyContextVar_Get(variable, <PyObject *>None, &found)
        value = owned(found)
    if cache.node is not None:
        cache.context = PRIVATE
        cache_node(cache)
    elif context is None:
        cache.context = cache.fragment_id = None
        set_cached_run(cache, None)
    else:
        fragment_id = current_fragment_id(cache, context, variable, value)
        reference = owned(PyWeakref_NewRef(<PyObject *>context, NULL))  # the same object while it is referenced
        if not is_resolved_for(cache, reference, fragment_id):
            set_cached_run(cache, (<object>load_object(locator_resolve))(context, fragment_id))
            cache.context, cache.fragment_id = reference, fragment_id
    cache.variable_value = value
    return 0


cdef inline object current_fragment_id(_ThreadCache cache, object context, PyObject *variable, object value):
    """The id of the fragment that the thread runs, None for the script's body."""
    if variable == NULL:
        return getattr(context, <object>load_object(locator_fragment_id))
    if value is None:
        return None
    if value is cache.variable_value:
        return cache.fragment_id
    return getattr(value, <object>load_object(locator_fragment_id))


cdef inline bint is_resolved_for(_ThreadCache cache, object reference, object fragment_id) except -1:
    """Whether the cache has the result for this context and fragment, and for the session's run of now."""
    if reference is not cache.context or cache.run_state == STARTING:
        return False
    if not (fragment_id is cache.fragment_id or fragment_id == cache.fragment_id):
        return False
    return cache.session is None or cache.run == load64(cache.session.run)


cdef int set_cached_run(_ThreadCache cache, tuple found) except -1:
    """Cache the run that the thread takes part in, as `resolve` has found it."""
    cdef Session session = None
    cdef Scope scope = None
    cdef int run_state = CURRENT
    if found is not None:
        session, scope, run_state = found
    cache.session = session
    cache.scope = None if cache.untracked else scope
    cache.run_state = run_state
    cache.writer = None if run_state == REPLACED else session
    cache.table = NULL if session is None or session.store is None else session.store.table
    if session is not None:
        cache.run = load64(session.run)
    return 0


cdef inline void cache_node(_ThreadCache cache) noexcept:
    """Have reads subscribe the computed value that the thread evaluates, and writes find no session."""
    cache.session = cache.node
    cache.writer = None
    cache.scope = None if cache.untracked else cache.node.execution
    cache.run_state = CURRENT
    cache.table = NULL
    cache.run = load64(cache.node.run)


cdef Node set_node(Node node):
    """Set the computed value that this thread evaluates, or None. Returns the previous one."""
    cdef _ThreadCache cache = this_thread()
    cdef Node previous = cache.node
    cache.node = node
    cache.tag = NO_TAG
    cache.context = PRIVATE  # which is no context, so the next access refreshes the cache
    cache.scope = None
    return previous


cdef bint set_untracked(bint untracked) except -1:
    """Set whether this thread's reads subscribe no scope. Returns the previous setting."""
    cdef _ThreadCache cache = this_thread()
    cdef bint was = cache.untracked
    if untracked != was:
        cache.untracked = untracked
        cache.tag = NO_TAG
        cache.context = PRIVATE  # which is no context, so the next access refreshes the cache
        cache.scope = None
    return was


# Nested `no_rerun` blocks. They are in a context variable, so that threads, tasks and parallel fragments each have the
# blocks of their own code. A block applies to the holder that opened it, and until it is closed: contexts are copied to
# other threads, and to tasks that outlive the block.

@cython.final
cdef class _Suppression:
    cdef _Suppression outer
    cdef Holder holder
    cdef bint open

cdef object suppression = contextvars.ContextVar("fastserverstate.no_rerun", default=None)


cdef class Suppression:
    """A `no_rerun` block. Compiled, so that no exception interrupts its entry or exit inside the `with` statement."""

    @cython.binding(False)
    def __enter__(self):
        cdef _Suppression block = _Suppression()
        block.outer = suppression.get()
        block.holder = <Holder>current_holder()
        block.open = True
        suppression.set(block)

    @cython.binding(False)
    def __exit__(self, exc_type, exc, traceback):
        cdef _Suppression block = suppression.get()
        if block is not None and block.open and (block.holder is <Holder>current_holder() or block.holder.forked):
            block.open = False
            suppression.set(block.outer)
        elif exc_type is None:
            raise RuntimeError(
                "A no_rerun block must end on the thread, in the task and in the run in which it began. "
                "Use: with no_rerun:"
            )


def reruns_are_suppressed():
    return are_suppressed()


cdef bint are_suppressed() noexcept:
    """Whether the running code is in a `no_rerun` block."""
    cdef PyObject *value = NULL
    cdef PyObject *block
    cdef bint found = False
    PyContextVar_Get(<PyObject *>suppression, <PyObject *>None, &value)
    block = value
    while block != <PyObject *>None and not found:
        found = (<_Suppression>block).open and <PyObject *>(<_Suppression>block).holder == fss_holder
        block = <PyObject *>(<_Suppression>block).outer
    _decref(value)
    return found
