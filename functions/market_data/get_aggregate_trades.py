"""GET /api/v3/aggTrades: trades of one taker at one price as one, from the database."""

import msgspec

from functions.api.errors import bad_combination
from functions.api.function import END_TIME, START_TIME, SYMBOL, Function, Group, Parameter, limit_parameter
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, Time
from protocol.orders import Side

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
# Numbers follow on each other and never go back in time, so the page is known once one end of it is found.
_FIRST_FROM = """
    SELECT aggregate_id, time FROM trades WHERE market = %(market)s AND aggregate_id >= %(from)s
    ORDER BY aggregate_id LIMIT 1
"""
_FIRST_SINCE = """
    SELECT aggregate_id, time FROM trades WHERE market = %(market)s AND time >= to_timestamp(%(start)s / 1000.0)
    ORDER BY time, trade_id LIMIT 1
"""
_LAST = """
    SELECT aggregate_id, time FROM trades
    WHERE market = %(market)s AND (%(end)s::bigint IS NULL OR time <= to_timestamp(%(end)s / 1000.0))
    ORDER BY time DESC, trade_id DESC LIMIT 1
"""
# An aggregate's quantity is part of one order's, which a bigint holds.
_HEAD = """
    SELECT aggregate_id, min(price), sum(quantity)::bigint, min(trade_id), max(trade_id),
        (extract(epoch from min(time)) * 1000)::bigint, min(taker_side)
    FROM trades WHERE market = %(market)s
"""
_AFTER = f"""{_HEAD}
    AND aggregate_id >= %(found)s::bigint AND aggregate_id < %(found)s::bigint + %(limit)s AND time >= %(time)s
    AND (%(end)s::bigint IS NULL OR time <= to_timestamp(%(end)s / 1000.0))
    GROUP BY aggregate_id ORDER BY aggregate_id
"""
_BEFORE = f"""{_HEAD}
    AND aggregate_id <= %(found)s::bigint AND aggregate_id > %(found)s::bigint - %(limit)s AND time <= %(time)s
    GROUP BY aggregate_id ORDER BY aggregate_id
"""


class AggregateTradeShape(msgspec.Struct, gc=False):
    """Binance's one-letter names: id, price, quantity, first and last trade, time, buyer is maker, best match."""

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
    await ports.database.catch_up(ports.markets.shard_of_market(market.symbol))
    if from_id is not None:
        edge, page = _FIRST_FROM, _AFTER
    elif start is not None:
        edge, page = _FIRST_SINCE, _AFTER
    else:
        edge, page = _LAST, _BEFORE
    values = {"market": market.symbol, "from": from_id, "start": start, "end": end, "limit": limit}
    found = await ports.database.fetch(edge, values)
    if not found:
        return []
    rows = await ports.database.fetch(page, {**values, "found": found[0][0], "time": found[0][1]})
    return [
        AggregateTradeShape(
            a=aggregate_id,
            p=market.format_price(price),
            q=market.format_quantity(quantity),
            f=first,
            l=last,
            T=time * call.time_scale,
            m=taker_side == Side.SELL,
            M=True,
        )
        for aggregate_id, price, quantity, first, last, time, taker_side in rows
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
