"""The candles: one table or view for each interval."""

from collections.abc import Sequence
from typing import Final

from adapters.database import Database
from functions.market_data.klines import KlineRow, Window, bucket_start, next_bucket
from functions.repositories.candles import CandleSums
from protocol.intervals import INTERVALS, INTERVALS_MS
from protocol.units import TimeMs

_HOUR_MS: Final = 3_600_000
_DAY_MS, _MONTH_MS = 86_400_000, 31 * 86_400_000

_COLUMNS: Final = """(extract(epoch from open_time) * 1000)::bigint, open, high, low, close, volume,
    quote_volume,
    trade_count, taker_buy_volume, taker_buy_quote"""
# One statement per interval, because a relation's name cannot be a parameter. Every part is bounded on both
# sides, so that it reads few chunks however much history there is. The last earlier candle may be anywhere:
# it is looked up among days, which are few.
_EARLIER: Final = {
    interval: f"""
        (SELECT * FROM (
            (SELECT {_COLUMNS} FROM "candles_{interval}"
            WHERE market = %(market)s AND open_time >= to_timestamp(%(near)s / 1000.0)
                AND open_time < to_timestamp(%(start)s / 1000.0)
            ORDER BY open_time DESC LIMIT 1)
            UNION ALL
            (SELECT {_COLUMNS} FROM "candles_1d"
            WHERE market = %(market)s AND open_time < to_timestamp(%(near)s / 1000.0)
            ORDER BY open_time DESC LIMIT 1)
        ) AS earlier ORDER BY 1 DESC LIMIT 1)
    """
    for interval in INTERVALS
}
_STATEMENTS: Final = {
    interval: f"""
        {_EARLIER[interval]}
        UNION ALL
        (SELECT {_COLUMNS} FROM "candles_{interval}"
        WHERE market = %(market)s AND open_time >= to_timestamp(%(start)s / 1000.0)
            AND open_time <= to_timestamp(%(end)s / 1000.0)
        ORDER BY open_time LIMIT %(limit)s)
    """
    for interval in INTERVALS
}
# Candles in time zones other than UTC are computed from smaller ones on request.
_SUMS: Final = """market, (array_agg(open ORDER BY open_time))[1], max(high), min(low),
    (array_agg(close ORDER BY open_time DESC))[1],
    sum(volume), sum(quote_volume), sum(trade_count), sum(taker_buy_volume), sum(taker_buy_quote)"""
_FIXED: Final = (
    "floor((extract(epoch from open_time) * 1000 - %(grid)s) / %(length)s) * %(length)s + %(grid)s"
)
_LOCAL: Final = "(open_time + %(offset)s * interval '1 ms') AT TIME ZONE 'UTC'"
_MONTHS: Final = f"extract(epoch from date_trunc('month', {_LOCAL}) AT TIME ZONE 'UTC') * 1000 - %(offset)s"
_ZONED_STATEMENTS: Final = {
    (source, is_month): f"""
        {_EARLIER[source]}
        UNION ALL
        (SELECT bucket, open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume,
        taker_buy_quote FROM (
            SELECT ({_MONTHS if is_month else _FIXED})::bigint AS bucket, {_SUMS} FROM "candles_{source}"
            WHERE market = %(market)s AND open_time >= to_timestamp(%(start)s / 1000.0)
                AND open_time < to_timestamp(%(end)s / 1000.0)
            GROUP BY 1, 2 ORDER BY 1 LIMIT %(limit)s
        ) AS zoned (
            bucket, market, open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume,
            taker_buy_quote
        ))
    """
    for source in ("1h", "15m")
    for is_month in (False, True)
}
_FIRST_DAY: Final = """
    SELECT (extract(epoch from open_time) * 1000)::bigint FROM "candles_1d"
    WHERE market = %(market)s AND open_time >= to_timestamp(%(start)s / 1000.0) ORDER BY open_time LIMIT 1
"""
# Minutes up to the first whole hour and hours from there on: 240 rows of a market at most, however much was
# traded.
_SUMMED: Final = """market, open_time, open, high, low, close, volume, quote_volume, trade_count,
    first_trade_id, last_trade_id"""
_SINCE: Final = f"""
    SELECT market, (array_agg(open ORDER BY open_time))[1], max(high), min(low), (array_agg(close
    ORDER BY open_time DESC))[1],
        sum(volume), sum(quote_volume), sum(trade_count)::bigint, min(first_trade_id), max(last_trade_id)
    FROM (
        SELECT {_SUMMED} FROM "candles_1m" WHERE market = ANY(%(markets)s)
            AND open_time >= to_timestamp(%(open)s / 1000.0) AND open_time < to_timestamp(%(hour)s / 1000.0)
        UNION ALL
        SELECT {_SUMMED} FROM "candles_1h" WHERE market = ANY(%(markets)s)
        AND open_time >= to_timestamp(%(hour)s / 1000.0)
    ) AS candles GROUP BY market
"""


class PostgresCandles:
    """Implements `functions.repositories.candles.Candles`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def klines(self, symbol: str, interval: str, window: Window, offset_ms: int = 0) -> list[KlineRow]:
        """Return the window's candles, oldest first, and the last one before it."""
        rows = await self._rows_from(symbol, interval, window, window.first, offset_ms)
        if rows and rows[0].open_time < window.first:
            return rows
        # Nothing was traded before, so the window's first candle is the market's first one.
        first_day = await self._database.fetch(
            _FIRST_DAY, {"market": symbol, "start": _near(interval, window.first)}
        )
        if not first_day:
            return []
        first = max(bucket_start(interval, first_day[0][0], offset_ms), window.first)
        return await self._rows_from(symbol, interval, window, TimeMs(first), offset_ms)

    async def _rows_from(
        self, symbol: str, interval: str, window: Window, first: TimeMs, offset_ms: int
    ) -> list[KlineRow]:
        """Return the candles of the window from `first` on, and the last one before."""
        # The requested number of intervals, and a day in which the first trade may be found.
        end = min(window.last, first + _DAY_MS + window.limit * INTERVALS_MS.get(interval, _MONTH_MS))
        parameters = {
            "market": symbol,
            "near": _near(interval, first),
            "start": first,
            "end": end,
            "limit": window.limit,
        }
        if offset_ms:
            # The largest candles whose bounds the zone's intervals share: hours in zones of whole hours.
            source = (
                "1h"
                if offset_ms % _HOUR_MS == 0 and INTERVALS_MS.get(interval, _HOUR_MS) >= _HOUR_MS
                else "15m"
            )
            parameters |= {
                "near": _near(source, first),
                "end": next_bucket(interval, bucket_start(interval, TimeMs(end), offset_ms), offset_ms),
                "offset": offset_ms,
                "length": INTERVALS_MS.get(interval, 0),
                "grid": bucket_start(interval, TimeMs(0), offset_ms),
            }
            rows = await self._database.fetch(
                _ZONED_STATEMENTS[source, interval not in INTERVALS_MS], parameters
            )
        else:
            rows = await self._database.fetch(_STATEMENTS[interval], parameters)
        return [KlineRow(*map(int, row)) for row in rows]

    async def sums_since(self, symbols: Sequence[str], open_time: TimeMs) -> dict[str, CandleSums]:
        """Return the sums of all trades from `opened` (a whole minute) on, for each market that has any."""
        hour = -(-open_time // _HOUR_MS) * _HOUR_MS
        rows = await self._database.fetch(_SINCE, {"markets": list(symbols), "open": open_time, "hour": hour})
        return {symbol: CandleSums(*map(int, values)) for symbol, *values in rows}


def _near(interval: str, time: int) -> int:
    """Return the start of the day of `time`, or of its interval if that is longer."""
    return min(bucket_start("1d", TimeMs(time)), bucket_start(interval, TimeMs(time)))
