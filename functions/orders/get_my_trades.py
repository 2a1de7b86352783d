"""GET /api/v3/myTrades: the account's fills in one market, from the database."""

from typing import Any

import msgspec

from functions.api.errors import bad_combination
from functions.api.function import (
    END_TIME,
    ORDER_ID,
    START_TIME,
    SYMBOL,
    Function,
    Group,
    Parameter,
    Security,
    limit_parameter,
)
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, Time
from protocol.market import Market
from protocol.orders import Liquidity, Side

_DAY_MS = 86_400_000
_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_QUERY = """
    SELECT trade_id, order_id, price, quantity, quote, fee, fee_asset, (extract(epoch from time) * 1000)::bigint,
        side, liquidity
    FROM fills
    WHERE account_id = %(account)s AND market = %(market)s AND trade_id >= %(from)s
        AND (%(order)s::bigint IS NULL OR order_id = %(order)s)
        AND (%(start)s::bigint IS NULL OR time >= to_timestamp(%(start)s / 1000.0))
        AND (%(end)s::bigint IS NULL OR time <= to_timestamp(%(end)s / 1000.0))
"""
# The order of time and that of numbers are the same; which one is asked for decides what index and which chunks are read.
_FROM = f"{_QUERY} ORDER BY trade_id, order_id LIMIT %(limit)s"
_SINCE = f"{_QUERY} ORDER BY time, trade_id, order_id LIMIT %(limit)s"
_NEWEST = f"{_QUERY} ORDER BY time DESC, trade_id DESC, order_id DESC LIMIT %(limit)s"


class MyTradeShape(msgspec.Struct, gc=False, rename="camel"):
    """One fill of the account."""

    symbol: str
    id: int
    order_id: int
    order_list_id: int
    price: Amount
    qty: Amount
    quote_qty: Amount
    commission: Amount
    commission_asset: str
    time: Time
    is_buyer: bool
    is_maker: bool
    is_best_match: bool


async def get_my_trades(ports: Ports, call: Call) -> list[MyTradeShape]:
    """Return the account's fills, oldest first."""
    parameters = call.parameters
    market = parameters.market(ports.known_markets)
    order_id, from_id = parameters.integer("orderId"), parameters.integer("fromId")
    start, end = parameters.time_range(_DAY_MS)
    if (start is not None or end is not None) and (order_id is not None or from_id is not None):
        raise bad_combination()
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    await ports.database.catch_up(ports.markets.shard_of_account(call.account_id))
    statement = _FROM if from_id is not None else _SINCE if start is not None else _NEWEST
    rows = await ports.database.fetch(
        statement,
        {
            "account": call.account_id,
            "market": market.symbol,
            "from": from_id or 0,
            "order": order_id,
            "start": start,
            "end": end,
            "limit": limit,
        },
    )
    shapes = [_shape(row, market, call.time_scale) for row in rows]
    return shapes[::-1] if statement is _NEWEST else shapes


def _shape(row: tuple[Any, ...], market: Market, time_scale: int) -> MyTradeShape:
    return MyTradeShape(
        symbol=market.symbol,
        id=row[0],
        order_id=row[1],
        order_list_id=-1,
        price=market.format_price(row[2]),
        qty=market.format_quantity(row[3]),
        quote_qty=market.format_quote(row[4]),
        commission=market.format_amount(row[5], row[6]),
        commission_asset=row[6],
        time=row[7] * time_scale,
        is_buyer=row[8] == Side.BUY,
        is_maker=row[9] == Liquidity.MAKER,
        is_best_match=True,
    )


def _weight(parameters: Parameters) -> int:
    return 5 if "orderId" in parameters else 20


FUNCTION = Function(
    "GET",
    "/api/v3/myTrades",
    Group.ORDERS,
    "The account's trades",
    get_my_trades,
    security=Security.SIGNED,
    weight=_weight,
    parameters=(
        SYMBOL,
        ORDER_ID,
        START_TIME,
        END_TIME,
        Parameter("fromId", "From this trade on.", kind="integer"),
        limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX),
    ),
)
