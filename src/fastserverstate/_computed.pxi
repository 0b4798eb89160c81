# cython: language_level=3
# Computed values: their nodes, and reading their results. See the head of _core.pyx and `computed_values.py`.
#
# A computed value is both a scope and a key. Its *node* is a session with one scope, which subscribes to what the
# function reads. Its result is stored in the table under a key that apps do not see, so that scopes, listeners, waiting
# threads and other nodes depend on it as on any key.

cdef class Node(Session):
    """The scope of a computed value's function, and the key of its result."""
    cdef readonly str key
    cdef readonly KeyLock lock  # held during an evaluation. It keeps the key's cell
    cdef Scope execution       # of the function
    cdef bint complete         # the result of that execution is stored
    cdef list _keys            # that it has read, in order
    cdef list _sources         # nodes whose results it has read, or None
    cdef uint64_t checked      # `marks` of the slots when the sources were last found to be current
    cdef readonly uint64_t used  # number of the last use, among those of its function

    def __init__(self, Store store not None, str key not None):
        Session.__init__(self, store)
        self.key = key
        self.is_node = True
        self.lock = store.lock(key)
        lock(&self.lock.shard.mutex)
        self.lock.cell.is_hidden = self.lock.cell.is_result = True
        unlock(&self.lock.shard.mutex)

    @property
    def sources(self):
        return [] if self._sources is None else list(self._sources)

    @property
    def keys(self):
        return frozenset(self._keys or ())

    @property
    def mixed(self):
        return self.execution is not None and self.execution.mixed

    def execute(self, function):
        cdef Node outer
        self.complete = False
        self._keys = []
        self.start_run()
        self.execution = self.scope(None)
        outer = set_node(self)
        try:
            return function()
        finally:
            set_node(outer)
            self.finish_run()

    def completed(self, list sources not None):
        self._sources = sources or None
        self.checked = 0
        self.complete = True

    def is_fresh(self):
        return is_fresh(self)

    def is_current(self):
        return is_current(self)

    def marks(self):
        return 0 if self.store is None else load64(self.store.table.slots.marks)

    def sources_checked(self, uint64_t marks):
        store64(self.checked, marks)

    def close(self):
        Session.close(self)
        self.execution = None  # which refers to this node

    def refuse_write(self):
        """Overridden by subclasses."""


cdef inline bint is_fresh(Node self) noexcept:
    """Whether nothing has changed that the last execution has read."""
    cdef Slots *slots
    cdef Scope scope = self.execution
    cdef bint fresh
    if not self.complete or scope is None:
        return False
    slots = &scope.table.slots
    lock(&slots.mutex)
    fresh = (
        scope.slot != NO_SLOT
        and not scope.stale
        and not scope.stale_by_rerun
        and not has_bit(slots.pending, scope.slot)
        and not has_bit(slots.pending_by_rerun, scope.slot)
    )
    unlock(&slots.mutex)
    return fresh


cdef inline bint is_current(Node self) noexcept:
    """Whether the result is that of the current values, as far as can be told without looking at the sources."""
    return is_fresh(self) and (
        self._sources is None or load64(self.checked) == load64(self.execution.table.slots.marks)
    )


@cython.final
cdef class Failure:
    """The result of a function that has raised an exception."""
    cdef readonly object exception
    cdef readonly object traceback

    def __init__(self, exception not None):
        self.exception = exception
        self.traceback = exception.__traceback__


cdef class Memo:
    """The nodes of one function, by its arguments. Calls that find a current result return it."""
    cdef void *vectorcall      # the function that makes calls, if `use_vectorcall` was called for the class
    cdef readonly Store store
    cdef dict nodes            # see `name_of_call` -> Node
    cdef uint64_t uses

    def __cinit__(self, *args, **kwargs):
        self.nodes = {}
        self.vectorcall = <void *>call_memo

    def __init__(self, Store store not None):
        self.store = store

    def __call__(self, *args, **kwargs):
        return self.call(args, kwargs)

    cdef object current_result(self, object name):
        """The result that is stored for the arguments, PRIVATE if it is not current."""
        cdef Node node
        cdef PyObject *value
        node = self.nodes.get(name)
        if node is None:
            return PRIVATE
        value = read(self.store.table, <PyObject *>node.key)
        if value == NULL:
            return PRIVATE
        result = owned(value)
        if type(result) is Failure or not is_current(node):
            return PRIVATE
        self.uses += 1
        node.used = self.uses
        return result

    def note_use(self, Node node not None):
        self.uses += 1
        node.used = self.uses

    def remember(self, tuple args not None, Node node not None):
        name = name_of_call(args)
        if name is not None:
            self.nodes[name] = node

    def forget(self, Node node not None):
        for name in [name for name, known in self.nodes.copy().items() if known is node]:
            self.nodes.pop(name, None)

    def call(self, args, kwargs):
        """Overridden by subclasses: a call that finds no current result."""
        raise NotImplementedError


cdef inline bint is_evaluating() noexcept:
    """Whether this thread evaluates a computed value."""
    return fss_thread_cache != NULL and (<_ThreadCache>fss_thread_cache).node is not None


cdef object call_memo(PyObject *self, PyObject **args, size_t flagged, PyObject *names):
    """Call a Memo, without a tuple and a dict for the arguments if there is a current result."""
    cdef Memo memo = <Memo>self
    cdef Py_ssize_t i, count = PyVectorcall_NARGS(flagged)
    if names == NULL and fss_transaction == NULL and not is_evaluating():
        if count == 1 and PyUnicode_CheckExact(<object>args[0]):
            result = memo.current_result(<object>args[0])
        else:
            name = name_of_call(tuple([<object>args[i] for i in range(count)]))
            result = PRIVATE if name is None else memo.current_result(name)
        if result is not PRIVATE:
            return result
    return memo.call(
        tuple([<object>args[i] for i in range(count)]),
        {} if names == NULL else {name: <object>args[count + i] for i, name in enumerate(<tuple>names)},
    )


def use_vectorcall(kind):
    cdef Memo memo = Memo.__new__(Memo)
    fss_set_vectorcall(<PyObject *>kind, <char *>&memo.vectorcall - <char *><PyObject *>memo)


cdef inline object name_of_call(tuple args):
    """What stands for positional arguments in a dict: equal arguments have equal content. None for other arguments.

    A single `str` stands for itself, because its hash is cached, and that of a tuple is not.
    """
    if len(args) == 1 and PyUnicode_CheckExact(args[0]):
        return args[0]
    for arg in args:
        if not (PyUnicode_CheckExact(arg) or PyLong_CheckExact(arg)):
            return None
    return args


cdef tuple observers(Table *table, PyObject *key):
    """Whether scopes, listeners or waiting threads depend on the key; if none does, the nodes that depend on it."""
    cdef Slots *slots = &table.slots
    cdef Py_hash_t hashed = key_hash(key)
    cdef Shard *shard = shard_of(table, hashed)
    cdef PyObject **scopes = NULL
    cdef Cell *cell
    cdef uint32_t slot, n = 0
    cdef bint found = False
    cdef list nodes = []
    lock(&shard.mutex)
    cell = find(shard, key, hashed)
    if cell != NULL:
        lock(&slots.mutex)
        found = cell.cold != NULL and (
            cell.cold.listeners != NULL
            or cell.cold.change_waiters != NULL
            or subscribers_any(&cell.cold.watchers, slots.alive)
            or subscribers_any(&cell.cold.throttled, slots.alive)
        )
        if not found and cell.readers.count:
            scopes = <PyObject **>PyMem_RawMalloc(cell.readers.count * sizeof(PyObject *))
            found = scopes == NULL
        if not found:
            for slot in range(64 * cell.readers.words if cell.readers.words else cell.readers.count):
                slot = slot if cell.readers.words else cell.readers.body.few[slot]
                if not (subscribers_has(&cell.readers, slot) and has_bit(slots.alive, slot)):
                    continue
                if not has_bit(slots.nodes, slot):
                    found = True
                    break
                scopes[n] = slots.scopes[slot]
                _incref(scopes[n])
                n += 1
        unlock(&slots.mutex)
    unlock(&shard.mutex)
    try:
        for slot in range(n):
            nodes.append((<Scope>scopes[slot]).session)
    finally:
        for slot in range(n):
            _decref(scopes[slot])
        PyMem_RawFree(scopes)
    return found, nodes
