"""Fee rates in Binance's shapes."""

from typing import TypedDict

from functions.api.shapes import Amount
from protocol.units import format_decimal


def commission_rate(ppm: int) -> str:
    """Return parts per million as a decimal fraction."""
    return format_decimal(ppm * 100)


def basis_points(ppm: int) -> int:
    """Return parts per million as whole basis points, rounded up."""
    return -(-ppm // 100)


class DiscountShape(TypedDict):
    """A discount."""

    enabledForAccount: bool
    enabledForSymbol: bool
    discountAsset: str
    discount: Amount


def no_discount() -> DiscountShape:
    """Return the description of a discount of zero."""
    return {
        "enabledForAccount": False,
        "enabledForSymbol": False,
        "discountAsset": "BNB",
        "discount": "0.00000000",
    }
