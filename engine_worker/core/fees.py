"""What a trade costs each of its two parties (docs/decisions/0004-money.md)."""

from engine_worker.core.enums import MAKER
from protocol.market import Market
from protocol.orders import Liquidity
from protocol.units import PPM


def fee_of(market: Market, liquidity: Liquidity, received: int) -> int:
    """Return the fee on `received` units, in their asset; it is rounded up, in the house's favour."""
    fee_ppm = market.maker_fee_ppm if liquidity is MAKER else market.taker_fee_ppm
    return -(-received * fee_ppm // PPM)
