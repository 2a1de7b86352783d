import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import psycopg
import pytest

from persist.migrate import Flavour, MigrationError, migrate, missing_migrations
from protocol.intervals import INTERVALS
from runtime.settings import PREFIX
from tests.integration.persist.stored import query


@pytest.fixture
def empty_url(database_url: str) -> str:
    """A database that nothing was ever done to."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_database TEMPLATE template0")
    return f"{database_url.rpartition('/')[0]}/empty_database"


@pytest.fixture(autouse=True)
def _drop_empty(postgres_server: str) -> None:
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS empty_database WITH (FORCE)")


def write(folder: Path, **files: str) -> None:
    for name, statements in files.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(statements, "utf-8")


def test_concurrent_migrators_apply_everything_once(empty_url: str, has_timescaledb: bool) -> None:
    with ThreadPoolExecutor(4) as pool:
        flavours = set(pool.map(migrate, [empty_url] * 4))
    assert flavours == {Flavour.TIMESCALEDB if has_timescaledb else Flavour.PLAIN}
    names = query(empty_url, "SELECT name FROM schema_migrations ORDER BY applied_time")
    assert len(names) == len(set(names))
    assert names[0] == ("0001_exchange.sql",)
    relations = {name for (name,) in query(empty_url, "SELECT relname FROM pg_class")}
    assert {f"candles_{interval}" for interval in INTERVALS} <= relations


def test_a_changed_migration_is_an_error(empty_url: str, tmp_path: Path) -> None:
    write(tmp_path, m0001_a="CREATE TABLE a (x int)")
    migrate(empty_url, tmp_path)
    write(tmp_path, m0001_a="CREATE TABLE a (x bigint)", m0002_b="CREATE TABLE b (x int)")
    with pytest.raises(MigrationError, match=r"0001_a\.sql: changed after it was applied"):
        migrate(empty_url, tmp_path)
    assert query(empty_url, "SELECT to_regclass('b')") == [(None,)]


def test_a_failing_migration_leaves_nothing_behind(empty_url: str, tmp_path: Path) -> None:
    write(tmp_path, m0001_a="CREATE TABLE a (x int)", m0002_b="CREATE TABLE b (x int); SELECT 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty_url, tmp_path)
    assert query(empty_url, "SELECT name, to_regclass('b') FROM schema_migrations") == [("0001_a.sql", None)]
    write(tmp_path, m0002_b="CREATE TABLE b (x int)")
    migrate(empty_url, tmp_path)
    assert query(empty_url, "SELECT name FROM schema_migrations ORDER BY 1") == [
        ("0001_a.sql",),
        ("0002_b.sql",),
    ]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"m0002_b": ""}, {"m0001_a": "", "m0002_b": ""}, r"0001_a\.sql: not applied, but older"),
        (
            {"m0001_a": "", "m0003_c": ""},
            {"m0003_c": ""},
            r"0001_a\.sql: applied, but not part of this program",
        ),
        (
            {"m0001_a": "", "m0002_b": ""},
            {"m0001_a": "", "m0002_c": ""},
            r"0002_b\.sql: applied, but not part",
        ),
    ],
)
def test_migrations_that_do_not_fit_are_an_error(
    empty_url: str, tmp_path: Path, before: dict[str, str], after: dict[str, str], message: str
) -> None:
    for name, files in (("before", before), ("after", after)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, **dict.fromkeys(files, "SELECT 1"))
    migrate(empty_url, tmp_path / "before")
    with pytest.raises(MigrationError, match=message):
        migrate(empty_url, tmp_path / "after")


def test_a_release_that_is_taken_back_leaves_migrations_that_the_one_before_works_with(
    empty_url: str, tmp_path: Path
) -> None:
    for name, files in (("next", ("m0001_a", "m0002_b", "m0003_c")), ("this", ("m0001_a",))):
        (tmp_path / name).mkdir()
        write(tmp_path / name, **dict.fromkeys(files, "SELECT 1"))
    migrate(empty_url, tmp_path / "next")
    said: list[str] = []
    migrate(empty_url, tmp_path / "this", tell=said.append)
    assert said == ["the database has 0002_b.sql, 0003_c.sql of a later release, which this one works with"]
    assert len(query(empty_url, "SELECT name FROM schema_migrations")) == 3


def test_two_migrations_of_one_number_are_an_error(empty_url: str, tmp_path: Path) -> None:
    write(tmp_path, m0001_a="SELECT 1", m0001_b="SELECT 1")
    with pytest.raises(MigrationError, match="two migrations of the same number"):
        migrate(empty_url, tmp_path)


def test_what_is_missing_is_what_a_migration_would_apply(empty_url: str, tmp_path: Path) -> None:
    write(tmp_path, m0001_a="CREATE TABLE a (x int)")
    assert missing_migrations(empty_url, 5, tmp_path) == ["0001_a.sql"]
    migrate(empty_url, tmp_path)
    assert missing_migrations(empty_url, 5, tmp_path) == []
    write(tmp_path, m0002_b="CREATE TABLE b (x int)")
    assert missing_migrations(empty_url, 5, tmp_path) == ["0002_b.sql"]


def test_a_new_version_waits_until_it_is_migrated(empty_url: str) -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-m", "persist.main", "await"],
        env={**os.environ, f"{PREFIX}DATABASE_URL": empty_url, f"{PREFIX}LOG_FORMAT": "json"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert waiting.stdout is not None
        assert "0001_exchange.sql" in waiting.stdout.readline()
        assert waiting.poll() is None
        migrate(empty_url)
        assert "the schema is there" in waiting.stdout.read()
        assert waiting.wait(10) == 0
    finally:
        waiting.kill()
        waiting.wait()


def test_a_migration_that_is_in_a_deadlock_is_tried_again(empty_url: str, tmp_path: Path) -> None:
    """As with TimescaleDB's policies, which are at work as soon as there are any."""
    write(tmp_path, m0001_a="CREATE TABLE a (x int); CREATE TABLE b (x int)")
    migrate(empty_url, tmp_path)
    # Whoever waits for longer finds the deadlock, and that is the migration, since it began to wait first.
    write(tmp_path, m0002_b="LOCK b; SELECT pg_advisory_lock_shared(1); LOCK a; CREATE TABLE c (x int)")
    with psycopg.connect(empty_url) as other, psycopg.connect(empty_url, autocommit=True) as watcher:
        other.execute("SET deadlock_timeout = '1min'")
        other.execute("LOCK a")
        watcher.execute("SELECT pg_advisory_lock(1)")
        with ThreadPoolExecutor(2) as pool:
            migrating = pool.submit(migrate, empty_url, tmp_path)
            while not watcher.execute(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchone():
                pass
            waiting = pool.submit(other.execute, "LOCK b")
            watcher.execute("SELECT pg_advisory_unlock(1)")
            waiting.result()
            other.commit()
            migrating.result()
    assert query(empty_url, "SELECT name FROM schema_migrations ORDER BY 1") == [
        ("0001_a.sql",),
        ("0002_b.sql",),
    ]


def test_transfers_of_before_are_known_but_for_those_that_are_lost(empty_url: str, tmp_path: Path) -> None:
    folder = resources.files("persist").joinpath("schema")
    before = tmp_path / "before"
    with resources.as_file(folder) as path:
        shutil.copytree(path, before, ignore=shutil.ignore_patterns("000[5-9]*", "00[1-9]*"))
    migrate(empty_url, before)
    with psycopg.connect(empty_url) as connection:
        for event, (account_id, amount, kind, reference) in enumerate(
            [
                (1, 5, "deposit", "d"),
                (1, -2, "withdrawal", "d"),
                (1, -1, "trade", "X:1"),
                (2, 7, "deposit", "lost"),
            ]
        ):
            row = (event, 1, account_id, "BTC", amount, kind, reference)
            statement = (
                "INSERT INTO ledger_entries VALUES ('2026-01-01', 0, '1-0', %s, %s, %s, %s, %s, %s, %s)"
            )
            connection.execute(statement, row)
        connection.execute(statement, (3, 101, 2, "BTC", -7, "loss", "loss:1"))
    migrate(empty_url)
    assert query(
        empty_url, "SELECT account_id, kind, transfer_id, asset, amount FROM transfers ORDER BY kind"
    ) == [
        (1, "deposit", "d", "BTC", 5),
        (1, "withdrawal", "d", "BTC", 2),
    ]
