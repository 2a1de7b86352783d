"""POST /api/v3/order/test: everything that placing an order checks before it is enqueued, and nothing more."""

from functions.function import Function, Group, Parameter, Security
from functions.idempotency import idempotency_key_of
from functions.order_request import ORDER_PARAMETERS, parse_order
from functions.parameters import Parameters
from functions.place_order import worst_price
from functions.ports import Call, Ports
from functions.rates import commission_rate, no_discount


async def check_order(ports: Ports, call: Call) -> object:
    """Check an order; answer `{}`, or the fee rates that would apply."""
    request = parse_order(call.parameters, ports.markets)
    idempotency_key_of(call)
    with_rates = call.parameters.boolean("computeCommissionRates", default=False)
    await worst_price(ports, request)
    if not with_rates:
        return {}
    nothing = {"maker": commission_rate(0), "taker": commission_rate(0)}
    return {
        "standardCommissionForOrder": {
            "maker": commission_rate(request.market.maker_fee_ppm),
            "taker": commission_rate(request.market.taker_fee_ppm),
        },
        "specialCommissionForOrder": nothing,
        "taxCommissionForOrder": nothing,
        "discount": no_discount(),
    }


def _weight(parameters: Parameters) -> int:
    return 20 if "computeCommissionRates" in parameters else 1


FUNCTION = Function(
    "POST",
    "/api/v3/order/test",
    Group.ORDERS,
    "Check an order without placing it",
    check_order,
    security=Security.SIGNED,
    weight=_weight,
    parameters=(*ORDER_PARAMETERS, Parameter("computeCommissionRates", "Answer with the fee rates.", kind="boolean")),
)
