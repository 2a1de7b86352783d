"""The tables of orders, fills and prevented matches."""

from typing import Any, Final

from adapters.database import Database
from functions.repositories.orders import PreventedMatch, StoredFill
from protocol.orders import (
    CloseReason,
    Liquidity,
    OrderCourse,
    OrderState,
    OrderStatus,
    OrderTerms,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.units import AccountId, AssetUnits, OrderId, TimeMs

_ORDER_COLUMNS: Final = """order_id, account_id, client_order_id, market, side, order_type,
    time_in_force, price, quantity,
    quote_quantity, self_trade_prevention, status, cum_quantity, cum_quote, 0,
    (extract(epoch from accepted_time) * 1000)::bigint, (extract(epoch from updated_time) * 1000)::bigint,
    coalesce(version, 0), close_reason, strategy_id, strategy_type, prevented_quantity, prevented_match_id"""
"""The columns for `_order`; only the shard knows the held funds."""
_ORDER: Final = f"""
    SELECT {_ORDER_COLUMNS} FROM orders
    WHERE account_id = %(account)s AND market = %(market)s
        AND (%(order)s = 0 OR order_id = %(order)s) AND (%(client)s = '' OR client_order_id = %(client)s)
    ORDER BY order_id DESC LIMIT 1
"""
_ORDERS: Final = """
    account_id = %(account)s AND market = %(market)s AND order_id >= %(order)s
    AND (%(start)s::bigint IS NULL OR accepted_time >= to_timestamp(%(start)s / 1000.0))
    AND (%(end)s::bigint IS NULL OR accepted_time <= to_timestamp(%(end)s / 1000.0))
"""
# Times and numbers have the same order; sorting by time is used where a time bounds the page, so that its
# index is read.
_ORDERS_FROM: Final = f"SELECT {_ORDER_COLUMNS} FROM orders WHERE {_ORDERS} ORDER BY order_id LIMIT %(limit)s"
_ORDERS_SINCE: Final = (
    f"SELECT {_ORDER_COLUMNS} FROM orders WHERE {_ORDERS} ORDER BY accepted_time, order_id LIMIT %(limit)s"
)
_NEWEST_ORDERS: Final = (
    f"SELECT {_ORDER_COLUMNS} FROM orders WHERE {_ORDERS} ORDER BY accepted_time DESC, order_id DESC LIMIT "
    "%(limit)s"
)
_FILLS: Final = """
    SELECT trade_id, order_id, price, quantity, quote, fee, fee_asset,
    (extract(epoch from time) * 1000)::bigint,
        side, liquidity
    FROM fills
    WHERE account_id = %(account)s AND market = %(market)s AND trade_id >= %(from)s
        AND (%(order)s::bigint IS NULL OR order_id = %(order)s)
        AND (%(start)s::bigint IS NULL OR time >= to_timestamp(%(start)s / 1000.0))
        AND (%(end)s::bigint IS NULL OR time <= to_timestamp(%(end)s / 1000.0))
"""
# Times and numbers have the same order; the sort column decides which index and which chunks are read.
_FILLS_FROM: Final = f"{_FILLS} ORDER BY trade_id, order_id LIMIT %(limit)s"
_FILLS_SINCE: Final = f"{_FILLS} ORDER BY time, trade_id, order_id LIMIT %(limit)s"
_NEWEST_FILLS: Final = f"{_FILLS} ORDER BY time DESC, trade_id DESC, order_id DESC LIMIT %(limit)s"
_PREVENTED_MATCHES: Final = """
    SELECT match_id, taker_order_id, maker_order_id, mode, price, taker_quantity, maker_quantity,
        (extract(epoch from time) * 1000)::bigint
    FROM prevented_matches
    WHERE account_id = %(account)s AND market = %(market)s AND match_id >= %(from)s
        AND (%(match)s::bigint IS NULL OR match_id = %(match)s)
        AND (%(order)s::bigint IS NULL OR taker_order_id = %(order)s OR maker_order_id = %(order)s)
    ORDER BY match_id LIMIT %(limit)s
"""


class PostgresOrders:
    """Implements `functions.repositories.orders.Orders`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self, account_id: AccountId, symbol: str, order_id: OrderId, client_order_id: str
    ) -> OrderState | None:
        """Return the newest order with this number (0: any) and this client order id (empty: any)."""
        rows = await self._database.fetch(
            _ORDER, {"account": account_id, "market": symbol, "order": order_id, "client": client_order_id}
        )
        return _order(rows[0]) if rows else None

    async def page(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        from_id: int | None,
        start: TimeMs | None,
        end: TimeMs | None,
        limit: int,
    ) -> list[OrderState]:
        """Return the first `limit` orders from a number or an acceptance time on, or else the newest ones."""
        statement = (
            _ORDERS_SINCE if start is not None else _ORDERS_FROM if from_id is not None else _NEWEST_ORDERS
        )
        rows = await self._database.fetch(
            statement,
            {
                "account": account_id,
                "market": symbol,
                "order": from_id or 0,
                "start": start,
                "end": end,
                "limit": limit,
            },
        )
        orders = [_order(row) for row in rows]
        return orders[::-1] if statement is _NEWEST_ORDERS else orders

    async def fills(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        order_id: int | None,
        from_id: int | None,
        start: TimeMs | None,
        end: TimeMs | None,
        limit: int,
    ) -> list[StoredFill]:
        """Return the first `limit` fills from a trade or a time on, or else the newest ones."""
        statement = (
            _FILLS_FROM if from_id is not None else _FILLS_SINCE if start is not None else _NEWEST_FILLS
        )
        rows = await self._database.fetch(
            statement,
            {
                "account": account_id,
                "market": symbol,
                "from": from_id or 0,
                "order": order_id,
                "start": start,
                "end": end,
                "limit": limit,
            },
        )
        fills = [StoredFill._make((*row[:8], Side(row[8]), Liquidity(row[9]))) for row in rows]
        return fills[::-1] if statement is _NEWEST_FILLS else fills

    async def prevented_matches(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        match_id: int | None,
        order_id: int | None,
        from_id: int,
        limit: int,
    ) -> list[PreventedMatch]:
        """Return the first `limit` matches from a number on.

        With `match_id` only this one; with `order_id` only those of this order.
        """
        rows = await self._database.fetch(
            _PREVENTED_MATCHES,
            {
                "account": account_id,
                "market": symbol,
                "match": match_id,
                "order": order_id,
                "from": from_id,
                "limit": limit,
            },
        )
        return [PreventedMatch._make((*row[:3], SelfTradePrevention(row[3]), *row[4:])) for row in rows]


def _order(row: tuple[Any, ...]) -> OrderState:
    return OrderState(
        order_id=row[0],
        account_id=row[1],
        client_order_id=row[2],
        market=row[3],
        side=Side(row[4]),
        order_type=OrderType(row[5]),
        time_in_force=TimeInForce(row[6]),
        price=row[7],
        quantity=row[8],
        quote_quantity=row[9],
        self_trade_prevention=SelfTradePrevention(row[10]),
        status=OrderStatus(row[11]),
        cum_quantity=row[12],
        cum_quote=row[13],
        held=AssetUnits(row[14]),
        accepted_time=row[15],
        updated_time=row[16],
        version=row[17],
        close_reason=CloseReason(row[18]) if row[18] else None,
        terms=None
        if row[19] is None and row[20] is None
        else OrderTerms(strategy_id=row[19], strategy_type=row[20]),
        course=OrderCourse(prevented_quantity=row[21], prevented_match_id=row[22]) if row[22] else None,
    )
