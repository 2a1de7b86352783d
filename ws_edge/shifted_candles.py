"""Candles by clocks eight hours ahead of UTC (`@kline_1d@+08:00`), put together from those of UTC. Pure.

Binance streams no other offset. Up to 4 h, and at 8 h, intervals open at the same moments by both clocks. The
others are sums of intervals that do: of 2 h or of 8 h. What was traded before this process began to listen
comes from the closed candles that Redis keeps. Trade ids tell whether anything is missing between the parts;
as long as something is, nothing is said.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from protocol.market_data import Candle, interval_bounds
from protocol.trade_sums import candle_of, flat_sum, sum_of_candles

SHIFT: Final = "@+08:00"
OFFSET_MS: Final = 8 * 3_600_000
PARTS: Final = {"6h": "2h", "12h": "2h", "1d": "8h", "3d": "8h", "1w": "8h", "1M": "8h"}
"""Interval that opens at other moments -> the interval of its parts."""
PART_INTERVALS: Final = tuple(sorted(set(PARTS.values())))
_KEPT: Final = 300
"""Parts of one interval that are kept: 8 h × 300 are more than three months."""
_FINALS_MAX: Final = 300
"""Final candles that are told one after the other, after an interruption."""


class ShiftedCandles:
    """Those of one market."""

    def __init__(self, market: str) -> None:
        self._market = market
        self._parts: dict[str, dict[int, Candle]] | None = None
        """By interval and opening time, only those with trades; None: nobody has asked for any."""
        self.is_complete = False
        """Whether the closed candles that Redis keeps are among the parts."""
        self._open: dict[str, int] = {}
        """Interval -> when the candle opened that was told last and is not final."""

    def begin(self) -> None:
        """Keep what is heard from now on; `complete` adds what was before."""
        self._parts, self.is_complete = {interval: {} for interval in PART_INTERVALS}, False

    def complete(self, kept: Iterable[Candle]) -> None:
        """Take the closed candles that were read after `begin`."""
        self.is_complete = True
        for candle in kept:
            self.hear(candle)

    def forget(self) -> None:
        """Begin anew when somebody asks again: something may have been missed."""
        self._parts, self.is_complete = None, False

    def hear(self, candle: Candle) -> None:
        """Take a candle of UTC."""
        if self._parts is None or candle.interval not in self._parts or not candle.trade_count:
            return
        parts = self._parts[candle.interval]
        known = parts.get(candle.open_time)
        if known is None or known.trade_count <= candle.trade_count:
            parts[candle.open_time] = candle
        if len(parts) > _KEPT:
            del parts[min(parts)]

    def stop(self, interval: str) -> None:
        """Note that nobody listens to an interval any more."""
        self._open.pop(interval, None)

    def tell(self, interval: str, time: int) -> Iterator[Candle]:
        """Yield the candles of an interval that have become final by `time`, before which all was heard, and
        the one that is open.
        """
        last = self._open.get(interval)
        opened, _ = interval_bounds(interval, time if last is None else max(time, last), OFFSET_MS)
        finals = 0
        while last is not None and last < opened and finals < _FINALS_MAX:
            ended = self.candle(interval, last, closed=True)
            if ended is not None:
                yield ended
            last = interval_bounds(interval, last, OFFSET_MS)[1]
            finals += 1
        self._open[interval] = opened
        candle = self.candle(interval, opened)
        if candle is not None:
            yield candle

    def candle(self, interval: str, time: int, *, closed: bool = False) -> Candle | None:
        """Return the candle of an interval that is open at `time`; None: not all of its trades are known, or
        there never was any.
        """
        if self._parts is None or not self.is_complete:
            return None
        parts = self._parts[PARTS[interval]]
        opened, end = interval_bounds(interval, time, OFFSET_MS)
        before = max((each for each in parts if each < opened), default=None)
        inside = [parts[each] for each in sorted(parts) if opened <= each < end]
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
        return candle_of(self._market, interval, (opened, end), total, closed=closed)
