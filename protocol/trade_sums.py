"""Sums over the trades of one market, from which candles and tickers are computed.

Feeds, persistence, edge and restore use these functions, so that a candle is the same wherever it is
computed.

Every interval and the ticker's window begin and end with a second. A batch is therefore folded into sums of
one second each, and only these few sums are merged into the candles.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Protocol

import msgspec

from protocol.intervals import interval_bounds
from protocol.market_data import Candle
from protocol.orders import Side
from protocol.units import AMOUNT_UNITS_MAX, PriceTicks, QuantityLots, TimeMs


class AnyTrade(Protocol):
    """The fields of a trade that `fold` reads."""

    @property
    def time(self) -> int:
        """Milliseconds since the epoch."""

    @property
    def price(self) -> int:
        """In ticks."""

    @property
    def quantity(self) -> int:
        """In lots."""

    @property
    def taker_side(self) -> int:
        """`Side`, or its number."""

    @property
    def trade_id(self) -> int:
        """One more than that of the market's previous trade."""


class TradeSum(msgspec.Struct, array_like=True, gc=False):
    """The sums of consecutive trades.

    Prices in ticks, volumes in lots, `quote` amounts in quote units.
    """

    open: int
    high: int
    low: int
    close: int
    last_quantity: int
    volume: int
    quote_volume: int
    trade_count: int
    taker_buy_volume: int
    taker_buy_quote: int
    first_trade_id: int
    last_trade_id: int

    def merge(self, later: "TradeSum") -> None:
        """Add the sums of later trades."""
        if later.high > self.high:
            self.high = later.high
        if later.low < self.low:
            self.low = later.low
        self.close = later.close
        self.last_quantity = later.last_quantity
        self.volume += later.volume
        self.quote_volume += later.quote_volume
        self.trade_count += later.trade_count
        self.taker_buy_volume += later.taker_buy_volume
        self.taker_buy_quote += later.taker_buy_quote
        self.last_trade_id = later.last_trade_id

    def copy(self) -> "TradeSum":
        """Return an independent copy."""
        return copy(self)


def fold(trades: Sequence[AnyTrade], quote_per_tick_lot: int, second_min: int) -> list[tuple[int, TradeSum]]:
    """Return (second, sum) of `trades`, oldest first.

    Seconds are counted from the epoch, and each occurs once.

    A trade older than `second_min` counts in that second: a closed second stays closed.
    """
    sums: list[tuple[int, TradeSum]] = []
    buy = int(Side.BUY)
    start = 0
    while start < len(trades):
        first = trades[start]
        second = max(first.time // 1000, second_min)
        end_time = second * 1000 + 1000
        high = low = first.price
        volume = notional = buy_volume = buy_notional = 0
        index = start
        for index in range(start, len(trades)):
            trade = trades[index]
            if trade.time >= end_time:
                break
            price, quantity = trade.price, trade.quantity
            if price > high:
                high = price
            elif price < low:
                low = price
            volume += quantity
            notional += price * quantity
            if trade.taker_side == buy:
                buy_volume += quantity
                buy_notional += price * quantity
        # The loop ended without a break: all remaining trades are of this second.
        else:
            index = len(trades)
        last = trades[index - 1]
        sums.append(
            (
                second,
                TradeSum(
                    open=first.price,
                    high=high,
                    low=low,
                    close=last.price,
                    last_quantity=last.quantity,
                    volume=volume,
                    quote_volume=notional * quote_per_tick_lot,
                    trade_count=index - start,
                    taker_buy_volume=buy_volume,
                    taker_buy_quote=buy_notional * quote_per_tick_lot,
                    first_trade_id=first.trade_id,
                    last_trade_id=last.trade_id,
                ),
            )
        )
        second_min, start = second, index
    return sums


def sums_by_interval(
    seconds: Iterable[tuple[int, TradeSum]], intervals: Sequence[str]
) -> dict[tuple[str, int], TradeSum]:
    """Return the totals of sums of seconds (oldest first), by interval and opening time (ms)."""
    sums: dict[tuple[str, int], TradeSum] = {}
    for second, total in seconds:
        for interval in intervals:
            key = interval, interval_bounds(interval, second * 1000)[0]
            known = sums.get(key)
            if known is None:
                sums[key] = total.copy()
            else:
                known.merge(total)
    return sums


def sum_of_candles(candles: Iterable[Candle]) -> TradeSum | None:
    """Return the total of consecutive candles, oldest first; None: there was no trade in them."""
    total: TradeSum | None = None
    for candle in candles:
        if not candle.trade_count:
            continue
        part = TradeSum(
            open=candle.open,
            high=candle.high,
            low=candle.low,
            close=candle.close,
            last_quantity=0,
            volume=candle.volume,
            quote_volume=candle.quote_volume,
            trade_count=candle.trade_count,
            taker_buy_volume=candle.taker_buy_volume,
            taker_buy_quote=candle.taker_buy_quote,
            first_trade_id=candle.first_trade_id,
            last_trade_id=candle.last_trade_id,
        )
        if total is None:
            total = part
        else:
            total.merge(part)
    return total


def flat_sum(close: int) -> TradeSum:
    """Return the sum of no trades after a trade at the price `close`."""
    return TradeSum(close, close, close, close, 0, 0, 0, 0, 0, 0, -1, -1)


def candle_of(
    market: str, interval: str, bounds: tuple[int, int], total: TradeSum, *, closed: bool
) -> Candle:
    """Return the candle of an interval with these `bounds` (`interval_bounds`) and the sum `total`.

    Sums beyond 64 bits are capped at `AMOUNT_UNITS_MAX`.
    """
    opened, end = bounds
    return Candle(
        market=market,
        interval=interval,
        open_time=TimeMs(opened),
        close_time=TimeMs(end - 1),
        open=PriceTicks(total.open),
        high=PriceTicks(total.high),
        low=PriceTicks(total.low),
        close=PriceTicks(total.close),
        volume=QuantityLots(min(total.volume, AMOUNT_UNITS_MAX)),
        quote_volume=min(total.quote_volume, AMOUNT_UNITS_MAX),
        trade_count=total.trade_count,
        taker_buy_volume=QuantityLots(min(total.taker_buy_volume, AMOUNT_UNITS_MAX)),
        taker_buy_quote=min(total.taker_buy_quote, AMOUNT_UNITS_MAX),
        first_trade_id=total.first_trade_id,
        last_trade_id=total.last_trade_id,
        closed=closed,
    )
