# cython: language_level=3
# Item and attribute access to the keys that begin with a prefix, by the rest of their names. See the head of _core.pyx.

cdef enum:
    MOST_NAMES = 256        # whose keys a space remembers
    MOST_CLEARS = 10        # attempts to clear a space to which other threads add keys


# The names of methods. A space never remembers their keys, so a name that it remembers is that of a key.
cdef frozenset space_methods = frozenset()


def reserve_in_spaces(names):
    global space_methods
    space_methods = frozenset(names)


cdef class SpaceNamespace:
    """Item and attribute access to the keys under a prefix. In attribute access, methods of subclasses win over keys.

    The keys of most names are remembered: the hash of a key is computed once.
    """
    cdef readonly Store _store
    cdef Table *table
    cdef str prefix            # None: it differs between callers, and `find_prefix` returns it
    cdef object find_prefix
    cdef str label             # what to type for the space, for messages
    cdef dict names            # name -> key

    def __cinit__(self, Store store not None, str label not None, str prefix=None, find_prefix=None):
        self._store, self.table = store, store.table
        self.label, self.prefix, self.find_prefix = label, prefix, find_prefix
        self.names = {}

    def __getitem__(self, name):
        cdef PyObject *value
        if not PyUnicode_CheckExact(name):
            return self[plain_key(name)]
        key = owned(key_in(self, <PyObject *>name))
        value = read(self.table, <PyObject *>key)
        if value != NULL:
            return owned(value)
        raise missing_item(self.label, name, INITIALIZE)

    def __setitem__(self, name, value):
        if not PyUnicode_CheckExact(name):
            name = plain_key(name)
        assign(self._store, <str>owned(key_in(self, <PyObject *>name)), value, False)

    def __delitem__(self, name):
        name = plain_key(name)
        if change_presence(self._store, <str>owned(key_in(self, <PyObject *>name)), True) is ABSENT:
            raise missing_item(self.label, name, DELETE)

    def __contains__(self, name):
        if not isinstance(name, str):
            return False
        name = plain_key(name)
        key = owned(key_in(self, <PyObject *>name))
        return contains(self.table, <PyObject *>key)

    def __len__(self):
        return len(watched_keys(self, prefix_of(self)))

    def __iter__(self):
        cdef str prefix = prefix_of(self)
        cdef Py_ssize_t start = len(prefix)
        return iter([(<str>key)[start:] for key in watched_keys(self, prefix)])

    def __getattribute__(self, name):
        cdef PyObject *known = NULL
        cdef PyObject *value
        if PyUnicode_CheckExact(name) and self.prefix is not None:
            known = dict_get(<PyObject *>self.names, <PyObject *>name)
        if known == NULL:
            if not PyUnicode_CheckExact(name) or is_space_method(name):
                return attribute_of_class(self, name)
            known = key_in(self, <PyObject *>name)
        key = owned(known)
        value = read(self.table, <PyObject *>key)
        if value != NULL:
            return owned(value)
        raise missing_attribute(self, self.label, name, INITIALIZE)

    def __setattr__(self, name, value):
        name = plain_key(name)
        check_attribute(is_space_method(name), self.label, name)
        self[name] = value

    def __delattr__(self, name):
        name = plain_key(name)
        check_attribute(is_space_method(name), self.label, name)
        if change_presence(self._store, <str>owned(key_in(self, <PyObject *>name)), True) is ABSENT:
            raise missing_attribute(self, self.label, name, DELETE)

    def get(self, name, default=None):
        cdef PyObject *value
        if not PyUnicode_CheckExact(name):
            return self.get(plain_key(name), default)
        key = owned(key_in(self, <PyObject *>name))
        value = read(self.table, <PyObject *>key)
        return default if value == NULL else owned(value)

    def setdefault(self, name, default=None):
        cdef PyObject *value
        name = plain_key(name)
        key = owned(key_in(self, <PyObject *>name))
        value = read(self.table, <PyObject *>key)
        if value != NULL:
            return owned(value)
        found = assign(self._store, <str>key, default, True)
        return default if found is ABSENT else as_decoded(self._store, <str>key, found)

    def pop(self, name, *default):
        name = plain_key(name)
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        key = owned(key_in(self, <PyObject *>name))
        contains(self.table, <PyObject *>key)
        value = change_presence(self._store, <str>key, True)
        if value is not ABSENT:
            return as_decoded(self._store, <str>key, value)
        if default:
            return default[0]
        raise missing_item(self.label, name, POP)

    def clear(self):
        cdef str prefix = prefix_of(self)
        cdef int i
        for i in range(MOST_CLEARS):
            keys = visible_keys(self._store, prefix)
            if not keys:
                return
            with Transaction(self._store, tuple(keys), None):
                found = visible_keys(self._store, prefix)
                # Taking the locks of keys that were added meanwhile could end in a deadlock with another thread.
                if set(found).issubset(keys) or i == MOST_CLEARS - 1:
                    for key in found:
                        change_presence(self._store, <str>key, True)
                    return

    def key(self, name):
        name = plain_key(name)
        return owned(key_in(self, <PyObject *>name))


def label_of(SpaceNamespace space not None):
    return space.label


cdef inline str prefix_of(SpaceNamespace self):
    return self.prefix if self.prefix is not None else <str>self.find_prefix()


cdef inline PyObject *key_in(SpaceNamespace self, PyObject *name) except NULL:
    """A new reference to the key with this name."""
    cdef PyObject *key
    if self.prefix is not None:
        key = dict_get(<PyObject *>self.names, name)
        if key != NULL:
            return key
    return make_key(self, <str>name)


cdef PyObject *make_key(SpaceNamespace self, str name) except NULL:
    cdef str key = prefix_of(self) + name
    if self.prefix is not None and not is_space_method(name):
        if len(self.names) >= MOST_NAMES:
            self.names.clear()
        self.names[name] = key
    _incref(<PyObject *>key)
    return <PyObject *>key


cdef inline bint is_space_method(str name) except -1:
    key_hash(<PyObject *>name)  # makes it ready
    return is_dunder(<PyObject *>name) or name in space_methods


cdef list watched_keys(SpaceNamespace self, str prefix):
    """The keys under the prefix. Subscribes the calling scope to that set of keys."""
    watch_members(self.table, prefix)
    return visible_keys(self._store, prefix)
