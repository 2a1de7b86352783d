"""Public trades."""

from typing import NamedTuple, Protocol

from protocol.orders import Side
from protocol.units import PriceTicks, QuantityLots, TimeMs, TradeId


class StoredTrade(NamedTuple):
    """One trade."""

    trade_id: TradeId
    price: PriceTicks
    quantity: QuantityLots
    time: TimeMs
    taker_side: Side


class AggregateTrade(NamedTuple):
    """Trades of one taker at one price as one; `time` is that of the first."""

    aggregate_id: int
    price: PriceTicks
    quantity: QuantityLots
    first_trade_id: TradeId
    last_trade_id: TradeId
    time: TimeMs
    taker_side: Side


class Turnover(NamedTuple):
    """What was traded in a period: lots, and quote units; both sums may be beyond 64 bits."""

    quantity: int
    quote: int
    last_time: TimeMs | None
    """None: nothing was traded."""


class Trades(Protocol):
    """The trades of each market. Lists are oldest first."""

    async def starting_at(self, symbol: str, trade_id: int, limit: int) -> list[StoredTrade]:
        """Return the first `limit` trades from a number on."""
        ...

    async def newest(self, symbol: str, limit: int) -> list[StoredTrade]:
        """Return the last `limit` trades."""
        ...

    async def newest_before(self, symbol: str, trade_id: int, limit: int) -> list[StoredTrade]:
        """Return the last `limit` trades whose number is smaller."""
        ...

    async def aggregates(
        self, symbol: str, *, from_id: int | None, start: TimeMs | None, end: TimeMs | None, limit: int
    ) -> list[AggregateTrade]:
        """Return the first `limit` aggregate trades from a number or a time on, or without either the last
        ones; none after `end`.
        """
        ...

    async def turnover_since(self, symbol: str, start: int) -> Turnover:
        """Return what was traded from a time (ms) on."""
        ...

    async def last_time(self, symbol: str) -> TimeMs | None:
        """Return the time of the last trade; None: there was none."""
        ...
