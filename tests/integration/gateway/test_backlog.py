"""A shard that nobody leads any more is behind before anything waits there.

A process without requests looks rarely.
"""

import asyncio

import redis
import redis.asyncio

from adapters.backlog import Backlog
from protocol import streams
from runtime.probes import Reach

SEEN_S = 1.0


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


async def test_it_looks_rarely_without_requests_and_soon_after_one(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    backlog = Backlog(client, 1, Reach("redis"), 1 << 30)
    looks: list[float] = []
    look = backlog.look

    async def count() -> None:
        looks.append(asyncio.get_running_loop().time())
        await look()

    backlog.look = count  # type: ignore[method-assign]
    try:
        await asyncio.sleep(3)
        idle = len(looks)
        assert 2 <= idle <= 7, "about twice a second"
        began = len(looks)
        for _ in range(30):
            await asyncio.sleep(0.05)
            backlog.note_use()
        assert len(looks) - began >= 5, "more than twice a second"
    finally:
        await backlog.close()
        await client.aclose()
