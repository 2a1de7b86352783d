"""`persist`: the events of a busy shard from a Redis stream into the database, by the workers' ingest."""

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import redis

from engine_worker.core.shard import Shard
from lab.benchmarks.history import database_of_its_own
from lab.benchmarks.report import Result
from lab.benchmarks.servers import redis_of_its_own
from lab.benchmarks.workload import commands, deposits, operations, roomy_market_map
from persist.ingest import Progress, ShardIngest, copy_rows
from persist.main import GC_THRESHOLD
from persist.migrate import Flavour
from persist.rows import FILLS, LEDGER_ENTRIES, ORDERS, TRADES, EventBatch, OrderRow, Rows, Table, rows_of
from protocol import streams
from protocol.codec import decode_events
from protocol.configuration import MarketConfig, ShardConfig
from protocol.listing import ShardConfiguration, encode_configuration
from protocol.market import MarketMap
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD
from protocol.units import TimeMs
from stream_log.redis_log import RedisStreamLog

FRAME_COMMANDS = 64
PIPELINED = 64
START_AGO_MS = 30_000
"""Trades are this old at first: as far behind as a busy ingest may be, and not yet late."""


def persist(count: int, postgres_bin: str) -> list[Result]:
    """Measure the ingest into each available database flavour, and COPY of the same rows into another."""
    market_map = roomy_market_map()
    results: list[Result] = []
    seen: set[Flavour] = set()
    for programs in dict.fromkeys((postgres_bin, "")):
        with redis_of_its_own() as (settings, client), database_of_its_own(programs) as (url, flavour):
            if flavour in seen:
                continue
            seen.add(flavour)
            frames = _frames(count, market_map)
            configs = tuple(MarketConfig(market, 0) for market in market_map.markets)
            configuration = ShardConfiguration(str(STREAM_START), ShardConfig(), configs)
            client.set(streams.configuration(0), encode_configuration(configuration))
            _append(client, frames)
            log = RedisStreamLog.connect(settings.resolved_redis_url())
            ingest = ShardIngest(0, log, url, 1, settings.ingest_batch_entries)
            with _collector_as_in_a_worker():
                began = time.perf_counter()
                while ingest.step() is Progress.MORE:
                    pass
                took_s = time.perf_counter() - began
            ingest.close()
            batches = [
                EventBatch(StreamId(number), decode_events(frame)) for number, frame in enumerate(frames, 1)
            ]
            rows = rows_of(0, batches, market_map.by_symbol)
            with psycopg.connect(url) as connection:
                stored = connection.execute("SELECT count(*) FROM trades").fetchone()
            if stored is None or stored[0] != len(rows.trades):
                raise RuntimeError("not every trade was stored")
        with database_of_its_own(programs) as (url, _):
            copied_s = _copied(url, rows)
        row_count = len(rows.trades) + len(rows.fills) + len(rows.ledger_entries) + len(rows.orders)
        results.append(
            Result(
                bench="persist",
                what=f"{rows.event_count:,} events of {count:,} commands, {len(frames):,} stream entries, "
                f"{flavour}",
                unit="events/s",
                runs=[rows.event_count / took_s],
                reference="COPY of the same rows, nothing else",
                reference_runs=[rows.event_count / copied_s],
                notes=f"{row_count:,} rows, {row_count / took_s:,.0f} rows/s",
            )
        )
    return results


def _frames(count: int, market_map: MarketMap) -> list[bytes]:
    """Return an engine's events for the mix of `core`, a frame per `FRAME_COMMANDS` commands, until now."""
    prefill, mixed = operations(count)
    steps = [*deposits(market_map), *commands(prefill + mixed, market_map.markets[0])]
    shard, clock = Shard(0, market_map), itertools.count(time.time_ns() // 1_000_000 - START_AGO_MS)
    frames = []
    for at in range(0, len(steps), FRAME_COMMANDS):
        now = TimeMs(next(clock))
        for command in steps[at : at + FRAME_COMMANDS]:
            shard.apply(command, now)
        frames.append(shard.take().frame)
    return frames


def _append(client: redis.Redis, frames: list[bytes]) -> None:
    for at in range(0, len(frames), PIPELINED):
        with client.pipeline(transaction=False) as pipeline:
            for frame in frames[at : at + PIPELINED]:
                pipeline.xadd(streams.events(0), {EVENTS_FIELD: frame})
            pipeline.execute()


@contextmanager
def _collector_as_in_a_worker() -> Iterator[None]:
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def _copied(url: str, rows: Rows) -> float:
    """Return the seconds that the database takes for the rows when they need not be made."""
    table_contents: list[tuple[Table, Sequence[OrderRow]]] = [
        (TRADES, rows.trade_rows()), (FILLS, rows.fills), (LEDGER_ENTRIES, rows.ledger_entries), (ORDERS,
            rows.order_rows())
    ]  # fmt: skip
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        for table, table_rows in table_contents:
            copy_rows(cursor, table, table_rows)
        connection.commit()
        return time.perf_counter() - began
