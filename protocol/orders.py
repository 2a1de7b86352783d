"""Orders and their vocabulary, shared by commands, events and replies.

The life of an order: `OrderStatus` × event (a combination without an entry violates an invariant):

| status           | accepted | filled in part   | filled | canceled | expired |
| ---------------- | -------- | ---------------- | ------ | -------- | ------- |
| IN_FLIGHT        | NEW      | –                | –      | –        | –       |
| PENDING_NEW      | NEW      | –                | –      | CANCELED | EXPIRED |
| NEW              | –        | PARTIALLY_FILLED | FILLED | CANCELED | EXPIRED |
| PARTIALLY_FILLED | –        | PARTIALLY_FILLED | FILLED | CANCELED | EXPIRED |

An IN_FLIGHT order waits for the answer of its market's shard; no client sees it, and it leaves no trace when
that shard refuses it. PENDING_NEW is a leg of an order list that waits for another leg; nothing produces it
yet. FILLED, CANCELED, EXPIRED and EXPIRED_IN_MATCH (self-trade prevention) are final.
"""

from enum import IntEnum, StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.units import (
    AMOUNT_UNITS_MAX,
    AccountId,
    AssetUnits,
    OrderId,
    PriceTicks,
    QuantityLots,
    TimeMs,
    TradeId,
)


class Side(IntEnum):
    """What the order does with the base asset."""

    BUY = 1
    SELL = 2

    @property
    def opposite(self) -> "Side":
        """The opposite side."""
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(IntEnum):
    """LIMIT_MAKER is post-only; MARKET never rests and carries a protective price."""

    LIMIT = 1
    LIMIT_MAKER = 2
    MARKET = 3


class TimeInForce(IntEnum):
    """How long an order stays open: until canceled (GTC), not at all (IOC), or only if filled whole (FOK)."""

    GTC = 1
    IOC = 2
    FOK = 3


class SelfTradePrevention(IntEnum):
    """Which order yields when it would trade with another order of the same account."""

    NONE = 0
    EXPIRE_TAKER = 1
    EXPIRE_MAKER = 2
    EXPIRE_BOTH = 3


class OrderStatus(IntEnum):
    """The status of an order: see the table above. The numbers have no order."""

    IN_FLIGHT = 0
    NEW = 1
    PARTIALLY_FILLED = 2
    FILLED = 3
    CANCELED = 4
    EXPIRED = 5
    EXPIRED_IN_MATCH = 6
    PENDING_NEW = 7

    @property
    def is_open(self) -> bool:
        """Whether the order can still trade."""
        return self in OPEN_STATUSES


OPEN_STATUSES = frozenset(
    {OrderStatus.IN_FLIGHT, OrderStatus.PENDING_NEW, OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED}
)


class CloseReason(IntEnum):
    """Why an order closed without trading, or without trading further."""

    CANCELED_BY_OWNER = 1
    EXPIRED = 2
    """An IOC, FOK or MARKET order found no (further) counter order. Written only before format 2."""
    SELF_TRADE_PREVENTED = 3
    CANCELED_BY_OPERATOR = 4
    MARKET_DELISTED = 5
    UNFILLED_IOC = 6
    UNFILLED_FOK = 7
    INSUFFICIENT_LIQUIDITY = 8
    """A MARKET order has a remainder: the book is empty, or the order's funds are used up."""
    REJECTED = 9
    """A triggered or pending order broke a rule when it became active.

    Not produced yet, nor are OCO, OTO and GOOD_TILL_DATE.
    """
    OCO_TRIGGERED = 10
    OTO_PHASE_ONE_EXPIRED = 11
    PRICE_RANGE_EXCEEDED = 12
    """A MARKET order has a remainder: the next price is beyond its bound or its funds."""
    GOOD_TILL_DATE = 13
    TOO_MANY_MATCHES = 14
    """The order has met the maximum of resting orders (`Market.matches_max`) and would have met more."""


class Liquidity(IntEnum):
    """Whether the order rested (MAKER) or arrived (TAKER)."""

    MAKER = 1
    TAKER = 2


class RejectReason(StrEnum):
    """Why a command was refused: the broken rule."""

    INSUFFICIENT_BALANCE = "insufficient_balance"
    DUPLICATE_CLIENT_ORDER_ID = "duplicate_client_order_id"
    WOULD_MATCH_IMMEDIATELY = "would_match_immediately"
    UNKNOWN_ORDER = "unknown_order"
    UNKNOWN_MARKET = "unknown_market"
    UNKNOWN_ASSET = "unknown_asset"
    PRICE_OUT_OF_RANGE = "price_out_of_range"
    PRICE_OUTSIDE_BAND = "price_outside_band"
    QUANTITY_OUT_OF_RANGE = "quantity_out_of_range"
    NOTIONAL_TOO_SMALL = "notional_too_small"
    TOO_MANY_OPEN_ORDERS = "too_many_open_orders"
    TOO_MANY_OPEN_ORDERS_IN_ALL = "too_many_open_orders_in_all"
    """In all markets together (`ShardConfig.open_orders_max`)."""
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    INVALID_COMBINATION = "invalid_combination"
    """The order's type, time in force and amounts are not a valid combination."""
    MARKET_CLOSED = "market_closed"
    CONFIG_OUTDATED = "config_outdated"
    """The configuration has changed since it was read: the command's version is not the next one."""
    CONFIG_REFUSED = "config_refused"
    """The change is not allowed, is for another shard, or has rules that the program does not know."""
    TOO_LATE = "too_late"
    """It reached the shard's input after its deadline."""
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    """The account has used the key for another request."""
    NOT_UNDERSTOOD = "not_understood"
    """The shard could decode the sender of the command, but not the command; it is a dead letter."""
    TOO_MANY_IDEMPOTENCY_KEYS = "too_many_idempotency_keys"
    ORDER_NOT_REMEMBERED = "order_not_remembered"
    """Answer to a query: the shard does not have the order, and the database may not have it yet."""
    TRANSFER_ID_REUSED = "transfer_id_reused"
    """A transfer of this kind with this id has another amount or another asset."""
    NOT_AUTHORIZED = "not_authorized"
    """The command needs a valid, unexpired signature for this shard, by a key whose role permits it."""
    ACCOUNT_FROZEN = "account_frozen"
    """An operator has frozen the account."""
    TOO_MANY_ORDERS = "too_many_orders"
    """The account has reached the maximum of orders per time that an operator has set."""
    UNDER_MAINTENANCE = "under_maintenance"
    """Only cancels are accepted."""
    MARKET_OPEN = "market_open"
    """The market is open: an operator must close it for new orders before canceling its orders."""
    EMPTY_BOOK = "empty_book"
    """A MARKET order by quote quantity finds an empty book.

    Or a MARKET order by quantity, in a market without any trade that tells its value.
    """
    THIN_BOOK = "thin_book"
    """A MARKET order by quote quantity could trade less than the minimum quantity of an order."""
    TOO_MANY_MATCHES = "too_many_matches"
    """A FOK order would meet more resting orders than allowed (`Market.matches_max`)."""
    MARKET_BEHIND = "market_behind"
    """The market's shard has too many unanswered orders from this shard (`ShardConfig.in_flight_max`)."""
    ACCOUNT_IN_USE = "account_in_use"
    """The account has funds, open orders, or remembered idempotency keys."""


class Peg(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A price that is derived from the book when the order enters it."""

    is_primary: bool
    """Relative to the order's own side of the book; otherwise to the opposite side."""
    offset_levels: Annotated[int, Meta(ge=0, le=AMOUNT_UNITS_MAX)] = 0


class OrderTerms(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """What an order asks for beyond side, type, price and quantity. 0: not requested.

    The format has these fields already, so that the orders that need them require no new format. So far
    shards refuse all of them except strategies.
    """

    stop_price: Annotated[PriceTicks, Meta(ge=0, le=AMOUNT_UNITS_MAX)] = PriceTicks(0)
    trailing_delta_bips: Annotated[int, Meta(ge=0, le=10_000)] = 0
    display_quantity: Annotated[QuantityLots, Meta(ge=0, le=AMOUNT_UNITS_MAX)] = QuantityLots(0)
    """The visible part of an iceberg order, in lots."""
    expires_time: Annotated[TimeMs, Meta(ge=0, le=AMOUNT_UNITS_MAX)] = TimeMs(0)
    peg: Peg | None = None
    strategy_id: Annotated[int, Meta(ge=0, le=AMOUNT_UNITS_MAX)] | None = None
    strategy_type: Annotated[int, Meta(ge=0, le=AMOUNT_UNITS_MAX)] | None = None


def are_supported(terms: OrderTerms) -> bool:
    """Return whether shards accept an order with these terms: it asks for nothing but a strategy id."""
    strategy = OrderTerms(strategy_id=terms.strategy_id, strategy_type=terms.strategy_type)
    return terms == strategy != OrderTerms()


class OrderCourse(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """The history of an order beyond its fills. So far only self-trade prevention produces it."""

    list_id: int = 0
    """The order list of which it is a leg; 0: none."""
    working_time: TimeMs = TimeMs(0)
    """The time when it was triggered; 0: not yet."""
    trailing_time: TimeMs = TimeMs(0)
    """The time when its trailing stop became active; 0: not yet."""
    prevented_quantity: QuantityLots = QuantityLots(0)
    """Lots that self-trade prevention has taken off the order.

    For an order by quote quantity: the lots that its remainder would have traded.
    """
    prevented_match_id: int = 0
    """The id of its last prevented match; 0: none."""


class OrderState(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """An order as its account's shard stores it; replaced, never modified, at every transition.

    `price` is the limit in ticks, or for a MARKET order that of `PlaceOrder`. `quantity` is in lots; for an
    order by quote quantity it is 0 until the order closes, and then the executed quantity. `quote_quantity`
    (quote units) is 0 unless the order was placed by quote quantity. `held` is what the order still holds:
    quote units for a BUY, base units for a SELL. `cum_quote` is the sum of price x quantity over the fills,
    in quote units.

    `execution_id` is the id of the execution (acceptance, fill, close) that led to this state; executions of
    all orders of a shard are numbered like order ids. `version` counts the order's own states from 1: of two
    states the later one has the larger version. Both are 0 while the order is IN_FLIGHT, and in data written
    before format 2.
    """

    order_id: OrderId
    account_id: AccountId
    client_order_id: str
    market: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: PriceTicks
    quantity: QuantityLots
    quote_quantity: AssetUnits
    self_trade_prevention: SelfTradePrevention
    status: OrderStatus
    cum_quantity: QuantityLots
    cum_quote: AssetUnits
    held: AssetUnits
    accepted_time: TimeMs
    updated_time: TimeMs
    execution_id: int = 0
    version: int = 0
    close_reason: CloseReason | None = None
    terms: OrderTerms | None = None
    course: OrderCourse | None = None

    @property
    def leaves_quantity(self) -> QuantityLots:
        """Lots that may still trade; 0 for a closed order and for an order by quote quantity."""
        return QuantityLots(self.quantity - self.cum_quantity if self.status.is_open else 0)


class Prevented(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A trade between two orders of one account that self-trade prevention did not allow.

    `match_id` is contiguous per market, from 1.
    """

    match_id: Annotated[int, Meta(ge=1, le=AMOUNT_UNITS_MAX)]
    maker_order_id: Annotated[OrderId, Meta(ge=1, le=AMOUNT_UNITS_MAX)]
    price: Annotated[PriceTicks, Meta(ge=1, le=AMOUNT_UNITS_MAX)]
    taker_quantity: Annotated[QuantityLots, Meta(ge=0, le=AMOUNT_UNITS_MAX)]
    """Lots taken off the arriving order; 0: none, because of its mode."""
    maker_quantity: Annotated[QuantityLots, Meta(ge=0, le=AMOUNT_UNITS_MAX)]
    """Lots taken off the resting order; 0: none."""
    quantity: Annotated[QuantityLots, Meta(ge=0, le=AMOUNT_UNITS_MAX)] = QuantityLots(0)
    """Lots that would have been traded."""


class FillReport(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One fill of the order in a reply. The fee is in units of `fee_asset`, the asset received."""

    trade_id: TradeId
    price: PriceTicks
    quantity: QuantityLots
    fee: AssetUnits
    fee_asset: str


class Balance(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """An account's funds in one asset, in the asset's units."""

    asset: str
    available: AssetUnits
    held: AssetUnits
