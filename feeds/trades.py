"""Trades of one market, folded: what candles and tickers are made of.

Every interval and the ticker's window begin and end with a second, so a batch is folded into sums of one
second each, and only these few are merged into the candles.
"""

from collections.abc import Sequence
from copy import copy

import msgspec

from feeds.frames import BUY, Trade


class TradeSum(msgspec.Struct, array_like=True, gc=False):
    """Trades that follow each other, folded.

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
        """Add trades that came later."""
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


def fold(trades: Sequence[Trade], quote_per_tick_lot: int, second_min: int) -> list[tuple[int, TradeSum]]:
    """Return (second, sum) of `trades`, oldest first.

    Seconds are counted from the epoch, and each occurs once.

    A trade older than `second_min` counts there: what was closed stays closed.
    """
    sums: list[tuple[int, TradeSum]] = []
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
            if trade.taker_side == BUY:
                buy_volume += quantity
                buy_notional += price * quantity
        # The loop ended without a break: all that is left is of this second.
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
