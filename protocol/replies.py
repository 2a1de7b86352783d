"""The answers of a shard: replies to commands, and queries with their replies.

Replies go to the pub/sub channel `replies(reply_to)` as a msgpack array, one array per batch and waiter.
Queries enter through the stream `queries(shard)`, which is not part of the log, one frame (msgpack array,
field `QUERIES_FIELD`) per entry. A query sees everything that was acknowledged before it.
"""

import msgspec

from protocol.configuration import AccountLimits, MarketConfig, ShardConfig
from protocol.orders import Balance, FillReport, OrderState, Prevented, RejectReason
from protocol.stream_id import STREAM_START
from protocol.units import AccountId, Large, OrderId, TimeMs, join_large, split_large


class OrderReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """An order that was placed (with its immediate fills), canceled, or queried."""

    request_id: int
    time: TimeMs
    order: OrderState
    fills: tuple[FillReport, ...] = ()
    prevented: tuple[Prevented, ...] = ()
    """For an order that was placed: the trades that self-trade prevention did not allow."""


class OrdersReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Several orders: canceled together, or queried."""

    request_id: int
    time: TimeMs
    orders: tuple[OrderState, ...]


class FundsReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """An account's balances: the one that a deposit or withdrawal changed, or all ever used for a query.

    For a query, `time` is the time of the last change (0: the account has none), or the time of a snapshot if
    its shard was restored since.
    """

    request_id: int
    time: TimeMs
    balances: tuple[Balance, ...]
    limits: AccountLimits | None = None
    """For a query: the limits that an operator has set for the account; None: never any."""


class Refused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Nothing was changed."""

    request_id: int
    time: TimeMs
    reason: RejectReason


AuditRow = tuple[str, int, int, int, int, int, int]
"""(asset, available, held, fees, deposited, withdrawn, settled), in the asset's units."""
StoredAuditRow = tuple[str, Large, Large, Large, Large, Large, Large]
"""An `AuditRow` as it is sent: each amount may exceed 64 bits."""


class AuditReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """A shard's accounting per asset: available + held + fees = deposited - withdrawn + settled, always.

    `settled` is the sum that settlements have added minus the sum that they have taken; over all shards it is
    zero when nothing is in flight between them. `position` is the input entry of these sums, `digest` that of
    a `StateHashed` there; `received` and `sent` are (other shard, messages). Tag 5 was the same struct with
    rows of plain numbers.
    """

    request_id: int
    time: TimeMs
    stored_rows: tuple[StoredAuditRow, ...]
    open_orders: int
    command_count: int
    position: str = str(STREAM_START)
    digest: str = ""
    received: tuple[tuple[int, int], ...] = ()
    sent: tuple[tuple[int, int], ...] = ()

    @property
    def rows(self) -> tuple[AuditRow, ...]:
        """The sums, one row per asset."""
        return tuple(
            (asset, *map(join_large, amounts))  # type: ignore[misc]  # six of them
            for asset, *amounts in self.stored_rows
        )


def stored_audit_row(row: AuditRow) -> StoredAuditRow:
    """Return the row in the form in which it is sent."""
    asset, *amounts = row
    return (asset, *map(split_large, amounts))  # type: ignore[return-value]  # six of them


class Configured(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """A shard or a market has the requested configuration."""

    request_id: int
    time: TimeMs
    version: int


class ConfigReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """A shard's configuration (None: not configured), and the markets it knows, including other shards'."""

    request_id: int
    time: TimeMs
    shard: ShardConfig | None
    markets: tuple[MarketConfig, ...]


class Canceling(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """The shard has begun to cancel orders; their number is as far as the shard knows now."""

    request_id: int
    time: TimeMs
    orders: int


Reply = Configured | Canceling | ConfigReply | OrderReply | OrdersReply | FundsReply | Refused | AuditReply


class BalancesQuery(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Answered by `FundsReply`."""

    request_id: int
    reply_to: str
    account_id: AccountId


class OrderQuery(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Query an open order, or a closed one that the database may not have yet.

    Answered by `OrderReply`, or `Refused`.

    UNKNOWN_ORDER: if the order exists, the database has its current state. ORDER_NOT_REMEMBERED: the order
    may have been closed without being in the database, which may have an older state, or an older order with
    the same client order id.

    An order is IN_FLIGHT while its account's shard waits for the outcome from its market's shard.

    Named by `order_id`, or by `client_order_id` when `order_id` is 0 (both given: both must match).
    """

    request_id: int
    reply_to: str
    account_id: AccountId
    market: str
    order_id: OrderId
    client_order_id: str = ""


class OpenOrdersQuery(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Query the account's open orders, oldest first, in one market or (`market` empty) in all.

    Answered by `OrdersReply`.
    """

    request_id: int
    reply_to: str
    account_id: AccountId
    market: str = ""


class AuditQuery(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Answered by `AuditReply`."""

    request_id: int
    reply_to: str


class ConfigQuery(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Answered by `ConfigReply`."""

    request_id: int
    reply_to: str


Query = ConfigQuery | BalancesQuery | OrderQuery | OpenOrdersQuery | AuditQuery
