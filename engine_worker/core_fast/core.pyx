# cython: language_level=3, cdivision=True, infer_types=False
"""The compiled core: a shard on C records behind `FrameCore`, byte-identical to engine_worker/core.

What is frequent (placing, matching, settling, canceling, messages between shards) is C on the records of
records.pxi, in the steps of the object core and under its names. What is rare (configuration, operators'
commands, idempotency keys, queries) is the object core's own code, which sees the records through views:
parts.py.

One module out of several files, because C functions of different modules cannot be inlined.
"""

import os
import zlib

import msgspec

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ
from libc.stdint cimport (
    INT64_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from engine_worker.core import conservation as audit
from engine_worker.core import journal
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core_fast.parts import Parts, decode_order
from engine_worker.frame_core import MarketCounts
from protocol.codec import FORMAT, OLDEST_FORMAT, encode_frame
from protocol.commands import PlaceOrder
from protocol.orders import OrderTerms, OrderType, RejectReason
from protocol.release import KINDS
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD

if (FORMAT, OLDEST_FORMAT, KINDS) != (2, 2, 1):
    # Whoever raises them decides here, too, what a shard writes before it is switched.
    raise ImportError("the compiled core writes frames of format 2 and kinds of level 1 only")

SOURCES_HASH = "@SOURCES_HASH@"
"""Of the sources that the extension was built from; build.py fills it in."""

cdef bytes _COMMANDS_FIELD = COMMANDS_FIELD
cdef bytes _MESSAGES_FIELD = MESSAGES_FIELD
cdef object _crc32 = zlib.crc32
cdef int _FORMAT = 2
cdef int PROGRESS_COMMANDS = 16

# The reasons that C code refuses for, in their order in `_REASONS`.
cdef enum:
    INSUFFICIENT_BALANCE
    DUPLICATE_CLIENT_ORDER_ID
    WOULD_MATCH_IMMEDIATELY
    UNKNOWN_ORDER
    UNKNOWN_MARKET
    PRICE_OUT_OF_RANGE
    PRICE_OUTSIDE_BAND
    QUANTITY_OUT_OF_RANGE
    NOTIONAL_TOO_SMALL
    TOO_MANY_OPEN_ORDERS
    TOO_MANY_OPEN_ORDERS_IN_ALL
    INVALID_COMBINATION
    MARKET_CLOSED
    TOO_LATE
    UNDER_MAINTENANCE
    EMPTY_BOOK
    THIN_BOOK
    TOO_MANY_MATCHES_REASON
    MARKET_BEHIND
    REASONS_OF_C

_of_c = (
    RejectReason.INSUFFICIENT_BALANCE,
    RejectReason.DUPLICATE_CLIENT_ORDER_ID,
    RejectReason.WOULD_MATCH_IMMEDIATELY,
    RejectReason.UNKNOWN_ORDER,
    RejectReason.UNKNOWN_MARKET,
    RejectReason.PRICE_OUT_OF_RANGE,
    RejectReason.PRICE_OUTSIDE_BAND,
    RejectReason.QUANTITY_OUT_OF_RANGE,
    RejectReason.NOTIONAL_TOO_SMALL,
    RejectReason.TOO_MANY_OPEN_ORDERS,
    RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL,
    RejectReason.INVALID_COMBINATION,
    RejectReason.MARKET_CLOSED,
    RejectReason.TOO_LATE,
    RejectReason.UNDER_MAINTENANCE,
    RejectReason.EMPTY_BOOK,
    RejectReason.THIN_BOOK,
    RejectReason.TOO_MANY_MATCHES,
    RejectReason.MARKET_BEHIND,
)
_others = (each for each in RejectReason if each not in _of_c)
cdef list _REASONS = [reason.encode() for reason in (*_of_c, *_others)]
_NUMBER_OF_REASON = {reason.decode(): number for number, reason in enumerate(_REASONS)}

include "tables.pxi"
include "wire.pxi"
include "records.pxi"

cdef int32_t _reason_count = len(_REASONS)
cdef Text _reason_texts[64]

cdef int _set_up_reasons() except -1:
    cdef int32_t number
    assert len(_of_c) == REASONS_OF_C and len(_REASONS) <= 64
    for number in range(_reason_count):
        _reason_texts[number].at = PyBytes_AS_STRING(<bytes>_REASONS[number])
        _reason_texts[number].length = <int32_t>len(_REASONS[number])
    return 0

_set_up_reasons()

include "accounts.pxi"
include "requests.pxi"
include "book.pxi"
include "read.pxi"
include "market_half.pxi"
include "account_half.pxi"
include "snapshot.pxi"
include "restore.pxi"


cdef Shard *new_shard(int32_t index, int32_t shard_count) except NULL:
    cdef Shard *shard = <Shard *>calloc(1, sizeof(Shard))
    cdef int32_t number
    if shard == NULL:
        fail_memory()
    shard.index, shard.shard_count = index, shard_count
    shard.closed_from = shard.open_orders_max = shard.in_flight_max = INT64_MAX
    for number in range(SHARD_COUNT_MAX):
        shard.received[number] = shard.sent[number] = NONE
    slab_set_up(&shard.orders, sizeof(Order))
    slab_set_up(&shard.resting, sizeof(Resting))
    slab_set_up(&shard.levels, sizeof(Level))
    slab_set_up(&shard.own, sizeof(Own))
    slab_set_up(&shard.own_links, sizeof(OwnLink))
    slab_set_up(&shard.accounts, sizeof(Account))
    slab_set_up(&shard.channels, sizeof(Channel))
    slab_set_up(&shard.under_way, sizeof(UnderWay))
    table_set_up(&shard.orders_by_id, shard, hash_of_order)
    table_set_up(&shard.orders_by_name, shard, hash_of_order_name)
    table_set_up(&shard.resting_by_id, shard, hash_of_resting)
    table_set_up(&shard.own_by_account, shard, hash_of_own)
    table_set_up(&shard.accounts_by_id, shard, hash_of_account)
    table_set_up(&shard.channels_by_name, shard, hash_of_channel)
    table_set_up(&shard.under_way_by_request, shard, hash_of_under_way)
    table_set_up(&shard.markets_by_symbol, shard, hash_of_market)
    shard.answer_mask = 63
    shard.answers = <AnswerEntry *>grown(NULL, 64 * sizeof(AnswerEntry))
    memset(shard.answers, 0, 64 * sizeof(AnswerEntry))
    slab_new(&shard.channels)  # that of no channel
    return shard


cdef void free_shard(Shard *shard) noexcept:
    cdef int32_t slot, number
    cdef AnswerChunk *chunk
    cdef Order *order
    # A freed record has its link where its number was, so what is still there is told by the tables alone.
    for number in range(<int32_t>shard.orders_by_id.mask + 1):
        slot = shard.orders_by_id.slots[number] - 1
        if slot >= 0 and order_at(shard, slot).name_length > INLINE_NAME:
            free(<void *>order_name(order_at(shard, slot)))
    for number in range(<int32_t>shard.accounts_by_id.mask + 1):
        slot = shard.accounts_by_id.slots[number] - 1
        if slot >= 0:
            account_let_go(account_at(shard, slot))
    for number in range(<int32_t>shard.channels_by_name.mask + 1):
        slot = shard.channels_by_name.slots[number] - 1
        if slot >= 0:
            free(channel_at(shard, slot).name)
    for number in range(shard.market_count):
        side_let_go(&shard.markets[number].bids)
        side_let_go(&shard.markets[number].asks)
        free(shard.markets[number])
    for number in range(SHARD_COUNT_MAX):
        writer_let_go(&shard.outbox[number].messages)
    while shard.oldest_answers != NULL:
        chunk = shard.oldest_answers
        shard.oldest_answers = chunk.following
        free(chunk)
    slab_let_go(&shard.orders)
    slab_let_go(&shard.resting)
    slab_let_go(&shard.levels)
    slab_let_go(&shard.own)
    slab_let_go(&shard.own_links)
    slab_let_go(&shard.accounts)
    slab_let_go(&shard.channels)
    slab_let_go(&shard.under_way)
    table_let_go(&shard.orders_by_id)
    table_let_go(&shard.orders_by_name)
    table_let_go(&shard.resting_by_id)
    table_let_go(&shard.own_by_account)
    table_let_go(&shard.accounts_by_id)
    table_let_go(&shard.channels_by_name)
    table_let_go(&shard.under_way_by_request)
    table_let_go(&shard.markets_by_symbol)
    writer_let_go(&shard.events)
    writer_let_go(&shard.replies)
    free(shard.markets)
    free(shard.assets)
    free(shard.answers)
    free(shard.idle_channels)
    free(shard.closed)
    free(shard.reply_entries)
    free(shard.items)
    free(shard.read_fills)
    free(shard.read_prevented)
    free(shard.fills)
    free(shard.met)
    free(shard.fees)
    free(shard.prevented_makers)
    free(shard.prevented)
    free(shard)


cdef bint has_right_money(Shard *shard) noexcept:
    """Return whether what came in, went out and was settled is what there is. O(assets)."""
    cdef int32_t number
    cdef Totals *totals
    for number in range(shard.asset_count):
        totals = &shard.assets[number]
        if totals.funds + totals.fees - totals.deposited + totals.withdrawn - totals.settled:
            return False
        if shard.shard_count == 1 and totals.settled:
            return False
        if totals.held < 0 or totals.held > totals.funds or totals.fees < 0:
            return False
    return True


cdef class FastOutput:
    """Implements `FrameOutput`."""

    cdef readonly bytes frame
    cdef list _replies
    cdef dict _outbox
    cdef bytes _closed  # a `Span` of each, counted from `_events`
    cdef Py_ssize_t _events

    def replies(self):
        return self._replies

    def outbox(self):
        return self._outbox

    def closed_orders(self):
        cdef Span *closed = <Span *>PyBytes_AS_STRING(self._closed)
        cdef Py_ssize_t number
        # As objects only when somebody asks.
        return [
            decode_order(self.frame[self._events + closed[number].start : self._events + closed[number].end])
            for number in range(len(self._closed) // <Py_ssize_t>sizeof(Span))
        ]


cdef class FastCore:
    """Implements `FrameCore`. `parts.py` uses the methods behind `check_invariants`."""

    cdef Shard *shard
    cdef readonly object parts
    # Slot of an order -> (idempotency key, encoded terms), for those that have one.
    cdef dict extras
    cdef readonly dict cancel_alls

    def __cinit__(self, int index, int shard_count):
        self.shard = new_shard(index, shard_count)
        self.shard.core = <void *>self
        self.extras = {}

    def __init__(self, index, shard_count):
        self.parts = Parts(self, index, shard_count)
        self.cancel_alls = self.parts.state.cancel_alls
        self.shard.hash_due = journal.STATE_HASH_INTERVAL

    def __dealloc__(self):
        if self.shard != NULL:
            free_shard(self.shard)
            self.shard = NULL

    def let_go(self):
        if self.shard != NULL:
            free_shard(self.shard)
            self.shard = NULL
        if self.parts is not None:
            self.parts.let_go()
        self.parts = None

    cdef Shard *alive(self) except NULL:
        if self.shard == NULL:
            raise ValueError("the core was let go")
        return self.shard

    @property
    def index(self):
        return self.alive().index

    @property
    def shard_count(self):
        return self.alive().shard_count

    @property
    def command_count(self):
        return self.alive().command_count

    @property
    def order_count(self):
        return self.alive().order_count

    @property
    def checksum(self):
        return self.alive().checksum

    @property
    def time(self):
        return self.alive().time

    @property
    def format(self):
        return self.parts.state.format

    @property
    def state_hash_interval(self):
        return journal.STATE_HASH_INTERVAL

    @property
    def is_configured(self):
        return self.parts.state.config is not None

    @property
    def has_work(self):
        return bool(self.parts.state.drains)

    @property
    def symbols(self):
        return self.parts.state.market_map.by_symbol.keys()

    @property
    def configuration_number(self):
        return self.parts.behind_frames.configuration_number

    def encode_configuration(self, stream_id):
        return self.parts.behind_frames.encode_configuration(stream_id)

    @property
    def waiting_events(self):
        return self.alive().event_count

    def why_not_followed(self, instruction):
        return self.parts.behind_frames.why_not_followed(instruction)

    def answer(self, queries, time, position):
        return self.parts.behind_frames.answer(queries, time, position)

    def digest(self):
        return audit.digest(self.parts.state)

    def differences(self):
        return {asset: totals.difference() for asset, totals in self.parts.state.totals.items()}

    def market_counts(self):
        cdef Shard *shard = self.alive()
        cdef int32_t number
        counts = {}
        for symbol in self.parts.state.markets:
            number = self.market_number(symbol)
            counts[symbol] = MarketCounts(shard.markets[number].resting_count, shard.markets[number].trade_id)
        return counts

    def check_money(self):
        if not has_right_money(self.alive()):
            audit.check_money(self.parts.state)
            raise InvariantBroken("the books of money do not match the accounts")

    def check_invariants(self):
        self.check_money()
        check_records(self.alive())

    # The input.

    def apply_frame(self, stream_id, fields, progressed=None):
        cdef object payload
        if len(fields) == 1:
            payload = fields.get(_COMMANDS_FIELD)
            if payload is not None:
                if self.apply_commands(stream_id[0], payload, progressed):
                    return []
            else:
                payload = fields.get(_MESSAGES_FIELD)
                if payload is not None and self.apply_messages(stream_id[0], payload, progressed):
                    return []
        return self.parts.apply_slowly(stream_id, fields, progressed)

    cdef int64_t entry_time(self, int64_t entered, int64_t written_us, int64_t behind_ms_max) noexcept:
        """Return an entry's time, as `Shard.enter` does."""
        cdef Shard *shard = self.shard
        cdef int64_t written = written_us // 1_000 + behind_ms_max
        shard.entered = <uint64_t>entered
        if written < entered:
            entered = written
        return entered if entered > shard.time else shard.time

    cdef bint apply_commands(self, uint64_t entered, bytes frame, object progressed) except -1:
        """Apply a frame of frequent commands; return False, with nothing done, when there is something
        else."""
        cdef Shard *shard = self.alive()
        cdef Reader reader
        cdef int64_t written_us, time
        cdef int count, number, next_odd = 0
        cdef Item *item
        cdef list odd = []
        if entered > <uint64_t>(INT64_MAX // 2):
            return False
        begin_reading(&reader, frame, False)
        count = read_commands(shard, &reader, &written_us, odd)
        if count < 0:
            return False
        if odd:
            odd = self.parts.decoded(odd)
            if odd is None:
                return False
        time = self.entry_time(<int64_t>entered, written_us, WRITER_BEHIND_MS_MAX)
        for number in range(count):
            item = &shard.items[number]
            look_ahead(shard, number, count)
            if item.tag == ODD:
                self.parts.apply(odd[next_odd], time)
                next_odd += 1
            else:
                self.begin_item(time)
                self.apply_item(item)
                self.end_item()
            if progressed is not None and count >= PROGRESS_COMMANDS and not (number + 1) % PROGRESS_COMMANDS:
                progressed()
        return True

    cdef bint apply_messages(self, uint64_t entered, bytes frame, object progressed) except -1:
        """Apply a frame of frequent messages; return False, with nothing done, when there is something
        else."""
        cdef Shard *shard = self.alive()
        cdef Reader reader
        cdef int64_t written_us, time, first, seen, number
        cdef int32_t source
        cdef int count, applied = 0
        if entered > <uint64_t>(INT64_MAX // 2):
            return False
        begin_reading(&reader, frame, False)
        count = read_messages(shard, &reader, &written_us, &source, &first)
        if count < 0:
            return False
        seen = shard.received[source] if shard.received[source] > 0 else 0
        if first > seen + 1:
            return False  # some are missing
        time = self.entry_time(<int64_t>entered, written_us, 0)
        # What was received before is passed over: a new leader delivers again what may have arrived.
        for number in range(seen + 1 - first, count):
            self.note_received(source, first + number)
            self.begin_item(time)
            self.apply_item(&shard.items[number])
            self.end_item()
            applied += 1
            if progressed is not None and not applied % PROGRESS_COMMANDS:
                progressed()
        return True

    cdef int note_received(self, int32_t source, int64_t sequence) except -1:
        cdef Shard *shard = self.shard
        if shard.received[source] < 0:
            shard.received_order[shard.received_count] = source
            shard.received_count += 1
        shard.received[source] = sequence
        return 0

    cdef int apply_item(self, Item *item) except -1:
        cdef Shard *shard = self.shard
        if item.tag == PLACE_ORDER or item.tag == CANCEL_ORDER:
            item.channel = channel_of(shard, item.reply_to.at, item.reply_to.length)
            if not begin_request(shard, item.channel, item.request_id):
                return 0
            if item.deadline_ms and <uint64_t>item.deadline_ms < shard.entered:
                # Before its idempotency key is looked at: whoever comes with that again in time wants it
                # done.
                refuse(shard, item.channel, item.request_id, TOO_LATE)
            elif item.tag == PLACE_ORDER:
                place_order(shard, item)
            else:
                cancel_order(shard, item)
            return end_request(shard)
        if item.tag == MATCH_ORDER:
            return match_order(shard, item)
        if item.tag == MAKER_FILL:
            return maker_fill(shard, item)
        if item.tag == TAKER_OUTCOME:
            return taker_outcome(
                shard, item, shard.read_fills + item.fills, shard.read_prevented + item.prevented
            )
        if item.tag == CANCEL_RESTING:
            return cancel_resting(shard, item)
        if item.tag == RESTING_CLOSED:
            return resting_closed(
                shard, item, shard.read_prevented + item.prevented if item.prevented_count else NULL
            )
        if item.tag == CANCEL_MISSED:
            return cancel_missed(shard, item)
        if item.tag != TICK:
            raise InvariantBroken(f"no part of the shard handles {item.tag}")
        reserve(&shard.events, 16)
        put_array(&shard.events, 2)
        put_byte(&shard.events, 22)
        put_number(&shard.events, shard.time)
        shard.event_count += 1
        return 0

    cpdef int begin_item(self, int64_t time) except -1:
        """Count a command or message that is applied at `time`."""
        cdef Shard *shard = self.shard
        if time < shard.time:
            raise InvariantBroken(f"time goes back from {shard.time} to {time}")
        if time >> TIME_BITS:
            raise InvariantBroken(f"an order keeps no time as late as {time}")
        shard.time = time
        shard.command_count += 1
        drop_old_answers(shard)
        if time > shard.outcomes_kept_until:
            shard.outcomes_kept_until = clamped(self.parts.replies.drop_old_outcomes())
        return 0

    cpdef int end_item(self) except -1:
        """Do what comes behind every command and message."""
        cdef Shard *shard = self.shard
        # Behind the command, which may begin or end a drain.
        if shard.has_drains:
            self.parts.drain()
        # Last: the hash is of the state after the command and everything that came with it.
        if shard.command_count >= shard.hash_due:
            self.parts.hash_state()
        return 0

    # The output.

    def take(self):
        cdef Shard *shard = self.alive()
        cdef FastOutput output = FastOutput.__new__(FastOutput)
        cdef Writer head
        cdef unsigned char octets[64]
        cdef bytes frame = b""
        # Before anything of it can leave (docs/decisions/0013-state-hash-and-halt.md).
        if not has_right_money(shard):
            self.check_money()
        if shard.event_count:
            self.checksum_events()
            head.bytes, head.length, head.capacity = octets, 0, sizeof(octets)
            put_byte(&head, 0x93)
            put_byte(&head, _FORMAT)
            put_number(&head, shard.time * 1_000)
            frame = framed(&head, &shard.events, shard.event_count)
        output.frame = frame
        output._events = len(frame) - <Py_ssize_t>shard.events.length
        output._closed = PyBytes_FromStringAndSize(<char *>shard.closed, shard.closed_count * sizeof(Span))
        output._replies = grouped_replies(shard)
        output._outbox = self.taken_outbox()
        empty(&shard.events)
        shard.event_count = shard.checksummed = shard.closed_count = 0
        forget_idle_channels(shard)
        return output

    cdef dict taken_outbox(self):
        cdef Shard *shard = self.shard
        cdef int32_t number, target
        cdef Outbox *outbox
        cdef Writer head
        cdef unsigned char octets[64]
        cdef dict taken = {}
        for number in range(shard.outbox_count):
            target = shard.outbox_order[number]
            outbox = &shard.outbox[target]
            head.bytes, head.length, head.capacity = octets, 0, sizeof(octets)
            put_byte(&head, 0x96)
            put_byte(&head, _FORMAT)
            put_number(&head, shard.time * 1_000)
            put_number(&head, shard.index)
            put_number(&head, target)
            put_number(&head, outbox.first_sequence)
            taken[target] = framed(&head, &outbox.messages, outbox.count)
            outbox.count = 0
            empty(&outbox.messages)
        shard.outbox_count = 0
        return taken

    cpdef int checksum_events(self) except -1:
        """Count the events so far in the checksum."""
        cdef Shard *shard = self.shard
        if shard.events.length > shard.checksummed:
            shard.checksum = _crc32(
                PyMemoryView_FromMemory(
                    <char *>shard.events.bytes + shard.checksummed, shard.events.length - shard.checksummed,
                    PyBUF_READ,
                ),
                shard.checksum,
            )
            shard.checksummed = shard.events.length
        return 0

    def encode_snapshot(self, stream_id):
        return self.parts.encode_snapshot(stream_id)

    # What is rare, from here to parts.py.

    cdef bint is_first_of_its_key(self, Item *item) except -1:
        terms = None
        if item.terms.length:
            terms = msgspec.msgpack.decode(item.terms.at[: item.terms.length], type=OrderTerms)
        return self.parts.replies.is_first_of_its_key(
            PlaceOrder(
                item.request_id, text_of(&item.reply_to), item.account_id, text_of(&item.client_order_id),
                text_of(&item.symbol), item.side, OrderType(item.order_type), item.time_in_force, item.price,
                item.quantity, item.quote_quantity, item.prevention, item.deadline_ms,
                text_of(&item.idempotency_key), terms, bool(item.bound_by_book),
            )
        )

    cdef int forget_key(self, Item *item) except -1:
        self.parts.replies.forget_key(item.account_id, text_of(&item.idempotency_key))
        return 0

    cdef int reason_of_limits(self, int64_t account_id) except -2:
        reason = self.parts.state.accounts[account_id].reason_of_limits(self.shard.time)
        return NONE if reason is None else _NUMBER_OF_REASON[reason]

    cdef int count_order(self, int64_t account_id) except -1:
        self.parts.state.accounts[account_id].count_order(self.shard.time)
        return 0

    cdef bint is_one_of_several(self, Item *answer, bint is_canceled) except -1:
        """Return whether a cancel is one of several with one reply; count it there if so."""
        cdef Shard *shard = self.shard
        cdef bytes order = b""
        if is_canceled:
            order = (<char *>shard.events.bytes)[shard.told.start : shard.told.end]
        return self.parts.answer_one_of_several(text_of(&answer.reply_to), answer.request_id, order)

    # What is rare, from parts.py to here.

    def apply_encoded(self, bytes encoded, bint is_command, int source, bint has_supported_terms=True):
        """Apply a frequent command, or a message of shard `source`, that msgspec has encoded."""
        cdef Shard *shard = self.shard
        cdef Reader reader
        # Not one of `shard.items`: a command of a frame may lead to this.
        cdef Item item
        cdef int32_t fills = shard.read_fill_count, prevented = shard.read_prevented_count
        memset(&item, 0, sizeof(Item))
        begin_reading(&reader, encoded, True)
        if is_command:
            read_command(shard, &reader, &item)
        else:
            read_message(shard, &reader, &item, source)
        if reader.is_unusual or reader.at != reader.end:
            raise InvariantBroken(f"{encoded[:100]!r} is not what msgspec writes")
        item.has_supported_terms = has_supported_terms
        self.apply_item(&item)
        shard.read_fill_count, shard.read_prevented_count = fills, prevented

    def write_event(self, bytes encoded):
        cdef Writer *writer = &self.alive().events
        reserve(writer, len(encoded))
        put_bytes(writer, PyBytes_AS_STRING(encoded), len(encoded))
        self.shard.event_count += 1

    def send_encoded(self, int target, bytes encoded):
        """Put a message to another shard into the outbox."""
        cdef Writer *writer = begin_message(self.alive(), target, len(encoded))
        put_bytes(writer, PyBytes_AS_STRING(encoded), len(encoded))

    cdef int32_t channel(self, str name) except -1:
        cdef bytes encoded = name.encode()
        return channel_of(self.alive(), PyBytes_AS_STRING(encoded), <int32_t>len(encoded))

    def begin_request(self, str reply_to, int64_t request_id):
        return bool(begin_request(self.alive(), self.channel(reply_to), request_id))

    def end_request(self):
        end_request(self.alive())

    def add_reply(self, str reply_to, bytes encoded):
        """Answer a request, and remember nothing of it."""
        cdef size_t start = self.write_reply(encoded)
        add_reply_entry(self.shard, self.channel(reply_to), start)

    def reply(self, str reply_to, int64_t request_id, bytes encoded):
        cdef int32_t channel = self.channel(reply_to)
        reply(self.shard, channel, request_id, self.write_reply(encoded))

    cdef size_t write_reply(self, bytes encoded) except? 0xFFFFFFFF:
        cdef Writer *writer = &self.alive().replies
        cdef size_t start = writer.length
        reserve(writer, len(encoded))
        put_bytes(writer, PyBytes_AS_STRING(encoded), len(encoded))
        return start

    def set_counts(self, **counts):
        """Set numbers of the state that only few things change."""
        cdef Shard *shard = self.alive()
        for name, number in counts.items():
            if name == "time":
                shard.time = number
            elif name == "entered":
                shard.entered = number
            elif name == "command_count":
                shard.command_count = number
            elif name == "order_count":
                shard.order_count = number
            elif name == "execution_count":
                shard.execution_count = number
            elif name == "hash_due":
                shard.hash_due = number
            elif name == "checksum":
                shard.checksum = number
            elif name == "request_window_ms":
                shard.request_window_ms = clamped(number)
            elif name == "outcomes_kept_until":
                shard.outcomes_kept_until = number
            elif name == "has_drains":
                shard.has_drains = number
            else:
                raise ValueError(name)

    def count(self, str name):
        """Return a number of the state."""
        cdef Shard *shard = self.alive()
        if name == "entered":
            return shard.entered
        if name == "execution_count":
            return shard.execution_count
        if name == "open_order_count":
            return shard.open_order_count
        if name == "hash_due":
            return shard.hash_due
        if name == "accounts":
            return shard.accounts_by_id.count
        raise ValueError(name)

    def numbers_received(self):
        """Return source shard -> the number of its last message that was applied, in the order of the first
        ones."""
        cdef Shard *shard = self.alive()
        return {
            shard.received_order[number]: shard.received[shard.received_order[number]]
            for number in range(shard.received_count)
        }

    def set_received(self, int32_t source, int64_t sequence):
        if not 0 <= source < SHARD_COUNT_MAX:
            raise InvariantBroken(f"there is no shard {source}")
        self.alive()
        self.note_received(source, sequence)

    def numbers_sent(self):
        cdef Shard *shard = self.alive()
        return {
            shard.sent_order[number]: shard.sent[shard.sent_order[number]]
            for number in range(shard.sent_count)
        }

    def set_sent(self, int32_t target, int64_t sequence):
        cdef Shard *shard = self.alive()
        if not 0 <= target < SHARD_COUNT_MAX:
            raise InvariantBroken(f"there is no shard {target}")
        if shard.sent[target] < 0:
            shard.sent_order[shard.sent_count] = target
            shard.sent_count += 1
        shard.sent[target] = sequence

    # Configuration.

    def configure(self, bytes slots, closed_from, open_orders_max, in_flight_max):
        cdef Shard *shard = self.alive()
        if len(slots) != ACCOUNT_SLOTS:
            raise InvariantBroken(f"{len(slots)} account slots")
        memcpy(shard.slots, PyBytes_AS_STRING(slots), ACCOUNT_SLOTS)
        shard.closed_from = clamped(closed_from)
        shard.open_orders_max = clamped(open_orders_max)
        shard.in_flight_max = clamped(in_flight_max)

    cdef int32_t market_number(self, str symbol) except -2:
        cdef bytes encoded = symbol.encode()
        cdef Text text
        text.at, text.length = PyBytes_AS_STRING(encoded), <int32_t>len(encoded)
        return find_market(self.alive(), &text)

    def set_market(self, market, int shard_number, int status):
        """Have a market, which may be new, configured so from now on."""
        cdef Shard *shard = self.alive()
        cdef int32_t number = self.market_number(market.symbol)
        cdef Market *known
        if number < 0:
            number = add_market(shard, market.symbol.encode())
        known = shard.markets[number]
        known.base = add_asset(shard, market.base.encode())
        known.quote = add_asset(shard, market.quote.encode())
        known.shard, known.status, known.is_own = shard_number, status, shard_number == shard.index
        known.price_max, known.quantity_min = clamped(market.price_max), clamped(market.quantity_min)
        known.quantity_max = clamped(market.quantity_max)
        known.open_orders_max = clamped(market.open_orders_max)
        known.matches_max = clamped(market.matches_max)
        known.maker_fee_ppm, known.taker_fee_ppm = market.maker_fee_ppm, market.taker_fee_ppm
        known.band_down_ppm, known.slippage_ppm = market.band_down_ppm, market.market_slippage_ppm
        known.quote_per_tick_lot = clamped(market.quote_per_tick_lot)
        known.notional_min, known.band_up_ppm = to_wide(market.notional_min), to_wide(market.band_up_ppm)
        known.base_per_lot = to_wide(market.base_per_lot)

    def market_numbers(self, str symbol):
        """Return (last_price, sequence, trade_id, aggregate_id, prevented_id, resting orders) of a market."""
        cdef int32_t number = self.market_number(symbol)
        cdef Market *market
        if number < 0:
            return (0, 0, 0, 0, 0, 0)
        market = self.shard.markets[number]
        return (
            market.last_price, market.sequence, market.trade_id, market.aggregate_id, market.prevented_id,
            market.resting_count,
        )

    def set_market_numbers(self, str symbol, last_price, sequence, trade_id, aggregate_id, prevented_id):
        cdef Market *market = self.shard.markets[self.known_market(symbol)]
        market.last_price, market.sequence, market.trade_id = last_price, sequence, trade_id
        market.aggregate_id, market.prevented_id = aggregate_id, prevented_id

    cdef int32_t known_market(self, str symbol) except -1:
        cdef int32_t number = self.market_number(symbol)
        if number < 0:
            raise InvariantBroken(f"the shard knows no market {symbol[:40]!r}")
        return number

    def best_level(self, str symbol, int side):
        """Return (price, quantity, orders) of the best level of a side, or None."""
        cdef Shard *shard = self.alive()
        cdef BookSide *half
        cdef Level *level
        cdef int32_t number = self.market_number(symbol)
        if number < 0:
            return None
        half = book_side(shard.markets[number], side)
        if half.best < 0:
            return None
        level = level_at(shard, half.best)
        return (level.price, from_wide(level.quantity), level.order_count)

    def rest(
        self, str symbol, int side, int64_t order_id, int64_t account_id, int64_t price, int64_t quantity
    ):
        """Let an order of a snapshot rest."""
        cdef Shard *shard = self.alive()
        cdef Market *market = shard.markets[self.known_market(symbol)]
        cdef int32_t order = find_order(shard, order_id)
        cdef Order *opened
        if account_id < 1 or (order < 0 and shard.slots[account_id % ACCOUNT_SLOTS] == shard.index):
            raise InvariantBroken(f"order {order_id} rests, and is not open")
        if order >= 0:
            opened = order_at(shard, order)
            if (
                opened.market != market.index or opened.side != side or opened.resting >= 0
                or account_at(shard, opened.account).account_id != account_id
            ):
                raise InvariantBroken(f"order {order_id} rests where it is not open")
        elif find_resting(shard, market, order_id, NONE) >= 0:
            raise InvariantBroken(f"order {order_id} rests twice")
        add_resting(shard, market, side, order_id, account_id, price, quantity, order)
        # Subscribers have been told of it long ago.
        forget_changes(shard, book_side(market, side))

    def drain_market(self, str symbol, int64_t orders_max):
        """Take up to so many orders out of a book, best first, bids before asks; return (order id, account
        id)."""
        cdef Shard *shard = self.alive()
        cdef Market *market = shard.markets[self.known_market(symbol)]
        cdef BookSide *half
        cdef int32_t slot, side
        cdef Resting *resting
        closed = []
        for side in (BUY, SELL):
            half = book_side(market, side)
            while half.best >= 0 and len(closed) < orders_max:
                slot = level_at(shard, half.best).first
                resting = resting_at(shard, slot)
                closed.append((resting.order_id, resting.account_id))
                remove_resting(shard, slot)
        tell_depth(shard, market)
        return closed

    # Money.

    def add_asset(self, str asset):
        cdef Shard *shard = self.alive()
        shard.assets[add_asset(shard, asset.encode())].is_listed = True

    cdef int32_t asset_number(self, str asset) except -1:
        cdef bytes name = asset.encode()
        cdef int32_t number = find_asset(self.alive(), PyBytes_AS_STRING(name), <int32_t>len(name))
        if number < 0:
            raise InvariantBroken(f"the shard knows no asset {asset[:40]!r}")
        return number

    def totals_of(self, str asset):
        """Return (fees, deposited, withdrawn, settled, funds, held)."""
        cdef Totals *totals = &self.shard.assets[self.asset_number(asset)]
        return (
            from_wide(totals.fees), from_wide(totals.deposited), from_wide(totals.withdrawn),
            from_wide(totals.settled), from_wide(totals.funds), from_wide(totals.held),
        )

    def set_totals(self, str asset, fees, deposited, withdrawn, settled, funds, held):
        cdef Totals *totals = &self.shard.assets[self.asset_number(asset)]
        totals.fees, totals.deposited = to_wide(fees), to_wide(deposited)
        totals.withdrawn, totals.settled = to_wide(withdrawn), to_wide(settled)
        totals.funds, totals.held = to_wide(funds), to_wide(held)

    def balance_of(self, account_id, str asset):
        """Return (available, held) of an account, which may be none, in an asset that the shard knows."""
        cdef Funds *funds = NULL
        cdef int32_t slot = NONE, number = self.asset_number(asset)
        if -(2**63) <= account_id < 2**63:
            slot = find_account(self.shard, account_id)
        if slot >= 0:
            funds = find_funds(account_at(self.shard, slot), number)
        if funds == NULL:
            return (0, 0)
        return (funds.available, funds.held)

    def outstanding(self, str asset):
        """Return what came in of an asset by this shard and has not gone out by it."""
        cdef Totals *totals = &self.shard.assets[self.asset_number(asset)]
        return from_wide(totals.deposited - totals.withdrawn)

    def move_funds(self, int64_t account_id, str asset, int64_t amount, bint is_deposit, str transfer_id):
        """Credit or debit an account, which a deposit may open, and tell it."""
        cdef Shard *shard = self.alive()
        cdef int32_t number = self.asset_number(asset), slot = find_account(shard, account_id)
        cdef bytes name = transfer_id.encode()
        cdef Totals *totals = &shard.assets[number]
        cdef Writer *writer = &shard.events
        cdef Account *account
        cdef Funds *funds
        cdef wide_t before, after
        if slot < 0:
            slot = add_account(shard, account_id, shard.time)
        account = account_at(shard, slot)
        funds = funds_in(account, number)
        before = <wide_t>funds.available + funds.held  # measured, as in `exchange`
        after = <wide_t>funds.available + (amount if is_deposit else -amount)
        if after < 0 or after >> 64:
            raise InvariantBroken(f"available is {from_wide(after)} after a transfer of {amount}")
        funds.available = <uint64_t>after
        if is_deposit:
            totals.deposited += amount
        else:
            totals.withdrawn += amount
        totals.funds += <wide_t>funds.available + funds.held - before
        account.changed_time = shard.time
        reserve(writer, 160 + len(name))
        put_array(writer, 7)
        put_byte(writer, 11 if is_deposit else 12)
        put_number(writer, shard.time)
        put_number(writer, account_id)
        put_text(writer, totals.name, totals.name_length)
        put_number(writer, amount)
        put_text(writer, PyBytes_AS_STRING(name), len(name))
        put_array(writer, 1)
        put_balance(shard, writer, account, number)
        shard.event_count += 1
        # After the balance has been told, which an event does also when it is zero.
        forget_empty(account, number)

    # Accounts.

    cdef Account *known_account(self, int64_t account_id) except NULL:
        cdef int32_t slot = find_account(self.alive(), account_id)
        if slot < 0:
            raise InvariantBroken(f"the shard knows no account {account_id}")
        return account_at(self.shard, slot)

    def has_account(self, account_id):
        return -(2**63) <= account_id < 2**63 and find_account(self.alive(), account_id) >= 0

    def add_account(self, int64_t account_id, int64_t changed_time):
        add_account(self.alive(), account_id, changed_time)

    def remove_account(self, int64_t account_id):
        remove_account(self.alive(), find_account(self.shard, account_id))

    def account_ids(self):
        cdef Shard *shard = self.alive()
        cdef uint64_t at
        return sorted(
            [
                account_at(shard, shard.accounts_by_id.slots[at] - 1).account_id
                for at in range(shard.accounts_by_id.mask + 1)
                if shard.accounts_by_id.slots[at]
            ]
        )

    def changed_time(self, int64_t account_id):
        return self.known_account(account_id).changed_time

    def set_has_limits(self, int64_t account_id, bint has_limits):
        self.known_account(account_id).has_limits = has_limits

    def order_count_of(self, int64_t account_id):
        """Return how many open orders an account has."""
        return self.known_account(account_id).order_count

    def funds_of(self, int64_t account_id):
        """Return asset -> (available, held)."""
        cdef Account *account = self.known_account(account_id)
        cdef int32_t number
        return {
            asset_name(self.shard, account.funds[number].asset): (
                account.funds[number].available, account.funds[number].held
            )
            for number in range(account.fund_count)
        }

    def set_funds(self, int64_t account_id, str asset, available, held):
        """Set an account's funds; they may be new."""
        cdef Account *account = self.known_account(account_id)
        cdef Funds *funds = funds_in(account, self.asset_number(asset))
        funds.available, funds.held = available, held

    # Open orders.

    cdef bytes encoded_order(self, int32_t slot):
        cdef Writer writer
        memset(&writer, 0, sizeof(Writer))
        try:
            reserve(&writer, order_size(self.shard, order_at(self.shard, slot)))
            put_order(self.shard, &writer, slot, NO_REASON, NULL, False)
            return (<char *>writer.bytes)[: writer.length]
        finally:
            writer_let_go(&writer)

    def open_orders_of(self, int64_t account_id, only=None):
        """Return market -> [encoded order], oldest first; of all markets or of one."""
        cdef Account *account = self.known_account(account_id)
        cdef int32_t number, slot
        found = {}
        for number in range(account.market_count):
            symbol = self.symbol(account.open_orders[number].market)
            if only is not None and symbol != only:
                continue
            orders, slot = [], account.open_orders[number].first
            while slot >= 0:
                orders.append(self.encoded_order(slot))
                slot = order_at(self.shard, slot).following
            found[symbol] = orders
        return found

    cdef str symbol(self, int32_t market):
        return self.shard.markets[market].symbol[: self.shard.markets[market].symbol_length].decode()

    def find_open(self, account_id, str market, order_id, str client_order_id):
        """Return an open order, encoded, by one of its ids or by both; None: there is none that has them."""
        cdef Shard *shard = self.alive()
        cdef bytes name = client_order_id.encode()
        cdef Text text
        cdef int32_t slot, number = self.market_number(market)
        if number < 0 or not all(-(2**63) <= each < 2**63 for each in (account_id, order_id)):
            return None
        text.at, text.length = PyBytes_AS_STRING(name), <int32_t>len(name)
        slot = find_open(shard, account_id, number, order_id, &text)
        return self.encoded_order(slot) if slot >= 0 else None

    def restore_order(self, int64_t account_id, order, placed):
        """Put an open order of a snapshot behind the others of its account and market."""
        cdef Shard *shard = self.alive()
        cdef bytes name = order.client_order_id.encode()
        cdef char *elsewhere = NULL
        cdef int32_t account_slot = find_account(shard, account_id)
        cdef int32_t market = self.known_market(order.market)
        cdef int32_t slot
        cdef Order *opened
        cdef Text text
        if (
            account_slot < 0 or order.account_id != account_id or placed.order_id != order.order_id
            or find_order(shard, order.order_id) >= 0
        ):
            raise InvariantBroken(f"order {order.order_id} is not account {account_id}'s, or is open twice")
        if not 0 <= min(order.accepted_time, order.updated_time):
            raise InvariantBroken(f"order {order.order_id} was accepted before the epoch")
        if max(order.accepted_time, order.updated_time) >> TIME_BITS:
            raise InvariantBroken(f"an order keeps no time as late as those of order {order.order_id}")
        if len(name) > INLINE_NAME:
            elsewhere = <char *>grown(NULL, len(name))
        slot = slab_new(&shard.orders)
        opened = order_at(shard, slot)
        set_order_name(opened, PyBytes_AS_STRING(name), <int32_t>len(name), elsewhere)
        opened.order_id, opened.price, opened.quantity = order.order_id, order.price, order.quantity
        opened.quote_quantity, opened.cum_quantity = order.quote_quantity, order.cum_quantity
        opened.cum_quote, opened.held = order.cum_quote, order.held
        opened.accepted_time, opened.updated_time = order.accepted_time, order.updated_time
        opened.execution_id, opened.version = order.execution_id, order.version
        opened.request_id, opened.account, opened.market = placed.request_id, account_slot, market
        opened.reply_to, opened.resting = self.channel(placed.reply_to), NONE
        opened.side, opened.order_type = order.side, order.order_type
        opened.time_in_force, opened.prevention = order.time_in_force, order.self_trade_prevention
        opened.status = order.status
        if placed.idempotency_key or order.terms is not None:
            opened.has_extras = True
            terms = b"" if order.terms is None else encode_frame(order.terms)
            self.extras[slot] = (placed.idempotency_key, terms)
        refer(shard, opened.reply_to)
        text.at, text.length = PyBytes_AS_STRING(name), <int32_t>len(name)
        opened.name_hash = <uint32_t>hash_order_name(account_slot, &text)
        link_order(shard, slot)
        if order.status == IN_FLIGHT:
            shard.in_flight[shard.markets[market].shard] += 1

    # Remembered outcomes.

    def remember(self, int64_t time, str reply_to, int64_t request_id, bytes encoded):
        """Remember a reply of a snapshot."""
        cdef int32_t channel = self.channel(reply_to)
        remember(self.shard, time, channel, request_id, PyBytes_AS_STRING(encoded), len(encoded))

    def add_under_way(self, str reply_to, int64_t request_id):
        add_under_way(self.alive(), self.channel(reply_to), request_id)

    def requests_under_way(self):
        """Return (reply channel, request id) of every request that waits for another shard, sorted."""
        cdef Shard *shard = self.alive()
        cdef uint64_t at
        cdef UnderWay *request
        found = []
        for at in range(shard.under_way_by_request.mask + 1):
            if shard.under_way_by_request.slots[at]:
                request = under_way_at(shard, shard.under_way_by_request.slots[at] - 1)
                found.append((self.channel_name(request.channel), request.request_id))
        return sorted(found)

    cdef str channel_name(self, int32_t channel):
        return channel_at(self.shard, channel).name[: channel_at(self.shard, channel).length].decode()

    def encoded_accounts(self, dict rare):
        """Return the `AccountSnapshot`s; `rare` is account id -> (encoded outcomes and keys, encoded
        limits)."""
        return encoded_accounts(self, self.alive(), rare)

    def encoded_markets(self):
        return encoded_markets(self, self.alive())

    def encoded_answers(self):
        return encoded_answers(self.alive())

    def restore_large(self, bytes accounts, bytes markets, bytes answers, int64_t time):
        """Take over accounts, markets and remembered replies of a snapshot.

        Return the accounts with rare parts, or None: the object core has to read the snapshot.
        """
        return restore_large(self, self.alive(), accounts, markets, answers, time)


def snapshot_parts(bytes body):
    """Return the encodings of the fields of a snapshot, or None: the object core has to read it."""
    return array_spans(body)


cdef enum:
    WRITER_BEHIND_MS_MAX = 1000
    PREFETCH_DISTANCE = 3


cdef void look_ahead(Shard *shard, int64_t number, int64_t count) noexcept:
    """Have the processor fetch what later commands of the frame will look at: tables are larger than its cache.

    First the places in the tables, and some commands later the orders that these name.
    """
    cdef Item *item
    cdef int32_t account, slot
    if number + 2 * PREFETCH_DISTANCE < count:
        item = &shard.items[number + 2 * PREFETCH_DISTANCE]
        if item.tag == PLACE_ORDER or item.tag == CANCEL_ORDER:
            prefetch(&shard.answers[hash_request(shard.last_channel, item.request_id) & shard.answer_mask])
            account = find_account(shard, item.account_id)
            item.name_hash = hash_order_name(account, &item.client_order_id)
            prefetch(&shard.orders_by_name.slots[item.name_hash & shard.orders_by_name.mask])
    if PREFETCH_DISTANCE <= number and number + PREFETCH_DISTANCE < count:
        item = &shard.items[number + PREFETCH_DISTANCE]
        if item.tag == CANCEL_ORDER:
            slot = shard.orders_by_name.slots[item.name_hash & shard.orders_by_name.mask] - 1
            if slot >= 0:
                prefetch(order_at(shard, slot))
                prefetch(<char *>order_at(shard, slot) + 64)


cdef void begin_reading(Reader *reader, bytes frame, bint is_checked) noexcept:
    reader.at = <const unsigned char *>PyBytes_AS_STRING(frame)
    reader.end = reader.at + len(frame)
    reader.is_unusual, reader.is_checked = False, is_checked


cdef bytes framed(Writer *head, Writer *items, int64_t count):
    """Return a frame: its first fields, and an array of what was written."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, head.length + array_size(count) + items.length)
    cdef Writer writer
    begin_writing(&writer, made)
    put_bytes(&writer, head.bytes, head.length)
    put_array(&writer, count)
    put_bytes(&writer, items.bytes, items.length)
    return made
