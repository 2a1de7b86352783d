"""The simulation's twins of Redis's feeds hash and of PostgreSQL do what the real ones do."""

from typing import Any

import psycopg
import pytest
import redis

from feeds.state import Outputs, SavedState
from feeds.store import FeedsStore, Mark
from lab.simulation.database import IngestProcess, MemoryIngest, Tables
from lab.simulation.faulty_log import LosingLog
from lab.simulation.feeds import FeedsProcess, FeedsStores, MemoryFeedsStore
from lab.simulation.markets import market_map
from lab.simulation.process import Surroundings
from lab.simulation.witness import Witness
from persist.ingest import Progress, ShardIngest
from persist.rows import FILLS, LEDGER_ENTRIES, TRADES, Table, database_time
from protocol import streams
from protocol.market import MarketMap
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD, EventReader
from stream_log.interface import Fenced, Rewound, StreamLog
from stream_log.memory_log import MemoryStreamLog
from stream_log.redis_log import RedisStreamLog
from tests.support.market_log import publish_markets
from tests.support.shard_log import ShardLog

START_MS = 1_767_225_500_000
SHARD = 0


class Stores:
    """Feeds stores of one kind, on one log."""

    def __init__(self, kind: str, request: pytest.FixtureRequest) -> None:
        self._url = request.getfixturevalue("redis_url") if kind == "redis" else ""
        self._surroundings = Surroundings(START_MS)
        self._memory = LosingLog(lambda: self._surroundings.now)
        self._shared = FeedsStores(self._memory, Witness(market_map(1), self._memory))
        self.log: StreamLog = RedisStreamLog.connect(self._url) if self._url else self._memory

    def store(self) -> FeedsStore:
        """One process's store, which has taken over."""
        if self._url:
            store = FeedsStore.connect(self._url)
        else:
            process = FeedsProcess(self._surroundings, self._shared, "feeds")
            store = MemoryFeedsStore(self._memory, self._shared.hashes, process, self._shared.subscriber)
        store.take_over(SHARD)
        return store


@pytest.fixture(params=["memory", "redis"])
def stores(request: pytest.FixtureRequest) -> Stores:
    return Stores(request.param, request)


def test_a_commit_is_written_whole_when_the_mark_is_as_expected(stores: Stores) -> None:
    store = stores.store()
    assert store.load(SHARD)[:4] == (STREAM_START, 0, b"", {})
    first, second = Mark(StreamId(5), 5), Mark(StreamId(6), 7)
    store.commit(SHARD, Mark(STREAM_START, 0), first, Outputs())
    store.commit(SHARD, first, second, Outputs(), saved=SavedState(b"state", {"a": b"1", "b": b"2"}))
    assert store.load(SHARD)[:4] == (*second, b"state", {"a": b"1", "b": b"2"})
    assert stores.log.passed(SHARD) == {EventReader.FEEDS: second.stream_id}
    with pytest.raises(Rewound):
        store.commit(SHARD, first, Mark(StreamId(9), 9), Outputs(), saved=SavedState(b"wrong"))
    store.commit(SHARD, second, Mark(StreamId(7), 7), Outputs(), saved=SavedState(b"later", {}, ["a"]))
    assert store.load(SHARD)[:4] == (StreamId(7), 7, b"later", {"b": b"2"})


def test_who_started_last_writes(stores: Stores) -> None:
    first = stores.store()
    first.commit(SHARD, Mark(STREAM_START, 0), Mark(StreamId(5), 5), Outputs())
    second = stores.store()
    with pytest.raises(Fenced, match="has taken over"):
        first.commit(SHARD, Mark(StreamId(5), 5), Mark(StreamId(6), 6), Outputs())
    with pytest.raises(Fenced, match="has taken over"):
        first.load(SHARD)
    assert second.load(SHARD).published_id == StreamId(5)


def test_the_same_events_make_the_same_rows(database_url: str, redis_url: str) -> None:
    markets = market_map(1)
    log, tables = stored_in_memory(markets)
    redis_log = RedisStreamLog.connect(redis_url)
    client = redis.Redis.from_url(redis_url)
    for entry in log.read({streams.events(SHARD): STREAM_START}, 10_000, 0):
        fields: Any = entry.fields
        client.xadd(entry.stream, fields, id=str(entry.stream_id))
    publish_markets(redis_log, markets)
    ingest = ShardIngest(SHARD, redis_log, database_url, 1, 50)
    while ingest.step() is Progress.MORE:
        pass
    ingest.close()
    with psycopg.connect(database_url) as connection:
        assert rows_of(connection, TRADES) == sorted(tables.trades.values())
        assert rows_of(connection, FILLS) == sorted(tables.fills.values())
        assert rows_of(connection, LEDGER_ENTRIES) == sorted(tables.ledger_entries)
        orders = connection.execute(
            "SELECT order_id, status, quantity, cum_quantity, cum_quote FROM orders"
        ).fetchall()
        assert sorted(orders) == sorted(
            (order.order_id, order.status, order.quantity, order.cum_quantity, order.cum_quote)
            for order in tables.orders.values()
        )
        dead = connection.execute("SELECT shard, stream_id FROM dead_events").fetchall()
        assert sorted((shard, StreamId.parse(text)) for shard, text in dead) == sorted(tables.dead_events)
        assert len(dead) == 2
        last_id = connection.execute("SELECT last_id FROM ingest").fetchone()
        assert last_id == (str(tables.last_ids[SHARD]),)


def stored_in_memory(markets: MarketMap) -> tuple[MemoryStreamLog, Tables]:
    surroundings = Surroundings(START_MS)
    log = LosingLog(lambda: surroundings.now)
    shard_log = ShardLog(5, markets, START_MS)
    shard_log.trade(400)
    shard_log.append_to(log)
    log.append(streams.events(SHARD), {EVENTS_FIELD: b"\xc1"})
    log.append(streams.events(SHARD), {b"?": b""})
    tables, witness = Tables(), Witness(markets, log)
    process = IngestProcess(surroundings, log, tables, witness, SHARD, 0, 50)
    ingest = MemoryIngest(SHARD, log, tables, process, 1, 50)
    while ingest.step() is Progress.MORE:
        pass
    return log, tables


def rows_of(connection: psycopg.Connection[Any], table: Table) -> list[tuple[Any, ...]]:
    """What a table holds, times as numbers as they are sent."""
    rows = connection.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}").fetchall()
    return sorted((database_time(round(time.timestamp() * 1_000)), *rest) for time, *rest in rows)
