"""Tickers over moving windows: of exactly 24 h, and of 1 h, 4 h and 1 d, which open on a minute.

The first moves in whole seconds. Trades are stored as one sum per second, shared by all windows. Totals are
running sums; the highest and lowest price are the heads of two monotonic queues, which hold only seconds that
no later second exceeds. Every second enters and leaves each window once: O(1) amortised.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from protocol.market_data import TICKER_WINDOWS_MS, Ticker, WindowTicker
from protocol.trade_sums import TradeSum
from protocol.units import AMOUNT_UNITS_MAX, PriceTicks, QuantityLots, TimeMs

WINDOW_SECONDS: Final = 86_400
_MINUTE_MS: Final = 60_000

Bucket = tuple[int, TradeSum]
"""A second since the epoch, and its trades."""


class _Window:
    """The newest buckets and their totals. Buckets are shared, and the last one may grow."""

    __slots__ = ("_highs", "_lows", "buckets", "quote_volume", "trade_count", "volume")

    def __init__(self) -> None:
        self.buckets: deque[Bucket] = deque()
        self._highs: deque[tuple[int, int]] = deque()
        self._lows: deque[tuple[int, int]] = deque()
        self.volume = self.quote_volume = self.trade_count = 0

    @property
    def high(self) -> int:
        """The highest price; 0 if there is none."""
        return self._highs[0][1] if self._highs else 0

    @property
    def low(self) -> int:
        """The lowest price; 0 if there is none."""
        return self._lows[0][1] if self._lows else 0

    def add(self, bucket: Bucket, total: TradeSum, *, is_new: bool) -> None:
        """Add the trades `total`, which `bucket` already contains; it `is_new` if it contains no others."""
        second = bucket[0]
        if is_new:
            self.buckets.append(bucket)
        self.volume += total.volume
        self.quote_volume += total.quote_volume
        self.trade_count += total.trade_count
        highs, lows = self._highs, self._lows
        while highs and highs[-1][1] <= total.high:
            highs.pop()
        if not highs or highs[-1][0] != second:
            highs.append((second, total.high))
        while lows and lows[-1][1] >= total.low:
            lows.pop()
        if not lows or lows[-1][0] != second:
            lows.append((second, total.low))

    def advance(self, first_second: int) -> TradeSum | None:
        """Remove the buckets older than `first_second`; return the newest of them, or None."""
        buckets, total = self.buckets, None
        while buckets and buckets[0][0] < first_second:
            _, total = buckets.popleft()
            self.volume -= total.volume
            self.quote_volume -= total.quote_volume
            self.trade_count -= total.trade_count
        if total is not None:
            for queue in (self._highs, self._lows):
                while queue and queue[0][0] < first_second:
                    queue.popleft()
        return total


class RollingTicker:
    """Statistics over the newest trades of one market."""

    def __init__(self, market: str, previous_close: int, buckets: Iterable[Bucket]) -> None:
        """Start with stored buckets (`buckets` of an earlier object).

        Call `advance` before anything else.
        """
        self._market = market
        self.previous_close = previous_close
        self._day = _Window()
        self._windows = {name: _Window() for name in TICKER_WINDOWS_MS}
        self._all = (self._day, *self._windows.values())
        for second, total in buckets:
            self.add(second, total)

    @property
    def buckets(self) -> deque[Bucket]:
        """The buckets of the longest window: all that must be stored."""
        return self._windows["1d"].buckets

    def add(self, second: int, total: TradeSum) -> None:
        """Add the trades of one second, not older than any before."""
        buckets = self.buckets
        is_new = not buckets or buckets[-1][0] != second
        if is_new:
            bucket = (second, total.copy())
        else:
            bucket = buckets[-1]
            bucket[1].merge(total)
        for window in self._all:
            window.add(bucket, total, is_new=is_new)

    def advance(self, time: int) -> bool:
        """Remove the trades that are too old at `time` (ms). Return whether there were any."""
        gone = self._day.advance(window_start(time))
        if gone is not None:
            self.previous_close = gone.close
        has_changed = gone is not None
        for name, window in self._windows.items():
            if window.buckets and window.advance(_opens(name, time) // 1000) is not None:
                has_changed = True
        return has_changed

    def ticker(self, time: int) -> Ticker:
        """Return the ticker at `time` (ms), up to which `advance` has been called."""
        day = self._day
        first = day.buckets[0][1] if day.buckets else None
        last = day.buckets[-1][1] if day.buckets else None
        return Ticker(
            market=self._market,
            open_time=TimeMs(window_start(time) * 1000),
            close_time=TimeMs(time),
            open=PriceTicks(first.open if first else 0),
            high=PriceTicks(day.high),
            low=PriceTicks(day.low),
            last=PriceTicks(last.close if last else 0),
            last_quantity=QuantityLots(last.last_quantity if last else 0),
            previous_close=PriceTicks(self.previous_close),
            volume=QuantityLots(min(day.volume, AMOUNT_UNITS_MAX)),
            quote_volume=min(day.quote_volume, AMOUNT_UNITS_MAX),
            first_trade_id=first.first_trade_id if first else -1,
            last_trade_id=last.last_trade_id if last else -1,
            trade_count=day.trade_count,
            windows=tuple(_window_ticker(name, window, time) for name, window in self._windows.items()),
        )


def _window_ticker(name: str, window: _Window, time: int) -> WindowTicker:
    first = window.buckets[0][1] if window.buckets else None
    last = window.buckets[-1][1] if window.buckets else None
    return WindowTicker(
        name=name,
        open_time=TimeMs(_opens(name, time)),
        open=PriceTicks(first.open if first else 0),
        high=PriceTicks(window.high),
        low=PriceTicks(window.low),
        last=PriceTicks(last.close if last else 0),
        volume=QuantityLots(min(window.volume, AMOUNT_UNITS_MAX)),
        quote_volume=min(window.quote_volume, AMOUNT_UNITS_MAX),
        first_trade_id=first.first_trade_id if first else -1,
        last_trade_id=last.last_trade_id if last else -1,
        trade_count=window.trade_count,
    )


def window_start(time: int) -> int:
    """Return the first second of the exact window of 24 h that ends at `time` (ms)."""
    return time // 1000 - (WINDOW_SECONDS - 1)


def kept_from(time: int) -> int:
    """Return the first second whose trades some window at `time` (ms) still includes."""
    return _opens("1d", time) // 1000


def _opens(name: str, time: int) -> int:
    """Return the opening (ms) of a window that ends at `time`.

    It is on a minute, so the window is up to 59,999 ms longer than its name says.
    """
    return (time - TICKER_WINDOWS_MS[name]) // _MINUTE_MS * _MINUTE_MS
