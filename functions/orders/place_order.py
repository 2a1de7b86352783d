"""POST /api/v3/order: check the order, enqueue it at the account's shard, and answer with its outcome."""

from typing import Final

from functions.account.get_account import account_funds
from functions.api.errors import STATUS_UNKNOWN, ApiError, refusal, status_unknown
from functions.api.function import Function, Group, Security
from functions.api.idempotency import idempotency_key_of, name_of_key
from functions.api.key_permissions import Scope
from functions.api.ports import Call, Ports
from functions.api.rate_limits import too_many_orders
from functions.orders import order_shapes
from functions.orders.order_parameters import (
    ORDER_PARAMETERS,
    OrderRequest,
    ResponseType,
    estimated_bound,
    parse_order,
)
from protocol.commands import PlaceOrder
from protocol.orders import OrderType, RejectReason, Side
from protocol.replies import OrderReply, Refused
from protocol.units import PriceTicks
from runtime.unique_names import UniqueNames

_names: Final = UniqueNames()


def new_client_order_id() -> str:
    """Return a client order id for an order without one: this process's random prefix and a number."""
    return _names.next()


async def price_of(ports: Ports, request: OrderRequest) -> PriceTicks:
    """Return the command's price: the order's limit, or the estimated maximum of a MARKET BUY by quantity.

    See `PlaceOrder`.
    """
    if request.order_type is not OrderType.MARKET or request.side is Side.SELL or request.quote_quantity:
        return request.price
    try:
        (ticker,) = await ports.read_models.book_tickers([request.market.symbol])
    except ApiError:
        ticker = None  # the cache is unreachable: for a moment the order holds more than it needs
    return estimated_bound(request, ticker)


async def place_order(
    ports: Ports, call: Call
) -> order_shapes.FullShape | order_shapes.ResultShape | order_shapes.AckShape:
    """Place an order; answer in the requested shape."""
    request = parse_order(call.parameters, ports.markets)
    key = idempotency_key_of(call)
    price = request.price if request.price else await price_of(ports, request)
    # Counted before it is sent, so that orders in flight cannot exceed the limit together; a malformed order
    # was refused before and does not count.
    undecided = ports.order_counts.count_order(call.account_id, call.now)
    if undecided is not None:
        await undecided
    try:
        reply = await ports.shards.submit(
            PlaceOrder(
                ports.shards.next_request_id(),
                ports.shards.reply_to,
                call.account_id,
                request.client_order_id or (name_of_key(key) if key else new_client_order_id()),
                request.market.symbol,
                request.side,
                request.order_type,
                request.time_in_force,
                price,
                request.quantity,
                request.quote_quantity,
                request.self_trade_prevention,
                idempotency_key=key,
                terms=request.terms,
                bound_by_book=request.order_type is OrderType.MARKET,
            ),
            call.deadline_us,
        )
    except ApiError as error:
        # An order without an answer may still be executed, so it stays counted.
        if error.code != STATUS_UNKNOWN:
            ports.order_counts.forgive_order(call.account_id, call.now)
        raise
    match reply:
        case OrderReply():
            # The limit is one of unfilled orders. Later fills are subtracted by the feeds
            # (docs/decisions/0037).
            if reply.fills:
                ports.order_counts.forgive_order(call.account_id, call.now)
            return _shape_of(reply, request, call.time_scale)
        case Refused():
            ports.order_counts.forgive_order(call.account_id, call.now)
            if reply.reason is RejectReason.TOO_MANY_ORDERS:
                raise await _over_own_limits(ports, call)
            raise refusal(reply.reason)
        case _:
            raise status_unknown()


def _shape_of(
    reply: OrderReply, request: OrderRequest, time_scale: int
) -> order_shapes.FullShape | order_shapes.ResultShape | order_shapes.AckShape:
    if request.response_type is ResponseType.FULL:
        return order_shapes.full(reply.order, reply.fills, request.market, time_scale, reply.prevented)
    if request.response_type is ResponseType.RESULT:
        return order_shapes.result(reply.order, request.market, time_scale, reply.prevented)
    return order_shapes.ack(reply.order, time_scale)


async def _over_own_limits(ports: Ports, call: Call) -> ApiError:
    """Return the refusal of an order by the limits that an operator has set for its account."""
    try:
        limits = (await account_funds(ports, call)).limits
    except ApiError:
        limits = None  # the shard answered a moment ago, and does not answer now
    if limits is None or not (limits.orders_10s_max or limits.orders_1d_max):
        return refusal(RejectReason.TOO_MANY_ORDERS)
    return too_many_orders(limits, ports.order_counts.order_counts(call.account_id, call.now), call.now)


FUNCTION = Function(
    "POST",
    "/api/v3/order",
    Group.ORDERS,
    "Place an order",
    place_order,
    security=Security.SIGNED,
    scope=Scope.TRADE,
    parameters=ORDER_PARAMETERS,
    places_order=True,
    weighs_nothing_done=True,
    takes_idempotency_key=True,
)
