"""Several commands to Redis in one round trip."""

from collections.abc import Iterable
from typing import Any

import redis.asyncio


async def pipelined(client: redis.asyncio.Redis, commands: Iterable[tuple[str | int, ...]]) -> list[Any]:
    """Send the commands together and return their replies; raise the first error among them."""
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute()
