# cython: language_level=3
# Which scope the calling thread runs in. See _core.pyx for the whole.

# How to find it. References that are never given back: a thread may be using them when others take their place.
cdef PyObject *locator_attribute = NULL  # of the threading.Thread object; its value is the thread's context
cdef PyObject *locator_variable = NULL   # a ContextVar, or NULL
cdef PyObject *locator_part = NULL       # attribute of the variable's value, or of the context without a variable
cdef PyObject *locator_resolve = NULL    # (context, part) -> (Session, Scope | None, standing) | None

cdef enum:
    STANDS       # the thread takes part in the session's current run
    STARTS       # the same, but a callback runs, and the script has not begun yet
    REPLACED     # the thread takes part in a run that a newer one has replaced
    BESIDE       # the thread is one of the app's own, and takes part in the session's current run

RUN_CURRENT = STANDS
RUN_STARTING = STARTS
RUN_REPLACED = REPLACED
RUN_BESIDE = BESIDE


def locate_scopes(str attribute not None, variable, str part not None, resolve):
    for kept in (attribute, variable, part, resolve):
        _incref(<PyObject *>kept)
    store_object(locator_variable, <PyObject *>variable if variable is not None else NULL)
    store_object(locator_part, <PyObject *>part)
    store_object(locator_resolve, <PyObject *>resolve)
    store_object(locator_attribute, <PyObject *>attribute)
    store64(fss_generation, load64(fss_generation) + 1)  # whoever has seen a part of this looks again


@cython.final
cdef class _ThreadCache:
    """What the calling thread's last look-up found, and what must still be so for it to hold."""
    cdef dict attributes       # the Thread object's __dict__
    cdef bint watched          # `attributes_tag` tells when they change
    cdef uint64_t tag          # NO_TAG: look again every time
    cdef object context        # a weak reference: threads of a pool outlive the sessions that they have worked for
    cdef object source
    cdef object part
    cdef Session session       # whose run the thread is part of,
    cdef uint64_t run          # the number of its run at the look-up: the next one may have another thread,
    cdef int standing          # how that run stands,
    cdef Scope scope           # what a read makes depend on the key,
    cdef Session writer        # and whose own write a write is; None: that of a stranger,
    cdef Table *table          # of which it is a session
    cdef bint detached         # reads subscribe nothing
    cdef Holder holder

    def __del__(self):
        """The thread ends. In a forked process, and at the interpreter's end, that is told on another thread."""
        global fss_holder, fss_transaction
        cdef Holder ended
        while self.holder is not None:  # what follows may make another one
            ended, self.holder = self.holder, None
            if fss_thread_cache != <PyObject *>self or is_finalizing():
                _incref(<PyObject *>ended)  # for ever, as what it has
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
cdef object DETACHED = object()
cdef object THREAD_CACHE_KEY = object()


cdef inline _ThreadCache this_thread():
    return <_ThreadCache>(fss_thread_cache if fss_thread_cache != NULL else _make_thread_cache())


cdef PyObject *_make_thread_cache() except NULL:
    """The thread's cache, which its thread state owns."""
    global fss_thread_cache
    cdef PyObject *state = PyThreadState_GetDict()
    cdef _ThreadCache cache = _ThreadCache()
    if state == NULL:
        raise RuntimeError("This thread has no Python state, so it cannot use server_state.")
    cache.attributes = attributes_of(threading.current_thread())
    cache.watched = watch_attributes(<PyObject *>cache.attributes)
    if fss_thread_cache != NULL:  # a finalizer has made one meanwhile, which may owe calls by now
        return fss_thread_cache
    (<dict>state)[THREAD_CACHE_KEY] = cache
    fss_thread_cache = <PyObject *>cache
    return fss_thread_cache


cdef inline PyObject *current_scope(const Table *table) except? NULL:
    """The scope of the table that the calling thread runs in, NULL if there is none. Borrowed from the thread."""
    cdef PyObject *here = fss_thread_cache
    cdef PyObject *scope
    if (
        here != NULL
        and (<_ThreadCache>here).tag == attributes_tag(<PyObject *>(<_ThreadCache>here).attributes)
        and has_value(load_object(locator_variable), <PyObject *>(<_ThreadCache>here).source, <PyObject *>None)
    ):
        scope = <PyObject *>(<_ThreadCache>here).scope
        if scope == <PyObject *>None:
            return NULL
        if (<_ThreadCache>here).run == load64((<Scope>scope).session.run):
            return scope if (<Scope>scope).table == table else NULL
    if locate() == NULL:
        return NULL
    scope = <PyObject *>(<_ThreadCache>fss_thread_cache).scope
    return scope if scope != <PyObject *>None and (<Scope>scope).table == table else NULL


cdef inline Session current_writer(const Table *table):
    """The session whose own writes the calling thread's writes to the table are, None if they are a stranger's."""
    cdef PyObject *here = fss_thread_cache
    if not (
        here != NULL
        and (<_ThreadCache>here).tag == attributes_tag(<PyObject *>(<_ThreadCache>here).attributes)
        and has_value(load_object(locator_variable), <PyObject *>(<_ThreadCache>here).source, <PyObject *>None)
        and ((<_ThreadCache>here).session is None
             or (<_ThreadCache>here).run == load64((<_ThreadCache>here).session.run))
    ):
        here = locate()
        if here == NULL:
            return None
    return (<_ThreadCache>here).writer if (<_ThreadCache>here).table == table else None


cdef inline Session located_session():
    """The session whose run the calling thread is part of, even if that run was replaced."""
    return None if locate() == NULL else (<_ThreadCache>fss_thread_cache).session


cdef inline bint has_value(PyObject *variable, PyObject *expected, PyObject *default) noexcept:
    """Whether a context variable's value, or the default if it has none, is this object."""
    cdef PyObject *value = NULL
    PyContextVar_Get(variable, default, &value)
    _xdecref(value)
    return value == expected


cdef PyObject *locate() except? NULL:
    """Bring the thread's cache up to date. Returns it, NULL if no thread has a scope."""
    cdef PyObject *found
    cdef _ThreadCache cache
    cdef uint64_t tag
    cdef PyObject *attribute = load_object(locator_attribute)
    if attribute == NULL:
        return NULL
    cache = this_thread()
    tag = attributes_tag(<PyObject *>cache.attributes)
    found = dict_get(<PyObject *>cache.attributes, attribute)
    look_closely(cache, None if found == NULL else owned(found))
    # Without a variable the part is an attribute of the context, which may change unseen, as a run may begin.
    if cache.watched and load_object(locator_variable) != NULL and cache.standing != STARTS:
        cache.tag = tag
    else:
        cache.tag = NO_TAG
    return fss_thread_cache


cdef int look_closely(_ThreadCache cache, object context) except -1:
    cdef PyObject *found = NULL
    cdef object source = None
    cdef object part = None
    cdef object reference
    cdef PyObject *variable = load_object(locator_variable)
    if variable != NULL:
        PyContextVar_Get(variable, <PyObject *>None, &found)
        source = owned(found)
    if context is None:
        cache.context = cache.part = None
        settle_in(cache, None)
        cache.source = source
        return 0
    if variable == NULL:
        part = getattr(context, <object>load_object(locator_part))
    elif source is not None:
        part = cache.part if source is cache.source else getattr(source, <object>load_object(locator_part))
    reference = owned(PyWeakref_NewRef(<PyObject *>context, NULL))  # the same one as long as it is kept
    if reference is not cache.context or not (part is cache.part or part == cache.part) or cache.standing == STARTS or (
        cache.session is not None and cache.run != load64(cache.session.run)
    ):
        settle_in(cache, (<object>load_object(locator_resolve))(context, part))
        cache.context, cache.part = reference, part
    cache.source = source
    return 0


cdef int settle_in(_ThreadCache cache, tuple found) except -1:
    """Note what the thread is part of, as `resolve` has found it."""
    cdef Session session = None
    cdef Scope scope = None
    cdef int standing = STANDS
    if found is not None:
        session, scope, standing = found
    cache.session = session
    cache.scope = None if cache.detached else scope
    cache.standing = standing
    cache.writer = None if standing == REPLACED else session
    cache.table = NULL if session is None or session.store is None else session.store.table
    if session is not None:
        cache.run = load64(session.run)
    return 0


cdef bint detach(bint detached) except -1:
    """Whether reads of this thread are to subscribe nothing from now on. Returns whether they did so far."""
    cdef _ThreadCache cache = this_thread()
    cdef bint was = cache.detached
    if detached != was:
        cache.detached = detached
        cache.tag = NO_TAG
        cache.context = DETACHED  # which is no thread's, so that the next access looks again
        cache.scope = None
    return was


# Depth of `no_rerun` blocks. A context variable, so that threads, tasks and parallel fragments each have what their own
# code says. A block counts for the holder that has opened it, and until it is closed: contexts are copied to other
# threads and to tasks that outlive it.

@cython.final
cdef class _Suppression:
    cdef _Suppression outer
    cdef Holder holder
    cdef bint open

cdef object suppression = contextvars.ContextVar("fastserverstate.no_rerun", default=None)


cdef class Suppression:
    """A `no_rerun` block. Compiled, so that no exception comes between its begin or end and the `with` statement."""

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
                "A no_rerun block ends on the thread, in the task and in the run in which it began. Use: with no_rerun:"
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
