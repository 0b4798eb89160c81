# cython: language_level=3
# Item and attribute access. See _core.pyx for the whole.

cdef class Namespace:
    """Item and attribute access to a store. A method of a subclass is a name that no key can have as an attribute."""
    cdef Store store
    cdef Table *table

    def __cinit__(self, Store store not None):
        self.store = store
        self.table = store.table

    def __getitem__(self, key):
        cdef PyObject *value
        if PyUnicode_CheckExact(key):
            value = read(self.table, <PyObject *>key)
            if value != NULL:
                return owned(value)
        raise KeyError(<object>checked_key(key))

    def __setitem__(self, key, value):
        checked_key(key)
        assign(self.store, <str>key, value, False)

    def __delitem__(self, key):
        checked_key(key)
        if change_presence(self.store, <str>key, True) is ABSENT:
            raise KeyError(key)

    def __contains__(self, key):
        return PyUnicode_CheckExact(key) and contains(self.table, <PyObject *>key)

    def __len__(self):
        watch_members(self.table)
        if fss_transaction != NULL:
            return len(visible_keys(self.store))
        return count_keys(self.table)

    def __iter__(self):
        watch_members(self.table)
        return iter(visible_keys(self.store))

    def __getattribute__(self, name):
        # No __getattr__ beside it: with one, subclasses would look attributes up the slow way.
        cdef PyObject *value
        if not PyUnicode_CheckExact(name) or is_method(self.table, <PyObject *>name):
            return PyObject_GenericGetAttr(self, name)
        value = read(self.table, <PyObject *>name)
        if value != NULL:
            return owned(value)
        raise AttributeError(
            f"server_state has no {shown(name)} yet. Set it first: server_state[{shown(name)}] = ...",
            name=name,
            obj=self,
        )

    def __setattr__(self, name, value):
        check_attribute(self.table, name)
        assign(self.store, <str>name, value, False)

    def __delattr__(self, name):
        check_attribute(self.table, name)
        if change_presence(self.store, <str>name, True) is ABSENT:
            raise AttributeError(f"server_state has no {shown(name)} to delete.", name=name, obj=self)

    def get(self, key, default=None):
        cdef PyObject *value = read(self.table, checked_key(key))
        return default if value == NULL else owned(value)

    def setdefault(self, key, default=None):
        cdef PyObject *value = read(self.table, checked_key(key))
        if value != NULL:
            return owned(value)
        found = assign(self.store, <str>key, default, True)
        return default if found is ABSENT else found

    def pop(self, key, *default):
        checked_key(key)
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        contains(self.table, <PyObject *>key)
        value = change_presence(self.store, <str>key, True)
        if value is not ABSENT:
            return value
        if default:
            return default[0]
        raise KeyError(key)


cdef class Counters:
    """Adding to the numbers of a store."""
    cdef Store store

    def __cinit__(self, Store store not None):
        self.store = store

    @cython.binding(False)
    def increment(self, key, by=1, *, default=0):
        checked_key(key)
        return add(self.store, <str>key, by, default)


cdef class LockNamespace:
    """Item access to the locks of a store."""
    cdef Store store

    def __cinit__(self, Store store not None):
        self.store = store

    def __getitem__(self, key):
        if type(key) is tuple:
            return KeyLocks(self.store, key)
        return owned(key_lock(self.store.table, checked_key(key)))


cdef bint is_method(Table *table, PyObject *name) noexcept:
    """Whether attribute access finds something else under this name than a key."""
    cdef Py_hash_t hashed = key_hash(name)
    cdef Shard *shard = shard_of(table, hashed)
    cdef Cell *cell
    cdef bint found
    if is_dunder(name):
        return True
    lock(&shard.mutex)
    cell = find(shard, name, hashed)
    found = cell != NULL and cell.is_method
    unlock(&shard.mutex)
    return found


cdef int check_attribute(Table *table, name) except -1:
    if is_method(table, checked_key(name)):
        raise AttributeError(
            f"{name!r} is a method of server_state and cannot be a key by attribute. Use server_state[{name!r}]."
        )
    return 0
