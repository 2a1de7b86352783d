"""The 24 h ticker: an exact window that moves in whole seconds.

Trades are kept as one sum per second, at most 86,400 of them. Totals are running sums; the highest and lowest price are the
heads of two monotonic queues, which hold only seconds that no later one beats. Every second enters and leaves each once: O(1) amortised.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from feeds.trades import TradeSum
from protocol.market_data import Ticker
from protocol.units import AMOUNT_UNITS_MAX, PriceTicks, QuantityLots, TimeMs

WINDOW_SECONDS: Final = 86_400

Bucket = tuple[int, TradeSum]
"""A second since the epoch, and its trades."""


class RollingTicker:
    """Statistics over the newest `WINDOW_SECONDS` of one market's trades."""

    def __init__(self, market: str, previous_close: int, buckets: Iterable[Bucket]) -> None:
        self._market = market
        self.previous_close = previous_close
        self.buckets: deque[Bucket] = deque()
        self._highs: deque[tuple[int, int]] = deque()
        self._lows: deque[tuple[int, int]] = deque()
        self._volume = self._quote_volume = self._trade_count = 0
        for second, total in buckets:
            self.add(second, total)

    def add(self, second: int, total: TradeSum) -> None:
        """Add the trades of one second, not older than any before."""
        if self.buckets and self.buckets[-1][0] == second:
            self.buckets[-1][1].merge(total)
        else:
            self.buckets.append((second, total.copy()))
        self._volume += total.volume
        self._quote_volume += total.quote_volume
        self._trade_count += total.trade_count
        highs, lows = self._highs, self._lows
        while highs and highs[-1][1] <= total.high:
            highs.pop()
        if not highs or highs[-1][0] != second:
            highs.append((second, total.high))
        while lows and lows[-1][1] >= total.low:
            lows.pop()
        if not lows or lows[-1][0] != second:
            lows.append((second, total.low))

    def advance(self, time: int) -> bool:
        """Let the trades go that are too old at `time` (ms). Return whether there were any."""
        first_second = window_start(time)
        if not self.buckets or self.buckets[0][0] >= first_second:
            return False
        while self.buckets and self.buckets[0][0] < first_second:
            _, total = self.buckets.popleft()
            self.previous_close = total.close
            self._volume -= total.volume
            self._quote_volume -= total.quote_volume
            self._trade_count -= total.trade_count
        for queue in (self._highs, self._lows):
            while queue and queue[0][0] < first_second:
                queue.popleft()
        return True

    def ticker(self, time: int) -> Ticker:
        """Return the ticker at `time` (ms), up to which `advance` has been called."""
        first = self.buckets[0][1] if self.buckets else None
        last = self.buckets[-1][1] if self.buckets else None
        return Ticker(
            market=self._market,
            open_time=TimeMs(window_start(time) * 1000),
            close_time=TimeMs(time),
            open=PriceTicks(first.open if first else 0),
            high=PriceTicks(self._highs[0][1] if self._highs else 0),
            low=PriceTicks(self._lows[0][1] if self._lows else 0),
            last=PriceTicks(last.close if last else 0),
            last_quantity=QuantityLots(last.last_quantity if last else 0),
            previous_close=PriceTicks(self.previous_close),
            volume=QuantityLots(min(self._volume, AMOUNT_UNITS_MAX)),
            quote_volume=min(self._quote_volume, AMOUNT_UNITS_MAX),
            first_trade_id=first.first_trade_id if first else -1,
            last_trade_id=last.last_trade_id if last else -1,
            trade_count=self._trade_count,
        )


def window_start(time: int) -> int:
    """Return the first second of the window that ends at `time` (ms)."""
    return time // 1000 - (WINDOW_SECONDS - 1)
