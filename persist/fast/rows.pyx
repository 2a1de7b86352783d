# cython: language_level=3, cdivision=True, infer_types=False
"""From the bytes of events to the bytes of COPY, without an object in between.

The same rows as persist/rows.py, of frames in which everything is usual: today's events in their canonical
form, ASCII texts, known markets, numbers of 63 bits. `copies` leaves all others to that module, which also
decides what is wrong with them.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

SOURCES_HASH = "@SOURCES_HASH@"
"""Of the sources that the extension was built from; build.py fills it in."""

cdef enum:
    FORMAT = 2

    TRADE_EXECUTED = 1
    DEPTH_CHANGED = 2
    ORDER_ACCEPTED = 13
    ORDER_FILLED = 14
    ORDER_CLOSED = 15
    FUNDS_RELEASED = 16
    ACCOUNT_CLOSED = 18
    STATE_HASHED = 21
    TIME_PASSED = 22

    # The largest members of the enums of protocol/orders.py; each begins with the number in `read_choice`.
    SELL = 2
    MARKET = 3
    FOK = 3
    EXPIRE_BOTH = 3
    PENDING_NEW = 7
    CLOSE_REASON_MAX = 9
    TAKER = 2

    BUY = 1

    FEES_ACCOUNT = -1
    CLEARING_ACCOUNT = -2

    ROW_BYTES = 1_200  # more than any row: at most 200 bytes for each of four texts

cdef int64_t DATABASE_EPOCH_MS = 946_684_800_000
cdef int64_t TIME_MS_MAX = 9_000_000_000_000_000


ctypedef struct Text:
    # Bytes that belong to somebody else: to the frame that is being read, or to a market's name.
    const char *at
    int32_t length


cdef int fail_memory() except -1:
    raise MemoryError


cdef void *grown(void *memory, size_t bytes) except NULL:
    cdef void *moved = realloc(memory, bytes)
    if moved == NULL:
        fail_memory()
    return moved


include "wire.pxi"


cdef extern from *:
    """
    static inline int product_overflows(int64_t left, int64_t right, int64_t *product) {
        return __builtin_mul_overflow(left, right, product);
    }
    """
    int product_overflows(int64_t left, int64_t right, int64_t *product) noexcept nogil


ctypedef struct MarketRecord:
    Text symbol
    Text base
    Text quote
    int64_t quote_per_tick_lot
    int64_t base_per_lot


ctypedef struct Order:
    int64_t order_id
    int64_t account_id
    Text client_order_id
    Text market
    uint8_t side
    uint8_t order_type
    uint8_t time_in_force
    uint8_t prevention
    uint8_t status
    uint8_t close_reason
    uint8_t has_strategy_id
    uint8_t has_strategy_type
    uint8_t has_course
    int64_t price
    int64_t quantity
    int64_t quote_quantity
    int64_t cum_quantity
    int64_t cum_quote
    int64_t accepted_ms
    int64_t updated_ms
    int64_t version
    int64_t strategy_id
    int64_t strategy_type
    int64_t prevented_quantity
    int64_t prevented_match_id


cdef class Markets:
    """What rows need of markets: symbols, assets, and the sizes of tick and lot in units."""

    cdef MarketRecord *records
    cdef int32_t count
    cdef int32_t last
    cdef dict numbers
    cdef list kept

    def __init__(self, markets):
        """Take (symbol, base, quote, quote_per_tick_lot, base_per_lot) of each market."""
        cdef int32_t number = 0
        cdef MarketRecord *record
        markets = list(markets)
        self.numbers, self.kept = {}, []
        self.records = <MarketRecord *>grown(NULL, (len(markets) + 1) * sizeof(MarketRecord))
        for symbol, base, quote, quote_per_tick_lot, base_per_lot in markets:
            record = &self.records[number]
            self.keep(&record.symbol, symbol)
            self.keep(&record.base, base)
            self.keep(&record.quote, quote)
            record.quote_per_tick_lot, record.base_per_lot = quote_per_tick_lot, base_per_lot
            self.numbers[symbol.encode()] = number
            number += 1
        self.count = number

    def __dealloc__(self):
        free(self.records)

    cdef int keep(self, Text *text, str name) except -1:
        cdef bytes encoded = name.encode()
        self.kept.append(encoded)
        text.at, text.length = PyBytes_AS_STRING(encoded), <int32_t>len(encoded)
        return 0

    cdef MarketRecord *find(self, Text *symbol) except? NULL:
        """Return the market, or NULL."""
        cdef MarketRecord *record
        if self.count:
            record = &self.records[self.last]
            if is_same(&record.symbol, symbol):
                return record
        number = self.numbers.get(symbol.at[: symbol.length])
        if number is None:
            return NULL
        self.last = number
        return &self.records[self.last]


cdef inline bint is_same(Text *left, Text *right) noexcept:
    return left.length == right.length and not memcmp(left.at, right.at, left.length)


# A row of COPY BINARY: its number of fields, then each field's length and bytes, big endian.

cdef inline void put_fields(Writer *writer, int count) noexcept:
    put_big_endian(writer, <uint64_t>count, 2)


cdef inline void put_int8(Writer *writer, int64_t number) noexcept:
    put_big_endian(writer, 8, 4)
    put_big_endian(writer, <uint64_t>number, 8)


cdef inline void put_int4(Writer *writer, int64_t number) noexcept:
    put_big_endian(writer, 4, 4)
    put_big_endian(writer, <uint64_t>number, 4)


cdef inline void put_int2(Writer *writer, int64_t number) noexcept:
    put_big_endian(writer, 2, 4)
    put_big_endian(writer, <uint64_t>number, 2)


cdef inline void put_null(Writer *writer) noexcept:
    put_big_endian(writer, 0xFFFFFFFF, 4)


cdef inline void put_int8_or_null(Writer *writer, bint has_one, int64_t number) noexcept:
    if has_one:
        put_int8(writer, number)
    else:
        put_null(writer)


cdef inline void put_column(Writer *writer, const char *at, int32_t length) noexcept:
    put_big_endian(writer, <uint64_t>length, 4)
    put_bytes(writer, at, length)


cdef inline void put_time(Writer *writer, int64_t time_ms) noexcept:
    put_int8(writer, (time_ms - DATABASE_EPOCH_MS) * 1_000)


cdef inline int begin_copy(Writer *writer) except -1:
    reserve(writer, 19)
    put_bytes(writer, b"PGCOPY\n\xff\r\n\x00", 11)
    put_big_endian(writer, 0, 8)
    return 0


cdef bytes end_copy(Writer *writer):
    reserve(writer, 2)
    put_big_endian(writer, 0xFFFF, 2)
    return PyBytes_FromStringAndSize(<char *>writer.bytes, writer.length)


# Events.

cdef inline int64_t read_time(Reader *reader) noexcept:
    cdef int64_t time_ms = read_number_from(reader, 0)
    if time_ms > TIME_MS_MAX:
        reader.is_unusual = True
    return time_ms


cdef inline void read_name(Reader *reader, Text *text) noexcept:
    """Read a text that the database takes: one without a zero byte."""
    read_text(reader, text)
    if text.at != NULL and memchr_zero(text):
        reader.is_unusual = True


cdef inline bint memchr_zero(Text *text) noexcept:
    cdef int32_t position
    for position in range(text.length):
        if not text.at[position]:
            return True
    return False


cdef void read_order(Reader *reader, Order *order) noexcept:
    memset(order, 0, sizeof(Order))
    expect_array(reader, 22)
    order.order_id = read_number(reader)
    order.account_id = read_number(reader)
    read_name(reader, &order.client_order_id)
    read_name(reader, &order.market)
    order.side = read_choice(reader, BUY, SELL)
    order.order_type = read_choice(reader, 1, MARKET)
    order.time_in_force = read_choice(reader, 1, FOK)
    order.price = read_number(reader)
    order.quantity = read_number(reader)
    order.quote_quantity = read_number(reader)
    order.prevention = read_choice(reader, 0, EXPIRE_BOTH)
    order.status = read_choice(reader, 0, PENDING_NEW)
    order.cum_quantity = read_number(reader)
    order.cum_quote = read_number(reader)
    read_number(reader)
    order.accepted_ms = read_time(reader)
    order.updated_ms = read_time(reader)
    read_number(reader)
    order.version = read_number_from(reader, 0)
    if order.version > 0x7FFFFFFF:
        reader.is_unusual = True
    if not read_nil(reader):
        order.close_reason = read_choice(reader, 1, CLOSE_REASON_MAX)
    if not read_nil(reader):
        read_strategy(reader, order)
    if not read_nil(reader):
        expect_array(reader, 5)
        read_number(reader)
        read_number(reader)
        read_number(reader)
        order.prevented_quantity = read_number(reader)
        order.prevented_match_id = read_number(reader)
        order.has_course = True


cdef void read_strategy(Reader *reader, Order *order) noexcept:
    """Read terms; shards accept none but a strategy so far."""
    cdef int number
    expect_array(reader, 7)
    for number in range(4):
        if read_number(reader):
            reader.is_unusual = True
    if not read_nil(reader):
        reader.is_unusual = True
    if not read_nil(reader):
        order.strategy_id, order.has_strategy_id = read_number_from(reader, 0), True
    if not read_nil(reader):
        order.strategy_type, order.has_strategy_type = read_number_from(reader, 0), True


ctypedef struct Totals:
    # An account's total of the two assets of a market after an event, as far as the event says them.
    bint has_base
    bint has_quote
    int64_t base
    int64_t quote


cdef void read_balances(Reader *reader, MarketRecord *market, Totals *totals) noexcept:
    cdef int64_t count = read_array(reader), number, available, held
    cdef Text asset
    memset(totals, 0, sizeof(Totals))
    for number in range(count):
        if reader.is_unusual:
            return
        expect_array(reader, 3)
        read_name(reader, &asset)
        available, held = read_number_from(reader, 0), read_number_from(reader, 0)
        if held > INT64_LIMIT - available:
            reader.is_unusual = True
        if market == NULL or reader.is_unusual:
            continue
        if not totals.has_base and is_same(&asset, &market.base):
            totals.has_base, totals.base = True, available + held
        elif not totals.has_quote and is_same(&asset, &market.quote):
            totals.has_quote, totals.quote = True, available + held


cdef int64_t INT64_LIMIT = 0x7FFFFFFFFFFFFFFF


cdef class _Batch:
    """The rows of a batch, table by table, and the last state of each of its orders."""

    cdef Writer trades
    cdef Writer fills
    cdef Writer ledger
    cdef Writer orders_copy
    cdef Order *orders
    cdef int32_t order_count
    cdef int32_t order_capacity
    cdef int32_t *slots  # by order id: a number of an order + 1; 0: free
    cdef int64_t mask
    cdef Markets markets
    cdef int64_t shard
    cdef int64_t fill_count
    cdef int64_t event_count
    cdef list trade_events

    def __cinit__(self, Markets markets, int64_t shard):
        self.markets, self.shard = markets, shard
        self.trade_events = []
        self.mask = 1023
        self.slots = <int32_t *>grown(NULL, (self.mask + 1) * sizeof(int32_t))
        memset(self.slots, 0, (self.mask + 1) * sizeof(int32_t))
        begin_copy(&self.trades)
        begin_copy(&self.fills)
        begin_copy(&self.ledger)
        begin_copy(&self.orders_copy)

    def __dealloc__(self):
        free(self.orders)
        free(self.slots)
        writer_let_go(&self.trades)
        writer_let_go(&self.fills)
        writer_let_go(&self.ledger)
        writer_let_go(&self.orders_copy)

    cdef int64_t slot_of(self, int64_t order_id) noexcept:
        """Return the slot of an order, or the free one where it belongs."""
        cdef int64_t at = <int64_t>((<uint64_t>order_id * 0x9E3779B97F4A7C15ULL) >> 20) & self.mask
        while self.slots[at] and self.orders[self.slots[at] - 1].order_id != order_id:
            at = (at + 1) & self.mask
        return at

    cdef int note_order(self, Order *order) except -1:
        """Take over an order's state, the last one so far."""
        cdef int64_t at
        cdef int32_t number
        if 2 * (self.order_count + 1) > self.mask:
            self.mask = 2 * self.mask + 1
            self.slots = <int32_t *>grown(self.slots, (self.mask + 1) * sizeof(int32_t))
            memset(self.slots, 0, (self.mask + 1) * sizeof(int32_t))
            for number in range(self.order_count):
                self.slots[self.slot_of(self.orders[number].order_id)] = number + 1
        at = self.slot_of(order.order_id)
        if not self.slots[at]:
            if self.order_count == self.order_capacity:
                self.order_capacity = 2 * self.order_capacity if self.order_capacity else 256
                self.orders = <Order *>grown(self.orders, self.order_capacity * sizeof(Order))
            self.order_count += 1
            self.slots[at] = self.order_count
        self.orders[self.slots[at] - 1] = order[0]
        return 0

    cdef bint add_frame(self, bytes stream_id, bytes frame) except -1:
        """Add the rows of an entry; return whether all of it is usual."""
        cdef Reader reader
        cdef Text stream_text
        cdef int64_t count, number
        reader.at = <const unsigned char *>PyBytes_AS_STRING(frame)
        reader.end = reader.at + len(frame)
        reader.is_unusual = reader.is_checked = False
        stream_text.at, stream_text.length = PyBytes_AS_STRING(stream_id), <int32_t>len(stream_id)
        expect_array(&reader, 3)
        if read_number(&reader) != FORMAT:
            return False
        read_number_from(&reader, 0)
        count = read_array(&reader)
        for number in range(count):
            if reader.is_unusual or not self.add_event(&reader, &stream_text, number, frame):
                return False
        self.event_count += count
        return not reader.is_unusual and reader.at == reader.end

    cdef bint add_event(self, Reader *reader, Text *stream_id, int64_t number, bytes frame) except -1:
        cdef const unsigned char *start = reader.at
        cdef int64_t fields = read_array(reader), tag = read_number(reader), item, count
        cdef Order order
        cdef Totals totals
        cdef Text text
        if reader.is_unusual:
            return False
        if tag == ORDER_FILLED and fields == 11:
            return self.add_fill(reader, stream_id, number)
        if tag == TRADE_EXECUTED and fields == 13:
            if not self.add_trade(reader):
                return False
            self.trade_events.append(
                PyBytes_FromStringAndSize(<const char *>start, reader.at - start)
            )
            return True
        read_time(reader)
        if (tag == ORDER_ACCEPTED and fields == 4) or (tag == ORDER_CLOSED and fields == 8):
            read_order(reader, &order)
            if tag == ORDER_CLOSED:
                read_choice(reader, 1, CLOSE_REASON_MAX)
            read_balances(reader, NULL, &totals)
            if tag == ORDER_CLOSED:
                read_name(reader, &text)
                if not read_nil(reader):
                    reader.is_unusual = True  # the reason is a prevented match
                read_number(reader)
            if reader.is_unusual:
                return False
            self.note_order(&order)
        elif tag == DEPTH_CHANGED and fields == 5:
            read_name(reader, &text)
            read_number(reader)
            count = read_array(reader)
            for item in range(count):
                if reader.is_unusual:
                    return False
                expect_array(reader, 3)
                read_choice(reader, BUY, SELL)
                read_number(reader)
                read_number(reader)
        elif tag == FUNDS_RELEASED and fields == 4:
            read_number(reader)
            read_balances(reader, NULL, &totals)
        elif tag == ACCOUNT_CLOSED and fields == 3:
            read_number(reader)
        elif tag == STATE_HASHED and fields == 4:
            read_number(reader)
            read_name(reader, &text)
        elif not (tag == TIME_PASSED and fields == 2):
            return False
        return not reader.is_unusual

    cdef bint add_trade(self, Reader *reader) except -1:
        cdef int64_t time_ms = read_time(reader), notional
        cdef Text symbol
        cdef MarketRecord *market
        cdef int64_t sequence, trade_id, aggregate_id, price, quantity, side
        read_name(reader, &symbol)
        sequence, trade_id, aggregate_id = read_number(reader), read_number(reader), read_number(reader)
        price, quantity = read_number(reader), read_number(reader)
        side = read_choice(reader, BUY, SELL)
        if reader.is_unusual:
            return False
        market = self.markets.find(&symbol)
        if market == NULL or product_overflows(price, quantity, &notional):
            return False
        if product_overflows(notional, market.quote_per_tick_lot, &notional):
            return False
        reserve(&self.trades, ROW_BYTES)
        put_fields(&self.trades, 13)
        put_time(&self.trades, time_ms)
        put_column(&self.trades, symbol.at, symbol.length)
        put_int8(&self.trades, trade_id)
        put_int8(&self.trades, aggregate_id)
        put_int8(&self.trades, sequence)
        put_int8(&self.trades, price)
        put_int8(&self.trades, quantity)
        put_int8(&self.trades, notional)
        put_int2(&self.trades, side)
        # Maker's and taker's order, maker's and taker's account.
        put_int8(&self.trades, read_number(reader))
        put_int8(&self.trades, read_number(reader))
        put_int8(&self.trades, read_number(reader))
        put_int8(&self.trades, read_number(reader))
        return not reader.is_unusual

    cdef bint add_fill(self, Reader *reader, Text *stream_id, int64_t number) except -1:
        cdef int64_t time_ms = read_time(reader), trade_id, price, quantity, quote, fee, base_units
        cdef uint8_t liquidity
        cdef Order order
        cdef Text fee_asset
        cdef Totals totals
        cdef MarketRecord *market
        cdef Writer *fills = &self.fills
        read_order(reader, &order)
        trade_id, price, quantity = read_number(reader), read_number(reader), read_number(reader)
        quote = read_number_from(reader, 0)
        liquidity = read_choice(reader, 1, TAKER)
        fee = read_number_from(reader, 0)
        read_name(reader, &fee_asset)
        if reader.is_unusual:
            return False
        market = self.markets.find(&order.market)
        if market == NULL:
            return False
        read_balances(reader, market, &totals)
        if reader.is_unusual or quantity < 0 or product_overflows(quantity, market.base_per_lot, &base_units):
            return False
        self.note_order(&order)
        reserve(fills, ROW_BYTES)
        put_fields(fills, 12)
        put_time(fills, time_ms)
        put_int8(fills, order.account_id)
        put_column(fills, order.market.at, order.market.length)
        put_int8(fills, order.order_id)
        put_int8(fills, trade_id)
        put_int2(fills, order.side)
        put_int8(fills, price)
        put_int8(fills, quantity)
        put_int8(fills, quote)
        put_int2(fills, liquidity)
        put_int8(fills, fee)
        put_column(fills, fee_asset.at, fee_asset.length)
        self.fill_count += 1
        # Both sides of a trade settle separately: against the clearing account, entry by entry.
        cdef Entry entry
        entry.time_ms, entry.stream_id, entry.event = time_ms, stream_id, number
        entry.market, entry.trade_id = &market.symbol, trade_id
        if order.side == BUY:
            self.add_exchange(
                &entry, order.account_id, fee, &market.quote, quote, totals.has_quote, totals.quote,
                &market.base, base_units, totals.has_base, totals.base,
            )
        else:
            self.add_exchange(
                &entry, order.account_id, fee, &market.base, base_units, totals.has_base, totals.base,
                &market.quote, quote, totals.has_quote, totals.quote,
            )
        return True

    cdef int add_exchange(
        self, Entry *entry, int64_t account_id, int64_t fee,
        Text *given_asset, int64_t given, bint has_given, int64_t given_total,
        Text *received_asset, int64_t received, bint has_received, int64_t received_total,
    ) except -1:
        self.add_entry(entry, 0, account_id, given_asset, -given, False, has_given, given_total)
        self.add_entry(entry, 1, CLEARING_ACCOUNT, given_asset, given, False, False, 0)
        self.add_entry(entry, 2, account_id, received_asset, received - fee, False, has_received, received_total)
        self.add_entry(entry, 3, CLEARING_ACCOUNT, received_asset, -received, False, False, 0)
        if fee:
            self.add_entry(entry, 4, FEES_ACCOUNT, received_asset, fee, True, False, 0)
        return 0

    cdef int add_entry(
        self, Entry *entry, int number, int64_t account_id, Text *asset, int64_t amount,
        bint is_fee, bint has_balance, int64_t balance,
    ) except -1:
        cdef Writer *ledger = &self.ledger
        cdef size_t reference
        reserve(ledger, ROW_BYTES)
        put_fields(ledger, 11)
        put_time(ledger, entry.time_ms)
        put_int2(ledger, self.shard)
        put_column(ledger, entry.stream_id.at, entry.stream_id.length)
        put_int4(ledger, entry.event)
        put_int2(ledger, number)
        put_int8(ledger, account_id)
        put_column(ledger, asset.at, asset.length)
        put_int8(ledger, amount)
        if is_fee:
            put_column(ledger, b"fee", 3)
        else:
            put_column(ledger, b"trade", 5)
        # MARKET:TRADE_ID; its length is written when it is known.
        reference = ledger.length
        ledger.length += 4
        put_bytes(ledger, entry.market.at, entry.market.length)
        put_byte(ledger, 58)
        put_decimal(ledger, entry.trade_id)
        put_length(ledger, reference)
        put_int8_or_null(ledger, has_balance, balance)
        return 0

    cdef int add_order_rows(self) except -1:
        cdef Writer *copy = &self.orders_copy
        cdef Order *order
        cdef int32_t number
        for number in range(self.order_count):
            order = &self.orders[number]
            reserve(copy, ROW_BYTES)
            put_fields(copy, 22)
            put_int8(copy, order.order_id)
            put_int8(copy, order.account_id)
            put_column(copy, order.client_order_id.at, order.client_order_id.length)
            put_column(copy, order.market.at, order.market.length)
            put_int2(copy, order.side)
            put_int2(copy, order.order_type)
            put_int2(copy, order.time_in_force)
            put_int8(copy, order.price)
            put_int8(copy, order.quantity)
            put_int8(copy, order.quote_quantity)
            put_int2(copy, order.prevention)
            put_int2(copy, order.status)
            put_int8(copy, order.cum_quantity)
            put_int8(copy, order.cum_quote)
            put_time(copy, order.accepted_ms)
            put_time(copy, order.updated_ms)
            put_int4(copy, order.version)
            put_int2(copy, order.close_reason)
            put_int8_or_null(copy, order.has_strategy_id, order.strategy_id)
            put_int8_or_null(copy, order.has_strategy_type, order.strategy_type)
            put_int8_or_null(copy, order.has_course, order.prevented_quantity)
            put_int8_or_null(copy, order.has_course, order.prevented_match_id)
        return 0


ctypedef struct Entry:
    int64_t time_ms
    Text *stream_id
    int64_t event
    Text *market
    int64_t trade_id


cdef void put_decimal(Writer *writer, int64_t number) noexcept:
    cdef unsigned char digits[20]
    cdef int count = 0
    cdef uint64_t left = <uint64_t>number
    if number < 0:
        put_byte(writer, 45)
        left = -left
    while True:
        digits[count] = 48 + left % 10
        left //= 10
        count += 1
        if not left:
            break
    while count:
        count -= 1
        put_byte(writer, digits[count])


cdef void put_length(Writer *writer, size_t at) noexcept:
    """Write the length of what was written behind its place `at`."""
    cdef size_t length = writer.length - at - 4
    writer.bytes[at] = writer.bytes[at + 1] = 0
    writer.bytes[at + 2], writer.bytes[at + 3] = length >> 8, length & 0xFF


def copies(int64_t shard, list entries, Markets markets):
    """Return the rows of (stream id, frame) `entries` as data of COPY BINARY.

    (trades, fills, ledger entries, orders, the encodings of the trades' events, the number of orders, the
    number of fills, the number of events); None if anything in them is unusual.
    """
    cdef _Batch batch = _Batch(markets, shard)
    cdef bytes stream_id, frame
    for stream_id, frame in entries:
        if len(stream_id) > 64 or not batch.add_frame(stream_id, frame):
            return None
    batch.add_order_rows()
    return (
        end_copy(&batch.trades), end_copy(&batch.fills), end_copy(&batch.ledger), end_copy(&batch.orders_copy),
        batch.trade_events, batch.order_count, batch.fill_count, batch.event_count,
    )
