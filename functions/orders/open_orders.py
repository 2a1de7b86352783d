"""The open orders of an account, from its shard; shared by the functions that list orders."""

from functions.api.errors import status_unknown
from functions.api.ports import Call, Ports
from protocol.orders import OrderState
from protocol.replies import OpenOrdersQuery, OrdersReply


async def open_orders(ports: Ports, call: Call, symbol: str = "") -> tuple[OrderState, ...]:
    """Return the account's open orders in one market, or in all, oldest first."""
    shards = ports.shards
    reply = await shards.query(
        ports.markets.shard_of_account(call.account_id),
        OpenOrdersQuery(shards.next_request_id(), shards.reply_to, call.account_id, symbol),
    )
    if not isinstance(reply, OrdersReply):
        raise status_unknown()
    return reply.orders
