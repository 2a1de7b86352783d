"""DELETE /api/v3/order: cancel an open order."""

from functions.api.errors import ApiError, refusal, status_unknown
from functions.api.function import (
    NEW_CLIENT_ORDER_ID,
    ORDER_ID,
    ORIG_CLIENT_ORDER_ID,
    SYMBOL,
    Function,
    Group,
    Parameter,
    Security,
)
from functions.api.key_permissions import Scope
from functions.api.parameters import require_one_of
from functions.api.ports import Call, Ports
from functions.orders import order_shapes
from functions.orders.place_order import new_client_order_id
from protocol.commands import CancelOrder
from protocol.market import Market
from protocol.orders import OrderStatus
from protocol.replies import OrderQuery, OrderReply, Refused
from protocol.units import OrderId

_RESTRICTIONS = {
    "ONLY_NEW": OrderStatus.NEW,
    "ONLY_PARTIALLY_FILLED": OrderStatus.PARTIALLY_FILLED,
}


async def cancel_order(ports: Ports, call: Call) -> order_shapes.CanceledShape:
    """Cancel an order named by number or client order id.

    `cancelRestrictions` is checked against the order's status right before the cancel is enqueued.
    """
    parameters = call.parameters
    market = parameters.market(ports.markets)
    require_one_of(parameters, "origClientOrderId", "orderId")
    order_id = OrderId(parameters.integer("orderId") or 0)
    client_order_id = parameters.client_order_id("origClientOrderId") or ""
    cancel_id = parameters.client_order_id("newClientOrderId") or new_client_order_id()
    restriction = parameters.choice("cancelRestrictions", _RESTRICTIONS, _invalid_restriction)
    shards = ports.shards
    if restriction is not None:
        # A separate step, since a cancel in the log has no condition: the order may still change between the
        # two.
        await _check_restriction(ports, call, market, order_id, client_order_id, restriction)
    reply = await shards.submit(
        CancelOrder(
            shards.next_request_id(),
            shards.reply_to,
            call.account_id,
            market.symbol,
            order_id,
            client_order_id,
            cancel_id,
        ),
        call.deadline_us,
    )
    match reply:
        case OrderReply():
            return order_shapes.canceled(reply.order, market, cancel_id, call.time_scale)
        case Refused():
            raise refusal(reply.reason)
        case _:
            raise status_unknown()


async def _check_restriction(
    ports: Ports,
    call: Call,
    market: Market,
    order_id: OrderId,
    client_order_id: str,
    restriction: OrderStatus,
) -> None:
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
    if isinstance(reply, OrderReply) and reply.order.status.is_open and reply.order.status is not restriction:
        raise ApiError(-2011, "Order was not canceled due to cancel restrictions.")


def _invalid_restriction() -> ApiError:
    return ApiError(-1145, "`cancelRestrictions` has to be either `ONLY_NEW` or `ONLY_PARTIALLY_FILLED`.")


FUNCTION = Function(
    "DELETE",
    "/api/v3/order",
    Group.ORDERS,
    "Cancel an order",
    cancel_order,
    security=Security.SIGNED,
    scope=Scope.TRADE,
    weighs_nothing_done=True,
    parameters=(
        SYMBOL,
        ORDER_ID,
        ORIG_CLIENT_ORDER_ID,
        NEW_CLIENT_ORDER_ID._replace(description="Your own id of this cancel."),
        Parameter("cancelRestrictions", "ONLY_NEW or ONLY_PARTIALLY_FILLED.", choices=tuple(_RESTRICTIONS)),
    ),
)
