"""Candles: intervals, flat candles where nothing was traded, and Binance's arrays. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from functions.api.shapes import Amount, Time, Zero
from protocol.intervals import interval_bounds
from protocol.market import Market
from protocol.units import PriceTicks, QuantityLots, TimeMs


class KlineRow(NamedTuple):
    """One candle: prices in ticks, volumes in lots, quote sums in quote units."""

    open_time: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote_volume: int = 0
    trade_count: int = 0
    taker_buy_volume: int = 0
    taker_buy_quote: int = 0


KlineShape = tuple[Time, Amount, Amount, Amount, Amount, Amount, Time, Amount, int, Amount, Amount, Zero]
"""Binance's array of twelve.

Opening time, open, high, low, close, volume, closing time, quote volume, number of trades, volume and quote
volume bought by takers, and an unused column.
"""


class Window(NamedTuple):
    """The requested candles: those that open from `first` to `last`, at most the first `limit`."""

    first: TimeMs
    last: TimeMs
    limit: int


def bucket_start(interval: str, time: TimeMs, offset_ms: int = 0) -> TimeMs:
    """Return when the interval that contains `time` opened, in a time zone `offset_ms` ahead of UTC."""
    return TimeMs(interval_bounds(interval, time, offset_ms)[0])


def next_bucket(interval: str, open_time: TimeMs, offset_ms: int = 0) -> TimeMs:
    """Return the opening of the interval after the one that opened at `opened`."""
    return TimeMs(interval_bounds(interval, open_time, offset_ms)[1])


def previous_bucket(interval: str, open_time: TimeMs, offset_ms: int = 0) -> TimeMs:
    """Return the opening of the interval before the one that opened at `opened`."""
    return bucket_start(interval, TimeMs(open_time - 1), offset_ms)


def first_bucket(interval: str, time: TimeMs, offset_ms: int = 0) -> TimeMs:
    """Return the first opening at or after `time`."""
    open_time = bucket_start(interval, time, offset_ms)
    return open_time if open_time == time else next_bucket(interval, open_time, offset_ms)


def filled(rows: Sequence[KlineRow], interval: str, window: Window, offset_ms: int = 0) -> Iterator[KlineRow]:
    """Yield the window's candles, with flat ones at the previous close where `rows` has none.

    `rows` are oldest first, with at most one from before the window; nothing is yielded before the first
    trade ever.
    """
    traded = {row.open_time: row for row in rows}
    if not rows:
        return
    before = rows[0] if rows[0].open_time < window.first else None
    close = before.close if before else None
    open_time = first_bucket(interval, window.first, offset_ms)
    if close is None:
        open_time = TimeMs(max(open_time, rows[0].open_time))
    count = 0
    while open_time <= window.last and count < window.limit:
        row = traded.get(open_time)
        if row is not None:
            close = row.close
            yield row
            count += 1
        elif close is not None:
            yield KlineRow(open_time, close, close, close, close)
            count += 1
        open_time = next_bucket(interval, open_time, offset_ms)


def shape(kline: KlineRow, market: Market, interval: str, time_scale: int, offset_ms: int = 0) -> KlineShape:
    """Return Binance's array of twelve."""
    next_opens = next_bucket(interval, TimeMs(kline.open_time), offset_ms)
    return (
        kline.open_time * time_scale,
        market.format_price(PriceTicks(kline.open)),
        market.format_price(PriceTicks(kline.high)),
        market.format_price(PriceTicks(kline.low)),
        market.format_price(PriceTicks(kline.close)),
        market.format_quantity(QuantityLots(kline.volume)),
        next_opens * time_scale - 1,
        market.format_quote(kline.quote_volume),
        kline.trade_count,
        market.format_quantity(QuantityLots(kline.taker_buy_volume)),
        market.format_quote(kline.taker_buy_quote),
        "0",
    )
