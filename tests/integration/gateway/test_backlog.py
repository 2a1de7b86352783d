"""A shard that nobody leads any more is behind before anything waits there."""

import asyncio

import redis
import redis.asyncio

from adapters.backlog import Backlog
from protocol import streams
from runtime.probes import Reach

SEEN_S = 0.5


async def test_a_shard_without_a_leader_is_behind_from_then_on(redis_url: str) -> None:
    plain = redis.Redis.from_url(redis_url)
    client = redis.asyncio.Redis.from_url(redis_url)
    backlog = Backlog(client, 2, Reach("redis"), 1 << 30)
    try:
        await asyncio.sleep(SEEN_S)
        assert backlog.age_ms == [0, 0], "that nobody has ever led says nothing"
        plain.set(streams.lease(1), "1|leader")
        await asyncio.sleep(SEEN_S)
        assert backlog.age_ms == [0, 0]
        plain.delete(streams.lease(1))
        await asyncio.sleep(2 * SEEN_S)
        assert backlog.age_ms[0] == 0
        assert 1_000 * SEEN_S <= backlog.age_ms[1] <= 4_000 * SEEN_S
        plain.set(streams.lease(1), "2|another")
        await asyncio.sleep(SEEN_S)
        assert backlog.age_ms == [0, 0]
    finally:
        await backlog.close()
        await client.aclose()
        plain.close()
