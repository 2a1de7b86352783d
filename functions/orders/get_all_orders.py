"""GET /api/v3/allOrders: history from the database, merged with the open orders of the shard."""

from functions.api.function import (
    END_TIME,
    ORDER_ID,
    START_TIME,
    SYMBOL,
    Function,
    Group,
    Security,
    limit_parameter,
)
from functions.api.ports import Call, Ports
from functions.orders.open_orders import open_orders
from functions.orders.order_shapes import OrderShape, order_shape
from protocol.orders import OrderState
from protocol.units import OrderId, TimeMs

_DAY_MS = 86_400_000
_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000


async def get_all_orders(ports: Ports, call: Call) -> list[OrderShape]:
    """Return orders of any status, oldest first."""
    parameters = call.parameters
    market = parameters.market(ports.known_markets)
    order_id = parameters.integer("orderId")
    start, end = parameters.time_range(_DAY_MS)
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    open_now = await open_orders(ports, call, market.symbol)
    await ports.ingestion.catch_up(ports.markets.shard_of_account(call.account_id))
    history = await ports.orders.page(
        call.account_id, market.symbol, from_id=order_id, start=start, end=end, limit=limit
    )
    wanted = [order for order in open_now if _is_wanted(order, OrderId(order_id or 0), start, end)]
    orders = overlay(history, wanted)
    oldest_first = order_id is not None or start is not None
    page = orders[:limit] if oldest_first else orders[-limit:]
    return [order_shape(order, market, call.time_scale) for order in page]


def overlay(history: list[OrderState], open_now: list[OrderState]) -> list[OrderState]:
    """Merge both, each order once and by number; if both have an order, the later state."""
    orders = {order.order_id: order for order in history}
    for order in open_now:
        stored = orders.get(order.order_id)
        if stored is None or (stored.version, stored.cum_quantity) < (order.version, order.cum_quantity):
            orders[order.order_id] = order
    return [orders[order_id] for order_id in sorted(orders)]


def _is_wanted(order: OrderState, from_id: OrderId, start: TimeMs | None, end: TimeMs | None) -> bool:
    return (
        order.order_id >= from_id
        and (start is None or order.accepted_time >= start)
        and (end is None or order.accepted_time <= end)
    )


FUNCTION = Function(
    "GET",
    "/api/v3/allOrders",
    Group.ORDERS,
    "Orders of any status",
    get_all_orders,
    security=Security.SIGNED,
    weight=20,
    parameters=(SYMBOL, ORDER_ID, START_TIME, END_TIME, limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX)),
)
