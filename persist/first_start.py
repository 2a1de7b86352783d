"""Waiting for what may not be there yet when an exchange starts for the first time: the database, and its
schema.

A database that does not answer is waited for, however long it takes; what ends the wait is a signal. What
waiting cannot cure – a wrong password, a database that does not exist, an address that is none – ends it at
once.
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
"""How often a wait that goes on for the same reason is logged."""
TIMEOUT_S: Final = 2
"""How long the database and Redis may take to answer."""
REDIS_AWAY_S: Final = 30.0
"""How long `await_schema` waits where neither the database nor Redis answers.

The process that comes next waits by itself.
"""
NOTE_PERIOD_S: Final = 5.0
ROLE_WAIT_S: Final = 300.0
"""How long `await_schema` waits for the role of a service to be let in: `migrate` may not have made it yet.
"""

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
"""What libpq says when it cannot connect; it gives no code. A server of another language is waited for."""

_credentials = re.compile(r'[^\s"]+@')

_log = structlog.get_logger()


def is_permanent(error: psycopg.Error) -> bool:
    """Return whether waiting does not help against an error of connecting."""
    text = str(error)
    does_not_exist = "FATAL" in text and text.rstrip().endswith("does not exist")
    wrong_address = isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
    return wrong_address or does_not_exist or any(part in text for part in _PERMANENT)


class Wait:
    """Says in the log what a process waits for, since when and why: at once, when the reason changes, and
    every ten seconds.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._began_s = time.monotonic()
        self._said: tuple[str, float] | None = None

    def seconds(self) -> float:
        """Return how long it has waited."""
        return time.monotonic() - self._began_s

    def say(self, reason: str) -> None:
        """Note that it still waits."""
        now_s = time.monotonic()
        if self._said is None or self._said[0] != reason or now_s - self._said[1] >= SAY_EVERY_S:
            self._said = reason, now_s
            _log.info(f"waiting for {self._what}", reason=reason, seconds=round(self.seconds()))


def migrate_when_there(settings: Settings, stopping: threading.Event) -> bool:
    """Migrate the database as soon as it answers.

    Return whether it was migrated; if not, the process was told to stop.

    Raises:
        MigrationError: the migrations do not fit, or it cannot be migrated by waiting; the message says why.
        SettingsError: the passwords of the roles of services are none.
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
    """Return when the migrations that come with this program are applied, or the process is told to stop.

    It also returns when the database does not answer and Redis has the note that the schema was seen before:
    orders need no database. Where Redis does not answer either, nothing is known; after `redis_away_s` the
    rest is left to the process that comes next, which is not ready without a schema
    (adapters/schema_watch.py, persist/main.py).

    Raises:
        MigrationError: the database refuses, and will go on to do so; its schema was never seen.
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
    """Sees to it that Redis has the note that the schema was seen, also a Redis that is new."""

    def __init__(self, client: redis.Redis, database_url: str) -> None:
        self._client = client
        self._database_url = database_url
        self._due_s = 0.0
        self._is_seen = self._is_refused = False
        self._why_not: str | None = "not looked yet"
        self._wait = Wait("the schema")

    def why_not(self) -> str | None:
        """Return why the schema is not known to be there; for `Probes.ready_when`."""
        return self._why_not

    def step(self, now_s: float) -> None:
        """Look, every few seconds."""
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
    """Return why the schema is not known to be there; None: it is.

    Note in `reach` whether the database answered.
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
        return None  # it is no address, which connecting says


def _noted(settings: Settings) -> int | None:
    """Return the number of the schema that was seen before; None when Redis cannot be asked."""
    try:
        url = settings.resolved_redis_url()
        with redis_clients.client_for(
            url, streams.schema(), socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        ) as client:
            return read_schema(client)
    except (SettingsError, redis.RedisError, OSError):
        return None


def one_line(error: psycopg.Error) -> str:
    """Return what an error says as one line.

    Where it repeats an address that is none, without the password.
    """
    return _credentials.sub("…@", " ".join(str(error).split()))
