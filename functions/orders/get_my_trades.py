"""GET /api/v3/myTrades: the account's fills in one market, from the database."""

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
from functions.repositories.orders import StoredFill
from protocol.market import Market
from protocol.orders import Liquidity, Side

_DAY_MS = 86_400_000
_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000


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
    await ports.ingestion.catch_up(ports.markets.shard_of_account(call.account_id))
    fills = await ports.orders.fills(
        call.account_id, market.symbol, order_id=order_id, from_id=from_id, start=start, end=end, limit=limit
    )
    return [_shape(fill, market, call.time_scale) for fill in fills]


def _shape(fill: StoredFill, market: Market, time_scale: int) -> MyTradeShape:
    return MyTradeShape(
        symbol=market.symbol,
        id=fill.trade_id,
        order_id=fill.order_id,
        order_list_id=-1,
        price=market.format_price(fill.price),
        qty=market.format_quantity(fill.quantity),
        quote_qty=market.format_quote(fill.quote),
        commission=market.format_amount(fill.fee, fill.fee_asset),
        commission_asset=fill.fee_asset,
        time=fill.time * time_scale,
        is_buyer=fill.side is Side.BUY,
        is_maker=fill.liquidity is Liquidity.MAKER,
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
