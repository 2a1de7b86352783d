"""GET /api/v3/ticker/24hr: statistics over the last 24 hours."""

from typing import Final

import msgspec

from functions.api.function import OPTIONAL_SYMBOL, SYMBOL_STATUS, SYMBOLS, Function, Group
from functions.api.market_choice import chosen_markets
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.market_data.ticker_shapes import (
    MiniTickerShape,
    TickerShape,
    book_ticker_shape,
    empty_ticker,
    mini_ticker_shape,
    ticker_shape,
)
from functions.market_data.ticker_type import TICKER_TYPE, is_mini_ticker
from protocol.market import Market
from protocol.market_data import Ticker
from protocol.units import TimeMs

_DAY_S: Final = 86_400
_WEIGHTS: Final = ((20, 2), (100, 40))
"""Weight of a request by `symbols`, by the number of markets; 80 beyond, as for all."""
_WEIGHT_OF_ALL: Final = 80


async def get_ticker_24h(
    ports: Ports, call: Call
) -> TickerShape | MiniTickerShape | list[TickerShape] | list[MiniTickerShape]:
    """Return the tickers of the requested markets, or of all."""
    markets, is_single = chosen_markets(call.parameters, ports)
    is_mini = is_mini_ticker(call.parameters)
    symbols = [market.symbol for market in markets]
    rows = await ports.read_models.tickers(symbols)
    tickers = [_as_of(market, ticker, call.now) for market, ticker in zip(markets, rows, strict=True)]
    if is_mini:
        minis = [
            mini_ticker_shape(market, ticker, call.time_scale)
            for market, ticker in zip(markets, tickers, strict=True)
        ]
        return minis[0] if is_single else minis
    books = await ports.read_models.book_tickers(symbols)
    shapes = [
        ticker_shape(market, ticker, book_ticker_shape(market, book), call.time_scale)
        for market, ticker, book in zip(markets, tickers, books, strict=True)
    ]
    return shapes[0] if is_single else shapes


def _as_of(market: Market, ticker: Ticker | None, now: TimeMs) -> Ticker:
    """Return the ticker with the current bounds of its window.

    Feeds write a ticker within a second after a trade enters or leaves its window; until then its statistics
    do not change.
    """
    open_time = TimeMs((now // 1000 - (_DAY_S - 1)) * 1000)
    if ticker is None:
        return empty_ticker(market, open_time, now)
    if ticker.close_time >= now:
        return ticker
    return msgspec.structs.replace(ticker, open_time=open_time, close_time=now)


def _weight(parameters: Parameters) -> int:
    if "symbol" in parameters:
        return _WEIGHTS[0][1]
    symbols = parameters.words("symbols")
    if symbols is None:
        return _WEIGHT_OF_ALL
    return next((weight for most, weight in _WEIGHTS if len(symbols) <= most), _WEIGHT_OF_ALL)


FUNCTION = Function(
    "GET",
    "/api/v3/ticker/24hr",
    Group.MARKET_DATA,
    "24 h statistics",
    get_ticker_24h,
    weight=_weight,
    parameters=(OPTIONAL_SYMBOL, SYMBOLS, TICKER_TYPE, SYMBOL_STATUS),
)
