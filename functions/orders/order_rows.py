"""Orders as the database keeps them."""

from typing import Any, Final

from protocol.orders import (
    CloseReason,
    OrderCourse,
    OrderState,
    OrderStatus,
    OrderTerms,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.units import AssetUnits

ORDER_COLUMNS: Final = """order_id, account_id, client_order_id, market, side, order_type, time_in_force, price, quantity,
    quote_quantity, self_trade_prevention, status, cum_quantity, cum_quote, 0,
    (extract(epoch from accepted_time) * 1000)::bigint, (extract(epoch from updated_time) * 1000)::bigint,
    coalesce(version, 0), close_reason, strategy_id, strategy_type, prevented_quantity, prevented_match_id"""
"""What `order_of_row` takes; funds held are known to the shard alone."""


def order_of_row(row: tuple[Any, ...]) -> OrderState:
    """Return the order that a row of ORDER_COLUMNS describes."""
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
        terms=None if row[19] is None and row[20] is None else OrderTerms(strategy_id=row[19], strategy_type=row[20]),
        course=OrderCourse(prevented_quantity=row[21], prevented_match_id=row[22]) if row[22] else None,
    )
