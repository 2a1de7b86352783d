"""What enters a shard: commands from the functions, and messages from other shards.

All of an account's commands enter at the account's own shard. A stream entry carries a frame of commands
(field `COMMANDS_FIELD`), or a `MessageFrame` (field `MESSAGES_FIELD`); see codec.py. Structs are arrays on
the wire: new fields are appended with defaults, existing ones never change meaning.
"""

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from protocol.configuration import AccountLimits, MarketConfig, ShardConfig
from protocol.orders import (
    CloseReason,
    OrderTerms,
    OrderType,
    Prevented,
    RejectReason,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
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

# What a decoder lets through, so that nothing absurd reaches a shard: whole numbers that every reader and the
# database can hold, and names of a sensible length. Whether a number makes sense is the shard's to say.
_Stored = Meta(le=AMOUNT_UNITS_MAX)
_Positive = Meta(ge=1, le=AMOUNT_UNITS_MAX)
_NotNegative = Meta(ge=0, le=AMOUNT_UNITS_MAX)
_Name = Meta(max_length=200)


class PlaceOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """Place an order.

    `quantity` (lots) is 0 for a MARKET order by `quote_quantity` (quote units), and the other way round.
    `price` is the limit.

    A MARKET order with `bound_by_book` is bounded by its market's shard, from the best price of that moment
    (`Market.market_bound`). Its `price` is an estimate of that bound, from which only what a BUY by quantity
    holds is worked out; for all others it is 0. Without `bound_by_book`, as before there was that, `price` is
    the protective price: the worst that it may trade at.

    `client_order_id` must not be that of another open order of the account.

    `request_id` and `reply_to` name who waits for the reply (replies.py). This holds for every command: one
    that has both in common with an earlier one is a repetition of it, within the window of
    protocol/windows.py; it changes nothing and gets the first outcome. So an enqueue may be retried. A
    command with an empty `reply_to` or with the request id 0 is never a repetition.

    `idempotency_key` (empty: none) is the client's own mark of a repetition. Commands of one account that
    have it in common get the first outcome, or IDEMPOTENCY_KEY_REUSED when they ask for something else.

    When its entry is appended after `deadline_ms` (by the clock that gives entries their ids; 0: none) it is
    refused.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]
    client_order_id: Annotated[str, _Name]
    market: Annotated[str, _Name]
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: Annotated[PriceTicks, _Stored]
    quantity: Annotated[QuantityLots, _Stored]
    quote_quantity: Annotated[AssetUnits, _Stored] = AssetUnits(0)
    self_trade_prevention: SelfTradePrevention = SelfTradePrevention.EXPIRE_MAKER
    deadline_ms: Annotated[TimeMs, _NotNegative] = TimeMs(0)
    idempotency_key: Annotated[str, _Name] = ""
    terms: OrderTerms | None = None
    bound_by_book: bool = False


class CancelOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=2):
    """Cancel an open order, named by `order_id`, or by `client_order_id` when that is 0 (both given: both
    must match).

    `cancel_id` is the client order id of the cancel itself; empty: it has none.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name]
    order_id: Annotated[OrderId, _Stored]
    client_order_id: Annotated[str, _Name] = ""
    cancel_id: Annotated[str, _Name] = ""
    deadline_ms: Annotated[TimeMs, _NotNegative] = TimeMs(0)
    """As for `PlaceOrder`."""


class CancelAllOrders(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3
):
    """Cancel every open order of the account in one market; refused with UNKNOWN_ORDER when there is none.

    They share a `cancel_id`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name]
    cancel_id: Annotated[str, _Name] = ""
    deadline_ms: Annotated[TimeMs, _NotNegative] = TimeMs(0)
    """As for `PlaceOrder`."""


class Deposit(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=4):
    """Credit `amount` units of `asset`.

    A `transfer_id` that the account has used for a deposit before changes nothing: it succeeds when asset and
    amount are the same, otherwise it is refused with TRANSFER_ID_REUSED. Ids are remembered for `transfer_ms`
    of protocol/windows.py; whoever makes a transfer whose id may be older looks into the database's
    `transfers` first. Withdrawals have ids of their own.

    `idempotency_key` as for `PlaceOrder`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]
    asset: Annotated[str, _Name]
    amount: Annotated[AssetUnits, _Stored]
    transfer_id: Annotated[str, _Name]
    idempotency_key: Annotated[str, _Name] = ""


class Withdraw(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=5):
    """Debit `amount` units of `asset` from what is available.

    `transfer_id` and `idempotency_key` as for `Deposit`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]
    asset: Annotated[str, _Name]
    amount: Annotated[AssetUnits, _Stored]
    transfer_id: Annotated[str, _Name]
    idempotency_key: Annotated[str, _Name] = ""


class Tick(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=6):
    """Time has passed, and nothing else: the leader of a shard that has nothing to tell says so about once a
    second.
    """


class ConfigureShard(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=7
):
    """Let the shard follow another configuration, whose version is one more than that of the one before.

    Answered by `Configured`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    config: ShardConfig


class ConfigureMarket(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=8
):
    """List a market (version 1), or change one (its version and one).

    Enters at the market's own shard, which tells the others.

    What may never change: base, quote, tick and lot, and the assets' scales. Answered by `Configured`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    config: MarketConfig


class WithdrawFees(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=9):
    """Take `amount` units of `asset` out of the exchange, of the fees that `shard` has earned.

    `transfer_id` as for `Deposit`: fees have ids of their own. The reply has what is left of the fees as
    available.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    shard: Annotated[int, _NotNegative]
    asset: Annotated[str, _Name]
    amount: Annotated[AssetUnits, _Stored]
    transfer_id: Annotated[str, _Name]


class CloseAccount(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=10
):
    """Forget an account that has nothing: no funds, no open order, no idempotency key that is remembered, and
    neither frozen nor limited.

    It comes back by a deposit, and its limits begin with version 1 again.

    Refused with ACCOUNT_IN_USE. An account that is closed already stays so.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]


class SkipEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=32):
    """Pass over the entry `stream_id` of a shard's input, which halts the shard; docs/decisions/0026.

    An operator's instruction. It is no entry of the input, since it would stand behind the one that it names:
    it stands in `skip:{k}` until its shard's leader follows it, and in `skips:{k}` and the archive, beside
    the entry, from then on. Nobody waits for a reply. A shard that has keys follows it only as the command of
    a `Signed` by an OPERATOR key, and whoever replays the log verifies that.

    `counts_as_received`: another shard did send the messages in it, so the next one that comes from there has
    the number after theirs. When a stranger wrote them, that shard will still send others under these
    numbers.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    stream_id: Annotated[str, _Name]
    """As text: an operator may have written anything."""
    operator: Annotated[str, Meta(min_length=1, max_length=200)]
    reason: Annotated[str, Meta(min_length=1, max_length=1_000)]
    counts_as_received: bool = True


class LimitAccount(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=33
):
    """Freeze an account, thaw it, or set its limits.

    The version is one more than that of the limits before (or 1).

    An account that the shard does not know yet may be limited, too. Answered by `Configured`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]
    limits: AccountLimits


class CancelOrders(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=34
):
    """Cancel, on an operator's word, every open order of an account (`market` empty: in all markets), or of a
    market (`account_id` 0).

    Orders of an account enter at its shard, those of a market at the market's, which must not be TRADING
    (MARKET_OPEN). The shard cancels some with each command that it applies from now on. Answered by
    `Canceling`, at once.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name] = ""


SignedBody = (
    Deposit
    | Withdraw
    | ConfigureShard
    | ConfigureMarket
    | WithdrawFees
    | CloseAccount
    | LimitAccount
    | CancelOrders
)
"""What counts only with the signature of a key that the shard knows."""


class Signed(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=31):
    """A command (encoded `SignedBody`) with the signature of the key named `key` (protocol/signing.py says
    over what).

    In `skip:{k}` the command is a `SkipEntry`, of which deadline, request id and reply channel say nothing.

    It counts for `shard` only, and only when its entry is appended up to `deadline_ms`, which may be no
    further away than the shard remembers first outcomes: whoever appends it again gets the first outcome. So
    it needs a request id and a reply channel. Otherwise, and when the key may not say this, it is refused
    with NOT_AUTHORIZED.
    """

    key: Annotated[str, _Name]
    shard: Annotated[int, _NotNegative]
    deadline_ms: Annotated[TimeMs, _NotNegative]
    command: Annotated[bytes, Meta(max_length=100_000)]
    signature: Annotated[bytes, Meta(max_length=200)]


Command = PlaceOrder | CancelOrder | CancelAllOrders | Deposit | Withdraw
ConfigCommand = ConfigureShard | ConfigureMarket
OperatorCommand = WithdrawFees | CloseAccount | LimitAccount | CancelOrders
LoggedCommand = Command | ConfigCommand | OperatorCommand | Signed | Tick


class MatchOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=11):
    """Account's shard to market's shard: match this order, whose funds are held.

    `quote_budget` is the most quote units that a MARKET order may spend or receive (0: no bound). When
    `budget_is_limit`, the order is by quote quantity and stops there, filled when what is left pays no lot at
    its last price, otherwise expired. Without it a BUY that would cost more is refused.

    `bound_by_book`: see `PlaceOrder`; the price is 1 where that has 0. A BUY by quantity whose budget is what
    it costs at the estimate stops there and expires; it is refused only where its account has no more than
    its budget.
    """

    order_id: Annotated[OrderId, _Positive]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name]
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: Annotated[PriceTicks, _Positive]
    quantity: Annotated[QuantityLots, _NotNegative]
    quote_budget: Annotated[AssetUnits, _NotNegative]
    budget_is_limit: bool
    self_trade_prevention: SelfTradePrevention
    terms: OrderTerms | None = None
    bound_by_book: bool = False


class CancelResting(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=12
):
    """Account's shard to market's shard: take this order out of the book.

    Whoever waits for that is named in the answer too.
    """

    order_id: Annotated[OrderId, _Positive]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name]
    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    cancel_id: Annotated[str, _Name] = ""
    reason: CloseReason = CloseReason.CANCELED_BY_OWNER


class TakerFill(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One trade of an arriving order."""

    trade_id: Annotated[TradeId, _Positive]
    price: Annotated[PriceTicks, _Positive]
    quantity: Annotated[QuantityLots, _NotNegative]


class TakerOutcome(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=21
):
    """Market's shard to account's shard: what became of a `MatchOrder`.

    Refused when `reject_reason` is set (then there are no fills). Otherwise the fills happened, and what is
    left rests (`rests`), or expired: `expired_in_match` when self-trade prevention ended it, `limit_reached`
    when it had met as many resting orders as one may. `budget_spent` when what is left of its quote quantity
    pays no lot of the next order that it would meet. `price_range_exceeded` when it would have met more, at
    prices beyond the bound of a MARKET order or beyond what it holds.
    """

    order_id: Annotated[OrderId, _Positive]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name]
    fills: tuple[TakerFill, ...]
    rests: bool
    expired_in_match: bool = False
    reject_reason: RejectReason | None = None
    prevented: tuple[Prevented, ...] = ()
    limit_reached: bool = False
    budget_spent: bool = False
    price_range_exceeded: bool = False


class MakerFill(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=22):
    """Market's shard to account's shard: a resting order traded."""

    order_id: Annotated[OrderId, _Positive]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name]
    trade_id: Annotated[TradeId, _Positive]
    price: Annotated[PriceTicks, _Positive]
    quantity: Annotated[QuantityLots, _NotNegative]


class RestingClosed(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=23
):
    """Market's shard to account's shard: a resting order left the book without trading.

    By a cancel that `request_id` and `reply_to` asked for, for another `reason`, or (`expired_in_match`) by
    self-trade prevention: then `prevented` is the trade with `taker_order_id` that did not happen.
    """

    order_id: Annotated[OrderId, _Positive]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name]
    request_id: Annotated[int, _Stored] = 0
    reply_to: Annotated[str, _Name] = ""
    expired_in_match: bool = False
    cancel_id: str = ""
    reason: CloseReason = CloseReason.CANCELED_BY_OWNER
    prevented: Prevented | None = None
    taker_order_id: Annotated[OrderId, _NotNegative] = OrderId(0)


class CancelMissed(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=24
):
    """Market's shard to account's shard: the order was no longer in the book when its cancel arrived."""

    order_id: Annotated[OrderId, _Positive]
    account_id: Annotated[AccountId, _Stored]
    market: Annotated[str, _Name]
    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]


class KnowMarket(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=25):
    """Market's shard to every other: so the market is configured from now on."""

    config: MarketConfig


ShardMessage = (
    KnowMarket | MatchOrder | CancelResting | TakerOutcome | MakerFill | RestingClosed | CancelMissed
)


class MessageFrame(NamedTuple):
    """Messages from one shard to another, numbered from `first_sequence` on, without gaps per source and
    target.

    The receiver drops what it has seen already, and stops when a number is missing.
    """

    source: int
    target: int
    first_sequence: int
    messages: tuple[ShardMessage, ...]
    written_us: int | None = None
    """The time of the shard that sends them; None in frames of format 1."""
