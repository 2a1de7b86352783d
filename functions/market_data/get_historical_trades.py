"""GET /api/v3/historicalTrades: trades from a given id on, from the database."""

from functions.api.function import SYMBOL, Function, Group, Parameter, limit_parameter
from functions.api.ports import Call, Ports
from functions.market_data.trade_shapes import TradeShape, trade_shape

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000


async def get_historical_trades(ports: Ports, call: Call) -> list[TradeShape]:
    """Return trades from `fromId` on, or the newest; oldest first."""
    market = call.parameters.market(ports.markets)
    from_id = call.parameters.integer("fromId")
    limit = call.parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    await ports.ingestion.catch_up(ports.markets.shard_of_market(market.symbol))
    if from_id is None:
        trades = await ports.trades.newest(market.symbol, limit)
    else:
        trades = await ports.trades.starting_at(market.symbol, from_id, limit)
    return [trade_shape(market, *trade, call.time_scale) for trade in trades]


FUNCTION = Function(
    "GET",
    "/api/v3/historicalTrades",
    Group.MARKET_DATA,
    "Older trades",
    get_historical_trades,
    weight=25,
    parameters=(
        SYMBOL,
        limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX),
        Parameter("fromId", "From this trade on.", kind="integer"),
    ),
)
