/* Makes the file system fail for a process: build it as a library, and name it in LD_PRELOAD.

   DISK_FOLDER   only the files of this folder are affected
   DISK_CONTROL  file with the `struct control`, which the process and its test map to memory

   A write that fails has written a half of its bytes, as on a disk that becomes full. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

struct control {
    int64_t countdown;  /* the call fails that counts this down to 0; 0: none */
    int64_t failures;   /* how many calls fail from then on; -1: all */
    int64_t error;      /* errno of a call that fails */
    int64_t holds;      /* if not 0, calls of fsync and fdatasync wait until it is */
    int64_t held;       /* calls that wait */
    int64_t calls;      /* calls so far */
    int64_t failed;     /* calls that have failed */
};

static struct control *control;
static char folder[PATH_MAX];

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("DISK_CONTROL"), *name = getenv("DISK_FOLDER");
    int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0 || !name)
        return;
    snprintf(folder, sizeof(folder), "%s/", name);
    void *mapped = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    control = mapped == MAP_FAILED ? NULL : mapped;
}

static int is_affected(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!control)
        return 0;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return !strncmp(path, folder, strlen(folder));
}

/* Returns 1 and sets errno if this call has to fail. */
static int fails(void) {
    __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
    int64_t left = __atomic_load_n(&control->countdown, __ATOMIC_SEQ_CST);
    if (left > 1) {
        __atomic_sub_fetch(&control->countdown, 1, __ATOMIC_SEQ_CST);
        return 0;
    }
    if (left < 1 || !control->failures)
        return 0;
    if (control->failures > 0)
        __atomic_sub_fetch(&control->failures, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = (int)control->error;
    return 1;
}

#define REAL(result, name, ...)                                              \
    static result (*real)(__VA_ARGS__);                                      \
    if (!real)                                                               \
        real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (is_affected(descriptor) && fails()) {
        int error = errno;
        ssize_t done = real(descriptor, data, size / 2);
        (void)done;
        errno = error;
        return -1;
    }
    return real(descriptor, data, size);
}

#define POSITIONED(name, offset_type)                                        \
    ssize_t name(int descriptor, const void *data, size_t size, offset_type offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type);        \
        if (is_affected(descriptor) && fails()) {                            \
            int error = errno;                                               \
            ssize_t done = real(descriptor, data, size / 2, offset);         \
            (void)done;                                                      \
            errno = error;                                                   \
            return -1;                                                       \
        }                                                                    \
        return real(descriptor, data, size, offset);                         \
    }

POSITIONED(pwrite, off_t)
POSITIONED(pwrite64, off64_t)

#define RESIZING(name, offset_type)                                          \
    int name(int descriptor, offset_type size) {                             \
        REAL(int, #name, int, offset_type);                                  \
        return is_affected(descriptor) && fails() ? -1 : real(descriptor, size); \
    }

RESIZING(ftruncate, off_t)
RESIZING(ftruncate64, off64_t)

#define SYNCHRONIZING(name)                                                  \
    int name(int descriptor) {                                               \
        REAL(int, #name, int);                                               \
        if (is_affected(descriptor)) {                                       \
            __atomic_add_fetch(&control->held, 1, __ATOMIC_SEQ_CST);         \
            while (__atomic_load_n(&control->holds, __ATOMIC_SEQ_CST))       \
                usleep(1000);                                                \
            __atomic_sub_fetch(&control->held, 1, __ATOMIC_SEQ_CST);         \
            if (fails())                                                     \
                return -1;                                                   \
        }                                                                    \
        return real(descriptor);                                             \
    }

SYNCHRONIZING(fsync)
SYNCHRONIZING(fdatasync)
