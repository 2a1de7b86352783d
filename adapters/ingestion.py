"""Waiting until the database has all current events of a shard.

The ingest collects a shard's events for a while before it stores them; somebody who waits ends that.
"""

import asyncio
from typing import Final

import redis.asyncio
import redis.exceptions
import structlog

from adapters.database import Database
from adapters.outages import redis_outages
from adapters.pipelined import pipelined
from protocol import streams
from protocol.stream_id import STREAM_START, StreamId

_CATCH_UP_S: Final = 1.0
_CATCH_UP_POLL_S: Final = 0.015

_log = structlog.get_logger()


class PostgresIngestion:
    """Implements `functions.repositories.ingestion.Ingestion`.

    It compares the database's position with the shard's stream of events.
    """

    def __init__(self, database: Database, client: redis.asyncio.Redis, cache: redis.asyncio.Redis) -> None:
        """Read the log through `client`; say through `cache` that something is wanted."""
        self._database = database
        self._client = client
        self._cache = cache
        self._may_say = True

    async def catch_up(self, shard: int) -> None:
        """Wait, at most about a second, until the database has all current events of the shard."""
        with redis_outages():
            (newest,) = await pipelined(
                self._client, [("XREVRANGE", streams.events(shard), "+", "-", "COUNT", 1)]
            )
        if not newest:
            return
        wanted = StreamId.parse(newest[0][0])
        deadline = asyncio.get_running_loop().time() + _CATCH_UP_S
        is_said = False
        while True:
            rows = await self._database.fetch(
                "SELECT last_id FROM ingest WHERE shard = %(shard)s", {"shard": shard}
            )
            if (StreamId.parse(rows[0][0]) if rows else STREAM_START) >= wanted:
                return
            if asyncio.get_running_loop().time() > deadline:
                _log.warning("database is behind", shard=shard)
                return
            if self._may_say and not is_said:
                is_said = True
                await self._say(shard)
            await asyncio.sleep(_CATCH_UP_POLL_S)

    async def _say(self, shard: int) -> None:
        try:
            await self._cache.publish(streams.wanted(shard), b"")
        except redis.exceptions.NoPermissionError as error:
            # The Redis users of the release before: questions wait for the ingest's next turn.
            self._may_say = False
            _log.warning("the ingest is not told who waits", error=str(error))
        except redis.exceptions.RedisError as error:
            _log.info("the ingest is not told that somebody waits", error=str(error))
