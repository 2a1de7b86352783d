"""`klines`: a thousand candles out of years of trades, as the API asks the database for them."""

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg

from adapters.candles import PostgresCandles
from adapters.database import PostgresDatabase
from functions.market_data.get_klines import window_of
from lab.benchmarks.history import DAYS, MARKETS, database_of_its_own, load, make_candles
from lab.benchmarks.report import Result
from persist.migrate import Flavour
from protocol.intervals import INTERVALS, INTERVALS_MS
from protocol.units import TimeMs

LIMIT = 1_000
DAY_MS = 86_400_000
MONTH_MS = 30 * DAY_MS
WARM_UP = 10


class _Latency(NamedTuple):
    median_ms: float
    p99_ms: float


def klines(trades: int, queries: int, postgres_bin: str, tell: Callable[[str], None]) -> list[Result]:
    """Measure every interval, the newest and random candles, on each available database flavour."""
    end_ms = time.time_ns() // 1_000_000 // 1_000 * 1_000
    seen: set[Flavour] = set()
    results: list[Result] = []
    for programs in dict.fromkeys((postgres_bin, "")):
        with database_of_its_own(programs) as (url, flavour):
            if flavour in seen:
                continue
            seen.add(flavour)
            with psycopg.connect(url, autocommit=True) as connection:
                tell(f"{flavour}: {trades:,} trades")
                began = time.perf_counter()
                load(connection, trades, end_ms)
                loaded_s = time.perf_counter() - began
                tell(f"{flavour}: candles")
                make_candles(connection, flavour)
                connection.execute("ANALYZE")
                tell(f"{flavour}: queries")
                notes = f"; loaded at {trades / loaded_s:,.0f} trades/s"
                results += asyncio.run(_measured(url, str(flavour), trades, queries, end_ms, notes))
                if flavour is Flavour.TIMESCALEDB:
                    tell(f"{flavour}: columnstore")
                    before, after = _convert(connection)
                    notes = f"; {before / 1e9:.2f} GB became {after / 1e9:.2f} GB"
                    tell(f"{flavour}: queries again")
                    results += asyncio.run(_measured(url, "columnstore", trades, queries, end_ms, notes))
    return results


async def _measured(
    url: str, storage: str, trades: int, queries: int, end_ms: int, notes: str
) -> list[Result]:
    database = PostgresDatabase(url)
    await database.start()
    candles = PostgresCandles(database)
    results = []
    for interval in INTERVALS:
        dice = random.Random(interval)
        length_ms = INTERVALS_MS.get(interval, MONTH_MS)
        first, last = end_ms - DAYS * DAY_MS, end_ms - min(LIMIT * length_ms, DAYS * DAY_MS)
        newest, rows = await _timed(candles, interval, queries, end_ms, lambda: None)
        older, _ = await _timed(
            candles,
            interval,
            queries,
            end_ms,
            lambda: TimeMs(dice.randint(first, last)),  # noqa: B023 - run at once
        )
        bare = await _round_trip(database, rows)
        results.append(
            Result(
                bench="klines",
                what=f"newest {LIMIT:,} candles of {interval}, {trades:,} trades, {storage}",
                unit="ms",
                runs=[newest.median_ms],
                reference="as many rows of numbers from nowhere",
                reference_runs=[bare],
                notes=f"p99 {newest.p99_ms:.1f} ms; from a random time on: {older.median_ms:.1f}, p99 "
                f"{older.p99_ms:.1f} ms; "
                f"{rows} rows{notes}",
            )
        )
        notes = ""
    await database.close()
    return results


async def _timed(
    candles: PostgresCandles, interval: str, queries: int, now_ms: int, start: Callable[[], TimeMs | None]
) -> tuple[_Latency, int]:
    took: list[float] = []
    rows: list[Any] = []
    for number in range(WARM_UP + queries):
        window = window_of(interval, start(), None, LIMIT, TimeMs(now_ms))
        if window is None:
            raise RuntimeError("a start before the end")
        began = time.perf_counter()
        rows = await candles.klines(MARKETS[0], interval, window)
        if number >= WARM_UP:
            took.append((time.perf_counter() - began) * 1_000)
    return _Latency(statistics.median(took), statistics.quantiles(took, n=100)[98]), len(rows)


async def _round_trip(database: PostgresDatabase, rows: int) -> float:
    """Return the median time (ms) that as many rows of ten numbers take when no table is read."""
    statement = (
        "SELECT n, n, n, n, n, n::numeric, n::numeric, n, n::numeric, n::numeric FROM generate_series(1, "
        "%(rows)s) AS n"
    )
    took: list[float] = []
    for _ in range(WARM_UP + 30):
        began = time.perf_counter()
        await database.fetch(statement, {"rows": rows})
        took.append((time.perf_counter() - began) * 1_000)
    return statistics.median(took[WARM_UP:])


def _convert(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """Let the policies convert the data, and return the size (bytes) of the database before and after."""
    before = _size(connection)
    for (job,) in connection.execute(
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'"
    ).fetchall():
        connection.execute("CALL run_job(%s)", (job,))
    return before, _size(connection)


def _size(connection: psycopg.Connection[Any]) -> int:
    ((size,),) = connection.execute("SELECT pg_database_size(current_database())").fetchall()
    return int(size)
