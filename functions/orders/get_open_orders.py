"""GET /api/v3/openOrders."""

from functions.api.errors import unavailable
from functions.api.function import OPTIONAL_SYMBOL, Function, Group, Security
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.orders.open_orders import open_orders
from functions.orders.order_shapes import OrderShape, order_shape


async def get_open_orders(ports: Ports, call: Call) -> list[OrderShape]:
    """Return the account's open orders in one market, or in all."""
    market = call.parameters.optional_market(ports.known_markets)
    orders = await open_orders(ports, call, market.symbol if market else "")
    markets = ports.known_markets
    if any(order.market not in markets.by_symbol for order in orders):
        raise unavailable()  # its shard has listed the market a moment ago
    return [order_shape(order, markets.by_symbol[order.market], call.time_scale) for order in orders]


def _weight(parameters: Parameters) -> int:
    return 6 if "symbol" in parameters else 80


FUNCTION = Function(
    "GET",
    "/api/v3/openOrders",
    Group.ORDERS,
    "Open orders",
    get_open_orders,
    security=Security.SIGNED,
    weight=_weight,
    parameters=(OPTIONAL_SYMBOL,),
)
