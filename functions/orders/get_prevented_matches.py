"""GET /api/v3/myPreventedMatches: trades with oneself that self-trade prevention did not let happen, from the database."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from functions.api.errors import bad_combination, mandatory_missing
from functions.api.function import ORDER_ID, SYMBOL, Function, Group, Parameter, Security, limit_parameter
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, PreventionName, Time
from protocol.market import Market
from protocol.orders import SelfTradePrevention
from protocol.units import QuantityLots

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_NO_TRADE_GROUP = -1
_STATEMENT = """
    SELECT match_id, taker_order_id, maker_order_id, mode, price, taker_quantity, maker_quantity,
        (extract(epoch from time) * 1000)::bigint
    FROM prevented_matches
    WHERE account_id = %(account)s AND market = %(market)s AND match_id >= %(from)s
        AND (%(match)s::bigint IS NULL OR match_id = %(match)s)
        AND (%(order)s::bigint IS NULL OR taker_order_id = %(order)s OR maker_order_id = %(order)s)
    ORDER BY match_id LIMIT %(limit)s
"""


class PreventedMatchShape(msgspec.Struct, gc=False, rename="camel"):
    """One of them. A quantity is there if that order was ended."""

    symbol: str
    prevented_match_id: int
    taker_order_id: int
    maker_symbol: str
    maker_order_id: int
    trade_group_id: int
    self_trade_prevention_mode: PreventionName
    price: Amount
    transact_time: Time
    taker_prevented_quantity: Amount | UnsetType = UNSET
    maker_prevented_quantity: Amount | UnsetType = UNSET


async def get_prevented_matches(ports: Ports, call: Call) -> list[PreventedMatchShape]:
    """Return one match (`preventedMatchId`), or those of an order from `fromPreventedMatchId` on, oldest first."""
    parameters = call.parameters
    market = parameters.market(ports.known_markets)
    match_id, order_id = parameters.integer("preventedMatchId"), parameters.integer("orderId")
    from_id = parameters.integer("fromPreventedMatchId")
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    if match_id is None and order_id is None:
        raise bad_combination() if from_id is not None else mandatory_missing("orderId")
    if match_id is not None and (order_id is not None or from_id is not None or "limit" in parameters):
        raise bad_combination()
    await ports.database.catch_up(ports.markets.shard_of_account(call.account_id))
    rows = await ports.database.fetch(
        _STATEMENT,
        {
            "account": call.account_id,
            "market": market.symbol,
            "match": match_id,
            "order": order_id,
            "from": from_id or 0,
            "limit": limit,
        },
    )
    return [_shape(row, market, call.time_scale) for row in rows]


def _shape(row: tuple[Any, ...], market: Market, time_scale: int) -> PreventedMatchShape:
    match_id, taker_order_id, maker_order_id, mode, price, taker_quantity, maker_quantity, time = row
    return PreventedMatchShape(
        symbol=market.symbol,
        prevented_match_id=match_id,
        taker_order_id=taker_order_id,
        maker_symbol=market.symbol,
        maker_order_id=maker_order_id,
        trade_group_id=_NO_TRADE_GROUP,
        self_trade_prevention_mode=SelfTradePrevention(mode).name,
        price=market.format_price(price),
        transact_time=time * time_scale,
        taker_prevented_quantity=_quantity(taker_quantity, market),
        maker_prevented_quantity=_quantity(maker_quantity, market),
    )


def _quantity(lots: int, market: Market) -> str | UnsetType:
    return market.format_quantity(QuantityLots(lots)) if lots else UNSET


def _weight(parameters: Parameters) -> int:
    return 20 if "orderId" in parameters else 2


FUNCTION = Function(
    "GET",
    "/api/v3/myPreventedMatches",
    Group.ORDERS,
    "Trades with oneself that were prevented",
    get_prevented_matches,
    security=Security.SIGNED,
    weight=_weight,
    parameters=(
        SYMBOL,
        Parameter("preventedMatchId", "This one.", kind="integer"),
        ORDER_ID,
        Parameter("fromPreventedMatchId", "From this one on; with `orderId`.", kind="integer"),
        limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX),
    ),
)
