"""GET /api/v3/klines and /api/v3/uiKlines: candles from the database, with flat ones where nothing traded."""

from typing import Final

from functions.api.errors import ApiError, mandatory_missing
from functions.api.function import END_TIME, START_TIME, SYMBOL, Function, Group, Parameter, limit_parameter
from functions.api.ports import Call, Database, Ports
from functions.market_data.klines import (
    KlineRow,
    KlineShape,
    Window,
    bucket_start,
    filled,
    first_bucket,
    next_bucket,
    previous_bucket,
    shape,
)
from functions.market_data.time_zones import TIME_ZONE, time_zone_ms
from protocol.market_data import INTERVALS, INTERVALS_MS
from protocol.units import TimeMs

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_INTERVALS: Final = {interval: interval for interval in INTERVALS}
_HOUR_MS: Final = 3_600_000

_COLUMNS: Final = """(extract(epoch from open_time) * 1000)::bigint, open, high, low, close, volume, quote_volume,
    trade_count, taker_buy_volume, taker_buy_quote"""
# One statement per interval, because a relation's name cannot be a parameter. Every part is bounded on both sides, so that it
# touches few chunks however much history there is; the last candle before may lie anywhere: it is looked for among days, which are few.
_EARLIER: Final = {
    interval: f"""
        (SELECT * FROM (
            (SELECT {_COLUMNS} FROM "candles_{interval}"
            WHERE market = %(market)s AND open_time >= to_timestamp(%(near)s / 1000.0)
                AND open_time < to_timestamp(%(start)s / 1000.0)
            ORDER BY open_time DESC LIMIT 1)
            UNION ALL
            (SELECT {_COLUMNS} FROM "candles_1d"
            WHERE market = %(market)s AND open_time < to_timestamp(%(near)s / 1000.0) ORDER BY open_time DESC LIMIT 1)
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
# Candles by other clocks than UTC's are made of smaller ones when they are asked for.
_SUMS: Final = """market, (array_agg(open ORDER BY open_time))[1], max(high), min(low), (array_agg(close ORDER BY open_time DESC))[1],
    sum(volume), sum(quote_volume), sum(trade_count), sum(taker_buy_volume), sum(taker_buy_quote)"""
_FIXED: Final = "floor((extract(epoch from open_time) * 1000 - %(grid)s) / %(length)s) * %(length)s + %(grid)s"
_LOCAL: Final = "(open_time + %(offset)s * interval '1 ms') AT TIME ZONE 'UTC'"
_MONTHS: Final = f"extract(epoch from date_trunc('month', {_LOCAL}) AT TIME ZONE 'UTC') * 1000 - %(offset)s"
_ZONED_STATEMENTS: Final = {
    (source, is_month): f"""
        {_EARLIER[source]}
        UNION ALL
        (SELECT bucket, open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume, taker_buy_quote FROM (
            SELECT ({_MONTHS if is_month else _FIXED})::bigint AS bucket, {_SUMS} FROM "candles_{source}"
            WHERE market = %(market)s AND open_time >= to_timestamp(%(start)s / 1000.0)
                AND open_time < to_timestamp(%(end)s / 1000.0)
            GROUP BY 1, 2 ORDER BY 1 LIMIT %(limit)s
        ) AS zoned (
            bucket, market, open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume, taker_buy_quote
        ))
    """
    for source in ("1h", "15m")
    for is_month in (False, True)
}
_FIRST_DAY: Final = """
    SELECT (extract(epoch from open_time) * 1000)::bigint FROM "candles_1d"
    WHERE market = %(market)s AND open_time >= to_timestamp(%(start)s / 1000.0) ORDER BY open_time LIMIT 1
"""
_DAY_MS, _MONTH_MS = 86_400_000, 31 * 86_400_000


async def get_klines(ports: Ports, call: Call) -> list[KlineShape]:
    """Return candles as arrays of twelve, oldest first."""
    parameters = call.parameters
    market = parameters.market(ports.markets)
    interval = parameters.choice("interval", _INTERVALS, _invalid_interval)
    if interval is None:
        raise mandatory_missing("interval")
    start, end = parameters.time_range()
    offset_ms = grid_offset(interval, time_zone_ms(parameters))
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    window = window_of(interval, start, end, limit, call.now, offset_ms)
    if window is None:
        return []
    await ports.database.catch_up(ports.markets.shard_of_market(market.symbol))
    rows = await kline_rows(ports.database, market.symbol, interval, window, offset_ms)
    return [
        shape(kline, market, interval, call.time_scale, offset_ms)
        for kline in filled(rows, interval, window, offset_ms)
    ]


def grid_offset(interval: str, offset_ms: int) -> int:
    """Return by how much clocks that are `offset_ms` ahead of UTC move the interval's openings; 0: not at all."""
    length = INTERVALS_MS.get(interval)
    return 0 if length is not None and offset_ms % length == 0 else offset_ms


def _invalid_interval() -> ApiError:
    return ApiError(-1120, "Invalid interval.")


async def kline_rows(
    database: Database, symbol: str, interval: str, window: Window, offset_ms: int = 0
) -> list[KlineRow]:
    """Return what `filled` needs for a window: its candles, oldest first, and the last one before it, whose close goes on.

    `offset_ms` is what `grid_offset` returns.
    """
    rows = await _rows_from(database, symbol, interval, window, window.first, offset_ms)
    if rows and rows[0].open_time < window.first:
        return rows
    # Nothing was traded before, so the window's first candle is the first there ever was.
    found = await database.fetch(_FIRST_DAY, {"market": symbol, "start": _near(interval, window.first)})
    if not found:
        return []
    first = max(bucket_start(interval, found[0][0], offset_ms), window.first)
    return await _rows_from(database, symbol, interval, window, TimeMs(first), offset_ms)


async def _rows_from(
    database: Database, symbol: str, interval: str, window: Window, first: TimeMs, offset_ms: int
) -> list[KlineRow]:
    """Return the candles of the window from `first` on, and the last one before that."""
    # As many intervals as are wanted, and a day in which the first trade may be found.
    end = min(window.last, first + _DAY_MS + window.limit * INTERVALS_MS.get(interval, _MONTH_MS))
    parameters = {"market": symbol, "near": _near(interval, first), "start": first, "end": end, "limit": window.limit}
    if offset_ms:
        source = "1h" if offset_ms % _HOUR_MS == 0 and INTERVALS_MS.get(interval, _HOUR_MS) >= _HOUR_MS else "15m"
        parameters |= {
            "near": _near(source, first),
            "end": next_bucket(interval, bucket_start(interval, TimeMs(end), offset_ms), offset_ms),
            "offset": offset_ms,
            "length": INTERVALS_MS.get(interval, 0),
            "grid": bucket_start(interval, TimeMs(0), offset_ms),
        }
        rows = await database.fetch(_ZONED_STATEMENTS[source, interval not in INTERVALS_MS], parameters)
    else:
        rows = await database.fetch(_STATEMENTS[interval], parameters)
    return [KlineRow(*map(int, row)) for row in rows]


def _near(interval: str, time: int) -> int:
    """Return where the day of `time` begins, or its interval if that is longer."""
    return min(bucket_start("1d", TimeMs(time)), bucket_start(interval, TimeMs(time)))


def window_of(
    interval: str, start: TimeMs | None, end: TimeMs | None, limit: int, now: TimeMs, offset_ms: int = 0
) -> Window | None:
    """Return the candles asked for by the first and last opening; None when there can be none.

    With a start: from the first opening at or after it. Without: the newest `limit` up to the end.
    """
    last = bucket_start(interval, now if end is None else TimeMs(min(end, now)), offset_ms)
    if start is None:
        first = last
        for _ in range(limit - 1):
            first = previous_bucket(interval, first, offset_ms)
        return Window(TimeMs(max(first, 0)), last, limit)
    if start > last:  # perhaps by more years than a calendar has
        return None
    return Window(first_bucket(interval, start, offset_ms), last, limit)


_PARAMETERS: Final = (
    SYMBOL,
    Parameter("interval", f"One of {', '.join(INTERVALS)}.", required=True, choices=tuple(INTERVALS)),
    START_TIME,
    END_TIME,
    TIME_ZONE,
    limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX),
)

FUNCTION = Function(
    "GET",
    "/api/v3/klines",
    Group.MARKET_DATA,
    "Candles",
    get_klines,
    weight=2,
    parameters=_PARAMETERS,
)
UI_FUNCTION = Function(
    "GET",
    "/api/v3/uiKlines",
    Group.MARKET_DATA,
    "Candles for charts",
    get_klines,
    weight=2,
    parameters=_PARAMETERS,
)
