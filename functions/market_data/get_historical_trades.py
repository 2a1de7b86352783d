"""GET /api/v3/historicalTrades: trades from any number on, from the database."""

from functions.api.function import SYMBOL, Function, Group, Parameter, limit_parameter
from functions.api.ports import Call, Ports
from functions.market_data.trade_shapes import TradeShape, trade_shape

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_COLUMNS = "trade_id, price, quantity, (extract(epoch from time) * 1000)::bigint, taker_side"
_FROM = f"""
    SELECT {_COLUMNS} FROM trades WHERE market = %(market)s AND trade_id >= %(from)s
    ORDER BY trade_id LIMIT %(limit)s
"""
# In the order of time, which is the same: the newest chunk has them then, and the others need not be looked into.
_NEWEST = f"""
    SELECT {_COLUMNS} FROM trades WHERE market = %(market)s ORDER BY time DESC, trade_id DESC LIMIT %(limit)s
"""


async def get_historical_trades(ports: Ports, call: Call) -> list[TradeShape]:
    """Return trades from `fromId` on, or the newest; oldest first."""
    market = call.parameters.market(ports.markets)
    from_id = call.parameters.integer("fromId")
    limit = call.parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    await ports.database.catch_up(ports.markets.shard_of_market(market.symbol))
    rows = await ports.database.fetch(
        _NEWEST if from_id is None else _FROM, {"market": market.symbol, "from": from_id, "limit": limit}
    )
    shapes = [
        trade_shape(market, trade_id, price, quantity, time, taker_side, call.time_scale)
        for trade_id, price, quantity, time, taker_side in rows
    ]
    return shapes[::-1] if from_id is None else shapes


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
