"""DELETE /api/v3/openOrders: cancel every open order in one market."""

from functions.api.errors import refusal, status_unknown
from functions.api.function import SYMBOL, Function, Group, Security
from functions.api.key_permissions import Scope
from functions.api.ports import Call, Ports
from functions.orders import order_shapes
from functions.orders.place_order import new_client_order_id
from protocol.commands import CancelAllOrders
from protocol.replies import OrdersReply, Refused


async def cancel_open_orders(ports: Ports, call: Call) -> list[order_shapes.CanceledShape]:
    """Cancel all; -2011 if there is nothing to cancel."""
    market = call.parameters.market(ports.markets)
    shards = ports.shards
    cancel_id = new_client_order_id()
    reply = await shards.submit(
        CancelAllOrders(shards.next_request_id(), shards.reply_to, call.account_id, market.symbol, cancel_id),
        call.deadline_us,
    )
    match reply:
        case OrdersReply():
            return [
                order_shapes.canceled(order, market, cancel_id, call.time_scale) for order in reply.orders
            ]
        case Refused():
            raise refusal(reply.reason)
        case _:
            raise status_unknown()


FUNCTION = Function(
    "DELETE",
    "/api/v3/openOrders",
    Group.ORDERS,
    "Cancel all open orders in a market",
    cancel_open_orders,
    security=Security.SIGNED,
    scope=Scope.TRADE,
    weighs_nothing_done=True,
    parameters=(SYMBOL,),
)
