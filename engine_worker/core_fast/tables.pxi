# Slabs of records and hash tables of slots.

cdef enum:
    CHUNK_BITS = 10
    CHUNK_RECORDS = 1024


ctypedef struct Slab:
    # Records of one size, in chunks that never move.
    char **chunks
    int32_t chunk_count
    int32_t used  # slots that were given away so far
    int32_t free  # the first of those that came back; each begins with the next one
    size_t size


ctypedef uint64_t (*HashOf)(void *records, int32_t slot) noexcept


ctypedef struct Table:
    # Open addressing with linear probing; an entry is removed by moving those behind it up, so that no
    # tombstone slows a search. Nothing iterates over a table, so its order decides nothing.
    int32_t *slots  # slot + 1; 0: empty
    uint64_t mask
    int64_t count
    void *records
    HashOf hash_of


# The key of all hashes, chosen at random by each process: clients choose their order ids, and must not be
# able to choose ones that collide.
cdef uint64_t _key_0 = <uint64_t>int.from_bytes(os.urandom(8), "little")
cdef uint64_t _key_1 = <uint64_t>int.from_bytes(os.urandom(8), "little")


cdef extern from *:
    void prefetch "__builtin_prefetch"(const void *at) noexcept nogil


cdef int fail_memory() except -1:
    raise MemoryError


cdef void *grown(void *memory, size_t bytes) except NULL:
    cdef void *moved = realloc(memory, bytes)
    if moved == NULL:
        fail_memory()
    return moved


cdef inline void *slab_at(Slab *slab, int32_t slot) noexcept:
    return slab.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1)) * slab.size


cdef int32_t slab_new(Slab *slab) except -1:
    """Return the slot of a new record, all zero."""
    cdef int32_t slot = slab.free
    cdef void *record
    if slot >= 0:
        record = slab_at(slab, slot)
        slab.free = (<int32_t *>record)[0]
    else:
        if slab.used >> CHUNK_BITS == slab.chunk_count:
            if slab.used == CHUNK_RECORDS * (1 << 20):
                raise InvariantBroken("more records than a slot can number")
            slab.chunks = <char **>grown(slab.chunks, (slab.chunk_count + 1) * sizeof(char *))
            slab.chunks[slab.chunk_count] = <char *>grown(NULL, CHUNK_RECORDS * slab.size)
            slab.chunk_count += 1
        slot = slab.used
        slab.used += 1
        record = slab_at(slab, slot)
    memset(record, 0, slab.size)
    return slot


cdef inline void slab_free(Slab *slab, int32_t slot) noexcept:
    (<int32_t *>slab_at(slab, slot))[0] = slab.free
    slab.free = slot


cdef void slab_set_up(Slab *slab, size_t size) noexcept:
    memset(slab, 0, sizeof(Slab))
    slab.size = size
    slab.free = NONE


cdef void slab_let_go(Slab *slab) noexcept:
    cdef int32_t number
    for number in range(slab.chunk_count):
        free(slab.chunks[number])
    free(slab.chunks)
    slab_set_up(slab, slab.size)


cdef int table_set_up(Table *table, void *records, HashOf hash_of) except -1:
    memset(table, 0, sizeof(Table))
    table.slots = <int32_t *>grown(NULL, 64 * sizeof(int32_t))
    memset(table.slots, 0, 64 * sizeof(int32_t))
    table.mask = 63
    table.records = records
    table.hash_of = hash_of
    return 0


cdef int table_add(Table *table, uint64_t hashed, int32_t slot) except -1:
    """Add a slot whose key is not in the table."""
    cdef uint64_t at, old
    cdef int32_t *before
    if <uint64_t>table.count * 4 >= (table.mask + 1) * 3:
        before = table.slots
        table.slots = <int32_t *>grown(NULL, (table.mask + 1) * 2 * sizeof(int32_t))
        memset(table.slots, 0, (table.mask + 1) * 2 * sizeof(int32_t))
        table.mask = table.mask * 2 + 1
        for old in range((table.mask + 1) // 2):
            if before[old]:
                at = table.hash_of(table.records, before[old] - 1) & table.mask
                while table.slots[at]:
                    at = (at + 1) & table.mask
                table.slots[at] = before[old]
        free(before)
    at = hashed & table.mask
    while table.slots[at]:
        at = (at + 1) & table.mask
    table.slots[at] = slot + 1
    table.count += 1
    return 0


cdef int table_remove(Table *table, uint64_t hashed, int32_t slot) except -1:
    """Remove a slot, which is in the table."""
    cdef uint64_t gap = hashed & table.mask, at, wanted
    while table.slots[gap] != slot + 1:
        if not table.slots[gap]:
            raise InvariantBroken("a record is in no table")
        gap = (gap + 1) & table.mask
    at = gap
    while True:
        at = (at + 1) & table.mask
        if not table.slots[at]:
            break
        wanted = table.hash_of(table.records, table.slots[at] - 1) & table.mask
        # Whether the gap lies between where it wants to be and where it is.
        if ((at - wanted) & table.mask) >= ((at - gap) & table.mask):
            table.slots[gap] = table.slots[at]
            gap = at
    table.slots[gap] = 0
    table.count -= 1
    return 0


cdef void table_let_go(Table *table) noexcept:
    free(table.slots)
    table.slots = NULL
    table.count = 0


cdef inline uint64_t hash_number(uint64_t number) noexcept:
    """Return a keyed hash of a number."""
    cdef uint64_t hashed = number ^ _key_0
    hashed ^= hashed >> 33
    hashed *= <uint64_t>0xFF51AFD7ED558CCDULL
    hashed ^= hashed >> 33
    hashed *= _key_1 | 1
    return hashed ^ (hashed >> 32)


cdef inline uint64_t turned(uint64_t word, int bits) noexcept:
    return (word << bits) | (word >> (64 - bits))


cdef inline void sip_round(uint64_t *v) noexcept:
    v[0] += v[1]
    v[1] = turned(v[1], 13) ^ v[0]
    v[0] = turned(v[0], 32)
    v[2] += v[3]
    v[3] = turned(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = turned(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = turned(v[1], 17) ^ v[2]
    v[2] = turned(v[2], 32)


cdef uint64_t hash_name(uint64_t number, const char *at, int32_t length) noexcept:
    """Return SipHash-1-3 of a number and a text."""
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef int32_t done = 0
    v[0] = _key_0 ^ <uint64_t>0x736F6D6570736575ULL
    v[1] = _key_1 ^ <uint64_t>0x646F72616E646F6DULL
    v[2] = _key_0 ^ <uint64_t>0x6C7967656E657261ULL
    v[3] = _key_1 ^ <uint64_t>0x7465646279746573ULL
    v[3] ^= number
    sip_round(v)
    v[0] ^= number
    while done + 8 <= length:
        memcpy(&word, at + done, 8)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
        done += 8
    word = (<uint64_t>length) << 56
    memcpy(&word, at + done, length - done)
    v[3] ^= word
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
