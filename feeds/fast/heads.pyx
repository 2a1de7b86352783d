# cython: language_level=3, cdivision=True, infer_types=False
"""The compiled reader of event frames (docs in _heads.pyi).

It accepts a subset of what feeds/frames.py accepts, and reads the same values from it: numbered frames whose
times are not negative, whose numbers fit into 64 bits with a sign, and whose texts of markets are ASCII. It
reads a whole frame before anybody sees any of it, so that nothing is applied of a frame that it refuses.

As in feeds/frames.py, fields behind those that feeds need are passed over, whatever they are; but only down
to a depth at which msgspec certainly does not refuse them.
"""

import os

import msgspec

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport (
    INT64_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from feeds.first_fills import UNTOLD_MS
from feeds.frames import BUY, MAKER
from protocol.codec import FORMAT, UNNUMBERED
from protocol.streams import ORDER_WINDOWS_MS
from protocol.trade_sums import TradeSum

SOURCES_HASH = "@SOURCES_HASH@"
"""Of the sources that the extension was built from; build.py fills it in."""

cdef enum:
    WINDOWS_MAX = 4
    EVENT_BYTES_MIN = 3  # an array with a tag and a time
    DEPTH_MAX = 8  # of nested arrays that are passed over

if len(ORDER_WINDOWS_MS) > WINDOWS_MAX:
    raise ImportError(f"the compiled reader of events knows up to {WINDOWS_MAX} kinds of windows")

cdef int64_t _FORMAT = FORMAT
cdef int64_t _UNNUMBERED = UNNUMBERED
cdef int64_t _BUY = BUY
cdef int64_t _MAKER = MAKER
cdef int64_t _UNTOLD_MS = UNTOLD_MS
cdef int _window_count = len(ORDER_WINDOWS_MS)
cdef int64_t[WINDOWS_MAX] _windows_ms
for _number, _window_ms in enumerate(ORDER_WINDOWS_MS.values()):
    _windows_ms[_number] = _window_ms
cdef object _Raw = msgspec.Raw
cdef object _TradeSum = TradeSum
# Chosen at random by each process, so that nobody can choose account ids that collide.
cdef uint64_t _hash_factor = <uint64_t>int.from_bytes(os.urandom(8), "little") | 1


ctypedef struct Text:
    # Bytes of the frame.
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
    int add_overflows "__builtin_add_overflow"(int64_t one, int64_t other, int64_t *sum) noexcept nogil
    int multiply_overflows "__builtin_mul_overflow"(int64_t one, int64_t other, int64_t *product) noexcept nogil


ctypedef struct TradeHead:
    # In the form of `feeds.trades.PACKED`.
    int64_t time, trade_id, price, quantity, taker_side


ctypedef struct Fills:
    # The first fills, as makers, of an account's orders at one time.
    int64_t account_id
    int64_t time
    int64_t orders
    int64_t[WINDOWS_MAX] untold


ctypedef struct Account:
    int64_t account_id
    int64_t event_count
    size_t size  # of its events together
    int64_t first, last  # its events
    int64_t fills  # the latest; -1: none


ctypedef struct Event:
    # An account's event.
    const unsigned char *at
    size_t size
    int64_t next  # the account's next event; -1: there is none


ctypedef struct Accounts:
    # Each of the arrays has room for as many as the frame has events, so none of them grows.
    Event *events
    int64_t event_count
    Account *accounts
    int64_t account_count
    Fills *fills
    int64_t fills_count
    int64_t *slots  # by hash of the account id, with linear probing: index + 1; 0: empty
    uint64_t mask
    int shift


# The sizes of items that are recognized by their first byte alone; 0: `pass_over` knows.
cdef unsigned char[256] _sizes
for _head in range(256):
    if _head < 0x80 or _head >= 0xE0 or _head in (0xC0, 0xC2, 0xC3):
        _sizes[_head] = 1
    elif 0xA0 <= _head <= 0xBF:
        _sizes[_head] = 1 + (_head & 0x1F)
    elif 0xCC <= _head <= 0xD3:
        _sizes[_head] = 1 + (1 << (_head & 3))
    else:
        _sizes[_head] = 0


cdef class MarketHeads:
    """The events of one market in a frame."""

    cdef readonly str market
    cdef readonly list trade_frames
    cdef readonly dict bid_changes, ask_changes
    cdef readonly int64_t first_sequence, last_sequence, time
    cdef const char *text
    cdef int32_t length
    cdef TradeHead *heads
    cdef size_t head_count, head_room

    def __dealloc__(self):
        free(self.heads)

    @property
    def trades(self):
        return PyBytes_FromStringAndSize(<const char *>self.heads, self.head_count * sizeof(TradeHead))


def read(frame):
    """Return the contents of an event frame, or None."""
    cdef Reader reader
    cdef Accounts accounts
    cdef int64_t count, number
    if not PyBytes_CheckExact(frame):
        return None
    memset(&reader, 0, sizeof(Reader))
    reader.at = <const unsigned char *>PyBytes_AS_STRING(frame)
    reader.end = reader.at + <Py_ssize_t>len(<bytes>frame)
    expect_array(&reader, 3)
    number = read_number(&reader)
    read_number(&reader)
    count = read_array(&reader)
    if (
        reader.is_unusual
        or (<const unsigned char *>PyBytes_AS_STRING(frame))[0] != 0x93
        or not _UNNUMBERED < number <= _FORMAT
        or (<const unsigned char *>PyBytes_AS_STRING(frame))[1] != number
        or count > (reader.end - reader.at) // EVENT_BYTES_MIN
    ):
        return None
    memset(&accounts, 0, sizeof(Accounts))
    try:
        make_room(&accounts, count)
        return read_events(&reader, &accounts, count)
    finally:
        free(accounts.events)
        free(accounts.accounts)
        free(accounts.fills)
        free(accounts.slots)


cdef int make_room(Accounts *accounts, int64_t count) except -1:
    cdef size_t room = <size_t>count + 1
    cdef int bits = 2
    while (<size_t>1 << bits) < 2 * room:
        bits += 1
    accounts.events = <Event *>grown(NULL, room * sizeof(Event))
    accounts.accounts = <Account *>grown(NULL, room * sizeof(Account))
    accounts.fills = <Fills *>grown(NULL, room * sizeof(Fills))
    accounts.slots = <int64_t *>calloc(<size_t>1 << bits, sizeof(int64_t))
    if accounts.slots == NULL:
        fail_memory()
    accounts.mask = (<uint64_t>1 << bits) - 1
    accounts.shift = 64 - bits
    return 0


cdef object read_events(Reader *reader, Accounts *accounts, int64_t count):
    cdef list markets = []
    cdef dict by_name = {}
    cdef MarketHeads market = None
    cdef const unsigned char *start
    cdef int64_t number, fields, tag, account_id, time = 0
    for number in range(count):
        start = reader.at
        fields = read_array(reader)
        if reader.is_unusual or reader.at >= reader.end:
            return None
        # A tag in another form than the shortest one is msgspec's to judge.
        tag = reader.at[0]
        reader.at += 1
        time = read_number_from(reader, 0)
        if reader.is_unusual:
            return None
        if tag == 1 and fields >= 9:
            market = market_of(reader, markets, by_name, market, time)
            if market is None:
                return None
            read_trade(reader, market, time)
            pass_items(reader, fields - 9, DEPTH_MAX)
            if reader.is_unusual:
                return None
            market.trade_frames.append(
                _Raw(PyBytes_FromStringAndSize(<const char *>start, reader.at - start))
            )
            continue
        if tag == 2 and fields >= 5:
            market = market_of(reader, markets, by_name, market, time)
            if market is None:
                return None
            read_changes(reader, market)
            pass_items(reader, fields - 5, DEPTH_MAX)
            continue
        if (tag == 11 or tag == 12 or tag == 16) and fields >= 3:
            account_id = read_number(reader)
            pass_items(reader, fields - 3, DEPTH_MAX)
        elif (tag == 13 or tag == 15) and fields >= 3:
            account_id = read_order(reader)
            pass_items(reader, fields - 3, DEPTH_MAX)
        elif tag == 14 and fields >= 8:
            account_id = read_fill(reader, accounts, time)
            pass_items(reader, fields - 8, DEPTH_MAX)
        elif (17 <= tag <= 19 or tag == 21 or tag == 22 or 24 <= tag <= 26) and fields >= 2:
            pass_items(reader, fields - 2, DEPTH_MAX)
            continue
        else:
            # Among them the configuration of a market: it may define the market of later events.
            return None
        if reader.is_unusual:
            return None
        note_event(accounts, account_id, start, reader.at - start)
    if reader.is_unusual or reader.at != reader.end:
        return None
    return count, time, markets, joined(accounts), first_fills(accounts)


cdef MarketHeads market_of(
    Reader *reader, list markets, dict by_name, MarketHeads latest, int64_t time
):
    """Return the market of an event, whose name and sequence come next; None: something is unusual."""
    cdef Text text
    cdef MarketHeads market = latest
    cdef int64_t sequence
    cdef bytes name
    read_text(reader, &text)
    sequence = read_number_from(reader, 1)
    if reader.is_unusual:
        return None
    if market is None or market.length != text.length or memcmp(market.text, text.at, text.length):
        name = PyBytes_FromStringAndSize(text.at, text.length)
        market = by_name.get(name)
        if market is None:
            market = MarketHeads.__new__(MarketHeads)
            market.text, market.length = text.at, text.length
            market.market = PyUnicode_DecodeASCII(text.at, text.length, NULL)
            market.trade_frames, market.bid_changes, market.ask_changes = [], {}, {}
            market.first_sequence, market.last_sequence = sequence, sequence - 1
            by_name[name] = market
            markets.append(market)
    if sequence - 1 != market.last_sequence:
        reader.is_unusual = True
        return None
    market.last_sequence = sequence
    market.time = time
    return market


cdef int read_trade(Reader *reader, MarketHeads market, int64_t time) except -1:
    cdef TradeHead *head
    if market.head_count == market.head_room:
        market.head_room = 2 * market.head_room + 4
        market.heads = <TradeHead *>grown(market.heads, market.head_room * sizeof(TradeHead))
    head = &market.heads[market.head_count]
    market.head_count += 1
    head.time = time
    head.trade_id = read_number(reader)
    read_number(reader)
    head.price = read_number(reader)
    head.quantity = read_number(reader)
    head.taker_side = read_number(reader)
    return 0


cdef int read_changes(Reader *reader, MarketHeads market) except -1:
    cdef int64_t side, price, quantity
    cdef int64_t left = read_array(reader)
    while left > 0:
        left -= 1
        expect_array(reader, 3)
        side, price, quantity = read_number(reader), read_number(reader), read_number(reader)
        if reader.is_unusual:
            return 0
        if side == _BUY:
            market.bid_changes[price] = quantity
        else:
            market.ask_changes[price] = quantity
    return 0


cdef int64_t read_order(Reader *reader) noexcept:
    """Return the account of an order, which comes next."""
    cdef int64_t fields = read_array(reader)
    cdef int64_t account_id
    if fields < 2:
        reader.is_unusual = True
        return 0
    read_number(reader)
    account_id = read_number(reader)
    pass_items(reader, fields - 2, DEPTH_MAX)
    return account_id


cdef int64_t read_fill(Reader *reader, Accounts *accounts, int64_t time) except? -1:
    """Return the account of a fill, whose order comes next; note the fill if it is the order's first one."""
    cdef int64_t fields = read_array(reader)
    cdef int64_t account_id, cum_quantity, accepted_time, quantity, liquidity, window_ms
    cdef Account *account
    cdef Fills *fills
    cdef int number
    if fields < 16:
        reader.is_unusual = True
        return 0
    read_number(reader)
    account_id = read_number(reader)
    pass_items(reader, 10, DEPTH_MAX)
    cum_quantity = read_number(reader)
    pass_items(reader, 2, DEPTH_MAX)
    accepted_time = read_number_from(reader, 0)
    pass_items(reader, fields - 16, DEPTH_MAX)
    pass_items(reader, 2, DEPTH_MAX)
    quantity = read_number(reader)
    pass_items(reader, 1, DEPTH_MAX)
    liquidity = read_number(reader)
    if reader.is_unusual or liquidity != _MAKER or cum_quantity != quantity:
        return account_id
    account = account_at(accounts, account_id)
    if account.fills < 0 or accounts.fills[account.fills].time != time:
        account.fills = accounts.fills_count
        accounts.fills_count += 1
        fills = &accounts.fills[account.fills]
        memset(fills, 0, sizeof(Fills))
        fills.account_id, fills.time = account_id, time
    fills = &accounts.fills[account.fills]
    fills.orders += 1
    for number in range(_window_count):
        window_ms = _windows_ms[number]
        if time - accepted_time <= _UNTOLD_MS and accepted_time // window_ms == time // window_ms:
            fills.untold[number] += 1
    return account_id


cdef Account *account_at(Accounts *accounts, int64_t account_id) noexcept:
    """Return the record of an account, which is made if there is none."""
    cdef uint64_t slot = (<uint64_t>account_id * _hash_factor) >> accounts.shift
    cdef Account *account
    while accounts.slots[slot]:
        account = &accounts.accounts[accounts.slots[slot] - 1]
        if account.account_id == account_id:
            return account
        slot = (slot + 1) & accounts.mask
    account = &accounts.accounts[accounts.account_count]
    accounts.account_count += 1
    accounts.slots[slot] = accounts.account_count
    memset(account, 0, sizeof(Account))
    account.account_id, account.first, account.last, account.fills = account_id, -1, -1, -1
    return account


cdef void note_event(
    Accounts *accounts, int64_t account_id, const unsigned char *at, size_t size
) noexcept:
    cdef Account *account = account_at(accounts, account_id)
    cdef Event *event = &accounts.events[accounts.event_count]
    event.at, event.size, event.next = at, size, -1
    if account.last < 0:
        account.first = accounts.event_count
    else:
        accounts.events[account.last].next = accounts.event_count
    account.last = accounts.event_count
    account.event_count += 1
    account.size += size
    accounts.event_count += 1


cdef list joined(Accounts *accounts):
    """Return (account, number of events, their bytes) of each account."""
    cdef list found = []
    cdef int64_t number, index
    cdef Account *account
    cdef Event *event
    cdef bytes together
    cdef char *at
    for number in range(accounts.account_count):
        account = &accounts.accounts[number]
        together = PyBytes_FromStringAndSize(NULL, account.size)
        at = PyBytes_AS_STRING(together)
        index = account.first
        while index >= 0:
            event = &accounts.events[index]
            memcpy(at, event.at, event.size)
            at += event.size
            index = event.next
        found.append((account.account_id, account.event_count, together))
    return found


cdef list first_fills(Accounts *accounts):
    """Return (account, time, orders, untold orders of each kind of window), in order of first appearance."""
    cdef list found = []
    cdef int64_t number
    cdef Fills *fills
    for number in range(accounts.fills_count):
        fills = &accounts.fills[number]
        found.append(
            (
                fills.account_id,
                fills.time,
                fills.orders,
                tuple([fills.untold[window] for window in range(_window_count)]),
            )
        )
    return found


def fold(bytes trades not None, quote_per_tick_lot, int64_t second_min):
    """Return (second, sum) of packed trades as protocol/trade_sums.py does; None: a sum is too large.

    No time is negative: `read` refuses such events.
    """
    cdef const char *at = PyBytes_AS_STRING(trades)
    cdef int64_t count = <int64_t>(<size_t>len(trades) // sizeof(TradeHead))
    cdef int64_t start = 0, index, second, high, low, notional
    cdef int64_t volume, notionals, buy_volume, buy_notionals
    cdef TradeHead first, trade, last
    cdef list sums = []
    while start < count:
        # Copied: nothing says that the bytes are aligned.
        memcpy(&first, at + start * sizeof(TradeHead), sizeof(TradeHead))
        second = max(first.time // 1000, second_min)
        high = low = first.price
        volume = notionals = buy_volume = buy_notionals = 0
        index = start
        while index < count:
            memcpy(&trade, at + index * sizeof(TradeHead), sizeof(TradeHead))
            if trade.time // 1000 > second:
                break
            high, low = max(high, trade.price), min(low, trade.price)
            if (
                multiply_overflows(trade.price, trade.quantity, &notional)
                or add_overflows(volume, trade.quantity, &volume)
                or add_overflows(notionals, notional, &notionals)
            ):
                return None
            if trade.taker_side == _BUY and (
                add_overflows(buy_volume, trade.quantity, &buy_volume)
                or add_overflows(buy_notionals, notional, &buy_notionals)
            ):
                return None
            last = trade
            index += 1
        sums.append(
            (
                second,
                _TradeSum(
                    first.price,
                    high,
                    low,
                    last.price,
                    last.quantity,
                    volume,
                    notionals * quote_per_tick_lot,
                    index - start,
                    buy_volume,
                    buy_notionals * quote_per_tick_lot,
                    first.trade_id,
                    last.trade_id,
                ),
            )
        )
        second_min, start = second, index
    return sums


cdef void pass_items(Reader *reader, int64_t count, int levels) noexcept:
    """Pass over items without maps, floats and extensions; arrays are nested down to `levels`."""
    cdef unsigned char head
    cdef int64_t size
    while count > 0 and not reader.is_unusual:
        count -= 1
        if reader.at >= reader.end:
            reader.is_unusual = True
            return
        head = reader.at[0]
        size = _sizes[head]
        if size:
            if reader.end - reader.at < size:
                reader.is_unusual = True
                return
            reader.at += size
        elif 0x90 <= head <= 0x9F or head == 0xDC or head == 0xDD:
            if levels == 0:
                reader.is_unusual = True
                return
            pass_items(reader, read_array(reader), levels - 1)
        else:
            pass_over(reader)
