"""GET /api/v3/trades: the newest trades."""

from functions.api.function import SYMBOL, Function, Group, limit_parameter
from functions.api.ports import Call, Ports
from functions.market_data.trade_shapes import TradeShape, trade_shape
from functions.repositories.trades import StoredTrade

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_NO_ID = 2**63 - 1


async def get_trades(ports: Ports, call: Call) -> list[TradeShape]:
    """Return the newest trades, oldest first.

    The read model has them. If it was lost and is still short, the database has the earlier ones.
    """
    market = call.parameters.market(ports.markets)
    limit = call.parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    newest = await ports.read_models.trades(market.symbol, limit)
    trades = [
        StoredTrade(trade.trade_id, trade.price, trade.quantity, trade.time, trade.taker_side)
        for trade in newest
    ]
    first = trades[0].trade_id if trades else _NO_ID
    if len(trades) < limit and first > 1:
        await ports.ingestion.catch_up(ports.markets.shard_of_market(market.symbol))
        trades = [*await ports.trades.newest_before(market.symbol, first, limit - len(trades)), *trades]
    return [trade_shape(market, *trade, call.time_scale) for trade in trades]


FUNCTION = Function(
    "GET",
    "/api/v3/trades",
    Group.MARKET_DATA,
    "Recent trades",
    get_trades,
    weight=25,
    parameters=(SYMBOL, limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX)),
)
