# cython: language_level=3
# Which scope the calling thread runs in. See _core.pyx for the whole.

# How to find it. References that are never given back: a thread may be using them when others take their place.
cdef PyObject *locator_attribute = NULL  # of the threading.Thread object; its value is the thread's context
cdef PyObject *locator_variable = NULL   # a ContextVar, or NULL
cdef PyObject *locator_part = NULL       # attribute of the variable's value, or of the context without a variable
cdef PyObject *locator_resolve = NULL    # (context, part) -> Scope | None


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
    cdef object context
    cdef object source
    cdef object part
    cdef Scope scope
    cdef uint64_t run          # of the scope's session, at the look-up: the next one may have another thread
    cdef list owed             # locks of the keys whose listeners the thread has to call, or None
    cdef object transaction    # that the thread is in, or None

    def __dealloc__(self):
        global fss_thread_cache, fss_calls_owed, fss_transaction
        if fss_thread_cache == <PyObject *>self:
            fss_thread_cache = NULL
            fss_calls_owed = 0
            fss_transaction = NULL


cdef uint64_t NO_TAG = 0
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
    scope = located_scope()
    return scope if scope != NULL and (<Scope>scope).table == table else NULL


cdef inline bint has_value(PyObject *variable, PyObject *expected, PyObject *default) noexcept:
    """Whether a context variable's value, or the default if it has none, is this object."""
    cdef PyObject *value = NULL
    PyContextVar_Get(variable, default, &value)
    _xdecref(value)
    return value == expected


cdef PyObject *located_scope() except? NULL:
    """The scope that the calling thread runs in, NULL if there is none: bring the thread's cache up to date."""
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
    # Without a variable the part is an attribute of the context, which may change unseen.
    cache.tag = tag if cache.watched and load_object(locator_variable) != NULL else NO_TAG
    return <PyObject *>cache.scope if cache.scope is not None else NULL


cdef int look_closely(_ThreadCache cache, object context) except -1:
    cdef PyObject *found = NULL
    cdef object source = None
    cdef object part = None
    cdef Scope scope
    cdef PyObject *variable = load_object(locator_variable)
    if variable != NULL:
        PyContextVar_Get(variable, <PyObject *>None, &found)
        source = owned(found)
    if context is None:
        cache.context = cache.part = cache.scope = None
        cache.source = source
        return 0
    if variable == NULL:
        part = getattr(context, <object>load_object(locator_part))
    elif source is not None:
        part = cache.part if source is cache.source else getattr(source, <object>load_object(locator_part))
    if context is not cache.context or not (part is cache.part or part == cache.part) or (
        cache.scope is not None and cache.run != load64(cache.scope.session.run)
    ):
        scope = (<object>load_object(locator_resolve))(context, part)
        cache.context, cache.part, cache.scope = context, part, scope
        if scope is not None:
            cache.run = load64(scope.session.run)
    cache.source = source
    return 0


cdef bint reruns_are_suppressed() noexcept:
    """Whether the running code is in a `no_rerun` block."""
    return not has_value(<PyObject *>rerun_suppression_depth, <PyObject *>ZERO, <PyObject *>ZERO)
