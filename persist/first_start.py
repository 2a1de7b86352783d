"""Waiting for the database and its schema at the first start of an exchange.

An unreachable database is waited for, however long it takes, until a signal. Errors that waiting cannot cure
(a wrong password, a database that does not exist, an invalid address) end the wait at once.
"""

import re
import threading
import time
from typing import Final

import psycopg
import redis
import structlog
from psycopg.conninfo import conninfo_to_dict

from persist.migrate import MigrationError, RoleLogins, RolesMissingError, migrate, missing_migrations
from protocol import streams
from runtime import redis_clients
from runtime.database_roles import ServiceRole, database_url_of
from runtime.probes import Reach
from runtime.schema import SCHEMA_NUMBER, note_schema, read_schema
from runtime.settings import Settings, SettingsError

PERIOD_S: Final = 0.5
SAY_EVERY_S: Final = 10.0
"""Interval at which a wait with an unchanged reason is logged."""
TIMEOUT_S: Final = 2
"""Timeout for answers of the database and of Redis."""
REDIS_AWAY_S: Final = 30.0
"""How long `await_schema` waits if neither the database nor Redis answers.

The next process waits by itself.
"""
NOTE_PERIOD_S: Final = 5.0
ROLE_WAIT_S: Final = 300.0
"""How long `await_schema` waits for the role of a service, which `migrate` may not have created yet."""

_PERMANENT: Final = (
    "password authentication failed",
    "authentication failed for user",
    "no pg_hba.conf entry",
    "no password supplied",
    "is not permitted to log in",
    "permission denied for database",
    "invalid integer value",
    "invalid port number",
    "invalid sslmode value",
    "server does not support SSL",
    "certificate verify failed",
)
"""libpq's messages for failed connections, which have no code; in another language the process waits."""

_credentials = re.compile(r'[^\s"]+@')

_log = structlog.get_logger()


def is_permanent(error: psycopg.Error) -> bool:
    """Return whether waiting does not help against a connection error."""
    text = str(error)
    does_not_exist = "FATAL" in text and text.rstrip().endswith("does not exist")
    wrong_address = isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
    return wrong_address or does_not_exist or any(part in text for part in _PERMANENT)


class Wait:
    """Logs what a process waits for, since when and why: at once, after a change, and every ten seconds."""

    def __init__(self, awaited: str) -> None:
        self._what = awaited
        self._began_s = time.monotonic()
        self._said: tuple[str, float] | None = None

    def seconds(self) -> float:
        """Return how long it has waited."""
        return time.monotonic() - self._began_s

    def say(self, reason: str) -> None:
        """Record that it still waits."""
        now_s = time.monotonic()
        if self._said is None or self._said[0] != reason or now_s - self._said[1] >= SAY_EVERY_S:
            self._said = reason, now_s
            _log.info(f"waiting for {self._what}", reason=reason, seconds=round(self.seconds()))


def migrate_when_there(settings: Settings, stopping: threading.Event) -> bool:
    """Migrate the database as soon as it answers.

    Return whether it was migrated; if not, the process was asked to stop.

    Raises:
        MigrationError: the migrations do not fit, or waiting does not help; the message says why.
        SettingsError: the passwords of the roles of services are invalid.
    """
    url, wait = settings.resolved_database_url(), Wait("the database")
    logins = RoleLogins.of(settings)
    while not stopping.is_set():
        try:
            migrate(url, logins=logins)
        except RolesMissingError as error:
            wait.say(str(error))
            stopping.wait(PERIOD_S)
        except psycopg.Error as error:
            # A connection that is lost in between is an OperationalError, too: that migration left nothing
            # behind.
            if is_permanent(error) or not isinstance(error, psycopg.OperationalError):
                raise MigrationError(one_line(error)) from error
            wait.say(one_line(error))
            stopping.wait(PERIOD_S)
        else:
            _log.info("the schema is there", number=SCHEMA_NUMBER, seconds=round(wait.seconds()))
            return True
    return False


def await_schema(settings: Settings, stopping: threading.Event, redis_away_s: float = REDIS_AWAY_S) -> None:
    """Return when this program's migrations are applied, or the process is asked to stop.

    It also returns when the database does not answer and Redis has the note that the schema was seen before:
    orders need no database. If Redis does not answer either, it returns after `redis_away_s`: the next
    process is not ready without a schema (adapters/schema_watch.py, persist/main.py).

    Raises:
        MigrationError: the database refuses permanently; its schema was never seen.
    """
    url, wait = database_url_of(settings, ServiceRole.PERSIST), Wait("the schema")
    redis_away_since_s: float | None = None
    is_role_expected = _user_of(url) in set(ServiceRole)
    while True:
        try:
            missing = missing_migrations(url, TIMEOUT_S)
        except psycopg.Error as error:
            number = _noted(settings)
            if number is not None and number >= SCHEMA_NUMBER:
                _log.info("going on without the database: its schema was seen before", reason=one_line(error))
                return
            # A service's role is created by `migrate`, which may not have run yet: until then its refusal is
            # not permanent.
            if is_permanent(error) and not (is_role_expected and wait.seconds() < ROLE_WAIT_S):
                raise MigrationError(one_line(error)) from error
            if number is not None:
                redis_away_since_s = None
            elif redis_away_since_s is None:
                redis_away_since_s = time.monotonic()
            elif time.monotonic() - redis_away_since_s >= redis_away_s:
                _log.info(
                    "neither the database nor Redis answers: the process is not ready before one of them does"
                )
                return
            wait.say(one_line(error))
        else:
            if not missing:
                _log.info("the schema is there", seconds=round(wait.seconds()))
                return
            wait.say(f"migrations are missing: {', '.join(missing)}")
        if stopping.wait(PERIOD_S):
            return


class SchemaNote:
    """Keeps the note in Redis that the schema was seen, also in a new Redis."""

    def __init__(self, client: redis.Redis, database_url: str) -> None:
        self._client = client
        self._database_url = database_url
        self._due_s = 0.0
        self._is_seen = self._is_refused = False
        self._why_not: str | None = "not looked yet"
        self._wait = Wait("the schema")

    def why_not(self) -> str | None:
        """Return why the schema is not known to exist, or None; for `Probes.ready_when`."""
        return self._why_not

    def step(self, now_s: float) -> None:
        """Check, every few seconds."""
        if now_s < self._due_s:
            return
        if not self._is_seen:
            reason = why_not_migrated(self._database_url)
            self._is_seen = reason is None
            if reason is not None:
                self._wait.say(reason)
                self._why_not = reason
        number = read_schema(self._client)
        if self._is_seen and number < SCHEMA_NUMBER:
            self._note()
        if self._is_seen:
            self._why_not = None
        self._due_s = now_s + (NOTE_PERIOD_S if self._is_seen else PERIOD_S)

    def _note(self) -> None:
        try:
            note_schema(self._client)
        except redis.exceptions.NoPermissionError as error:
            if not self._is_refused:
                _log.warning(
                    "the schema cannot be noted; give this user of Redis ~schema:*", error=str(error)
                )
            self._is_refused = True
        else:
            _log.info("schema noted", number=SCHEMA_NUMBER, key=streams.schema())


def why_not_migrated(database_url: str, reach: Reach | None = None) -> str | None:
    """Return why the schema is not known to exist, or None.

    Record in `reach` whether the database answered.
    """
    try:
        missing = missing_migrations(database_url, TIMEOUT_S)
    except psycopg.Error as error:
        if reach is not None:
            reach.failed(error)
        return one_line(error)
    if reach is not None:
        reach.answered()
    return f"migrations are missing: {', '.join(missing)}" if missing else None


def _user_of(url: str) -> object:
    try:
        return conninfo_to_dict(url).get("user")
    except psycopg.ProgrammingError:
        return None  # it is not an address, which connecting reports


def _noted(settings: Settings) -> int | None:
    """Return the number of the schema that was seen before; None if Redis does not answer."""
    try:
        url = settings.resolved_redis_url()
        with redis_clients.client_for(
            url, streams.schema(), socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        ) as client:
            return read_schema(client)
    except (SettingsError, redis.RedisError, OSError):
        return None


def one_line(error: psycopg.Error) -> str:
    """Return an error's message on one line.

    A repeated invalid address is shown without its password.
    """
    return _credentials.sub("…@", " ".join(str(error).split()))
