# cython: language_level=3
# Item and attribute access. See the head of _core.pyx.

cdef class Namespace:
    """Item and attribute access to a store. In attribute access, methods of subclasses win over keys."""
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
            raise missing_item("server_state", key, INITIALIZE)
        return self[plain_key(key)]

    def __setitem__(self, key, value):
        if PyUnicode_CheckExact(key):
            assign(self.store, <str>key, value, False)
        else:
            self[plain_key(key)] = value

    def __delitem__(self, key):
        key = plain_key(key)
        if change_presence(self.store, <str>key, True) is ABSENT:
            raise missing_item("server_state", key, DELETE)

    def __contains__(self, key):
        if PyUnicode_CheckExact(key):
            return contains(self.table, <PyObject *>key)
        return isinstance(key, str) and plain_key(key) in self

    def __len__(self):
        watch_members(self.table)
        if fss_transaction != NULL:
            return len(visible_keys(self.store))
        return count_keys(self.table)

    def __iter__(self):
        watch_members(self.table)
        return iter(visible_keys(self.store))

    def __getattribute__(self, name):
        # There is no __getattr__, because it would make attribute look-ups of subclasses slower.
        cdef PyObject *value
        if not PyUnicode_CheckExact(name) or is_method(self.table, <PyObject *>name):
            return attribute_of_class(self, name)
        value = read(self.table, <PyObject *>name)
        if value != NULL:
            return owned(value)
        raise missing_attribute(self, "server_state", name, INITIALIZE)

    def __setattr__(self, name, value):
        name = plain_key(name)
        check_attribute(is_method(self.table, <PyObject *>name), "server_state", name)
        assign(self.store, <str>name, value, False)

    def __delattr__(self, name):
        name = plain_key(name)
        check_attribute(is_method(self.table, <PyObject *>name), "server_state", name)
        if change_presence(self.store, <str>name, True) is ABSENT:
            raise missing_attribute(self, "server_state", name, DELETE)

    def get(self, key, default=None):
        cdef PyObject *value
        if not PyUnicode_CheckExact(key):
            return self.get(plain_key(key), default)
        value = read(self.table, <PyObject *>key)
        return default if value == NULL else owned(value)

    def setdefault(self, key, default=None):
        cdef PyObject *value
        if not PyUnicode_CheckExact(key):
            return self.setdefault(plain_key(key), default)
        value = read(self.table, <PyObject *>key)
        if value != NULL:
            return owned(value)
        found = assign(self.store, <str>key, default, True)
        return default if found is ABSENT else as_decoded(self.store, <str>key, found)

    def pop(self, key, *default):
        key = plain_key(key)
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        contains(self.table, <PyObject *>key)
        value = change_presence(self.store, <str>key, True)
        if value is not ABSENT:
            return as_decoded(self.store, <str>key, value)
        if default:
            return default[0]
        raise missing_item("server_state", key, POP)


cdef class AtomicChanges:
    """Atomic changes of the keys of a store."""
    cdef Store store

    def __cinit__(self, Store store not None):
        self.store = store

    @cython.binding(False)
    def increment(self, key, by=1, *, default=0):
        if not PyUnicode_CheckExact(key):
            return self.increment(plain_key(key), by, default=default)
        return add(self.store, <str>key, by, default)


cdef class LockNamespace:
    """Item access to the locks of a store."""
    cdef Store store

    def __cinit__(self, Store store not None):
        self.store = store

    def __getitem__(self, key):
        if PyUnicode_CheckExact(key):
            return owned(key_lock(self.store.table, <PyObject *>key))
        if type(key) is tuple:
            return KeyLocks(self.store, key)
        if isinstance(key, (list, set, frozenset)):
            raise TypeError(
                "server_state_lock takes several keys as server_state_lock['a', 'b'], and those in a "
                f"{type(key).__name__} as server_state_lock[tuple(keys)]."
            )
        return self[plain_key(key)]

    def __contains__(self, key):
        return isinstance(key, str) and self.store.version(key) > 0

    def __iter__(self):
        return iter(self.store.keys())

    def __len__(self):
        return len(self.store.keys())


cdef class Transactions:
    """Begins transactions of a store."""
    cdef Store store

    def __cinit__(self, Store store not None):
        self.store = store


def change_atomically(AtomicChanges changes not None, key, function, default):
    return change_locked(changes.store, plain_key(key), function, default)


def begin_transaction(Transactions transactions not None, keys, timeout):
    return Transaction(transactions.store, keys, timeout)


# Advice for missing keys
cdef str INITIALIZE = "Did you forget to initialize it? {}.setdefault({}, ...) does."
cdef str DELETE = "{}.pop({}, None) deletes it if it is there."
cdef str POP = "{}.pop({}, None) returns None if it is not there."


cdef object missing_item(str label, key, str advice):
    return KeyError(f"{label} has no key {shown(key)}. {advice.format(label, shown(key))}")


cdef object missing_attribute(self, str label, name, str advice):
    text = f"{label} has no attribute {shown(name)}. {advice.format(label, shown(name))}"
    return AttributeError(text, name=name, obj=self)


cdef object attribute_of_class(self, name):
    if PyUnicode_CheckExact(name):
        return PyObject_GenericGetAttr(self, name)
    return getattr(self, plain_key(name))


cdef bint is_method(Table *table, PyObject *name) noexcept:
    """Whether the name is that of a method or attribute, so that attribute access does not look for a key."""
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


cdef int check_attribute(bint is_method, str label, name) except -1:
    if is_method:
        raise AttributeError(
            f"{name!r} is a method of {label} and cannot be a key by attribute. Use {label}[{name!r}]."
        )
    return 0
