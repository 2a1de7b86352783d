"""The repositories that unit tests of functions have in memory answer as those of the database."""

import random
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from adapters.database import PostgresDatabase
from adapters.orders import PostgresOrders
from adapters.trades import PostgresTrades
from functions.repositories.orders import PreventedMatch, StoredFill
from protocol.events import MatchPrevented, OrderAccepted, OrderClosed, OrderFilled, TradeExecuted
from protocol.orders import OrderState
from protocol.units import AccountId, AssetUnits, OrderId, TimeMs
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import ingest_all
from tests.support.market_log import BTC, market_map
from tests.support.shard_log import FIRST_ACCOUNT, ShardLog
from tests.unit.functions.repositories import MemoryOrders, MemoryTrades

T0: Final = 1_795_392_000_000
COMMANDS: Final = 1_200
QUESTIONS: Final = 150


@pytest.fixture(scope="module")
def log() -> ShardLog:
    log = ShardLog(7, market_map(), T0, accounts=3)
    log.trade(COMMANDS, gap_ms=3)
    return log


@pytest.fixture
async def database(database_url: str, log: ShardLog) -> AsyncIterator[PostgresDatabase]:
    stream_log = MemoryStreamLog(lambda: T0)
    log.append_to(stream_log)
    ingest_all(stream_log, database_url, log.market_map)
    database = PostgresDatabase(database_url)
    await database.start()
    yield database
    await database.close()


def some(dice: random.Random, value: int) -> int | None:
    return dice.choice((None, value, value + 1, value - 1, 0))


def some_time(dice: random.Random, time: int) -> TimeMs | None:
    return dice.choice((None, TimeMs(time), TimeMs(time + 1), TimeMs(time - 1)))


async def test_trades(database: PostgresDatabase, log: ShardLog) -> None:
    dice, real = random.Random(1), PostgresTrades(database)
    trades = [each for each in log.events() if isinstance(each, TradeExecuted)]
    memory = MemoryTrades(trades)
    assert len([each for each in trades if each.market == BTC]) > 100
    assert len({each.aggregate_id for each in trades}) < len(trades), "some aggregates have several trades"
    for _ in range(QUESTIONS):
        one, limit = dice.choice(trades), dice.choice((1, 2, 7, 1000))
        symbol, number = one.market, one.trade_id + dice.randint(-1, 1)
        assert await real.starting_at(symbol, number, limit) == await memory.starting_at(
            symbol, number, limit
        )
        assert await real.newest_before(symbol, number, limit) == await memory.newest_before(
            symbol, number, limit
        )
        assert await real.newest(symbol, limit) == await memory.newest(symbol, limit)
        assert await real.turnover_since(symbol, one.time) == await memory.turnover_since(symbol, one.time)
        start, end = some_time(dice, one.time), some_time(dice, one.time + dice.randrange(500))
        from_id = one.aggregate_id if start is None and end is None and dice.random() < 0.5 else None
        asked: dict[str, Any] = {"from_id": from_id, "start": start, "end": end, "limit": limit}
        assert await real.aggregates(symbol, **asked) == await memory.aggregates(symbol, **asked), asked
    for symbol in (BTC, "NONE"):
        assert await real.last_time(symbol) == await memory.last_time(symbol)
        assert await real.turnover_since(BTC, T0 * 2) == await memory.turnover_since(BTC, T0 * 2)


def kept_by(account_id: AccountId, log: ShardLog) -> MemoryOrders:
    """Return what the account has done in BTCUSDT."""
    orders: dict[OrderId, OrderState] = {}
    fills: list[StoredFill] = []
    prevented: list[PreventedMatch] = []
    for event in log.events():
        match event:
            case MatchPrevented(market="BTCUSDT") if event.account_id == account_id:
                prevented.append(prevented_match(event))
            case OrderAccepted(order=order) | OrderFilled(order=order) | OrderClosed(order=order):
                if (order.account_id, order.market) == (account_id, BTC):
                    orders[order.order_id] = msgspec.structs.replace(
                        order, held=AssetUnits(0), execution_id=0
                    )
                    fills += [stored_fill(event)] if isinstance(event, OrderFilled) else []
    return MemoryOrders(
        [orders[each] for each in sorted(orders)], sorted(fills, key=lambda each: each[:2]), prevented
    )


def stored_fill(event: OrderFilled) -> StoredFill:
    return StoredFill(
        event.trade_id, event.order.order_id, event.price, event.quantity, event.quote, event.fee,
        event.fee_asset, event.time,
        event.order.side, event.liquidity,
    )  # fmt: skip


def prevented_match(event: MatchPrevented) -> PreventedMatch:
    return PreventedMatch(
        event.match_id, event.taker_order_id, event.maker_order_id, event.mode, event.price,
        event.taker_quantity,
        event.maker_quantity, event.time,
    )  # fmt: skip


@pytest.mark.parametrize("account", range(3))
async def test_orders(database: PostgresDatabase, log: ShardLog, account: int) -> None:
    account_id, dice, real = (
        AccountId(FIRST_ACCOUNT + account),
        random.Random(account),
        PostgresOrders(database),
    )
    memory = kept_by(account_id, log)
    every_fill = await memory.fills(
        account_id, BTC, order_id=None, from_id=0, start=None, end=None, limit=9_999
    )
    every_match = await memory.prevented_matches(
        account_id, BTC, match_id=None, order_id=None, from_id=0, limit=9_999
    )
    for _ in range(QUESTIONS):
        one, limit = dice.choice(memory.orders), dice.choice((1, 2, 7, 1000))
        for number, name in ((one.order_id, ""), (OrderId(0), one.client_order_id), (OrderId(0), "unknown")):
            found = await real.find(account_id, BTC, number, name)
            assert found == await memory.find(account_id, BTC, number, name)
        time, later = (
            some_time(dice, one.accepted_time),
            some_time(dice, one.accepted_time + dice.randrange(500)),
        )
        page: dict[str, Any] = {"start": time, "end": later, "limit": limit}
        of_orders = {**page, "from_id": some(dice, one.order_id)}
        assert await real.page(account_id, BTC, **of_orders) == await memory.page(
            account_id, BTC, **of_orders
        ), of_orders
        fill = dice.choice(every_fill)
        for order_id, from_id, bounds in (
            (None, None, page),
            (fill.order_id, None, {**page, "start": None, "end": None}),
            (None, some(dice, fill.trade_id), {**page, "start": None, "end": None}),
            (fill.order_id, fill.trade_id, {**page, "start": None, "end": None}),
        ):
            asked = {"order_id": order_id, "from_id": from_id, **bounds}
            assert await real.fills(account_id, BTC, **asked) == await memory.fills(
                account_id, BTC, **asked
            ), asked
        match = dice.choice(every_match)
        for match_id, order_id, first in (
            (match.match_id, None, 0),
            (None, match.taker_order_id, 0),
            (None, match.maker_order_id, match.match_id),
        ):
            which: dict[str, Any] = {
                "match_id": match_id,
                "order_id": order_id,
                "from_id": first,
                "limit": limit,
            }
            matches = await real.prevented_matches(account_id, BTC, **which)
            assert matches == await memory.prevented_matches(account_id, BTC, **which), which
