"""GET /api/v3/trades: the newest trades."""

from typing import Any

from functions.api.function import SYMBOL, Function, Group, limit_parameter
from functions.api.ports import Call, Ports
from functions.market_data.trade_shapes import TradeShape, trade_shape

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_BEFORE = """
    SELECT trade_id, price, quantity, (extract(epoch from time) * 1000)::bigint, taker_side FROM trades
    WHERE market = %(market)s AND trade_id < %(before)s ORDER BY time DESC, trade_id DESC LIMIT %(limit)s
"""
_NO_ID = 2**63 - 1


async def get_trades(ports: Ports, call: Call) -> list[TradeShape]:
    """Return the newest trades, oldest first.

    The read model has them, unless it was lost and is still short: then the database has those before.
    """
    market = call.parameters.market(ports.markets)
    limit = call.parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    found = await ports.read_models.trades(market.symbol, limit)
    rows: list[Any] = [(trade.trade_id, trade.price, trade.quantity, trade.time, trade.taker_side) for trade in found]
    first = rows[0][0] if rows else _NO_ID
    if len(rows) < limit and first > 1:
        await ports.database.catch_up(ports.markets.shard_of_market(market.symbol))
        before = {"market": market.symbol, "before": first, "limit": limit - len(rows)}
        rows = [*reversed(await ports.database.fetch(_BEFORE, before)), *rows]
    return [
        trade_shape(market, trade_id, price, quantity, time, taker_side, call.time_scale)
        for trade_id, price, quantity, time, taker_side in rows
    ]


FUNCTION = Function(
    "GET",
    "/api/v3/trades",
    Group.MARKET_DATA,
    "Recent trades",
    get_trades,
    weight=25,
    parameters=(SYMBOL, limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX)),
)
