/* Reading values and the thread's stack, for fingerprints. Included by one translation unit. */
#ifndef FASTSERVERSTATE_FINGERPRINT_H
#define FASTSERVERSTATE_FINGERPRINT_H

#include "_platform.h"

#if defined(_MSC_VER)
#  include <intrin.h>
#endif
#if defined(_WIN32)
#  include <windows.h>
#elif defined(__linux__) || defined(__APPLE__)
#  include <pthread.h>
#endif

#if PY_VERSION_HEX < 0x030D0000
#  define Py_BEGIN_CRITICAL_SECTION(op) {
#  define Py_END_CRITICAL_SECTION() }
#endif

/* A new reference to an item of a list that other threads may change. IndexError past the end. */
static inline PyObject *fss_list_item(PyObject *list, Py_ssize_t index)
{
#ifdef Py_GIL_DISABLED
    return PyList_GetItemRef(list, index);
#else
    if (index >= PyList_GET_SIZE(list)) {
        PyErr_SetString(PyExc_IndexError, "list index out of range");
        return NULL;
    }
    return Py_NewRef(PyList_GET_ITEM(list, index));
#endif
}

/* PyDict_Next with new references. */
static inline int fss_dict_next(PyObject *dict, Py_ssize_t *position, PyObject **key, PyObject **value)
{
    int found;
    Py_BEGIN_CRITICAL_SECTION(dict);
    found = PyDict_Next(dict, position, key, value);
    if (found) {
        Py_INCREF(*key);
        Py_INCREF(*value);
    }
    Py_END_CRITICAL_SECTION();
    return found;
}

/* Whether an int has a single digit, as most have, and its value. It takes a third of the time of the general way. */
static inline int fss_digit(PyObject *number, long long *value)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)number))
        return 0;
    *value = PyUnstable_Long_CompactValue((PyLongObject *)number);
#else
    Py_ssize_t size = Py_SIZE(number);
    if (size < -1 || size > 1)
        return 0;
    *value = size ? size * (long long)((PyLongObject *)number)->ob_digit[0] : 0;
#endif
    return 1;
}

/* A number that differs after every change of the type, 0 if the type has none yet. */
static inline unsigned int fss_type_version(PyTypeObject *type)
{
    return fss_load(type->tp_version_tag);
}

/* The address of the caller's frame. Not that of a variable, which a sanitizer may put elsewhere. */
#if defined(_MSC_VER)
#  define fss_stack_pointer() ((uintptr_t)_AddressOfReturnAddress())
#else
#  define fss_stack_pointer() ((uintptr_t)__builtin_frame_address(0))
#endif

/* How much of the stack an encoder leaves to the code of values, which it calls; and how much it uses itself where the
 * end of the stack is unknown. */
#define FSS_STACK_RESERVE (128 * 1024)
#define FSS_STACK_BUDGET (48 * 1024)

/* The bounds of the calling thread's stack: 0 until they are needed, 1 if they are unknown. */
static FSS_THREAD_LOCAL uintptr_t fss_stack_low = 0;
static FSS_THREAD_LOCAL uintptr_t fss_stack_high = 0;

static void fss_find_stack(void)
{
    fss_stack_low = fss_stack_high = 1;
#if defined(_WIN32)
    ULONG_PTR low, high;
    GetCurrentThreadStackLimits(&low, &high);
    fss_stack_low = low;
    fss_stack_high = high;
#elif defined(__APPLE__)
    fss_stack_high = (uintptr_t)pthread_get_stackaddr_np(pthread_self());
    fss_stack_low = fss_stack_high - pthread_get_stacksize_np(pthread_self());
#elif defined(__linux__)
    pthread_attr_t attributes;
    void *start;
    size_t size, guard;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0)
        return;
    if (pthread_attr_getstack(&attributes, &start, &size) == 0
            && pthread_attr_getguardsize(&attributes, &guard) == 0 && guard < size) {
        fss_stack_low = (uintptr_t)start + guard;
        fss_stack_high = (uintptr_t)start + size;
    }
    pthread_attr_destroy(&attributes);
#endif
}

/* The lowest address down to which an encoder that begins here may use the stack. */
static uintptr_t fss_stack_limit(void)
{
    uintptr_t here = fss_stack_pointer();
    uintptr_t size;
    if (fss_stack_low == 0)
        fss_find_stack();
    if (here <= fss_stack_low || here >= fss_stack_high) /* unknown, or the stack of a coroutine */
        return here > FSS_STACK_BUDGET ? here - FSS_STACK_BUDGET : 0;
    size = fss_stack_high - fss_stack_low;
    return fss_stack_low + (size / 2 < FSS_STACK_RESERVE ? size / 2 : FSS_STACK_RESERVE);
}

#endif
