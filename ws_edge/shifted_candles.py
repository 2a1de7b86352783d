"""Candles in UTC+8 (`@kline_1d@+08:00`), composed of those in UTC. Pure.

Binance streams no other offset. Up to 4 h, and at 8 h, intervals open at the same moments in both time zones.
The others are sums of intervals that do: of 2 h or of 8 h. Earlier trades come from the closed candles in
Redis. Trade ids tell whether anything is missing between the parts; until it is complete, nothing is sent.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from protocol.intervals import interval_bounds
from protocol.market_data import Candle
from protocol.trade_sums import candle_of, flat_sum, sum_of_candles

SHIFT: Final = "@+08:00"
OFFSET_MS: Final = 8 * 3_600_000
PARTS: Final = {"6h": "2h", "12h": "2h", "1d": "8h", "3d": "8h", "1w": "8h", "1M": "8h"}
"""Interval that opens at other moments -> the interval of its parts."""
PART_INTERVALS: Final = tuple(sorted(set(PARTS.values())))
_KEPT: Final = 300
"""Maximum of stored parts of one interval: 8 h × 300 are more than three months."""
_FINALS_MAX: Final = 300
"""Maximum of consecutive closed candles that are sent after an interruption."""


class ShiftedCandles:
    """The candles of one market."""

    def __init__(self, market: str) -> None:
        self._market = market
        self._parts: dict[str, dict[int, Candle]] | None = None
        """By interval and opening time, only those with trades; None: no subscriber."""
        self.is_complete = False
        """Whether the parts include the closed candles in Redis."""
        self._open: dict[str, int] = {}
        """Interval -> the opening of the last candle that was sent open."""

    def begin(self) -> None:
        """Store candles received from now on; `complete` adds the earlier ones."""
        self._parts, self.is_complete = {interval: {} for interval in PART_INTERVALS}, False

    def complete(self, redis_candles: Iterable[Candle]) -> None:
        """Add the closed candles that were read after `begin`."""
        self.is_complete = True
        for candle in redis_candles:
            self.hear(candle)

    def forget(self) -> None:
        """Start again at the next request: something may have been missed."""
        self._parts, self.is_complete = None, False

    def hear(self, candle: Candle) -> None:
        """Process a candle in UTC."""
        if self._parts is None or candle.interval not in self._parts or not candle.trade_count:
            return
        parts = self._parts[candle.interval]
        part = parts.get(candle.open_time)
        if part is None or part.trade_count <= candle.trade_count:
            parts[candle.open_time] = candle
        if len(parts) > _KEPT:
            del parts[min(parts)]

    def stop(self, interval: str) -> None:
        """Record that an interval has no subscriber any more."""
        self._open.pop(interval, None)

    def tell(self, interval: str, time: int) -> Iterator[Candle]:
        """Yield the candles of an interval that have closed by `time`, and the open one.

        Everything before `time` has been received.
        """
        last = self._open.get(interval)
        start, _ = interval_bounds(interval, time if last is None else max(time, last), OFFSET_MS)
        finals = 0
        while last is not None and last < start and finals < _FINALS_MAX:
            ended = self.candle(interval, last, closed=True)
            if ended is not None:
                yield ended
            last = interval_bounds(interval, last, OFFSET_MS)[1]
            finals += 1
        self._open[interval] = start
        candle = self.candle(interval, start)
        if candle is not None:
            yield candle

    def candle(self, interval: str, time: int, *, closed: bool = False) -> Candle | None:
        """Return an interval's candle that is open at `time`; None: incomplete, or there never was one."""
        if self._parts is None or not self.is_complete:
            return None
        parts = self._parts[PARTS[interval]]
        start, end = interval_bounds(interval, time, OFFSET_MS)
        before = max((open_time for open_time in parts if open_time < start), default=None)
        inside = [parts[open_time] for open_time in sorted(parts) if start <= open_time < end]
        last_trade_id = parts[before].last_trade_id if before is not None else 0
        for part in inside:
            if part.first_trade_id != last_trade_id + 1:
                return None
            last_trade_id = part.last_trade_id
        if not inside and before is None:
            return None
        total = sum_of_candles(inside)
        if total is None:
            assert before is not None
            total = flat_sum(parts[before].close)
        return candle_of(self._market, interval, (start, end), total, closed=closed)
