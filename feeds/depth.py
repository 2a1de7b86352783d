"""A market's book by price levels, from the shard's `DepthChanged` events.

A batch's changes are collected by price (the last one counts) and merged once, at its end. The sorted prices
are a plain list with the best one last: books change near the best price, where inserting moves few elements.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
from operator import neg
from typing import Final, cast

from protocol import depth
from protocol.depth import Levels
from protocol.market_data import DepthDiff, DepthSnapshot
from protocol.orders import Side
from protocol.units import PriceTicks, QuantityLots

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
                # A sweep removes the best levels, one after the other.
                if ordered[-1] == sign * price:
                    ordered.pop()
                else:
                    del ordered[bisect_left(ordered, sign * price)]

    def best(self) -> tuple[PriceTicks, QuantityLots]:
        """Return the best price and its quantity; (0, 0) if the side is empty."""
        if not self._ordered:
            return _NO_LEVEL
        price = PriceTicks(self._sign * self._ordered[-1])
        return price, self.levels[price]

    def top(self, count: int) -> Levels:
        """Return up to `count` levels, best first."""
        keys = self._ordered[: -count - 1 : -1]
        prices = keys if self._sign > 0 else cast("list[PriceTicks]", list(map(neg, keys)))
        return tuple(zip(prices, map(self.levels.__getitem__, prices), strict=True))

    def is_covered_to(self, horizon: PriceTicks | None) -> bool:
        """Return whether readers of a base with this horizon have all the levels that they may ask for.

        O(log levels).
        """
        if horizon is None:
            return True
        count = len(self._ordered)
        return count - bisect_left(self._ordered, self._sign * horizon) >= min(count, depth.LEVELS_MAX)


class BaseRecord:
    """The last base of a market and the diffs after it: whether readers need a new base."""

    def __init__(self) -> None:
        self._is_written = False
        self._horizons: tuple[PriceTicks | None, PriceTicks | None] = (None, None)
        self._diffs = self._changes = 0

    def forget(self) -> None:
        """Require a new base: the stored one is unknown."""
        self._is_written = False

    def note_base(self, base: DepthSnapshot) -> None:
        """Record that `base` is written now."""
        self._is_written = True
        self._horizons = depth.horizon(base.bids), depth.horizon(base.asks)
        self._diffs = self._changes = 0

    def note_diff(self, diff: DepthDiff) -> None:
        """Record that `diff` follows."""
        self._diffs += 1
        self._changes += len(diff.bids) + len(diff.asks)

    def is_used_up(self, bids: HalfBook, asks: HalfBook) -> bool:
        """Return whether the base and its diffs have too few levels, or are too much to read."""
        return (
            not self._is_written
            or self._diffs > depth.DIFFS_AFTER_BASE_MAX
            or self._changes > depth.CHANGES_AFTER_BASE_MAX
            or not bids.is_covered_to(self._horizons[0])
            or not asks.is_covered_to(self._horizons[1])
        )
