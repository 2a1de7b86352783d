"""Three small markets on which much happens: few prices, three shared assets, odd lots, fees that never
divide.

FIG has two decimals, KIWI none, PLUM six. One lot of FIGPLUM is 100 units of FIG and costs 10 of PLUM per
tick; of KIWIPLUM 1 and 3; of FIGKIWI 7 and 7.
"""

from protocol.market import Asset, Market, MarketMap
from protocol.units import AssetUnits, PriceTicks, QuantityLots

_ONE = 10**8
_FIG, _KIWI, _PLUM = Asset("FIG", 2, 45 * 10**15), Asset("KIWI", 0, 2**62), Asset("PLUM", 6)


def _scales(base: Asset, quote: Asset) -> dict[str, int]:
    return {
        "base_scale": base.scale,
        "quote_scale": quote.scale,
        "base_supply": base.supply,
        "quote_supply": quote.supply,
    }


MARKETS = (
    Market(
        symbol="FIGPLUM",
        base="FIG",
        quote="PLUM",
        tick_size=10**3,
        lot_size=_ONE,
        price_max=PriceTicks(12),
        quantity_min=QuantityLots(2),
        quantity_max=QuantityLots(60),
        notional_min=AssetUnits(120),
        band_up_ppm=1_500_000,
        band_down_ppm=600_000,
        maker_fee_ppm=1_000,
        taker_fee_ppm=33_333,
        open_orders_max=4,
        market_slippage_ppm=250_000,
        **_scales(_FIG, _PLUM),
    ),
    Market(
        symbol="KIWIPLUM",
        base="KIWI",
        quote="PLUM",
        tick_size=300,
        lot_size=_ONE,
        price_max=PriceTicks(9),
        quantity_min=QuantityLots(1),
        quantity_max=QuantityLots(100),
        notional_min=AssetUnits(15),
        band_up_ppm=5_000_000,
        band_down_ppm=200_000,
        maker_fee_ppm=0,
        taker_fee_ppm=2_500,
        open_orders_max=5,
        matches_max=1,
        market_slippage_ppm=500_000,
        **_scales(_KIWI, _PLUM),
    ),
    Market(
        symbol="FIGKIWI",
        base="FIG",
        quote="KIWI",
        tick_size=100 * _ONE,
        lot_size=7 * _ONE // 100,
        price_max=PriceTicks(10),
        quantity_min=QuantityLots(1),
        quantity_max=QuantityLots(40),
        notional_min=AssetUnits(1),
        band_up_ppm=2_000_000,
        band_down_ppm=500_000,
        maker_fee_ppm=100_000,
        taker_fee_ppm=999_999,
        open_orders_max=200,
        matches_max=3,
        market_slippage_ppm=340_000,
        **_scales(_FIG, _KIWI),
    ),
)


def market_map(shard_count: int) -> MarketMap:
    """Return the three markets on that many shards."""
    return MarketMap.of(MARKETS, shard_count)
