"""The value of funds in another asset, by last prices. Pure."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from protocol.market import Market, MarketMap
from protocol.units import UNITS_PER_ASSET, format_decimal

Prices = Mapping[str, int]
"""Market -> its last price in ticks; 0 if it has never traded."""
_NOTHING: Final = Fraction(0)


def worth_in(asset: str, amount: Fraction, target: str, markets: MarketMap, prices: Prices) -> Fraction:
    """Return the value of `amount` of `asset` in `target`, by a market of both, or by a common quote asset.

    0 if there is none.
    """
    rate = _rate(asset, target, markets, prices)
    if rate is None:
        between = (market.quote for market in markets.markets if market.base == asset)
        for quote in between:
            first, second = _rate(asset, quote, markets, prices), _rate(quote, target, markets, prices)
            if first is not None and second is not None:
                rate = first * second
                break
    return _NOTHING if rate is None else amount * rate


def shown_worth(worth: Fraction) -> str:
    """Return a value with eight decimals, rounded down."""
    return format_decimal(worth * UNITS_PER_ASSET // 1)


def _rate(asset: str, target: str, markets: MarketMap, prices: Prices) -> Fraction | None:
    """Return the price of one whole `asset` in `target`; None: no market has one."""
    if asset == target:
        return Fraction(1)
    for market in markets.markets:
        price = _price(market, prices)
        if not price:
            continue
        if (market.base, market.quote) == (asset, target):
            return price
        if (market.base, market.quote) == (target, asset):
            return 1 / price
    return None


def _price(market: Market, prices: Prices) -> Fraction:
    return Fraction(prices.get(market.symbol, 0) * market.tick_size, UNITS_PER_ASSET)
