# cython: language_level=3
# Item and attribute access. See _core.pyx for the whole.

cdef class Namespace:
    """Item and attribute access to a store. A method of a subclass is a name that no key can have as an attribute."""
    cdef Store _store

    def __cinit__(self, Store store not None):
        self._store = store

    def __getitem__(self, key):
        value = self._store.read(checked_key(key))
        if value is ABSENT:
            raise KeyError(key)
        return value

    def __setitem__(self, key, value):
        self._store.write(checked_key(key), value, False)

    def __delitem__(self, key):
        if self._store.remove(checked_key(key)) is ABSENT:
            raise KeyError(key)

    def __contains__(self, key):
        cdef Scope scope
        cdef Cell cell
        if not PyUnicode_CheckExact(key):
            return False
        scope = current_scope(self._store)
        cell = self._store.find(<str>key)
        if cell is None:
            if scope is None:
                return False
            cell = self._store.find_or_make(<str>key)
        if _is_held_by_other(cell):
            self._store.read_when_free(cell, None)
        if scope is not None:
            self._store.watch(cell, scope)
            self._store.drop_if_unused(cell)
        return cell.value is not ABSENT

    def __len__(self):
        self._store.watch_members()
        return self._store.present

    def __iter__(self):
        self._store.watch_members()
        return iter(self._store.keys())

    def __getattribute__(self, name):
        # No __getattr__ beside it: with one, subclasses would look attributes up the slow way.
        cdef Store store = self._store
        cdef Cell cell
        if not PyUnicode_CheckExact(name):
            return PyObject_GenericGetAttr(self, name)
        cell = store.find(<str>name)
        if cell is None or cell.reserved:
            if is_reserved(store, <str>name):
                return PyObject_GenericGetAttr(self, name)
        value = store.read(<str>name)
        if value is ABSENT:
            raise AttributeError(
                f"server_state has no {name!r} yet. Set it first: server_state.{name} = ...", name=name, obj=self
            )
        return value

    def __setattr__(self, name, value):
        check_attribute(self._store, name)
        self._store.write(checked_key(name), value, False)

    def __delattr__(self, name):
        check_attribute(self._store, name)
        if self._store.remove(checked_key(name)) is ABSENT:
            raise AttributeError(f"server_state has no {name!r} to delete.", name=name, obj=self)

    def get(self, key, default=None):
        value = self._store.read(checked_key(key))
        return default if value is ABSENT else value

    def setdefault(self, key, default=None):
        cdef str name = checked_key(key)
        value = self._store.read(name)
        if value is ABSENT:
            value = self._store.write(name, default, True)
        return default if value is ABSENT else value

    def pop(self, key, *default):
        cdef Scope scope = current_scope(self._store)
        cdef str name = checked_key(key)
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        if scope is not None:
            self._store.watch(self._store.find_or_make(name), scope)
        value = self._store.remove(name)
        if value is not ABSENT:
            return value
        if default:
            return default[0]
        raise KeyError(key)


cdef inline bint is_dunder(str name):
    return name.startswith("__") and name.endswith("__")


cdef inline bint is_reserved(Store store, str name) except -1:
    return name in store.reserved or is_dunder(name)


cdef int check_attribute(Store store, name) except -1:
    if is_reserved(store, checked_key(name)):
        raise AttributeError(
            f"{name!r} is a method of server_state and cannot be a key by attribute. Use server_state[{name!r}]."
        )
    return 0
