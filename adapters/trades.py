"""The table of trades."""

from typing import Any, Final

from adapters.database import Database
from functions.repositories.trades import AggregateTrade, StoredTrade, Turnover
from protocol.orders import Side
from protocol.units import TimeMs

_COLUMNS: Final = "trade_id, price, quantity, (extract(epoch from time) * 1000)::bigint, taker_side"
_FROM: Final = f"""
    SELECT {_COLUMNS} FROM trades WHERE market = %(market)s AND trade_id >= %(from)s
    ORDER BY trade_id LIMIT %(limit)s
"""
# Sorted by time, which is the same order: then the newest chunk suffices, and the others are not read.
_NEWEST: Final = f"""
    SELECT {_COLUMNS} FROM trades WHERE market = %(market)s ORDER BY time DESC, trade_id DESC LIMIT %(limit)s
"""
_BEFORE: Final = """
    SELECT trade_id, price, quantity, (extract(epoch from time) * 1000)::bigint, taker_side FROM trades
    WHERE market = %(market)s AND trade_id < %(before)s ORDER BY time DESC, trade_id DESC LIMIT %(limit)s
"""
# Ids of aggregates are consecutive and never go back in time, so one end of the page determines it.
_FIRST_AGGREGATE_FROM: Final = """
    SELECT aggregate_id, time FROM trades WHERE market = %(market)s AND aggregate_id >= %(from)s
    ORDER BY aggregate_id LIMIT 1
"""
_FIRST_AGGREGATE_SINCE: Final = """
    SELECT aggregate_id, time FROM trades WHERE market = %(market)s
    AND time >= to_timestamp(%(start)s / 1000.0)
    ORDER BY time, trade_id LIMIT 1
"""
_LAST_AGGREGATE: Final = """
    SELECT aggregate_id, time FROM trades
    WHERE market = %(market)s AND (%(end)s::bigint IS NULL OR time <= to_timestamp(%(end)s / 1000.0))
    ORDER BY time DESC, trade_id DESC LIMIT 1
"""
# An aggregate's quantity is part of one order's, which a bigint holds.
_AGGREGATES: Final = """
    SELECT aggregate_id, min(price), sum(quantity)::bigint, min(trade_id), max(trade_id),
        (extract(epoch from min(time)) * 1000)::bigint, min(taker_side)
    FROM trades WHERE market = %(market)s
"""
_AGGREGATES_AFTER: Final = f"""{_AGGREGATES}
    AND aggregate_id >= %(found)s::bigint AND aggregate_id < %(found)s::bigint + %(limit)s
    AND time >= %(time)s
    AND (%(end)s::bigint IS NULL OR time <= to_timestamp(%(end)s / 1000.0))
    GROUP BY aggregate_id ORDER BY aggregate_id
"""
_AGGREGATES_BEFORE: Final = f"""{_AGGREGATES}
    AND aggregate_id <= %(found)s::bigint AND aggregate_id > %(found)s::bigint - %(limit)s
    AND time <= %(time)s
    GROUP BY aggregate_id ORDER BY aggregate_id
"""
_TURNOVER: Final = """
    SELECT coalesce(sum(quantity), 0), coalesce(sum(quote), 0),
        (extract(epoch from max(time)) * 1000)::bigint
    FROM trades WHERE market = %(market)s AND time >= to_timestamp(%(start)s / 1000.0)
"""
_LAST_TIME: Final = """
    SELECT (extract(epoch from time) * 1000)::bigint FROM trades WHERE market = %(market)s
    ORDER BY time DESC, trade_id DESC LIMIT 1
"""


class PostgresTrades:
    """Implements `functions.repositories.trades.Trades`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def starting_at(self, symbol: str, trade_id: int, limit: int) -> list[StoredTrade]:
        """Return the first `limit` trades from an id on."""
        rows = await self._database.fetch(_FROM, {"market": symbol, "from": trade_id, "limit": limit})
        return [_trade(row) for row in rows]

    async def newest(self, symbol: str, limit: int) -> list[StoredTrade]:
        """Return the newest `limit` trades."""
        rows = await self._database.fetch(_NEWEST, {"market": symbol, "limit": limit})
        return [_trade(row) for row in reversed(rows)]

    async def newest_before(self, symbol: str, trade_id: int, limit: int) -> list[StoredTrade]:
        """Return the newest `limit` trades with a smaller id."""
        rows = await self._database.fetch(_BEFORE, {"market": symbol, "before": trade_id, "limit": limit})
        return [_trade(row) for row in reversed(rows)]

    async def aggregates(
        self, symbol: str, *, from_id: int | None, start: TimeMs | None, end: TimeMs | None, limit: int
    ) -> list[AggregateTrade]:
        """Return the first `limit` aggregate trades from an id or a time on, or else the newest ones."""
        if from_id is not None:
            edge, page = _FIRST_AGGREGATE_FROM, _AGGREGATES_AFTER
        elif start is not None:
            edge, page = _FIRST_AGGREGATE_SINCE, _AGGREGATES_AFTER
        else:
            edge, page = _LAST_AGGREGATE, _AGGREGATES_BEFORE
        values = {"market": symbol, "from": from_id, "start": start, "end": end, "limit": limit}
        edge_rows = await self._database.fetch(edge, values)
        if not edge_rows:
            return []
        rows = await self._database.fetch(page, {**values, "found": edge_rows[0][0], "time": edge_rows[0][1]})
        return [AggregateTrade._make((*row[:6], Side(row[6]))) for row in rows]

    async def turnover_since(self, symbol: str, start: int) -> Turnover:
        """Return the turnover from a time (ms) on."""
        ((quantity, quote, last_time),) = await self._database.fetch(
            _TURNOVER, {"market": symbol, "start": start}
        )
        # Sums of bigint are numeric, since they may exceed 64 bits; sums of whole numbers are whole.
        return Turnover(int(quantity), int(quote), last_time)

    async def last_time(self, symbol: str) -> TimeMs | None:
        """Return the time of the last trade; None: there was none."""
        rows = await self._database.fetch(_LAST_TIME, {"market": symbol})
        return rows[0][0] if rows else None


def _trade(row: tuple[Any, ...]) -> StoredTrade:
    trade_id, price, quantity, time, taker_side = row
    return StoredTrade(trade_id, price, quantity, time, Side(taker_side))
