"""The markets from the shards' configurations, read about once a second; callers never wait."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
import redis.asyncio
import structlog

from protocol import streams
from protocol.codec import LaterFormatError
from protocol.listing import Listing, ShardConfiguration, decode_configuration
from runtime.redis_clients import RedisOutage
from runtime.tasks import end_tasks

PERIOD_S: Final = 1.0
FIRST_PERIOD_S: Final = 0.1
"""Interval of reading until all shards have published their configurations."""

_FIRST_LOOK_S: Final = 1.0

_log = structlog.get_logger()


class MarketWatch:
    """Keeps the listing. A shard whose configuration is unreadable keeps its previous one."""

    def __init__(self, client: "redis.asyncio.Redis", shard_count: int) -> None:
        self._client = client
        self._shard_count = shard_count
        self._values: dict[int, bytes] = {}
        self._configurations: dict[int, ShardConfiguration] = {}
        self._callbacks: list[Callable[[Listing], None]] = []
        self._listing = Listing.of({}, shard_count)
        self._task: asyncio.Task[None] | None = None

    def listing(self) -> Listing:
        """Return the markets as last read."""
        return self._listing

    def call_when_changed(self, callback: Callable[[Listing], None]) -> None:
        """Call `callback` with every new listing, beginning with the current one."""
        self._callbacks.append(callback)
        callback(self._listing)

    def why_not(self) -> str | None:
        """Return why not all markets are known, or None; for `Probes.ready_when`."""
        unknown = self._listing.unknown_shards
        return f"shard {unknown[0]} has not said yet which markets it has" if unknown else None

    async def start(self) -> None:
        """Start; return when the first read is done, or takes too long."""
        with suppress(TimeoutError, redis.RedisError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                await self.look()
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop reading."""
        await end_tasks([self._task] if self._task is not None else [])

    async def look(self) -> None:
        """Read every shard once; an unreachable shard does not affect the others."""
        values = await asyncio.gather(*(self._read(shard) for shard in range(self._shard_count)))
        changed = {
            shard: value
            for shard, value in enumerate(values)
            if value is not None and value != self._values.get(shard) and self._understand(shard, value)
        }
        if not changed:
            return
        self._values |= changed
        self._listing = Listing.of(self._configurations, self._shard_count)
        _log.info(
            "markets",
            shards=sorted(changed),
            listed=len(self._listing.listed.markets),
            unknown_shards=self._listing.unknown_shards,
        )
        for callback in self._callbacks:
            callback(self._listing)

    async def _read(self, shard: int) -> bytes | None:
        try:
            value = await self._client.get(streams.configuration(shard))
        except RedisOutage as error:
            _log.debug("configuration not read", shard=shard, error=str(error))
            return None
        return value if isinstance(value, bytes) else None

    def _understand(self, shard: int, value: bytes) -> bool:
        try:
            self._configurations[shard] = decode_configuration(value)
        except (msgspec.MsgspecError, LaterFormatError) as error:
            _log.error("the configuration cannot be read", shard=shard, reason=str(error))
            return False
        return True

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except redis.RedisError as error:
                _log.warning("configurations not read", error=str(error))
            await asyncio.sleep(FIRST_PERIOD_S if self._listing.unknown_shards else PERIOD_S)
