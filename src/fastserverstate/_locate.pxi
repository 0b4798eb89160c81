# cython: language_level=3
# Which scope the calling thread runs in. See _core.pyx for the whole.

@cython.final
cdef class _Locator:
    """How to find the scope that the calling thread runs in."""
    cdef str attribute      # of the threading.Thread object; its value is the thread's context
    cdef object variable    # a ContextVar, or None
    cdef str part           # attribute of the variable's value, or of the context when there is no variable
    cdef object resolve     # (context, part) -> Scope | None

cdef _Locator locator = None


@cython.final
cdef class _ThreadCache:
    """What the calling thread's last look-up found, and what must still be so for it to hold."""
    cdef dict attributes    # the Thread object's __dict__
    cdef object context
    cdef object source
    cdef object part
    cdef Scope scope
    cdef uint64_t run       # of the scope's session, at the look-up: the next one may have another thread

    def __dealloc__(self):
        global fss_thread_cache
        if fss_thread_cache == <PyObject *>self:
            fss_thread_cache = NULL


cdef object THREAD_CACHE_KEY = object()


cdef _ThreadCache _make_thread_cache():
    global fss_thread_cache
    cdef PyObject *state = PyThreadState_GetDict()
    cdef _ThreadCache cache = _ThreadCache()
    cache.attributes = threading.current_thread().__dict__
    if state == NULL:
        return cache
    (<dict>state)[THREAD_CACHE_KEY] = cache
    fss_thread_cache = <PyObject *>cache
    return cache


cdef inline Scope current_scope(Store store):
    """The scope of the store that the calling thread runs in, or None."""
    cdef Scope scope = located_scope()
    return scope if scope is not None and scope.session.store is store else None


cdef Scope located_scope():
    cdef _ThreadCache cache
    cdef PyObject *found
    cdef object context, part, source
    if locator is None:
        return None
    cache = <_ThreadCache>fss_thread_cache if fss_thread_cache != NULL else _make_thread_cache()
    found = PyDict_GetItemWithError(cache.attributes, locator.attribute)
    if found == NULL or found == <PyObject *>None:
        if cache.context is not None:
            cache.context = cache.source = cache.part = cache.scope = None
        return None
    context = <object>found
    if locator.variable is not None:
        source = _context_value(locator.variable)
        if source is cache.source:
            part = cache.part
        else:
            part = None if source is None else getattr(source, locator.part)
    else:
        source = None
        part = getattr(context, locator.part)
    if context is cache.context and (part is cache.part or part == cache.part):
        cache.source = source
        if cache.scope is None or cache.run == cache.scope.session.run:
            return cache.scope
    cache.scope = locator.resolve(context, part)
    cache.context, cache.source, cache.part = context, source, part
    if cache.scope is not None:
        cache.run = cache.scope.session.run
    return cache.scope


cdef inline object _context_value(object variable):
    """The value of a context variable, None where it has none."""
    cdef PyObject *value = NULL
    PyContextVar_Get(variable, NULL, &value)
    if value == NULL:
        return None
    result = <object>value
    _decref(value)
    return result


def locate_scopes(str attribute, variable, str part, resolve):
    global locator
    cdef _Locator new = _Locator()
    new.attribute = attribute
    new.variable = variable
    new.part = part
    new.resolve = resolve
    locator = new
