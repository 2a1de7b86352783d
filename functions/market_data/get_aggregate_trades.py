"""GET /api/v3/aggTrades: trades of one taker at one price, aggregated, from the database."""

import msgspec

from functions.api.errors import bad_combination
from functions.api.function import END_TIME, START_TIME, SYMBOL, Function, Group, Parameter, limit_parameter
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, Time
from protocol.orders import Side

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000


class AggregateTradeShape(msgspec.Struct, gc=False):
    """Binance's one-letter names.

    Id, price, quantity, first and last trade, time, buyer is maker, best match.
    """

    a: int
    p: Amount
    q: Amount
    f: int
    l: int  # noqa: E741 - the name on the wire
    T: Time
    m: bool
    M: bool


async def get_aggregate_trades(ports: Ports, call: Call) -> list[AggregateTradeShape]:
    """Return aggregate trades from `fromId`, within a time range, or the newest; oldest first."""
    parameters = call.parameters
    market = parameters.market(ports.markets)
    from_id = parameters.integer("fromId")
    start, end = parameters.time_range()
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    if from_id is not None and (start is not None or end is not None):
        raise bad_combination()
    await ports.ingestion.catch_up(ports.markets.shard_of_market(market.symbol))
    trades = await ports.trades.aggregates(market.symbol, from_id=from_id, start=start, end=end, limit=limit)
    return [
        AggregateTradeShape(
            a=trade.aggregate_id,
            p=market.format_price(trade.price),
            q=market.format_quantity(trade.quantity),
            f=trade.first_trade_id,
            l=trade.last_trade_id,
            T=trade.time * call.time_scale,
            m=trade.taker_side is Side.SELL,
            M=True,
        )
        for trade in trades
    ]


FUNCTION = Function(
    "GET",
    "/api/v3/aggTrades",
    Group.MARKET_DATA,
    "Aggregate trades",
    get_aggregate_trades,
    weight=4,
    parameters=(
        SYMBOL,
        Parameter("fromId", "From this aggregate trade on.", kind="integer"),
        START_TIME,
        END_TIME,
        limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX),
    ),
)
