"""GET /api/v3/ticker/price: last prices."""

from typing import TypedDict

from functions.api.function import OPTIONAL_SYMBOL, SYMBOL_STATUS, SYMBOLS, Function, Group
from functions.api.market_choice import chosen_markets
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount
from protocol.units import PriceTicks


class PriceShape(TypedDict):
    """A market's last price."""

    symbol: str
    price: Amount


async def get_ticker_price(ports: Ports, call: Call) -> PriceShape | list[PriceShape]:
    """Return the last prices of the requested markets, or of all; zero if a market has never traded."""
    markets, is_single = chosen_markets(call.parameters, ports)
    tickers = await ports.read_models.tickers([market.symbol for market in markets])
    shapes = [
        PriceShape(
            symbol=market.symbol,
            price=market.format_price(PriceTicks((ticker.last or ticker.previous_close) if ticker else 0)),
        )
        for market, ticker in zip(markets, tickers, strict=True)
    ]
    return shapes[0] if is_single else shapes


def _weight(parameters: Parameters) -> int:
    return 2 if "symbol" in parameters else 4


FUNCTION = Function(
    "GET",
    "/api/v3/ticker/price",
    Group.MARKET_DATA,
    "Last price",
    get_ticker_price,
    weight=_weight,
    parameters=(OPTIONAL_SYMBOL, SYMBOLS, SYMBOL_STATUS),
)
