"""Any state since the archive begins, compared with what the exchange published at the time."""

import random
from collections.abc import Iterator

import psycopg
import pytest

from history.past import Past, PastError, parse_time
from history.time_travel import account_at, book_at
from persist.archive import Archiver, Retention, drop_old
from protocol import streams
from protocol.commands import Deposit, PlaceOrder
from protocol.events import (
    DepthChanged,
    Event,
    FundsDeposited,
    FundsReleased,
    FundsWithdrawn,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    TradeExecuted,
)
from protocol.orders import Balance, OrderState, OrderType, Side, TimeInForce
from protocol.streams import ARCHIVE_READER, TRIMMED
from protocol.units import AccountId, AssetUnits, PriceTicks, QuantityLots
from stream_log.memory_log import MemoryStreamLog
from tests.support.archive_clock import ALWAYS, Clock
from tests.support.market_log import BTC, market_map
from tests.support.worked_log import WorkedLog, book_by_events, last_sequence

SYMBOLS = [market.symbol for market in market_map().markets]


class Lived:
    """A log with a long past: archived with several snapshots, trimmed, and with a newest part that only
    Redis has."""

    def __init__(self, database_url: str, shard_count: int) -> None:
        self.database_url = database_url
        self.markets = market_map(shard_count)
        self.log = MemoryStreamLog(Clock())
        self.trading = WorkedLog(self.log, 11, self.markets)
        archiver = Archiver(self.log, range(shard_count), database_url, ALWAYS)
        for _ in range(4):
            self.trading.trade(60)
            self.trading.save_snapshots()
            archiver.step()
            self.trim()
        self.trading.trade(40)
        archiver.step()
        self.trading.trade(40)
        archiver.close()

    def trim(self) -> None:
        for shard in range(self.markets.shard_count):
            archived = self.log.passed(shard)[ARCHIVE_READER]
            self.log.mark_passed(shard, TRIMMED, archived)
            self.log.trim(streams.commands(shard), archived)

    def events(self, symbol: str) -> list[Event]:
        shard = self.markets.shard_of_market(symbol)
        return [event for owner, _, found in self.trading.entries if owner == shard for event in found]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("shard_count", [1, 3])
def test_the_book_at_any_sequence_is_the_one_that_was_published(
    database_url: str, connection: psycopg.Connection, shard_count: int
) -> None:
    lived, dice = Lived(database_url, shard_count), random.Random(12)
    past = Past(lived.log, connection, lived.markets)
    for symbol in SYMBOLS:
        happened = lived.events(symbol)
        last = last_sequence(happened, symbol)
        for sequence in {0, 1, 2, last - 1, last, *(dice.randint(0, last) for _ in range(15))}:
            found = book_at(past, symbol, sequence)
            assert (dict(found.bids), dict(found.asks)) == book_by_events(happened, symbol, sequence), (
                sequence
            )
            assert found.sequence == sequence
        now = book_at(past, symbol)
        assert (now.sequence, dict(now.bids), dict(now.asks)) == (
            last,
            *book_by_events(happened, symbol, last),
        )
        with pytest.raises(PastError, match=f"{symbol} is at sequence {last}; {last + 1} is still to come"):
            book_at(past, symbol, last + 1)


def test_the_book_at_a_time(database_url: str, connection: psycopg.Connection) -> None:
    lived = Lived(database_url, 1)
    past = Past(lived.log, connection, lived.markets)
    happened = lived.events(BTC)
    times = sorted({event.time for event in happened if isinstance(event, DepthChanged)})
    for time in random.Random(13).sample(times, 15):
        sequence = last_sequence([event for event in happened if event.time <= time], BTC)
        found = book_at(past, BTC, time=time)
        assert (found.sequence, dict(found.bids), dict(found.asks)) == (
            sequence,
            *book_by_events(happened, BTC, sequence),
        )


def known(entries: list[list[Event]], account_id: int) -> tuple[dict[str, Balance], dict[int, OrderState]]:
    """What an account was told of its balances and its open orders."""
    balances: dict[str, Balance] = {}
    orders: dict[int, OrderState] = {}
    for happened in entries:
        for event in happened:
            if isinstance(event, FundsDeposited | FundsWithdrawn | FundsReleased):
                owner = event.account_id
            elif isinstance(event, OrderAccepted | OrderFilled | OrderClosed):
                owner = event.order.account_id
            else:
                continue
            if owner != account_id:
                continue
            balances |= {balance.asset: balance for balance in event.balances}
            if isinstance(event, OrderAccepted | OrderFilled | OrderClosed):
                orders[event.order.order_id] = event.order
    return balances, {order_id: order for order_id, order in orders.items() if order.status.is_open}


def test_an_account_at_any_sequence_is_what_its_owner_was_told(
    database_url: str, connection: psycopg.Connection
) -> None:
    lived, dice = Lived(database_url, 1), random.Random(14)
    past = Past(lived.log, connection, lived.markets)
    entries = [found for _, _, found in lived.trading.entries]
    last = last_sequence(lived.events(BTC), BTC)
    for sequence in {last, last - 1, last - 7, *(dice.randint(1, last) for _ in range(12))}:
        account_id = 1001 + dice.randrange(10)
        found = account_at(past, account_id, BTC, sequence)
        before = []
        for happened in entries:
            numbers = [
                e.sequence
                for e in happened
                if isinstance(e, TradeExecuted | DepthChanged) and e.market == BTC
            ]
            if numbers and numbers[-1] > sequence:
                break
            before.append(happened)
        balances, orders = known(before, account_id)
        assert {each.asset: each for each in found.balances} == balances
        assert {order.order_id: order for order in found.open_orders} == orders
    balances, orders = known(entries, 1003)
    now = account_at(past, 1003)
    assert (
        {each.asset: each for each in now.balances},
        {each.order_id: each for each in now.open_orders},
    ) == (
        balances,
        orders,
    )


def test_an_account_between_two_commands_of_one_entry(connection: psycopg.Connection) -> None:
    markets, log = market_map(), MemoryStreamLog(Clock())
    trading = WorkedLog(log, 17, markets, accounts=1)
    orders = [buy(number) for number in range(3)]
    trading._apply([Deposit(9, "test", AccountId(7), "USDT", AssetUnits(10**13), "money"), *orders])
    past = Past(log, connection, markets)
    for count in range(4):
        found = account_at(past, 7, BTC, count)
        assert [order.client_order_id for order in found.open_orders] == [
            f"buy-{number}" for number in range(count)
        ]


def buy(number: int) -> PlaceOrder:
    return PlaceOrder(
        number, "test", AccountId(7), f"buy-{number}", BTC, Side.BUY, OrderType.LIMIT, TimeInForce.GTC,
        PriceTicks(40_000 - number), QuantityLots(10_000),
    )  # fmt: skip


def test_an_account_of_another_shard_and_at_a_time(database_url: str, connection: psycopg.Connection) -> None:
    lived, dice = Lived(database_url, 3), random.Random(15)
    past = Past(lived.log, connection, lived.markets)
    times = [stream_id.ms for _, stream_id, _ in lived.trading.entries]
    for time in dice.sample(times, 12):
        account_id = 1001 + dice.randrange(10)
        before = [
            found
            for shard, stream_id, found in lived.trading.entries
            if shard == account_id % 3 and stream_id.ms <= time
        ]
        balances, orders = known(before, account_id)
        found = account_at(past, account_id, time=time)
        assert {each.asset: each for each in found.balances} == balances
        assert {order.order_id: order for order in found.open_orders} == orders
        sequence = book_at(past, BTC, time=time).sequence
        moment = book_at(past, BTC, sequence).time
        assert account_at(past, account_id, BTC, sequence) == account_at(past, account_id, time=moment)


def test_further_back_than_the_archive_says_how_far_it_goes(
    database_url: str, connection: psycopg.Connection
) -> None:
    lived = Lived(database_url, 1)
    drop_old(connection, 0, Retention(0, 2, 36_500), 0)
    past = Past(lived.log, connection, lived.markets)
    oldest = past.shards[0].moments()[-1]
    assert oldest.sequences[BTC] > 10
    assert book_at(past, BTC, oldest.sequences[BTC]).sequence == oldest.sequences[BTC]
    with pytest.raises(
        PastError, match=rf"does not reach back to sequence 5 of {BTC}; .*{BTC} {oldest.sequences[BTC]}"
    ):
        book_at(past, BTC, 5)
    with pytest.raises(PastError, match=r"the oldest that it has of shard 0 is 20.*Z"):
        account_at(past, 1001, time=oldest.time - 1_000)


def test_without_a_database_what_redis_has_is_shown_and_the_other_way_round(
    database_url: str, connection: psycopg.Connection
) -> None:
    lived = Lived(database_url, 1)
    last = last_sequence(lived.events(BTC), BTC)
    only_redis = Past(lived.log, None, lived.markets)
    assert book_at(only_redis, BTC).sequence == last
    with pytest.raises(PastError, match="does not reach back"):
        book_at(only_redis, BTC, 3)
    only_archive = Past(None, connection, lived.markets)
    assert 3 < book_at(only_archive, BTC).sequence < last
    assert book_at(only_archive, BTC, 3).sequence == 3


def test_a_replay_without_the_archived_part_would_show_another_book(
    database_url: str, connection: psycopg.Connection
) -> None:
    """The control: with a command missing in the archive, the books differ from what was published."""
    lived = Lived(database_url, 1)
    past = Past(lived.log, connection, lived.markets)
    happened = lived.events(BTC)
    middle = last_sequence(happened, BTC) // 2
    assert (dict((found := book_at(past, BTC, middle)).bids), dict(found.asks)) == book_by_events(
        happened, BTC, middle
    )
    rows = connection.execute(
        "SELECT last_id FROM log_segments WHERE shard = 0 ORDER BY last_time LIMIT 1"
    ).fetchall()
    connection.execute("DELETE FROM log_segments WHERE last_id = %s", rows[0])
    with pytest.raises(PastError, match="does not reach back"):
        book_at(past, BTC, 3)


def test_times_are_read_as_people_and_programs_write_them() -> None:
    assert parse_time("1767225600123") == 1_767_225_600_123
    assert parse_time("2026-01-01T00:00:00.123Z") == 1_767_225_600_123
    assert parse_time("2026-01-01T01:00:00.123+01:00") == 1_767_225_600_123
    assert parse_time("2026-01-01") == 1_767_225_600_000
    with pytest.raises(PastError, match="neither a time"):
        parse_time("yesterday")


def test_nothing_happened_yet(database_url: str, connection: psycopg.Connection) -> None:
    markets, log = market_map(), MemoryStreamLog(Clock())
    past = Past(log, connection, markets)
    assert book_at(past, BTC).bids == []
    assert account_at(past, 1001).balances == []
    trading = WorkedLog(log, 16, markets, accounts=1)
    trading.give(Deposit(1, "test", AccountId(7), "BTC", AssetUnits(5), "one"))
    assert account_at(past, 7).balances == [Balance("BTC", AssetUnits(5), AssetUnits(0))]
