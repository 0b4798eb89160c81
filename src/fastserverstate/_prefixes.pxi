# cython: language_level=3
# Subscriptions to the set of keys under a prefix, which ends in "/". See the head of _core.pyx.
#
# A change of a key's presence concerns one prefix for each "/" in the key. A hash that runs over the key's code points
# finds them in one pass: at each "/", it is the hash of the prefix that ends there. The text of a prefix is an array of
# code points, because a prefix of a key may be stored with fewer bytes per character than the key.
#
# The mutex of the slots is locked.

cdef enum:
    FIRST_PREFIXES = 8


cdef inline uint64_t hash_on(uint64_t hashed, Py_UCS4 character) noexcept:
    """The hash of a text with one more character; that of the empty text is 0."""
    hashed = (hashed ^ (<uint64_t>character + 1)) * 0x9E3779B97F4A7C15ULL
    return hashed ^ (hashed >> 29)


cdef inline Py_ssize_t bucket_count(const Prefixes *self) noexcept:
    return 0 if self.buckets == NULL else self.mask + 1


cdef inline bint is_prefix(
    const Py_UCS4 *text, Py_ssize_t text_length, PyObject *key, Py_ssize_t length
) noexcept:
    """Whether the text is that of the key's first characters."""
    cdef Py_ssize_t i
    if text_length != length:
        return False
    for i in range(length):
        if text[i] != character_at(key, i):
            return False
    return True


cdef inline Prefix *find_prefix(const Prefixes *self, PyObject *key, Py_ssize_t length, uint64_t hashed) noexcept:
    cdef Prefix *prefix = self.buckets[hashed & self.mask]
    while prefix != NULL and not (prefix.hash == hashed and is_prefix(prefix.text, prefix.length, key, length)):
        prefix = prefix.next
    return prefix


cdef struct PrefixWalk:
    # A walk over the subscribed prefixes of a key.
    Py_ssize_t length   # of the part of the key that was walked over,
    uint64_t hash       # and its hash


cdef inline Prefix *next_prefix(const Prefixes *self, const Cell *cell, PrefixWalk *walk) noexcept:
    """The next longer prefix of the cell's key that scopes are subscribed to; NULL if there is none.

    There is none for the result of a computed value.
    """
    cdef Prefix *prefix
    cdef Py_UCS4 character
    if self.count == 0 or cell.is_result:
        return NULL
    while walk.length < length_of(cell.key):
        character = character_at(cell.key, walk.length)
        walk.hash = hash_on(walk.hash, character)
        walk.length += 1
        if character == c"/":
            prefix = find_prefix(self, cell.key, walk.length, walk.hash)
            if prefix != NULL:
                return prefix
    return NULL


cdef Prefix *find_or_make_prefix(Slots *slots, PyObject *text) noexcept:
    """The entry of the prefix, made if need be; NULL if there is no memory."""
    cdef Prefixes *self = &slots.prefixes
    cdef Prefix *prefix
    cdef Py_ssize_t i, length = length_of(text)
    cdef uint64_t hashed = 0
    for i in range(length):
        hashed = hash_on(hashed, character_at(text, i))
    if self.buckets != NULL:
        prefix = find_prefix(self, text, length, hashed)
        if prefix != NULL:
            return prefix
    if self.buckets == NULL or self.count > self.mask:
        if not make_room_for_prefixes(slots):
            return NULL
    prefix = <Prefix *>PyMem_RawCalloc(1, sizeof(Prefix) + length * sizeof(Py_UCS4))
    if prefix == NULL:
        return NULL
    prefix.hash, prefix.length = hashed, length
    for i in range(length):
        prefix.text[i] = character_at(text, i)
    prefix.next = self.buckets[hashed & self.mask]
    self.buckets[hashed & self.mask] = prefix
    self.count += 1
    return prefix


cdef bint make_room_for_prefixes(Slots *slots) noexcept:
    """Double the buckets, unless freeing the entries without subscribers makes enough room."""
    cdef Prefixes *self = &slots.prefixes
    cdef Prefix **old
    cdef Prefix *prefix
    cdef Prefix *following
    cdef Py_ssize_t at, size, grown
    purge_prefixes(self, slots.retired, slots.size // 64)
    old = self.buckets
    size = bucket_count(self)
    if old != NULL and self.count * 2 <= size:
        return True
    grown = 2 * size or FIRST_PREFIXES
    self.buckets = <Prefix **>PyMem_RawCalloc(grown, sizeof(Prefix *))
    if self.buckets == NULL:  # the chains get longer
        self.buckets = old
        return old != NULL
    self.mask = grown - 1
    for at in range(size):
        prefix = old[at]
        while prefix != NULL:
            following = prefix.next
            prefix.next = self.buckets[prefix.hash & self.mask]
            self.buckets[prefix.hash & self.mask] = prefix
            prefix = following
    PyMem_RawFree(old)
    return True


cdef void purge_prefixes(Prefixes *self, const uint64_t *retired, uint32_t words) noexcept:
    """Remove retired slots from the sets, and free the entries without subscribers."""
    cdef Prefix **link
    cdef Prefix *prefix
    cdef Py_ssize_t at
    for at in range(bucket_count(self)):
        link = &self.buckets[at]
        while link[0] != NULL:
            prefix = link[0]
            subscribers_purge(&prefix.subscribers, retired, words)
            if prefix.subscribers.count:
                link = &prefix.next
            else:
                link[0] = prefix.next
                self.count -= 1
                free_prefix(prefix)
    if self.count == 0:
        PyMem_RawFree(self.buckets)
        self.buckets = NULL


cdef inline void free_prefix(Prefix *prefix) noexcept:
    subscribers_free(&prefix.subscribers)
    PyMem_RawFree(prefix)


cdef void free_prefixes(Prefixes *self) noexcept:
    cdef Prefix *prefix
    cdef Py_ssize_t at
    for at in range(bucket_count(self)):
        while self.buckets[at] != NULL:
            prefix = self.buckets[at]
            self.buckets[at] = prefix.next
            free_prefix(prefix)
    PyMem_RawFree(self.buckets)
