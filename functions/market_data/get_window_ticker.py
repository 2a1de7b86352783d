"""GET /api/v3/ticker and /api/v3/ticker/tradingDay: statistics over a window that the client chooses.

They are computed from the database's candles.
"""

import re
from typing import Final

from functions.api.errors import ApiError, bad_combination, invalid_parameter
from functions.api.function import OPTIONAL_SYMBOL, SYMBOL_STATUS, SYMBOLS, Function, Group, Parameter
from functions.api.market_choice import chosen_markets
from functions.api.parameters import Parameters, require_one_of
from functions.api.ports import Call, Ports
from functions.market_data.klines import bucket_start
from functions.market_data.ticker_shapes import (
    MiniTickerShape,
    WindowTickerShape,
    empty_ticker,
    mini_ticker_shape,
    window_ticker_shape,
)
from functions.market_data.ticker_type import TICKER_TYPE, is_mini_ticker
from functions.market_data.time_zones import TIME_ZONE, time_zone_ms
from functions.repositories.candles import CandleSums
from protocol.market import Market
from protocol.market_data import Ticker
from protocol.units import AMOUNT_UNITS_MAX, PriceTicks, QuantityLots, TimeMs

SYMBOLS_MAX: Final = 100
Tickers = WindowTickerShape | MiniTickerShape | list[WindowTickerShape] | list[MiniTickerShape]
_MINUTE_MS, _HOUR_MS, _DAY_MS = 60_000, 3_600_000, 86_400_000
_WEIGHT, _WEIGHT_MAX = 4, 200
_UNITS_MS: Final = {"m": (_MINUTE_MS, 59), "h": (_HOUR_MS, 23), "d": (_DAY_MS, 7)}
"""Unit -> its length, and the maximum of units in a window."""
_window_size: Final = re.compile("([1-9][0-9]?)([mhd])", re.ASCII)


async def get_window_ticker(ports: Ports, call: Call) -> Tickers:
    """Return statistics of the last `windowSize`; the window begins with a whole minute."""
    window_ms = _window_ms(call.parameters)
    open_time = TimeMs((call.now - window_ms) // _MINUTE_MS * _MINUTE_MS)
    return await _tickers(ports, call, open_time, call.now)


async def get_trading_day_ticker(ports: Ports, call: Call) -> Tickers:
    """Return statistics of the current day in `timeZone`."""
    open_time = bucket_start("1d", call.now, time_zone_ms(call.parameters))
    return await _tickers(ports, call, open_time, TimeMs(open_time + _DAY_MS - 1))


async def _tickers(ports: Ports, call: Call, open_time: TimeMs, closes: TimeMs) -> Tickers:
    """Return the tickers of the requested markets: all trades from `opened`, a whole minute, until now."""
    parameters = call.parameters
    require_one_of(parameters, "symbol", "symbols")
    if _count(parameters) > SYMBOLS_MAX:
        raise ApiError(-1101, "Too many parameters sent for this endpoint.")
    markets, is_single = chosen_markets(parameters, ports)
    is_mini = is_mini_ticker(parameters)
    for shard in {ports.markets.shard_of_market(market.symbol) for market in markets}:
        await ports.ingestion.catch_up(shard)
    sums = await ports.candles.sums_since([market.symbol for market in markets], open_time)
    tickers = [_ticker(market, sums.get(market.symbol), open_time, closes) for market in markets]
    shown = zip(markets, tickers, strict=True)
    if is_mini:
        minis = [mini_ticker_shape(market, ticker, call.time_scale) for market, ticker in shown]
        return minis[0] if is_single else minis
    shapes = [window_ticker_shape(market, ticker, call.time_scale) for market, ticker in shown]
    return shapes[0] if is_single else shapes


def _ticker(market: Market, sums: CandleSums | None, open_time: TimeMs, closes: TimeMs) -> Ticker:
    if sums is None:
        return empty_ticker(market, open_time, closes)
    return Ticker(
        market=market.symbol,
        open_time=open_time,
        close_time=closes,
        open=PriceTicks(sums.open),
        high=PriceTicks(sums.high),
        low=PriceTicks(sums.low),
        last=PriceTicks(sums.close),
        last_quantity=QuantityLots(0),
        previous_close=PriceTicks(0),
        volume=QuantityLots(min(sums.volume, AMOUNT_UNITS_MAX)),
        quote_volume=min(sums.quote_volume, AMOUNT_UNITS_MAX),
        first_trade_id=sums.first_trade_id,
        last_trade_id=sums.last_trade_id,
        trade_count=sums.trade_count,
    )


def _window_ms(parameters: Parameters) -> int:
    text = parameters.optional("windowSize")
    match = _window_size.fullmatch("1d" if text is None else text)
    if match is None:
        raise invalid_parameter("windowSize")
    count, (unit_ms, most) = int(match[1]), _UNITS_MS[match[2]]
    if count > most:
        raise invalid_parameter("windowSize")
    return count * unit_ms


def _count(parameters: Parameters) -> int:
    """Return how many markets are requested by name."""
    if "symbol" in parameters and "symbols" in parameters:
        raise bad_combination()
    return len(parameters.words("symbols") or ["one"])


def _weight(parameters: Parameters) -> int:
    return min(_WEIGHT * _count(parameters), _WEIGHT_MAX)


FUNCTION = Function(
    "GET",
    "/api/v3/ticker",
    Group.MARKET_DATA,
    "Statistics of a window",
    get_window_ticker,
    weight=_weight,
    parameters=(
        OPTIONAL_SYMBOL,
        SYMBOLS,
        Parameter(
            "windowSize",
            "1m to 59m, 1h to 23h, or 1d (the default) to 7d.",
            pattern="^([1-5]?[0-9]m|1?[0-9]h|2[0-3]h|[1-7]d)$",
        ),
        TICKER_TYPE,
        SYMBOL_STATUS,
    ),
)
TRADING_DAY_FUNCTION = Function(
    "GET",
    "/api/v3/ticker/tradingDay",
    Group.MARKET_DATA,
    "Statistics of the day",
    get_trading_day_ticker,
    weight=_weight,
    parameters=(OPTIONAL_SYMBOL, SYMBOLS, TIME_ZONE, TICKER_TYPE, SYMBOL_STATUS),
)
