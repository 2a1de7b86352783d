"""Candles."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from functions.market_data.klines import KlineRow, Window
from protocol.units import TimeMs


class CandleSums(NamedTuple):
    """Several candles as one: prices in ticks, volumes in lots, quote sums in quote units.

    Sums may exceed 64 bits.
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
        """Return the rows that `filled` needs for a window.

        These are its candles, oldest first, and the last candle before it, whose close continues. `offset_ms`
        is the result of `grid_offset`.
        """
        ...

    async def sums_since(self, symbols: Sequence[str], open_time: TimeMs) -> dict[str, CandleSums]:
        """Return the sums of all trades from `opened` (a whole minute) on, for each market that has any."""
        ...
