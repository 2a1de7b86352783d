"""The output of a shard: events.

One entry of `ev:{k}` carries one batch: a msgpack array of events (field `EVENTS_FIELD`).

Market events (`TradeExecuted`, `DepthChanged`) come from the market's shard and are numbered by `sequence`,
contiguous per market. Account events come from the account's shard; `balances` holds the balances that the
event changed, after the change. `ShardEvent`s do not concern clients; readers that only follow trading skip
them.
"""

import msgspec

from protocol.configuration import AccountLimits, MarketConfig, ShardConfig
from protocol.orders import Balance, CloseReason, Liquidity, OrderState, Prevented, SelfTradePrevention, Side
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId


class TradeExecuted(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1
):
    """Two orders traded, at the maker's price.

    `trade_id` is contiguous per market, from 1. Trades of one taker at one price share an `aggregate_id`,
    which is contiguous, too.
    """

    time: TimeMs
    market: str
    sequence: Sequence
    trade_id: TradeId
    aggregate_id: int
    price: PriceTicks
    quantity: QuantityLots
    taker_side: Side
    maker_order_id: OrderId
    taker_order_id: OrderId
    maker_account_id: AccountId
    taker_account_id: AccountId


class LevelChange(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """The total quantity that now rests at a price; 0: the level is gone."""

    side: Side
    price: PriceTicks
    quantity: QuantityLots


class DepthChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=2):
    """The price levels that one command changed, each once; all trades of the command come before."""

    time: TimeMs
    market: str
    sequence: Sequence
    changes: tuple[LevelChange, ...]


class FundsDeposited(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=11
):
    """A deposit was credited."""

    time: TimeMs
    account_id: AccountId
    asset: str
    amount: AssetUnits
    transfer_id: str
    balances: tuple[Balance, ...]


class FundsWithdrawn(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=12
):
    """A withdrawal was debited."""

    time: TimeMs
    account_id: AccountId
    asset: str
    amount: AssetUnits
    transfer_id: str
    balances: tuple[Balance, ...]


class OrderAccepted(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=13
):
    """An order passed every check; its status is NEW, and its funds are held."""

    time: TimeMs
    order: OrderState
    balances: tuple[Balance, ...]


class OrderFilled(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=14):
    """One fill of an order; `order` is its state after it. The account received `fee_asset`, less the fee.

    `price` x `quantity` in quote units is `quote`; the fee is in units of `fee_asset`.
    """

    time: TimeMs
    order: OrderState
    trade_id: TradeId
    price: PriceTicks
    quantity: QuantityLots
    quote: AssetUnits
    liquidity: Liquidity
    fee: AssetUnits
    fee_asset: str
    balances: tuple[Balance, ...]


class OrderClosed(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=15):
    """An order closed with a remaining quantity; its funds are released.

    `cancel_id` is the client order id of the cancel that its owner sent; empty: there was none. `prevented`
    is the reason when self-trade prevention ended the order: the trade with `counter_order_id` that did not
    happen.
    """

    time: TimeMs
    order: OrderState
    reason: CloseReason
    balances: tuple[Balance, ...]
    cancel_id: str = ""
    prevented: Prevented | None = None
    counter_order_id: OrderId = OrderId(0)


class FundsReleased(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=16
):
    """A market's shard other than the account's refused an order; its funds, held meanwhile, are released.

    The order itself leaves no trace, but events in between showed the hold; these are the balances without
    it.
    """

    time: TimeMs
    account_id: AccountId
    balances: tuple[Balance, ...]


class FeesWithdrawn(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=17
):
    """Fees that the shard had earned left the exchange."""

    time: TimeMs
    asset: str
    amount: AssetUnits
    transfer_id: str


class AccountClosed(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=18
):
    """The shard has forgotten an account, which was empty."""

    time: TimeMs
    account_id: AccountId


class MatchPrevented(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=19
):
    """Two orders of one account would have traded; self-trade prevention reduced or ended them instead.

    `match_id` is contiguous per market, from 1. The quantities are what was taken off, in lots; 0: nothing,
    because of `mode`, the taker's. `execution_id` is that of the taker's execution before it. The account's
    shard produces this event before the orders that it ended close.
    """

    time: TimeMs
    market: str
    account_id: AccountId
    match_id: int
    maker_order_id: OrderId
    taker_order_id: OrderId
    price: PriceTicks
    maker_quantity: QuantityLots
    taker_quantity: QuantityLots
    execution_id: int
    mode: SelfTradePrevention = SelfTradePrevention.EXPIRE_MAKER


class StateHashed(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=21):
    """A digest of the shard's state after its `command_count`-th command.

    Every replay of the log must produce the same `digest`. It covers every event that the shard has ever
    produced, including those before this one, and its counters and totals.
    """

    time: TimeMs
    command_count: int
    digest: str


class TimePassed(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=22):
    """The shard's time has advanced without another event: no later event has an older time."""

    time: TimeMs


MarketEvent = TradeExecuted | DepthChanged
AccountEvent = FundsDeposited | FundsWithdrawn | FundsReleased | OrderAccepted | OrderFilled | OrderClosed


class MarketConfigured(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=23
):
    """A market of this shard was listed, or its configuration changed."""

    time: TimeMs
    config: MarketConfig


class ShardConfigured(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=24
):
    """The shard's configuration changed."""

    time: TimeMs
    config: ShardConfig


class AccountLimited(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=25
):
    """An operator has frozen or unfrozen an account, or set its limits."""

    time: TimeMs
    account_id: AccountId
    limits: AccountLimits


class EntrySkipped(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=26
):
    """An entry of the shard's input, which had halted it, was skipped on an operator's instruction.

    Nothing of the entry was applied.
    """

    time: TimeMs
    stream_id: str
    operator: str
    reason: str


ShardEvent = (
    StateHashed
    | TimePassed
    | MarketConfigured
    | ShardConfigured
    | AccountLimited
    | FeesWithdrawn
    | AccountClosed
    | MatchPrevented
    | EntrySkipped
)
"""The events that clients never receive."""
Event = MarketEvent | AccountEvent | ShardEvent
