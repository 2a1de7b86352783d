"""Orders and the words about them, shared by commands, events and replies.

The life of an order, as `OrderStatus` × what happens to it (anything not listed breaks an invariant):

| status           | accepted | filled in part   | filled | canceled | expired |
| ---------------- | -------- | ---------------- | ------ | -------- | ------- |
| PENDING_NEW      | NEW      | –                | –      | –        | –       |
| NEW              | –        | PARTIALLY_FILLED | FILLED | CANCELED | EXPIRED |
| PARTIALLY_FILLED | –        | PARTIALLY_FILLED | FILLED | CANCELED | EXPIRED |

A PENDING_NEW order is refused without a trace when its market's shard refuses it. FILLED, CANCELED, EXPIRED and
EXPIRED_IN_MATCH (self-trade prevention) are final.
"""

from enum import IntEnum, StrEnum

import msgspec

from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs, TradeId


class Side(IntEnum):
    """What the order does with the base asset."""

    BUY = 1
    SELL = 2

    @property
    def opposite(self) -> "Side":
        """The side this one trades with."""
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(IntEnum):
    """LIMIT_MAKER is post-only; MARKET never rests and carries a protective price."""

    LIMIT = 1
    LIMIT_MAKER = 2
    MARKET = 3


class TimeInForce(IntEnum):
    """How long an order may wait: until canceled, not at all, or only whole."""

    GTC = 1
    IOC = 2
    FOK = 3


class SelfTradePrevention(IntEnum):
    """What gives way when an order would trade with another order of the same account."""

    NONE = 0
    EXPIRE_TAKER = 1
    EXPIRE_MAKER = 2
    EXPIRE_BOTH = 3


class OrderStatus(IntEnum):
    """See the table above."""

    PENDING_NEW = 0
    NEW = 1
    PARTIALLY_FILLED = 2
    FILLED = 3
    CANCELED = 4
    EXPIRED = 5
    EXPIRED_IN_MATCH = 6

    @property
    def is_open(self) -> bool:
        """Whether the order can still trade."""
        return self <= OrderStatus.PARTIALLY_FILLED


class Liquidity(IntEnum):
    """Whether the order rested (MAKER) or arrived (TAKER)."""

    MAKER = 1
    TAKER = 2


class RejectReason(StrEnum):
    """Why a command was refused: the rule that it broke."""

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
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    INVALID_COMBINATION = "invalid_combination"
    """The order's type, time in force and amounts do not go together."""
    MARKET_CLOSED = "market_closed"
    CONFIG_OUTDATED = "config_outdated"
    """The configuration has changed since it was looked at: its version is not the one before."""
    CONFIG_REFUSED = "config_refused"
    """It changes what may not change, or it is not this shard's, or the program does not know its rules."""
    TOO_LATE = "too_late"
    """It reached the shard's input after its deadline."""
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    """The account has used the key for something else."""
    NOT_UNDERSTOOD = "not_understood"
    """The shard could read who sent the command, and not the command; it is a dead letter."""
    TOO_MANY_IDEMPOTENCY_KEYS = "too_many_idempotency_keys"
    ORDER_NOT_REMEMBERED = "order_not_remembered"
    """Of a query: the shard does not have the order, and the database may not have it yet."""
    TRANSFER_ID_REUSED = "transfer_id_reused"
    """A transfer of this kind with this id has moved another amount, or another asset."""
    ACCOUNT_IN_USE = "account_in_use"
    """The account has funds, open orders, or idempotency keys that are remembered."""


class OrderState(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """An order as its account's shard knows it; replaced, never changed, at every transition.

    `price` is the limit in ticks, for a MARKET order the protective price. `quantity` is in lots; an order by
    quote quantity has 0 there until it closes and then what it executed. `quote_quantity` (quote units) is 0
    unless the order was placed by quote quantity. `held` is what the order still holds: quote units for a
    BUY, base units for a SELL. `cum_quote` is the sum of price x quantity over the fills, in quote units.
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

    @property
    def leaves_quantity(self) -> QuantityLots:
        """Lots that may still trade (0 for a closed order, and for one by quote quantity)."""
        return QuantityLots(self.quantity - self.cum_quantity if self.status.is_open else 0)


class FillReport(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One fill of the order that a reply is about. The fee is in units of `fee_asset`, the asset received."""

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
