# The records of a shard as C structs, and the numbers of the protocol's enums.
#
# Records lie in slabs and refer to each other by slot, a number of 32 bits: half the size of a pointer. A
# slot's address never changes, so a pointer to a record stays valid until the record is freed.

cdef extern from *:
    """
    typedef __int128 wide_t;
    """
    # Amounts that grow for the lifetime of the exchange, and products of two amounts. To Cython this is a
    # number of 64 bits, so it never becomes a Python object directly: see `from_wide`.
    ctypedef long long wide_t

cdef enum:
    BUY = 1
    SELL = 2

cdef enum:
    LIMIT = 1
    LIMIT_MAKER = 2
    MARKET = 3

cdef enum:
    GTC = 1
    IOC = 2
    FOK = 3

cdef enum:
    PREVENT_NOTHING = 0
    EXPIRE_TAKER = 1
    EXPIRE_MAKER = 2
    EXPIRE_BOTH = 3

cdef enum:
    IN_FLIGHT = 0
    NEW = 1
    PARTIALLY_FILLED = 2
    FILLED = 3
    CANCELED = 4
    EXPIRED = 5
    EXPIRED_IN_MATCH = 6

cdef enum:
    NO_REASON = 0
    CANCELED_BY_OWNER = 1
    SELF_TRADE_PREVENTED = 3
    UNFILLED_IOC = 6
    UNFILLED_FOK = 7
    INSUFFICIENT_LIQUIDITY = 8
    PRICE_RANGE_EXCEEDED = 12
    TOO_MANY_MATCHES = 14
    CLOSE_REASON_MAX = 14

cdef enum:
    MAKER = 1
    TAKER = 2

cdef enum:
    TRADING = 1
    HALTED = 3

cdef enum:  # tags of commands and messages
    PLACE_ORDER = 1
    CANCEL_ORDER = 2
    DEPOSIT = 4
    TICK = 6
    MATCH_ORDER = 11
    CANCEL_RESTING = 12
    TAKER_OUTCOME = 21
    MAKER_FILL = 22
    RESTING_CLOSED = 23
    CANCEL_MISSED = 24

cdef enum:
    ACCOUNT_SLOTS = 2520
    SHARD_COUNT_MAX = 100
    PPM = 1000000
    ASSET_NAME_MAX = 20
    INLINE_NAME = 26
    TIME_BITS = 47
    NONE = -1  # a slot of no record

ctypedef struct Text:
    # Bytes that belong to somebody else, mostly to the frame that is being applied.
    const char *at
    int32_t length


cdef extern from *:
    """
    typedef struct {
        int64_t order_id, price, quantity, quote_quantity, cum_quantity, cum_quote, held, execution_id,
        request_id; int64_t accepted_time : 48, market : 16;
        int64_t updated_time : 48;
        uint64_t name_length : 16;
        int32_t account, reply_to, preceding, following, version, resting;
        uint32_t name_hash;
        uint8_t side : 2, order_type : 2, time_in_force : 2, prevention : 2;
        uint8_t status : 4, has_extras : 1;
        char name[26];
    } Order;
    """
    ctypedef struct Order:
        # An open order, as its account's half keeps it (protocol/orders.py, `OrderState`), and who placed
        # it; 144 bytes.
        int64_t order_id
        int64_t price
        int64_t quantity
        int64_t quote_quantity
        int64_t cum_quantity
        int64_t cum_quote
        int64_t held
        int64_t accepted_time
        int64_t updated_time
        int64_t execution_id
        int64_t request_id
        int32_t account
        int32_t market
        int32_t reply_to  # a channel
        int32_t preceding  # of the account's open orders in the market, oldest first
        int32_t following
        int32_t version
        int32_t resting  # its record in the book, when this very shard matches it
        uint32_t name_hash
        int32_t name_length
        uint8_t side
        uint8_t order_type
        uint8_t time_in_force
        uint8_t prevention
        uint8_t status
        uint8_t has_extras  # an idempotency key or terms, which are in `FastCore.extras`
        char *name  # the client order id; a longer one is elsewhere, and this begins with its address


ctypedef struct Resting:
    # An order in a book; `quantity` is what is left of it.
    int64_t order_id
    int64_t account_id
    int64_t quantity
    int32_t level
    int32_t preceding
    int32_t following
    # Its record at its account's half; of another shard's account it names an `OwnLink`, as -2 - slot.
    int32_t order


ctypedef struct OwnLink:
    # One order of an account of another shard among the others on the same side of a book. Those of this
    # shard's accounts are found by the accounts' open orders.
    int32_t resting
    int32_t preceding
    int32_t following


ctypedef struct Own:
    # The first of these.
    int64_t account_id
    int32_t market
    int32_t side
    int32_t first


ctypedef struct Block:
    # Neighbouring levels of a side, best last, and what rests on them.
    int32_t count
    int32_t capacity
    int64_t *ranks
    int32_t *levels
    wide_t quantity
    wide_t cost  # the sum of each level's price times its quantity: ticks x lots
    wide_t own_quantity  # scratch of `sums`: how much of that is the account's that does not count
    wide_t own_cost


ctypedef struct BookSide:
    int32_t side
    int32_t market
    int32_t sign  # an order's rank is its price times this: the best has the smallest
    int32_t best  # a level
    Block **blocks  # best last; none is empty
    int32_t block_count
    int32_t block_capacity
    int32_t *changed  # levels, in the order in which the command that is applied touched them first
    int32_t changed_count
    int32_t changed_capacity


ctypedef struct OwnOrders:
    # A walk through the orders of an account on a side.
    int64_t account_id
    BookSide *half
    int32_t order  # the next one of this shard's account
    int32_t link  # the next one of another's


ctypedef struct Level:
    # The orders at one price, first come first; `quantity` is their sum.
    int64_t price
    int64_t rank
    wide_t quantity
    wide_t own_quantity  # scratch of `sums`
    Block *block
    BookSide *side
    int32_t first
    int32_t last
    int32_t order_count
    int32_t is_changed


ctypedef struct Market:
    # A market that the shard knows, and its book when it is the shard's own.
    char symbol[24]
    int32_t symbol_length
    int32_t index
    int32_t base  # an asset
    int32_t quote
    int32_t shard
    int32_t status
    int32_t is_own
    int64_t price_max
    int64_t quantity_min
    int64_t quantity_max
    int64_t open_orders_max
    int64_t matches_max
    int64_t maker_fee_ppm
    int64_t taker_fee_ppm
    int64_t band_down_ppm
    int64_t slippage_ppm
    int64_t quote_per_tick_lot
    wide_t notional_min
    wide_t band_up_ppm
    wide_t base_per_lot
    int64_t last_price
    int64_t sequence
    int64_t trade_id
    int64_t aggregate_id
    int64_t prevented_id
    int64_t resting_count
    BookSide bids
    BookSide asks


ctypedef struct Funds:
    # Not negative; what a balance may be for a moment (`BALANCE_UNITS_MAX`) needs the 64th bit.
    uint64_t available
    uint64_t held
    int32_t asset


ctypedef struct OpenOrders:
    int32_t market
    int32_t count
    int32_t first
    int32_t last


ctypedef struct Account:
    int64_t account_id
    int64_t changed_time
    Funds *funds  # by asset number
    OpenOrders *open_orders  # by market number
    int32_t fund_count
    int32_t fund_capacity
    int32_t market_count
    int32_t market_capacity
    int32_t order_count  # all open orders
    int32_t has_limits


ctypedef struct Totals:
    # As `AssetTotals` of the object core.
    char name[24]
    int32_t name_length
    int32_t is_listed
    wide_t fees
    wide_t deposited
    wide_t withdrawn
    wide_t settled
    wide_t funds
    wide_t held


ctypedef struct Channel:
    # A reply channel; it is forgotten when nothing refers to it.
    char *name
    int32_t length
    int32_t first_reply  # scratch of `grouped_replies`
    int32_t last_reply
    int32_t is_idle  # is in `idle_channels`
    int64_t references


ctypedef struct UnderWay:
    int64_t request_id
    int32_t channel


ctypedef struct Answered:
    # A request's first reply; its encoding follows in memory.
    int64_t time
    int64_t request_id
    int32_t channel
    uint32_t length


ctypedef struct AnswerEntry:
    # With the hash, so that no search looks at a reply that is not wanted, and a larger table needs none of
    # them.
    Answered *answered  # NULL: empty
    uint64_t hashed


ctypedef struct AnswerChunk:
    AnswerChunk *following
    size_t used
    size_t capacity


ctypedef struct ReplyEntry:
    int32_t channel
    int32_t following
    size_t start
    size_t end


ctypedef struct Span:
    size_t start
    size_t end


ctypedef struct Fill:
    int64_t trade_id
    int64_t price
    int64_t quantity


ctypedef struct Met:
    # A resting order that an arriving one traded with, beside its `Fill`.
    int64_t order_id
    int64_t account_id
    int32_t order


ctypedef struct Prevented:
    int64_t match_id
    int64_t maker_order_id
    int64_t price
    int64_t taker_quantity
    int64_t maker_quantity
    int64_t quantity


ctypedef struct PreventedMaker:
    int64_t order_id
    int64_t account_id
    int64_t price
    int64_t quantity
    int64_t taker_quantity
    int64_t payable


ctypedef struct Item:
    # A command or message as it was read; which fields count, its tag says.
    Text reply_to
    Text client_order_id
    Text symbol
    Text cancel_id
    Text idempotency_key
    Text terms
    int64_t request_id
    int64_t account_id
    int64_t order_id
    int64_t price
    int64_t quantity
    int64_t quote_quantity  # of a `MatchOrder` the budget
    int64_t deadline_ms
    int64_t trade_id
    int64_t taker_order_id
    uint64_t name_hash  # of the client order id, once it was searched
    int32_t channel
    int32_t market
    int32_t order  # the record of an order of this very shard, where it is known; else NONE
    int32_t fills  # where they begin in `Shard.read_fills`
    int32_t fill_count
    int32_t prevented  # likewise in `Shard.read_prevented`
    int32_t prevented_count
    int32_t reject_reason  # NONE: none
    uint8_t tag
    uint8_t side
    uint8_t order_type
    uint8_t time_in_force
    uint8_t prevention
    uint8_t close_reason
    uint8_t bound_by_book
    uint8_t budget_is_limit
    uint8_t rests
    uint8_t expired_in_match
    uint8_t limit_reached
    uint8_t budget_spent
    uint8_t price_range_exceeded
    uint8_t has_supported_terms


ctypedef struct Outbox:
    # The messages to one shard since the last `take`.
    Writer messages
    int64_t count
    int64_t first_sequence


ctypedef struct Shard:
    # The state of one shard; what is rare is in the Python objects of `FastCore.parts`.
    void *core  # the FastCore, for what is rare
    int32_t index
    int32_t shard_count
    int32_t has_drains
    int64_t closed_from
    int64_t open_orders_max
    int64_t in_flight_max
    int64_t request_window_ms
    unsigned char slots[ACCOUNT_SLOTS]

    int64_t time
    uint64_t entered
    int64_t command_count
    int64_t order_count
    int64_t execution_count
    int64_t open_order_count
    int64_t hash_due
    int64_t outcomes_kept_until  # up to then nothing of the rare outcomes is too old
    int64_t in_flight[SHARD_COUNT_MAX]
    int64_t received[SHARD_COUNT_MAX]  # NONE: nothing ever
    int64_t sent[SHARD_COUNT_MAX]
    int32_t received_order[SHARD_COUNT_MAX]  # shards, in the order of their first message
    int32_t sent_order[SHARD_COUNT_MAX]
    int32_t received_count
    int32_t sent_count

    Slab orders
    Table orders_by_id
    Table orders_by_name
    Slab resting
    Table resting_by_id  # those of accounts of other shards
    Slab levels
    Slab own
    Slab own_links
    Table own_by_account
    Slab accounts
    Table accounts_by_id
    Slab channels
    Table channels_by_name
    Slab under_way
    Table under_way_by_request
    Market **markets
    int32_t market_count
    int32_t market_capacity
    Table markets_by_symbol
    int32_t last_market  # that was found last
    int32_t last_channel
    Totals *assets
    int32_t asset_count
    int32_t asset_capacity

    AnswerChunk *oldest_answers
    AnswerChunk *newest_answers
    size_t oldest_answer  # offset in the oldest chunk
    AnswerEntry *answers
    uint64_t answer_mask
    int64_t answer_count
    int32_t *idle_channels
    int32_t idle_count
    int32_t idle_capacity

    int32_t is_request_open  # whether the command that is handled is still to be answered
    int32_t request_channel
    int64_t request_id

    Writer events
    int64_t event_count
    size_t checksummed  # bytes of `events` that are in the checksum
    uint32_t checksum
    Span told  # the order in the event written last
    Span *closed  # orders that the events have closed
    int32_t closed_count
    int32_t closed_capacity
    Writer replies
    ReplyEntry *reply_entries
    int32_t reply_count
    int32_t reply_capacity
    Outbox outbox[SHARD_COUNT_MAX]
    int32_t outbox_order[SHARD_COUNT_MAX]  # targets, in the order of their first message
    int32_t outbox_count

    Item *items
    int64_t item_capacity
    Fill *read_fills
    int32_t read_fill_count
    int32_t read_fill_capacity
    Prevented *read_prevented
    int32_t read_prevented_count
    int32_t read_prevented_capacity
    Fill *fills
    Met *met
    int64_t *fees
    int32_t fill_capacity
    int32_t met_capacity
    int32_t fee_capacity
    PreventedMaker *prevented_makers
    int32_t prevented_maker_capacity
    Prevented *prevented
    int32_t prevented_capacity
