"""GET /api/v3/avgPrice: the average price of the last five minutes, weighted by quantity."""

from functions.function import SYMBOL, Function, Group
from functions.ports import Call, Ports
from functions.ticker_shapes import average_price
from protocol.market import Market
from protocol.units import PriceTicks, QuantityLots, TimeMs

_MINUTES = 5
_STATEMENT = """
    SELECT coalesce(sum(quantity), 0), coalesce(sum(quote), 0),
        (extract(epoch from max(time)) * 1000)::bigint
    FROM trades WHERE market = %(market)s AND time >= to_timestamp(%(start)s / 1000.0)
"""


_LAST_TRADE = """
    SELECT (extract(epoch from time) * 1000)::bigint FROM trades WHERE market = %(market)s
    ORDER BY time DESC, trade_id DESC LIMIT 1
"""


async def get_average_price(ports: Ports, call: Call) -> object:
    """Return the average; the last price when nothing traded in these minutes."""
    market = call.parameters.market(ports.markets)
    price, closed = await average_of(ports, market, call.now)
    return {"mins": _MINUTES, "price": price, "closeTime": closed * call.time_scale}


async def average_of(ports: Ports, market: Market, now: TimeMs) -> tuple[str, int]:
    """Return the average at `now`, and the time (ms) of the last trade; 0 when there was none."""
    start = now - _MINUTES * 60_000
    ((volume, quote_volume, closed),) = await ports.database.fetch(
        _STATEMENT, {"market": market.symbol, "start": start}
    )
    # Sums of bigint are numeric, since they may be beyond 64 bits; of whole numbers they are whole.
    volume, quote_volume = int(volume), int(quote_volume)
    if volume:
        price = average_price(market, quote_volume, QuantityLots(volume))
    else:
        (ticker,) = await ports.read_models.tickers([market.symbol])
        price = market.format_price(PriceTicks((ticker.last or ticker.previous_close) if ticker else 0))
        rows = await ports.database.fetch(_LAST_TRADE, {"market": market.symbol})
        closed = rows[0][0] if rows else 0
    return price, closed


FUNCTION = Function(
    "GET",
    "/api/v3/avgPrice",
    Group.MARKET_DATA,
    "Average price",
    get_average_price,
    weight=2,
    parameters=(SYMBOL,),
)
