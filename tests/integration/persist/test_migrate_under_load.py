"""A database that the version before still writes to is migrated: nobody waits, nothing is missed, and it
goes on after a kill."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, LiteralString, cast

import psycopg
import pytest
from click.testing import CliRunner

from adapters.ledger import PostgresLedger
from cli.commands.migrate import migrate as migrate_command
from functions.account.transfers import happened_long_ago
from functions.api.ports import Ports
from persist.backfill import finish_backfills, run_backfills, undone_backfills
from persist.migrate import LOCK_TIMEOUT_MS, MigrationError, migrate
from protocol.units import AccountId, TimeMs
from runtime.settings import PREFIX, Settings
from tests.integration.persist.stored import query
from tests.integration.persist.version_before import DEPOSITS, ORDERS, deposit, make_database

COUNT = 5_000
TRANSFERS = "SELECT account_id, kind, transfer_id, asset, amount, time FROM transfers ORDER BY 1, 2, 3"
NOW = TimeMs(int(datetime(2026, 6, 1, tzinfo=UTC).timestamp() * 1000))


@pytest.fixture
def old_url(postgres_server: str, tmp_path: Path) -> Iterator[str]:
    """A database of the version before, with deposits and orders."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS version_before WITH (FORCE)")
        connection.execute("CREATE DATABASE version_before TEMPLATE template0")
        url = f"{postgres_server.rpartition('/')[0]}/version_before"
        make_database(url, tmp_path / "version_before")
        with psycopg.connect(url) as filling:
            filling.execute(DEPOSITS, {"count": COUNT})
            filling.execute(ORDERS, {"first": 1, "last": 1_000})
        yield url
        connection.execute("DROP DATABASE version_before WITH (FORCE)")


class KilledError(Exception):
    """Stands for what ends a run in the middle."""


def schema_only(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrate, but leave the backfills undone."""
    with monkeypatch.context() as patch:
        patch.setattr("persist.migrate.run_backfills", lambda *_: 0)
        migrate(url)


def backfill_some(url: str, batches: int) -> None:
    """Run so many batches of some hundred rows and be killed."""
    left = iter(range(batches - 1))

    def after_batch() -> None:
        if next(left, None) is None:
            raise KilledError

    with psycopg.connect(url, autocommit=True) as connection, pytest.raises(KilledError):
        run_backfills(connection, lambda _: None, batch_rows=200, after_batch=after_batch)


def expected_transfers() -> list[tuple[Any, ...]]:
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    return sorted(
        (n % 100 + 1, "deposit", f"d{n}", "BTC", 10 * n, datetime.fromtimestamp(start + n, UTC))
        for n in range(1, COUNT + 1)
    )


def longest_wait_while_locked(url: str, lock_timeout_ms: int) -> tuple[float, list[str]]:
    """Migrate while a transaction has read `orders` for three seconds.

    Return the longest wait of updates, and the progress told.
    """
    progress: list[str] = []
    longest = 0.0
    with (
        psycopg.connect(url) as reader,
        psycopg.connect(url, autocommit=True) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        reader.execute("SELECT count(*) FROM orders")
        held_since = time.monotonic()
        migrating = pool.submit(migrate, url, None, progress.append, lock_timeout_ms=lock_timeout_ms)
        while not migrating.done():
            began = time.monotonic()
            writer.execute("SET statement_timeout = '2500ms'")
            try:
                writer.execute("UPDATE orders SET cum_quantity = cum_quantity + 1 WHERE order_id = 1")
            except psycopg.errors.QueryCanceled:
                reader.rollback()
            longest = max(longest, time.monotonic() - began)
            if time.monotonic() - held_since > 3:
                reader.rollback()
        migrating.result()
    return longest, progress


def test_nobody_waits_long_behind_a_migration_that_waits_for_a_lock(old_url: str) -> None:
    longest, progress = longest_wait_while_locked(old_url, LOCK_TIMEOUT_MS)
    assert longest < 1.0
    waits = [line for line in progress if "waits for a lock" in line]
    assert "0006_order_versions.sql waits for a lock, try 1: orders is held by process" in waits[0]
    assert "whose transaction is" in waits[0]
    assert len(waits) >= 2
    assert query(old_url, "SELECT version, close_reason FROM orders WHERE order_id = 1") == [(None, None)]


def test_without_the_timeout_everybody_would_wait(old_url: str) -> None:
    longest, _ = longest_wait_while_locked(old_url, 0)
    assert longest > 1.0


def test_a_lock_that_is_never_free_ends_the_migration_and_says_who_has_it(old_url: str) -> None:
    with psycopg.connect(old_url, application_name="report") as reader:
        reader.execute("SELECT count(*) FROM orders")
        with pytest.raises(
            MigrationError, match=r"not applied within 1 s, .*; orders is held by process \d+ \(report\)"
        ):
            migrate(old_url, lock_wait_s_max=1.0)
    assert query(old_url, "SELECT max(number) FROM schema_migrations") == [(5,)]
    migrate(old_url)


def test_a_migration_that_is_slow_under_a_lock_is_rolled_back(old_url: str, tmp_path: Path) -> None:
    (tmp_path / "version_before" / "0005_slow.sql").write_text("LOCK orders; SELECT pg_sleep(60)", "utf-8")
    longest = 0.0
    with psycopg.connect(old_url, autocommit=True) as writer, ThreadPoolExecutor(1) as pool:
        migrating = pool.submit(migrate, old_url, tmp_path / "version_before", lock_wait_s_max=1.0)
        while not migrating.done():
            began = time.monotonic()
            writer.execute("UPDATE orders SET cum_quantity = cum_quantity + 1 WHERE order_id = 1")
            longest = max(longest, time.monotonic() - began)
        with pytest.raises(MigrationError, match=r"0005_slow\.sql: not applied within 1 s"):
            migrating.result()
    assert (
        0.5 < longest < 20
    )  # its statement_timeout of a second, and what the machine adds; it would sleep for a minute


@pytest.mark.parametrize("batches", [1, 3])
def test_a_backfill_that_is_killed_goes_on_where_it_was(
    old_url: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema_only(old_url, monkeypatch)
    backfill_some(old_url, batches)
    ((done,),) = query(old_url, "SELECT rows_done FROM schema_backfills WHERE name = 'transfers'")
    assert query(old_url, "SELECT count(*) FROM transfers") == [(done,)]
    assert 0 < done < COUNT
    progress: list[str] = []
    migrate(old_url, tell=progress.append)
    assert progress[0] == f"backfill transfers: going on after {done:,} of about 5,000 rows"
    assert any(f"backfill transfers: done, {COUNT:,} rows" in line for line in progress)
    assert query(old_url, TRANSFERS) == expected_transfers()


def test_a_process_that_is_killed_in_the_backfill_leaves_whole_batches(
    old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema_only(old_url, monkeypatch)
    script = (
        "import os, psycopg, signal\n"
        "from persist.backfill import run_backfills\n"
        "left = iter(range(3))\n"
        "kill = lambda: next(left, None) is None and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"connection = psycopg.connect({old_url!r}, autocommit=True)\n"
        "run_backfills(connection, print, batch_rows=100, after_batch=kill)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    ((done,),) = query(old_url, "SELECT rows_done FROM schema_backfills WHERE name = 'transfers'")
    assert 0 < done < COUNT
    finish_backfills(old_url, threading.Event())
    assert query(old_url, TRANSFERS) == expected_transfers()
    assert query(
        old_url, "SELECT rows_done FROM schema_backfills WHERE name = 'transfers' AND done_time IS NOT NULL"
    ) == [(COUNT,)]


def test_two_runs_at_once_take_turns(old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema_only(old_url, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: finish_backfills(old_url, threading.Event()), range(2)))
    assert query(old_url, TRANSFERS) == expected_transfers()
    assert query(
        old_url, "SELECT rows_done FROM schema_backfills WHERE name = 'transfers' AND done_time IS NOT NULL"
    ) == [(COUNT,)]


@pytest.mark.parametrize("batches", [0, 3], ids=["after the migration", "in the backfill"])
def test_what_the_release_before_writes_later_is_known(
    old_url: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also events of long ago, of a shard that was behind: their time is before what the backfill has
    reached."""
    if batches:
        schema_only(old_url, monkeypatch)
        backfill_some(old_url, batches)
    else:
        migrate(old_url)
    with psycopg.connect(old_url) as worker:
        deposit(worker, "2026-05-01", 7, "late", 3)
        deposit(worker, "2025-12-31", 8, "of long ago", 4)
        deposit(worker, "2026-05-02", 2, "d1", 9)  # the id came again: the first counts
    # As the persist worker of this release does when it starts.
    finish_backfills(old_url, threading.Event())
    new = [
        (7, "deposit", "late", "BTC", 3, datetime(2026, 5, 1, tzinfo=UTC)),
        (8, "deposit", "of long ago", "BTC", 4, datetime(2025, 12, 31, tzinfo=UTC)),
    ]
    assert query(old_url, TRANSFERS) == sorted([*expected_transfers(), *new])


def test_a_repeated_id_that_came_before_the_backfill_reached_the_first_does_not_hide_it(
    old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema_only(old_url, monkeypatch)
    with psycopg.connect(old_url) as worker:
        deposit(worker, "2026-05-02", 2, "d1", 9)
    finish_backfills(old_url, threading.Event())
    assert query(old_url, TRANSFERS) == expected_transfers()


class Database:
    """A gateway's access to the database, without its pool."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fetch(
        self, statement: LiteralString, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            return connection.execute(statement, parameters).fetchall()


async def test_a_transfer_is_found_before_the_backfill_has_reached_it(
    old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = cast(Ports, SimpleNamespace(settings=Settings(), ledger=PostgresLedger(Database(old_url))))

    async def happened(account_id: int, name: str, amount: int) -> bool:
        return await happened_long_ago(ports, AccountId(account_id), "deposit", name, "BTC", amount, NOW)

    with psycopg.connect(old_url) as worker:
        worker.execute(
            "INSERT INTO ledger_entries SELECT time, shard, stream_id, event, entry + 100, account_id, "
            "asset, -amount, 'loss', 'loss:1' FROM ledger_entries WHERE reference = 'd4999'"
        )
    schema_only(old_url, monkeypatch)
    for batches in (0, 2, None):
        if batches is None:
            finish_backfills(old_url, threading.Event())
        elif batches:
            backfill_some(old_url, batches)
        assert await happened(2, "d1", 10)
        assert await happened(1, "d5000", 50_000)
        assert not await happened(1, "d5000", 50_001)
        assert not await happened(2, "d5000", 50_000)
        assert not await happened(100, "d4999", 49_990), "it was lost"


def test_the_worker_finishes_what_the_migration_left(
    old_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema_only(old_url, monkeypatch)
    backfill_some(old_url, 2)
    environment = {**os.environ, f"{PREFIX}DATABASE_URL": old_url, f"{PREFIX}REDIS_URL": redis_url}
    worker = subprocess.Popen([sys.executable, "-m", "persist.main", "work"], env=environment)
    try:
        deadline = time.monotonic() + 30
        with psycopg.connect(old_url, autocommit=True) as connection:
            while undone_backfills(connection) and time.monotonic() < deadline:
                time.sleep(0.05)
        assert query(old_url, TRANSFERS) == expected_transfers()
    finally:
        worker.kill()
        worker.wait()


def test_the_command_shows_how_far_it_is(old_url: str) -> None:
    result = CliRunner().invoke(migrate_command, env={f"{PREFIX}DATABASE_URL": old_url})
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "backfill transfers: done, 5,000 rows" in output
    assert "The database is up to date" in output
