# Reading and writing msgpack, as msgspec writes it: the shortest form of everything.

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    static inline uint64_t big_endian_of(uint64_t number) { return number; }
    #else
    static inline uint64_t big_endian_of(uint64_t number) { return __builtin_bswap64(number); }
    #endif
    """
    uint64_t big_endian_of(uint64_t number) noexcept nogil

cdef enum:
    KEPT_BYTES = 1 << 22
    SLACK = 8  # bytes behind those that are reserved, which may be written over


ctypedef struct Writer:
    unsigned char *bytes
    size_t length
    size_t capacity


ctypedef struct Reader:
    const unsigned char *at
    const unsigned char *end
    # Whether something was met that is not in the canonical form. The decoder of the object core decides
    # about it.
    int is_unusual
    # Whether the bytes were decoded and encoded by msgspec, so that texts are valid and no longer than they
    # may be.
    int is_checked


cdef inline int reserve(Writer *writer, size_t more) except -1:
    """Make room for `more` bytes, which the `put_` functions below do not check."""
    if writer.length + more + SLACK > writer.capacity:
        grow_writer(writer, more)
    return 0


cdef int grow_writer(Writer *writer, size_t more) except -1:
    cdef size_t capacity = writer.capacity * 2 if writer.capacity else 1024
    while writer.length + more + SLACK > capacity:
        capacity *= 2
    writer.bytes = <unsigned char *>grown(writer.bytes, capacity)
    writer.capacity = capacity
    return 0


cdef void writer_let_go(Writer *writer) noexcept:
    free(writer.bytes)
    memset(writer, 0, sizeof(Writer))


cdef inline void empty(Writer *writer) noexcept:
    """Begin anew; what was exceptionally long is freed."""
    if writer.capacity > KEPT_BYTES:
        writer_let_go(writer)
    writer.length = 0


cdef inline void put_byte(Writer *writer, unsigned char byte) noexcept:
    writer.bytes[writer.length] = byte
    writer.length += 1


cdef inline void put_big_endian(Writer *writer, uint64_t number, int size) noexcept:
    # Eight bytes at once, of which those behind the number are written over: `reserve` leaves room for them.
    number = big_endian_of(number << (64 - 8 * size))
    memcpy(writer.bytes + writer.length, &number, 8)
    writer.length += size


cdef inline void put_unsigned(Writer *writer, uint64_t number) noexcept:
    cdef int step
    if number < 128:
        put_byte(writer, <unsigned char>number)
        return
    # Of 1, 2, 4 or 8 bytes: added up, since a processor guesses branches on sizes badly.
    step = (number > 0xFF) + (number > 0xFFFF) + (number > <uint64_t>0xFFFFFFFFULL)
    put_byte(writer, <unsigned char>(0xCC + step))
    put_big_endian(writer, number, 1 << step)


cdef inline void put_number(Writer *writer, int64_t number) noexcept:
    if number >= 0:
        put_unsigned(writer, <uint64_t>number)
    elif number >= -32:
        put_byte(writer, <unsigned char>number)
    elif number >= -128:
        put_byte(writer, 0xD0)
        put_byte(writer, <unsigned char>number)
    elif number >= -32768:
        put_byte(writer, 0xD1)
        put_big_endian(writer, <uint64_t>number, 2)
    elif number >= -2147483648LL:
        put_byte(writer, 0xD2)
        put_big_endian(writer, <uint64_t>number, 4)
    else:
        put_byte(writer, 0xD3)
        put_big_endian(writer, <uint64_t>number, 8)


cdef inline void put_bytes(Writer *writer, const void *at, size_t length) noexcept:
    if length:
        memcpy(writer.bytes + writer.length, at, length)
    writer.length += length


cdef inline void put_text(Writer *writer, const char *at, size_t length) noexcept:
    if length < 32:
        put_byte(writer, <unsigned char>(0xA0 | length))
    elif length <= 0xFF:
        put_byte(writer, 0xD9)
        put_byte(writer, <unsigned char>length)
    elif length <= 0xFFFF:
        put_byte(writer, 0xDA)
        put_big_endian(writer, length, 2)
    else:
        put_byte(writer, 0xDB)
        put_big_endian(writer, length, 4)
    put_bytes(writer, at, length)


cdef inline void put_array(Writer *writer, size_t count) noexcept:
    # No byte behind the head is written over: it may be the last of an object of its own.
    if count < 16:
        put_byte(writer, <unsigned char>(0x90 | count))
    elif count <= 0xFFFF:
        put_byte(writer, 0xDC)
        put_byte(writer, <unsigned char>(count >> 8))
        put_byte(writer, <unsigned char>count)
    else:
        put_byte(writer, 0xDD)
        put_byte(writer, <unsigned char>(count >> 24))
        put_byte(writer, <unsigned char>(count >> 16))
        put_byte(writer, <unsigned char>(count >> 8))
        put_byte(writer, <unsigned char>count)


cdef inline size_t array_size(size_t count) noexcept:
    """Return the size of the head of an array."""
    return 1 if count < 16 else 3 if count <= 0xFFFF else 5


cdef void begin_writing(Writer *writer, bytes made) noexcept:
    """Write into new bytes, of the right length, that nobody else has seen yet."""
    writer.bytes = <unsigned char *>PyBytes_AS_STRING(made)
    writer.length, writer.capacity = 0, <size_t>len(made)


cdef inline void put_nil(Writer *writer) noexcept:
    put_byte(writer, 0xC0)


cdef inline void put_truth(Writer *writer, int truth) noexcept:
    put_byte(writer, 0xC3 if truth else 0xC2)


cdef inline uint64_t big_endian(const unsigned char *at, int size) noexcept:
    cdef uint64_t number = 0
    memcpy(<unsigned char *>&number + 8 - size, at, size)
    return big_endian_of(number)


cdef inline int64_t read_number(Reader *reader) noexcept:
    """Return a whole number of 64 bits with a sign; a larger one is unusual."""
    cdef unsigned char head
    cdef int size
    cdef uint64_t number
    if reader.at >= reader.end:
        reader.is_unusual = True
        return 0
    head = reader.at[0]
    reader.at += 1
    if head < 0x80:
        return head
    if head >= 0xE0:
        return <int64_t>head - 256
    if 0xCC <= head <= 0xCF:
        size = 1 << (head - 0xCC)
    elif 0xD0 <= head <= 0xD3:
        size = 1 << (head - 0xD0)
    else:
        reader.is_unusual = True
        return 0
    if reader.end - reader.at < size:
        reader.is_unusual = True
        return 0
    number = big_endian(reader.at, size)
    reader.at += size
    if head <= 0xCF:
        if number >> 63:
            reader.is_unusual = True
        return <int64_t>number
    if size == 1:
        return <int8_t>number
    if size == 2:
        return <int16_t>number
    if size == 4:
        return <int32_t>number
    return <int64_t>number


cdef inline int64_t read_number_from(Reader *reader, int64_t least) noexcept:
    cdef int64_t number = read_number(reader)
    if number < least:
        reader.is_unusual = True
    return number


cdef inline uint8_t read_choice(Reader *reader, int least, int most) noexcept:
    """Return a member of an enum whose numbers have no gap."""
    cdef int64_t number = read_number(reader)
    if number < least or number > most:
        reader.is_unusual = True
        return <uint8_t>least
    return <uint8_t>number


cdef inline uint8_t read_truth(Reader *reader) noexcept:
    if reader.at >= reader.end or not 0xC2 <= reader.at[0] <= 0xC3:
        reader.is_unusual = True
        return 0
    reader.at += 1
    return reader.at[-1] == 0xC3


cdef inline bint read_nil(Reader *reader) noexcept:
    """Return whether nil comes next, and pass over it."""
    if reader.at >= reader.end:
        reader.is_unusual = True
        return False
    if reader.at[0] != 0xC0:
        return False
    reader.at += 1
    return True


cdef inline void read_text(Reader *reader, Text *text) noexcept:
    """Read a text of up to 200 characters, all of them ASCII; others are unusual."""
    cdef unsigned char head
    cdef int32_t length, position
    cdef unsigned char seen = 0
    text.at = NULL
    text.length = 0
    if reader.at >= reader.end:
        reader.is_unusual = True
        return
    head = reader.at[0]
    reader.at += 1
    if 0xA0 <= head <= 0xBF:
        length = head & 0x1F
    elif head == 0xD9 and reader.end - reader.at >= 1:
        length = reader.at[0]
        reader.at += 1
    elif head == 0xDA and reader.end - reader.at >= 2:
        length = <int32_t>big_endian(reader.at, 2)
        reader.at += 2
    elif head == 0xDB and reader.end - reader.at >= 4:
        length = <int32_t>big_endian(reader.at, 4)
        reader.at += 4
    else:
        reader.is_unusual = True
        return
    if length < 0 or reader.end - reader.at < length:
        reader.is_unusual = True
        return
    if not reader.is_checked:
        for position in range(length):
            seen |= reader.at[position]
        if seen & 0x80 or length > 200:
            reader.is_unusual = True
            return
    text.at = <const char *>reader.at
    text.length = length
    reader.at += length


cdef inline int64_t read_array(Reader *reader) noexcept:
    cdef unsigned char head
    if reader.at < reader.end:
        head = reader.at[0]
        reader.at += 1
        if 0x90 <= head <= 0x9F:
            return head & 0x0F
        if head == 0xDC and reader.end - reader.at >= 2:
            reader.at += 2
            return <int64_t>big_endian(reader.at - 2, 2)
        if head == 0xDD and reader.end - reader.at >= 4:
            reader.at += 4
            return <int64_t>big_endian(reader.at - 4, 4)
    reader.is_unusual = True
    return 0


cdef void pass_over(Reader *reader) noexcept:
    """Pass over one item of numbers, texts, bytes, nil, truth values and arrays of such."""
    cdef int64_t left = 1, length
    cdef unsigned char head
    # A counter instead of recursion, which deep nesting could exhaust.
    while left and not reader.is_unusual:
        left -= 1
        if reader.at >= reader.end:
            reader.is_unusual = True
            return
        head = reader.at[0]
        length = -1
        if 0x90 <= head <= 0x9F or head == 0xDC or head == 0xDD:
            left += read_array(reader)
            continue
        if head == 0xC0 or head == 0xC2 or head == 0xC3:
            reader.at += 1
            continue
        if 0xA0 <= head <= 0xBF:
            length = head & 0x1F
            reader.at += 1
        elif head == 0xC4 or head == 0xD9:
            length = read_length(reader, 1)
        elif head == 0xC5 or head == 0xDA:
            length = read_length(reader, 2)
        elif head == 0xC6 or head == 0xDB:
            length = read_length(reader, 4)
        else:
            # A number of any size: the object core judges its value.
            if head < 0x80 or head >= 0xE0:
                length = 0
            elif 0xCC <= head <= 0xD3:
                length = 1 << (head & 3)
            reader.at += 1
        if length < 0 or reader.end - reader.at < length:
            reader.is_unusual = True
            return
        reader.at += length


cdef inline int64_t read_length(Reader *reader, int size) noexcept:
    cdef int64_t length
    if reader.end - reader.at <= size:
        return -1
    length = <int64_t>big_endian(reader.at + 1, size)
    reader.at += 1 + size
    return length


cdef inline void expect_array(Reader *reader, int64_t count) noexcept:
    if read_array(reader) != count:
        reader.is_unusual = True
