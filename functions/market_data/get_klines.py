"""GET /api/v3/klines and /api/v3/uiKlines: candles from the database, flat ones where nothing was traded."""

from typing import Final

from functions.api.errors import ApiError, mandatory_missing
from functions.api.function import END_TIME, START_TIME, SYMBOL, Function, Group, Parameter, limit_parameter
from functions.api.ports import Call, Ports
from functions.market_data.klines import (
    KlineShape,
    Window,
    bucket_start,
    filled,
    first_bucket,
    previous_bucket,
    shape,
)
from functions.market_data.time_zones import TIME_ZONE, time_zone_ms
from protocol.intervals import INTERVALS, INTERVALS_MS
from protocol.units import TimeMs

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_INTERVALS: Final = {interval: interval for interval in INTERVALS}


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
    await ports.ingestion.catch_up(ports.markets.shard_of_market(market.symbol))
    rows = await ports.candles.klines(market.symbol, interval, window, offset_ms)
    return [
        shape(kline, market, interval, call.time_scale, offset_ms)
        for kline in filled(rows, interval, window, offset_ms)
    ]


def grid_offset(interval: str, offset_ms: int) -> int:
    """Return by how much a time zone, `offset_ms` ahead of UTC, shifts the interval's openings."""
    length = INTERVALS_MS.get(interval)
    return 0 if length is not None and offset_ms % length == 0 else offset_ms


def _invalid_interval() -> ApiError:
    return ApiError(-1120, "Invalid interval.")


def window_of(
    interval: str, start: TimeMs | None, end: TimeMs | None, limit: int, now: TimeMs, offset_ms: int = 0
) -> Window | None:
    """Return the window of the requested candles, by first and last opening; None: there are none.

    With a start: from the first opening at or after it. Without: the newest `limit` up to the end.
    """
    last = bucket_start(interval, now if end is None else TimeMs(min(end, now)), offset_ms)
    if start is None:
        first = last
        for _ in range(limit - 1):
            first = previous_bucket(interval, first, offset_ms)
        return Window(TimeMs(max(first, 0)), last, limit)
    if start > last:  # possibly by more years than a calendar has
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
