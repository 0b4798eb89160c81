# cython: language_level=3
# What differs between interpreters, compilers and systems. See _core.pyx for the whole.

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #  define FSS_THREAD_LOCAL __declspec(thread)
    #elif defined(__GLIBC__)
    /* Saves the call that finds the variables of a shared library. Other C libraries may refuse to load this. */
    #  define FSS_THREAD_LOCAL __thread __attribute__((tls_model("initial-exec")))
    #else
    #  define FSS_THREAD_LOCAL __thread
    #endif

    /* With the GIL, what does not let go of it excludes everybody else, and there is nothing to lock. */
    #ifdef Py_GIL_DISABLED
    #  define FSS_SHARDS 64
    #  define FSS_FIRST_BUCKETS 4
    typedef PyMutex fss_mutex;
    #  define fss_lock(mutex) PyMutex_Lock(mutex)
    #  define fss_unlock(mutex) PyMutex_Unlock(mutex)
    /* For what is read without the lock that it is written under, of 32 or 64 bits; fss_add is for 64 only. */
    #  if defined(_MSC_VER)
    #    define fss_load(variable) ((__typeof__(variable))(sizeof(variable) == 4 \
            ? _Py_atomic_load_uint32_acquire((uint32_t *)&(variable)) \
            : _Py_atomic_load_uint64_acquire((uint64_t *)&(variable))))
    #    define fss_store(variable, value) (sizeof(variable) == 4 \
            ? _Py_atomic_store_uint32_release((uint32_t *)&(variable), (uint32_t)(uintptr_t)(value)) \
            : _Py_atomic_store_uint64_release((uint64_t *)&(variable), (uint64_t)(value)))
    #    define fss_add(variable, value) ((__typeof__(variable)) \
            (_Py_atomic_add_uint64((uint64_t *)&(variable), (uint64_t)(value)) + (uint64_t)(value)))
    #  else
    #    define fss_load(variable) __atomic_load_n(&(variable), __ATOMIC_ACQUIRE)
    #    define fss_store(variable, value) __atomic_store_n(&(variable), (value), __ATOMIC_RELEASE)
    #    define fss_add(variable, value) __atomic_add_fetch(&(variable), (value), __ATOMIC_ACQ_REL)
    #  endif
    #else
    #  define FSS_SHARDS 1
    #  define FSS_FIRST_BUCKETS 64
    typedef char fss_mutex;
    #  define fss_lock(mutex) ((void)(mutex))
    #  define fss_unlock(mutex) ((void)(mutex))
    #  define fss_load(variable) (variable)
    #  define fss_store(variable, value) ((variable) = (value))
    #  define fss_add(variable, value) ((variable) += (value))
    #endif

    #define FSS_NO_SLOT UINT32_MAX

    /* Declared to return an object, so that the reference changes hands and no count changes. */
    #define fss_owned(reference) (reference)

    /* The hash of an exact str, which it remembers. Whoever has one has been made ready for the macros below. */
    static inline Py_hash_t fss_hash(PyObject *key)
    {
        Py_hash_t hash = fss_load(((PyASCIIObject *)key)->hash);
        return hash != -1 ? hash : PyObject_Hash(key);
    }

    /* Whether two hashed exact strs are equal. Unlike the interpreter's comparison it cannot run anybody's code. */
    static inline int fss_same_key(PyObject *one, PyObject *other)
    {
        Py_ssize_t length = PyUnicode_GET_LENGTH(one);
        int kind = PyUnicode_KIND(one);
        return length == PyUnicode_GET_LENGTH(other) && kind == (int)PyUnicode_KIND(other)
            && memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other), length * kind) == 0;
    }

    static inline int fss_is_dunder(PyObject *name)
    {
        Py_ssize_t length = PyUnicode_GET_LENGTH(name);
        return length > 4 && PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_'
            && PyUnicode_READ_CHAR(name, length - 1) == '_' && PyUnicode_READ_CHAR(name, length - 2) == '_';
    }

    /* A number that changes with every attribute that a thread's dict gains, changes or loses (fss_watch says whether
     * it does), and with fss_generation. */
    static uint64_t fss_generation = 1;
    #if defined(Py_GIL_DISABLED)
    #  define fss_tag(dict) ((void)(dict), fss_load(fss_generation))
    static int fss_watch(PyObject *dict)
    {
        (void)dict;
        return 0;
    }
    #elif PY_VERSION_HEX < 0x030C0000
    #  define fss_tag(dict) (((PyDictObject *)(dict))->ma_version_tag + (fss_generation << 48))
    static int fss_watch(PyObject *dict)
    {
        (void)dict;
        return 1;
    }
    #else
    #  define fss_tag(dict) ((void)(dict), fss_generation)
    static int fss_on_change(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
    {
        (void)event, (void)dict, (void)key, (void)value;
        fss_generation++;
        return 0;
    }
    static int fss_watch(PyObject *dict)
    {
        static int watcher = -1;
        if (Py_Version >= 0x030D0000 && Py_Version < 0x030D0100)
            return 0; /* 3.13.0 does not tell of attributes that are set */
        if (watcher < 0)
            watcher = PyDict_AddWatcher(fss_on_change);
        if (watcher >= 0 && PyDict_Watch(watcher, dict) == 0)
            return 1;
        PyErr_Clear(); /* others have taken all the watchers that an interpreter has */
        return 0;
    }
    #endif

    /* A new reference to the value of a str key, NULL if there is none. */
    static inline PyObject *fss_dict_get(PyObject *dict, PyObject *key)
    {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *value;
        PyDict_GetItemRef(dict, key, &value);
        return value;
    #else
        return Py_XNewRef(PyDict_GetItemWithError(dict, key));
    #endif
    }

    /* An object's __dict__. CPython 3.11 makes it when it is asked for, and may start the collector meanwhile: a
     * finalizer that asks too would make another one of the same values, and both would free them. */
    static PyObject *fss_attributes(PyObject *object)
    {
    #if PY_VERSION_HEX < 0x030C0000
        int enabled = PyGC_Disable();
        PyObject *dict = PyObject_GenericGetDict(object, NULL);
        if (enabled)
            PyGC_Enable();
        return dict;
    #else
        return PyObject_GenericGetDict(object, NULL);
    #endif
    }

    /* What a weak reference stands for, as a new reference; NULL if that is gone. */
    static inline PyObject *fss_weakref_get(PyObject *reference)
    {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *object;
        PyWeakref_GetRef(reference, &object);
        return object;
    #else
        PyObject *object = PyWeakref_GET_OBJECT(reference);
        return object == Py_None ? NULL : Py_NewRef(object);
    #endif
    }

    /* For what lives as long as the process: threads that use it at the same time need not fight for its count. */
    static inline void fss_make_immortal(PyObject *object)
    {
    #ifdef Py_GIL_DISABLED
        object->ob_tid = 0;
        object->ob_ref_local = UINT32_MAX;
        object->ob_ref_shared = 0;
    #else
        (void)object;
    #endif
    }

    /* The calling thread's contextvars.Context, which is a task's own: where two differ, so do their tasks. */
    static inline void *fss_context(void)
    {
        return PyThreadState_Get()->context;
    }

    /* Files of which fss_here names the caller. */
    static PyObject *fss_looked_past[4];

    static inline int fss_is_looked_past(PyCodeObject *code)
    {
        return code->co_filename == fss_looked_past[0] || code->co_filename == fss_looked_past[1]
            || code->co_filename == fss_looked_past[2] || code->co_filename == fss_looked_past[3];
    }

    /* Where the calling Python code is: a new reference to its code object, and an offset in it. */
    static inline PyObject *fss_here(int *instruction)
    {
        PyFrameObject *frame = PyEval_GetFrame();
        PyFrameObject *caller = NULL;
        PyCodeObject *code;
        if (frame == NULL)
            return NULL;
        code = PyFrame_GetCode(frame);
        while (fss_is_looked_past(code)) {
            frame = PyFrame_GetBack(frame);
            Py_XDECREF(caller);
            caller = frame;
            Py_DECREF(code);
            if (frame == NULL)
                return NULL;
            code = PyFrame_GetCode(frame);
        }
        *instruction = PyFrame_GetLasti(frame);
        Py_XDECREF(caller);
        return (PyObject *)code;
    }

    static inline int fss_line(PyObject *code, int instruction)
    {
        return PyCode_Addr2Line((PyCodeObject *)code, instruction);
    }

    /* The calling thread's ThreadCache. Borrowed: the thread state's dict owns it. */
    static FSS_THREAD_LOCAL PyObject *fss_thread_cache = NULL;
    #if PY_VERSION_HEX >= 0x030D0000
    #  define fss_is_finalizing Py_IsFinalizing
    #else
    #  define fss_is_finalizing _Py_IsFinalizing
    #endif

    /* The calling thread's Holder, NULL before it needs one. Borrowed: the ThreadCache owns it. */
    static FSS_THREAD_LOCAL PyObject *fss_holder = NULL;
    /* The transaction that the calling thread is in. Borrowed: the Holder owns it. */
    static FSS_THREAD_LOCAL PyObject *fss_transaction = NULL;
    /* Numbers that are never used twice in a process. */
    static uint64_t fss_serials = 0;
    """
    enum:
        SHARDS "FSS_SHARDS"
        FIRST_BUCKETS "FSS_FIRST_BUCKETS"
    uint32_t NO_SLOT "FSS_NO_SLOT"
    ctypedef struct Mutex "fss_mutex":
        pass
    void lock "fss_lock"(Mutex *) noexcept
    void unlock "fss_unlock"(Mutex *) noexcept
    uint64_t load64 "fss_load"(uint64_t) noexcept
    uint32_t load32 "fss_load"(uint32_t) noexcept
    void store64 "fss_store"(uint64_t, uint64_t) noexcept
    void store32 "fss_store"(uint32_t, uint32_t) noexcept
    uint64_t add64 "fss_add"(uint64_t, uint64_t) noexcept
    Py_ssize_t load_size "fss_load"(Py_ssize_t) noexcept
    Py_ssize_t add_size "fss_add"(Py_ssize_t, Py_ssize_t) noexcept
    bint load_flag "fss_load"(bint) noexcept
    PyObject *load_object "fss_load"(PyObject *) noexcept
    void store_object "fss_store"(PyObject *, PyObject *) noexcept
    void store_flag "fss_store"(bint, bint) noexcept
    object owned "fss_owned"(PyObject *)
    Py_hash_t key_hash "fss_hash"(PyObject *) noexcept
    bint same_key "fss_same_key"(PyObject *, PyObject *) noexcept
    bint is_dunder "fss_is_dunder"(PyObject *) noexcept
    dict attributes_of "fss_attributes"(object)
    PyObject *dict_get "fss_dict_get"(PyObject *, PyObject *) noexcept
    void make_immortal "fss_make_immortal"(PyObject *) noexcept
    PyObject *fss_looked_past[4]
    PyObject *here "fss_here"(int *instruction) noexcept
    int line_of "fss_line"(PyObject *code, int instruction) noexcept
    PyObject *weakref_get "fss_weakref_get"(PyObject *) noexcept
    const void *context_here "fss_context"() noexcept
    bint is_finalizing "fss_is_finalizing"() noexcept
    PyObject *fss_thread_cache
    PyObject *fss_holder
    PyObject *fss_transaction
    uint64_t fss_serials
    uint64_t fss_generation
    uint64_t attributes_tag "fss_tag"(PyObject *) noexcept
    bint watch_attributes "fss_watch"(PyObject *) noexcept

cdef extern from "Python.h":
    PyObject *PyThreadState_GetDict()
    # Declared so that the variable's reference count, which all threads would fight for, stays as it is.
    int PyContextVar_Get(PyObject *variable, PyObject *default, PyObject **value) noexcept
    int PyErr_CheckSignals() except -1
    void _incref "Py_INCREF"(PyObject *) noexcept
    void _decref "Py_DECREF"(PyObject *) noexcept
    void _xincref "Py_XINCREF"(PyObject *) noexcept
    void _xdecref "Py_XDECREF"(PyObject *) noexcept
    PyObject *PyWeakref_NewRef(PyObject *, PyObject *)
    bint PyType_IsSubtype(type, type)
    int PyThread_acquire_lock_timed(PyThread_type_lock, long long microseconds, int interruptible) nogil
