"""Several commands to Redis in one round trip."""

from collections.abc import Iterable
from typing import Any

import redis.asyncio


async def pipelined(
    client: redis.asyncio.Redis, commands: Iterable[tuple[str | int, ...]], *, at_once: bool = False
) -> list[Any]:
    """Send the commands together and return their replies; raise the first error among them.

    `at_once`: as a transaction; in a cluster all keys must then be of one slot.
    """
    async with client.pipeline(transaction=at_once) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute()
