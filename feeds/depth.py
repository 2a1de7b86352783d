"""A market's book by price levels, as the shard's `DepthChanged` events tell it.

A batch's changes are collected by price first (the last one counts) and merged once, at its end. The ordered prices are a plain
list with the best one last: books change near the best, where inserting moves little.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
from operator import neg
from typing import Final, cast

from protocol.orders import Side
from protocol.units import PriceTicks, QuantityLots

LEVELS_MAX: Final = 5_000
"""Levels of each side that the read model holds."""

Levels = tuple[tuple[PriceTicks, QuantityLots], ...]
"""(price, quantity) by level."""

_NO_LEVEL: Final = (PriceTicks(0), QuantityLots(0))


class HalfBook:
    """One side of a book."""

    def __init__(self, side: Side, levels: Mapping[PriceTicks, QuantityLots]) -> None:
        self._sign = 1 if side is Side.BUY else -1
        self.levels: dict[PriceTicks, QuantityLots] = dict(levels)
        self._ordered = sorted(PriceTicks(self._sign * price) for price in self.levels)

    def merge(self, changes: Mapping[PriceTicks, QuantityLots]) -> None:
        """Set the quantity at each price; 0 removes the level."""
        levels, ordered, sign = self.levels, self._ordered, self._sign
        for price, quantity in changes.items():
            if quantity:
                if price not in levels:
                    insort(ordered, PriceTicks(sign * price))
                levels[price] = quantity
            elif levels.pop(price, None) is not None:
                del ordered[bisect_left(ordered, sign * price)]

    def best(self) -> tuple[PriceTicks, QuantityLots]:
        """Return the best price and its quantity; (0, 0) when the side is empty."""
        if not self._ordered:
            return _NO_LEVEL
        price = PriceTicks(self._sign * self._ordered[-1])
        return price, self.levels[price]

    def top(self, count: int = LEVELS_MAX) -> Levels:
        """Return up to `count` levels, best first."""
        keys = self._ordered[: -count - 1 : -1]
        prices = keys if self._sign > 0 else cast("list[PriceTicks]", list(map(neg, keys)))
        return tuple(zip(prices, map(self.levels.__getitem__, prices), strict=True))
