"""Years of trades in a separate database, for benches that read history."""

import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from cli.local import embedded
from cli.local.free_ports import free_port
from lab.benchmarks.servers import STOP_S
from persist.candles import STORED_INTERVALS
from persist.migrate import Flavour, migrate
from persist.rows import TRADES, Row, database_time
from protocol.intervals import INTERVALS_MS
from runtime.log import configure_logs
from runtime.settings import Settings

MARKETS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
DAYS = 1_100
"""Three years, so that there are a thousand candles of a day."""
_BURST = 0.75
"""Of the trades, how many follow within a fifth of a second on the one before."""
_BURST_GAP_MS = 200
_MID_PRICE, _STEP = 5_000_000, 40


@contextmanager
def database_of_its_own(postgres_bin: str) -> Iterator[tuple[str, Flavour]]:
    """Run a PostgreSQL, its data in a temporary folder, and yield its migrated database's URL and flavour."""
    with tempfile.TemporaryDirectory(prefix="exchange-bench-") as folder:
        Path(folder).chmod(0o755)
        own = Settings(
            data_dir=Path(folder), postgres_port=free_port(), postgres_bin=postgres_bin, log_level="warning"
        )
        configure_logs(own, "bench")
        embedded.make_data_dir(own)
        command = embedded.postgres_command(own)
        server = subprocess.Popen(
            command.arguments,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=command.user,
            group=command.group,
        )
        try:
            while not embedded.postgres_ready(own):
                if server.poll() is not None:
                    raise RuntimeError(f"{command.arguments[0]} did not start")
                time.sleep(0.02)
            yield own.resolved_database_url(), migrate(own.resolved_database_url())
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(STOP_S)


def trade_rows(count: int, end_ms: int, seed: int = 1) -> Iterator[Row]:
    """Yield rows of `TRADES`, oldest first: bursts and pauses, in all markets, over `DAYS` up to `end_ms`."""
    dice = random.Random(seed)
    chance, spread, choice = dice.random, dice.expovariate, dice.choice
    pause_rate = count * (1 - _BURST) / (DAYS * 86_400_000)
    clock = float(end_ms - DAYS * 86_400_000)
    last_ids = dict.fromkeys(MARKETS, 0)
    prices = dict.fromkeys(MARKETS, _MID_PRICE)
    for number in range(count):
        clock += chance() * _BURST_GAP_MS if chance() < _BURST else spread(pause_rate)
        market = choice(MARKETS)
        trade_id = last_ids[market] = last_ids[market] + 1
        price = prices[market] = max(1, prices[market] + int((chance() - 0.5) * _STEP))
        quantity = 1 + int(chance() * 5_000)
        yield (
            database_time(min(int(clock), end_ms)),
            market,
            trade_id,
            trade_id,
            2 * trade_id,
            price,
            quantity,
            price * quantity * 1_000,
            1 + (number & 1),
            200 * number,
            200 * number + 100,
            1_001 + number % 97,
            1_001 + number % 89,
        )


def load(connection: psycopg.Connection[Any], count: int, end_ms: int) -> None:
    """Store `count` generated trades that end at `end_ms`, by COPY."""
    statement = sql.SQL("COPY trades ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.SQL(", ").join(map(sql.Identifier, TRADES.columns))
    )
    with connection.transaction(), connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(list(TRADES.columns.values()))
        for row in trade_rows(count, end_ms):
            copy.write_row(row)


_FROM_TRADES = """
INSERT INTO candles SELECT market, '1s', date_trunc('second', time),
    (array_agg(price ORDER BY trade_id))[1], max(price), min(price), (array_agg(price
    ORDER BY trade_id DESC))[1],
    sum(quantity), sum(quote), count(*), coalesce(sum(quantity) FILTER (WHERE taker_side = 1), 0),
    coalesce(sum(quote) FILTER (WHERE taker_side = 1), 0), min(trade_id), max(trade_id)
FROM trades GROUP BY 1, 3
"""
_FROM_CANDLES = """
INSERT INTO candles SELECT market, {interval}, {opened}, (array_agg(open ORDER BY open_time))[1], max(high),
    min(low),
    (array_agg(close ORDER BY open_time DESC))[1], sum(volume), sum(quote_volume), sum(trade_count),
    sum(taker_buy_volume),
    sum(taker_buy_quote), min(first_trade_id), max(last_trade_id)
FROM candles WHERE interval = {source} GROUP BY 1, 3
"""


def make_candles(connection: psycopg.Connection[Any], flavour: Flavour) -> None:
    """Make all candles of the trades there are, in one go: what the ingest and the policies do bit by bit."""
    for interval in STORED_INTERVALS:
        if flavour is Flavour.TIMESCALEDB:
            # All but what the policies would leave open.
            width = "1 month" if interval == "1M" else f"{max(INTERVALS_MS[interval], 120_000)} ms"
            connection.execute(
                "CALL refresh_continuous_aggregate(%s, NULL, now() - %s::interval, options => "
                "'{\"buckets_per_batch\": 0}')",
                (f'"candles_{interval}"', width),
            )
        elif interval == "1s":
            connection.execute(_FROM_TRADES)
        else:
            opened = (
                sql.SQL("date_trunc('month', open_time, 'UTC')")
                if interval == "1M"
                else sql.SQL("date_bin({} * interval '1 ms', open_time, '2000-01-03 00:00:00+00')").format(
                    INTERVALS_MS[interval]
                )
            )
            source = "1m" if INTERVALS_MS.get(interval, 1 << 40) > 60_000 else "1s"
            connection.execute(sql.SQL(_FROM_CANDLES).format(interval=interval, opened=opened, source=source))
    if flavour is Flavour.PLAIN:
        connection.execute("VACUUM ANALYZE")
