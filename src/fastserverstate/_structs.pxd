# cython: language_level=3
"""The structs of the core's data. The head of _core.pyx shows how they are connected.

References to Python objects are `PyObject *`, counted by hand unless a comment says "borrowed".
"""
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport uint32_t, uint64_t

from fastserverstate._platform cimport SHARDS, Mutex
from fastserverstate._subscribers cimport Subscribers

cdef enum:
    MAX_CHAIN_WRITES = 8

ctypedef struct Waiter:
    # A waiting thread. Lives on that thread's stack. Guarded by the register's mutex:
    PyThread_type_lock gate     # an OS lock that the thread sleeps on
    bint gate_open              # the gate was released and the thread has not taken it yet
    bint check_stop             # the thread is to check whether its session's run is being stopped
    bint on_loop                # the thread runs an event loop, which may block for MAX_LOOP_WAIT_NS at most
    bint polls                  # the thread checks periodically whether the pool that it belongs to is shut down
    long long polled_ns         # time of the last such check
    PyObject *holder            # the thread's Holder
    PyObject *session           # the Session whose script run the thread takes part in, or NULL
    const Cell *blocked_by      # the cell whose lock the thread waits for without a timeout, or NULL
    Waiter *next_registered
    PyObject *reported_key      # the key in the last report of this wait to a backend, or NULL
    long long reported_ns       # time of that report
    uint64_t epoch              # that the thread waits for; 0 once it is durable. Guarded by the journal
    # Guarded by the shard:
    bint queued                 # in the queue of a lock
    Waiter *next                # in the queue
    long long started_ns
    bint wants_lock             # the thread wants to hold the lock; else it wants to pass while no thread holds it
    bint in_handler             # the thread runs a handler, which may wait itself; it checks the lock afterwards

ctypedef struct ColdFields:
    # Rarely used fields of a cell, allocated on demand.
    Subscribers watchers        # subscribed to the key's presence
    PyObject *handle            # the KeyLock, or a weak reference to it
    uint32_t handles            # KeyLocks that are not freed yet: one may be dying while another exists
    bint handle_is_weak         # the key is not set, so `handle` does not keep the KeyLock alive
    Table *table                # set once the lock was taken
    Cell *next_held             # list of the cells that a holder has locked; it starts at the holder
    Cell *previous_held
    Waiter *waiters             # for the lock, longest first
    Waiter *reserved_for        # the waiter that takes the lock next, before any other thread; or NULL
    uint32_t forked             # lock acquisitions from before the process forked that were not released yet
    Waiter *change_waiters      # for a change of the value
    PyObject *code              # source location at which the lock was taken: a code object
    int instruction             # and an offset in it
    PyObject *hash_funcs        # dict of functions for types of the user's
    PyObject *listeners         # called after a change
    char removal                # why the value was removed last: BY_APP, HAS_EXPIRED or WAS_EVICTED
    uint32_t pending_callbacks  # number of calls of `listeners` that are due
    bint calling                # a thread is calling `listeners`
    long long interval_ns       # throttle: subscribers are marked once per interval; 0: at every change
    long long marked_ns         # time at which subscribers were last marked
    Subscribers throttled       # read an older value, and are marked when the interval is over
    Cell *next_throttled        # list of the cells with throttled subscribers; guarded by the mutex of the slots
    bint is_throttled           # in that list

ctypedef struct Folder:
    # The cells of a shard whose keys are the same up to their last "/".
    Folder *next                # in the bucket's chain
    uint64_t hash
    Folder *parent              # of the keys up to the "/" before, or NULL
    Folder *children            # list of the folders whose parent this is
    Folder *next_sibling
    Folder *previous_sibling
    Cell **cells
    uint32_t count              # of cells
    uint32_t room               # for so many cells
    Py_ssize_t length
    Py_UCS4 text[0]             # what the keys have in common, as code points

ctypedef struct Cell:
    PyObject *key
    Py_hash_t hash
    Cell *next                  # in the bucket's chain
    PyObject *value             # NULL if the key is not set
    uint64_t version            # the shard's clock at the last change
    uint64_t insertion_sequence  # orders the keys by when they were set
    Subscribers readers         # subscribed to the value
    ColdFields *cold            # or NULL
    Cell *next_dirty[2]         # list of the cells in each journal
    PyObject *holder            # the Holder that has the lock, or NULL. Borrowed: a Holder releases its locks first
    uint32_t depth              # of the re-entrant lock
    uint32_t folder_at          # place in the folder, if there is a "/" in the key
    uint32_t terms_at           # place of its terms among those of the shard, counted from 1; 0 if it has none
    char policy                 # when an assigned value counts as changed; see _same.pxi
    # One byte each:
    char has_fingerprint              # `fingerprint` is valid
    char reported               # the value was reported as changed in place
    char staged                 # the holder's transaction has written the key
    char presence_pending       # the key appeared or vanished in a `no_rerun` block, and its watchers are not notified
    char is_method              # the key is also the name of a method, which wins in attribute access; never freed
    char is_hidden              # the package's own key, which apps do not see
    char is_result              # hidden, and stands for the result of a computed value
    char is_dirty[2]            # in each journal
    char may_be_guarded         # a guard may be for the key: see _access.pxi
    uint64_t fingerprint[2]           # fingerprint of the value as it was when it was assigned

ctypedef struct ChainWrite:
    # A write by a run that continues a chain of reruns.
    PyObject *key
    PyObject *code              # its source location: a code object, NULL until it is known,
    int instruction             # and an offset in it
    unsigned long thread

ctypedef struct Prefix:
    # A prefix of keys that scopes are subscribed to.
    Prefix *next                # in the bucket's chain
    uint64_t hash
    Subscribers subscribers     # to the set of keys that begin with it
    Py_ssize_t length
    Py_UCS4 text[0]             # its code points

ctypedef struct Prefixes:
    Prefix **buckets            # heads of the chains; NULL if there are no entries
    Py_ssize_t mask             # number of buckets - 1
    Py_ssize_t count            # number of entries

ctypedef struct Slots:
    # The numbers that stand for scopes in sets of subscribers.
    Mutex mutex
    PyObject **scopes           # the Scope in each slot; NULL if the slot is retired or was never used
    uint64_t *alive             # bitset: slots that have a scope
    uint64_t *retired           # bitset: slots that sets of subscribers may still contain
    uint64_t *nodes             # bitset: slots of computed values
    uint64_t *pending           # bitset: marked stale and not collected yet
    uint64_t *pending_by_rerun  # the same, marked by runs that are reruns themselves
    uint64_t collections        # number of collections so far
    uint64_t marks              # number of changes that had subscribers
    ChainWrite chain_writes[MAX_CHAIN_WRITES]
    int chain_write_count
    uint32_t *spare             # stack of slots that no set contains
    uint32_t size               # of these arrays, in slots
    uint32_t used               # slots that were ever taken
    uint32_t live               # slots that have a scope
    uint32_t earlier            # those of them that belong to earlier executions
    uint32_t spares
    bint sweeping               # a thread is in `sweep`
    bint any_pending
    bint notified               # the stale listener was called, and nothing was collected since
    int rerun_writer            # one of the WRITER_ constants
    Cell *throttled             # head of the list of cells with throttled subscribers
    Subscribers members         # subscribed to the set of keys
    Prefixes prefixes           # subscribed to the keys under a prefix

ctypedef struct Lifetime:
    # What is configured for keys. Not freed before the table.
    long long ttl_ns            # 0: none
    long long idle_ns           # 0: none
    bint is_transient           # a storage engine does not keep the keys
    Lifetime *next

ctypedef struct Terms:
    # When a key expires. See _deadlines.pxi. Times are those of the core's clock.
    long long look_ns           # time of the next look at the cell
    long long deadline_ns       # 0: none
    long long idle_ns           # with an idle_ttl: deadline if nothing uses the key before, or NEVER_NS; else 0
    Cell *cell
    Lifetime *lifetime          # or NULL

ctypedef struct Alarm:
    # The thread that sleeps until a key is due.
    Mutex mutex                 # locked after a shard's; only the register's is locked after it
    uint64_t at_ns              # time of the next look at a cell
    Waiter *sleeper             # or NULL

ctypedef struct Shard:
    # A part of the table with its own mutex, padded against false sharing of cache lines.
    Mutex mutex
    Cell **buckets              # heads of the chains; their number is a power of two
    Py_ssize_t mask             # number of buckets - 1
    Py_ssize_t cells
    uint64_t clock              # counts the changes of the shard's keys
    Slots *slots                # of the table
    char first_policy           # of new cells: UNRESOLVED once there are options for keys
    char has_guards             # new cells may be guarded
    Cell *dirty[2]              # heads of the lists of cells that changed since each journal was last taken
    Cell *dropped               # freed after the mutex is unlocked
    PyObject *released          # KeyLocks to release after the mutex is unlocked
    Folder **folders            # heads of the chains; NULL if there are no folders
    Py_ssize_t folder_mask      # number of these buckets - 1
    Py_ssize_t folder_count
    Terms *terms                # a heap
    Py_ssize_t terms_count
    Py_ssize_t terms_room
    char padding[64]

ctypedef struct Journal:
    # The changes since a journal was last taken.
    Mutex mutex                 # locked after all others but that of the register
    Py_ssize_t dirty            # number of dirty cells
    uint64_t epoch              # of the batch that is taken next; changes with all shards locked
    # Guarded by the mutex, and read without it where they are loaded atomically:
    bint is_open
    uint64_t durable            # epoch of the last batch that was stored
    uint64_t failed             # epoch of the last batch that could not be stored
    uint64_t wanted             # epoch that threads wait for
    bint is_closing             # the journal's thread is to end
    Waiter *sleeper             # the journal's thread, if it sleeps until
    bint for_changes            # a cell is dirty,
    Py_ssize_t least_waiting    # or so many threads wait for a batch
    Waiter *waiters             # threads whose changes are to be durable,
    Py_ssize_t waiting          # and their number

ctypedef struct Table:
    Py_ssize_t refs             # the Store and the KeyLocks
    Py_ssize_t present          # number of keys that are set
    uint64_t insertion_sequence  # the last one that was given out
    PyObject *offload_callbacks  # given the keys whose listeners an event loop should not call, or NULL; never freed
    bint note_reads             # reads in runs are noted, to find values that change in place
    PyObject *backend           # performs writes and takes locks, or NULL; never freed
    PyObject *decoder           # decodes stored values, or NULL; never freed
    PyObject *guard             # says whether keys are guarded, and refuses access; or NULL. Never freed
    uint64_t guards             # counts how often the guards have changed
    uint32_t durability         # what writers wait for, one of the constants in _journal.pxi; 0 without an engine
    Journal journals[2]
    Py_ssize_t open_journals    # number of those that are open
    Lifetime *lifetimes         # list of all; guarded by the mutex of the alarm
    Alarm alarm
    uint64_t expired            # number of keys that have expired
    uint64_t evicted            # number of keys that were evicted
    Slots slots
    Shard shards[SHARDS]

ctypedef struct UnflushedReads:
    # The first reads of a thread in an execution that no message to the browser can show yet: an open-addressing table
    # of sets of subscribers. It holds the reads of one thread at a time; a read that is not in it counts as shown.
    const void **entries
    uint32_t mask
    uint32_t count
    uint64_t sent               # the session's number of messages,
    uint64_t holder             # the reader's serial,
    const void *context         # and its context, which differs between tasks of asyncio
