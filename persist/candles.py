"""Candles of a batch of trades, for a database that does not compute them itself (pure)."""

from collections.abc import Iterable
from typing import Final

import msgspec

from persist.rows import Row, Table, database_time
from protocol.events import TradeExecuted
from protocol.intervals import INTERVALS
from protocol.trade_sums import TradeSum, fold, sums_by_interval

STORED_INTERVALS: Final = tuple(interval for interval in INTERVALS if interval != "3d")
"""Three-day candles are a view of daily ones (schema/plain/0008_three_days.sql)."""
CANDLES: Final = Table(
    "candles",
    {
        "market": "text",
        "interval": "text",
        "open_time": "int8",
        "open": "int8",
        "high": "int8",
        "low": "int8",
        "close": "int8",
        "volume": "numeric",
        "quote_volume": "numeric",
        "trade_count": "int8",
        "taker_buy_volume": "numeric",
        "taker_buy_quote": "numeric",
        "first_trade_id": "int8",
        "last_trade_id": "int8",
    },
)


CandleKey = tuple[str, str, int]
"""Market, interval, open time (ms)."""


def candle_parts(trades: Iterable[tuple[TradeExecuted, int]]) -> dict[CandleKey, TradeSum]:
    """Return these trades' (with quote units) parts of the candles of all `STORED_INTERVALS`.

    The trades of a market come in the order of their ids.
    """
    by_market: dict[str, list[TradeExecuted]] = {}
    quote_per_tick_lot: dict[str, int] = {}
    for trade, quote in trades:
        if trade.market not in by_market:
            by_market[trade.market] = []
            quote_per_tick_lot[trade.market] = quote // (trade.price * trade.quantity)
        by_market[trade.market].append(trade)
    return {
        (market, interval, opened): total
        for market, own in by_market.items()
        for (interval, opened), total in sums_by_interval(
            fold(own, quote_per_tick_lot[market], second_min=0), STORED_INTERVALS
        ).items()
    }


def candle_values(total: TradeSum) -> tuple[int, ...]:
    """Return the columns of `CANDLES` from `open` on: everything but the last trade's quantity."""
    *prices, _, volume, quote_volume, trade_count, bought, bought_quote, first, last = (
        msgspec.structs.astuple(total)
    )
    return (*prices, volume, quote_volume, trade_count, bought, bought_quote, first, last)


def candle_rows(trades: Iterable[tuple[TradeExecuted, int]]) -> list[Row]:
    """Return the rows of `CANDLES` for these trades, one row for each part of a candle."""
    return [
        (market, interval, database_time(opened), *candle_values(total))
        for (market, interval, opened), total in candle_parts(trades).items()
    ]
