"""Which state of an order the database keeps: the later one, by its version.

By status and quantity where a release before it wrote.
"""

from typing import Any

import msgspec
import psycopg
import pytest

from protocol.events import OrderAccepted, OrderClosed
from protocol.orders import (
    CloseReason,
    OrderState,
    OrderStatus,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
)
from protocol.streams import EVENTS_FIELD, events
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import ingest_all, query
from tests.support.market_log import BTC, START_MS, frame, market_map

PLACED = OrderState(
    OrderId(100), AccountId(1), "mine", BTC, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(10),
    QuantityLots(5),
    AssetUnits(0), SelfTradePrevention.NONE, OrderStatus.NEW, QuantityLots(0), AssetUnits(0), AssetUnits(50),
    TimeMs(START_MS), TimeMs(START_MS), 100, 1,
)  # fmt: skip


def changed(**fields: object) -> OrderState:
    return msgspec.structs.replace(PLACED, **fields)


def stored_after(database_url: str, *states: OrderState) -> tuple[Any, ...]:
    log = MemoryStreamLog(lambda: START_MS)
    for state in states:
        told = (
            OrderAccepted(TimeMs(START_MS), state, ())
            if state.status.is_open
            else OrderClosed(TimeMs(START_MS), state, CloseReason.CANCELED_BY_OWNER, ())
        )
        log.append(events(0), {EVENTS_FIELD: frame(told)})
        ingest_all(log, database_url, market_map())
    (row,) = query(database_url, "SELECT quantity, status, version, close_reason FROM orders")
    return row


def test_an_order_that_was_made_smaller_is_stored(database_url: str) -> None:
    """Neither its status nor what it executed grows."""
    assert stored_after(database_url, PLACED, changed(quantity=3, version=2)) == (3, 1, 2, 0)


def test_why_it_closed_is_stored(database_url: str) -> None:
    closed = changed(status=OrderStatus.EXPIRED, close_reason=CloseReason.MARKET_DELISTED, version=2)
    assert stored_after(database_url, PLACED, closed) == (5, 5, 2, 5)


@pytest.mark.parametrize("later", [changed(version=2), changed(version=2, status=OrderStatus.CANCELED)])
def test_an_earlier_state_does_not_come_back(database_url: str, later: OrderState) -> None:
    assert stored_after(database_url, later, PLACED)[2] == 2


def test_without_versions_status_and_quantity_decide_as_they_did(database_url: str) -> None:
    unversioned = changed(version=0)
    canceled = changed(version=0, status=OrderStatus.CANCELED)
    assert stored_after(database_url, unversioned, canceled, unversioned) == (5, 4, 0, 0)


def test_the_release_before_may_write_to_a_migrated_database(database_url: str) -> None:
    """Its worker copies rows without the new columns: into a table made like `orders`, and from there into
    `orders`."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TEMPORARY TABLE batch_orders (LIKE orders)")
        columns = (
            "order_id, account_id, client_order_id, market, side, order_type, time_in_force, price, "
            "quantity, "
        )
        columns += (
            "quote_quantity, self_trade_prevention, status, cum_quantity, cum_quote, accepted_time, "
            "updated_time"
        )
        connection.execute(
            f"INSERT INTO batch_orders ({columns}) VALUES (100, 1, 'mine', 'x', 1, 1, 1, 10, 5, 0, 0, 1, 0, "
            "0, now(), now())".encode()
        )
        connection.execute("INSERT INTO orders SELECT * FROM batch_orders")
    assert stored_after(database_url, changed(quantity=3, version=1)) == (3, 1, 1, 0)
