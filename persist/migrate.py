"""Brings a database's schema up to date: numbered SQL files, each applied once, in order, in a transaction of its own.

`schema/NNNN_name.sql` is for every database. A file of the same number in `schema/timescaledb/` or `schema/plain/` follows on it,
depending on the flavour of the database, which is decided once, by the first migration.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

import psycopg
import structlog

_log = structlog.get_logger()

_LOCK = 0x65786368
"""The advisory lock that one migrator at a time holds."""


_CONNECTING: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
"""A migration takes as long as it takes, but not after its server is gone."""
ATTEMPTS_MAX = 10
"""How often a migration is tried that is in a deadlock with somebody else."""
TIMESCALEDB_VERSION_MIN = (2, 21)
"""The first whose refreshes take `buckets_per_batch`."""


class MigrationError(Exception):
    """The database and the migrations that come with the program do not belong together."""


class Flavour(StrEnum):
    """What kind of database this is; the names of the folders of its migrations."""

    PLAIN = "plain"
    TIMESCALEDB = "timescaledb"


class Migration(NamedTuple):
    """One file. `name` is its path within the schema folder."""

    number: int
    name: str
    statements: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements, in hex."""
        return hashlib.sha256(self.statements.encode()).hexdigest()


def migrations_of(flavour: Flavour, folder: Traversable | None = None) -> list[Migration]:
    """Return the migrations for a database of this flavour, in their order.

    Raises:
        MigrationError: two files of one folder have the same number.
    """
    folder = folder or resources.files("persist").joinpath("schema")
    found: list[Migration] = []
    for prefix, part in (("", folder), (f"{flavour}/", folder.joinpath(flavour))):
        files = [each for each in part.iterdir() if each.name.endswith(".sql")] if part.is_dir() else []
        migrations = [Migration(int(each.name[:4]), prefix + each.name, each.read_text("utf-8")) for each in files]
        if len({each.number for each in migrations}) < len(migrations):
            raise MigrationError(f"two migrations of the same number in {prefix or 'schema'}")
        found += migrations
    # Sorting is stable: what every database has comes before what depends on the flavour.
    return sorted(found, key=lambda each: each.number)


def migrate(database_url: str, folder: Traversable | None = None) -> Flavour:
    """Apply what is missing and return the flavour of the database. Several may run at once: they take turns.

    Raises:
        MigrationError: a migration that was applied has changed or is gone, or a missing one is older than an applied one.
        psycopg.Error: the database cannot be reached, or refuses a migration (which then left nothing behind).
    """
    with psycopg.connect(database_url, autocommit=True, **_CONNECTING) as connection, _lock(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            "name text PRIMARY KEY, number integer NOT NULL, flavour text NOT NULL, checksum text NOT NULL, "
            "applied_time timestamptz NOT NULL DEFAULT now())"
        )
        rows = connection.execute("SELECT name, number, flavour, checksum FROM schema_migrations").fetchall()
        flavour = Flavour(rows[0][2]) if rows else _choose_flavour(connection)
        migrations = migrations_of(flavour, folder)
        applied = {name: (number, checksum) for name, number, _, checksum in rows}
        _check(migrations, applied)
        for migration in migrations:
            if migration.name in applied:
                continue
            _apply(connection, migration, flavour)
            _log.info("migration applied", migration=migration.name, flavour=flavour)
    return flavour


def _apply(connection: psycopg.Connection[Any], migration: Migration, flavour: Flavour) -> None:
    for attempt in itertools.count(1):
        try:
            with connection.transaction():
                connection.execute(migration.statements.encode())
                connection.execute(
                    "INSERT INTO schema_migrations (name, number, flavour, checksum) VALUES (%s, %s, %s, %s)",
                    (migration.name, migration.number, flavour, migration.checksum),
                )
        except psycopg.errors.DeadlockDetected as error:
            # TimescaleDB's policies are at work from the moment that a migration has made them, and lock in an order of their own.
            if attempt == ATTEMPTS_MAX:
                raise
            _log.info("migration met a policy at work; once more", migration=migration.name, reason=str(error))
        else:
            return


def missing_migrations(database_url: str, timeout_s: int, folder: Traversable | None = None) -> list[str]:
    """Return the names of the migrations that come with the program and were not applied yet.

    Raises:
        psycopg.Error: the database does not answer within `timeout_s`.
    """
    with psycopg.connect(
        database_url, autocommit=True, connect_timeout=timeout_s, options=f"-c statement_timeout={timeout_s}s"
    ) as connection:
        exists = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
        rows = connection.execute("SELECT name, flavour FROM schema_migrations").fetchall() if exists == (True,) else []
    applied = {name for name, _ in rows}
    flavour = Flavour(rows[0][1]) if rows else Flavour.PLAIN
    return [migration.name for migration in migrations_of(flavour, folder) if migration.name not in applied]


def _check(migrations: Sequence[Migration], applied: dict[str, tuple[int, str]]) -> None:
    known = {migration.name for migration in migrations}
    mistakes = [
        f"{name}: applied, but not part of this program (a newer version's?)" for name in applied if name not in known
    ]
    newest = max((number for number, _ in applied.values()), default=0)
    for migration in migrations:
        if migration.name not in applied:
            if migration.number < newest:
                mistakes.append(f"{migration.name}: not applied, but older than one that is ({newest:04})")
        elif applied[migration.name][1] != migration.checksum:
            mistakes.append(f"{migration.name}: changed after it was applied; make a new migration instead")
    if mistakes:
        raise MigrationError("\n".join(mistakes))


@contextmanager
def _lock(connection: psycopg.Connection[Any]) -> Iterator[None]:
    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _choose_flavour(connection: psycopg.Connection[Any]) -> Flavour:
    """Return TIMESCALEDB when its community edition works here; the Apache edition has no continuous aggregates."""
    available = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
    if available is None:
        return Flavour.PLAIN
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            row = connection.execute(
                "SELECT current_setting('timescaledb.license', true), extversion FROM pg_extension WHERE extname = 'timescaledb'"
            ).fetchone()
            if row is None or row[0] != "timescale":
                raise psycopg.errors.FeatureNotSupported(f"licence of the installed edition: {row and row[0]}")
            if tuple(map(int, row[1].split(".")[:2])) < TIMESCALEDB_VERSION_MIN:
                raise psycopg.errors.FeatureNotSupported(f"version {row[1]} is too old")
    except psycopg.Error as error:
        _log.warning("timescaledb is installed but cannot be used: plain tables instead", reason=str(error).strip())
        return Flavour.PLAIN
    return Flavour.TIMESCALEDB
