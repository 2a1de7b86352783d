"""Closed orders that are old are dropped, open ones stay; the index for it is built beside a writer."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from persist import retention
from persist.backfill import INDEX_LOCK, finish_backfills, run_backfills, undone_backfills
from persist.ingest import Progress, ShardIngest
from persist.migrate import migrate
from persist.retention import HistoryRetention, drop_history
from stream_log.memory_log import MemoryStreamLog
from tests.integration.persist.stored import query
from tests.integration.persist.version_before import ORDERS as ORDERS_BEFORE
from tests.integration.persist.version_before import make_database
from tests.support.databases import as_persist

DAY_MS = 86_400_000
NOW_MS = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp() * 1000)
INDEX: LiteralString = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('orders_by_age')"

# (order id, days since it was accepted, days since it changed last, its status): 1 new, 2 partially filled, 3
# filled, 4 canceled
Order = tuple[int, float, float, int]


def store(url: str, orders: list[Order], stored_ms: int = NOW_MS) -> None:
    """Store orders; the events of all shards are stored up to `stored_ms`."""
    with psycopg.connect(url) as connection:
        connection.cursor().executemany(
            "INSERT INTO orders (order_id, account_id, client_order_id, market, side, order_type, "
            "time_in_force, price, quantity, quote_quantity, self_trade_prevention, status, cum_quantity, "
            "cum_quote, accepted_time, updated_time) VALUES (%s, 1001, 'c', 'BTCUSDT', 1, 1, 1, 100, 10, 0, "
            "1, %s, 0, 0, to_timestamp(%s), to_timestamp(%s))",
            [
                (number, status, *((NOW_MS - days * DAY_MS) / 1000 for days in (accepted, changed)))
                for number, accepted, changed, status in orders
            ],
        )
        connection.execute(
            "INSERT INTO ingest VALUES (0, %s) ON CONFLICT (shard) DO UPDATE SET last_id = excluded.last_id",
            (f"{stored_ms}-0",),
        )


def kept(url: str) -> list[int]:
    return [order_id for (order_id,) in query(url, "SELECT order_id FROM orders ORDER BY 1")]


def test_closed_orders_go_and_open_ones_stay(database_url: str) -> None:
    store(
        database_url,
        [
            (100, 400, 400, 1),  # open, however old
            (200, 400, 399, 2),  # partially filled, so open
            (300, 400, 399, 3),
            (400, 400, 29, 4),  # closed lately
            (500, 31, 31, 4),
            (600, 30.1, 29.9, 3),
            (700, 29, 29, 6),
            (800, 1, 1, 1),
        ],
    )
    assert drop_history(as_persist(database_url), HistoryRetention(trades=30, fills=30, seconds=30)) == {}
    assert drop_history(as_persist(database_url), HistoryRetention(orders=30)) == {"orders": 2}
    assert kept(database_url) == [100, 200, 400, 600, 700, 800]
    assert drop_history(as_persist(database_url), HistoryRetention(orders=30)) == {}


def test_statuses_that_are_closed_are_dropped(database_url: str) -> None:
    """By their numbers: 3 filled, 4 canceled, 5 expired, 6 expired in match.

    What a later release may add stays.
    """
    store(database_url, [(status, 40, 40, status) for status in range(10)])
    drop_history(as_persist(database_url), HistoryRetention(orders=30))
    assert kept(database_url) == [0, 1, 2, 7, 8, 9]


def test_days_count_from_what_is_stored(database_url: str) -> None:
    """While the ingest stands still nothing becomes too old."""
    store(database_url, [(100, 40, 40, 4)], NOW_MS - 20 * DAY_MS)
    assert drop_history(as_persist(database_url), HistoryRetention(orders=30)) == {}
    assert kept(database_url) == [100]


def test_more_than_fit_into_a_transaction(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that are full of open orders, or of orders of one millisecond, keep nobody from what comes
    after."""
    monkeypatch.setattr(retention, "_ROWS_PER_DELETE", 7)
    orders: list[Order] = [(number, 90, 90, 1) for number in range(1, 31)]
    orders += [(number, 80, 80, 4 if number % 2 else 1) for number in range(31, 61)]
    orders += [(number, 70 - number / 1000, 60, 3) for number in range(61, 200)]
    store(database_url, orders)
    assert drop_history(as_persist(database_url), HistoryRetention(orders=30)) == {"orders": 15 + 139}
    assert kept(database_url) == [*range(1, 31), *range(32, 61, 2)]


def test_a_day_that_is_dropped_does_not_read_the_rest(database_url: str) -> None:
    store(database_url, [(number, 10, 10, 4) for number in range(1, 3_000)])
    with psycopg.connect(database_url) as connection:
        connection.execute("ANALYZE orders")
        connection.execute("SET enable_seqscan = off")
        for statement in (retention._WINDOW_END, retention._DELETE_ORDERS):
            values = {
                "after": "-infinity",
                "end": "infinity",
                "before_ms": NOW_MS - 30 * DAY_MS,
                "rows": 9,
                "closed": [3],
            }
            plan = "\n".join(
                line for (line,) in connection.execute(b"EXPLAIN " + statement.encode(), values).fetchall()
            )
            assert "orders_by_age" in plan, plan
            assert "Seq Scan" not in plan, plan


# The index


@pytest.fixture
def old_url(postgres_server: str, tmp_path: Path) -> Iterator[str]:
    """A database of a version that had no such index, with orders."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS before_the_index WITH (FORCE)")
        connection.execute("CREATE DATABASE before_the_index TEMPLATE template0")
        url = f"{postgres_server.rpartition('/')[0]}/before_the_index"
        make_database(url, tmp_path / "version_before")
        with psycopg.connect(url) as filling:
            filling.execute(ORDERS_BEFORE, {"first": 1, "last": 2_000})
        yield url
        connection.execute("DROP DATABASE before_the_index WITH (FORCE)")


def update(writer: psycopg.Connection[tuple[object, ...]]) -> None:
    writer.execute("UPDATE orders SET cum_quantity = cum_quantity + 1 WHERE order_id = 1")


def test_the_index_is_built_beside_a_transaction_of_a_writer(old_url: str) -> None:
    """It waits for the transaction; meanwhile orders are written, also by others."""
    progress: list[str] = []
    with (
        psycopg.connect(old_url) as slow,
        psycopg.connect(old_url, autocommit=True) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        migrating = pool.submit(migrate, old_url, None, progress.append)
        # 0006 needs the table for a moment; the build comes after the backfills.
        deadline = time.monotonic() + 30
        while not any("building it on orders" in line for line in progress) and time.monotonic() < deadline:
            time.sleep(0.01)
            update(slow)
            slow.commit()
        update(slow)
        longest = 0.0
        for _ in range(50):
            began = time.monotonic()
            writer.execute("UPDATE orders SET cum_quantity = cum_quantity + 1 WHERE order_id = 2")
            longest = max(longest, time.monotonic() - began)
        slow.commit()
        migrating.result()
    assert longest < 0.5
    assert query(old_url, INDEX) == [(True,)]
    assert [line for line in progress if "orders_by_age" in line][-1].startswith(
        "index orders_by_age: done in "
    )
    with psycopg.connect(old_url, autocommit=True) as connection:
        assert undone_backfills(connection) == []


def test_a_build_that_was_killed_begins_anew(old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("persist.migrate.run_backfills", lambda *_: 0)
        migrate(old_url)
    store(old_url, [(9_000, 90, 90, 4)])
    assert drop_history(old_url, HistoryRetention(orders=30)) == {}, "not before the index is there"
    with psycopg.connect(old_url) as slow, ThreadPoolExecutor(1) as pool:
        update(slow)  # so that the build waits
        building = pool.submit(finish_backfills, old_url, stopping := threading.Event(), 0.1)
        with psycopg.connect(old_url, autocommit=True) as other:
            deadline = time.monotonic() + 30
            killed = False
            while not killed and time.monotonic() < deadline:
                row = other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE phase LIKE "
                    "'waiting%'"
                ).fetchone()
                killed = row == (True,)
            assert killed
        stopping.set()
        building.result()
        slow.commit()
    assert query(old_url, INDEX) == [(False,)]
    progress: list[str] = []
    migrate(old_url, tell=progress.append)
    assert progress[0] == "index orders_by_age: removing what an interrupted build has left"
    assert query(old_url, INDEX) == [(True,)]
    assert drop_history(old_url, HistoryRetention(orders=30)) == {"orders": 1}


def test_several_builders_take_turns(old_url: str) -> None:
    """Nobody waits inside a statement, which the build would wait for in turn."""
    with ThreadPoolExecutor(4) as pool:
        migrating = [pool.submit(migrate, old_url) for _ in range(2)]
        filling = [pool.submit(finish_backfills, old_url, threading.Event(), 0.1) for _ in range(2)]
        for migrated in migrating:
            migrated.result(timeout=60)
        for filled in filling:
            filled.result(timeout=60)
    assert query(old_url, INDEX) == [(True,)]


def test_who_waits_for_another_builder_can_be_stopped(old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("persist.migrate.run_backfills", lambda *_: 0)
        migrate(old_url)
    stopping = threading.Event()
    with (
        psycopg.connect(old_url, autocommit=True) as other,
        psycopg.connect(old_url, autocommit=True) as connection,
    ):
        other.execute("SELECT pg_advisory_lock(%s)", (INDEX_LOCK,))
        threading.Timer(1.0, stopping.set).start()
        run_backfills(connection, lambda _: None, stopping)
    assert query(old_url, INDEX) == []


def test_the_version_before_goes_on_beside_the_index(database_url: str) -> None:
    """An order is stored by its number alone, as that version does: no partition's key may be asked for
    (decision 30)."""
    log = MemoryStreamLog(lambda: NOW_MS)
    ingest = ShardIngest(0, log, as_persist(database_url), 1, 100)
    assert ingest.step() is Progress.CAUGHT_UP
    ingest.close()
    with psycopg.connect(database_url) as connection:
        for _ in range(2):
            connection.execute(
                "INSERT INTO orders (order_id, account_id, client_order_id, market, side, order_type, "
                "time_in_force, price, quantity, quote_quantity, self_trade_prevention, status, "
                "cum_quantity, cum_quote, accepted_time, updated_time) VALUES (1, 1, 'c', 'BTCUSDT', 1, 1, "
                "1, 1, 1, 0, 1, 1, 0, 0, now(), now()) ON CONFLICT (order_id) DO UPDATE SET status = "
                "excluded.status"
            )
