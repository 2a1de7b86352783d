"""Outages of Redis and the database become 503 with Retry-After, never a crash.

So does a database without its schema.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
import psycopg_pool
import structlog

from functions.api.errors import unavailable
from runtime.redis_clients import RedisOutage

NOT_MIGRATED: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidSchemaName,
)
"""The errors of a statement whose migration has not been applied yet.

Our statements are constants, and tests run each of them against the migrated schema, so nothing else causes
these errors.
"""
SCHEMA_RETRY_S: Final = 5

_log = structlog.get_logger()


@contextmanager
def redis_outages() -> Iterator[None]:
    """Turn the errors of Redis while it is unreachable, loading or read-only into `unavailable`."""
    try:
        yield
    except RedisOutage as error:
        _log.warning("redis cannot be used", error=str(error))
        raise unavailable() from error


@contextmanager
def database_outages() -> Iterator[None]:
    """Turn the errors of an unreachable or unusable database into `unavailable`.

    An invalid statement remains an error.
    """
    try:
        yield
    except NOT_MIGRATED as error:
        _log.warning("database lacks the schema", error=str(error).partition("\n")[0])
        raise unavailable(SCHEMA_RETRY_S) from error
    except (
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg_pool.PoolTimeout,
        OSError,
    ) as error:
        _log.warning("database cannot be used", error=str(error))
        raise unavailable() from error
