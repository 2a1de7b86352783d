"""GET /api/v3/avgPrice: the average price of the last five minutes, weighted by quantity."""

from typing import TypedDict

from functions.api.function import SYMBOL, Function, Group
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, Time
from functions.market_data.ticker_shapes import average_price
from protocol.market import Market
from protocol.market_data import Ticker
from protocol.units import PriceTicks, QuantityLots, TimeMs

_MINUTES = 5


class AveragePriceShape(TypedDict):
    """The average over some minutes, and the time of the last trade."""

    mins: int
    price: Amount
    closeTime: Time


async def get_average_price(ports: Ports, call: Call) -> AveragePriceShape:
    """Return the average, or the last price if nothing was traded in these minutes."""
    market = call.parameters.market(ports.markets)
    price, closed = await average_of(ports, market, call.now)
    return AveragePriceShape(mins=_MINUTES, price=price, closeTime=closed * call.time_scale)


async def average_of(ports: Ports, market: Market, now: TimeMs) -> tuple[str, int]:
    """Return the average at `now`, and the time (ms) of the last trade; 0 if there was none."""
    start = now - _MINUTES * 60_000
    idle = await _idle(ports, market, start)
    if idle is not None:
        return idle
    turnover = await ports.trades.turnover_since(market.symbol, start)
    if turnover.quantity:
        price = average_price(market, turnover.quote, QuantityLots(turnover.quantity))
        return price, turnover.last_time or 0
    (ticker,) = await ports.read_models.tickers([market.symbol])
    price = market.format_price(PriceTicks((ticker.last or ticker.previous_close) if ticker else 0))
    return price, await ports.trades.last_time(market.symbol) or 0


async def _idle(ports: Ports, market: Market, start: int) -> tuple[str, int] | None:
    """Return the price and time of the last trade if it was before `start`.

    None: it was later, or only the database knows.
    """
    newest = await ports.read_models.trades(market.symbol, 1)
    if newest:
        return (market.format_price(newest[0].price), newest[0].time) if newest[0].time < start else None
    (ticker,) = await ports.read_models.tickers([market.symbol])
    # If there is a ticker there is a list of trades, unless the market has never traded; both may be lost
    # together with their Redis.
    return (market.format_price(PriceTicks(0)), 0) if ticker is not None and _never_traded(ticker) else None


def _never_traded(ticker: Ticker) -> bool:
    return not (ticker.trade_count or ticker.last or ticker.previous_close)


FUNCTION = Function(
    "GET",
    "/api/v3/avgPrice",
    Group.MARKET_DATA,
    "Average price",
    get_average_price,
    weight=2,
    parameters=(SYMBOL,),
)
