"""How long the oldest waiting command of each shard has waited, and which time it is there, seen about ten times a second."""

import asyncio
import time
from typing import Final

import redis.asyncio
import structlog

from protocol import streams
from protocol.streams import STREAM_START, split_stream_id
from runtime.probes import Reach
from runtime.redis_clients import RedisOutage
from runtime.tasks import end_tasks
from serving.metrics import BACKLOG, CLOCK_OFFSET, HALTED
from serving.pipelined import pipelined

_INTERVAL_S: Final = 0.1

_log = structlog.get_logger()


class Backlog:
    """`age_ms[shard]`: 0 when nothing waits. `halted` are the shards that have stopped for good."""

    def __init__(self, client: redis.asyncio.Redis, shard_count: int, reach: Reach) -> None:
        """Note in `reach` whether Redis answers."""
        self.age_ms = [0] * shard_count
        self.clock_offset_ms = [0] * shard_count
        """How far the clock that gives a shard's entries their ids is ahead of this process's own."""
        self.halted: frozenset[int] = frozenset()
        self._client = client
        self._reach = reach
        for shard in range(shard_count):
            BACKLOG.labels(shard)
            HALTED.labels(shard)
            CLOCK_OFFSET.labels(shard)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def oldest_ms(self) -> int:
        """Return the greatest age of all shards."""
        return max(self.age_ms)

    async def look(self) -> None:
        """Measure once."""
        shards = range(len(self.age_ms))
        keys = [streams.position(shard) for shard in shards] + [streams.halted(shard) for shard in shards]
        values = await pipelined(self._client, [("GET", key) for key in keys])
        positions, halts = values[: len(shards)], values[len(shards) :]
        self.halted = frozenset(shard for shard, halt in zip(shards, halts, strict=True) if halt)
        commands: list[tuple[str | int, ...]] = [("TIME",)]
        for shard, position in zip(shards, positions, strict=True):
            after = position.decode().partition("|")[2] if position else STREAM_START
            commands.append(("XRANGE", streams.commands(shard), f"({after}", "+", "COUNT", 1))
        commands += [("XREVRANGE", streams.commands(shard), "+", "-", "COUNT", 1) for shard in shards]
        asked_ns = time.time_ns()
        (seconds, microseconds), *found = await pipelined(self._client, commands)
        own_ms = (asked_ns + time.time_ns()) // 2_000_000
        oldest, newest = found[: len(shards)], found[len(shards) :]
        now_ms = seconds * 1000 + microseconds // 1000
        for shard, entries in zip(shards, newest, strict=True):
            # No id is smaller than the last: after a jump ahead and back they stay where they are until the clock is there again.
            stream_ms = max(now_ms, split_stream_id(entries[0][0].decode())[0]) if entries else now_ms
            self.clock_offset_ms[shard] = stream_ms - own_ms
            CLOCK_OFFSET.labels(shard).set(self.clock_offset_ms[shard] / 1_000)
        age_ms = [max(0, now_ms - split_stream_id(entries[0][0].decode())[0]) if entries else 0 for entries in oldest]
        self.age_ms = age_ms
        for shard in shards:
            BACKLOG.labels(shard).set(age_ms[shard] / 1_000)
            HALTED.labels(shard).set(shard in self.halted)

    async def close(self) -> None:
        """Stop looking."""
        await end_tasks([self._watcher])

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
                self._reach.answered()
            except RedisOutage as error:
                self._reach.failed(error)
                _log.debug("backlog not seen", error=str(error))
            await asyncio.sleep(_INTERVAL_S)
