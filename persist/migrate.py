"""Migrates a database's schema: numbered SQL files, applied once, in order, each in its own transaction.

`schema/NNNN_name.sql` is for every database. A file of the same number in `schema/timescaledb/` or
`schema/plain/` follows it, depending on the flavour of the database, which the first migration determines.

A migration runs while the exchange trades. Its statements wait for a lock for at most half a second, since
all other statements then wait behind them; a migration without its lock is rolled back and retried after a
pause. So a file does nothing slow after it has locked a table that others use: it leaves data to be filled in
afterwards (persist/backfill.py).
"""

import hashlib
import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import psycopg
import structlog
from psycopg import sql

from persist.backfill import LOCK_POLL_S, Tell, run_backfills, tell_log
from persist.grants import grant_rights, let_maintain, provide_owner, provide_roles, roles_there
from runtime.database_roles import ServiceRole, role_passwords
from runtime.settings import Settings

_log = structlog.get_logger()

_LOCK = 0x65786368
"""The advisory lock that serializes migrations."""


_CONNECTING: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
"""A migration may take any time, but ends when its server is gone."""
ATTEMPTS_MAX = 10
"""How often a migration is retried after a deadlock."""
LOCK_TIMEOUT_MS: Final = 500
"""How long a statement of a migration waits for a lock, and all others behind it."""
BRIEF_FROM: Final = 5
"""From this migration on, a statement that takes twice that time is canceled: it may hold a lock.

Migration 0004 builds an index.
"""
LOCK_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts to get a lock, in which the waiting statements run; the last one is repeated."""
LOCK_WAIT_S_MAX: Final = 1_200.0
"""Total time in which a migration retries.

The Job's deadline for all of it is 30 minutes in docs/how-to/deploy-on-kubernetes.md.
"""
TIMESCALEDB_VERSION_MIN = (2, 21)
"""The first version whose refreshes accept `buckets_per_batch`."""


class MigrationError(Exception):
    """The database and the migrations of this program do not fit together."""


class RolesMissingError(MigrationError):
    """Required roles of services do not exist yet."""


class RoleLogins(NamedTuple):
    """How `migrate` provides the roles of services, besides granting their rights."""

    passwords: Mapping[ServiceRole, str] = MappingProxyType({})
    """The roles to create, or to give these passwords."""
    admin_url: str = ""
    """The database's address with a role that may create roles; empty: the owner may.

    That role also gives the owner the password of its own address.
    """
    are_required: bool = False
    """Fail if a role does not exist."""

    @classmethod
    def of(cls, settings: Settings) -> "RoleLogins":
        """Return the logins of the settings.

        Raises:
            SettingsError: they are invalid.
        """
        return cls(role_passwords(settings), settings.database_admin_url, settings.database_roles_required)


class Flavour(StrEnum):
    """The kind of the database; also the names of the folders of its migrations."""

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
    migrations_found: list[Migration] = []
    for prefix, part in (("", folder), (f"{flavour}/", folder.joinpath(flavour))):
        files = [file for file in part.iterdir() if file.name.endswith(".sql")] if part.is_dir() else []
        migrations = [
            Migration(int(file.name[:4]), prefix + file.name, file.read_text("utf-8")) for file in files
        ]
        if len({migration.number for migration in migrations}) < len(migrations):
            raise MigrationError(f"two migrations of the same number in {prefix or 'schema'}")
        migrations_found += migrations
    # Sorting is stable: the migration of every database comes before that of the flavour.
    return sorted(migrations_found, key=lambda migration: migration.number)


def migrate(
    database_url: str,
    folder: Traversable | None = None,
    tell: Tell = tell_log,
    *,
    logins: RoleLogins | None = None,
    lock_wait_s_max: float = LOCK_WAIT_S_MAX,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
) -> Flavour:
    """Apply missing migrations, grant the roles' rights, run the backfills, and return the flavour.

    `logins` says which roles to create first. Missing roles get nothing. Concurrent calls take turns. `tell`
    receives lines of progress. After an interruption, it continues when run again.

    Raises:
        MigrationError: an applied migration has changed or is gone, a missing one is older than an applied
            one, or one did not get its locks within `lock_wait_s_max`, or was too slow with them.
        RolesMissingError: `logins` requires them.
        psycopg.Error: the database is unreachable, or refuses a migration (which then left nothing behind).
    """
    if logins is not None and logins.passwords and logins.admin_url:
        # First, since it may change the owner's password.
        with psycopg.connect(logins.admin_url, autocommit=True, **_CONNECTING) as admin, _lock(admin):
            provide_roles(admin, logins.passwords)
            provide_owner(admin, database_url)
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
        if later := _check(migrations, applied):
            tell(f"the database has {', '.join(later)} of a later release, which this one works with")
        for migration in migrations:
            if migration.name in applied:
                continue
            began_s = time.monotonic()
            _apply(connection, migration, flavour, tell, lock_wait_s_max, lock_timeout_ms)
            seconds = round(time.monotonic() - began_s, 3)
            _log.info("migration applied", migration=migration.name, flavour=flavour, seconds=seconds)
        # Rights come after the migrations, whose relations they name; backfills come last, since they may
        # take hours and everything else works meanwhile.
        _provide_roles(connection, logins or RoleLogins(), tell)
        grant_rights(connection)
        if flavour is Flavour.TIMESCALEDB:
            _let_maintain(connection, logins)
        run_backfills(connection, tell)
    return flavour


def _let_maintain(connection: psycopg.Connection[Any], logins: RoleLogins | None) -> None:
    owner = connection.info.user
    if logins is None or not logins.admin_url:
        let_maintain(connection, owner)
        return
    with psycopg.connect(logins.admin_url, autocommit=True, **_CONNECTING) as admin:
        let_maintain(admin, owner)


def _provide_roles(connection: psycopg.Connection[Any], logins: RoleLogins, tell: Tell) -> None:
    if logins.passwords and not logins.admin_url:
        provide_roles(connection, logins.passwords)
    if missing := [str(role) for role in ServiceRole if role not in roles_there(connection)]:
        text = f"the database has no role {', '.join(missing)}: docs/reference/storage.md"
        if logins.are_required:
            raise RolesMissingError(text)
        tell(text)


def _apply(
    connection: psycopg.Connection[Any],
    migration: Migration,
    flavour: Flavour,
    tell: Tell,
    lock_wait_s_max: float,
    lock_timeout_ms: int,
) -> None:
    note = sql.SQL(
        "INSERT INTO schema_migrations (name, number, flavour, checksum) VALUES ({}, {}, {}, {})"
    ).format(migration.name, migration.number, str(flavour), migration.checksum)
    statement_timeout_ms = 2 * lock_timeout_ms if migration.number >= BRIEF_FROM else 0
    # One message, which the server executes as one transaction: it never waits for this process while it
    # holds a lock.
    statements = (
        f"SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = {statement_timeout_ms};\n"
        f"{migration.statements}\n;\n{note.as_string(connection)}"
    )
    began_s, deadlocks = time.monotonic(), 0
    for attempt in itertools.count(1):
        try:
            connection.execute(statements.encode())
        except psycopg.errors.DeadlockDetected as error:
            # TimescaleDB's policies run from the moment that a migration has created them, and lock in
            # another order.
            deadlocks += 1
            if deadlocks == ATTEMPTS_MAX:
                raise
            _log.info(
                "migration met a policy at work; once more", migration=migration.name, reason=str(error)
            )
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
            # A statement that needs many locks, those of a hypertable's chunks, may wait for each.
            holders = _lock_holders(connection, migration)
            if time.monotonic() - began_s >= lock_wait_s_max:
                raise MigrationError(
                    f"{migration.name}: not applied within {lock_wait_s_max:.0f} s, since others would wait; "
                    f"{holders}. Nothing of it was applied: end that transaction (pg_terminate_backend) and "
                    "migrate again"
                ) from error
            trouble = (
                "took too long" if isinstance(error, psycopg.errors.QueryCanceled) else "waits for a lock"
            )
            tell(f"migration {migration.name} {trouble}, try {attempt}: {holders}")
            time.sleep(LOCK_PAUSES_S[min(attempt, len(LOCK_PAUSES_S)) - 1])
        else:
            return


def _lock_holders(connection: psycopg.Connection[Any], migration: Migration) -> str:
    """Return a text with the holders of locks on a migration's tables, oldest transactions first."""
    words = set(re.findall(r"\w+", re.sub(r"--.*", "", migration.statements)))
    rows = connection.execute(
        "SELECT class.relname, lock.pid, activity.application_name, "
        "extract(epoch FROM clock_timestamp() - min(activity.xact_start)) AS seconds "
        "FROM pg_locks AS lock JOIN pg_class AS class ON class.oid = lock.relation "
        "JOIN pg_stat_activity AS activity ON activity.pid = lock.pid "
        "WHERE lock.granted AND lock.locktype = 'relation' AND lock.pid <> pg_backend_pid() AND "
        "class.relname = ANY(%s) AND lock.database = (SELECT oid FROM pg_database WHERE datname = "
        "current_database()) GROUP BY 1, 2, 3 ORDER BY seconds DESC NULLS LAST LIMIT 3",
        (list(words),),
    ).fetchall()
    holders = [
        f"{relation} is held by process {pid}{f' ({name})' if name else ''}"
        + (f", whose transaction is {seconds:.1f} s old" if seconds is not None else "")
        for relation, pid, name, seconds in rows
    ]
    return "; ".join(holders) or "its holder has just let go"


def missing_migrations(database_url: str, timeout_s: int, folder: Traversable | None = None) -> list[str]:
    """Return the names of this program's migrations that were not applied yet.

    Raises:
        psycopg.Error: the database does not answer within `timeout_s`.
    """
    with psycopg.connect(
        database_url, autocommit=True, connect_timeout=timeout_s, options=f"-c statement_timeout={timeout_s}s"
    ) as connection:
        exists = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
        rows = (
            connection.execute("SELECT name, flavour FROM schema_migrations").fetchall()
            if exists == (True,)
            else []
        )
    applied = {name for name, _ in rows}
    flavour = Flavour(rows[0][1]) if rows else Flavour.PLAIN
    return [migration.name for migration in migrations_of(flavour, folder) if migration.name not in applied]


def _check(migrations: Sequence[Migration], applied: dict[str, tuple[int, str]]) -> list[str]:
    """Return the applied migrations of a later release, which was rolled back.

    They are compatible with the previous release.

    Raises:
        MigrationError: any other difference.
    """
    names = {migration.name for migration in migrations}
    newest_known = max((migration.number for migration in migrations), default=0)
    unknown = {name: number for name, (number, _) in applied.items() if name not in names}
    mistakes = [
        f"{name}: applied, but not part of this program"
        for name, number in unknown.items()
        if number <= newest_known
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
    return sorted(name for name, number in unknown.items() if number > newest_known)


@contextmanager
def _lock(connection: psycopg.Connection[Any]) -> Iterator[None]:
    # Not pg_advisory_lock: the build of an index waits for every statement older than one of its phases,
    # including this one.
    while connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone() != (True,):
        time.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _choose_flavour(connection: psycopg.Connection[Any]) -> Flavour:
    """Return TIMESCALEDB if its community edition works here.

    The Apache edition has no continuous aggregates.
    """
    available = connection.execute(
        "SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'"
    ).fetchone()
    if available is None:
        return Flavour.PLAIN
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            row = connection.execute(
                "SELECT current_setting('timescaledb.license', true), extversion FROM pg_extension WHERE "
                "extname = 'timescaledb'"
            ).fetchone()
            if row is None or row[0] != "timescale":
                raise psycopg.errors.FeatureNotSupported(
                    f"licence of the installed edition: {row and row[0]}"
                )
            if tuple(map(int, row[1].split(".")[:2])) < TIMESCALEDB_VERSION_MIN:
                raise psycopg.errors.FeatureNotSupported(f"version {row[1]} is too old")
    except psycopg.Error as error:
        _log.warning(
            "timescaledb is installed but cannot be used: plain tables instead", reason=str(error).strip()
        )
        return Flavour.PLAIN
    return Flavour.TIMESCALEDB
