"""Outages of Redis and the database become 503 with Retry-After, never a crash."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import psycopg_pool
import structlog

from functions.errors import unavailable
from runtime.redis_clients import RedisOutage

_log = structlog.get_logger()


@contextmanager
def redis_outages() -> Iterator[None]:
    """Turn what Redis raises while it is away, loading or read-only into `unavailable`."""
    try:
        yield
    except RedisOutage as error:
        _log.warning("redis cannot be used", error=str(error))
        raise unavailable() from error


@contextmanager
def database_outages() -> Iterator[None]:
    """Turn what the database raises while it cannot be reached into `unavailable`; a wrong statement stays an error."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, psycopg_pool.PoolTimeout, OSError) as error:
        _log.warning("database cannot be used", error=str(error))
        raise unavailable() from error
