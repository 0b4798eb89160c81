/* Differences between interpreters, compilers and systems, for the compiled core. Included by one translation unit. */
#ifndef FASTSERVERSTATE_PLATFORM_H
#define FASTSERVERSTATE_PLATFORM_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#  define FSS_THREAD_LOCAL __declspec(thread)
#elif defined(__GLIBC__)
/* Saves the call that looks up thread-local variables of a shared library. Other C libraries may refuse to load it. */
#  define FSS_THREAD_LOCAL __thread __attribute__((tls_model("initial-exec")))
#else
#  define FSS_THREAD_LOCAL __thread
#endif

/* With the GIL, code that does not release it excludes all other threads, so mutexes compile to nothing. */
#ifdef Py_GIL_DISABLED
#  define FSS_SHARDS 64
#  define FSS_FIRST_BUCKETS 4
typedef PyMutex fss_mutex;
#  define fss_lock(mutex) PyMutex_Lock(mutex)
#  define fss_unlock(mutex) PyMutex_Unlock(mutex)
/* Atomic access to variables of 32 or 64 bits that are read without the lock that guards writes. fss_add: 64 only. */
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

/* Cython declares that this returns an object, so the caller's reference is transferred and no count changes. */
#define fss_owned(reference) (reference)

/* Have calls of the type's instances use the vectorcall function at this offset. Subclasses do not inherit that before
   Python 3.12, so it is done for the class whose instances are called. */
static inline void fss_set_vectorcall(PyObject *kind, Py_ssize_t offset)
{
    PyTypeObject *type = (PyTypeObject *)kind;
    type->tp_vectorcall_offset = offset;
    type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
    PyType_Modified(type);
}

/* The hash of an exact str, which caches it. Also makes the str ready for the macros below. */
static inline Py_hash_t fss_hash(PyObject *key)
{
    Py_hash_t hash = fss_load(((PyASCIIObject *)key)->hash);
    return hash != -1 ? hash : PyObject_Hash(key);
}

/* Compare two hashed exact strs. Unlike the interpreter's comparison this cannot run foreign code. */
static inline int fss_keys_equal(PyObject *one, PyObject *other)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(one);
    int kind = PyUnicode_KIND(one);
    return length == PyUnicode_GET_LENGTH(other) && kind == (int)PyUnicode_KIND(other)
        && memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other), length * kind) == 0;
}

/* Whether an exact str begins with another one. Like the macros, it needs both to be ready. */
static inline int fss_starts_with(PyObject *key, PyObject *prefix)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(prefix);
    if (length > PyUnicode_GET_LENGTH(key) || PyUnicode_KIND(prefix) > PyUnicode_KIND(key))
        return 0;
    if (PyUnicode_KIND(prefix) == PyUnicode_KIND(key))
        return memcmp(PyUnicode_DATA(key), PyUnicode_DATA(prefix), length * PyUnicode_KIND(key)) == 0;
    while (length > 0 && PyUnicode_READ_CHAR(key, length - 1) == PyUnicode_READ_CHAR(prefix, length - 1))
        length--;
    return length == 0;
}

/* Whether the key is one of the package's own: those begin with HIDDEN of _core.pyx. */
static inline int fss_is_hidden_key(PyObject *key)
{
    return PyUnicode_GET_LENGTH(key) >= 5 && PyUnicode_READ_CHAR(key, 0) == 0 && PyUnicode_READ_CHAR(key, 1) == 'f'
        && PyUnicode_READ_CHAR(key, 2) == 's' && PyUnicode_READ_CHAR(key, 3) == 's'
        && PyUnicode_READ_CHAR(key, 4) == '/';
}

static inline int fss_is_dunder(PyObject *name)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(name);
    return length > 4 && PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_'
        && PyUnicode_READ_CHAR(name, length - 1) == '_' && PyUnicode_READ_CHAR(name, length - 2) == '_';
}

/* fss_attributes_tag returns a number that differs after every change of a thread's attributes dict and of
 * fss_generation, provided that fss_watch_attributes returned 1 for the dict. */
static uint64_t fss_generation = 1;
#if defined(Py_GIL_DISABLED)
#  define fss_attributes_tag(dict) ((void)(dict), fss_load(fss_generation))
static int fss_watch_attributes(PyObject *dict)
{
    (void)dict;
    return 0;
}
#elif PY_VERSION_HEX < 0x030C0000
#  define fss_attributes_tag(dict) (((PyDictObject *)(dict))->ma_version_tag + (fss_generation << 48))
static int fss_watch_attributes(PyObject *dict)
{
    (void)dict;
    return 1;
}
#else
#  define fss_attributes_tag(dict) ((void)(dict), fss_generation)
static int fss_on_change(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
{
    (void)event, (void)dict, (void)key, (void)value;
    fss_generation++;
    return 0;
}
static int fss_watch_attributes(PyObject *dict)
{
    static int watcher = -1;
    if (Py_Version >= 0x030D0000 && Py_Version < 0x030D0100)
        return 0; /* 3.13.0 does not notify watchers of assigned attributes */
    if (watcher < 0)
        watcher = PyDict_AddWatcher(fss_on_change);
    if (watcher >= 0 && PyDict_Watch(watcher, dict) == 0)
        return 1;
    PyErr_Clear(); /* other packages use all of the interpreter's watchers */
    return 0;
}
#endif

/* A new reference to the value of a str key, NULL if the dict has none. */
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

/* An object's __dict__. CPython 3.11 creates it on first use and may run the garbage collector meanwhile. A finalizer
 * that also asks for the dict would create a second one with the same values, and both would free them. */
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

/* The referent of a weak reference as a new reference, NULL if it is gone. */
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

/* For objects that live as long as the process: avoids contention for their reference count without the GIL. */
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

/* The calling thread's contextvars.Context. Every asyncio task has its own, so different contexts mean different
 * tasks. */
static inline void *fss_current_context(void)
{
    return PyThreadState_Get()->context;
}

/* File names whose frames fss_caller_location skips. */
static PyObject *fss_skipped_files[5];

static inline int fss_is_skipped(PyCodeObject *code)
{
    return code->co_filename == fss_skipped_files[0] || code->co_filename == fss_skipped_files[1]
        || code->co_filename == fss_skipped_files[2] || code->co_filename == fss_skipped_files[3]
        || code->co_filename == fss_skipped_files[4];
}

/* The source location of the calling Python code: a new reference to its code object, and an offset in it. */
static inline PyObject *fss_caller_location(int *instruction)
{
    PyFrameObject *frame = PyEval_GetFrame();
    PyFrameObject *caller = NULL;
    PyCodeObject *code;
    if (frame == NULL)
        return NULL;
    code = PyFrame_GetCode(frame);
    while (fss_is_skipped(code)) {
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

#if PY_VERSION_HEX >= 0x030D0000
#  define fss_is_finalizing Py_IsFinalizing
#else
#  define fss_is_finalizing _Py_IsFinalizing
#endif

/* The calling thread's _ThreadCache. Borrowed: the thread state's dict owns it. */
static FSS_THREAD_LOCAL PyObject *fss_thread_cache = NULL;
/* The calling thread's Holder, NULL until it needs one. Borrowed: the _ThreadCache owns it. */
static FSS_THREAD_LOCAL PyObject *fss_holder = NULL;
/* The outermost Transaction of the calling thread. Borrowed: the Holder owns it. */
static FSS_THREAD_LOCAL PyObject *fss_transaction = NULL;
/* The last serial number that was given out. A process never uses one twice. */
static uint64_t fss_serials = 0;

#endif
