"""GET /api/v3/myPreventedMatches: trades prevented by self-trade prevention, from the database."""

import msgspec
from msgspec import UNSET, UnsetType

from functions.api.errors import bad_combination, mandatory_missing
from functions.api.function import ORDER_ID, SYMBOL, Function, Group, Parameter, Security, limit_parameter
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, PreventionName, Time
from functions.repositories.orders import PreventedMatch
from protocol.market import Market
from protocol.units import QuantityLots

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_NO_TRADE_GROUP = -1


class PreventedMatchShape(msgspec.Struct, gc=False, rename="camel"):
    """A prevented trade. A quantity is present if that order was ended."""

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
    """Return one match (`preventedMatchId`), or those of an order from `fromPreventedMatchId` on.

    They are oldest first.
    """
    parameters = call.parameters
    market = parameters.market(ports.known_markets)
    match_id, order_id = parameters.integer("preventedMatchId"), parameters.integer("orderId")
    from_id = parameters.integer("fromPreventedMatchId")
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    if match_id is None and order_id is None:
        raise bad_combination() if from_id is not None else mandatory_missing("orderId")
    if match_id is not None and (order_id is not None or from_id is not None or "limit" in parameters):
        raise bad_combination()
    await ports.ingestion.catch_up(ports.markets.shard_of_account(call.account_id))
    matches = await ports.orders.prevented_matches(
        call.account_id,
        market.symbol,
        match_id=match_id,
        order_id=order_id,
        from_id=from_id or 0,
        limit=limit,
    )
    return [_shape(match, market, call.time_scale) for match in matches]


def _shape(match: PreventedMatch, market: Market, time_scale: int) -> PreventedMatchShape:
    return PreventedMatchShape(
        symbol=market.symbol,
        prevented_match_id=match.match_id,
        taker_order_id=match.taker_order_id,
        maker_symbol=market.symbol,
        maker_order_id=match.maker_order_id,
        trade_group_id=_NO_TRADE_GROUP,
        self_trade_prevention_mode=match.mode.name,
        price=market.format_price(match.price),
        transact_time=match.time * time_scale,
        taker_prevented_quantity=_quantity(match.taker_quantity, market),
        maker_prevented_quantity=_quantity(match.maker_quantity, market),
    )


def _quantity(lots: QuantityLots, market: Market) -> str | UnsetType:
    return market.format_quantity(lots) if lots else UNSET


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
