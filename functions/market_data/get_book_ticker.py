"""GET /api/v3/ticker/bookTicker: best bid and ask."""

from functions.api.function import OPTIONAL_SYMBOL, SYMBOL_STATUS, SYMBOLS, Function, Group
from functions.api.market_choice import chosen_markets
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.market_data.ticker_shapes import BookTickerShape, book_ticker_shape


async def get_book_ticker(ports: Ports, call: Call) -> BookTickerShape | list[BookTickerShape]:
    """Return best bid and ask of the requested markets, or of all."""
    markets, is_single = chosen_markets(call.parameters, ports)
    books = await ports.read_models.book_tickers([market.symbol for market in markets])
    shapes = [book_ticker_shape(market, book) for market, book in zip(markets, books, strict=True)]
    return shapes[0] if is_single else shapes


def _weight(parameters: Parameters) -> int:
    return 2 if "symbol" in parameters else 4


FUNCTION = Function(
    "GET",
    "/api/v3/ticker/bookTicker",
    Group.MARKET_DATA,
    "Best bid and ask",
    get_book_ticker,
    weight=_weight,
    parameters=(OPTIONAL_SYMBOL, SYMBOLS, SYMBOL_STATUS),
)
