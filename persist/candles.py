"""Candles of a batch of trades, for a database that does not make them itself (pure)."""

from collections.abc import Iterable
from typing import Final

import msgspec

from persist.rows import Row, Table, database_time
from protocol.events import TradeExecuted
from protocol.market_data import INTERVALS, interval_bounds
from protocol.orders import Side

STORED_INTERVALS: Final = tuple(interval for interval in INTERVALS if interval != "3d")
"""Those of three days are a view of days (schema/plain/0008_three_days.sql)."""
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


class CandlePart(msgspec.Struct):
    """What some trades of one market, in the order of their ids, make of a candle.

    Times in ms, volumes in lots, quote in units.
    """

    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    trade_count: int
    taker_buy_volume: int
    taker_buy_quote: int
    first_trade_id: int
    last_trade_id: int

    def add(self, later: "CandlePart") -> None:
        """Add trades that follow on these."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.quote_volume += later.quote_volume
        self.trade_count += later.trade_count
        self.taker_buy_volume += later.taker_buy_volume
        self.taker_buy_quote += later.taker_buy_quote
        self.last_trade_id = later.last_trade_id


CandleKey = tuple[str, str, int]
"""Market, interval, open time."""


def candle_parts(trades: Iterable[tuple[TradeExecuted, int]]) -> dict[CandleKey, CandlePart]:
    """Return the parts of the candles of all `STORED_INTERVALS` that these trades (each with its quote units)
    make.

    The trades of a market come in the order of their ids. They are folded into seconds one by one, the
    seconds into the rest.
    """
    seconds: dict[tuple[str, int], CandlePart] = {}
    for trade, quote in trades:
        price, quantity, trade_id, bought = (
            trade.price,
            trade.quantity,
            trade.trade_id,
            trade.taker_side == Side.BUY,
        )
        key = (trade.market, trade.time // 1000)
        part = seconds.get(key)
        if part is None:
            seconds[key] = CandlePart(
                price,
                price,
                price,
                price,
                quantity,
                quote,
                1,
                quantity if bought else 0,
                quote if bought else 0,
                trade_id,
                trade_id,
            )
            continue
        if price > part.high:
            part.high = price
        elif price < part.low:
            part.low = price
        part.close = price
        part.volume += quantity
        part.quote_volume += quote
        part.trade_count += 1
        if bought:
            part.taker_buy_volume += quantity
            part.taker_buy_quote += quote
        part.last_trade_id = trade_id
    parts: dict[CandleKey, CandlePart] = {}
    # Seconds into the rest, not trades: a second has many trades, and every interval would look at each of
    # them.
    for (market, second), part in seconds.items():
        for interval in STORED_INTERVALS:
            opened, _ = interval_bounds(interval, second * 1000)
            larger = parts.get((market, interval, opened))
            if larger is None:
                parts[market, interval, opened] = msgspec.structs.replace(part)
            else:
                larger.add(part)
    return parts


def candle_rows(trades: Iterable[tuple[TradeExecuted, int]]) -> list[Row]:
    """Return the rows of `CANDLES` that these trades make; see `candle_parts`."""
    return [
        (market, interval, database_time(opened), *msgspec.structs.astuple(part))
        for (market, interval, opened), part in candle_parts(trades).items()
    ]
