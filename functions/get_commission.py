"""GET /api/v3/account/commission: the fee rates in one market."""

from functions.function import SYMBOL, Function, Group, Security
from functions.ports import Call, Ports
from functions.rates import commission_rate, no_discount


def _rates(maker_ppm: int, taker_ppm: int) -> dict[str, str]:
    return {
        "maker": commission_rate(maker_ppm),
        "taker": commission_rate(taker_ppm),
        "buyer": commission_rate(0),
        "seller": commission_rate(0),
    }


async def get_commission(ports: Ports, call: Call) -> object:
    """Return the fee rates."""
    market = call.parameters.market(ports.markets)
    return {
        "symbol": market.symbol,
        "standardCommission": _rates(market.maker_fee_ppm, market.taker_fee_ppm),
        "specialCommission": _rates(0, 0),
        "taxCommission": _rates(0, 0),
        "discount": no_discount(),
    }


FUNCTION = Function(
    "GET",
    "/api/v3/account/commission",
    Group.ACCOUNT,
    "Fee rates in a market",
    get_commission,
    security=Security.SIGNED,
    weight=20,
    parameters=(SYMBOL,),
)
