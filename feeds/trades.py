"""A market's trades that have not been merged into its candles and ticker yet. Pure.

The compiled reader (feeds/fast) packs trades as bytes, and sums them without an object for each.
"""

import struct
from typing import Final, NamedTuple

from feeds import fast
from protocol.trade_sums import AnyTrade, TradeSum, fold
from protocol.units import PriceTicks, QuantityLots, TimeMs, TradeId

PACKED: Final = struct.Struct("=5q")
"""The form of a packed trade: the fields of `UnpackedTrade`, in the machine's byte order."""


class UnpackedTrade(NamedTuple):
    """The part of a trade that `fold` reads."""

    time: TimeMs
    trade_id: TradeId
    price: PriceTicks
    quantity: QuantityLots
    taker_side: int


class UnmergedTrades:
    """Trades of one market, oldest first."""

    __slots__ = ("_packed", "objects")

    def __init__(self) -> None:
        self.objects: list[AnyTrade] = []
        """The newest trades; the next one may be appended."""
        self._packed: list[bytes] = []
        """Trades that are older than all of `objects`."""

    def __bool__(self) -> bool:
        return bool(self._packed or self.objects)

    def add_packed(self, trades: bytes) -> None:
        """Add the next trades, in the form of `PACKED`, one after the other."""
        if self.objects:
            self.objects += _unpacked(trades)
        else:
            self._packed.append(trades)

    def take_sums(self, quote_per_tick_lot: int, second_min: int) -> list[tuple[int, TradeSum]]:
        """Return the sums of all trades, as `protocol.trade_sums.fold` does, and forget the trades."""
        parts, objects = self._packed, self.objects
        self._packed, self.objects = [], []
        if parts:
            packed = b"".join(parts)
            if not objects and fast.fold is not None:
                sums = fast.fold(packed, quote_per_tick_lot, second_min)
                if sums is not None:
                    return sums
            objects = [*_unpacked(packed), *objects]
        return fold(objects, quote_per_tick_lot, second_min)


def _unpacked(trades: bytes) -> list[UnpackedTrade]:
    return list(map(UnpackedTrade._make, PACKED.iter_unpack(trades)))
