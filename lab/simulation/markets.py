"""Three small markets on which much happens: few prices, shared assets, fees that hardly ever divide."""

from protocol.market import Market, MarketMap
from protocol.units import AssetUnits, PriceTicks, QuantityLots

_ONE = 10**8


def _market(
    symbol: str, base: str, quote: str, tick_size: int, lot_size: int, maker_ppm: int, taker_ppm: int
) -> Market:
    return Market(
        symbol=symbol,
        base=base,
        quote=quote,
        tick_size=AssetUnits(tick_size),
        lot_size=AssetUnits(lot_size),
        price_max=PriceTicks(40),
        quantity_min=QuantityLots(1),
        quantity_max=QuantityLots(200),
        notional_min=AssetUnits(1),
        band_up_ppm=3_000_000,
        band_down_ppm=300_000,
        maker_fee_ppm=maker_ppm,
        taker_fee_ppm=taker_ppm,
        open_orders_max=4,
        matches_max=3,
        market_slippage_ppm=100_000,
    )


MARKETS = (
    _market("OAKFIR", "OAK", "FIR", _ONE, 7, 1_000, 33_333),
    _market("ELMFIR", "ELM", "FIR", 3 * _ONE, 1, 0, 2_500),
    _market("OAKELM", "OAK", "ELM", _ONE, 3, 100_000, 70_001),
)
OPEN_ORDERS_MAX = 7
"""Of one account in all markets together."""
PRICE = 20
"""About what everything costs, in ticks."""


def market_map(shard_count: int) -> MarketMap:
    """Return the markets on that many shards."""
    return MarketMap.of(MARKETS, shard_count)
