"""The input of a shard: commands from the functions, and messages from other shards.

All of an account's commands enter at the account's own shard. A stream entry carries a frame of commands
(field `COMMANDS_FIELD`), or a `MessageFrame` (field `MESSAGES_FIELD`); see codec.py. Structs are arrays on
the wire: new fields are appended with defaults, and existing fields never change their meaning.
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

# Bounds that decoders enforce, so that no absurd value reaches a shard: whole numbers that every reader and
# the database can hold, and names of limited length. The shard decides whether a number makes sense.
_Stored = Meta(le=AMOUNT_UNITS_MAX)
_Positive = Meta(ge=1, le=AMOUNT_UNITS_MAX)
_NotNegative = Meta(ge=0, le=AMOUNT_UNITS_MAX)
_Name = Meta(max_length=200)


class PlaceOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """Place an order.

    `quantity` (lots) is 0 for a MARKET order by `quote_quantity` (quote units); otherwise `quote_quantity` is
    0. `price` is the limit price.

    The market's shard bounds a MARKET order with `bound_by_book` by the best price at that moment
    (`Market.market_bound`). Its `price` is an estimate of that bound and determines only how much a BUY by
    quantity holds; for all other such orders it is 0. Without `bound_by_book` (older writers), `price` is the
    protective price: the worst price at which the order may trade.

    `client_order_id` must not be that of another open order of the account.

    `request_id` and `reply_to` name the waiter for the reply (replies.py). In every command, both together
    identify a request: within the window of protocol/windows.py a command with the same pair as an earlier
    one is a repetition. It changes nothing and gets the first outcome, so an enqueue may be retried. A
    command with an empty `reply_to` or with request id 0 is never a repetition.

    `idempotency_key` (empty: none) is the client's own mark of a repetition. Commands of one account with the
    same key get the first outcome, or IDEMPOTENCY_KEY_REUSED when they ask for something else.

    The order is refused when its entry is appended after `deadline_ms` (by the clock that assigns entry ids;
    0: no deadline).
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
    """Cancel an open order, named by `order_id`, or by `client_order_id` when `order_id` is 0.

    If both are given, both must match.

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

    All these cancels have the same `cancel_id`.
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

    A `transfer_id` that an earlier deposit of the account has used changes nothing: the command succeeds when
    asset and amount are the same; otherwise it is refused with TRANSFER_ID_REUSED. Ids are remembered for
    `transfer_ms` of protocol/windows.py. A caller whose transfer id may be older checks the database's
    `transfers` first. Withdrawals have their own ids.

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
    """Debit `amount` units of `asset` from the available funds.

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
    """Time has passed, and nothing else.

    The leader of an idle shard appends a tick about once a second.
    """


class ConfigureShard(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=7
):
    """Replace the shard's configuration; the new version is the current version plus one.

    Answered by `Configured`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    config: ShardConfig


class ConfigureMarket(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=8
):
    """List a market (version 1), or change one (its current version plus one).

    The command enters at the market's own shard, which informs the others.

    Base, quote, tick size, lot size and the assets' scales may never change. Answered by `Configured`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    config: MarketConfig


class WithdrawFees(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=9):
    """Withdraw `amount` units of `asset` from the fees that `shard` has earned.

    `transfer_id` as for `Deposit`: fee withdrawals have their own ids. The reply gives the remaining fees as
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
    """Forget an account that has no funds, no open order and no remembered idempotency key.

    An account that is frozen or limited is not forgotten.

    A deposit opens the account again, and its limits begin at version 1.

    Refused with ACCOUNT_IN_USE. Closing a closed account changes nothing.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]


class SkipEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=32):
    """Skip the entry `stream_id` of a shard's input, which halts the shard; docs/decisions/0026.

    An operator's instruction. It is not an entry of the input, because it would stand behind the entry that
    it names. It is stored in `skip:{k}` until the shard's leader follows it, and from then on beside the
    entry in `skips:{k}` and in the archive. Nobody waits for a reply. A shard that has keys follows it only
    as the command of a `Signed` by an OPERATOR key, and every replay of the log verifies the signature.

    `counts_as_received`: another shard did send the messages in the entry, so the next message from that
    shard has the number after theirs. If the entry is a forgery, that shard will still send other messages
    with these numbers.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    stream_id: Annotated[str, _Name]
    """Text, because an operator may have entered anything."""
    operator: Annotated[str, Meta(min_length=1, max_length=200)]
    reason: Annotated[str, Meta(min_length=1, max_length=1_000)]
    counts_as_received: bool = True


class LimitAccount(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=33
):
    """Freeze or unfreeze an account, or set its limits.

    The new version is the current version of the limits plus one (or 1).

    An account that the shard does not know yet may be limited, too. Answered by `Configured`.
    """

    request_id: Annotated[int, _Stored]
    reply_to: Annotated[str, _Name]
    account_id: Annotated[AccountId, _Stored]
    limits: AccountLimits


class CancelOrders(
    msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=34
):
    """Cancel all open orders of an account (in one market or, `market` empty, in all), or of a market.

    Only operators send this command. `account_id` 0: the orders of a market. Orders of an account are
    canceled at the account's shard, those of a market at the market's shard; the market must not be TRADING
    (MARKET_OPEN). The shard cancels a portion with each command that it applies from then on. Answered by
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
"""The commands that require the signature of a key that the shard knows."""


class Signed(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=31):
    """A command (an encoded `SignedBody`) with the signature of the key named `key`.

    protocol/signing.py defines the signed bytes. In `skip:{k}` the command is a `SkipEntry`, which has no
    deadline, request id or reply channel.

    It is valid for `shard` only, and only when its entry is appended at `deadline_ms` or before. The deadline
    may be no further ahead than the shard remembers first outcomes, so that appending it again returns the
    first outcome. It therefore needs a request id and a reply channel. Otherwise, and when the key's role
    does not permit the command, it is refused with NOT_AUTHORIZED.
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

    `quote_budget` is the most quote units that a MARKET order may spend or receive (0: no bound). With
    `budget_is_limit` the order is by quote quantity and stops at the budget: it is filled when the remaining
    budget does not pay for one lot at its last price, and expires otherwise. Without it a BUY that would cost
    more is refused.

    `bound_by_book`: see `PlaceOrder`; the price is 1 where `PlaceOrder` has 0. A BUY by quantity whose budget
    is its cost at the estimated price stops at the budget and expires; it is refused only when its account
    has no more than the budget.
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
    """Account's shard to market's shard: remove this order from the book.

    The answer names the waiter for the reply, too.
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
    """Market's shard to account's shard: the outcome of a `MatchOrder`.

    The order is refused when `reject_reason` is set (then there are no fills). Otherwise the fills happened,
    and the remainder rests (`rests`) or has expired: `expired_in_match` when self-trade prevention ended it,
    `limit_reached` when it had met the maximum number of resting orders, `budget_spent` when the remaining
    quote quantity does not pay for one lot of the next order in the book, `price_range_exceeded` when the
    next order's price is beyond the bound of a MARKET order or beyond the funds it holds.
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

    The cause is the cancel that `request_id` and `reply_to` identify, another `reason`, or
    (`expired_in_match`) self-trade prevention: then `prevented` is the trade with `taker_order_id` that did
    not happen.
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
    """Market's shard to every other shard: the market's new configuration."""

    config: MarketConfig


ShardMessage = (
    KnowMarket | MatchOrder | CancelResting | TakerOutcome | MakerFill | RestingClosed | CancelMissed
)


class MessageFrame(NamedTuple):
    """Messages from one shard to another, numbered without gaps from `first_sequence` on.

    The numbers count per source and target. The receiver drops messages that it has already received, and
    stops when a number is missing.
    """

    source: int
    target: int
    first_sequence: int
    messages: tuple[ShardMessage, ...]
    written_us: int | None = None
    """The sending shard's time; None in frames of format 1."""
