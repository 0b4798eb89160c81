# cython: language_level=3
"""A set of the slots of scopes: the subscribers of a key.

    words   body
    0       few[4]             `count` slots, in no order, inside the struct
    n > 0   bits -> n words    a bitset: bit `slot % 64` of word `slot / 64`; `count` bits are set

Most keys have a handful of readers among thousands of slots, and a bitset would waste memory. A hot key has thousands
of readers, and is marked a word at a time. The set becomes a bitset when a fifth slot is added. `subscribers_take`
empties it and keeps the words, because a hot key is read again soon. `subscribers_purge` turns small sets back into
arrays.

A retired slot stays in its sets. Functions that use the slots skip it with the bitset of slots that are `alive`, and
the next purge removes it.

No function touches a Python object. The caller excludes all other threads.
"""
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport uint32_t, uint64_t
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


cdef inline bint has_bit(const uint64_t *bits, uint32_t slot) noexcept nogil:
    return (bits[slot >> 6] >> (slot & 63)) & 1


cdef inline void set_bit(uint64_t *bits, uint32_t slot) noexcept nogil:
    bits[slot >> 6] |= (<uint64_t>1) << (slot & 63)


cdef inline void clear_bit(uint64_t *bits, uint32_t slot) noexcept nogil:
    bits[slot >> 6] &= ~((<uint64_t>1) << (slot & 63))


cdef inline bint subscribers_has(const Subscribers *self, uint32_t slot) noexcept nogil:
    cdef uint32_t i
    if self.words:
        return slot >> 6 < self.words and has_bit(self.body.bits, slot)
    for i in range(self.count):
        if self.body.few[i] == slot:
            return True
    return False


cdef inline bint subscribers_any(const Subscribers *self, const uint64_t *alive) noexcept nogil:
    """Whether the set contains a slot that is alive."""
    cdef uint32_t i
    if self.words:
        for i in range(self.words):
            if self.body.bits[i] & alive[i]:
                return True
        return False
    for i in range(self.count):
        if has_bit(alive, self.body.few[i]):
            return True
    return False


cdef inline void subscribers_free(Subscribers *self) noexcept nogil:
    if self.words:
        PyMem_RawFree(self.body.bits)
    self.words = 0
    self.count = 0


cdef inline bint _subscribers_grow(Subscribers *self, uint32_t words) noexcept nogil:
    """Make room for `words` words of bits; False if there is no memory."""
    cdef uint64_t *bits
    cdef uint32_t i
    if self.words:
        bits = <uint64_t *>PyMem_RawRealloc(self.body.bits, words * sizeof(uint64_t))
        if bits == NULL:
            return False
        memset(bits + self.words, 0, (words - self.words) * sizeof(uint64_t))
    else:
        bits = <uint64_t *>PyMem_RawCalloc(words, sizeof(uint64_t))
        if bits == NULL:
            return False
        for i in range(self.count):
            set_bit(bits, self.body.few[i])
    self.body.bits = bits
    self.words = words
    return True


cdef inline bint subscribers_add(Subscribers *self, uint32_t slot, const uint64_t *alive) noexcept nogil:
    """Add a slot that is not in the set; False if there is no memory."""
    cdef uint32_t i, kept = 0, highest = slot
    if not self.words:
        if self.count == FEW:
            for i in range(<uint32_t>FEW):
                if has_bit(alive, self.body.few[i]):
                    self.body.few[kept] = self.body.few[i]
                    kept += 1
            self.count = kept
        if self.count < FEW:
            self.body.few[self.count] = slot
            self.count += 1
            return True
        for i in range(<uint32_t>FEW):
            highest = max(highest, self.body.few[i])
    if highest >> 6 >= self.words and not _subscribers_grow(self, (highest >> 6) + 1):
        return False
    set_bit(self.body.bits, slot)
    self.count += 1
    return True


cdef inline void subscribers_discard(Subscribers *self, uint32_t slot) noexcept nogil:
    """Remove a slot. The set remains an array or a bitset, so that adding the slot again needs no memory."""
    cdef uint32_t i
    if not subscribers_has(self, slot):
        return
    self.count -= 1
    if self.words:
        clear_bit(self.body.bits, slot)
        return
    for i in range(self.count):
        if self.body.few[i] == slot:
            self.body.few[i] = self.body.few[self.count]
            return


cdef inline bint subscribers_take(Subscribers *self, uint64_t *target, const uint64_t *alive) noexcept nogil:
    """Move all slots that are alive into the bitset `target`, and forget the others. Returns whether any was alive."""
    cdef uint32_t i
    cdef uint64_t moved, some = 0
    if self.words:
        for i in range(self.words):
            moved = self.body.bits[i] & alive[i]
            target[i] |= moved
            some |= moved
        memset(self.body.bits, 0, self.words * sizeof(uint64_t))
    else:
        for i in range(self.count):
            if has_bit(alive, self.body.few[i]):
                set_bit(target, self.body.few[i])
                some = 1
    self.count = 0
    return some != 0


cdef inline bint subscribers_take_some(Subscribers *self, const uint64_t *some, uint64_t *target) noexcept nogil:
    """Move the slots that are also in the bitset `some` into the bitset `target`. Returns whether there were any."""
    cdef uint32_t i, kept = 0, before = self.count
    cdef uint64_t moved
    if self.words:
        for i in range(self.words):
            moved = self.body.bits[i] & some[i]
            target[i] |= moved
            self.body.bits[i] &= ~moved
            while moved:
                self.count -= 1
                moved &= moved - 1
        return self.count != before
    for i in range(before):
        if has_bit(some, self.body.few[i]):
            set_bit(target, self.body.few[i])
        else:
            self.body.few[kept] = self.body.few[i]
            kept += 1
    self.count = kept
    return kept != before


cdef inline bint subscribers_move(Subscribers *self, Subscribers *target, const uint64_t *alive) noexcept nogil:
    """Move all slots that are alive into another set, and forget the others.

    False if there is no memory; this set still contains what was not moved.
    """
    cdef uint32_t i, slot
    cdef uint32_t slots = 64 * self.words if self.words else self.count
    for i in range(slots):
        slot = i if self.words else self.body.few[slots - 1 - i]
        if self.words and not has_bit(self.body.bits, slot):
            continue
        if has_bit(alive, slot) and not subscribers_has(target, slot) and not subscribers_add(target, slot, alive):
            return False
        subscribers_discard(self, slot)
    return True


cdef inline void subscribers_purge(Subscribers *self, const uint64_t *retired, uint32_t words) noexcept nogil:
    """Remove the slots in the bitset `retired`, which has `words` words."""
    cdef uint32_t i, slot, kept = 0
    cdef uint32_t few[4]
    cdef uint64_t word
    if not self.words:
        for i in range(self.count):
            slot = self.body.few[i]
            if slot >> 6 >= words or not has_bit(retired, slot):
                self.body.few[kept] = slot
                kept += 1
        self.count = kept
        return
    for i in range(self.words):
        if i < words:
            self.body.bits[i] &= ~retired[i]
        word = self.body.bits[i]
        while word:
            if kept < FEW:
                slot = i << 6
                while not has_bit(self.body.bits, slot) or (kept and few[kept - 1] >= slot):
                    slot += 1
                few[kept] = slot
            kept += 1
            word &= word - 1
    if kept <= FEW:
        subscribers_free(self)
        for i in range(kept):
            self.body.few[i] = few[i]
    self.count = kept
