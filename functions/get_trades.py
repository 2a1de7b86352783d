"""GET /api/v3/trades: the newest trades."""

from functions.function import SYMBOL, Function, Group, limit_parameter
from functions.ports import Call, Ports
from functions.trade_shapes import TradeShape, trade_shape

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000


async def get_trades(ports: Ports, call: Call) -> object:
    """Return the newest trades, oldest first."""
    market = call.parameters.market(ports.markets)
    limit = call.parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    return [
        trade_shape(market, trade.trade_id, trade.price, trade.quantity, trade.time, trade.taker_side, call.time_scale)
        for trade in await ports.read_models.trades(market.symbol, limit)
    ]


FUNCTION = Function(
    "GET",
    "/api/v3/trades",
    Group.MARKET_DATA,
    "Recent trades",
    get_trades,
    weight=25,
    parameters=(SYMBOL, limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX)),
    answer=list[TradeShape],
)
