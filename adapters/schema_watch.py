"""Whether the database has its schema, for the readiness of a process that serves functions.

A reachable database decides. While it is unreachable, the note in Redis tells whether its schema was ever
seen: then the exchange has been in use, and a new process accepts orders of all keys in Redis.
"""

import asyncio
from typing import Final

import psycopg
import psycopg_pool
import redis.asyncio
import structlog

from adapters.database import PostgresDatabase
from protocol import streams
from runtime.redis_clients import RedisOutage
from runtime.schema import noted_schema, why_schema_lacks
from runtime.tasks import end_tasks

_PERIOD_S: Final = 0.5
_AWAY: Final = (psycopg.OperationalError, psycopg.InterfaceError, psycopg_pool.PoolTimeout, OSError)

_log = structlog.get_logger()


class SchemaWatch:
    """Checks until the schema is known to exist."""

    def __init__(self, database: PostgresDatabase, client: "redis.asyncio.Redis") -> None:
        """Start checking; `client` reads the note."""
        self._database = database
        self._client = client
        self._why_not: str | None = "the database was not asked yet"
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def why_not(self) -> str | None:
        """Return why the schema is not known to exist, or None; for `Probes.ready_when`."""
        return self._why_not

    async def close(self) -> None:
        """Stop checking."""
        await end_tasks([self._task])

    async def _watch(self) -> None:
        while True:
            reason = await self._look()
            if reason is not None and reason != self._why_not:
                _log.info("waiting for the schema", reason=reason)
            self._why_not = reason
            if reason is None:
                return
            await asyncio.sleep(_PERIOD_S)

    async def _look(self) -> str | None:
        try:
            return why_schema_lacks(await self._database.migration_number())
        except _AWAY as error:
            away = f"the database does not answer: {' '.join(str(error).split()) or type(error).__name__}"
        except psycopg.Error as error:
            return f"the database refuses: {' '.join(str(error).split())}"
        try:
            lacking = why_schema_lacks(noted_schema(await self._client.get(streams.schema())))
        except RedisOutage as error:
            return f"{away}; nor does Redis: {error}"
        if lacking is None:
            _log.info("serving without the database: its schema was seen before", reason=away)
            return None
        return f"{away}; its schema was never seen"
