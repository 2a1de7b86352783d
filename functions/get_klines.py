"""GET /api/v3/klines and /api/v3/uiKlines: candles from the database, with flat ones where nothing traded."""

from typing import Final

from functions.errors import ApiError, invalid_parameter, mandatory_missing
from functions.function import END_TIME, START_TIME, SYMBOL, Function, Group, Parameter, limit_parameter
from functions.klines import KlineRow, KlineShape, Window, bucket_start, filled, previous_bucket, shape
from functions.ports import Call, Ports
from protocol.market_data import INTERVALS
from protocol.units import TimeMs

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_INTERVALS: Final = {interval: interval for interval in INTERVALS}
_INVALID_INTERVAL: Final = ApiError(-1120, "Invalid interval.")
_UTC: Final = frozenset({"0", "00:00", "+00:00", "-00:00", "0:00", "+0:00", "-0:00"})

_COLUMNS: Final = """(extract(epoch from open_time) * 1000)::bigint, open, high, low, close, volume, quote_volume,
    trade_count, taker_buy_volume, taker_buy_quote"""
# One statement per interval, because a relation's name cannot be a parameter.
_STATEMENTS: Final = {
    interval: f"""
        (SELECT {_COLUMNS} FROM "candles_{interval}"
        WHERE market = %(market)s AND open_time < to_timestamp(%(start)s / 1000.0) ORDER BY open_time DESC LIMIT 1)
        UNION ALL
        (SELECT {_COLUMNS} FROM "candles_{interval}"
        WHERE market = %(market)s AND open_time >= to_timestamp(%(start)s / 1000.0)
            AND open_time <= to_timestamp(%(end)s / 1000.0)
        ORDER BY open_time LIMIT %(limit)s)
    """
    for interval in INTERVALS
}


async def get_klines(ports: Ports, call: Call) -> object:
    """Return candles as arrays of twelve, oldest first."""
    parameters = call.parameters
    market = parameters.market(ports.markets)
    interval = parameters.choice("interval", _INTERVALS, _INVALID_INTERVAL)
    if interval is None:
        raise mandatory_missing("interval")
    start, end = parameters.time_range()
    if (parameters.optional("timeZone") or "0") not in _UTC:
        raise invalid_parameter("timeZone")
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    window = window_of(interval, start, end, limit, call.now)
    if window is None:
        return []
    await ports.database.catch_up(ports.markets.shard_of_market(market.symbol))
    rows = await ports.database.fetch(
        _STATEMENTS[interval],
        {"market": market.symbol, "start": window.first, "end": window.last, "limit": limit},
    )
    return [
        shape(kline, market, interval, call.time_scale)
        for kline in filled([KlineRow(*map(int, row)) for row in rows], interval, window)
    ]


def window_of(interval: str, start: TimeMs | None, end: TimeMs | None, limit: int, now: TimeMs) -> Window | None:
    """Return the candles asked for by the first and last opening; None when there can be none.

    With a start: from the first opening at or after it. Without: the newest `limit` up to the end.
    """
    last = bucket_start(interval, now if end is None else TimeMs(min(end, now)))
    if start is None:
        first = last
        for _ in range(limit - 1):
            first = previous_bucket(interval, first)
        return Window(TimeMs(max(first, 0)), last, limit)
    if start > last:
        return None
    return Window(start, last, limit)


_PARAMETERS: Final = (
    SYMBOL,
    Parameter("interval", f"One of {', '.join(INTERVALS)}.", required=True),
    START_TIME,
    END_TIME,
    Parameter("timeZone", "Only 0 (UTC) is supported."),
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
    answer=list[KlineShape],
)
UI_FUNCTION = Function(
    "GET",
    "/api/v3/uiKlines",
    Group.MARKET_DATA,
    "Candles for charts",
    get_klines,
    weight=2,
    parameters=_PARAMETERS,
    answer=list[KlineShape],
)
