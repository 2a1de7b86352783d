"""The database rows of a shard's events (pure).

A row is a tuple in the order of its table's columns. Times are PostgreSQL's microseconds since 2000, so that
COPY sends a timestamptz as an int8 without conversion.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from protocol.events import (
    DepthChanged,
    Event,
    FeesWithdrawn,
    FundsDeposited,
    FundsReleased,
    FundsWithdrawn,
    MatchPrevented,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    ShardEvent,
    TradeExecuted,
)
from protocol.market import Market
from protocol.orders import OrderState, Side
from protocol.stream_id import StreamId
from protocol.violations import UnknownMarketError

FEES_ACCOUNT: Final = -1
"""Receives every fee."""
CLEARING_ACCOUNT: Final = -2
"""The counterparty of both sides of a trade, which settle separately; zero when both have settled."""
EXTERNAL_ACCOUNT: Final = -3
"""The outside world: minus everything deposited and not withdrawn."""

_DATABASE_EPOCH_MS: Final = 946_684_800_000

Row = tuple[int | str, ...]
OrderRow = tuple[int | str | None, ...]


class Table(NamedTuple):
    """A table to COPY into: its name, and the columns with their wire types."""

    name: str
    columns: dict[str, str]


ORDERS: Final = Table(
    "orders",
    {
        "order_id": "int8",
        "account_id": "int8",
        "client_order_id": "text",
        "market": "text",
        "side": "int2",
        "order_type": "int2",
        "time_in_force": "int2",
        "price": "int8",
        "quantity": "int8",
        "quote_quantity": "int8",
        "self_trade_prevention": "int2",
        "status": "int2",
        "cum_quantity": "int8",
        "cum_quote": "int8",
        "accepted_time": "int8",
        "updated_time": "int8",
        "version": "int4",
        "close_reason": "int2",
        "strategy_id": "int8",
        "strategy_type": "int8",
        "prevented_quantity": "int8",
        "prevented_match_id": "int8",
    },
)
TRADES: Final = Table(
    "trades",
    {
        "time": "int8",
        "market": "text",
        "trade_id": "int8",
        "aggregate_id": "int8",
        "sequence": "int8",
        "price": "int8",
        "quantity": "int8",
        "quote": "int8",
        "taker_side": "int2",
        "maker_order_id": "int8",
        "taker_order_id": "int8",
        "maker_account_id": "int8",
        "taker_account_id": "int8",
    },
)
FILLS: Final = Table(
    "fills",
    {
        "time": "int8",
        "account_id": "int8",
        "market": "text",
        "order_id": "int8",
        "trade_id": "int8",
        "side": "int2",
        "price": "int8",
        "quantity": "int8",
        "quote": "int8",
        "liquidity": "int2",
        "fee": "int8",
        "fee_asset": "text",
    },
)
LEDGER_ENTRIES: Final = Table(
    "ledger_entries",
    {
        "time": "int8",
        "shard": "int2",
        "stream_id": "text",
        "event": "int4",
        "entry": "int2",
        "account_id": "int8",
        "asset": "text",
        "amount": "int8",
        "kind": "text",
        "reference": "text",
        "balance": "int8",
    },
)
TRANSFERS: Final = Table(
    "transfers",
    {
        "account_id": "int8",
        "kind": "text",
        "transfer_id": "text",
        "asset": "text",
        "amount": "int8",
        "time": "int8",
    },
)


PREVENTED_MATCHES: Final = Table(
    "prevented_matches",
    {
        "market": "text",
        "match_id": "int8",
        "account_id": "int8",
        "maker_order_id": "int8",
        "taker_order_id": "int8",
        "price": "int8",
        "maker_quantity": "int8",
        "taker_quantity": "int8",
        "mode": "int2",
        "time": "int8",
    },
)


class TradeGapError(Exception):
    """A market's trades are not consecutive, or do not follow those in the database."""


class EventBatch(NamedTuple):
    """The events of one stream entry, or some of them."""

    stream_id: StreamId
    events: Sequence[Event]
    numbers: Sequence[int] | None = None
    """The index of each event in the entry's frame, from 0; None: all events of the frame."""

    def numbered(self) -> Iterable[tuple[int, Event]]:
        """Return each event with its index in the frame."""
        return zip(self.numbers or range(len(self.events)), self.events, strict=True)

    def halves(self) -> "tuple[EventBatch, EventBatch]":
        """Return the first and the second half of these events."""
        middle = len(self.events) // 2
        numbers = self.numbers or range(len(self.events))
        return (
            EventBatch(self.stream_id, self.events[:middle], numbers[:middle]),
            EventBatch(self.stream_id, self.events[middle:], numbers[middle:]),
        )


class Rows:
    """The rows of some entries of one shard's events, in the order of the log."""

    def __init__(self, shard: int, markets: Mapping[str, Market]) -> None:
        """Use `markets`, by symbol, to convert numbers."""
        self._shard = shard
        self._markets = markets
        self.orders: dict[int, OrderState] = {}
        """The last state of each order."""
        self.trades: list[tuple[TradeExecuted, int]] = []
        """With the trade's quote units."""
        self.fills: list[Row] = []
        self.ledger_entries: list[OrderRow] = []
        self.transfers: list[Row] = []
        self.prevented_matches: list[Row] = []
        self.event_count = 0

    def add(self, batch: EventBatch) -> None:
        """Add the rows of one entry.

        Raises:
            UnknownMarketError: an event's market is unknown. This object must not be used then.
        """
        self.event_count += len(batch.events)
        stream_id = str(batch.stream_id)
        try:
            for index, event in batch.numbered():
                # Sorted by frequency.
                if isinstance(event, OrderFilled):
                    self._add_fill(stream_id, index, event)
                elif isinstance(event, OrderAccepted):
                    self.orders[event.order.order_id] = event.order
                elif isinstance(event, DepthChanged):
                    continue
                elif isinstance(event, TradeExecuted):
                    market = self._markets[event.market]
                    self.trades.append((event, market.notional(event.price, event.quantity)))
                elif isinstance(event, OrderClosed):
                    self.orders[event.order.order_id] = event.order
                elif isinstance(event, FeesWithdrawn):
                    self._add_fee_withdrawal(stream_id, index, event)
                elif isinstance(event, MatchPrevented):
                    self._add_prevented(event)
                elif isinstance(event, FundsReleased | ShardEvent):
                    continue
                else:
                    self._add_transfer(stream_id, index, event)
        except KeyError as error:
            raise UnknownMarketError(f"unknown market: {error}") from error

    def order_rows(self) -> list[OrderRow]:
        """Return the rows of `ORDERS`."""
        return [
            (
                order.order_id,
                order.account_id,
                order.client_order_id,
                order.market,
                order.side,
                order.order_type,
                order.time_in_force,
                order.price,
                order.quantity,
                order.quote_quantity,
                order.self_trade_prevention,
                order.status,
                order.cum_quantity,
                order.cum_quote,
                database_time(order.accepted_time),
                database_time(order.updated_time),
                order.version,
                order.close_reason or 0,
                order.terms.strategy_id if order.terms is not None else None,
                order.terms.strategy_type if order.terms is not None else None,
                order.course.prevented_quantity if order.course is not None else None,
                order.course.prevented_match_id if order.course is not None else None,
            )
            for order in self.orders.values()
        ]

    def trade_rows(self) -> list[Row]:
        """Return the rows of `TRADES`."""
        return [
            (
                database_time(trade.time),
                trade.market,
                trade.trade_id,
                trade.aggregate_id,
                trade.sequence,
                trade.price,
                trade.quantity,
                quote,
                trade.taker_side,
                trade.maker_order_id,
                trade.taker_order_id,
                trade.maker_account_id,
                trade.taker_account_id,
            )
            for trade, quote in self.trades
        ]

    def _add_fill(self, stream_id: str, index: int, event: OrderFilled) -> None:
        order, trade_id, quote, fee = event.order, event.trade_id, event.quote, event.fee
        account_id, symbol = order.account_id, order.market
        market = self._markets[symbol]
        self.orders[order.order_id] = order
        time = database_time(event.time)
        self.fills.append(
            (
                time,
                account_id,
                symbol,
                order.order_id,
                trade_id,
                order.side,
                event.price,
                event.quantity,
                quote,
                event.liquidity,
                fee,
                event.fee_asset,
            )
        )
        base_units = market.base_units(event.quantity)
        if order.side == Side.BUY:
            given, given_asset, received, received_asset = quote, market.quote, base_units, market.base
        else:
            given, given_asset, received, received_asset = base_units, market.base, quote, market.quote
        # The number after it distinguishes the rows of one event; an event that is stored again after a crash
        # conflicts with its own rows.
        event_reference = (time, self._shard, stream_id, index)
        reference = f"{symbol}:{trade_id}"
        self.ledger_entries += (
            (
                *event_reference,
                0,
                account_id,
                given_asset,
                -given,
                "trade",
                reference,
                _total(event, given_asset),
            ),
            (*event_reference, 1, CLEARING_ACCOUNT, given_asset, given, "trade", reference, None),
            (
                *(*event_reference, 2, account_id, received_asset, received - fee, "trade", reference),
                _total(event, received_asset),
            ),
            (*event_reference, 3, CLEARING_ACCOUNT, received_asset, -received, "trade", reference, None),
        )
        if fee:
            self.ledger_entries.append(
                (*event_reference, 4, FEES_ACCOUNT, received_asset, fee, "fee", reference, None)
            )

    def _add_prevented(self, event: MatchPrevented) -> None:
        self.prevented_matches.append(
            (
                event.market,
                event.match_id,
                event.account_id,
                event.maker_order_id,
                event.taker_order_id,
                event.price,
                event.maker_quantity,
                event.taker_quantity,
                event.mode,
                database_time(event.time),
            )
        )

    def _add_fee_withdrawal(self, stream_id: str, index: int, event: FeesWithdrawn) -> None:
        kind, amount = "fee_withdrawal", event.amount
        time, asset, reference = database_time(event.time), event.asset, event.transfer_id
        self.ledger_entries += (
            (time, self._shard, stream_id, index, 0, EXTERNAL_ACCOUNT, asset, amount, kind, reference, None),
            (time, self._shard, stream_id, index, 1, FEES_ACCOUNT, asset, -amount, kind, reference, None),
        )
        self.transfers.append((FEES_ACCOUNT, kind, reference, asset, amount, time))

    def _add_transfer(self, stream_id: str, index: int, event: FundsDeposited | FundsWithdrawn) -> None:
        kind, amount = (
            ("deposit", event.amount) if isinstance(event, FundsDeposited) else ("withdrawal", -event.amount)
        )
        time, asset, reference = database_time(event.time), event.asset, event.transfer_id
        self.ledger_entries += (
            (time, self._shard, stream_id, index, 0, EXTERNAL_ACCOUNT, asset, -amount, kind, reference, None),
            (
                *(time, self._shard, stream_id, index, 1, event.account_id, asset, amount, kind, reference),
                _total(event, asset),
            ),
        )
        self.transfers.append((event.account_id, kind, reference, asset, event.amount, time))


def _total(event: OrderFilled | FundsDeposited | FundsWithdrawn, asset: str) -> int | None:
    """Return the account's total of an asset after an event, available and held.

    None if the event does not say.
    """
    return next(
        (balance.available + balance.held for balance in event.balances if balance.asset == asset), None
    )


def rows_of(shard: int, batches: Iterable[EventBatch], markets: Mapping[str, Market]) -> Rows:
    """Return the rows of some entries.

    Raises:
        UnknownMarketError: see `Rows.add`.
    """
    rows = Rows(shard, markets)
    for batch in batches:
        rows.add(batch)
    return rows


def last_trade_ids(trades: Iterable[TradeExecuted], trade_ids_before: Mapping[str, int]) -> dict[str, int]:
    """Return market -> the id of its last trade: `trade_ids_before`, updated by the following trades.

    Raises:
        TradeGapError: a trade's id is not the next one.
    """
    last = dict(trade_ids_before)
    for trade in trades:
        market, trade_id = trade.market, trade.trade_id
        expected = last.get(market, 0) + 1
        if trade_id != expected:
            raise TradeGapError(f"{market}: trade {expected} should come next, but trade {trade_id} does")
        last[market] = trade_id
    return last


def database_time(time_ms: int) -> int:
    """Return a time in ms as PostgreSQL's binary timestamptz."""
    return (time_ms - _DATABASE_EPOCH_MS) * 1000
