"""A shard's whole state as bytes and back.

The same state always gives the same bytes, however it came about: everything stands in the order of its
number or name, but for what waits in a queue, which stands in the order of its arrival. A shard restored from
them goes on exactly as the one that was saved: snapshot plus the commands after it equals never having
stopped.
"""

import hashlib
from collections import deque
from typing import Final

import msgspec

from engine_worker.core.accounts import Account, AssetTotals, Funds, OrderCounts, PlacedOrder
from engine_worker.core.book import BookSide
from engine_worker.core.drains import Drain
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.outcomes import FirstOutcome, KeyedRequest, KeyedRequests, Request, Transfer
from engine_worker.core.shard import Shard
from engine_worker.core.shard_state import CancelAllRequest, ShardState
from protocol.codec import encode_as
from protocol.configuration import AccountLimits, MarketConfig, ShardConfig
from protocol.decoding import msgpack_decoder
from protocol.market import MarketError, MarketMap
from protocol.orders import OrderState
from protocol.release import LaterReleaseError, why_later, why_too_early
from protocol.stream_id import StreamId
from protocol.units import AccountId, AssetUnits, Large, OrderId, PriceTicks, QuantityLots, TimeMs, join_large
from protocol.windows import Windows

FORMAT_VERSION: Final = 3
"""The newest format of snapshots that this program reads.

3: with the configuration, the first outcomes of requests and the shard's own time, without closed orders;
totals of any size, and transfer ids as digests with their times. 2: with the checksum of all events.
"""
VERSIONS: Final[dict[int, int]] = {2: 3}
"""Format that the shard writes (`ShardConfig.format`) -> the format of its snapshots. The release before
reads those that are written before the switch."""


class SnapshotError(ValueError):
    """The snapshot does not fit: torn, of another format, or of another set of shards or markets."""


class LaterSnapshotError(SnapshotError, LaterReleaseError):
    """A later release wrote the snapshot; this program must not lead its shard."""


class AccountSnapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One account; dicts are lists of pairs."""

    account_id: AccountId
    funds: list[tuple[str, int, int]]
    open_orders: list[tuple[str, list[OrderState]]]
    client_order_ids: list[tuple[str, PlacedOrder]]
    key_outcomes: list[FirstOutcome[str]]
    keys_under_way: list[tuple[str, bytes, list[Request]]]
    """(idempotency key, fingerprint, who has repeated the request)."""
    limits: AccountLimits | None = None
    order_counts: OrderCounts | None = None
    changed_time: TimeMs = TimeMs(0)
    """When the funds changed last; 0: before the format had this, and no later than the snapshot."""


class LevelSnapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One price level: (order id, account id, quantity left), first come first."""

    price: PriceTicks
    orders: list[tuple[OrderId, AccountId, QuantityLots]]


class MarketSnapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One market; levels best first."""

    symbol: str
    last_price: int
    sequence: int
    trade_id: int
    aggregate_id: int
    bids: list[LevelSnapshot]
    asks: list[LevelSnapshot]
    prevented_id: int = 0


class CancelAllSnapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request to cancel several orders that still waits."""

    request_id: int
    reply_to: str
    waiting: int
    orders: list[OrderState]


class ShardSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """A shard after everything up to `stream_id` of its input was applied."""

    version: int
    stream_id: str
    index: int
    shard_count: int
    order_count: int
    command_count: int
    totals: list[tuple[str, Large, Large, Large, Large]]
    """(asset, fees, deposited, withdrawn, settled)."""
    accounts: list[AccountSnapshot]
    markets: list[MarketSnapshot]
    requests: list[FirstOutcome[Request]]
    requests_under_way: list[Request]
    key_expiries: list[tuple[TimeMs, AccountId]]
    cancel_alls: list[CancelAllSnapshot]
    received: list[tuple[int, int]]
    sent: list[tuple[int, int]]
    checksum: int
    time: TimeMs
    config: ShardConfig | None
    market_configs: list[MarketConfig]
    """Of all markets that the shard knows."""
    transfers: list[Transfer]
    execution_count: int
    drains: list[Drain]
    given: list[tuple[tuple[str, str], tuple[int, AssetUnits]]]
    """(key, asset) -> what a faucet has given: (day, amount)."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The first fields of every format's `ShardSnapshot`."""

    version: int
    stream_id: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgpack_decoder(ShardSnapshot)
_decode_head = msgpack_decoder(_Head)
_DIGEST_SIZE = 32


def encode_snapshot(shard: Shard, stream_id: StreamId | None) -> bytes:
    """Return the state of `shard`, which has applied its input up to `stream_id`, with a digest in front.

    None: no matter up to where.
    """
    body = encode_as(shard.state.format, _snapshot_of(shard.state, stream_id))
    return hashlib.blake2b(body, digest_size=_DIGEST_SIZE).digest() + body


def state_hash(shard: Shard) -> str:
    """Return a hash of the state, the same on every machine, in hex."""
    return hashlib.blake2b(_encode(_snapshot_of(shard.state, None)), digest_size=16).hexdigest()


def decode_snapshot(data: bytes) -> tuple[Shard, StreamId]:
    """Return the shard as it was, and the stream id up to which it has applied its input.

    Raises:
        SnapshotError: the bytes are torn, belong to another format, or describe an impossible state.
        LaterSnapshotError: a later release wrote them.
    """
    body = whole_body(data)
    try:
        version = _decode_head(body).version
        if version not in VERSIONS.values():
            reason = f"the snapshot has format {version}, this program reads {FORMAT_VERSION}"
            if version > FORMAT_VERSION:
                raise LaterSnapshotError(reason, version)
            raise SnapshotError(reason)
        snapshot = _decode(body)
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"the snapshot cannot be read: {error}") from error
    if (config := snapshot.config) is not None:
        if (later := why_later(config)) is not None:
            raise LaterSnapshotError(f"the snapshot's shard {later}", config.format)
        if (earlier := why_too_early(config)) is not None:
            raise SnapshotError(f"the snapshot's shard {earlier}")
    return restored(snapshot), StreamId.parse(snapshot.stream_id)


def restored(snapshot: ShardSnapshot) -> Shard:
    """Return the shard that a snapshot describes.

    Raises:
        SnapshotError: there can be no such shard.
    """
    try:
        shard = _restore(snapshot)
        shard.check_invariants()
    except (InvariantBroken, LookupError, MarketError) as error:
        raise SnapshotError(f"the snapshot describes an impossible state: {error}") from error
    return shard


def snapshot_format(data: bytes) -> int:
    """Return which format a snapshot has.

    Raises:
        SnapshotError: the bytes are torn.
    """
    try:
        return _decode_head(whole_body(data)).version
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"the snapshot cannot be read: {error}") from error


def snapshot_stream_id(data: bytes) -> StreamId:
    """Return the stream id up to which the snapshot's shard has applied its input.

    Raises:
        SnapshotError: the bytes are torn.
    """
    try:
        return StreamId.parse(_decode_head(whole_body(data)).stream_id)
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"the snapshot cannot be read: {error}") from error


def whole_body(data: bytes) -> bytes:
    """Return a snapshot without its digest.

    Raises:
        SnapshotError: the bytes are torn.
    """
    digest, body = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
    if hashlib.blake2b(body, digest_size=_DIGEST_SIZE).digest() != digest:
        raise SnapshotError("the snapshot is torn: its digest does not match")
    return body


def _snapshot_of(state: ShardState, stream_id: StreamId | None) -> ShardSnapshot:
    return ShardSnapshot(
        version=VERSIONS[state.format],
        stream_id=str(stream_id) if stream_id is not None else "",
        index=state.index,
        shard_count=state.shard_count,
        order_count=state.order_count,
        command_count=state.command_count,
        totals=[(asset, *totals.stored()) for asset, totals in sorted(state.totals.items())],
        accounts=[_account_snapshot(account, state.time) for _, account in sorted(state.accounts.items())],
        markets=[
            MarketSnapshot(
                symbol,
                market.last_price,
                market.sequence,
                market.trade_id,
                market.aggregate_id,
                _levels(market.book.bids),
                _levels(market.book.asks),
                market.prevented_id,
            )
            for symbol, market in sorted(state.markets.items())
        ],
        requests=state.requests.kept(state.time),
        requests_under_way=sorted(state.requests_under_way),
        key_expiries=[each for each in state.key_expiries if state.time - each[0] <= state.windows.key_ms],
        cancel_alls=[
            CancelAllSnapshot(request_id, reply_to, request.waiting, request.orders)
            for (reply_to, request_id), request in sorted(state.cancel_alls.items(), key=lambda each: each[0])
        ],
        received=sorted(state.received.items()),
        sent=sorted(state.sent.items()),
        checksum=state.checksum,
        time=state.time,
        config=state.config,
        market_configs=[config for _, config in sorted(state.market_configs.items())],
        transfers=state.transfers.kept(state.time),
        execution_count=state.execution_count,
        drains=list(state.drains),
        given=sorted(state.authority.given.items()),
    )


def _account_snapshot(account: Account, time: TimeMs) -> AccountSnapshot:
    keyed = account.keyed
    return AccountSnapshot(
        account.account_id,
        [(asset, funds.available, funds.held) for asset, funds in sorted(account.funds.items())],
        [(symbol, list(orders.values())) for symbol, orders in sorted(account.open_orders.items()) if orders],
        sorted(account.client_order_ids.items(), key=lambda each: each[0]),
        keyed.outcomes.kept(time) if keyed is not None else [],
        [
            (key, request.fingerprint, request.repeated_by)
            for key, request in sorted(keyed.under_way.items(), key=lambda each: each[0])
        ]
        if keyed is not None
        else [],
        account.limits,
        account.order_counts,
        account.changed_time,
    )


def _levels(half: BookSide) -> list[LevelSnapshot]:
    return [
        LevelSnapshot(
            level.price,
            [(order.order_id, order.account_id, QuantityLots(order.quantity)) for order in level.orders()],
        )
        for level in half.in_priority()
    ]


def _restore(snapshot: ShardSnapshot) -> Shard:
    shard = Shard(snapshot.index, MarketMap.placed([], snapshot.shard_count))
    state = shard.state
    if snapshot.config is not None:
        shard.configuration.set_config(snapshot.config)
    shard.configuration.set_markets(snapshot.market_configs)
    state.order_count, state.time = snapshot.order_count, snapshot.time
    state.execution_count, state.drains = snapshot.execution_count, deque(snapshot.drains)
    state.authority.given = dict(snapshot.given)
    shard.journal.go_on_from(snapshot.command_count, snapshot.checksum)
    state.received = dict(snapshot.received)
    state.sent = dict(snapshot.sent)
    for asset, *stored_totals in snapshot.totals:
        state.totals[asset] = AssetTotals(*map(join_large, stored_totals))
    for account_snapshot in snapshot.accounts:
        account = state.accounts[account_snapshot.account_id] = Account(
            account_snapshot.account_id, account_snapshot.changed_time or snapshot.time
        )
        account.funds = {asset: Funds(available, held) for asset, available, held in account_snapshot.funds}
        account.open_orders = {
            symbol: {order.order_id: order for order in orders}
            for symbol, orders in account_snapshot.open_orders
        }
        account.client_order_ids = dict(account_snapshot.client_order_ids)
        for asset, _, held in account_snapshot.funds:
            state.totals[asset].held += held
        state.open_order_count += sum(map(len, account.open_orders.values()))
        shard.account_half.count_in_flight(account)
        account.keyed = _restore_keyed(account_snapshot, state.windows)
        account.limits, account.order_counts = account_snapshot.limits, account_snapshot.order_counts
    for market in snapshot.markets:
        own = state.markets[market.symbol]
        own.last_price, own.sequence = market.last_price, market.sequence
        own.trade_id, own.aggregate_id = market.trade_id, market.aggregate_id
        own.prevented_id = market.prevented_id
        for half, levels in ((own.book.bids, market.bids), (own.book.asks, market.asks)):
            for level in levels:
                for order_id, account_id, quantity in level.orders:
                    own.book.add(order_id, account_id, half.side, level.price, quantity)
        # Adding the orders has noted every level as changed; subscribers have been told of them long ago.
        own.book.take_changes()
    for outcome in snapshot.requests:
        state.requests.remember(outcome.time, outcome.key[0], outcome.reply)
    for transfer in snapshot.transfers:
        state.transfers.remember(transfer)
    state.requests_under_way = dict.fromkeys(snapshot.requests_under_way)
    state.key_expiries = deque(snapshot.key_expiries)
    for each in snapshot.cancel_alls:
        request = state.cancel_alls[each.reply_to, each.request_id] = CancelAllRequest(each.waiting)
        request.orders = list(each.orders)
    return shard


def _restore_keyed(account: AccountSnapshot, windows: Windows) -> KeyedRequests | None:
    if not account.key_outcomes and not account.keys_under_way:
        return None
    keyed = KeyedRequests(windows.key_ms)
    for outcome in account.key_outcomes:
        keyed.outcomes.remember(outcome)
    for key, fingerprint, repeated_by in account.keys_under_way:
        request = keyed.under_way[key] = KeyedRequest(fingerprint)
        request.repeated_by = list(repeated_by)
    return keyed
