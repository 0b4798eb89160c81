# cython: language_level=3
"""A set of scope slots: who read this key.

    count   words   body
    0..4    0       few[4]             slots, in no order, inside the struct
    any     n > 0   bits -> n words    bit `slot % 64` of word `slot / 64`

Most keys have a handful of readers among thousands of slots and must not pay for a bitset; a hot key has thousands
and must be marked a word at a time. The set moves from the first form to the second when a fifth slot is added, and
back when the last one is discarded. `take` empties it and keeps the words: a hot key is read again at once.

Nothing here touches a Python object. The functions assume that their caller excludes every other thread.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

cdef enum:
    FEW = 4

ctypedef union SubscribersBody:
    uint32_t few[4]
    uint64_t *bits

ctypedef struct Subscribers:
    uint32_t count
    uint32_t words
    SubscribersBody body


cdef inline bint subscribers_has(const Subscribers *self, uint32_t slot) noexcept nogil:
    cdef uint32_t i
    if self.words:
        return slot >> 6 < self.words and (self.body.bits[slot >> 6] >> (slot & 63)) & 1
    for i in range(self.count):
        if self.body.few[i] == slot:
            return True
    return False


cdef inline bint _subscribers_widen(Subscribers *self, uint32_t words) noexcept nogil:
    """Make room for `words` words of bits; False when there is no memory."""
    cdef uint64_t *bits
    cdef uint32_t i, slot
    if self.words:
        bits = <uint64_t *>realloc(self.body.bits, words * sizeof(uint64_t))
        if bits == NULL:
            return False
        memset(bits + self.words, 0, (words - self.words) * sizeof(uint64_t))
    else:
        bits = <uint64_t *>calloc(words, sizeof(uint64_t))
        if bits == NULL:
            return False
        for i in range(self.count):
            slot = self.body.few[i]
            bits[slot >> 6] |= (<uint64_t>1) << (slot & 63)
    self.body.bits = bits
    self.words = words
    return True


cdef inline int subscribers_add(Subscribers *self, uint32_t slot) except -1 nogil:
    """Add a slot that is not in the set."""
    cdef uint32_t i, highest = slot
    if not self.words:
        if self.count < FEW:
            self.body.few[self.count] = slot
            self.count += 1
            return 0
        for i in range(self.count):
            highest = max(highest, self.body.few[i])
    if highest >> 6 >= self.words and not _subscribers_widen(self, (highest >> 6) + 1):
        with gil:
            raise MemoryError()
    self.body.bits[slot >> 6] |= (<uint64_t>1) << (slot & 63)
    self.count += 1
    return 0


cdef inline void subscribers_free(Subscribers *self) noexcept nogil:
    if self.words:
        free(self.body.bits)
    self.words = 0
    self.count = 0


cdef inline void subscribers_discard(Subscribers *self, uint32_t slot) noexcept nogil:
    cdef uint32_t i
    if not subscribers_has(self, slot):
        return
    self.count -= 1
    if self.words:
        self.body.bits[slot >> 6] &= ~((<uint64_t>1) << (slot & 63))
        if self.count == 0:
            subscribers_free(self)
        return
    for i in range(self.count):
        if self.body.few[i] == slot:
            self.body.few[i] = self.body.few[self.count]
            return


cdef inline void subscribers_take(Subscribers *self, uint64_t *target) noexcept nogil:
    """Move every slot into the bitset `target`, which has room for all slots that exist."""
    cdef uint32_t i, slot
    if self.words:
        for i in range(self.words):
            target[i] |= self.body.bits[i]
        memset(self.body.bits, 0, self.words * sizeof(uint64_t))
    else:
        for i in range(self.count):
            slot = self.body.few[i]
            target[slot >> 6] |= (<uint64_t>1) << (slot & 63)
    self.count = 0
