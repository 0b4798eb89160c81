# cython: language_level=3
# Attributes that stand for keys. See the head of _core.pyx, and `typed_state.py`.

cdef class Record:
    """An object whose fields stand for keys of a store."""
    cdef readonly Store _store
    cdef readonly tuple _keys   # the key of each field
    cdef Table *table

    def __init__(self, Store store not None, tuple keys not None):
        for key in keys:
            checked_key(key)
        self._store, self.table, self._keys = store, store.table, keys


@cython.final
cdef class Field:
    """An attribute of a Record. On the class, it is `class_value`."""
    cdef readonly str name
    cdef Py_ssize_t place      # of its key among those of the record
    cdef object class_value
    cdef object missing        # called with the record, for the value of a key that is not set
    cdef object check          # called with the record and a value, for what to assign; or None

    def __init__(self, str name not None, Py_ssize_t place, class_value, missing not None, check=None):
        self.name, self.place, self.class_value = name, place, class_value
        self.missing, self.check = missing, check

    def __get__(self, record, owner):
        cdef PyObject *value
        cdef str key
        if record is None:
            return self.class_value
        key = key_of_field(self, record)
        value = read((<Record>record).table, <PyObject *>key)
        return self.missing(record) if value == NULL else owned(value)

    def __set__(self, record, value):
        cdef str key = key_of_field(self, record)
        if self.check is not None:
            value = self.check(record, value)
        assign((<Record>record)._store, key, value, False)

    def __delete__(self, record):
        cdef str key = key_of_field(self, record)
        change_presence((<Record>record)._store, key, True)


cdef inline str key_of_field(Field self, record):
    cdef tuple keys = (<Record?>record)._keys
    if keys is None or not 0 <= self.place < len(keys):
        raise TypeError("State.__init__ has to be called before the fields are used.")
    return <str>keys[self.place]
