"""GET /api/v3/depth: the book by price levels."""

import msgspec

from functions.api.function import SYMBOL, SYMBOL_STATUS, Function, Group, limit_parameter
from functions.api.market_choice import single_market
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount
from protocol.depth import LEVELS_MAX, Levels
from protocol.market import Market

_LIMIT_DEFAULT, _LIMIT_MAX = 100, LEVELS_MAX


Level = tuple[Amount, Amount]
"""Price and quantity."""


class DepthShape(msgspec.Struct, rename="camel"):
    """Levels as (price, quantity), best first."""

    last_update_id: int
    bids: list[Level]
    asks: list[Level]


async def get_depth(ports: Ports, call: Call) -> DepthShape:
    """Return the best levels of the book."""
    market = single_market(call.parameters, ports)
    limit = call.parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    depth = await ports.read_models.depth(market.symbol, limit)
    if depth is None:
        return DepthShape(0, [], [])
    return DepthShape(depth.sequence, _levels(depth.bids, market), _levels(depth.asks, market))


def _levels(levels: Levels, market: Market) -> list[Level]:
    return [(market.format_price(price), market.format_quantity(quantity)) for price, quantity in levels]


def _weight(parameters: Parameters) -> int:
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    return next(
        weight for largest, weight in ((100, 5), (500, 25), (1000, 50), (_LIMIT_MAX, 250)) if limit <= largest
    )


FUNCTION = Function(
    "GET",
    "/api/v3/depth",
    Group.MARKET_DATA,
    "Order book",
    get_depth,
    weight=_weight,
    parameters=(SYMBOL, limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX), SYMBOL_STATUS),
)
