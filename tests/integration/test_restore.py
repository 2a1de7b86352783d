"""Redis is gone; what the database has of it comes back, and trading goes on."""

import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg import sql

from cli.commands.restore import running_engines
from engine_worker.core.conservation import recount
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import state_hash
from engine_worker.worker import Worker
from feeds.store import FeedsStore
from feeds.worker import FeedsWorker
from history.past import Past, steps
from history.restore import (
    ORDER_COUNT_MAX,
    RestoreError,
    orders_to_skip,
    plan_restore,
    write_database,
    write_redis,
)
from persist.archive import Archiver, Retention
from persist.ingest import Progress, ShardIngest
from persist.lost_tail_comparison import LogGuard
from protocol import streams
from protocol.codec import encode_commands, encode_skip
from protocol.commands import Deposit, SkipEntry
from protocol.configuration import OperatorKey, Role, ShardConfig
from protocol.events import EntrySkipped, Event, OrderAccepted, OrderClosed, OrderFilled, TradeExecuted
from protocol.lease import Leader, Standby
from protocol.market import SHARD_COUNT_MAX, MarketMap
from protocol.market_data import BookTicker, Candle, Ticker
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, AfterLoss, after_loss
from protocol.units import AccountId, AssetUnits
from stream_log.interface import Commit, Entry, Skip, as_skipped
from stream_log.redis_log import RedisStreamLog
from tests.integration.persist.stored import (
    assert_candles,
    assert_ledger,
    assert_stored,
    is_timescaledb,
    query,
)
from tests.support.kept_depth import depth_in
from tests.support.keys import described, examples
from tests.support.market_log import market_map
from tests.support.statements import Ledger
from tests.support.worked_log import WorkedLog

SAVE_PERIOD_MS = 2_000


class Exchange:
    """The parts of an exchange that keep something, on real servers, one step at a time."""

    def __init__(self, redis_url: str, database_url: str, markets: MarketMap, seed: int) -> None:
        self.redis_url, self.database_url, self.markets = redis_url, database_url, markets
        self.client = redis.Redis.from_url(redis_url, protocol=2)
        self.log = RedisStreamLog.connect(redis_url)
        self.trading = WorkedLog(self.log, seed, markets)
        shards = range(markets.shard_count)
        self.archiver = Archiver(self.log, shards, database_url, Retention(0, 100, 7))

    def close(self) -> None:
        self.archiver.close()
        self.client.close()

    def ingest(self, entries: int = 100_000, rounds: int = 1_000) -> None:
        for shard in range(self.markets.shard_count):
            ingest = ShardIngest(
                shard, self.log, self.database_url, self.markets.shard_count, entries, self.archiver.cover
            )
            for _ in range(rounds):
                if ingest.step() is Progress.CAUGHT_UP:
                    break
            ingest.close()

    def feed(self) -> None:
        """Let the feeds, started anew, publish everything and leave."""
        store = FeedsStore.connect(self.redis_url)
        worker = FeedsWorker(store, range(self.markets.shard_count), SAVE_PERIOD_MS)
        worker.start()
        worker.restore()
        now = 0
        while worker.step(now := now + 1_000, 1):
            pass
        worker.step(now + 10_000, 1)
        worker.finish(now + 20_000)
        store.close()

    def read_models(self) -> dict[str, Any]:
        """What the feeds say of every market, but for sequences and times."""
        found: dict[str, Any] = {}
        for market in self.markets.markets:
            symbol, shard = market.symbol, self.markets.shard_of_market(market.symbol)
            depth = depth_in(self.client, shard, symbol)
            assert depth is not None
            best = msgspec.msgpack.decode(self._value(streams.book_ticker(shard, symbol)), type=BookTicker)
            ticker = msgspec.msgpack.decode(self._value(streams.ticker(shard, symbol)), type=Ticker)
            candles: Any = self.client.hgetall(streams.candles(shard, symbol))
            found[symbol] = {
                "depth": (depth.bids, depth.asks),
                "best": (best.bid_price, best.bid_quantity, best.ask_price, best.ask_quantity),
                "ticker": msgspec.structs.astuple(msgspec.structs.replace(ticker, open_time=0, close_time=0)),
                "trades": self.client.lrange(streams.trades(shard, symbol), 0, -1),
                "candles": {
                    interval: candle
                    for interval, payload in candles.items()
                    if not (candle := msgspec.msgpack.decode(payload, type=Candle)).closed
                    and interval not in (b"1s", b"1m", b"3m")
                },
            }
        return found

    def _value(self, key: str) -> bytes:
        value: Any = self.client.get(key)
        return bytes(value)

    def restore(self, *, accept_loss: bool = False, now_ms: int = 0) -> list[str]:
        """Do what `exchange restore` does; return the shards' losses, if any."""
        with psycopg.connect(self.database_url) as connection:
            past = Past(None, connection, self.markets)
            plan = plan_restore(past, connection, self.database_url, {})
            if not plan.losses or accept_loss:
                now_ms = now_ms or time.time_ns() // 1_000_000
                write_database(connection, plan, now_ms)
                connection.commit()
                write_redis(self.client, self.client, self.log, connection, plan, now_ms)
            return [f"{loss.shard}" for loss in plan.losses]

    def guard(self) -> list[str]:
        self.client.delete(*(streams.guard(shard) for shard in range(self.markets.shard_count)))
        return LogGuard(self.log, self.database_url, range(self.markets.shard_count)).step()


Make = Callable[[int, int], Exchange]


@pytest.fixture
def make(redis_url: str, database_url: str) -> Iterator[Make]:
    made: list[Exchange] = []

    def make_exchange(seed: int, shard_count: int) -> Exchange:
        made.append(Exchange(redis_url, database_url, market_map(shard_count), seed))
        return made[-1]

    yield make_exchange
    for each in made:
        each.close()


def accounts_of(shard: Shard) -> dict[int, Any]:
    return {
        account_id: (
            account.balances(),
            {symbol: dict(orders) for symbol, orders in account.open_orders.items() if orders},
        )
        for account_id, account in shard.state.accounts.items()
    }


def assert_statements(database_url: str, markets: MarketMap, shard: Shard) -> None:
    """What was lost is in the statements, and taken back; they end at what accounts have."""
    kinds: Counter[str] = Counter()
    with closing(Ledger(database_url, markets)) as ledger:
        for account_id, account in shard.state.accounts.items():
            pages = ledger.pages(account_id, limit=7)
            running: defaultdict[str, Decimal] = defaultdict(Decimal)
            for entry in (each for page in pages for each in page.entries):
                running[entry.asset] += Decimal(entry.amount)
                assert Decimal(entry.balance) == running[entry.asset], entry
                kinds[entry.kind] += 1
            has = {each.asset: Decimal(each.available + each.held).scaleb(-8) for each in account.balances()}
            assert {each.asset: Decimal(each.closing) for each in pages[-1].balances} == has == running
    assert kinds["loss"] > 0


def books_of(shard: Shard) -> dict[str, Any]:
    return {symbol: (shard.depth(symbol).bids, shard.depth(symbol).asks) for symbol in shard.state.markets}


def assert_numbers_go_on(happened: list[Event], before: int) -> None:
    """No order id and no sequence of before comes again, and no trade id is left out or comes again."""
    trades: dict[str, list[int]] = {}
    for event in happened:
        if isinstance(event, TradeExecuted):
            trades.setdefault(event.market, []).append(event.trade_id)
    assert all(ids == list(range(1, len(ids) + 1)) for ids in trades.values())
    earlier, later = happened[:before], happened[before:]

    def order_ids(events: list[Event]) -> set[int]:
        return {event.order.order_id for event in events if isinstance(event, OrderAccepted)}

    assert order_ids(later)
    assert not order_ids(earlier) & order_ids(later)


@pytest.mark.parametrize("shard_count", [1, 3])
@pytest.mark.parametrize("ingested", ["everything", "a part", "nothing"])
def test_a_wiped_redis_comes_back_whole_from_the_archive(make: Make, shard_count: int, ingested: str) -> None:
    exchange = make(1, shard_count)
    trading = exchange.trading
    trading.trade(50)
    if ingested != "nothing":
        exchange.archiver.step()
        trading.save_snapshots()
        exchange.ingest()
    trading.trade(50)
    if ingested == "everything":
        exchange.ingest()
    exchange.archiver.step()
    exchange.feed()
    models = exchange.read_models()
    before = [(accounts_of(each.shard), books_of(each.shard)) for each in trading.workers]
    positions = [each.position.stream_id for each in trading.workers]
    count = sum(1 for _ in trading.events())

    exchange.client.flushall()
    assert len(exchange.guard()) == shard_count, "a wiped Redis must not open"
    assert exchange.restore() == []
    assert exchange.guard() == []

    trading.restart()
    assert [(accounts_of(each.shard), books_of(each.shard)) for each in trading.workers] == before
    assert [each.position.stream_id for each in trading.workers] == positions
    exchange.feed()
    assert exchange.read_models() == models
    trading.trade(50)
    exchange.feed()
    exchange.ingest()
    happened = list(trading.events())
    assert_numbers_go_on(happened, count)
    assert_stored(exchange.database_url, happened, exchange.markets)
    for worker in trading.workers:
        worker.shard.check_invariants()
    settled = [0] * len(exchange.markets.assets)
    for worker in trading.workers:
        settled = [sum_ + row[-1] for sum_, row in zip(settled, recount(worker.shard.state), strict=True)]
    assert not any(settled), "nothing got lost between the shards"


HOUR_MS = 3_600_000


def test_no_order_number_comes_twice_however_long_the_database_was_away(make: Make) -> None:
    """An hour at a thousand orders a second, of which nothing was archived, and then Redis is lost."""
    exchange = make(5, 1)
    trading = exchange.trading
    trading.trade(50)
    exchange.archiver.step()
    exchange.ingest()
    shard = trading.workers[0].shard
    acknowledged = shard.state.order_count + HOUR_MS // 1_000 * 1_000
    sequences = {symbol: state.sequence + 4 * acknowledged for symbol, state in shard.state.markets.items()}
    exchange.client.flushall()
    exchange.restore(now_ms=time.time_ns() // 1_000_000 + HOUR_MS)
    trading.restart()
    restored = trading.workers[0].shard
    assert restored.state.order_count > acknowledged
    # Each of those orders was accepted, filled twice and closed at most.
    assert restored.state.execution_count > shard.state.execution_count + 4 * HOUR_MS // 1_000 * 1_000
    assert all(state.sequence > sequences[symbol] for symbol, state in restored.state.markets.items())
    # Their ids can still be read by a client in JavaScript.
    assert restored.state.order_count * SHARD_COUNT_MAX < 2**53 // 1_000
    trading.trade(20)
    placed = [event.order.order_id for event in trading.events() if isinstance(event, OrderAccepted)]
    assert max(placed) // SHARD_COUNT_MAX > acknowledged


def test_order_numbers_are_left_out_by_time_and_within_bounds() -> None:
    day_ms = 24 * HOUR_MS
    assert orders_to_skip(1_000, 1_000) == orders_to_skip(5_000, 1_000) == 1_000_000
    assert orders_to_skip(0, 1) == 1_001_000
    assert orders_to_skip(0, HOUR_MS) == 3_601_000_000
    assert orders_to_skip(0, day_ms) == 86_401_000_000
    assert orders_to_skip(0, 12 * day_ms) == orders_to_skip(0, 4_000 * day_ms) == 10**12
    assert 90 * 10**12 < ORDER_COUNT_MAX < 91 * 10**12


def test_a_shard_without_order_numbers_is_not_restored(make: Make) -> None:
    exchange = make(6, 1)
    exchange.trading.trade(20)
    exchange.ingest()
    exchange.trading.workers[0].shard.state.order_count = ORDER_COUNT_MAX
    exchange.trading.save_snapshots()
    exchange.archiver.step()
    exchange.client.flushall()
    with pytest.raises(RestoreError, match="no order numbers left"):
        exchange.restore()


def test_messages_on_their_way_between_shards_arrive_after_a_restore(make: Make) -> None:
    exchange, dice = make(2, 3), random.Random(2)
    trading = exchange.trading
    trading.trade(40)
    trading.enqueue(60)
    trading.workers[dice.randrange(3)].step(block_ms=1)
    exchange.archiver.step()
    sent = {
        (each.shard.state.index, target): number
        for each in trading.workers
        for target, number in each.shard.state.sent.items()
    }
    seen = {
        (source, each.shard.state.index): number
        for each in trading.workers
        for source, number in each.shard.state.received.items()
    }
    assert any(seen.get(way, 0) < number for way, number in sent.items()), "some are on their way"
    exchange.client.flushall()
    exchange.restore()
    trading.restart()
    trading.work()
    for source in trading.workers:
        for target, number in source.shard.state.sent.items():
            assert trading.workers[target].shard.state.received[source.shard.state.index] == number
    totals = [
        sum(rows)
        for rows in zip(
            *([row[-1] for row in recount(each.shard.state)] for each in trading.workers), strict=True
        )
    ]
    assert not any(totals)
    exchange.ingest()


def convert_to_columnstore(database_url: str) -> None:
    """Convert everything, and let a statement change hardly anything of it unless it asks for more."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for table in ("trades", "fills", "ledger_entries"):
            connection.execute(
                "SELECT compress_chunk(chunk) FROM show_chunks(%s::regclass) AS chunk", (table,)
            )
        connection.execute(
            sql.SQL(
                "ALTER DATABASE {} SET timescaledb.max_tuples_decompressed_per_dml_transaction = 1"
            ).format(sql.Identifier(connection.info.dbname))
        )


def test_what_the_database_knows_beyond_the_archive_is_only_lost_with_consent_and_marked(make: Make) -> None:
    exchange = make(3, 1)
    trading = exchange.trading
    trading.trade(80)
    exchange.archiver.step()
    exchange.ingest()
    kept = list(trading.events())
    state = accounts_of(trading.workers[0].shard)
    trading.trade(80)
    # An ingest without an archive, as when the archive was switched off.
    ingest = ShardIngest(0, exchange.log, exchange.database_url, exchange.markets.shard_count, 100_000)
    ingest.step()
    ingest.close()
    everything = list(trading.events())
    lost = [event for event in everything[len(kept) :] if isinstance(event, TradeExecuted)]
    assert lost
    last_trades = dict(query(exchange.database_url, "SELECT market, last_trade_id FROM ingest_markets"))
    if is_timescaledb(exchange.database_url):
        convert_to_columnstore(exchange.database_url)

    exchange.client.flushall()
    rows = query(exchange.database_url, "SELECT count(*) FROM ledger_entries")
    assert exchange.restore() == ["0"]
    assert list(exchange.client.scan_iter()) == []
    assert query(exchange.database_url, "SELECT count(*) FROM ledger_entries") == rows, "nothing was written"
    exchange.restore(accept_loss=True)
    assert exchange.restore() == [], "it can be repeated"
    assert exchange.guard() == []

    trading.restart()
    assert accounts_of(trading.workers[0].shard) == state
    assert_ledger(exchange.database_url, kept)
    stored_fills = query(
        exchange.database_url, "SELECT market, trade_id, account_id FROM fills ORDER BY 1, 2, 3"
    )
    assert stored_fills == sorted(
        (event.order.market, event.trade_id, event.order.account_id)
        for event in kept
        if isinstance(event, OrderFilled)
    )
    marked = query(exchange.database_url, "SELECT market, first_trade_id, last_trade_id FROM lost_trades")
    assert sum(last - first + 1 for _, first, last in marked) == len(lost)
    ids = {event.order.order_id for event in kept if isinstance(event, OrderAccepted)}
    gone = {event.order.order_id for event in everything if isinstance(event, OrderAccepted)} - ids
    stored_orders = dict(query(exchange.database_url, "SELECT order_id, status FROM orders"))
    assert {stored_orders[order_id] for order_id in gone} == {5}, "expired"

    trading.entries.clear()
    trading.trade(80)
    exchange.ingest()
    new = list(trading.events())
    for symbol, last in last_trades.items():
        numbers = [
            event.trade_id for event in new if isinstance(event, TradeExecuted) and event.market == symbol
        ]
        assert numbers == list(range(last + 1, last + 1 + len(numbers)))
        stored = query(exchange.database_url, "SELECT market, trade_id FROM trades ORDER BY 1, 2")
        all_ids = [trade_id for market, trade_id in stored if market == symbol]
        assert all_ids == list(range(1, len(all_ids) + 1))
    assert_ledger(exchange.database_url, [*kept, *new])
    assert_statements(exchange.database_url, exchange.markets, trading.workers[0].shard)
    assert_candles(
        exchange.database_url,
        (e for e in [*everything, *new] if isinstance(e, TradeExecuted)),
        exchange.markets,
    )
    open_orders = {
        order_id: order.status
        for account in trading.workers[0].shard.state.accounts.values()
        for orders in account.open_orders.values()
        for order_id, order in orders.items()
    }
    stored_orders = dict(query(exchange.database_url, "SELECT order_id, status FROM orders"))
    assert {order_id: stored_orders[order_id] for order_id in open_orders} == open_orders
    closed = {event.order.order_id for event in [*kept, *new] if isinstance(event, OrderClosed)}
    assert all(stored_orders[order_id] >= 3 for order_id in closed)


def test_a_lost_tail_is_noticed_and_without_the_check_numbers_come_twice(make: Make) -> None:
    exchange = make(4, 1)
    trading = exchange.trading
    trading.trade(60)
    backup = {key: exchange.client.dump(key) for key in list(exchange.client.scan_iter())}
    trading.trade(60)
    exchange.ingest()
    archived = query(exchange.database_url, "SELECT last_id FROM archive")[0][0]
    first = {(e.market, e.trade_id): e for e in trading.events() if isinstance(e, TradeExecuted)}

    exchange.client.flushall()
    for key, value in backup.items():
        exchange.client.restore(key, 0, value)  # type: ignore[arg-type]
    (reason,) = exchange.guard()
    assert f"was archived up to {archived}" in reason
    assert "exchange restore" in reason
    end = exchange.log.position(0).stream_id
    assert end < StreamId.parse(archived)

    # The control: opened all the same, the exchange gives the same numbers to other trades.
    trading.entries.clear()
    trading.restart()
    trading.trade(100)
    again = {(e.market, e.trade_id): e for e in trading.events() if isinstance(e, TradeExecuted)}
    assert any(first[number] != trade for number, trade in again.items() if number in first)
    (reason,) = exchange.guard()
    assert f"goes on without entry {archived}" in reason

    exchange.restore()
    assert exchange.guard() == []


def test_nothing_is_restored_from_nothing(make: Make) -> None:
    exchange = make(5, 1)
    exchange.client.flushall()
    with pytest.raises(RestoreError, match="Nothing of shard 0 is archived"):
        exchange.restore()


def test_workers_of_any_name_count_as_running(redis_url: str) -> None:
    """In Kubernetes they are called after their pods."""
    log = RedisStreamLog.connect(redis_url, "engine-1-0")
    assert running_engines(log, 3) == set()
    log.take_over(1, candidate=Leader("engine-1-0", 7, 60_000))
    log.announce(1, Standby("engine-1-1", 7))
    assert running_engines(log, 3) == {"engine-1-0", "engine-1-1"}
    log.close()


def test_nothing_stale_is_left_of_a_redis_that_was_not_empty(make: Make) -> None:
    """Every key of the table holds something of before: afterwards it is gone or made anew, unless it is kept
    on purpose."""
    exchange = make(7, 1)
    exchange.trading.trade(50)
    exchange.archiver.step()
    exchange.trading.save_snapshots()
    exchange.ingest()
    exchange.client.flushall()
    keys = [key for pattern, kind in described() if kind != "channel" for key in examples(pattern, 0)]
    strangers = ["somebody:else", "in:{x}", "in:{", "ticker:{1", "pos:{1234567890}"]
    for key in [*keys, *strangers]:
        exchange.client.set(key, "stale")
    assert exchange.restore() == []
    stale = {
        key for key in keys if exchange.client.type(key) == b"string" and exchange.client.get(key) == b"stale"
    }
    assert stale == {key for key in keys if after_loss(key) is AfterLoss.KEPT}
    assert {exchange.client.get(key) for key in strangers} == {b"stale"}
    # What is kept must not be in the way of what comes next.
    for key in stale:
        exchange.client.delete(key)
    exchange.trading.restart()
    exchange.trading.trade(20)
    exchange.feed()
    assert exchange.read_models().keys() == {market.symbol for market in exchange.markets.markets}


def test_a_restore_skips_what_an_operator_has_had_skipped(make: Make) -> None:
    """The entry would be applied by every program; only the archive says that it was not."""
    exchange = make(7, 1)
    trading = exchange.trading
    trading.trade(30)
    exchange.archiver.step()
    deposit = Deposit(1, "gate", AccountId(1), "USDT", AssetUnits(10**6), "never")
    fields = {COMMANDS_FIELD: encode_commands([deposit], time.time_ns() // 1_000)}
    poison = exchange.log.append(streams.commands(0), fields)
    instruction = encode_skip(SkipEntry(0, "", str(poison), "ada", "looked at it"), time.time_ns() // 1_000)
    exchange.log.order_skip(0, instruction)
    trading.restart()
    trading.trade(30)
    assert [event.stream_id for event in trading.events() if isinstance(event, EntrySkipped)] == [str(poison)]
    exchange.archiver.step()
    before = state_hash(trading.workers[0].shard)
    with psycopg.connect(exchange.database_url) as connection:
        past = Past(None, connection, exchange.markets).shards[0]
        (archived,) = [entry for entry in past.entries(STREAM_START, 10_000) if entry.stream_id == poison]
        assert archived == as_skipped(Entry(streams.commands(0), poison, fields), instruction)
        replay = past.replay_from(lambda _: True, "now")
        for _ in steps(replay, past, past.end()):
            replay.shard.take()
        assert state_hash(replay.shard) == before

    exchange.client.flushall()
    assert exchange.restore() == []
    trading.restart()
    restored = trading.workers[0].shard
    assert accounts_of(restored) == accounts_of(replay.shard)
    exchange.ingest()
    assert query(exchange.database_url, "SELECT count(*) FROM transfers WHERE transfer_id = 'never'") == [
        (0,)
    ]
    assert query(exchange.database_url, "SELECT * FROM dead_events") == []


def test_a_forged_skip_in_the_archive_is_not_replayed(make: Make) -> None:
    """Somebody has written into the log or the archive that an operator had the entry skipped."""
    exchange = make(7, 1)
    operator = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    config = ShardConfig(keys=(OperatorKey("ops", Role.OPERATOR, operator),))
    exchange.client.flushall()  # a shard with keys takes the place of the one without
    leader = Worker(exchange.log, 0, exchange.markets, batch_entries_max=9, config=config)
    leader.start()
    while leader.step(1):
        pass
    deposit = Deposit(1, "gate", AccountId(1), "USDT", AssetUnits(5), "passed over")
    fields = {COMMANDS_FIELD: encode_commands([deposit], time.time_ns() // 1_000)}
    entry = exchange.log.append(streams.commands(0), fields)
    forged = encode_skip(SkipEntry(0, "", str(entry), "ada", "nobody said so"), time.time_ns() // 1_000)
    exchange.log.commit(Commit(0, exchange.log.position(0), entry, skip=Skip(entry, forged)))
    exchange.archiver.step()
    with psycopg.connect(exchange.database_url) as connection:
        past = Past(None, connection, exchange.markets).shards[0]
        replay = past.replay_from(lambda _: True, "now")
        with pytest.raises(InvariantBroken, match=f"instruction to skip entry {entry} is not genuine"):
            deque(steps(replay, past, past.end()), maxlen=0)
        assert replay.position != entry
    with pytest.raises(RestoreError, match="is not genuine"):
        exchange.restore()
