"""The database with a small connection pool."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, LiteralString, Protocol

import psycopg
import psycopg_pool
import structlog

from adapters.outages import database_outages
from functions.api.errors import unavailable
from runtime.schema import SCHEMA_QUERY

_CONNECTIONS_MAX: Final = 8
_WAITING_MAX: Final = 200
_CONNECT_TIMEOUT_S: Final = 2
_POOL_TIMEOUT_S: Final = 3.0
_RECONNECT_S: Final = 0.25
"""Pause after a failed attempt to connect.

By default the pool doubles the pause, beginning with one second.
"""
_SAY_EVERY_S: Final = 5.0
_STATEMENT_TIMEOUT_MS: Final = 10_000

_log = structlog.get_logger()


class Database(Protocol):
    """The connection of the repositories to the database; unreachable: `ApiError` (unavailable)."""

    async def fetch(
        self, statement: LiteralString, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement in its own transaction and return its rows, if it has any."""
        ...


class PostgresDatabase:
    """Implements `Database`. It may be started while the database is unreachable."""

    def __init__(self, url: str) -> None:
        logging.getLogger("psycopg.pool").setLevel(
            logging.ERROR
        )  # it repeats every attempt; the outage is logged here
        self._pool = psycopg_pool.AsyncConnectionPool(
            url,
            min_size=1,
            max_size=_CONNECTIONS_MAX,
            max_waiting=_WAITING_MAX,
            timeout=_POOL_TIMEOUT_S,
            open=False,
            kwargs={
                "autocommit": True,
                "connect_timeout": _CONNECT_TIMEOUT_S,
                # A plan for the actual values reads only the chunks of their times; a generic plan reads all
                # chunks.
                "options": f"-c statement_timeout={_STATEMENT_TIMEOUT_MS} -c "
                "plan_cache_mode=force_custom_plan",
            },
            check=self._check,
            reconnect_timeout=_RECONNECT_S,
            reconnect_failed=self._connect_again,
        )
        self._said_s = float("-inf")

    async def start(self) -> None:
        """Start connecting."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def _check(self, connection: psycopg.AsyncConnection[Any]) -> None:
        try:
            await self._pool.check_connection(connection)
        except psycopg.Error:
            # After an outage no idle connection works. The pool would try them one by one, with pauses of one
            # second, then two.
            await self._pool.check()
            raise

    async def _connect_again(self, pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._said_s >= _SAY_EVERY_S:
            self._said_s = now_s
            _log.warning("database unreachable")
        await pool.check()  # starts the next attempt

    async def fetch(
        self, statement: LiteralString, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement in its own transaction and return its rows, if it has any."""
        with database_outages():
            try:
                return await self._run(statement, parameters)
            except psycopg_pool.TooManyRequests as error:
                raise unavailable() from error
            except psycopg.errors.QueryCanceled as error:
                _log.warning("statement took too long", statement=statement)
                raise unavailable() from error

    async def migration_number(self) -> int:
        """Return the number of the newest migration; 0 if there was none.

        Raises:
            psycopg.Error, psycopg_pool.PoolTimeout: the database is unreachable, or refuses.
        """
        try:
            rows = await self._run(SCHEMA_QUERY, None)
        except psycopg.errors.UndefinedTable:
            return 0
        return int(rows[0][0])

    async def _run(
        self, statement: LiteralString, parameters: Mapping[str, object] | None
    ) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else []
