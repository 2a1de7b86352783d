"""The extension that engine_worker/core_fast/build.py makes of heads.pyx."""

from typing import Final

import msgspec

from protocol.trade_sums import TradeSum
from protocol.units import AccountId, PriceTicks, QuantityLots, Sequence, TimeMs

SOURCES_HASH: Final[str]

class MarketHeads:
    """The events of one market in a frame. Their sequence is contiguous."""

    market: Final[str]
    trade_frames: Final[list[msgspec.Raw]]
    """The bytes of each trade."""
    bid_changes: Final[dict[PriceTicks, QuantityLots]]
    ask_changes: Final[dict[PriceTicks, QuantityLots]]
    @property
    def trades(self) -> bytes:
        """The trades, in the form of feeds/trades.py."""

    @property
    def first_sequence(self) -> Sequence: ...
    @property
    def last_sequence(self) -> Sequence: ...
    @property
    def time(self) -> TimeMs:
        """The time of the last event."""

AccountEvents = tuple[AccountId, int, bytes]
"""(account, number of its events, their encodings, concatenated)."""
FirstFills = tuple[AccountId, TimeMs, int, tuple[int, ...]]
"""The first fills of an account's resting orders at one time: (account, time, orders, untold).

`untold` has, for each of `ORDER_WINDOWS_MS`, how many of the orders may not be in the count yet.
"""
FrameHeads = tuple[int, TimeMs, list[MarketHeads], list[AccountEvents], list[FirstFills]]
"""(number of events, time of the last one or 0, markets, accounts, first fills).

Markets, accounts and first fills are in order of first appearance.
"""

def read(frame: bytes) -> FrameHeads | None:
    """Return the contents of an event frame.

    None: the frame contains something unusual, and feeds/frames.py decides about it.
    """

def fold(trades: bytes, quote_per_tick_lot: int, second_min: int) -> list[tuple[int, TradeSum]] | None:
    """Return the sums of packed trades, as `protocol.trade_sums.fold` does; None: one exceeds 64 bits."""
