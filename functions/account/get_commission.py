"""GET /api/v3/account/commission: the fee rates in one market."""

from typing import TypedDict

from functions.account.fees import DiscountShape, commission_rate, no_discount
from functions.account.get_account import RatesShape
from functions.api.function import SYMBOL, Function, Group, Security
from functions.api.ports import Call, Ports


class CommissionShape(TypedDict):
    """The fee rates of a market, for the account."""

    symbol: str
    standardCommission: RatesShape
    specialCommission: RatesShape
    taxCommission: RatesShape
    discount: DiscountShape


def _rates(maker_ppm: int, taker_ppm: int) -> RatesShape:
    nothing = commission_rate(0)
    return RatesShape(commission_rate(maker_ppm), commission_rate(taker_ppm), nothing, nothing)


async def get_commission(ports: Ports, call: Call) -> CommissionShape:
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
