"""POST /api/v3/order: check the order, enqueue it at the account's shard, answer with what became of it."""

import itertools
import secrets
from typing import Final

from functions import order_shapes
from functions.errors import FILTER_FAILURE, STATUS_UNKNOWN, ApiError, filter_failure, refusal, status_unknown
from functions.function import Function, Group, Security
from functions.idempotency import idempotency_key_of, name_of_key
from functions.order_request import ORDER_PARAMETERS, OrderRequest, ResponseType, parse_order, protective_price
from functions.ports import Call, Ports
from protocol.commands import PlaceOrder
from protocol.orders import OrderType, RejectReason
from protocol.replies import OrderReply, Refused
from protocol.units import PriceTicks

_NO_PRICE: Final = PriceTicks(0)
_ID_PREFIX: Final = secrets.token_urlsafe(12)
_id_numbers = itertools.count(1)


def new_client_order_id() -> str:
    """Return a client order id for an order that came without one: this process's random prefix and a number."""
    return f"{_ID_PREFIX}{next(_id_numbers):x}"


async def worst_price(ports: Ports, request: OrderRequest) -> PriceTicks:
    """Return the order's limit; for a MARKET order the protective price, from best bid and ask now."""
    if request.order_type is not OrderType.MARKET:
        return request.price
    (ticker,) = await ports.read_models.book_tickers([request.market.symbol])
    return protective_price(request, ticker, ports.settings.market_slippage_ppm)


async def place_order(ports: Ports, call: Call) -> object:
    """Place an order; answer in the shape asked for."""
    request = parse_order(call.parameters, ports.markets)
    key = idempotency_key_of(call)
    try:
        price = request.price if request.price else await worst_price(ports, request)
    except ApiError as error:
        if not key or error.code != FILTER_FAILURE:
            raise
        # An earlier request with the key may have met a better price; only the shard knows. A new one it refuses for this price.
        price = _NO_PRICE
    ports.order_counts.count_order(call.account_id, call.now)
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
            ),
            call.deadline_us,
        )
    except ApiError as error:
        if error.code != STATUS_UNKNOWN:
            ports.order_counts.forgive_order(call.account_id, call.now)
        raise
    match reply:
        case OrderReply():
            if reply.fills:
                ports.order_counts.forgive_order(call.account_id, call.now)
            if request.response_type is ResponseType.FULL:
                return order_shapes.full(reply.order, reply.fills, request.market, call.time_scale)
            if request.response_type is ResponseType.RESULT:
                return order_shapes.result(reply.order, request.market, call.time_scale)
            return order_shapes.ack(reply.order, call.time_scale)
        case Refused():
            ports.order_counts.forgive_order(call.account_id, call.now)
            if request.order_type is OrderType.MARKET and reply.reason is RejectReason.PRICE_OUT_OF_RANGE:
                raise filter_failure("NOTIONAL")
            raise refusal(reply.reason)
        case _:
            raise status_unknown()


FUNCTION = Function(
    "POST",
    "/api/v3/order",
    Group.ORDERS,
    "Place an order",
    place_order,
    security=Security.SIGNED,
    parameters=ORDER_PARAMETERS,
    places_order=True,
    takes_idempotency_key=True,
    answer=order_shapes.FullShape,  # the default; RESULT and ACK have less
)
