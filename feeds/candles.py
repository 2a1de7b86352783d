"""Candles of one market in every interval: the open one, and those that just closed."""

from typing import Final

import msgspec

from protocol.intervals import INTERVALS, interval_bounds
from protocol.market_data import Candle
from protocol.trade_sums import TradeSum, candle_of

_NEVER: Final = 1 << 62


class OpenCandle(msgspec.Struct, array_like=True):
    """The trades of an interval that is not over: `open_time` <= time < `end_time`."""

    open_time: int
    end_time: int
    total: TradeSum
    is_whole: bool = True
    """Whether it has all of its trades; an incomplete one is not published."""


def realigned(saved: dict[str, OpenCandle]) -> dict[str, OpenCandle]:
    """Return the open candles of a saved state, by the current intervals.

    The previous release opened three-day candles one or two days earlier. Their trades are not known here, so
    no such candle is published until the first complete one begins. The database computes them from days, and
    has all.
    """
    aligned: dict[str, OpenCandle] = {}
    for interval, candle in saved.items():
        is_aligned = interval_bounds(interval, candle.open_time) == (candle.open_time, candle.end_time)
        if candle.is_whole and not is_aligned:
            _, end_time = interval_bounds(interval, candle.end_time - 1)
            candle = OpenCandle(candle.open_time, end_time, candle.total.copy(), is_whole=False)
        aligned[interval] = candle
    return aligned


class Candles:
    """The candles of one market. An interval without a trade has none."""

    def __init__(self, market: str, open_candles: dict[str, OpenCandle]) -> None:
        self._market = market
        self.open = realigned(open_candles)
        self._closed: list[Candle] = []
        self._next_end = min((candle.end_time for candle in self.open.values()), default=_NEVER)

    def add(self, second: int, total: TradeSum) -> None:
        """Add the trades of one second, not older than any before."""
        time = second * 1000
        self.advance(time)
        for interval in INTERVALS:
            candle = self.open.get(interval)
            if candle is not None:
                candle.total.merge(total)
            else:
                start, end = interval_bounds(interval, time)
                self.open[interval] = OpenCandle(start, end, total.copy())
                self._next_end = min(self._next_end, end)

    def advance(self, time: int) -> None:
        """Close the candles that are over at `time` (ms)."""
        if time < self._next_end:
            return
        for interval in [interval for interval in INTERVALS if interval in self.open]:
            if time >= self.open[interval].end_time:
                candle = self.open.pop(interval)
                if candle.is_whole:
                    self._closed.append(self._candle(interval, candle, closed=True))
        self._next_end = min((candle.end_time for candle in self.open.values()), default=_NEVER)

    @property
    def have_closed(self) -> bool:
        """Whether candles have closed since the last `take_closed`."""
        return bool(self._closed)

    def take_closed(self) -> list[Candle]:
        """Return the candles that closed since the last call, oldest first within each interval."""
        closed, self._closed = self._closed, []
        return closed

    def current(self) -> list[Candle]:
        """Return the open candles."""
        return [
            self._candle(interval, candle, closed=False)
            for interval, candle in self.open.items()
            if candle.is_whole
        ]

    def _candle(self, interval: str, candle: OpenCandle, *, closed: bool) -> Candle:
        bounds = candle.open_time, candle.end_time
        return candle_of(self._market, interval, bounds, candle.total, closed=closed)
