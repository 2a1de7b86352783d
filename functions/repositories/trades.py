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
    """Trades of one taker at one price, aggregated; `time` is that of the first."""

    aggregate_id: int
    price: PriceTicks
    quantity: QuantityLots
    first_trade_id: TradeId
    last_trade_id: TradeId
    time: TimeMs
    taker_side: Side


class Turnover(NamedTuple):
    """The turnover of a period in lots and in quote units; both sums may exceed 64 bits."""

    quantity: int
    quote: int
    last_time: TimeMs | None
    """None: there was no trade."""


class Trades(Protocol):
    """The trades of each market. Lists are oldest first."""

    async def starting_at(self, symbol: str, trade_id: int, limit: int) -> list[StoredTrade]:
        """Return the first `limit` trades from an id on."""
        ...

    async def newest(self, symbol: str, limit: int) -> list[StoredTrade]:
        """Return the newest `limit` trades."""
        ...

    async def newest_before(self, symbol: str, trade_id: int, limit: int) -> list[StoredTrade]:
        """Return the newest `limit` trades with a smaller id."""
        ...

    async def aggregates(
        self, symbol: str, *, from_id: int | None, start: TimeMs | None, end: TimeMs | None, limit: int
    ) -> list[AggregateTrade]:
        """Return the first `limit` aggregate trades from an id or a time on, or else the newest ones.

        Only those up to `end`.
        """
        ...

    async def turnover_since(self, symbol: str, start: int) -> Turnover:
        """Return the turnover from a time (ms) on."""
        ...

    async def last_time(self, symbol: str) -> TimeMs | None:
        """Return the time of the last trade; None: there was none."""
        ...
