"""Three small markets on which much happens: few prices, three shared assets, odd lots, fees that never divide."""

from protocol.market import Market, MarketMap
from protocol.units import AssetUnits, PriceTicks, QuantityLots

_ONE = 10**8

MARKETS = (
    Market(
        symbol="FIGPLUM",
        base="FIG",
        quote="PLUM",
        tick_size=AssetUnits(10**7),
        lot_size=AssetUnits(100),
        price_max=PriceTicks(12),
        quantity_min=QuantityLots(2),
        quantity_max=QuantityLots(60),
        notional_min=AssetUnits(120),
        band_up_ppm=1_500_000,
        band_down_ppm=600_000,
        maker_fee_ppm=1_000,
        taker_fee_ppm=33_333,
        open_orders_max=4,
    ),
    Market(
        symbol="KIWIPLUM",
        base="KIWI",
        quote="PLUM",
        tick_size=AssetUnits(3 * _ONE),
        lot_size=AssetUnits(1),
        price_max=PriceTicks(9),
        quantity_min=QuantityLots(1),
        quantity_max=QuantityLots(100),
        notional_min=AssetUnits(15),
        band_up_ppm=5_000_000,
        band_down_ppm=200_000,
        maker_fee_ppm=0,
        taker_fee_ppm=2_500,
        open_orders_max=5,
    ),
    Market(
        symbol="FIGKIWI",
        base="FIG",
        quote="KIWI",
        tick_size=AssetUnits(_ONE),
        lot_size=AssetUnits(7),
        price_max=PriceTicks(10),
        quantity_min=QuantityLots(1),
        quantity_max=QuantityLots(40),
        notional_min=AssetUnits(1),
        band_up_ppm=2_000_000,
        band_down_ppm=500_000,
        maker_fee_ppm=100_000,
        taker_fee_ppm=999_999,
        open_orders_max=200,
    ),
)


def market_map(shard_count: int) -> MarketMap:
    """Return the three markets on that many shards."""
    return MarketMap.of(MARKETS, shard_count)
