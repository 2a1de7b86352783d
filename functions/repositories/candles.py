"""Candles."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from functions.market_data.klines import KlineRow, Window
from protocol.units import TimeMs


class CandleSums(NamedTuple):
    """Several candles as one: prices in ticks, volumes in lots, quote sums in quote units.

    Sums may be beyond 64 bits.
    """

    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    trade_count: int
    first_trade_id: int
    last_trade_id: int


class Candles(Protocol):
    """The candles of each market, of every interval."""

    async def klines(self, symbol: str, interval: str, window: Window, offset_ms: int = 0) -> list[KlineRow]:
        """Return what `filled` needs for a window: its candles, oldest first, and the last one before it,
        whose close goes on.

        `offset_ms` is what `grid_offset` returns.
        """
        ...

    async def sums_since(self, symbols: Sequence[str], opened: TimeMs) -> dict[str, CandleSums]:
        """Return for each market that traded since what was traded from `opened` on, which begins a
        minute.
        """
        ...
