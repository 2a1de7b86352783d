"""POST /api/v3/order/test: the checks that placing an order does before enqueuing, and nothing more."""

from typing import TypedDict

from functions.account.fees import DiscountShape, commission_rate, no_discount
from functions.api.errors import filter_failure
from functions.api.function import Function, Group, Parameter, Security
from functions.api.idempotency import idempotency_key_of
from functions.api.key_permissions import Scope
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, Nothing
from functions.orders.order_parameters import ORDER_PARAMETERS, OrderRequest, parse_order
from protocol.orders import OrderType
from protocol.units import PriceTicks


class OrderRatesShape(TypedDict):
    """Fee rates of an order."""

    maker: Amount
    taker: Amount


class OrderCommissionShape(TypedDict):
    """The fee rates that would apply to an order."""

    standardCommissionForOrder: OrderRatesShape
    specialCommissionForOrder: OrderRatesShape
    taxCommissionForOrder: OrderRatesShape
    discount: DiscountShape


async def check_order(ports: Ports, call: Call) -> Nothing | OrderCommissionShape:
    """Check an order; answer `{}`, or the fee rates that would apply."""
    request = parse_order(call.parameters, ports.markets)
    idempotency_key_of(call)
    with_rates = call.parameters.boolean("computeCommissionRates", default=False)
    if request.order_type is OrderType.MARKET and request.quantity:
        await _check_worth(ports, request)
    if not with_rates:
        return Nothing()
    nothing = OrderRatesShape(maker=commission_rate(0), taker=commission_rate(0))
    return {
        "standardCommissionForOrder": {
            "maker": commission_rate(request.market.maker_fee_ppm),
            "taker": commission_rate(request.market.taker_fee_ppm),
        },
        "specialCommissionForOrder": nothing,
        "taxCommissionForOrder": nothing,
        "discount": no_discount(),
    }


async def _check_worth(ports: Ports, request: OrderRequest) -> None:
    """Check a MARKET order by quantity like its market's shard, at its value by the last price.

    Raises:
        ApiError: the value is less than the minimum notional. In a market that has never traded the order
            passes: only its shard can decide.
    """
    market = request.market
    (ticker,) = await ports.read_models.tickers([market.symbol])
    last = PriceTicks((ticker.last or ticker.previous_close) if ticker else 0)
    if last and market.notional(last, request.quantity) < market.notional_min:
        raise filter_failure("NOTIONAL")


def _weight(parameters: Parameters) -> int:
    return 20 if parameters.boolean("computeCommissionRates", default=False) else 1


FUNCTION = Function(
    "POST",
    "/api/v3/order/test",
    Group.ORDERS,
    "Check an order without placing it",
    check_order,
    security=Security.SIGNED,
    scope=Scope.TRADE,
    weight=_weight,
    parameters=(
        *ORDER_PARAMETERS,
        Parameter("computeCommissionRates", "Answer with the fee rates.", kind="boolean"),
    ),
)
