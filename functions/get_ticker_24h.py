"""GET /api/v3/ticker/24hr: statistics over the last 24 hours."""

from functions.errors import ApiError
from functions.function import OPTIONAL_SYMBOL, SYMBOL_STATUS, SYMBOLS, Function, Group, Parameter
from functions.market_choice import chosen_markets
from functions.parameters import Parameters
from functions.ports import Call, Ports
from functions.ticker_shapes import TickerShape, book_ticker_shape, empty_ticker, mini_ticker_shape, ticker_shape

_IS_MINI = {"FULL": False, "MINI": True}


async def get_ticker_24h(ports: Ports, call: Call) -> object:
    """Return the tickers of the markets asked for, or of all."""
    markets, is_single = chosen_markets(call.parameters, ports)
    is_mini = call.parameters.choice("type", _IS_MINI, _invalid_type)
    symbols = [market.symbol for market in markets]
    found = await ports.read_models.tickers(symbols)
    tickers = [ticker or empty_ticker(market, call.now) for market, ticker in zip(markets, found, strict=True)]
    shapes: list[object]
    if is_mini:
        shapes = [
            mini_ticker_shape(market, ticker, call.time_scale) for market, ticker in zip(markets, tickers, strict=True)
        ]
    else:
        books = await ports.read_models.book_tickers(symbols)
        shapes = [
            ticker_shape(market, ticker, book_ticker_shape(market, book), call.time_scale)
            for market, ticker, book in zip(markets, tickers, books, strict=True)
        ]
    return shapes[0] if is_single else shapes


def _invalid_type() -> ApiError:
    return ApiError(-1139, "Invalid ticker type.")


def _weight(parameters: Parameters) -> int:
    return 2 if "symbol" in parameters or "symbols" in parameters else 80


FUNCTION = Function(
    "GET",
    "/api/v3/ticker/24hr",
    Group.MARKET_DATA,
    "24 h statistics",
    get_ticker_24h,
    weight=_weight,
    parameters=(OPTIONAL_SYMBOL, SYMBOLS, Parameter("type", "FULL (default) or MINI."), SYMBOL_STATUS),
    answer=TickerShape | list[TickerShape],
)
