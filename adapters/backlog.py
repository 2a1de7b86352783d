"""The lag and fill level of each shard, measured from outside; gateways refuse new work by them.

The age of the oldest waiting command and the shard's time are measured about ten times a second while this
process has requests, and twice a second otherwise; Redis's memory twice. A shard without a leader counts as
lagging from then on, even if nothing waits yet: otherwise the first command would discover it by waiting.
"""

import asyncio
import contextlib
import time
from typing import Any, Final

import redis.asyncio
import structlog

from adapters.metrics import BACKLOG, CLOCK_OFFSET, FILLED, HALTED
from adapters.pipelined import pipelined
from protocol import streams
from protocol.positions import ShardPosition
from protocol.stream_id import StreamId
from runtime.probes import Reach
from runtime.redis_clients import RedisOutage
from runtime.tasks import end_tasks

_INTERVAL_S: Final = 0.1
_IDLE_INTERVAL_S: Final = 0.5
_FILLED_INTERVAL_S: Final = 0.5
"""Interval between measurements of Redis's memory, which cost about 20 µs per shard."""
MEMORY_FOR_ORDERS: Final = 0.75
"""Orders are refused while Redis uses a larger part of its `maxmemory`.

The rest is for cancels, and for accepted work.
"""
_CANCELS_MAY: Final = 1.2
"""Cancels, which free memory, are refused only at this multiple of the level for orders."""
_LOG: Final = (streams.commands, streams.events, streams.outbox)
"""These streams keep what not all readers have passed, so their sizes measure the backlog."""

_log = structlog.get_logger()


def filled(used: int, maxmemory: int, log: int, log_max: int) -> float:
    """Return how full a shard is: orders are refused above 1. All are bytes; a `maxmemory` of 0 is none.

    The larger ratio counts: that of the server's memory to the part for orders, or that of the shard's log to
    its maximum.
    """
    memory = used / (maxmemory * MEMORY_FOR_ORDERS) if maxmemory else 0.0
    return max(memory, log / log_max)


def allowed(*, is_cancel: bool) -> float:
    """Return the fill level, relative to that for orders, above which a command is refused."""
    return _CANCELS_MAY if is_cancel else 1.0


class Backlog:
    """`age_ms[shard]` is 0 when nothing waits and there is a leader.

    `halted` are the shards that are halted.
    """

    def __init__(
        self, client: redis.asyncio.Redis, shard_count: int, reach: Reach, log_bytes_max: int
    ) -> None:
        """Record in `reach` whether Redis answers. `log_bytes_max` is the maximum size of a shard's log."""
        self.age_ms = [0] * shard_count
        self.filled = [0.0] * shard_count
        self._log_bytes_max = log_bytes_max
        self._filled_due_s = 0.0
        self.clock_offset_ms = [0] * shard_count
        """The offset of the clock that assigns a shard's entry ids from this process's clock."""
        self.halted: frozenset[int] = frozenset()
        self._led = [False] * shard_count
        """Whether the shard has had a leader since this process started."""
        self._unled_since_s: list[float | None] = [None] * shard_count
        self._client = client
        self._reach = reach
        for shard in range(shard_count):
            BACKLOG.labels(shard)
            HALTED.labels(shard)
            CLOCK_OFFSET.labels(shard)
            FILLED.labels(shard)
        self._is_used = asyncio.Event()
        """Whether there was a request since the last look."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def oldest_ms(self) -> int:
        """Return the largest age of all shards."""
        return max(self.age_ms)

    def note_use(self) -> None:
        """There is a request: measure soon, and often."""
        if not self._is_used.is_set():
            self._is_used.set()

    async def look(self) -> None:
        """Measure once."""
        shards = range(len(self.age_ms))
        keys = [key(shard) for key in (streams.position, streams.halted, streams.lease) for shard in shards]
        values = await pipelined(self._client, [("GET", key) for key in keys])
        positions, halts, leases = (
            values[at : at + len(shards)] for at in range(0, len(values), len(shards))
        )
        self.halted = frozenset(shard for shard, halt in zip(shards, halts, strict=True) if halt)
        commands: list[tuple[str | int, ...]] = [("TIME",)]
        for shard, position in zip(shards, positions, strict=True):
            after = ShardPosition.parse(position).stream_id
            commands.append(("XRANGE", streams.commands(shard), f"({after}", "+", "COUNT", 1))
        commands += [("XREVRANGE", streams.commands(shard), "+", "-", "COUNT", 1) for shard in shards]
        asked_ns = time.time_ns()
        (seconds, microseconds), *ends = await pipelined(self._client, commands)
        own_ms = (asked_ns + time.time_ns()) // 2_000_000
        oldest, newest = ends[: len(shards)], ends[len(shards) :]
        now_ms = seconds * 1000 + microseconds // 1000
        for shard, entries in zip(shards, newest, strict=True):
            # No id is smaller than the last one: after the clock jumped ahead and back, ids stay until the
            # clock has caught up.
            stream_ms = max(now_ms, StreamId.parse(entries[0][0]).ms) if entries else now_ms
            self.clock_offset_ms[shard] = stream_ms - own_ms
            CLOCK_OFFSET.labels(shard).set(self.clock_offset_ms[shard] / 1_000)
        age_ms = [max(0, now_ms - StreamId.parse(entries[0][0]).ms) if entries else 0 for entries in oldest]
        self.age_ms = [
            max(entry_age_ms, self._unled_ms(shard, leases[shard]))
            for shard, entry_age_ms in enumerate(age_ms)
        ]
        if (now_s := time.monotonic()) >= self._filled_due_s:
            # Half a look earlier, so that a look that comes on time is not too early.
            self._filled_due_s = now_s + _FILLED_INTERVAL_S - _INTERVAL_S / 2
            await self._look_how_full()
        for shard in shards:
            BACKLOG.labels(shard).set(self.age_ms[shard] / 1_000)
            HALTED.labels(shard).set(shard in self.halted)

    def _unled_ms(self, shard: int, lease: bytes | None) -> int:
        """Return for how long a shard that had a leader has had none."""
        if lease is not None:
            self._led[shard], self._unled_since_s[shard] = True, None
        if lease is not None or not self._led[shard]:
            return 0
        now_s, since_s = time.monotonic(), self._unled_since_s[shard]
        if since_s is None:
            since_s = self._unled_since_s[shard] = now_s
        return int((now_s - since_s) * 1_000)

    async def _look_how_full(self) -> None:
        shards = range(len(self.filled))
        servers = await self._memory()
        sizes = await pipelined(
            self._client, [("MEMORY", "USAGE", key(shard)) for shard in shards for key in _LOG]
        )
        for shard in shards:
            log = sum(size or 0 for size in sizes[shard * len(_LOG) : (shard + 1) * len(_LOG)])
            # The fullest of several servers counts: an order may need any of them.
            self.filled[shard] = max(filled(*server, log, self._log_bytes_max) for server in servers)
            FILLED.labels(shard).set(self.filled[shard])

    async def _memory(self) -> list[tuple[int, int]]:
        """Return (bytes used, `maxmemory`) of each server."""
        answers: list[Any]
        if isinstance(self._client, redis.asyncio.RedisCluster):
            nodes = self._client.get_primaries()
            answers = [await self._client.info("memory", target_nodes=node) for node in nodes]
        else:
            answers = [await self._client.info("memory")]
        return [(int(memory["used_memory"]), int(memory["maxmemory"])) for memory in answers]

    async def close(self) -> None:
        """Stop measuring."""
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
            if not self._is_used.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._is_used.wait(), _IDLE_INTERVAL_S - _INTERVAL_S)
            self._is_used.clear()
