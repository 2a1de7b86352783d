"""GET /api/v3/order: one order, from its shard until the database has it, then from the database."""

from functions.api.errors import client_order_id_invalid, order_does_not_exist, status_unknown
from functions.api.function import ORDER_ID, ORIG_CLIENT_ORDER_ID, SYMBOL, Function, Group, Security
from functions.api.parameters import require_one_of
from functions.api.ports import Call, Ports
from functions.orders.order_shapes import OrderShape, order_shape
from protocol.orders import OrderStatus, RejectReason
from protocol.replies import OrderQuery, OrderReply, Refused
from protocol.units import OrderId


async def get_order(ports: Ports, call: Call) -> OrderShape:
    """Return an order by number, or the newest with a client order id; -2013 if there is none.

    With both, the number selects the order; -2039 if its client order id is another one.
    -1007 while the database lags so far behind that only it might know the order.
    """
    parameters = call.parameters
    market = parameters.market(ports.known_markets)
    require_one_of(parameters, "origClientOrderId", "orderId")
    order_id = OrderId(parameters.integer("orderId") or 0)
    expected_id = parameters.client_order_id("origClientOrderId") or ""
    if not order_id and not expected_id:
        raise order_does_not_exist()
    client_order_id = "" if order_id else expected_id
    shards = ports.shards
    reply = await shards.query(
        ports.markets.shard_of_account(call.account_id),
        OrderQuery(
            shards.next_request_id(),
            shards.reply_to,
            call.account_id,
            market.symbol,
            order_id,
            client_order_id,
        ),
    )
    match reply:
        case OrderReply() if reply.order.status is not OrderStatus.IN_FLIGHT:
            order = reply.order
        case Refused():
            # The shard has read the database's position before it answered, so orders that it does not have
            # are in the database.
            is_known = reply.reason is not RejectReason.ORDER_NOT_REMEMBERED
            if not is_known and client_order_id:
                raise status_unknown()  # the database may have only an older order with this id
            stored = await ports.orders.find(call.account_id, market.symbol, order_id, client_order_id)
            if not is_known and (stored is None or stored.status.is_open):
                raise status_unknown()  # it may have been closed in the meantime
            if stored is None:
                raise order_does_not_exist()
            order = stored
        case _:  # also while the market's shard has not answered about the order yet
            raise status_unknown()
    if expected_id and order.client_order_id != expected_id:
        raise client_order_id_invalid()
    return order_shape(order, market, call.time_scale)


FUNCTION = Function(
    "GET",
    "/api/v3/order",
    Group.ORDERS,
    "One order",
    get_order,
    security=Security.SIGNED,
    weight=4,
    parameters=(SYMBOL, ORDER_ID, ORIG_CLIENT_ORDER_ID),
)
