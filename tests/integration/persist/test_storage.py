"""What the database does with years of history: policies, columnstore, dropping what is old, and being dumped
and restored."""

import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cli.local import embedded
from persist.ingest import REFRESH
from persist.retention import HistoryRetention, drop_history
from protocol.events import TradeExecuted
from protocol.intervals import INTERVALS, interval_bounds
from protocol.orders import Side
from protocol.streams import EVENTS_FIELD, events
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import (
    assert_candles,
    assert_stored,
    ingest_all,
    is_timescaledb,
    moment,
    query,
    run_policies,
)
from tests.support.databases import as_persist
from tests.support.market_log import BTC, ETH, MarketLog, frame, market_map
from tests.support.shard_log import ShardLog

DAY_MS = 86_400_000
REFRESHES = "policy_refresh_continuous_aggregate"


class Market:
    """Trades of one market, stored as they happen."""

    def __init__(self, database_url: str, start_ms: int, seed: int) -> None:
        self.url = database_url
        self.now_ms = start_ms
        self.log = MemoryStreamLog(lambda: self.now_ms)
        self.market_log = MarketLog()
        self.dice = random.Random(seed)

    @property
    def trades(self) -> Sequence[TradeExecuted]:
        return self.market_log.trades[BTC]

    def trade(self, count: int, until_ms: int) -> None:
        """Trade, and store it, evenly until then."""
        step = (until_ms - self.now_ms) / count
        begin = self.now_ms
        for number in range(count):
            self.now_ms = int(begin + step * (number + 1))
            side = self.dice.choice((Side.BUY, Side.SELL))
            trade = self.market_log.trade(
                self.now_ms, self.dice.randint(1, 99), self.dice.randint(1, 99), side
            )
            self.log.append(events(0), {EVENTS_FIELD: frame(trade)})
        ingest_all(self.log, self.url, market_map())

    def assert_candles(self) -> None:
        assert_candles(self.url, self.trades, market_map())


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.timescaledb
def test_every_relation_has_its_policies(database_url: str) -> None:
    found = query(
        database_url,
        "SELECT coalesce(aggregate.view_name, job.hypertable_name), array_agg(job.proc_name ORDER BY "
        "job.proc_name) FROM timescaledb_information.jobs AS job LEFT JOIN "
        "timescaledb_information.continuous_aggregates AS aggregate ON "
        "aggregate.materialization_hypertable_name = job.hypertable_name WHERE job.hypertable_name IS NOT "
        "NULL GROUP BY 1",
    )
    columnstore = {"trades", "fills", "ledger_entries", "candles_1s", "candles_1m"}
    aggregates = {f"candles_{interval}" for interval in INTERVALS}
    assert {name for name, policies in found if "policy_compression" in policies} == columnstore
    assert {name for name, policies in found if REFRESHES in policies} == aggregates
    views = query(
        database_url,
        "SELECT view_name FROM timescaledb_information.continuous_aggregates WHERE NOT materialized_only",
    )
    assert {name for (name,) in views} == aggregates


@pytest.mark.timescaledb
def test_policies_leave_open_candles_open(database_url: str) -> None:
    market = Market(database_url, clock_ms() - 100 * DAY_MS, seed=1)
    market.trade(150, clock_ms() - 3 * DAY_MS)
    market.trade(150, clock_ms() - 1_000)
    run_policies(database_url, REFRESHES)
    watermarks = query(
        database_url,
        "SELECT user_view_name, (extract(epoch FROM _timescaledb_functions.to_timestamp("
        "_timescaledb_functions.cagg_watermark(mat_hypertable_id))) * 1000)::bigint "
        "FROM _timescaledb_catalog.continuous_agg",
    )
    for name, watermark in watermarks:
        opened, _ = interval_bounds(name.removeprefix("candles_"), clock_ms())
        assert market.trades[0].time < watermark <= opened, name
    market.trade(50, clock_ms())
    market.assert_candles()
    # The control: what is made too early misses what comes after.
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(REFRESH, ('"candles_1s"', moment(0), moment(clock_ms() + 60_000)))
    market.trade(1, market.now_ms)
    with pytest.raises(AssertionError, match="1s"):
        market.assert_candles()


@pytest.mark.timescaledb
def test_late_trades_find_their_way_into_any_amount_of_columnstore(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "ALTER DATABASE {} SET timescaledb.max_tuples_decompressed_per_dml_transaction = 1"
            ).format(sql.Identifier(connection.info.dbname))
        )
    market = Market(database_url, clock_ms() - 60 * DAY_MS, seed=2)
    market.trade(200, clock_ms() - 30 * DAY_MS)
    run_policies(database_url, "policy_compression")
    market.trade(200, clock_ms() - 29 * DAY_MS)
    market.assert_candles()
    # The control: without the setting of the ingest's sessions, the database refuses.
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.ConfigurationLimitExceeded),
    ):
        connection.execute("UPDATE trades SET quantity = quantity + 1")


def candles(database_url: str, interval: str) -> list[tuple[Any, ...]]:
    return query(
        database_url,
        sql.SQL("SELECT * FROM {} ORDER BY market, open_time").format(sql.Identifier(f"candles_{interval}")),
    )


def test_old_trades_go_and_their_candles_stay(database_url: str) -> None:
    now = clock_ms()
    market = Market(database_url, now - 120 * DAY_MS, seed=3)
    market.trade(600, now - 1_000)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO fills SELECT time, 1001, market, 1, trade_id, 1, price, quantity, quote, 1, 0, "
            "'BTC' FROM trades"
        )
        # Stored late by someone who died before the candles of its time were made again.
        connection.execute(
            "INSERT INTO trades SELECT time, %s, 1, 1, 1, price, quantity, quote, 1, 1, 2, 3, 4 FROM trades "
            "WHERE trade_id = 300",
            (ETH,),
        )
    made = {interval: candles(database_url, interval) for interval in INTERVALS}
    assert drop_history(as_persist(database_url), HistoryRetention()) == {}
    retention = HistoryRetention(trades=30, fills=60, seconds=90)
    dropped = drop_history(as_persist(database_url), retention)
    assert dropped.keys() == {"trades", "fills", "candles_1s"}
    assert drop_history(as_persist(database_url), retention) == {}
    for relation, column, days in (
        ("trades", "time", 30),
        ("fills", "time", 60),
        ("candles_1s", "open_time", 90),
    ):
        # Whole chunks go, so some of what is older may stay.
        spare = 7 if is_timescaledb(database_url) else 0
        statement = sql.SQL("SELECT min({}) FROM {}").format(sql.Identifier(column), sql.Identifier(relation))
        ((oldest,),) = query(database_url, statement)
        assert moment(now - (days + spare) * DAY_MS - 5_000) <= oldest <= moment(now - (days - 1) * DAY_MS), (
            relation
        )
    if is_timescaledb(database_url):
        run_policies(database_url, REFRESHES)
        (eth,) = (row for row in candles(database_url, "1s") if row[0] == ETH)
        assert eth[8] == 1, "the trade that came late is in the candle that was made before it went"
    # Trading goes on, and no candle that was closed by then changes.
    market.trade(100, clock_ms())
    if is_timescaledb(database_url):
        run_policies(database_url, REFRESHES)
    for interval in INTERVALS:
        still_open = moment(interval_bounds(interval, now - 1_000)[0])
        kept = [row for row in candles(database_url, interval) if row[0] == BTC]
        before = [row for row in made[interval] if row[0] == BTC]
        if interval == "1s":
            before = [row for row in before if row[1] >= kept[0][1]]
        assert [row for row in kept if row[1] < still_open] == [
            row for row in before if row[1] < still_open
        ], interval
        assert sum(row[8] for row in kept) == (
            len(market.trades) if interval != "1s" else sum(row[8] for row in before) + 100
        )
    if is_timescaledb(database_url):
        # The control: to make the candles of such times anew, as nothing of ours does, empties them.
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(REFRESH, ('"candles_1s"', moment(0), moment(now - 40 * DAY_MS)))
        assert len(candles(database_url, "1s")) < len(made["1s"]) // 2


@pytest.fixture
def empty_url(postgres_server: str) -> Iterator[str]:
    """A database that nothing was ever done to."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE restored TEMPLATE template0")
        yield f"{postgres_server.rpartition('/')[0]}/restored"
        connection.execute("DROP DATABASE restored WITH (FORCE)")


def test_a_dump_is_restored_and_goes_on(
    database_url: str, empty_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As docs/how-to/set-up-the-database.md says it is done."""
    programs = embedded.find_postgres(os.environ.get("TEST_POSTGRES_BIN", ""))
    if not (programs / "pg_dump").exists():
        pytest.skip(f"{programs} has no pg_dump; install PostgreSQL's client programs there")
    dump = tmp_path_factory.mktemp("dump") / "exchange.dump"
    markets, start = market_map(), clock_ms() - 40 * DAY_MS
    trading, log = ShardLog(4, markets, start), MemoryStreamLog(clock_ms)
    trading.trade(400, batch=2, gap_ms=DAY_MS // 20)
    stored = list(trading.frames(0))
    for payload in stored:
        log.append(events(0), {EVENTS_FIELD: payload})
    ingest_all(log, database_url, markets)
    timescaledb = is_timescaledb(database_url)
    if timescaledb:
        run_policies(database_url, REFRESHES)
        run_policies(database_url, "policy_compression")
    subprocess.run([programs / "pg_dump", "-Fc", "-f", dump, database_url], check=True)
    if timescaledb:
        with psycopg.connect(empty_url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION timescaledb")
            connection.execute("SELECT timescaledb_pre_restore()")
    subprocess.run(
        [programs / "pg_restore", "--exit-on-error", "--no-owner", "-d", empty_url, dump], check=True
    )
    if timescaledb:
        with psycopg.connect(empty_url, autocommit=True) as connection:
            connection.execute("SELECT timescaledb_post_restore()")
            connection.execute("ANALYZE")
    assert_stored(empty_url, trading.events(), markets)
    trading.trade(200, batch=2, gap_ms=100)
    for payload in list(trading.frames(0))[len(stored) :]:
        log.append(events(0), {EVENTS_FIELD: payload})
    ingest_all(log, empty_url, markets)
    if timescaledb:
        run_policies(empty_url, REFRESHES)
        run_policies(empty_url, "policy_compression")
    assert_stored(empty_url, trading.events(), markets)
