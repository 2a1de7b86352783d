"""Snapshots of format 2, which lack the configuration; read once, at the upgrade to a release that logs it.

What such a snapshot lacks comes from the settings. So it may be used only where nothing has been committed
since: else the settings would decide again what became of that.
"""

from typing import Final

import msgspec

from engine_worker.core.accounts import PlacedOrder
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import (
    AccountSnapshot,
    CancelAllSnapshot,
    MarketSnapshot,
    ShardSnapshot,
    SnapshotError,
    restored,
    snapshot_format,
    whole_body,
)
from protocol.configuration import MarketConfig, ShardConfig
from protocol.decoding import msgpack_decoder
from protocol.market import MarketMap
from protocol.orders import OrderState, OrderStatus
from protocol.stream_id import StreamId
from protocol.units import AccountId, OrderId, TimeMs, split_large

FORMAT: Final = 2


class _Account(msgspec.Struct, frozen=True, array_like=True, gc=False):
    account_id: AccountId
    funds: list[tuple[str, int, int]]
    open_orders: list[tuple[str, list[OrderState]]]
    client_order_ids: list[tuple[str, OrderId, int, str]]
    """(client order id, order, request, who waits) of open orders and of closed ones that were remembered."""
    transfer_ids: list[str]


class _Shard(msgspec.Struct, frozen=True, array_like=True):
    version: int
    stream_id: str
    index: int
    shard_count: int
    order_count: int
    command_count: int
    totals: list[tuple[str, int, int, int, int]]
    accounts: list[_Account]
    markets: list[MarketSnapshot]
    closed_orders: list[OrderState]
    cancel_alls: list[CancelAllSnapshot]
    received: list[tuple[int, int]]
    sent: list[tuple[int, int]]
    checksum: int


_decode = msgpack_decoder(_Shard)


def is_of_format_2(data: bytes) -> bool:
    """Return whether these are the whole bytes of such a snapshot."""
    try:
        return snapshot_format(data) == FORMAT
    except SnapshotError:
        return False


def decode_snapshot_2(data: bytes, market_map: MarketMap, config: ShardConfig) -> tuple[Shard, StreamId]:
    """Return the shard with this configuration, and the id of the last entry of its input that is in it.

    Closed orders are left out: workers have them from the events. So are the ids of transfers, which the
    database has.

    Raises:
        SnapshotError: the bytes are torn, or do not fit these markets.
    """
    try:
        old = _decode(whole_body(data))
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"the snapshot cannot be read: {error}") from error
    if old.shard_count != market_map.shard_count:
        raise SnapshotError(
            f"the snapshot is one of {old.shard_count} shards, the settings say {market_map.shard_count}: "
            "a running exchange cannot change its number of shards"
        )
    missing = {market.symbol for market in old.markets} - market_map.by_symbol.keys()
    if missing:
        raise SnapshotError(f"market {min(missing)} is in the snapshot but not in the settings")
    accounts = [_account(each) for each in old.accounts]
    under_way = [(each.reply_to, each.request_id) for each in old.cancel_alls]
    for account in accounts:
        placed = dict(account.client_order_ids)
        orders = [order for _, orders in account.open_orders for order in orders]
        pending = [placed[order.client_order_id] for order in orders if order.status is OrderStatus.IN_FLIGHT]
        under_way += [(each.reply_to, each.request_id) for each in pending]
    configs = [
        MarketConfig(market, market_map.shard_of_market(market.symbol)) for market in market_map.markets
    ]
    stream_id = StreamId.parse(old.stream_id)
    snapshot = ShardSnapshot(
        version=old.version,
        stream_id=old.stream_id,
        index=old.index,
        shard_count=old.shard_count,
        order_count=old.order_count,
        command_count=old.command_count,
        totals=[(asset, *map(split_large, totals)) for asset, *totals in old.totals],  # type: ignore[misc]
        accounts=accounts,
        markets=old.markets,
        requests=[],
        requests_under_way=[request for request in under_way if all(request)],
        key_expiries=[],
        cancel_alls=old.cancel_alls,
        received=old.received,
        sent=old.sent,
        checksum=old.checksum,
        time=TimeMs(stream_id.ms),
        config=config,
        market_configs=configs,
        transfers=[],
        execution_count=0,
        drains=[],
        given=[],
    )
    return restored(snapshot), stream_id


def _account(old: _Account) -> AccountSnapshot:
    placed = {order_id: (request_id, reply_to) for _, order_id, request_id, reply_to in old.client_order_ids}
    orders = [order for _, orders in old.open_orders for order in orders]
    by_name = [
        (order.client_order_id, PlacedOrder(order.order_id, *placed.get(order.order_id, (0, ""))))
        for order in orders
    ]
    return AccountSnapshot(old.account_id, old.funds, old.open_orders, by_name, [], [])
