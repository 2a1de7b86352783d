"""What a shard answers: replies to commands, and queries with their answers.

Replies go to the pub/sub channel `replies(reply_to)` as a msgpack array of replies, one array per batch and
waiter. Queries enter by the stream `queries(shard)`, which is no part of the log, one frame (msgpack array,
field `QUERIES_FIELD`) per entry. A query sees everything that was acknowledged before it.
"""

import msgspec

from protocol.configuration import AccountLimits, MarketConfig, ShardConfig
from protocol.orders import Balance, FillReport, OrderState, Prevented, RejectReason
from protocol.stream_id import STREAM_START
from protocol.units import AccountId, Large, OrderId, TimeMs, join_large, split_large


class OrderReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """An order was placed (with the fills it had at once), canceled, or asked for."""

    request_id: int
    time: TimeMs
    order: OrderState
    fills: tuple[FillReport, ...] = ()
    prevented: tuple[Prevented, ...] = ()
    """Of an order that was placed: what self-trade prevention did not let happen."""


class OrdersReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Several orders: canceled together, or asked for."""

    request_id: int
    time: TimeMs
    orders: tuple[OrderState, ...]


class FundsReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """An account's balances: after a deposit or withdrawal the one changed, for a query all that were ever
    used.

    For a query, `time` is when they changed last (0: the account has none), or that of a snapshot, if its
    shard was restored since.
    """

    request_id: int
    time: TimeMs
    balances: tuple[Balance, ...]
    limits: AccountLimits | None = None
    """What an operator has set for the account, of a query; None: nothing ever."""


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
    """A shard's books of money, per asset: available + held + fees = deposited - withdrawn + settled, always.

    `settled` is what settlements brought in less what they took; it sums to zero over all shards when nothing
    is in flight between them. `position` is the input entry up to which all this is so, `digest` that of a
    `StateHashed` there; `received` and `sent` are (other shard, messages). Tag 5 was the same with rows of
    plain numbers.
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
        """The books, an asset a row."""
        return tuple(
            (asset, *map(join_large, amounts))  # type: ignore[misc]  # six of them
            for asset, *amounts in self.stored_rows
        )


def stored_audit_row(row: AuditRow) -> StoredAuditRow:
    """Return the row as it is sent."""
    asset, *amounts = row
    return (asset, *map(split_large, amounts))  # type: ignore[return-value]  # six of them


class Configured(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """A shard or a market is configured as it was asked for."""

    request_id: int
    time: TimeMs
    version: int


class ConfigReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """How a shard is configured (None: not yet), and the markets that it knows, its own and those of
    others.
    """

    request_id: int
    time: TimeMs
    shard: ShardConfig | None
    markets: tuple[MarketConfig, ...]


class Canceling(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """The shard has begun to cancel so many orders, as far as it knows now."""

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
    """An open order, or a closed one that the database may not have yet.

    Answered by `OrderReply`, or `Refused`.

    UNKNOWN_ORDER: if there is such an order, the database has it as it is. ORDER_NOT_REMEMBERED: the order
    may have been closed without being in the database, which may also know an older state, or an older order
    with the client order id.

    An order is IN_FLIGHT while its account's shard waits to hear from its market's what becomes of it.

    Named by `order_id`, or by `client_order_id` when that is 0 (both given: both must match).
    """

    request_id: int
    reply_to: str
    account_id: AccountId
    market: str
    order_id: OrderId
    client_order_id: str = ""


class OpenOrdersQuery(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """The account's open orders, oldest first, in one market or (`market` empty) all.

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
